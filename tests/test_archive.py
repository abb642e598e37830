"""A folder of any size becomes one table in which every image stands once, whatever is killed on the way."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import types
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bonelib import archive, catalog, inputs, predict, series
from bonelib.artifact import ArtifactError
from bonelib.config import Config
from tests.apart import Apart

ROOT = Path(__file__).parents[1]
JOB = """
import json, resource, sys
from bonelib import archive, model, predict
from bonelib.config import Config
cfg = Config.from_json(sys.argv[1])
archive.answers(cfg, predict.load(cfg.root), *archive.files(cfg.images), part=int(sys.argv[2]))
print("processes", model.processes().num_processes)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)  # MiB, at most
"""


@pytest.fixture
def run(trained, tmp_path) -> Config:
    """A run of its own with the trained model, and no answers yet."""
    shutil.copytree(trained.root / "model", tmp_path / "run" / "model")
    return replace(trained, run=str(tmp_path / "run"), images=str(tmp_path / "images"))


def fill(folder: Path, count: int, size: int = 48) -> Path:
    """`count` small pictures in sub-folders."""
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"{i % 7}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (size, size), dtype=np.uint8)).save(path, compress_level=0)
    return folder


def answered(cfg: Config, part: int = 4) -> tuple[Path, pd.DataFrame]:
    path = archive.answers(cfg, predict.load(cfg.root), *archive.files(cfg.images), part=part)
    return path, pd.read_csv(path, keep_default_na=False, na_values=dict.fromkeys(predict.PROBS, ""))


def command(cfg: Config, part: int, processes: int = 2) -> list[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    (cfg.root / "job.py").write_text(JOB)
    return [sys.executable, *launch, str(cfg.root / "job.py"), json.dumps(asdict(cfg)), str(part)]


ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def test_table_holds_every_file_once_with_its_own_answer(run, tiny):
    cfg = replace(run, images=str(tiny))
    table = answered(cfg)[1]
    root, paths = archive.files(tiny)
    assert table["path"].tolist() == paths == sorted(paths) and list(table.columns) == archive.COLUMNS
    models = predict.load(cfg.root)
    wanted = predict.answers(models, [inputs.read(root / p, cfg.image_size) for p in paths])
    assert np.allclose(table[predict.PROBS], wanted[predict.PROBS], atol=1e-3, equal_nan=True)
    unreadable = table["reason"].str.startswith("unreadable")
    assert unreadable.any() and (table["call"][unreadable] == "refer").all()
    assert table[predict.PROBS].isna().all(axis=1).equals(unreadable)


def test_parts_are_kept_and_torn_ones_made_again(run, monkeypatch):
    fill(Path(run.images), 11)
    path, table = answered(run)
    path.unlink()
    torn = path.parent / "part-00001.csv"
    torn.write_bytes(torn.read_bytes()[:150])
    asked = []
    answers = predict.answers
    monkeypatch.setattr(predict, "answers", lambda m, p, *a: asked.append(len(p)) or answers(m, p, *a))
    assert answered(run)[1].equals(table) and asked == [4]
    assert answered(run)[1].equals(table) and asked == [4], "a finished table is given back as it is"


def test_other_models_thresholds_or_files_get_another_folder(run):
    folder = fill(Path(run.images), 5)
    first = answered(run)[0]
    touched = folder / "0" / "0.png"
    touched.write_bytes(touched.read_bytes() + b" ")
    second = answered(run)[0]
    config = run.root / "model" / "config.json"
    config.write_text(config.read_text().replace('"threshold": ', '"threshold": 0.99, "was": '))
    third = answered(run)[0]
    assert len({first, second, third}) == 3 and first.exists()


def test_names_in_any_encoding_survive(run):
    folder = Path(run.images)
    folder.mkdir()
    picture = fill(folder / "made", 1) / "0" / "0.png"
    odd = [b"r\xf6ntgen.png", b'a "quoted", name\nin two lines.png', "Röntgenbild Ω.png".encode()]
    for name in odd:
        shutil.copy(picture, os.fsencode(folder) + b"/" + name)
    table = answered(run, part=2)[1]
    assert {*table["path"]} == {r"r\udcf6ntgen.png", odd[1].decode(), odd[2].decode(), "made/0/0.png"}
    assert not table["reason"].str.startswith("unreadable").any()


def test_files_are_found_by_name_or_as_dicom_and_hidden_ones_are_not(tmp_path):
    fill(tmp_path / "a", 2)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "scan").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "README").write_text("no picture")
    for hidden in (".cache", "__MACOSX"):
        fill(tmp_path / hidden, 1)
    assert archive.files(tmp_path)[1] == ["a/0/0.png", "a/1/1.png", "scan"]
    assert archive.files(tmp_path / "a/0/0.png") == (tmp_path / "a/0", ["0.png"])
    with pytest.raises(catalog.DataError, match="found nothing there"):
        archive.files(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(catalog.DataError, match="holds no file named"):
        archive.files(tmp_path / "empty")


def test_folder_that_cannot_be_listed_is_no_smaller_archive(tmp_path):
    fill(tmp_path / "images", 2)
    (tmp_path / "images" / "1").chmod(0)
    one = Apart(tmp_path / "log", archive.files, tmp_path / "images", weak=True)
    assert one.wait() == 1 and "images/1 cannot be listed (Permission denied)" in one.said
    (tmp_path / "images" / "1").chmod(0o700)


def listed(folder: Path) -> None:
    print(archive.files(folder)[1])


def test_file_without_suffix_that_may_not_be_read_is_asked_about(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "IM1").touch()
    (tmp_path / "images" / "IM1").chmod(0)
    one = Apart(tmp_path / "log", listed, tmp_path / "images", weak=True)
    assert one.wait() == 0 and "['IM1']" in one.said


def test_pipes_and_links_to_nothing_are_answered_about_with_the_reason(run):
    folder = fill(Path(run.images), 1)
    os.mkfifo(folder / "pipe.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    reasons = dict(answered(run)[1][["path", "reason"]].to_numpy())
    assert (
        reasons["pipe.png"].startswith("unreadable: is a folder, a pipe") and "cannot be opened" in reasons["gone.png"]
    )


def test_answers_that_cannot_be_kept_are_an_error_in_words(run):
    fill(Path(run.images), 2)
    (run.root / "answers").touch()
    with pytest.raises(ArtifactError, match=r"could not be written.*BONELIB_RUN"):
        answered(run)


def test_without_new_images_the_test_split_is_answered(trained):
    root, paths = series.unseen(trained)
    splits = pd.read_csv(trained.root / "splits.csv")
    assert paths == splits.loc[splits["split"] == "test", "path"].tolist() and (root / paths[0]).is_file()
    with pytest.raises(catalog.DataError):
        series.unseen(replace(trained, images="nowhere"))
    with pytest.raises(catalog.DataError, match="another run folder"):
        series.unseen(replace(trained, data="sample"))


def test_pictures_uploaded_on_colab_are_what_is_asked_about(run, monkeypatch, tmp_path):
    cells = json.loads((ROOT / "notebooks" / "05_predict.ipynb").read_text())["cells"]
    (cell,) = ("".join(c["source"]) for c in cells if "files.upload()" in "".join(c["source"]))
    files = types.SimpleNamespace(upload=lambda: fill(Path(), 1))  # Colab's saves to the working directory
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(files=files))
    monkeypatch.chdir(tmp_path)
    known = {"sys": sys, "Path": Path, "contextlib": contextlib, "replace": replace, "cfg": run, "upload": True}
    exec(cell, known)
    assert archive.files(known["cfg"].images)[1] == ["0/0.png"] and Path.cwd() == tmp_path


def whole_after_kills(cfg: Config, part: int, kills: list[int]) -> None:
    """Two processes are killed each time that so many parts are there, restarted, and must end in the table of one."""
    quiet = subprocess.DEVNULL
    for enough in kills:
        job = subprocess.Popen(command(cfg, part), env=ENV, stdout=quiet, stderr=quiet)
        while len(list(cfg.root.glob("answers/*/part-*.csv"))) < enough:
            assert job.poll() is None, "the job ended before it could be killed"
            time.sleep(0.01)
        workers = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        assert len(workers) >= 2
        for pid in (job.pid, *map(int, workers)):
            os.kill(pid, signal.SIGKILL)
        job.wait()
        assert not list(cfg.root.glob("answers/*/answers.csv"))
    kept = {p.name: p.stat().st_mtime_ns for p in cfg.root.glob("answers/*/part-*.csv")}
    done = subprocess.run(command(cfg, part), env=ENV, check=True, capture_output=True, text=True, timeout=600)
    assert done.stdout.count("processes 2") == 2, "each takes its share, and no other"
    after = {p.name: p.stat().st_mtime_ns for p in cfg.root.glob("answers/*/part-*.csv")}
    assert kept.items() <= after.items() and len(after) > len(kept)
    table = pd.read_csv(next(cfg.root.glob("answers/*/answers.csv")), dtype=str, keep_default_na=False)
    assert table["path"].tolist() == archive.files(cfg.images)[1]
    assert not list(cfg.root.glob("answers/*/*.tmp"))
    print(f"{len(table)} images once each; {len(kept)} of {len(after)} parts were kept from {len(kills)} killed runs")


def test_two_processes_killed_and_restarted_answer_every_image_once(run):
    fill(Path(run.images), 120)
    whole_after_kills(run, part=4, kills=[5])
    path = next(run.root.glob("answers/*/answers.csv"))
    alone = path.read_bytes()
    shutil.rmtree(path.parent)
    assert answered(run)[0].read_bytes() == alone, "one process writes the table of two"


@pytest.mark.soak
def test_five_thousand_images_survive_kills(run):
    fill(Path(run.images), 5000, 160)
    chance = random.Random(0)
    whole_after_kills(run, part=64, kills=sorted(chance.sample(range(2, 60), 3)))


@pytest.mark.soak
def test_ten_times_the_images_take_no_more_memory(run):
    peaks = {}
    for count in (500, 5000):
        fill(Path(run.images), count, 300)
        done = subprocess.run(command(run, 64, 1), env=ENV, check=True, capture_output=True, text=True, timeout=1800)
        peaks[count] = int(done.stdout.split()[-1])
    print(f"peak memory in MiB by number of images: {peaks}")
    assert peaks[5000] - peaks[500] < 30


@pytest.mark.soak
def test_notebook_under_torchrun_trains_one_model_and_shares_the_pictures(tiny, tmp_path):
    settings = {"data": tiny, "run": tmp_path / "run", "cache": tmp_path / "cache", "backbone": "test_efficientnet"}
    env = ENV | {f"BONELIB_{k.upper()}": str(v) for k, v in settings.items()} | {"BONELIB_SMOKE": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    notebook = str(ROOT / "notebooks" / "05_predict.py")
    done = subprocess.run([*launch, notebook], env=env, check=True, capture_output=True, text=True, timeout=1800)
    assert done.stdout.count("holds no audit") == 1, "the second process finds what the first has made"
    splits = pd.read_csv(tmp_path / "run" / "splits.csv")
    (path,) = (tmp_path / "run").glob("answers/*/answers.csv")
    assert pd.read_csv(path)["path"].tolist() == splits.loc[splits["split"] == "test", "path"].tolist()
