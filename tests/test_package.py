"""The package is light to import, complete in its wheel, and its imports go one way."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "bonelib").rglob("*.py"))
# From the first layer to the last: a module imports only from earlier lines, or its own.
LAYERS = [
    {"messages"},
    {"parsing"},
    {"config", "storage"},
    {"run_copy", "data"},
    {"split", "augment"},
    {"training"},
    {"evaluation"},
    {"audit", "plots"},
    {"report"},
    {"prediction"},
    {"pipeline"},
    {"scoring", "external"},
    {"display"},
    {"colab"},
]
IMPORT_ALL = """
import importlib, pkgutil, sys
for name in {hidden!r}:
    sys.modules[name] = None
import bonelib
names = [module.name for module in pkgutil.walk_packages(bonelib.__path__, "bonelib.")]
for name in names:
    importlib.import_module(name)
print(len(names), bonelib.__file__)
"""


def imports(path: Path) -> set[str]:
    """The bonelib modules that a module imports, without the package's own name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bonelib."):
            found.add(node.module.removeprefix("bonelib."))
        elif isinstance(node, ast.ImportFrom) and node.module == "bonelib":
            found |= {alias.name for alias in node.names}
    return found


def layer(module: str) -> int:
    top = module.split(".")[0]
    return next(number for number, names in enumerate(LAYERS) if top in names)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "bonelib").with_suffix("").parts)


def test_import_is_light():
    heavy = {"torch", "timm", "cv2", "pandas", "sklearn", "matplotlib", "gradio"}
    code = f"import sys, bonelib, bonelib.config; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("path", [p for p in MODULES if p.stem != "__init__"], ids=name_of)
def test_imports_go_from_later_layers_to_earlier_ones(path):
    own = name_of(path).split(".")[0]
    for module in imports(path):
        assert module.split(".")[0] == own or layer(module) < layer(own), module


def test_there_are_no_import_cycles():
    graph = {}
    for path in MODULES:
        names = {name_of(other) for other in MODULES}
        graph[name_of(path)] = {name for name in imports(path) if name in names}
    while graph:
        leaves = {name for name, used in graph.items() if not used & set(graph)}
        assert leaves, f"a cycle among {sorted(graph)}"
        graph = {name: used for name, used in graph.items() if name not in leaves}


def test_public_names_mean_one_thing_in_the_package():
    found = Counter()
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found[node.name] += 1
            elif isinstance(node, ast.Assign):
                found.update(t.id for t in node.targets if isinstance(t, ast.Name))
    repeated = {name for name, count in found.items() if count > 1 and not name.startswith("_")}
    # aliases of array types
    assert not repeated - {"Array", "Floats", "Ints", "Images", "Pixels"}


def test_package_stays_small_enough_to_read():
    pragmas = 0
    for path in MODULES:
        text = path.read_text()
        lines = text.splitlines()
        pragmas += text.count("fmt: ")
        assert len(lines) <= 220, path
        assert max(map(len, lines), default=0) <= 100, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                longest = 110 if node.name == "fit" else 40
                assert node.end_lineno - node.lineno < longest, f"{path}: {node.name}"
    assert pragmas <= 3


def test_every_module_imports_without_posix_only_modules():
    hidden = ["fcntl", "resource", "pwd", "grp", "termios"]
    code = IMPORT_ALL.format(hidden=hidden)
    # other libraries may need one of them on this system: import these first
    first = "import torch, gradio, pandas, matplotlib.pyplot, accelerate, torch.distributed\n"
    subprocess.run([sys.executable, "-c", first + code], check=True, cwd=ROOT)


def test_wheel_holds_every_module_and_template_and_imports(tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = [
        p for p in (ROOT / "bonelib").rglob("*") if p.suffix in (".py", ".j2", ".csv", ".mplstyle")
    ]
    assert {p.relative_to(ROOT).as_posix() for p in sources} <= names
    target = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    code = f"import sys; sys.path.insert(0, {str(target)!r})\n" + IMPORT_ALL.format(hidden=[])
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert str(target) in done.stdout
