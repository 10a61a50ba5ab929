"""The import rule: a module imports only from its own package or a lower layer (docs: layers)."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "dyn4d"
LAYERS = {
    "core": 0,
    "io": 1, "raster": 1,
    "matching": 2, "geometry": 2, "deformation": 2, "gaussians": 2, "synthetic": 2,
    "segmentation": 2,
    "export": 3, "training": 3,
    "top": 4,  # pipeline, runner, runs, config ...: modules directly in dyn4d/
    "cli": 5, "__main__": 6,
}  # fmt: skip
SIDEWAYS = {("geometry", "matching"), ("segmentation", "matching")}
ONE_HOME = {  # third-party packages that exactly one module may import
    "roma": "core/rotations.py",
    "tyro": "cli_parse.py",
    "skimage": "geometry/marching.py",
    "pygltflib": "io/glb.py",
    "pxr": "export/usd.py",
    "fourdgs": "export/fourdgs_file.py",
    "viser": "export/viewer.py",
    "rosbags": "io/importers/realsense.py",
    "fast_simplification": "export/moving_mesh.py",
}


def group(module: str) -> str:
    """`dyn4d.io.ply` -> io; `dyn4d.runner` -> top; `dyn4d` itself -> core (it holds the version)."""
    parts = module.split(".")
    if len(parts) == 1:
        return "core"
    return parts[1] if parts[1] in LAYERS else "top"


@functools.cache
def imports(path: Path) -> list[str]:
    """All modules that a file names in import statements, also inside functions and for type checkers only."""
    package = ["dyn4d", *path.relative_to(ROOT).parent.parts]
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [f"{module}.{alias.name}" for alias in node.names] if module == "dyn4d" else [module]
    return found


def violations(source: str, targets: list[str]) -> list[str]:
    own = group(source)
    out = []
    for target in targets:
        if target.split(".")[0] != "dyn4d" or target == "dyn4d.__version__":
            continue
        other = group(target)
        if other != own and LAYERS[other] >= LAYERS[own] and (own, other) not in SIDEWAYS:
            out.append(f"{source} (layer {own}) imports {target} (layer {other})")
    return out


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = list(path.relative_to(ROOT.parent).with_suffix("").parts)
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def test_modules_import_only_downwards() -> None:
    broken = [line for name, path in modules() for line in violations(name, imports(path))]
    assert not broken, "\n".join(broken)


def test_every_package_has_a_layer() -> None:
    packages = {p.name for p in ROOT.iterdir() if p.is_dir() and list(p.glob("*.py"))}
    assert packages <= set(LAYERS), packages - set(LAYERS)


@pytest.mark.parametrize(("package", "home"), sorted(ONE_HOME.items()))
def test_packages_with_one_home(package: str, home: str) -> None:
    users = [p.relative_to(ROOT).as_posix() for _, p in modules() if package in {i.split(".")[0] for i in imports(p)}]
    assert users in ([home], [])


def test_only_the_command_line_prints() -> None:
    talkers = []
    for name, path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                talkers.append(name)
    assert set(talkers) <= {"dyn4d.cli", "dyn4d.progress"}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("dyn4d.core.types", "dyn4d.io.ply"),
        ("dyn4d.io.ply", "dyn4d.raster"),
        ("dyn4d.matching.flow", "dyn4d.geometry.lift"),
        ("dyn4d.gaussians.init", "dyn4d.deformation.field"),
        ("dyn4d.deformation.fit", "dyn4d.gaussians.model"),
        ("dyn4d.export.run", "dyn4d.runner"),
        ("dyn4d.pipeline", "dyn4d.cli"),
    ],
)
def test_the_rule_can_be_broken(source: str, target: str) -> None:
    assert violations(source, [target])


def test_the_rule_allows_what_it_should() -> None:
    assert not violations("dyn4d.geometry.lift", ["dyn4d.matching.flow", "dyn4d.geometry.rgbd", "dyn4d.core.types"])
    assert not violations("dyn4d.cli", ["dyn4d.pipeline", "torch", "dyn4d.export.evaluate"])
