"""The demo's clip: what it says of another one in its folder, and that its truth is found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dyn4d.core.errors import InputError
from dyn4d.core.protocols import SilentProgress
from dyn4d.demo import demo_truth, make_demo_clip
from dyn4d.runs import RunFolder


def test_another_demo_is_told_by_its_options_and_the_truth_is_found(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "demo")

    def make(frames: int) -> None:
        make_demo_clip(
            run, scene="turntable", background="grey", frames=frames, size=32, overwrite=False,
            progress=SilentProgress(),
        )  # fmt: skip

    make(2)
    make(2)  # the same is left as it is
    assert demo_truth(run) == run.root / "truth" and demo_truth(RunFolder(tmp_path)) == ""
    options = "--scene turntable --backdrop grey --length 2 --size 32"
    with pytest.raises(InputError, match=re.escape(f"holds another demo ({options}); give --overwrite")):
        make(3)
