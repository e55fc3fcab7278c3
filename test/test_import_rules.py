"""Who may import what: the layers of the package, checked in the source of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "fassst_ros"
MODULES = sorted(PACKAGE.rglob("*.py"))

ROS = ("rclpy", "fassst_ros.ros", "fassst_ros.msg", "ament_index_python", "cv_bridge", "launch")
#: part of the package -> what it must not import anywhere, and the modules that are excepted.
FORBIDDEN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "": (ROS, ("ros",)),
    "types.py": (("torch",), ()),
    "card.py": (("torch",), ()),
    "config.py": (("torch",), ()),
    "models.py": (("torch",), ()),
    "preprocess.py": (("torch",), ()),
    "postprocess.py": (("torch",), ()),
    "pipeline.py": (("torch",), ()),
    "overlay.py": (("torch",), ()),
    "ros": (("torch", "fassst_ros.networks", "fassst_ros.training"), ()),
    "runtimes": (("torch", "fassst_ros.networks"), ("runtimes/torch_runtime.py",)),
    "networks": (("cv2", "fassst_ros.runtimes", "fassst_ros.pipeline", "onnxruntime", "openvino"), ()),
    "evaluation": (("torch", "fassst_ros.networks"), ()),
    "replay": (("torch", "fassst_ros.networks", "fassst_ros.training"), ()),
}
#: Slow to import or not installed everywhere: inside functions only, in these parts.
HEAVY = ("torch", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "onnx", "rosbags", "rich", "scipy")
LIGHT = (
    "cli.py",
    "runtimes",
    "models.py",
    "pipeline.py",
    "predict.py",
    "bench",
    "bag.py",
    "bag_open.py",
    "bag_rescue.py",
    "replay",
    "export.py",
)


def parts(name: str) -> list[Path]:
    path = PACKAGE / name
    return [path] if path.is_file() else [m for m in MODULES if path in m.parents]


def imports(node: ast.AST, top_only: bool = False) -> Iterator[tuple[str, int]]:
    """Names that are imported under `node` with their lines; top_only: at import of the module."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child.module or "", child.lineno
            yield from ((f"{child.module}.{alias.name}", child.lineno) for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        elif not (top_only and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))):
            yield from imports(child, top_only)


def matches(name: str, forbidden: tuple[str, ...]) -> bool:
    is_message = name.split(".")[0].endswith(("_msgs", "_srvs", "_interfaces"))
    return any(name == f or name.startswith(f + ".") for f in forbidden) or (forbidden == ROS and is_message)


def violations(part: str, forbidden: tuple[str, ...], excepted: tuple[str, ...] = ()) -> list[str]:
    found = set()
    for path in parts(part):
        relative = path.relative_to(PACKAGE).as_posix()
        if any(relative == e or relative.startswith(e + "/") for e in excepted):
            continue
        for name, line in imports(ast.parse(path.read_text(encoding="utf-8")), top_only=forbidden == HEAVY):
            if matches(name, forbidden):
                found.add(f"fassst_ros/{relative}:{line} imports {name}")
    return sorted(found)


def test_rules_see_the_package() -> None:
    assert violations("ros", ROS), "fassst_ros/ros must be seen to import rclpy, or these tests see nothing"
    assert violations("runtimes", ("torch",)), "torch_runtime must be seen to import torch"
    for part in (*FORBIDDEN, *LIGHT):
        assert parts(part), f"{part} is in a rule but not in the package"


@pytest.mark.parametrize("part", FORBIDDEN)
def test_layers(part: str) -> None:
    forbidden, excepted = FORBIDDEN[part]
    assert violations(part, forbidden, excepted) == []


@pytest.mark.parametrize("part", LIGHT)
def test_heavy_imports_are_inside_functions(part: str) -> None:
    assert violations(part, HEAVY, ("runtimes/torch_runtime.py",)) == []


def test_relative_imports_are_not_used() -> None:
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        levels = [node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not any(levels), f"{path}: relative imports would pass the other tests unseen"


@pytest.mark.parametrize("name", ["", ".pipeline", ".runtimes", ".cli", ".replay.command"])
def test_importing_is_cheap(name: str) -> None:
    module = f"fassst_ros{name}"
    heavy = ("torch", "onnxruntime", "openvino", "tensorrt", "rclpy", "onnx", "scipy")
    code = f"import sys, {module}; print(*[m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [], f"import {module} imports {run.stdout}"


def test_the_package_itself_imports_nothing() -> None:
    assert list(imports(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")))) == []
