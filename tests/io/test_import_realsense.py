"""Bags of the RealSense Viewer and of ROS nodes, written with the rosbags library by the topics' public definition."""

import struct

import numpy as np
import pytest
import torch
from import_checks import assert_passes_check, imported, run_import, seen
from import_sources import HEIGHT, WIDTH, picture, quaternion

from dyn4d.core.errors import InputError
from dyn4d.io import load_clip
from dyn4d.io.importers import realsense

pytest.importorskip("rosbags")

COLOR = (70.0, 72.0, 31.0, 24.5)  # fx, fy, ppx, ppy: integer pixel centres
DEPTH = (35.0, 36.0, 15.5, 11.5)
SMALL = (WIDTH // 2, HEIGHT // 2)
SHIFT = np.array([0.015, -0.002, 0.001])  # colour from depth, metres
POINTS = np.array([[0.0, 0.0, 1.0], [0.2, 0.1, 1.2], [-0.3, -0.2, 1.5]])


class Bag:
    """Writes messages to a ROS 1 bag."""

    def __init__(self, path):
        from rosbags.rosbag1 import Writer
        from rosbags.typesys import Stores, get_typestore

        self.store = get_typestore(Stores.ROS1_NOETIC)
        self.writer = Writer(path)
        self.topics = {}

    def __enter__(self):
        self.writer.open()
        return self

    def __exit__(self, *_):
        self.writer.close()

    def make(self, kind, *values):
        return self.store.types[kind](*values)

    def write(self, topic, kind, message, seconds=0.0):
        if topic not in self.topics:
            self.topics[topic] = self.writer.add_connection(topic, kind, typestore=self.store)
        raw = self.store.serialize_ros1(message, kind)
        self.writer.write(self.topics[topic], int(seconds * 1e9) + 1, raw)

    def header(self, seconds):
        stamp = self.make("builtin_interfaces/msg/Time", int(seconds), round(seconds % 1 * 1e9))
        return self.make("std_msgs/msg/Header", 0, stamp, "")

    def image(self, topic, values, encoding, seconds):
        height, width = values.shape[:2]
        data = np.frombuffer(values.tobytes(), np.uint8)
        message = self.make("sensor_msgs/msg/Image", self.header(seconds), height, width, encoding, 0,
                            len(data) // height, data)  # fmt: skip
        self.write(topic, "sensor_msgs/msg/Image", message, seconds)

    def info(self, topic, lens, size, model="Inverse Brown Conrady", D=(0.0,) * 5):
        fx, fy, cx, cy = lens
        K = np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1.0])
        region = self.make("sensor_msgs/msg/RegionOfInterest", 0, 0, 0, 0, False)
        message = self.make("sensor_msgs/msg/CameraInfo", self.header(0), size[1], size[0], model, np.array(D), K,
                            np.zeros(9), np.zeros(12), 0, 0, region)  # fmt: skip
        self.write(topic, "sensor_msgs/msg/CameraInfo", message)

    def transform(self, topic, shift):
        w, x, y, z = quaternion(np.eye(3))
        message = self.make("geometry_msgs/msg/Transform", self.make("geometry_msgs/msg/Vector3", *map(float, shift)),
                            self.make("geometry_msgs/msg/Quaternion", x, y, z, w))  # fmt: skip
        self.write(topic, "geometry_msgs/msg/Transform", message)


def units(index):
    return np.full(SMALL[::-1], 10000 + 100 * index, np.uint16)


def viewer(path, *, tf=True, count=4, model="Inverse Brown Conrady", D=(0.0,) * 5, info=True):
    """A recording of the RealSense Viewer: depth of a tenth of a millimetre, half the size, 15 mm to the left."""
    home = "/device_0/sensor_0/Depth_0", "/device_0/sensor_1/Color_0"
    with Bag(path) as bag:
        # 0.0001 as the 32-bit number that the camera stores
        unit = struct.unpack("<f", struct.pack("<f", 1e-4))[0]
        bag.write(
            "/device_0/sensor_0/option/Depth_Units/value",
            "std_msgs/msg/Float32",
            bag.make("std_msgs/msg/Float32", unit),
        )
        bag.info(f"{home[0]}/info/camera_info", DEPTH, SMALL)
        if info:
            bag.info(f"{home[1]}/info/camera_info", COLOR, (WIDTH, HEIGHT), model, D)
        if tf:  # moves points from the reference (depth) into the stream
            bag.transform(f"{home[0]}/tf/0", [0, 0, 0])
            bag.transform(f"{home[1]}/tf/0", SHIFT)
        for i in range(count):
            bag.image(f"{home[0]}/image/data", units(i), "mono16", 100 + i / 30 + 0.004)
            bag.image(f"{home[1]}/image/data", picture(i), "rgb8", 100 + i / 30)
        bag.image("/device_0/sensor_0/Infrared_1/image/data", np.zeros(SMALL[::-1], np.uint8), "mono8", 100)
    return path


def realsense_pixels(points):
    """librealsense projection.md: [0, 0] is the centre of the first pixel; here from its corner."""
    x, y, z = points.T
    fx, fy, cx, cy = COLOR
    return np.stack([fx * x / z + cx + 0.5, fy * y / z + cy + 0.5], axis=1)


def test_viewer_recordings_are_aligned_to_colour(tmp_path):
    said = run_import(viewer(tmp_path / "a.bag"), tmp_path / "clip")
    assert "aligned" in said and "no poses" in said
    clip = load_clip(tmp_path / "clip", mask="none")
    assert clip.timeline.seconds.tolist() == pytest.approx([0, 1 / 30, 2 / 30, 3 / 30], abs=1e-6)
    assert np.array_equal(clip.images[2], picture(2)) and not clip.poses_given
    still = imported(tmp_path / "a.bag", tmp_path / "still", mask="none", static=True)
    assert np.abs(seen(still.cameras, 0, POINTS) - realsense_pixels(POINTS)).max() < 0.01
    for row in range(4):
        depth = clip.depth[row]
        z = 1.0 + row / 100  # a wall before the depth camera, a millimetre farther from the colour camera
        assert np.allclose(depth[depth > 0], z + SHIFT[2]) and (depth > 0).mean() > 0.9
        # the wall's left edge in the depth camera, as the colour camera sees it
        left = (-0.5 - DEPTH[2]) / DEPTH[0] * z + SHIFT[0]
        column = realsense_pixels(np.array([[left, 0, z + SHIFT[2]]]))[0, 0]
        first = int(np.argmax(depth[HEIGHT // 2] > 0))
        assert first - 0.5 <= column <= first + 0.61  # to the pixel, and a tenth beyond
    assert_passes_check(clip)


def ros(path, *, topic="aligned_depth_to_color", encoding="16UC1", compressed=False):
    import io

    from PIL import Image

    with Bag(path) as bag:
        bag.info("/camera/color/camera_info", COLOR, (WIDTH, HEIGHT), "plumb_bob")
        bag.info(f"/camera/{topic}/camera_info", COLOR, (WIDTH, HEIGHT), "plumb_bob")
        for i in range(3):
            values = np.full((HEIGHT, WIDTH), 1500 + i, np.uint16)
            if encoding == "32FC1":
                values = (values / 1000).astype(np.float32)
                values[0, 0] = np.nan
            bag.image(f"/camera/{topic}/image_raw", values, encoding, 5 + i / 15)
            if not compressed:
                bag.image("/camera/color/image_raw", picture(i)[..., ::-1], "bgr8", 5 + i / 15)
                continue
            data = io.BytesIO()
            Image.fromarray(picture(i)).save(data, "PNG")
            message = bag.make("sensor_msgs/msg/CompressedImage", bag.header(5 + i / 15), "png",
                               np.frombuffer(data.getvalue(), np.uint8))  # fmt: skip
            bag.write("/camera/color/image_raw/compressed", "sensor_msgs/msg/CompressedImage", message, 5 + i / 15)
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_ros_bags_with_aligned_depth(tmp_path, encoding, compressed):
    clip = imported(ros(tmp_path / "a.bag", encoding=encoding, compressed=compressed), tmp_path / "clip", mask="none")
    for row in range(3):
        assert np.array_equal(clip.images[row], picture(row))
        assert np.allclose(clip.depth[row][1:], 1.5 + row / 1000)
    assert torch.equal(clip.cameras.K[0, 0], torch.tensor([70.0, 0, 31.5]).double())
    files = sorted(p.name for p in (tmp_path / "clip/depth").iterdir())
    assert files[0] == ("000000.png" if encoding == "16UC1" else "000000.npy")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tf": False}, "record depth aligned to colour"),
        ({"D": (0.1, 0.0, 0.0, 0.0, 0.0)}, "Inverse Brown Conrady"),
        ({"info": False}, "no camera_info"),
    ],
)
def test_bags_that_cannot_be_used_are_one_line(tmp_path, changes, words):
    with pytest.raises(InputError) as caught:
        run_import(viewer(tmp_path / "a.bag", **changes), tmp_path / "clip")
    assert words in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "clip").exists()


def test_cut_bags_and_the_missing_package_are_one_line(tmp_path, monkeypatch):
    source = viewer(tmp_path / "a.bag")
    whole = source.read_bytes()
    for length in (0, 10, 200, len(whole) // 2):
        source.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a\.bag") as caught:
            run_import(source, tmp_path / "clip")
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(realsense, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"dyn4d\[recordings\]"):
        run_import(source, tmp_path / "clip")
