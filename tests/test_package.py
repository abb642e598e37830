"""The package is light to import, and the notebooks have one form."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))


def test_import_is_light():
    code = "import sys, bonelib, bonelib.config; assert not {'torch', 'timm', 'cv2', 'pandas', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_notebook_opens_with_title_badge_question_cost_setup_and_settings(script):
    text = script.read_text()
    parts = ["# # ", f"notebooks/{script.stem}.ipynb", "This notebook", "## Setup", "## Settings", "@title Settings"]
    at = [text.index(p) for p in parts]
    assert at == sorted(at)
    assert "not for diagnosis" in text and "## Where to go from here" in text
    assert 20 <= text.count("\n# %%") <= 45


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_notebook_defines_no_class_and_no_long_loop(script):
    for node in ast.walk(ast.parse(script.read_text())):
        assert not isinstance(node, ast.ClassDef)
        if isinstance(node, (ast.For, ast.While, ast.FunctionDef)):
            assert node.end_lineno - node.lineno < 15


def test_rooms_call_each_other_as_the_house_says():
    forbidden = {"train": {"predict"}, "predict": {"train"}, "plots": {"model", "train", "predict"}, "config": set()}
    for path in (ROOT / "bonelib").glob("*.py"):
        used = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "bonelib":
                used |= {a.name for a in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bonelib."):
                used.add(node.module.split(".")[1])
        assert not used & forbidden.get(path.stem, set()), path.stem
        assert path.stem != "config" or not used
