"""The deformation field's speed: our kernels beside the same splines in plain torch and the published network.

    python benchmarks/coupling.py [--points 16000] [--repeats 7]

One time, all points, as in a training step. Contenders take turns; a figure is the median over the turns. `published`
is the field of MoDGS with its four layers of 256 hidden units, whose Jacobian is the identity.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from dyn4d.deformation.field import FieldShape, TrajectoryField
from dyn4d.deformation.published_field import PublishedField, PublishedShape
from dyn4d.deformation.root import RootMotion
from dyn4d.deformation.splines import Layout, couple_reference


def contenders(count: int) -> dict[str, Callable[[], None]]:
    generator = torch.Generator().manual_seed(0)
    shape = FieldShape(layers=6, cells=64, time_features=32, input_scale=20.0, knots=48)
    root = RootMotion.still(torch.linspace(0, 1, 48))
    field = TrajectoryField(shape, root=root, centre=torch.zeros(3), half_size=1.0)
    with torch.no_grad():
        for table in field.stack.tables[:3]:
            table.normal_(0, 0.01, generator=generator)
    published = PublishedField(PublishedShape(order=(0, 1, 2, 0)), centre=torch.zeros(3), half_size=1.0)
    points = (2 * torch.rand(count, 3, generator=generator) - 1).requires_grad_(True)
    layout = Layout.of([0], [count], 1)

    def torch_splines(*, gradient: bool) -> None:
        planes = field.stack.planes(field.time_code(torch.tensor([0.3])))
        moved, _ = couple_reference(points, planes, layout, jacobian=not gradient)
        if gradient:
            moved.sum().backward()

    def quiet(work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad():
                work()

        return run

    return {
        "ours: forward": quiet(lambda: field.from_canonical(points, 0.3)),
        "ours: forward and Jacobian": quiet(lambda: field.motion(points, 0.3)),
        "ours: forward and gradients": lambda: field.from_canonical(points, 0.3).sum().backward(),
        "ours: and back (inverse)": quiet(lambda: field.to_canonical(points, 0.3)),
        "torch splines: forward and Jacobian": quiet(lambda: torch_splines(gradient=False)),
        "torch splines: forward and gradients": lambda: torch_splines(gradient=True),
        "published: forward": quiet(lambda: published.from_canonical(points, 0.3)),
        "published: forward and gradients": lambda: published.from_canonical(points, 0.3).sum().backward(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=16_000)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    work = contenders(given.points)
    taken: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(given.repeats + 1):
        for name, run in work.items():
            begin = time.perf_counter()
            run()
            if turn:  # the first turn warms up
                taken[name].append(1000 * (time.perf_counter() - begin))
    print(f"| {given.points} points, {torch.get_num_threads()} threads | ms |\n| --- | --- |")
    for name, times in taken.items():
        print(f"| {name} | {statistics.median(times):.1f} |")


if __name__ == "__main__":
    main()
