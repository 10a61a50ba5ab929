"""What `dyn4d match` does: two pictures in, their matches as a file and a picture of them out.

Free of torch until it is called; returns the text to print.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dyn4d import __version__
from dyn4d.core.errors import InputError
from dyn4d.core.protocols import Progress

if TYPE_CHECKING:
    from dyn4d.core.types import Correspondences

MatcherName = Literal["mast3r", "r2d2", "flow", "flow+r2d2"]
SIZES: dict[str, int] = {"mast3r": 512, "r2d2": 1024, "flow": 640, "flow+r2d2": 640}
SUFFIXES = (".npz", ".png")
CELLS = 24  # along the longest side of an object: how finely it is asked what the matches cover
CELL = 8  # pixels at least
NEEDS_WEIGHTS = {
    "mast3r": "give the .pth file or the folder of a MASt3R network with --weights",
}


@dataclass(frozen=True)
class MatchRequest:
    """What to match, how, and where to write it.

    Attributes:
        a, b: image files. mask_a, mask_b: image files, "none", or None (the alpha channel, else everything).
        matcher: None: mast3r where there are weights, else flow. weights: of mast3r, or of
            r2d2 in place of those that come with dyn4d.
        out: a folder, or the name of the files without or with suffix; None: in the current folder.
        size: longest side in pixels of what the matcher looks at; None: 512 (mast3r), 1024 (r2d2), 640 (flow).
        device: of mast3r and r2d2. coarse_to_fine: see `dyn4d match --help`.
        lines: in the drawing. overwrite: replace what is there.
    """

    a: str
    b: str
    mask_a: str | None = None
    mask_b: str | None = None
    matcher: MatcherName | None = None
    weights: str | None = None
    out: str | None = None
    size: int | None = None
    device: str = "auto"
    coarse_to_fine: bool = True
    lines: int = 40
    overwrite: bool = False


@dataclass(frozen=True)
class Side:
    """One of the two pictures. `masked_by`: the mask's file, "alpha" or "none"."""

    path: Path
    image: np.ndarray
    mask: np.ndarray
    masked_by: str

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[1], self.image.shape[0]


@dataclass(frozen=True)
class Ready:
    """A matcher made ready: what to call with the two sides, its options, and lines for the user."""

    call: Callable[[Side, Side], Correspondences]
    options: dict[str, Any]
    notes: tuple[str, ...] = field(default=())


def match_pictures(request: MatchRequest, progress: Progress) -> str:
    """Match two pictures; writes `<out>.npz` and `<out>.png`.

    Returns:
        Lines for the terminal.

    Raises:
        InputError: something given cannot be used; nothing was written.
    """
    name = request.matcher or ("mast3r" if request.weights else "flow")
    _check_options(request, name)
    files = _outputs(request)
    sides = _read_side(request.a, request.mask_a, "a"), _read_side(request.b, request.mask_b, "b")
    ready = _MAKERS[name](request, progress)
    for note in ready.notes:
        progress.note(note)
    found = ready.call(*sides)
    xy = found.xy_a.numpy(), found.xy_b.numpy()
    covered = tuple(covered_share(points, side.mask) for points, side in zip(xy, sides))

    from dyn4d.export.match_picture import MatchText, draw_matches
    from dyn4d.io import artifacts
    from dyn4d.io.images import write_png

    parts = [f"{_percent(share)} of {_what(side, tag)}" for share, side, tag in zip(covered, sides, "AB")]
    detail = f"{name}, on {parts[0]}" if len(found) else name
    labels = tuple(f"{tag}  {side.path.name}  {side.size[0]} x {side.size[1]}" for tag, side in zip("AB", sides))
    picture = draw_matches(
        (sides[0].image, sides[1].image), (sides[0].mask, sides[1].mask), xy,
        MatchText(_count(len(found)), detail, *labels), lines=request.lines,
    )  # fmt: skip
    artifacts.save(files[0], found, **_header(name, ready, sides, len(found), covered))
    write_png(files[1], picture)
    lines = [
        f"{_count(len(found))} by {name}, on {' and '.join(parts)}",
        *(f"  {tag}: {side.path} is masked by its alpha channel" for tag, side in zip("AB", sides)
          if side.masked_by == "alpha"),
        *(f"  {file}" for file in files),
    ]  # fmt: skip
    return "\n".join(lines)


def _count(number: int) -> str:
    return "no match" if number == 0 else f"{number:,} match{'es' if number > 1 else ''}"


def _what(side: Side, tag: str) -> str:
    return tag if side.masked_by == "none" else f"the object in {tag}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _header(
    name: str, ready: Ready, sides: tuple[Side, Side], count: int, covered: tuple[float, ...]
) -> dict[str, Any]:
    pictures = {
        tag: {"file": str(side.path), "width": side.size[0], "height": side.size[1], "mask": side.masked_by,
              "object_pixels": int(side.mask.sum()), "covered": round(covered[row], 4)}
        for row, (tag, side) in enumerate(zip("ab", sides))
    }  # fmt: skip
    return {"made_by": f"dyn4d {__version__} match", "pictures": pictures, "matcher": name, "options": ready.options,
            "notes": list(ready.notes), "matches": count, "pixel_centre": "half-integer"}  # fmt: skip


def covered_share(xy: np.ndarray, mask: np.ndarray) -> float:
    """The share of the mask's pixels (H, W) that have a match (M, 2) px in their cell, of a grid of 24 along the
    object's longest side."""
    rows, columns = np.nonzero(mask)
    if len(rows) == 0 or len(xy) == 0:
        return 0.0
    left, top = int(columns.min()), int(rows.min())
    cell = max(max(int(columns.max()) - left, int(rows.max()) - top) + 1, CELL * CELLS) / CELLS
    across = int((columns.max() - left) / cell) + 1
    of_pixel = ((rows - top) / cell).astype(np.int64) * across + ((columns - left) / cell).astype(np.int64)
    place = np.floor(xy).astype(np.int64) - [left, top]  # pixels: as those of the mask
    of_match = (place[:, 1] / cell).astype(np.int64) * across + (place[:, 0] / cell).astype(np.int64)
    return float(np.isin(of_pixel, of_match).mean())


# ---------------------------------------------------------------------------------------------- what is given


def _check_options(request: MatchRequest, name: str) -> None:
    if name in NEEDS_WEIGHTS and not request.weights:
        raise InputError(
            f"dyn4d match: the matcher {name} needs weights; {NEEDS_WEIGHTS[name]} (none are part of dyn4d, mind their "
            "licence), or use --matcher flow or r2d2, which need none"
        )
    if name == "flow" and request.weights:
        raise InputError("dyn4d match: the matcher flow takes no --weights; leave them out or give --matcher mast3r")
    if name != "mast3r" and not request.coarse_to_fine:
        raise InputError(f"dyn4d match: --no-coarse-to-fine is for mast3r; the matcher {name} looks once as it is")
    if request.size is not None and (request.size < 64 or request.size % 16):
        raise InputError(f"dyn4d match: --size {request.size}; wanted a multiple of 16, from 64")
    if request.lines < 0:
        raise InputError(f"dyn4d match: --lines {request.lines}; wanted a number from 0")


def _outputs(request: MatchRequest) -> tuple[Path, Path]:
    """The two files to write. Raises `InputError` where they may not be written."""
    name = f"matches_{Path(request.a).stem}_{Path(request.b).stem}"
    out = Path(request.out or ".").expanduser()
    if out.is_dir() or (request.out or "").endswith(("/", "\\")):
        base = str(out / name)
    else:
        base = str(out.with_suffix("")) if out.suffix.lower() in SUFFIXES else str(out)
    npz, png = (Path(base + suffix) for suffix in SUFFIXES)
    given = [Path(p).expanduser().absolute() for p in (request.a, request.b, request.mask_a, request.mask_b) if p]
    folder = next(parent for parent in npz.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, no folder for {npz.name}; choose another name with --out")
    for file in (npz, png):
        if file.absolute() in given:
            raise InputError(f"{file} is one of the pictures given; choose another name with --out")
        if file.is_dir():
            raise InputError(f"{file} is a folder; choose another name with --out")
        if file.exists() and not request.overwrite:
            raise InputError(f"{file} is there already; choose another name with --out, or give --overwrite")
    return npz, png


def _image_file(text: str, what: str) -> Path:
    """The path of a file that may be an image. Raises `InputError` for what is certainly none."""
    path = Path(text).expanduser()
    if path.is_dir():
        raise InputError(f"{path} is a folder; give one {what}, or dyn4d run for a whole clip")
    from dyn4d.io.video import VIDEO_SUFFIXES

    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        raise InputError(f"{path} is a video; give one {what}, such as a frame saved as PNG")
    return path


def _read_side(image: str, mask: str | None, tag: str) -> Side:
    """A picture and its mask: the file given, else its alpha channel where that hides something, else everything."""
    from dyn4d.io.images import has_alpha, read_mask, read_rgb, read_rgba

    path = _image_file(image, "picture")
    if mask is None and has_alpha(path):
        rgba = read_rgba(path)
        if (rgba[..., 3] < 128).any():
            inside = rgba[..., 3] > 127
            if not inside.any():
                raise InputError(f"{path} is transparent everywhere; give --mask-{tag} FILE, or none to ignore that")
            return Side(path, np.ascontiguousarray(rgba[..., :3]), inside, "alpha")
    picture = read_rgb(path)
    if mask is None or mask == "none":
        return Side(path, picture, np.ones(picture.shape[:2], dtype=bool), "none")
    file = _image_file(mask, "mask")
    inside = read_mask(file)
    if inside.shape != picture.shape[:2]:
        sizes = [f"{shape[1]}x{shape[0]}" for shape in (inside.shape, picture.shape)]
        raise InputError(f"{file} is {sizes[0]}, its picture {path} is {sizes[1]}; make them the same")
    if not inside.any():
        raise InputError(f"{file} marks no object: no pixel is above half of its range")
    return Side(path, picture, inside, str(file))


# ---------------------------------------------------------------------------------------------------- matchers


def _flow(request: MatchRequest, progress: Progress) -> Ready:
    from dyn4d.core.protocols import resolve_device
    from dyn4d.matching.config import MatchingConfig
    from dyn4d.matching.flow_pair import FlowMatcher

    resolve_device(request.device)  # of no use here, but no nonsense either
    size = request.size or SIZES["flow"]
    config = MatchingConfig(max_size=size, min_size=min(MatchingConfig.min_size, size))
    matcher = FlowMatcher(config)
    options = {"size": size, "max_matches": config.max_per_pair, "fb_px": config.fb_px, "seed": matcher.seed}
    return Ready(lambda a, b: matcher(a.image, b.image, a.mask, b.mask), options)


def _mast3r(request: MatchRequest, progress: Progress) -> Ready:
    from dyn4d.geometry.pair_config import PairConfig
    from dyn4d.geometry.pair_matcher import PairNetworkMatcher
    from dyn4d.geometry.weights import load_pair_network
    from dyn4d.matching.coarse_to_fine import CoarseToFineConfig, match_coarse_to_fine

    weights = request.weights or ""
    try:
        network = load_pair_network(weights, request.device)
    except InputError as error:
        hint = "" if request.matcher else "; for weights of R2D2 give --matcher r2d2"
        raise InputError(f"{error}{hint}") from error
    if not network.config.desc_dim:
        progress.note(f"{weights} is a DUSt3R network, which describes no pixels: they are matched by their 3D points")
    size = request.size or SIZES["mast3r"]
    config = PairConfig(size=size)
    matcher, fine = PairNetworkMatcher(network, config), CoarseToFineConfig(size=size)

    def call(a: Side, b: Side) -> Correspondences:
        if request.coarse_to_fine and max(*a.size, *b.size) > size:
            return match_coarse_to_fine(matcher, a.image, b.image, a.mask, b.mask, fine, progress=progress)
        return matcher(a.image, b.image, a.mask, b.mask)

    options = {"weights": weights, "size": size, "device": str(network.device), "fill": config.fill,
               "subsample": config.subsample, "coarse_to_fine": request.coarse_to_fine}  # fmt: skip
    return Ready(call, options, network.notes)


def _r2d2(request: MatchRequest, progress: Progress) -> Ready:
    from dyn4d.matching.r2d2_extract import R2D2Config
    from dyn4d.matching.r2d2_match import R2D2Matcher
    from dyn4d.matching.r2d2_weights import load_r2d2

    weights, size = request.weights or "", request.size or SIZES["r2d2"]
    r2d2 = load_r2d2(weights or None, request.device)
    config = R2D2Config(unbiased=True, max_size=size, min_size=min(R2D2Config.min_size, int(size / 1.2)))
    matcher = R2D2Matcher(r2d2, config=config)
    options = {"weights": weights, "size": size, "device": str(r2d2.device), "top_k": matcher.top_k,
               "min_similarity": matcher.min_similarity}  # fmt: skip
    return Ready(lambda a, b: matcher(a.image, b.image, a.mask, b.mask), options, (f"weights: {r2d2.licence}",))


def _flow_and_r2d2(request: MatchRequest, progress: Progress) -> Ready:
    from dyn4d.matching.calibration import weights_note
    from dyn4d.matching.chain import ChainMatcher, DescriberLink, FlowLink
    from dyn4d.matching.config import MatchingConfig
    from dyn4d.matching.describe import R2D2Describer
    from dyn4d.matching.flow_pair import FlowMatcher
    from dyn4d.matching.r2d2_weights import load_r2d2, weights_file

    size = request.size or SIZES["flow+r2d2"]
    flow = FlowMatcher(MatchingConfig(max_size=size, min_size=min(MatchingConfig.min_size, size)))
    r2d2 = load_r2d2(request.weights or None, request.device)
    describer = R2D2Describer(r2d2, size=size)
    matcher = ChainMatcher((FlowLink(flow), DescriberLink(describer)))
    options = {"weights": request.weights or "", "size": size, "device": str(r2d2.device), "top_k": describer.top_k,
               "max_matches": flow.config.max_per_pair, "max_error": matcher.max_error, "seed": flow.seed}  # fmt: skip
    notes = (f"weights: {r2d2.licence}", weights_note("r2d2", weights_file(request.weights)))
    return Ready(lambda a, b: matcher(a.image, b.image, a.mask, b.mask), options, tuple(filter(None, notes)))


_MAKERS: dict[str, Callable[[MatchRequest, Progress], Ready]] = {
    "mast3r": _mast3r, "r2d2": _r2d2, "flow": _flow, "flow+r2d2": _flow_and_r2d2,
}  # fmt: skip
