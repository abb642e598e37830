"""What several tests share: a tiny sample, a finished run on it, and the real sets if present."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # each of the processes that share the cores computes on one
    os.environ["OMP_NUM_THREADS"] = "1"

from bonelib.config import Config
from bonelib.data.sample import make_sample

# Files whose tests take longest come first: two processes then end at about the same time.
SLOW_FILES = ("test_whole", "test_faults", "test_scale", "test_copies", "test_benchmarks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in SLOW_FILES)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 synthetic radiographs with their planted defects."""
    return make_sample(tmp_path_factory.mktemp("tiny"), images=60)


@pytest.fixture
def cfg(tiny: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Settings of a run of seconds on `tiny`, its decoded cache shared by all tests."""
    return settings(tiny, tmp_path / "run", tmp_path_factory.getbasetemp() / "cache")


@pytest.fixture(scope="session")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Settings of a run that holds a trained and calibrated model; tests must not change it."""
    from bonelib import scoring

    base = tmp_path_factory.getbasetemp()
    cfg = settings(tiny, base / "trained", base / "cache")
    scoring.calibrated_models(cfg)
    return cfg


@pytest.fixture(scope="session")
def real() -> Path:
    """A folder with `data/` and `weights/`: real images, which the project never needs."""
    folder = Path(os.environ.get("BONELIB_REAL", "")).resolve()
    if "BONELIB_REAL" not in os.environ or not (folder / "data").is_dir():
        pytest.skip("no real images: BONELIB_REAL names no folder with data/ and weights/")
    return folder


@pytest.fixture(scope="session")
def audited(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Path], tuple[pd.DataFrame, dict[str, Any]]]:
    """A folder's audited table and audit, made once for all tests: `audited(folder)`."""
    from bonelib.audit.audit import audit
    from bonelib.data.catalog import load_catalog

    @functools.cache
    def of(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
        cfg = Config(data=str(folder), cache=str(tmp_path_factory.getbasetemp() / "cache"))
        return audit(load_catalog(cfg), cfg)

    return of


def settings(data: Path, run: Path, cache: Path) -> Config:
    return Config.load(
        {}, data=str(data), run=str(run), cache=str(cache), smoke=True, backbone="test_efficientnet"
    )
