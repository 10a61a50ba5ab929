"""Three trivial stages to test the runner with; also a program: `python fake_pipeline.py RUN [VALUE]`.

The second stage computes PIECES pieces, each kept in its scratch folder, and appends a line to `RUN/../log` for each
one that it computes.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

from dyn4d.io.atomic import atomic_path, write_json
from dyn4d.progress import QuietProgress
from dyn4d.runner import Stage, StageContext, execute, make_plan, refuse_changes
from dyn4d.runs import RunFolder, RunState, locked

PIECES = 12


def first(ctx: StageContext) -> None:
    (ctx.out / "a.txt").write_text(str(ctx.config["first"]))


def second(ctx: StageContext) -> None:
    ctx.progress.start("second", PIECES)
    for piece in range(PIECES):
        path = ctx.scratch / f"{piece}.txt"
        if not path.exists():
            time.sleep(ctx.config["sleep"])
            with atomic_path(path) as temporary:
                temporary.write_text(f"{ctx.config['second']} {piece}\n" * 1000)
            with (ctx.run.root.parent / "log").open("a") as log:
                log.write(f"{piece}\n")
        ctx.progress.update(loss=piece)
    ctx.progress.finish()
    (ctx.out / "deep").mkdir(exist_ok=True)
    whole = "".join((ctx.scratch / f"{piece}.txt").read_text() for piece in range(PIECES))
    (ctx.out / "deep" / "b.txt").write_text((ctx.run.root / "one" / "a.txt").read_text() + whole)


def third(ctx: StageContext) -> None:
    (ctx.out / "c.txt").write_text((ctx.run.root / "two" / "deep" / "b.txt").read_text() + str(ctx.config["third"]))


def summary(run: RunFolder, config: Any, state: RunState) -> None:
    write_json(run.root / "sum.json", {"length": len((run.root / "three" / "c.txt").read_text())})


STAGES = (
    Stage("first", "one", (), lambda c: {"value": c["first"]}, first),
    Stage("second", "two", ("first",), lambda c: {"value": c["second"], "threads": c["threads"]}, second),
    Stage(
        "third", "three", ("first", "second"), lambda c: {"value": c["third"]}, third,
        finish=summary, beside=lambda c: ("sum.json",),
    ),
)  # fmt: skip


def config(**changes: Any) -> dict[str, Any]:
    return {"first": 1, "second": 2, "third": 3, "threads": 1, "sleep": 0.0} | changes


def run_fake(root: Path, settings: dict[str, Any], *, overwrite: bool = False, progress: Any = None) -> list[str]:
    """Run all; returns the names of the stages that had work to do."""
    run = RunFolder(root)
    run.create()
    with locked(run):
        plan = make_plan(STAGES, settings, run)
        refuse_changes(plan, overwrite=overwrite)
        state = RunState(run)
        state.save()
        progress = progress or QuietProgress()
        return [p.stage.name for p in plan if execute(p, settings, run, state, progress, overwrite=overwrite)]


if __name__ == "__main__":
    # a shell that runs the tests in the background has its children ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from dyn4d import cli

    def command(name: str, words: Any) -> None:
        print("ready", flush=True)
        run_fake(Path(words[0]), config(sleep=0.3))  # a busy machine must still see it at work

    cli.COMMANDS["fake"] = (command, "", "")
    sys.exit(cli.main(["fake", *sys.argv[1:]]))
