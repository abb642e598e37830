"""What Colab ships is enough, nothing of it changes, and one address is used everywhere."""

from __future__ import annotations

import ast
import runpy
import shutil
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
STOCK = ROOT / ".ci" / "colab" / "newest.txt"
RESOLVE = runpy.run_path(str(ROOT / ".ci" / "resolve.py"))
STAMP = runpy.run_path(str(ROOT / ".ci" / "stamp.py"))


def make_wheel(folder: Path, name: str, version: str, needs: str = "") -> None:
    info = f"{name}-{version}.dist-info"
    facts = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    facts += f"Requires-Dist: {needs}\n" if needs else ""
    kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", facts)
        file.writestr(f"{info}/WHEEL", kind)
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path) -> list[str]:
    """Options for an index of three packages, one of which Colab ships in its older version."""
    make_wheel(tmp_path, "shipped", "1.0")
    make_wheel(tmp_path, "shipped", "2.0")
    make_wheel(tmp_path, "modest", "1.0", "shipped>=1; python_version>='3.13'")
    make_wheel(tmp_path, "greedy", "1.0", "shipped>=2")
    (tmp_path / "stock.txt").write_text("# facts, Python 3.13\nShipped==1.0\n")
    return ["--no-index", "--find-links", str(tmp_path), "--cache-dir", str(tmp_path / "cache")]


def test_requirement_that_fits_adds_only_itself(index, tmp_path):
    assert RESOLVE["added"]("modest\n", tmp_path / "stock.txt", *index) == ["modest==1.0"]


@pytest.mark.parametrize("requirement", ["shipped>=2", "greedy"])
def test_requirement_that_changes_a_shipped_package_is_an_error_that_names_it(
    requirement, index, tmp_path
):
    with pytest.raises(RuntimeError, match="shipped"):
        RESOLVE["added"](requirement, tmp_path / "stock.txt", *index)


def installed_by_setup_cell(notebook: Path) -> set[str]:
    """The packages by name that the second cell hands to pip, besides bonelib itself."""
    cell = jupytext.read(notebook)["cells"][1].source
    (command,) = [
        node.value
        for node in ast.walk(ast.parse(cell))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pip"
    ]
    words = [item.value for item in command.elts if isinstance(item, ast.Constant)]
    assert words[:2] == ["-m", "pip"] and "--no-deps" in words
    return {word for word in words[3:] if not word.startswith("-")}


def imported_packages(path: Path) -> set[str]:
    """The first name of everything that a module imports, without the standard library."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"bonelib"}


def test_all_that_bonelib_imports_is_shipped_or_installed_by_the_setup_cell():
    shipped = set(RESOLVE["names"](STOCK.read_text()))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    export = {line.split(">")[0] for line in project["optional-dependencies"]["export"]}
    known = shipped | export | installed_by_setup_cell(NOTEBOOKS[0])
    distributions = packages_distributions()
    modules = [*(ROOT / "bonelib").rglob("*.py"), *NOTEBOOKS]
    assert len(modules) > 45
    for path in modules:
        for name in imported_packages(path):
            given = {d.lower().replace("_", "-") for d in distributions.get(name, [name])}
            assert given & known, f"{path.relative_to(ROOT)} imports {name}"


def test_all_that_bonelib_imports_is_a_requirement():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["export"]
    required = {line.split(">")[0].split("=")[0].strip() for line in lines}
    listed = (ROOT / "requirements.txt").read_text().splitlines()
    assert required <= {line.split(">")[0].split("#")[0].strip() for line in listed}
    distributions = packages_distributions()
    for path in (ROOT / "bonelib").rglob("*.py"):
        # a notebook brings IPython; the model hub's client comes with timm
        for name in imported_packages(path) - {"IPython", "huggingface_hub"}:
            given = {d.lower().replace("_", "-") for d in distributions.get(name, [name])}
            assert given & required, f"{path.relative_to(ROOT)} imports {name}"


def test_badges_and_setup_cells_name_the_address_of_pyproject():
    (address,) = STAMP["found"](ROOT / "pyproject.toml")
    for path in STAMP["files"]()[1:]:
        expected = len(NOTEBOOKS) if path.name == "README.md" else 2
        assert STAMP["found"](path) == [address] * expected, path.name


def test_stamp_changes_the_address_everywhere_and_accepts_only_an_address(tmp_path):
    for path in STAMP["files"]():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    STAMP["stamp"]("some-one/bone.lib", tmp_path)
    for path in STAMP["files"](tmp_path):
        assert set(STAMP["found"](path)) == {"some-one/bone.lib"}, path.name
        before = (ROOT / path.relative_to(tmp_path)).read_text()
        assert len(path.read_text().splitlines()) == len(before.splitlines())
    with pytest.raises(SystemExit, match="expected owner/name"):
        STAMP["stamp"]("https://github.com/some-one/bonelib", tmp_path)
