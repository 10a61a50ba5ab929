"""`dyn4d status`: the state of a run as text."""

from __future__ import annotations

from collections.abc import Sequence

from dyn4d.runner import Planned
from dyn4d.runs import RunState

WORDS = {"done": "done", "absent": "to do", "partial": "stopped", "changed": "changed"}


def format_status(plan: Sequence[Planned], state: RunState) -> str:
    """One line a stage: what is so, the seconds it took so far, what the next run would do with it and why."""
    lines = [f"{state.run.root}"]
    total = 0.0
    for one in plan:
        entry = state.data["stages"].get(one.stage.name, {})
        seconds = float(entry.get("seconds") or 0)
        total += seconds
        word = WORDS[one.status]
        if one.status == "absent" and entry.get("state") == "failed":
            word = "failed"
        lines.append(f"  {one.stage.name:10s} {word:8s} {seconds:8.1f} s  {_next(one)}")
        if entry.get("state") == "failed" and one.status != "done" and entry.get("error"):
            lines.append(f"             last error: {entry['error']}")
    lines.append(f"  {'':10s} {'':8s} {total:8.1f} s")
    lines += [f"  warning ({w['stage']}): {w['text']}" for w in state.data["warnings"]]
    return "\n".join(lines)


def _next(one: Planned) -> str:
    if one.status == "done":
        return "would be skipped"
    if one.status == "changed":
        return f"would run again with --overwrite: {one.reason}"
    return f"would run: {one.reason}"
