"""Faults around a run end in a message that says what to do, and the rerun finishes."""

from __future__ import annotations

import hashlib
import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from PIL import Image

from bonelib import pipeline
from bonelib.config import CLASSES, Config
from bonelib.data import catalog, sample
from bonelib.messages import DataError, RunError
from bonelib.plots.style import save_figure
from bonelib.plots.training import image_grid
from bonelib.prediction.archive import answer_archive, find_images
from bonelib.report.report import write_report
from bonelib.storage import read_json, write_json
from bonelib.training.model import build, load_model, save_model
from tests.builders import calibrated_run, drop_root_rights, finished_run, image_folder, run_apart


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """Settings of a run of seconds on eight images of noise per class, which a test may change."""
    image_folder(tmp_path / "data", *(f"{name}/{i}.png" for name in CLASSES for i in range(8)))
    folders = {name: str(tmp_path / name) for name in ("data", "run", "cache")}
    return Config(**folders, backbone="test_efficientnet", pretrained=False, image_size=32)


def limit_files(size: int) -> None:
    """Let writing fail beyond `size` bytes of a file, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def write_results_on_full_disk(folder: Path) -> None:
    """Each kind of result fails with a message, keeps what was there, and is written later."""
    run = finished_run(folder / "run")
    models = calibrated_run(run)
    cfg = Config(run=str(run), backbone="test_efficientnet", pretrained=False, image_size=48)
    names = [f"{'n' * 120}{number}.png" for number in range(200)]
    images = find_images(image_folder(folder / "images", *names))
    grid = np.random.default_rng(0).integers(0, 255, (8, 64, 64), np.uint8)
    report = write_report(run).read_bytes()
    results = read_json(run / "audit.json")
    note = {"level": "note", "text": "x" * 40_000}
    write_json(run / "audit.json", results | {"findings": [note]})
    writers = {
        r"report\.html": lambda: write_report(run),
        "model": lambda: save_model(build(cfg, 3), run / "model", cfg, CLASSES, threshold=0.1),
        r"part-00000\.csv": lambda: answer_archive(cfg, models, *images),
        r"grid\.png": lambda: save_figure(image_grid(grid, ["noise"] * 8), run / "grid.png"),
    }
    for name, write in writers.items():
        limit_files(20_000)
        with pytest.raises(RunError, match=rf"{name} could not be written.*Make room"):
            write()
        limit_files(resource.RLIM_INFINITY)
        assert not [path for path in run.rglob("*") if {".part", ".incoming"} & {*path.suffixes}]
    assert (run / "report.html").read_bytes() == report
    assert load_model(run / "model").meta["threshold"] == 0.0
    for write in writers.values():
        write()
    assert len((run / "report.html").read_bytes()) > len(report) + 30_000
    assert load_model(run / "model").meta["threshold"] == 0.1
    assert len(list(run.glob("answers/*/answers.csv"))) == 1


def test_full_disk_is_an_error_that_keeps_earlier_results(tmp_path):
    code, output = run_apart(tmp_path / "log", write_results_on_full_disk, tmp_path)
    assert code == 0, output


def replace_file(data: Path) -> None:
    Image.new("L", (44, 44), 99).save(data / "Normal" / "0.png")


def remove_file(data: Path) -> None:
    (data / "Normal" / "0.png").unlink()


def add_file(data: Path) -> None:
    noise = np.random.default_rng(99).integers(0, 255, (44, 44), np.uint8)
    Image.fromarray(noise).save(data / "Normal" / "new.png")


@pytest.mark.parametrize(
    ("change", "images"), [(replace_file, 23), (remove_file, 23), (add_file, 25)]
)
def test_data_that_change_between_audit_and_training_are_noticed(
    cfg, change, images, monkeypatch, capsys
):
    split = pipeline.split

    def change_then_split(*args, **options):
        change(Path(cfg.data))
        return split(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "split", change_then_split)
        if change is add_file:
            # it was not audited, so it is not used before the next audit
            assert "Normal/new.png" not in set(next(pipeline.folds(cfg)).splits["path"])
        else:
            with pytest.raises(DataError, match=r"Normal/0\.png changed.*01_explore"):
                next(pipeline.folds(cfg))
    capsys.readouterr()
    fold = next(pipeline.folds(cfg))
    assert "no audit of these images" in capsys.readouterr().out
    # the replaced image is blank now
    assert len(fold.splits) == len(fold.images) == images


def start_on_sample(folder: Path, number: int) -> None:
    """The splits and images of the embedded sample; both runs begin to make it together."""
    make_sample = sample.make_sample

    def meet(*args, **options):
        (folder / f"ready{number}").touch()
        while len(list(folder.glob("ready*"))) < 2:
            time.sleep(0.01)
        return make_sample(*args, **options)

    sample.make_sample = meet
    run, cache = str(folder / f"run{number}"), str(folder / "cache")
    fold = next(pipeline.folds(Config.load({}, smoke=True, run=run, cache=cache)))
    content = fold.splits.to_csv().encode() + fold.images.tobytes()
    table = (folder / f"run{number}" / "catalog.csv").read_bytes()
    print("SHA256", hashlib.sha256(content + table).hexdigest(), flush=True)


@pytest.mark.soak
def test_two_runs_may_share_a_cache_from_the_start(tmp_path):
    def start(number):
        log = tmp_path / f"log{number}"
        return run_apart(log, start_on_sample, tmp_path, number, seconds=300)

    with ThreadPoolExecutor(2) as pool:
        (code0, output0), (code1, output1) = pool.map(start, range(2))
    assert code0 == code1 == 0, output0 + output1
    digests = [output.rpartition("SHA256")[2] for output in (output0, output1)]
    assert digests[0] == digests[1]
    parts = {path.suffix for path in (tmp_path / "cache").iterdir() if path.is_file()}
    assert parts == {"", ".json", ".npy"}


def audit_as_user(cfg: Config) -> None:
    drop_root_rights()
    pipeline.audited(cfg)


def test_read_only_run_folder_is_an_error_that_names_file_and_setting(cfg, tmp_path):
    cfg.root.mkdir()
    cfg.root.chmod(0o555)
    code, output = run_apart(tmp_path / "log", audit_as_user, cfg)
    message = output.rstrip().splitlines()[-1]
    assert code == 1 and message.startswith("bonelib.messages.RunError: "), output
    assert f"{cfg.root / 'catalog.csv'} could not be written" in message
    assert "Permission denied" in message and "BONELIB_RUN" in message


def ask_without_network(folder: Path) -> None:
    """Pretrained weights, then a Kaggle set, where no address is found and nothing connects."""

    def refuse(*args, **options):
        raise socket.gaierror("no network")

    socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
    # between the attempts of the hub's client
    time.sleep = lambda seconds: None
    # nothing was downloaded earlier
    huggingface_hub.constants.HF_HUB_CACHE = str(folder)
    asks = {
        "WEIGHTS": lambda: build(Config(backbone="test_vit", image_size=160), 3),
        "KAGGLE": lambda: catalog.locate(Config(data="someone/some-set")),
    }
    for name, ask in asks.items():
        with pytest.raises((RunError, DataError)) as error:
            ask()
        print(name, error.type.__name__, str(error.value).replace("\n", " "), flush=True)


def test_without_a_network_the_errors_say_what_to_do(tmp_path):
    code, output = run_apart(tmp_path / "log", ask_without_network, tmp_path, seconds=300)
    assert code == 0, output
    lines = output.splitlines()
    (weights,) = [line for line in lines if line.startswith("WEIGHTS RunError")]
    (kaggle,) = [line for line in lines if line.startswith("KAGGLE DataError")]
    assert "test_vit" in weights and "BONELIB_WEIGHTS=path" in weights
    assert "someone/some-set" in kaggle and "network" in kaggle and "by hand" in kaggle
