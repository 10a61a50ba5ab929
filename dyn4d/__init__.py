"""dyn4d: one video of a moving object in, the object in 4D out."""

__version__ = "0.1.0"
