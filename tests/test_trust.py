"""Nothing is let in and nothing let out: no pickle, no path outside, no markup, no network, no patient's name."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bonelib import catalog, checkpoint, images, model, plots, report, train
from bonelib.catalog import DataError
from bonelib.config import CLASSES, Config, ConfigError
from tests import trainee
from tests.apart import ROOT
from tests.whole import PATIENT


class Evil:
    """What leaves a trace where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "unpickled"


@pytest.fixture
def trained(tmp_path: Path) -> Config:
    """A finished run of seconds."""
    cfg = Config(**trainee.SETTINGS | {"epochs": 1}, run=str(tmp_path / "run"))
    train.train(cfg, *trainee.data(), cfg.root)
    return cfg


def read_all(cfg: Config) -> None:
    """Every way in which a run folder is read; errors are let pass, as long as they have words."""
    readers = [lambda: model.load(cfg.root / "model"), lambda: report.write(cfg.root)]
    for read in [*readers, lambda: train.train(cfg, *trainee.data(), cfg.root)]:
        try:
            read()
        except Exception as error:
            assert str(error)


def test_no_file_of_a_run_folder_is_unpickled(trained, mark, tmp_path):
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists()  # so it would be seen
    mark.unlink()
    kept = tmp_path / "kept"
    shutil.copytree(trained.root, kept)
    for path in sorted(p.relative_to(kept) for p in kept.rglob("*") if p.is_file()):
        shutil.rmtree(trained.root)
        shutil.copytree(kept, trained.root)
        (trained.root / path).write_bytes(pickle.dumps(Evil(mark)))
        if path.parent.name in ("last", "best"):  # and its hash is made to fit
            state = trained.root / path.parent / "state.json"
            if path.name != "state.json":
                facts = json.loads(state.read_text())
                facts["sha256"][path.name] = checkpoint._sha256(trained.root / path)
                state.write_text(json.dumps(facts))
        read_all(trained)
        assert not mark.exists(), path


def test_optimizer_with_more_than_numbers_is_refused_in_words(trained, mark):
    last = trained.root / "checkpoints" / "last"
    torch.save({"optimizer": Evil(mark), "scaler": None}, last / "optimizer.pt")
    with pytest.raises(ValueError, match="holds more than an optimiser's numbers, and is not read"):
        checkpoint.read_optimizer(last)
    assert not mark.exists()


@pytest.mark.parametrize(
    "planted", [{"checkpoint_path": "evil.pth"}, {"pretrained": True, "pretrained_cfg_overlay": {"file": "evil.pth"}}]
)
def test_model_config_cannot_name_a_file_to_unpickle(trained, planted, mark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Evil(mark)}, "evil.pth")
    path = trained.root / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"backbone_args": planted}))
    with pytest.raises(ConfigError, match="weights come from the setting weights"):
        model.load(trained.root / "model")
    with pytest.raises(ConfigError, match="weights come from the setting weights"):
        model.build(Config(**trainee.SETTINGS | {"backbone_args": planted}))
    assert not mark.exists()


@pytest.mark.parametrize("backbone", ["hf-hub:someone/evil", "local-dir:evil", "../evil"])
def test_model_config_cannot_fetch_an_architecture(trained, backbone):
    path = trained.root / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"backbone": backbone}))
    with pytest.raises(ConfigError, match="timm knows no such model"):
        model.load(trained.root / "model")


def test_no_file_of_a_cache_is_unpickled(tmp_path, mark):
    Image.new("L", (9, 9), 50).save(tmp_path / "a.png")
    whole = images.cache(tmp_path, ["a.png"], 32, tmp_path / "cache")[0].tolist()
    for path in [p for p in (tmp_path / "cache").iterdir() if p.name != "patient-salt"]:
        path.write_bytes(pickle.dumps(Evil(mark)))
        assert images.cache(tmp_path, ["a.png"], 32, tmp_path / "cache")[0].tolist() == whole and not mark.exists()
    array = next((tmp_path / "cache").glob("*.npy"))
    with array.open("wb") as file:  # an array of objects, as numpy itself would pickle it
        np.save(file, np.array([Evil(mark)], dtype=object), allow_pickle=True)
    assert images.cache(tmp_path, ["a.png"], 32, tmp_path / "cache")[0].tolist() == whole and not mark.exists()


@pytest.mark.parametrize(
    "path", ["{outside}/secret.png", "../secret.png", "Normal/../../secret.png", "link.png", "folder/secret.png"]
)
def test_paths_of_a_table_cannot_leave_its_folder(tmp_path, path):
    for label in CLASSES:
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.new("L", (30, 30)).save(tmp_path / "data" / label / "a.png")
    Image.new("L", (30, 30)).save(tmp_path / "secret.png")
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "data" / "folder").symlink_to(tmp_path)
    rows = {"path": [*(f"{c}/a.png" for c in CLASSES), path.format(outside=tmp_path)], "label": [*CLASSES, "Normal"]}
    pd.DataFrame(rows).to_csv(tmp_path / "data" / "list.csv", index=False)
    with pytest.raises(DataError, match="leaves the folder of the table"):
        catalog.catalog(Config(data=str(tmp_path / "data" / "list.csv"), cache=str(tmp_path / "cache")))


def test_importing_the_library_asks_the_network_for_nothing():
    code = """
import importlib, pkgutil, socket, sys
asked = []
def refuse(*args, **options):
    asked.append(args)
    raise OSError("no network here")
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
import bonelib
for module in pkgutil.iter_modules(bonelib.__path__):
    importlib.import_module(f"bonelib.{module.name}")
import time
time.sleep(0.5)  # for what asks in a thread
sys.exit(f"asked for {asked}" if asked else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_of_hostile_names_and_metadata_holds_no_foreign_markup(whole):
    page = Tags((whole.run / "report.html").read_text(encoding="utf-8"))
    assert not {"script", "iframe", "object", "embed", "link", "base", "form", "svg"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not [a for a in attributes if a.startswith("on") or a in ("srcdoc", "formaction")], (tag, attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,")), (tag, attributes)
    assert "onerror=alert(1)" in page.text  # it was put in, and stands there as text
    card = (whole.run / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "<img" not in card and "<script" not in card


def test_names_are_no_formulas_in_figures():
    pixels = np.zeros((1, 16, 16), np.uint8)
    assert plots.grid(pixels, ["$x$ $\\frac{ \n{evil}%s"])._repr_png_()


def test_patient_stands_nowhere_in_clear(whole):
    table = pd.read_csv(whole.run / "catalog.csv", keep_default_na=False)
    sheet = pd.read_csv(whole.data / "metadata.csv").set_index("image")
    ids = sheet["patient_id"].reindex(table["path"]).to_numpy()
    assert table["patient"].str.fullmatch("[0-9a-f]{16}").all() and all(i.startswith(PATIENT) for i in ids)
    assert (table.groupby("patient")["path"].count() > 1).any()
    assert (pd.factorize(table["patient"])[0] == pd.factorize(ids)[0]).all()  # who is whose is still known
    assert table[table["group"] != ""].groupby("patient")["group"].nunique().eq(1).all()
    assert not {"patient_id", "Patient Name", "birth_date", "MRN"} & set(table.columns) and "age" in table
    for path in [p for folder in (whole.run, whole.cache) for p in folder.rglob("*") if p.is_file()]:
        held = path.read_bytes()
        if path.suffix == ".png":
            with Image.open(path) as picture:
                held += str(picture.info).encode()
        for word in (PATIENT.encode(), b"Doe^Jane", b"1950-04-07"):
            assert word not in held, (path, word)


def test_secret_of_the_hashes_is_for_its_owner_alone(whole):
    salt = whole.cache / "patient-salt"
    assert salt.stat().st_mode & 0o077 == 0 and len(salt.read_bytes()) == 32
    assert not [p for p in whole.run.rglob("*") if p.is_file() and salt.read_bytes() in p.read_bytes()]
