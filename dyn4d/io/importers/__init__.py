"""Recordings and data sets of others, read into one description (`sequence`) and written as a clip folder (`writer`).

One module a format; `detect` knows them all.
"""
