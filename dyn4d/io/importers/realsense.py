"""ROS bags of RealSense cameras: recordings of the RealSense Viewer, and of ROS nodes with a colour and a depth topic.

Topics: of the Viewer `/device_0/sensor_1/Color_0/image/data` and the like, `.../info/camera_info`, `.../tf/0` (moves
points from the depth stream's axes into the stream's own, as rs2_extrinsics do) and `.../option/Depth_Units/value`
(metres to a unit); of ROS `/camera/color/image_raw`, `/camera/aligned_depth_to_color/image_raw`, `.../camera_info`,
depth in millimetres (16UC1) or metres (32FC1). Pixel centres are integer in both. Depth that is not aligned to the
colour pictures is aligned here.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from dyn4d.core.errors import InputError
from dyn4d.core.listing import listed
from dyn4d.io.importers.lens import NO_RADIAL, Lens
from dyn4d.io.importers.options import ImportOptions
from dyn4d.io.importers.realign import Aligner
from dyn4d.io.importers.sequence import Pixels, Sequence4D, SourceFrame, from_quaternion, inverse
from dyn4d.io.importers.tum import nearest

IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
MILLIMETRES = 1000.0


@dataclass(frozen=True)
class _Stream:
    """Messages of one topic. `stamps` (N,): seconds. `at` (N,): their places among all messages of the topic."""

    topic: str
    connection: Any
    stamps: np.ndarray


@contextmanager
def _open(source: Path) -> Iterator[Any]:
    if find_spec("rosbags") is None:
        raise InputError(f"{source}: reading .bag files needs a package: pip install 'dyn4d[recordings]'")
    from rosbags.highlevel import AnyReader, AnyReaderError
    from rosbags.typesys import Stores, get_typestore

    try:
        with AnyReader([source], default_typestore=get_typestore(Stores.ROS1_NOETIC)) as reader:
            yield reader
    except (AnyReaderError, EOFError, OSError) as error:
        raise InputError(
            f"{source} is no bag that can be read, or it is cut short ({error}); record it again"
        ) from error


def read_realsense(source: Path, options: ImportOptions) -> Sequence4D:
    """Every colour picture is a frame, with the depth nearest in time. There are no poses.

    Raises:
        InputError: rosbags is not installed, the bag is damaged, has no colour pictures or no intrinsics.
    """
    with _open(source) as reader:
        color = _stream(reader, source, _choose(reader, source, depth=False))
        topic = _choose(reader, source, depth=True)
        depth = None if topic is None else _stream(reader, source, topic)
        lens = _lens(reader, source, color.topic)
        plan = None if depth is None else _depth_plan(reader, source, color.topic, depth.topic, lens)
    bag = _Bag(source)
    start = float(color.stamps[0])
    reach = 0.6 * float(np.median(np.diff(color.stamps))) if len(color.stamps) > 1 else 1.0
    pairs = nearest(list(depth.stamps), list(color.stamps), reach) if depth is not None else [None] * len(color.stamps)
    frames = []
    for row, pair in enumerate(pairs):
        found = None if pair is None or depth is None or plan is None else bag.depth(depth, pair, plan)
        seconds = float(color.stamps[row]) - start
        frames.append(SourceFrame(f"{row:06d}", seconds, bag.rgb(color, row), None, found, lens))
    notes = [] if depth is not None else ["the bag has no depth topic"]
    if plan is not None and plan.aligner is not None:
        notes.append("depth was aligned to the colour pictures with the bag's own extrinsics")
    frames = [f for i, f in enumerate(frames) if i == 0 or f.seconds > frames[i - 1].seconds]
    # Whole units survive where nothing was moved: they are written as 16-bit numbers.
    div = plan.div if plan is not None and plan.whole else None
    return Sequence4D("realsense", source, tuple(frames), depth_div=div, notes=tuple(notes))


def _choose(reader: Any, source: Path, *, depth: bool) -> str | None:
    """The topic of the colour pictures, or of depth (None where there is none); aligned depth comes first."""
    images = [c.topic for c in reader.connections if c.msgtype in IMAGES]
    low = {topic: topic.lower() for topic in images if "theora" not in topic.lower()}
    deep = [t for t, name in low.items() if "depth" in name and "compresseddepth" not in name]
    if depth:
        ranked = sorted(deep, key=lambda t: (not any(w in low[t] for w in ("aligned", "registered")), t))
        return ranked[0] if ranked else None
    other = [
        t for t, name in low.items() if t not in deep and not any(w in name for w in ("infra", "fisheye", "depth"))
    ]
    ranked = sorted(other, key=lambda t: ("compressed" in low[t], not any(w in low[t] for w in ("color", "rgb")), t))
    if not ranked:
        raise InputError(f"{source} has no colour pictures; its picture topics: {listed(images) or 'none'}")
    return ranked[0]


def _stream(reader: Any, source: Path, topic: str | None) -> _Stream:
    connection = next(c for c in reader.connections if c.topic == topic)
    stamps = []
    for _, at, raw in reader.messages(connections=[connection]):
        header = reader.deserialize(raw, connection.msgtype).header.stamp
        stamp = header.sec + header.nanosec * 1e-9
        stamps.append(stamp if stamp > 0 else at * 1e-9)
    if not stamps:
        raise InputError(f"{source}: {topic} holds no pictures")
    return _Stream(connection.topic, connection, np.array(stamps))


def _first(reader: Any, topic: str) -> Any:
    for connection in reader.connections:
        if connection.topic == topic:
            for _, _, raw in reader.messages(connections=[connection]):
                return reader.deserialize(raw, connection.msgtype)
    return None


def _home(topic: str) -> str:
    """What a stream's topics begin with: `/device_0/sensor_1/Color_0`, `/camera/color`."""
    for end in (
        "/image/data",
        "/image_raw",
        "/image_rect_raw",
        "/image_rect_color",
        "/image_rect",
        "/image",
        "/compressed",
    ):
        topic = topic.removesuffix("/compressed").removesuffix(end)
    return topic


def _lens(reader: Any, source: Path, topic: str) -> Lens:
    home = _home(topic)
    info = next(
        (i for i in (_first(reader, f"{home}/{end}") for end in ("info/camera_info", "camera_info")) if i is not None),
        None,
    )
    if info is None:
        raise InputError(f"{source}: {home} has no camera_info topic, so its intrinsics are not known; record it too")
    K = np.asarray(getattr(info, "K", None) if hasattr(info, "K") else info.k, np.float64).reshape(3, 3)
    D = np.asarray(getattr(info, "D", None) if hasattr(info, "D") else info.d, np.float64)
    if min(K[0, 0], K[1, 1]) <= 0:
        raise InputError(f"{source}: the camera_info of {home} has no focal length")
    radial, tangential = NO_RADIAL, (0.0, 0.0)
    if np.any(D):
        model = str(info.distortion_model).lower().replace("_", " ")
        if model not in ("brown conrady", "plumb bob", "rational polynomial") or len(D) > 8:
            raise InputError(
                f"{source}: {home} is distorted by {info.distortion_model}, which is not read; record it rectified"
            )
        k1, k2, p1, p2, k3, *more = [*D.tolist(), *[0.0] * (8 - len(D))]
        radial, tangential = (k1, k2, k3, *more), (p1, p2)
    return Lens(
        int(info.width), int(info.height), K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5, 0.0, radial, tangential
    )  # fmt: skip


@dataclass(frozen=True)
class _Plan:
    """How depth messages become maps: units of whole numbers in a metre, and an aligner or None."""

    div: float
    whole: bool
    aligner: Aligner | None


def _depth_plan(reader: Any, source: Path, color: str, depth: str, lens: Lens) -> _Plan:
    units = _first(reader, "/".join([*_home(depth).split("/")[:3], "option/Depth_Units/value"]))
    div = MILLIMETRES if units is None else 1 / float(units.data)
    div = float(round(div)) if abs(div - round(div)) < 1e-3 * div else div  # 0.001 was stored in 32 bits
    first = _first(reader, depth)
    whole = getattr(first, "encoding", "").lower() != "32fc1"
    if any(word in depth.lower() for word in ("aligned", "registered")):
        return _Plan(div, whole, None)
    other = _lens(reader, source, depth)
    move = _between(reader, source, color, depth)
    if move is None:
        if other == lens:
            return _Plan(div, whole, None)
        raise InputError(
            f"{source}: {depth} is not aligned to {color} and the bag does not say how they stand to each other; "
            "record depth aligned to colour"
        )
    if other == lens and np.allclose(move, np.eye(4), atol=1e-9):
        return _Plan(div, whole, None)
    return _Plan(div, False, Aligner(other, lens, move))


def _between(reader: Any, source: Path, color: str, depth: str) -> np.ndarray | None:
    """color_from_depth (4, 4) of the Viewer's bags; None where it is not there."""
    found = []
    for topic in (color, depth):
        home = _home(topic)
        name = next((c.topic for c in reader.connections if c.topic.startswith(f"{home}/tf/")), None)
        move = None if name is None else _first(reader, name)
        if move is None:
            return None
        q, t = move.rotation, move.translation
        found.append(from_quaternion([q.w, q.x, q.y, q.z], [t.x, t.y, t.z], f"{source}: {name}"))
    return found[0] @ inverse(found[1])


class _Bag:
    """Pictures of a bag, read in order: each topic is gone through once as long as rows increase."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self._running: dict[str, tuple[int, Iterator[Any], Any]] = {}

    def message(self, stream: _Stream, row: int) -> Any:
        at, messages, last = self._running.get(stream.topic, (-1, iter(()), None))
        if row < at or at < 0:
            at, messages = -1, self._messages(stream.topic)
        while at < row:
            last = next(messages)
            at += 1
        self._running[stream.topic] = at, messages, last
        return last

    def _messages(self, topic: str) -> Iterator[Any]:
        with _open(self.source) as reader:
            connections = [c for c in reader.connections if c.topic == topic]
            for connection, _, raw in reader.messages(connections=connections):
                yield reader.deserialize(raw, connection.msgtype)

    def rgb(self, stream: _Stream, row: int) -> Pixels:
        label = f"{self.source}, {stream.topic}, {row}"
        return Pixels(lambda: picture_of(self.message(stream, row), label), label)

    def depth(self, stream: _Stream, row: int, plan: _Plan) -> Pixels:
        label = f"{self.source}, {stream.topic}, {row}"

        def read() -> np.ndarray:
            values = map_of(self.message(stream, row), label)
            metres = values if values.dtype.kind == "f" else values / plan.div
            metres = np.where(np.isfinite(metres), metres, 0).astype(np.float32)
            return metres if plan.aligner is None else plan.aligner(metres)

        return Pixels(read, label)


def _rows(message: Any, dtype: str, channels: int, label: str) -> np.ndarray:
    kind = np.dtype((">" if message.is_bigendian else "<") + dtype)
    width = message.width * channels * kind.itemsize
    data = np.asarray(message.data, np.uint8)
    if message.step < width or data.size < message.step * message.height:
        raise InputError(
            f"{label}: {data.size} bytes are too few for {message.width}x{message.height}; record it again"
        )
    lines = data[: message.step * message.height].reshape(message.height, message.step)[:, :width]
    return np.ascontiguousarray(lines).view(kind).reshape(message.height, message.width, channels)


def picture_of(message: Any, label: str) -> np.ndarray:
    """(H, W, 3) uint8 of an Image or CompressedImage. Raises `InputError` for encodings that are not read."""
    if not hasattr(message, "encoding"):
        from PIL import Image

        try:
            with Image.open(io.BytesIO(bytes(message.data))) as picture:
                return np.array(picture.convert("RGB"))
        except (OSError, ValueError) as error:
            raise InputError(f"{label} is no picture that can be read") from error
    name = message.encoding.lower()
    if name in ("rgb8", "bgr8", "rgba8", "bgra8"):
        pixels = _rows(message, "u1", len(name) - 1, label)[..., :3]
        return np.ascontiguousarray(pixels[..., ::-1] if name.startswith("bgr") else pixels)
    if name in ("mono8", "8uc1"):
        return np.repeat(_rows(message, "u1", 1, label), 3, axis=2)
    if name in ("yuyv", "yuv422_yuy2", "uyvy", "yuv422"):
        import cv2

        how = cv2.COLOR_YUV2RGB_YUY2 if "yuy" in name else cv2.COLOR_YUV2RGB_UYVY
        return cv2.cvtColor(_rows(message, "u1", 2, label), how)
    raise InputError(f"{label} is encoded as {message.encoding}; wanted rgb8, bgr8, yuyv or mono8")


def map_of(message: Any, label: str) -> np.ndarray:
    """(H, W) of a depth message: uint16 units or float32 metres. Raises `InputError` for other encodings."""
    name = getattr(message, "encoding", "compressed").lower()
    if name in ("mono16", "16uc1", "z16"):
        return _rows(message, "u2", 1, label)[..., 0]
    if name == "32fc1":
        return _rows(message, "f4", 1, label)[..., 0]
    raise InputError(f"{label} is encoded as {name}; wanted mono16, 16UC1 or 32FC1")
