"""The command line: `dyn4d COMMAND ...`. Free of torch until a command needs it, so that help is quick.

Exit codes: 0 done, 1 the run failed, 2 bad input or usage, 130 Ctrl-C. Errors are one line on stderr; `--debug` shows
where they come from.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyn4d import __version__
from dyn4d.cli_args import (
    CheckArgs,
    Common,
    DemoArgs,
    EvalArgs,
    ImportArgs,
    MaskArgs,
    MatchArgs,
    PrepareArgs,
    RunArgs,
    StageArgs,
    StatusArgs,
    TrainGeometryArgs,
    TrainMatcherArgs,
    ViewArgs,
    WeightsArgs,
)
from dyn4d.cli_parse import UsageError, closest, parse
from dyn4d.config import Options, load_config, load_preset, with_clip
from dyn4d.core.errors import Dyn4DError, RunError
from dyn4d.runs import RunFolder, describe_error

if TYPE_CHECKING:
    from dyn4d.ply_args import PlyArgs


STAGE_GROUPS = {  # of options
    "geometry": ("geometry", "matching"), "deform": ("deformation",), "gaussians": ("gaussians",),
    "render": ("render",), "export": ("export",),
}  # fmt: skip


def _preset_of(words: Sequence[str], fallback: str) -> Options:
    """The options that `--preset` in `words` names: they are the defaults that everything else is read over."""
    for at, word in enumerate(words):
        if word.startswith("--preset="):
            return load_preset(word.split("=", 1)[1])
        if word == "--preset" and at + 1 < len(words):
            return load_preset(words[at + 1])
    return load_preset(fallback)


def _first_plain(words: Sequence[str]) -> str:
    """The first word, if it is not an option: where the run folder of a stage's command stands."""
    return words[0] if words and not words[0].startswith("-") else ""


# ------------------------------------------------------------------------------------------- commands


def _progress(args: Common | PlyArgs) -> Any:
    from dyn4d.progress import make_progress

    return make_progress(quiet=args.quiet)


def _say(text: str, args: Common | PlyArgs) -> None:
    if not args.quiet:
        print(text)


def _show_result(run: RunFolder, args: Common) -> None:
    from dyn4d.stagework import read_metrics

    if args.quiet:
        return
    figures = read_metrics(run)
    total = sum(value or 0 for value in figures["seconds"].values())
    found = figures["input"]["mpsnr"]
    quality = "" if found is None else f", {found:.2f} dB inside the mask on the input's views"
    print(f"done; computed in {total:.0f} s in all{quality}")
    for path in (run.report, run.export / "player.html", run.renders / "orbit.mp4", run.export / "ply"):
        if path.exists():
            print(f"  {path}")


def run_command(name: str, words: Sequence[str]) -> None:
    default = RunArgs(options=_preset_of(words, "default"))
    args = parse(RunArgs, name, words, default)
    from dyn4d.estimate_cli import announce, show_estimate
    from dyn4d.pipeline import run_all

    out, config = args.out or str(Path("runs") / (_clip_name(args.clip))), with_clip(args.options, args.clip)
    if args.estimate:
        show_estimate(config, out, overwrite=args.overwrite, say=print)
        return
    progress = _progress(args)

    def begin() -> None:
        announce(config, out, overwrite=args.overwrite, force=args.ignore_estimate, say=progress.note)

    run = run_all(config, out, overwrite=args.overwrite, progress=progress, before=begin)
    _show_result(run, args)


def _clip_name(clip: str) -> str:
    path = Path(clip).expanduser().absolute()
    return path.name if path.is_dir() else path.stem


def prepare_command(name: str, words: Sequence[str]) -> None:
    default = PrepareArgs(options=_preset_of(words, "default"))
    args = parse(PrepareArgs, name, words, default)
    from dyn4d.pipeline import run_prepare

    config = with_clip(args.options, args.clip)
    run = run_prepare(config, args.out or "", overwrite=args.overwrite, progress=_progress(args))
    _say(str(run.root), args)


def stage_command(name: str, words: Sequence[str]) -> None:
    options, where = Options(), _first_plain(words)
    if where:
        folder = RunFolder(where)
        folder.require()
        config = load_config(folder.config)
        options = Options(**{f.name: getattr(config, f.name) for f in fields(Options)})
    own = " and ".join(f"--{group}.*" for group in STAGE_GROUPS[name])
    about = f"Its own are {own}, below; the others belong to other stages."
    args = parse(StageArgs, name, words, StageArgs(options=options), about)
    if args.run != where:
        raise UsageError(f"dyn4d {name}: the run folder comes first: dyn4d {name} RUN ...")
    from dyn4d.pipeline import run_stage

    config = with_clip(args.options, load_config(RunFolder(where).config).clip)
    run = run_stage(name, where, config=config, overwrite=args.overwrite, progress=_progress(args))
    _say(str(run.root), args)


def demo_command(name: str, words: Sequence[str]) -> None:
    default = DemoArgs(options=_preset_of(words, "quick"))
    args = parse(DemoArgs, name, words, default)
    from dyn4d.demo import make_demo_clip
    from dyn4d.estimate_cli import announce
    from dyn4d.pipeline import run_all, run_eval

    run, progress = RunFolder(args.out), _progress(args)
    folders = make_demo_clip(
        run, scene=args.scene, background=args.backdrop, frames=args.length, size=args.size,
        overwrite=args.overwrite, progress=progress,
    )  # fmt: skip
    config = with_clip(args.options, folders.clip)

    def begin() -> None:  # forced: what would make it fit are options of a run
        announce(config, args.out, overwrite=args.overwrite, force=True, say=progress.note)

    run_all(config, run, overwrite=args.overwrite, progress=progress, allow=folders.names, before=begin)
    if not run.eval.is_file():
        run_eval(run, folders.truth, progress=progress)
    if not args.quiet:
        _print_table(run)
    _show_result(run, args)


def _print_table(run: RunFolder) -> None:
    from dyn4d.export.evaluate import format_table
    from dyn4d.io.atomic import read_json

    print(format_table(read_json(run.eval)))


def eval_command(name: str, words: Sequence[str]) -> None:
    args = parse(EvalArgs, name, words, EvalArgs())
    from dyn4d.demo import demo_truth
    from dyn4d.pipeline import run_eval

    run = RunFolder(args.run)
    run_eval(run, args.truth or demo_truth(run), progress=_progress(args))
    _print_table(run)


def status_command(name: str, words: Sequence[str]) -> None:
    args = parse(StatusArgs, name, words, StatusArgs())
    from dyn4d.pipeline import run_status
    from dyn4d.status import format_status

    print(format_status(*run_status(args.run)))


def view_command(name: str, words: Sequence[str]) -> None:
    args = parse(ViewArgs, name, words, ViewArgs())
    from dyn4d.view_cli import view_run

    view_run(args.run, port=args.port, browser=args.browser, say=lambda text: print(text, flush=True))


def check_command(name: str, words: Sequence[str]) -> None:
    args = parse(CheckArgs, name, words, CheckArgs())
    from dyn4d.check_cli import CheckRequest, check
    from dyn4d.io.check import refuse_errors

    request = CheckRequest(**{f.name: getattr(args, f.name) for f in fields(CheckRequest)})
    refuse_errors(check(request, _progress(args), print))


def import_command(name: str, words: Sequence[str]) -> None:
    args = parse(ImportArgs, name, words, ImportArgs())
    from dyn4d.import_cli import import_source

    _say(import_source(args, _progress(args)), args)


def match_command(name: str, words: Sequence[str]) -> None:
    args = parse(MatchArgs, name, words, MatchArgs())
    from dyn4d.match_cli import MatchRequest, match_pictures

    request = MatchRequest(**{f.name: getattr(args, f.name) for f in fields(MatchRequest)})
    _say(match_pictures(request, _progress(args)), args)


def mask_command(name: str, words: Sequence[str]) -> None:
    args = parse(MaskArgs, name, words, MaskArgs())
    from dyn4d.mask_cli import MaskRequest, make_masks

    request = MaskRequest(**{f.name: getattr(args, f.name) for f in fields(MaskRequest)})
    if request.makes or not args.edit:
        _say(make_masks(request, _progress(args)), args)
    if args.edit:
        from dyn4d.mask_edit import edit_masks

        edit_masks(request, port=args.port, browser=args.browser, say=lambda text: print(text, flush=True),
                   progress=_progress(args))  # fmt: skip


def ply_command(name: str, words: Sequence[str]) -> None:
    from dyn4d.ply_cli import ACTIONS
    from dyn4d.ply_cli import usage as ply_usage

    if not words or words[0] in ("-h", "--help"):
        print(ply_usage())
        return
    if words[0] not in ACTIONS:
        raise UsageError(f"dyn4d ply {words[0]}: no such action{closest(words[0], ACTIONS)}")
    kind, act, _ = ACTIONS[words[0]]
    args = parse(kind, f"{name} {words[0]}", words[1:], kind())
    text, code = act(args, _progress(args))
    _say(text, args)
    if code:
        raise SystemExit(code)


def weights_command(name: str, words: Sequence[str]) -> None:
    args = parse(WeightsArgs, name, words, WeightsArgs())
    from dyn4d.weights_cli import weights_text

    print(weights_text(args.action, args.file, args.out))


def train_matcher_command(name: str, words: Sequence[str]) -> None:
    args = parse(TrainMatcherArgs, name, words, TrainMatcherArgs())
    from dyn4d.train_cli import TrainRequest, train_matcher_files

    request = TrainRequest(**{f.name: getattr(args, f.name) for f in fields(TrainRequest)})
    _say(train_matcher_files(request, _progress(args)), args)


def train_geometry_command(name: str, words: Sequence[str]) -> None:
    args = parse(TrainGeometryArgs, name, words, TrainGeometryArgs())
    from dyn4d.train_geometry_cli import GeometryRequest, train_geometry_files

    request = GeometryRequest(**{f.name: getattr(args, f.name) for f in fields(GeometryRequest)})
    _say(train_geometry_files(request, _progress(args)), args)


COMMANDS: dict[str, tuple[Callable[[str, Sequence[str]], None], str, str]] = {
    "demo": (demo_command, "[--out DIR]", "a procedural clip through the whole pipeline, no download"),
    "run": (run_command, "CLIP [--out DIR]", "a clip through the whole pipeline; called again, it goes on"),
    "prepare": (prepare_command, "CLIP --out RUN", "make a run, then one stage at a time:"),
    "geometry": (stage_command, "RUN", "  cameras, points and matches"),
    "deform": (stage_command, "RUN", "  the field that moves the object, and tracks"),
    "gaussians": (stage_command, "RUN", "  3D Gaussians, trained with the field"),
    "render": (stage_command, "RUN", "  pictures and videos"),
    "export": (stage_command, "RUN", "  player.html, per-frame PLYs, figures, report.html"),
    "eval": (eval_command, "RUN [--truth FOLDER]", "compare with ground truth, and with frames left out"),
    "status": (status_command, "RUN", "what is done, and what would run again and why"),
    "view": (view_command, "RUN", "look at it in a browser, while it is still going too"),
    "import": (import_command, "SOURCE --out CLIP", "a clip folder of a recording or data set in another format"),
    "check": (check_command, "CLIP", "what is wrong or risky in a clip, before hours are spent"),
    "match": (match_command, "A B [--mask-a FILE]", "matches of two pictures, and a picture of them"),
    "mask": (mask_command, "CLIP --box X0 Y0 X1 Y1", "masks of the object for every frame, and a page to correct them"),
    "ply": (ply_command, "ACTION FILE", "info, compare, convert, preview, crop, merge: Gaussians or points"),
    "weights": (weights_command, "info|convert FILE", "what is in a file of network weights; its conversion"),
    "train-matcher": (train_matcher_command, "--out FILE", "weights of a small matcher, from dyn4d's own pictures"),
    "train-geometry": (train_geometry_command, "--out FILE", "weights of a small pair network, from its own pictures"),
}


def usage() -> str:
    """The text of `dyn4d --help`."""
    lines = [
        "usage: dyn4d COMMAND ... [--debug]",
        "",
        "One video of a moving object in, the object in 4D out: 3D Gaussians that move.",
        "",
    ]
    lines += [f"  dyn4d {f'{name} {form}':32s}{text}" for name, (_, form, text) in COMMANDS.items()]
    lines += ["", "dyn4d COMMAND --help lists the options of a command. Exit codes: 0 done, 1 the run failed,"]
    return "\n".join([*lines, "2 bad input or usage, 130 stopped with Ctrl-C."])


# ----------------------------------------------------------------------------------------------- main


def _dispatch(words: Sequence[str]) -> None:
    if not words:
        raise UsageError(f"say what to do: dyn4d {' | '.join(COMMANDS)}; see dyn4d --help")
    if words[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if words[0] in ("-V", "--version"):
        print(f"dyn4d {__version__}")
        return
    if words[0] not in COMMANDS:
        raise UsageError(f"{words[0]}: no such command{closest(words[0], COMMANDS)}")
    COMMANDS[words[0]][0](words[0], words[1:])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(words)
    except SystemExit as stop:  # help was printed
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return _fail("stopped; run the same command to go on", 130, words)
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            sys.stdout.close()
        return 1
    except Dyn4DError as error:
        return _fail(describe_error(error), error.exit_code, words)
    except MemoryError:
        return _fail("out of memory; use fewer frames (--frames), smaller pictures (--max-size)", 1, words)
    except OSError as error:
        return _fail(describe_error(error), RunError.exit_code, words)
    except Exception as error:  # a fault of ours: still one line
        return _fail(f"internal error: {describe_error(error)} (--debug shows where)", RunError.exit_code, words)
    return 0


def _fail(text: str, code: int, words: Sequence[str]) -> int:
    if "--debug" in words:
        traceback.print_exc()
    print(f"dyn4d: {text.removeprefix('dyn4d ')}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
