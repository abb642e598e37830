"""A leak and a shortcut, each forced through the whole series, end in the report's verdict."""

import runpy
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from bonelib import images, sample, series
from bonelib.config import CLASSES, Config

EVALUATE = Path(__file__).parents[1] / "notebooks" / "04_evaluate.py"


def planted(data: Path, tiny: Path, copies: bool = False, mark: bool = False) -> Path:
    """The sample's good pictures, with a brighter mirrored copy of each third, or a mark in a corner of each class."""
    doubtful = set(pd.read_json(tiny / "planted.json")["path"])
    good = [p for p in sorted(tiny.glob("*/*.*g")) if p.relative_to(tiny).as_posix() not in doubtful]
    for i, path in enumerate(good):
        label = CLASSES[sample.FOLDERS.index(path.parent.name)]
        picture = images.read(path).copy()
        h, w = picture.shape
        top, left = {"Normal": (0, 0), "Osteopenia": (0, w - w // 8), "Osteoporosis": (h - h // 8, 0)}[label]
        if mark:
            picture[top : top + h // 8, left : left + w // 8] = 255
        (data / label).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(data / label / f"{i}.png"), picture)
        if copies and i % 3 == 0:
            cv2.imwrite(str(data / label / f"{i}x.png"), np.clip(1.2 * picture[:, ::-1] + 10, 0, 255).astype(np.uint8))
    return data


def evaluated(cfg: Config, data: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """04_evaluate as it is, which makes all that an empty run folder lacks: the alarms of the report, and the model card."""
    given = {"data": data, "run": cfg.run, "cache": cfg.cache, "smoke": 1, "backbone": cfg.backbone, "epochs": 1}
    for name, value in given.items():
        monkeypatch.setenv(f"BONELIB_{name.upper()}", str(value))
    runpy.run_path(str(EVALUATE))
    page, card = ((cfg.root / name).read_text("utf-8") for name in ("report.html", "MODEL_CARD.md"))
    return "\n".join(line for line in page.split("</p>") if 'class="alarm"' in line), card


def test_copies_that_a_meddled_catalog_parts_are_called_a_leak(cfg, tiny, tmp_path, monkeypatch):
    data = planted(tmp_path / "data", tiny, copies=True)
    series.audited(Config.load({}, data=str(data), run=cfg.run, cache=cfg.cache, smoke=True))
    table = pd.read_csv(cfg.root / "catalog.csv")
    assert table["issues"].eq("copy").sum() == table["path"].str.endswith("x.png").sum() > 15
    table.assign(issues="", group=table["path"]).to_csv(cfg.root / "catalog.csv", index=False)
    alarms, card = evaluated(cfg, data, monkeypatch)
    for words in ("clusters of copies that the audit found", "pictures that are one picture when compared again"):
        assert words in alarms and words in card
    assert "Shortcut: the corners" not in alarms


def test_a_mark_in_the_corner_of_each_class_is_called_a_shortcut(cfg, tiny, tmp_path, monkeypatch):
    alarms, card = evaluated(cfg, planted(tmp_path / "data", tiny, mark=True), monkeypatch)
    assert "Shortcut: the corners of the images alone" in alarms and "Shortcut: the corners" in card
    assert "Leak" not in alarms
