"""No pickle is read, no network is asked, no markup passes, and no patient is named."""

from __future__ import annotations

import contextlib
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bonelib import scoring
from bonelib.config import Config
from bonelib.data.cache import cached_images
from bonelib.data.metadata import join
from bonelib.prediction.answers import load_models
from bonelib.report.report import write_report
from bonelib.training import loop
from tests.builders import finished_run, image_folder
from tests.training.trainee import training_fold

ROOT = Path(__file__).parents[1]


class Evil:
    """What leaves a trace where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The path of the trace, shown to appear where `Evil` is unpickled."""
    path = tmp_path / "unpickled"
    pickle.loads(pickle.dumps(Evil(path)))
    path.unlink()
    return path


def test_no_file_of_a_run_folder_is_unpickled(mark, tmp_path):
    run, kept = tmp_path / "runs" / "run", tmp_path / "kept"
    finished_run(run)
    fold = training_fold(run, epochs=1)
    loop.fit(fold)
    write_report(run)
    shutil.copytree(run, kept)
    readers = [
        *(lambda: load_models(run), lambda: scoring.compare_runs(run.parent)),
        *(lambda: write_report(run), lambda: loop.fit(fold)),
    ]
    names = sorted(path.relative_to(kept) for path in kept.rglob("*") if path.is_file())
    assert len(names) > 15
    for name in names:
        shutil.rmtree(run)
        shutil.copytree(kept, run)
        (run / name).write_bytes(pickle.dumps(Evil(mark)))
        for read in readers:
            # any error is better than a trace
            with contextlib.suppress(Exception):
                read()
            assert not mark.exists(), name


def test_no_file_of_a_cache_is_unpickled(tmp_path, mark):
    image_folder(tmp_path, "a.png")
    cache = tmp_path / "cache"
    images = cached_images(tmp_path, ["a.png"], 32, cache)[0].tolist()
    names = [path for path in cache.iterdir() if path.name != "patient-salt"]
    assert {path.suffix for path in names} == {".npy", ".json"}
    for path in names:
        path.write_bytes(pickle.dumps(Evil(mark)))
        assert cached_images(tmp_path, ["a.png"], 32, cache)[0].tolist() == images
        assert not mark.exists()
    # an array of objects, as numpy itself pickles it
    with next(cache.glob("*.npy")).open("wb") as file:
        np.save(file, np.array([Evil(mark)], dtype=object), allow_pickle=True)
    assert cached_images(tmp_path, ["a.png"], 32, cache)[0].tolist() == images
    assert not mark.exists()


def test_importing_the_package_asks_the_network_for_nothing():
    code = """
import importlib, pkgutil, socket, sys, time
asked = []
def refuse(*args, **options):
    asked.append(args)
    raise OSError("no network here")
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
import bonelib
modules = list(pkgutil.walk_packages(bonelib.__path__, "bonelib."))
for module in modules:
    importlib.import_module(module.name)
assert len(modules) > 40
# some libraries ask in a thread
time.sleep(0.5)
sys.exit(f"asked for {asked}" if asked else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_first_column_of_patients_decides_who_is_who(tmp_path):
    table = pd.DataFrame({"path": ["a.png", "b.png", "c.png"], "patient": ""})
    own = pd.DataFrame({"patient_id": ["7", "7", ""], "MRN": ["x", "y", "z"]})
    joined, _ = join(table, own, tmp_path, Config(cache=str(tmp_path)), [])
    first, second, third = joined["patient"]
    assert first == second != third
