"""What Colab ships is enough, nothing of it moves, and one address stands everywhere."""

from __future__ import annotations

import ast
import runpy
import shutil
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.test_colab import NOTEBOOKS, ROOT, setup_cell

RESOLVE, STAMP = (runpy.run_path(str(ROOT / ".ci" / f"{name}.py")) for name in ("resolve", "stamp"))
STOCK = ROOT / ".ci" / "colab-constraints.txt"


def wheel(folder: Path, name: str, version: str, needs: str = "") -> None:
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        info = f"{name}-{version}.dist-info"
        needs = f"Requires-Dist: {needs}\n" if needs else ""
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path) -> list[str]:
    """pip's options for an index of three packages, one of which Colab ships in its older version."""
    wheel(tmp_path, "shipped", "1.0")
    wheel(tmp_path, "shipped", "2.0")
    wheel(tmp_path, "modest", "1.0", "shipped>=1; python_version>='3.13'")
    wheel(tmp_path, "greedy", "1.0", "shipped>=2")
    (tmp_path / "stock.txt").write_text("# facts\nShipped==1.0\n")
    return ["--no-index", "--find-links", str(tmp_path), "--cache-dir", str(tmp_path / "cache")]


def test_requirement_that_goes_with_what_is_there_only_adds_itself(index, tmp_path):
    assert RESOLVE["added"]("modest\n", tmp_path / "stock.txt", *index) == ["modest==1.0"]


@pytest.mark.parametrize("requirement", ["shipped>=2", "greedy"])
def test_requirement_that_would_move_a_shipped_package_is_an_error_that_names_it(requirement, index, tmp_path):
    with pytest.raises(RuntimeError, match="shipped"):
        RESOLVE["added"](requirement, tmp_path / "stock.txt", *index)


def test_all_that_bonelib_imports_is_shipped_or_installed_by_the_setup_cell():
    there = set(RESOLVE["names"](STOCK.read_text()))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    optional = {line.split(">")[0] for lines in extras.values() for line in lines}
    sources = packages_distributions()
    for path in (ROOT / "bonelib").glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        used = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        used |= {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}
        for name in {u.split(".")[0] for u in used} - set(sys.stdlib_module_names) - {"bonelib", "google"}:
            given = {d.lower().replace("_", "-") for d in sources.get(name, [name])}
            assert given & (there | optional) or f'"{name}": "{name}"' in setup_cell(NOTEBOOKS[0]), (
                f"{path.name}: {name}"
            )


def test_badges_and_setup_cells_name_the_address_of_pyproject():
    [address] = STAMP["found"](ROOT / "pyproject.toml")
    for path in STAMP["files"]()[1:]:
        found = STAMP["found"](path)
        assert found == [address] * (len(NOTEBOOKS) if path.name == "README.md" else 2), path.name


def test_stamp_changes_the_address_everywhere_and_takes_nothing_but_an_address(tmp_path):
    for path in STAMP["files"]():
        (tmp_path / path.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    STAMP["stamp"]("some-one/bone.lib", tmp_path)
    for path in STAMP["files"](tmp_path):
        assert set(STAMP["found"](path)) == {"some-one/bone.lib"}, path.name
        old = (ROOT / path.relative_to(tmp_path)).read_text()
        assert len(path.read_text().splitlines()) == len(old.splitlines())
    with pytest.raises(SystemExit, match="expected owner/name"):
        STAMP["stamp"]("https://github.com/some-one/bonelib", tmp_path)
