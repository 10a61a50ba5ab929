"""A stage that makes several things: what is missing is added, what is there stays."""

import pytest

from dyn4d.config import Config
from dyn4d.core.errors import InputError
from dyn4d.export.config import ExportConfig
from dyn4d.io.atomic import read_json
from dyn4d.pipeline import STAGES
from dyn4d.progress import QuietProgress
from dyn4d.runner import MARKER, Stage, StageContext, execute, make_plan
from dyn4d.runs import RunFolder, RunState


class Work:
    """Makes a file for each part that is not there; remembers what it made, and may stop in the middle."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.stop_at = ""

    def __call__(self, ctx: StageContext) -> None:
        for name in ("always", *ctx.config["parts"]):
            path = ctx.out / "deep" / name
            if path.exists():
                continue
            if name == self.stop_at:
                raise KeyboardInterrupt
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{name} {ctx.config['value']}")
            self.made.append(name)


@pytest.fixture
def work():
    return Work()


def run(tmp_path, work, *parts, value=1, overwrite=False):
    stage = Stage("many", "many", (), lambda c: {"value": c["value"]}, work, parts=lambda c: c["parts"])
    folder = RunFolder(tmp_path / "run")
    folder.create()
    config = {"value": value, "parts": parts}
    planned = make_plan((stage,), config, folder)[0]
    ran = execute(planned, config, folder, RunState(folder), QuietProgress(), overwrite=overwrite)
    assert make_plan((stage,), config, folder)[0].status == "done"
    return planned, ran, folder.root / "many"


def names(folder):
    return sorted(path.name for path in (folder / "deep").iterdir())


def test_parts_are_added_without_doing_the_others_again(tmp_path, work):
    assert run(tmp_path, work, "a")[1]
    planned, ran, folder = run(tmp_path, work, "b", "c")
    assert ran and planned.status == "partial" and planned.reason == "adds b, c"
    assert work.made == ["always", "a", "b", "c"] and names(folder) == ["a", "always", "b", "c"]
    marker = read_json(folder / MARKER)
    assert marker["parts"] == ["a", "b", "c"]
    assert sorted(marker["files"]) == ["deep/a", "deep/always", "deep/b", "deep/c"]
    for parts in ((), ("a",), ("c", "a")):  # fewer than there are is nothing to do
        assert not run(tmp_path, work, *parts)[1]
    assert not (tmp_path / "run/.partial-many").exists()


def test_other_settings_still_refuse(tmp_path, work):
    run(tmp_path, work, "a")
    with pytest.raises(InputError, match="--overwrite"):
        run(tmp_path, work, "a", "b", value=2)
    _, _, folder = run(tmp_path, work, "b", value=2, overwrite=True)
    assert names(folder) == ["always", "b"] and (folder / "deep/always").read_text() == "always 2"


def test_adding_goes_on_where_it_was_stopped(tmp_path, work):
    _, _, folder = run(tmp_path, work, "a")
    work.stop_at = "c"
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, work, "b", "c")
    assert names(folder) == ["a", "always"]  # whole, as it was
    work.stop_at = ""
    run(tmp_path, work, "b", "c")
    assert work.made == ["always", "a", "b", "c"] and names(folder) == ["a", "always", "b", "c"]


def test_stopped_and_then_asked_for_something_else(tmp_path, work):
    run(tmp_path, work, "a")
    work.stop_at = "c"
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, work, "b", "c")
    _, _, folder = run(tmp_path, work, "d")
    assert names(folder) == ["a", "always", "d"] and read_json(folder / MARKER)["parts"] == ["a", "d"]


def test_the_formats_of_an_export_are_parts_of_it():
    config = Config(export=ExportConfig(formats=("csv", "usd")))
    stage = next(stage for stage in STAGES if stage.name == "export")
    assert stage.parts(config) == ("csv", "usd")
    fewer = Config(export=ExportConfig(formats=()))
    assert stage.settings(config) == stage.settings(fewer) and "mesh_faces" in stage.settings(config)["export"]
