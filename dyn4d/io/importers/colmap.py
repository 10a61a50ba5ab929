"""A COLMAP project: a sparse model and the folder of its pictures. The clip is in the order of the pictures' names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dyn4d.core.errors import InputError
from dyn4d.io.images import IMAGE_SUFFIXES
from dyn4d.io.importers.colmap_models import ModelImage, model_kind, read_images
from dyn4d.io.importers.options import ImportOptions
from dyn4d.io.importers.pixels import mask_pixels, picture_pixels
from dyn4d.io.importers.sequence import Pixels, Sequence4D, SourceFrame, steady
from dyn4d.io.layout import natural_key

MODEL_PLACES = (".", "sparse/0", "sparse", "colmap/sparse/0", "colmap", "colmap_text", "model")
PICTURE_PLACES = ("images", "rgb", "input", "frames", "image")
MASK_PLACES = ("masks", "mask")


def find_models(source: Path) -> list[Path]:
    """Folders of sparse models at the usual places of a project."""
    places = [source / place for place in MODEL_PLACES]
    for sparse in (source / "sparse", source / "colmap" / "sparse"):
        if sparse.is_dir():
            places += sorted((p for p in sparse.iterdir() if p.is_dir()), key=natural_key)
    return list(dict.fromkeys(p.resolve() for p in places if p.is_dir() and model_kind(p)))


def read_colmap(source: Path, options: ImportOptions) -> Sequence4D:
    """A project folder or the folder of a model. Pictures that COLMAP did not register have no pose.

    Raises:
        InputError: no model, no pictures, a lens that is not read, a damaged file; names it.
    """
    models = find_models(source)
    if not models:
        raise InputError(
            f"{source} holds no COLMAP model; wanted cameras.bin and images.bin (or .txt), also in sparse/0"
        )
    read = [(folder, read_images(folder)) for folder in models]
    folder, images = max(read, key=lambda item: len(item[1]))
    if not images:
        raise InputError(f"{folder} has no registered images")
    notes = []
    if len({frozenset(image.name for image in found) for _, found in read}) > 1:
        counts = ", ".join(f"{where.name}: {len(found)}" for where, found in read)
        notes.append(f"of {len(read)} models {folder.name} is taken, which has the most images ({counts})")
    pictures = _picture_folder(source, folder, images, options)
    masks = _mask_folder(source, pictures)
    frames = _frames(pictures, images, masks)
    if masks is not None and options.masks is None and any(frame.mask is not None for frame in frames):
        notes.append(f"the masks are those of {masks}, beside the pictures; --masks names others")
    loose = sum(frame.world_from_cam is None for frame in frames)
    if loose:
        notes.append(f"{loose} of {len(frames)} pictures are not in the model: they have no pose")
    return Sequence4D("colmap", folder, tuple(steady(frames, options)), notes=tuple(notes))


def _picture_folder(source: Path, model: Path, images: list[ModelImage], options: ImportOptions) -> Path:
    """Where the images' names lead to files."""
    if options.images is not None:
        places = [Path(options.images)]
    else:
        homes = [source, model, *model.parents[:3]]
        places = [home / name for home in homes for name in PICTURE_PLACES] + homes
    for place in places:
        if (place / images[0].name).is_file():
            missing = next((i.name for i in images if not (place / i.name).is_file()), None)
            if missing is not None:
                raise InputError(f"{place / missing} is not there, but the model in {model} has it; add the picture")
            return place
    looked = places[0] if options.images else f"images/ beside {model}"
    raise InputError(f"{images[0].name} is not in {looked}; name the folder of the pictures with --images")


def _mask_folder(source: Path, pictures: Path) -> Path | None:
    homes = [source, pictures.parent]
    return next((home / name for home in homes for name in MASK_PLACES if (home / name).is_dir()), None)


def _mask(folder: Path | None, name: str) -> Pixels | None:
    """COLMAP appends .png to the picture's name; others replace its suffix."""
    if folder is None:
        return None
    for place in (f"{name}.png", name, str(Path(name).with_suffix(".png"))):
        if (folder / place).is_file():
            return mask_pixels(folder / place)
    return None


def _frames(pictures: Path, images: list[ModelImage], masks: Path | None) -> list[SourceFrame]:
    known = {image.name: image for image in images}
    nested = any("/" in name for name in known)
    listed = pictures.rglob("*") if nested else pictures.iterdir()
    found = {p.relative_to(pictures).as_posix() for p in listed if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()}
    names = sorted(found | set(known), key=lambda name: natural_key(Path(name.replace("/", "_"))))
    frames = []
    last = images[0]
    for name in names:
        image = known.get(name)
        last = image or last
        frame = SourceFrame(
            name=Path(name).stem, seconds=0.0, rgb=picture_pixels(pictures / name), mask=_mask(masks, name),
            lens=last.lens,
        )  # fmt: skip
        frames.append(frame if image is None else replace(frame, world_from_cam=image.world_from_cam))
    return frames
