"""The parts of `report.html` that are text: what went in, the stages, further renders, terms, how to repeat it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from dyn4d.export.pictures import fit_within, jpeg_uri
from dyn4d.export.story import Story

THUMBNAIL = 260  # px

DEFINITIONS = (
    ("PSNR in mask", "-10 log10 of the mean squared colour error over the pixels of the given mask, colours in [0, 1], "
     "in dB; the mean over pictures. Higher is better; 100 where pictures are identical"),
    ("PSNR", "the same over the whole picture, against the clip's mean colour outside the masks"),
    ("SSIM in mask", "structural similarity, 11 x 11 Gaussian window of sigma 1.5, inside the mask; 1 is identical"),
    ("IoU", "overlap of the mask and of what is covered by more than a half; 1 is identical"),
    ("cycle error", "how far a point ends from where it began when the field takes it to canonical space and back; the "
     "largest, relative to the object's size. It checks the arithmetic, not whether the motion is right"),
    ("track error", "mean distance between tracks and true tracks in space, relative to the object's size"),
    ("object's size", "the largest side of the bounding box of all object points over the clip"),
)  # fmt: skip

RENDER_TITLES = {
    "tracks": "trails of points over the input's pictures", "spiral": "round the object, also up and down",
    "dolly": "towards the object and back", "bullet": "round it while time stands still",
    "compare": "the input beside the render", "depth": "depth, near is bright",
    "confidence": "confidence on the orbit, well seen is bright",
}  # fmt: skip


@dataclass(frozen=True)
class FurtherRender:
    """A render that the page shows by one picture and links to.

    Attributes:
        name: of its folder. still: (H, W, 3) uint8, or None. files: (path from the report, what it is).
    """

    name: str
    still: np.ndarray | None = None
    files: Sequence[tuple[str, str]] = field(default_factory=tuple)


def pairs(lines: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in lines) + "</dl>"


def inputs_and_stages(story: Story | None) -> str:
    """What went in and what became of it."""
    if story is None:
        return ""
    out = f"<h2>What went in</h2><div class=card>{pairs(story.inputs)}</div>" if story.inputs else ""
    return out + (f"<h2>What each stage did</h2><div class=card>{pairs(story.stages)}</div>" if story.stages else "")


def further_renders(renders: Sequence[FurtherRender]) -> str:
    """One picture of each, with links to the videos beside the report."""
    if not renders:
        return ""
    cells = ""
    for one in renders:
        links = " · ".join(f'<a href="{escape(path)}">{escape(what)}</a>' for path, what in one.files)
        kind = one.name.partition("_")[0]
        title = RENDER_TITLES.get(kind, "")
        picture = ""
        if one.still is not None:
            address = jpeg_uri(fit_within(one.still, THUMBNAIL))
            picture = f'<img alt="{escape(one.name)}" src="{address}">'
        cells += (
            f"<figure class=card>{picture}<figcaption><b>{escape(one.name)}</b> {escape(title)}<br>{links}"
            "</figcaption></figure>"
        )
    return f"<h2>Further renders</h2><div class=grid4>{cells}</div>"


def definitions() -> str:
    lines = "".join(f'<dt id="{anchor(name)}">{escape(name)}</dt><dd>{escape(text)}</dd>' for name, text in DEFINITIONS)
    return _folded("What the figures mean", f"<dl>{lines}</dl>")


def anchor(name: str) -> str:
    """Where the page tells what a figure is: browsers unfold what hides it when it is linked to."""
    return "means-" + re.sub(r"[^a-z]+", "-", name.lower())


def _folded(title: str, inside: str) -> str:
    return f"<details><summary>{title}</summary><div style='margin-top:10px'>{inside}</div></details>"


def terms_and_repeat(story: Story | None) -> str:
    """Licences, versions, and the command."""
    if story is None:
        return ""
    out = ""
    if story.terms:
        note = "<p class=note>Weights and clips keep their own terms, also for what is made with them.</p>"
        out += f"<h2>Licences</h2>{note}<div class=card>{pairs(story.terms)}</div>"
    if story.command:
        out += f"<h2>To make it again</h2><div class=card><pre class=wrap>{escape(story.command)}</pre></div>"
    if story.versions:
        out += _folded("Versions", pairs(story.versions))
    return out
