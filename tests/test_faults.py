"""What breaks around a run: full disks, changing data, torn caches, kills, Ctrl-C. Each ends in a sentence, and nothing is lost."""

from __future__ import annotations

import ctypes
import hashlib
import multiprocessing
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bonelib import archive, artifact, catalog, dicom, images, loader, model, report, series, split, train
from bonelib.artifact import ArtifactError
from bonelib.catalog import DataError
from bonelib.config import CLASSES, Config
from bonelib.images import CacheError
from tests import trainee
from tests.apart import Apart, hold
from tests.whole import STAGES

PATH = ["epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_f1"]


def training(run: Path, **settings: object) -> Config:
    return replace(Config(**trainee.SETTINGS), run=str(run), **settings)


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """Settings of a run of seconds on eight noisy pictures a class, its own to be spoilt."""
    draw = np.random.default_rng(0)
    for label in CLASSES:
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(draw.integers(0, 255, (40, 50), np.uint8)).save(tmp_path / "data" / label / f"{i}.png")
    folders = {name: str(tmp_path / name) for name in ("data", "run", "cache")}
    return Config(**folders, backbone="test_efficientnet", pretrained=False, image_size=32)


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_ends_every_stage_at_once_and_the_rerun_goes_on(whole, stage):
    code, said = whole.cut[stage]
    assert code == 1 and "\nKeyboardInterrupt" in said
    assert len(list(whole.run.glob(STAGES[stage][2]))) == 1
    assert not [p for p in whole.folder.rglob("*") if ".part" in p.name or p.suffix == ".tmp"]
    assert stage != "03_train" or "going on after epoch 1 of" in whole.again[stage]


def space(kind: str, folder: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    """Two functions that take the room on the disk of `folder`, and give it back: a small disk really, or a limit."""
    folder.mkdir()
    if kind == "limit":
        limits = [(20_000, resource.RLIM_INFINITY), (resource.RLIM_INFINITY, resource.RLIM_INFINITY)]
        full, free = (lambda at=at: resource.setrlimit(resource.RLIMIT_FSIZE, at) for at in limits)
        return full, free
    libc = ctypes.CDLL(None)
    if libc.unshare(0x20000) or libc.mount(b"none", b"/", None, 0x44000, None):
        os._exit(77)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=64m"):
        os._exit(77)

    def fill() -> None:
        with (folder / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 14))
            except OSError:
                os.truncate(folder / "filler", file.tell() - (1 << 15))

    return fill, (folder / "filler").unlink


def full_disk(kind: str, folder: Path) -> None:
    """Fill the disk before each kind of result is written; see that it is told and nothing lost; make room and go on."""
    fill, free = space(kind, folder)
    for i in range(40):
        Image.fromarray(np.full((64, 64), i, np.uint8)).save(folder / f"{i}.png")
    paths = [f"{i}.png" for i in range(40)]
    fill()
    with pytest.raises(CacheError, match=r"could not take 40 decoded pictures.*BONELIB_CACHE"):
        images.cache(folder, paths, 64, folder / "cache")
    free()
    assert [p.name for p in (folder / "cache").iterdir()] == ["patient-salt"]
    assert images.cache(folder, paths, 64, folder / "cache")[0][:, 5, 5].tolist() == list(range(40))

    cfg = training(folder / "run", epochs=3)
    with pytest.raises(ArtifactError, match=r"last could not be written.*Make room"):
        train.train(cfg, *trainee.data(), cfg.root, lambda history: fill() if len(history) == 2 else None)
    free()
    assert len(train.train(cfg, *trainee.data(), cfg.root)) == 3  # said: going on after epoch 2

    before = report.write(cfg.root).read_bytes()
    artifact.write(cfg.root / "audit.json", '{"notes": "' + "x" * 40_000 + '"}')
    fill()
    with pytest.raises(ArtifactError, match=r"report\.html could not be written"):
        report.write(cfg.root)
    free()
    assert (cfg.root / "report.html").read_bytes() == before and not list(cfg.root.glob("*.part*"))
    assert len(report.write(cfg.root).read_bytes()) > len(before)

    answered = pd.DataFrame({"path": ["x" * 99] * 4000})
    fill()
    with pytest.raises(ArtifactError, match=r"part-00000\.csv could not be written"):
        archive._write(answered, folder / "part-00000.csv")
    free()
    assert not list(folder.glob("part-*"))


@pytest.mark.parametrize("kind", ["small disk", "limit"])
def test_full_disk_is_told_and_nothing_is_lost(tmp_path, kind):
    one = Apart(tmp_path / "log", full_disk, kind, tmp_path / "disk")
    code = one.wait()
    if code == 77:
        pytest.skip("needs the right to mount a disk in memory")
    assert code == 0 and "going on after epoch 2 of" in one.said, one.said


def change(kind: str) -> Callable[[Path], object]:
    """How a data folder is changed: one file replaced, removed or added."""
    other = Image.fromarray(np.random.default_rng(9).integers(0, 255, (44, 44), np.uint8))
    return {
        "replaced": lambda root: other.save(root / "Normal" / "0.png"),
        "removed": lambda root: (root / "Normal" / "0.png").unlink(),
        "added": lambda root: other.save(root / "Normal" / "new.png"),
    }[kind]


@pytest.mark.parametrize("kind", ["replaced", "removed", "added"])
def test_data_that_change_between_audit_and_training_are_noticed(cfg, kind, monkeypatch, capsys):
    def meanwhile(*args, **options):
        change(kind)(Path(cfg.data))
        return parted(*args, **options)

    parted = split.split
    monkeypatch.setattr(split, "split", meanwhile)
    if kind == "added":  # not in the table: not used, and audited the next time
        assert "Normal/new.png" not in set(next(series.trainings(cfg))[1]["path"])
    else:
        with pytest.raises(DataError, match=r"Normal/0\.png changed since the audit; run 01_explore again"):
            next(series.trainings(cfg))
    monkeypatch.undo()
    capsys.readouterr()
    _, splits, pixels = next(series.trainings(cfg))
    assert "making it" in capsys.readouterr().out and len(splits) == len(pixels) == {"removed": 23, "added": 25}.get(
        kind, 24
    )


def test_cache_torn_anywhere_is_made_anew(cfg):
    paths = [f"{c}/{i}.png" for c in CLASSES for i in range(2)]
    whole, facts = images.cache(cfg.data, paths, 32, cfg.cache)
    whole = np.array(whole)
    for suffix, step in (("csv", 29), ("npy", 997)):
        (file,) = Path(cfg.cache).glob(f"*.{suffix}")
        data = file.read_bytes()
        for keep in range(0, len(data), step):
            for torn in (data[:keep], data[:keep] + bytes(len(data) - keep)):  # cut short; its end never written
                if suffix == "csv" or len(torn) < len(data):
                    file.write_bytes(torn)
                    pixels, again = images.cache(cfg.data, paths, 32, cfg.cache)
                    assert np.array_equal(pixels, whole) and again.equals(facts), (suffix, keep)


def test_torn_secret_of_the_hashes_is_said_and_not_taken(tmp_path):
    dicom.salt(tmp_path)
    (tmp_path / "patient-salt").write_bytes(b"half")
    with pytest.raises(ValueError, match="holds 4 bytes, expected 32: delete it"):
        dicom.salt(tmp_path)


def use(cache: Path) -> None:
    hold("sample._write")
    table, thumbs, _ = catalog.catalog(Config.load({}, data="sample", smoke=True, cache=str(cache)))
    pixels, _ = images.cache(Path(cache) / "sample-60", table["path"].tolist(), 48, cache)
    print(hashlib.sha256(table.to_csv().encode() + thumbs.tobytes() + pixels.tobytes()).hexdigest())


def test_two_runs_may_share_a_cache_from_the_start(tmp_path):
    runs = [Apart(tmp_path / f"log{i}", use, tmp_path / "cache") for i in range(2)]
    assert [run.wait() for run in runs] == [0, 0], runs[0].said + runs[1].said
    assert runs[0].said.split()[-1] == runs[1].said.split()[-1]
    assert not [p for p in (tmp_path / "cache").iterdir() if p.suffix in (".tmp", ".part")]


def begin(cfg: Config) -> None:
    series.audited(cfg)


def test_run_folder_that_may_not_be_written_is_said(cfg, tmp_path):
    cfg.root.mkdir()
    cfg.root.chmod(0o555)
    one = Apart(tmp_path / "log", begin, cfg, weak=True)
    assert one.wait() == 1 and one.said.rstrip().splitlines()[-1].startswith("bonelib.artifact.ArtifactError: ")
    assert "catalog.csv could not be written ([Errno 13] Permission denied" in one.said and "BONELIB_RUN" in one.said


def lose_a_worker(run: Path) -> None:
    """Train with a loader process that the system kills in the second epoch, as it does when memory is short."""
    multiprocessing.set_start_method("fork", force=True)  # so that the process inherits what is planted here
    given = loader.Augmented.__getitems__

    def killed(self, keys):
        if keys[0][1] == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return given(self, keys)

    loader.Augmented.__getitems__ = killed
    train.train(training(run, workers=1), *trainee.data(), run)


def test_killed_loader_worker_is_said_and_the_rerun_goes_on(tmp_path, capsys):
    one = Apart(tmp_path / "log", lose_a_worker, tmp_path / "run")
    assert one.wait() == 1 and "\nRuntimeError: DataLoader worker (pid" in one.said, one.said
    assert "run again, with BONELIB_WORKERS=0" in one.said
    history = train.train(training(tmp_path / "run"), *trainee.data(), tmp_path / "run")
    assert "going on after epoch 1 of" in capsys.readouterr().out and len(history) == 4


def test_clock_that_jumps_back_changes_nothing(tmp_path, monkeypatch, capsys):
    whole = train.train(training(tmp_path / "a", epochs=3), *trainee.data(), tmp_path / "a")
    train.train(training(tmp_path / "b", epochs=2), *trainee.data(), tmp_path / "b")
    for path in (tmp_path / "b" / "checkpoints" / "last").iterdir():
        os.utime(path, (0, 0))  # the newest checkpoint now looks the oldest
    now = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    history = train.train(training(tmp_path / "b", epochs=3), *trainee.data(), tmp_path / "b")
    assert "going on after epoch 2 of" in capsys.readouterr().out and history[PATH].equals(whole[PATH])
    assert (history["seconds"] > 0).all()


def test_pictures_older_than_their_cache_are_decoded_anew(cfg):
    before = np.array(images.cache(cfg.data, ["Normal/0.png"], 32, cfg.cache)[0])
    Image.fromarray(np.eye(40, 50, dtype=np.uint8) * 200).save(Path(cfg.data) / "Normal" / "0.png")
    os.utime(Path(cfg.data) / "Normal" / "0.png", (0, 0))
    assert not np.array_equal(images.cache(cfg.data, ["Normal/0.png"], 32, cfg.cache)[0], before)


def without_network(data: str) -> None:
    """Ask for pretrained weights, then for a Kaggle set, where no address is found and nothing can be connected to."""

    def refuse(*args, **options):
        raise socket.gaierror("no network")

    socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
    time.sleep = lambda seconds: None  # between the hub's own attempts
    huggingface_hub.constants.HF_HUB_CACHE = data  # nothing was downloaded earlier
    for ask in (
        lambda: model.build(Config(backbone="test_vit")),
        lambda: catalog.locate(Config(data="someone/some-set")),
    ):
        try:
            ask()
        except (model.WeightsError, DataError) as error:
            print(f"SAID {error}", flush=True)


def test_without_a_network_it_is_said_how_to_go_on(tmp_path):
    one = Apart(tmp_path / "log", without_network, str(tmp_path))
    assert one.wait(300) == 0, one.said
    weights, data = [line for line in one.said.splitlines() if line.startswith("SAID")]
    assert "could not be loaded from the model hub" in weights and "BONELIB_WEIGHTS=" in weights
    assert "Kaggle set 'someone/some-set' could not be fetched" in data and "network" in data


def test_results_of_a_failed_write_stay_as_they_were(tmp_path):
    artifact.write(tmp_path / "a.json", "{}")
    with (
        pytest.raises(ArtifactError, match="what was there is as it was"),
        artifact.whole(tmp_path / "a.json") as aside,
    ):
        aside.write_text('{"half')
        raise OSError(28, "No space left on device")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == "{}"


def test_table_of_pictures_that_change_while_they_are_decoded_says_so(cfg, monkeypatch):
    def vanish(path: Path, *args: object) -> object:
        path.unlink()
        return given(path, *args)

    given = images._probe
    monkeypatch.setattr(images, "_probe", vanish)
    with pytest.raises(
        DataError, match=r"none of the 24 files .* is readable; the first: unreadable: cannot be opened"
    ):
        catalog.catalog(cfg)
