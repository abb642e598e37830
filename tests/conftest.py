"""What several tests share: a tiny sample, its audited table, and the real sets where they are at hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bonelib import audit, catalog, sample
from bonelib.config import Config
from tests.whole import Whole, run

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 synthetic radiographs with their planted defects."""
    return sample.make(tmp_path_factory.mktemp("tiny"), images=60)


@pytest.fixture
def cfg(tiny: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Settings of a run of seconds on `tiny`, its decoded cache shared by all tests."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    return Config.load(
        {}, data=str(tiny), run=str(tmp_path / "run"), cache=str(cache), smoke=True, backbone="test_efficientnet"
    )


@pytest.fixture(scope="session")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Settings of a run that holds a trained and calibrated model; for tests that leave it as it is."""
    from bonelib import series

    base = tmp_path_factory.getbasetemp()
    out = Config.load(
        {},
        data=str(tiny),
        run=str(base / "trained"),
        cache=str(base / "cache"),
        smoke=True,
        backbone="test_efficientnet",
    )
    series.calibrated(out)
    return out


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The series on hostile data, each of its notebooks first cut off by Ctrl-C."""
    return run(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and weights beside the checkout, which the project never needs."""
    if not SHARED.is_dir():
        pytest.skip(f"no real images at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], tuple[pd.DataFrame, dict[str, Any]]]:
    """A folder's audited table and findings, made once for all tests that ask: `audited(folder)`."""

    @functools.cache
    def of(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
        cfg = Config(data=str(folder), cache=str(tmp_path_factory.getbasetemp() / "cache"))
        table, thumbs, root = catalog.catalog(cfg)
        return audit.audit(table, thumbs, cfg, root)

    return of
