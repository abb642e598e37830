"""A folder of any size becomes one table with one row per image, whatever is killed meanwhile."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bonelib.config import CLASSES, Config
from bonelib.data import dicom
from bonelib.data.quality import read_for_model
from bonelib.evaluation.predict import probability_columns
from bonelib.messages import DataError, RunError
from bonelib.prediction import answers
from bonelib.prediction.archive import answer_archive, find_images
from tests.builders import calibrated_run, dicom_file

ROOT = Path(__file__).parents[2]
COLUMNS = probability_columns(CLASSES)
# Predicts sys.argv[2] with the run sys.argv[1]; prints images predicted and peak memory in MiB.
JOB = """
import resource, sys
from bonelib.config import Config
from bonelib.prediction import answers
from bonelib.prediction.answers import load_models
from bonelib.prediction.archive import answer_archive, find_images
from bonelib.training.device import processes
predict, sizes = answers.answer_images, []
def counted(models, images, *args):
    sizes.append(len(images))
    return predict(models, images, *args)
answers.answer_images = counted
cfg = Config(run=sys.argv[1], batch_size=16)
answer_archive(cfg, load_models(cfg.root), *find_images(sys.argv[2]), part=int(sys.argv[3]))
print("process of", processes().num_processes, "predicted", sum(sizes))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.fixture
def run(tmp_path) -> Config:
    """Settings of a run with a model, and of a folder for images."""
    calibrated_run(tmp_path / "run", threshold=0.5)
    return Config(run=str(tmp_path / "run"), images=str(tmp_path / "images"))


def fill(folder: Path, count: int, size: int = 48) -> Path:
    """`count` small images in sub-folders."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number % 7}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (size, size), dtype=np.uint8)
        Image.fromarray(pixels).save(path, compress_level=0)
    return folder


def answered(cfg: Config, part: int = 4) -> tuple[Path, pd.DataFrame]:
    models = answers.load_models(cfg.root)
    path = answer_archive(cfg, models, *find_images(cfg.images), part=part)
    return path, pd.read_csv(path, keep_default_na=False, na_values=dict.fromkeys(COLUMNS, ""))


def command(cfg: Config, part: int, processes: int) -> list[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    job = cfg.root / "job.py"
    job.write_text(JOB)
    return [sys.executable, *launch, str(job), cfg.run, cfg.images, str(part)]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def test_table_has_every_file_once_with_its_own_prediction(run):
    fill(Path(run.images), 11)
    (Path(run.images) / "text.png").write_text("no image")
    Image.new("L", (60, 60), 90).save(Path(run.images) / "blank.png")
    table = answered(run)[1]
    root, paths = find_images(run.images)
    assert table["path"].tolist() == paths == sorted(paths) and len(paths) == 13
    assert list(table.columns) == ["path", *COLUMNS, "prediction", "reason"]
    images = [read_for_model(root / path, 48) for path in paths]
    expected = answers.answer_images(answers.load_models(run.root), images)
    assert np.allclose(table[COLUMNS], expected[COLUMNS], atol=2e-2, equal_nan=True)
    unreadable = table["path"] == "text.png"
    assert table["reason"].str.startswith("unreadable").equals(unreadable)
    assert table[COLUMNS].isna().all(axis=1).equals(unreadable)
    assert (table["prediction"][table["path"].isin(["text.png", "blank.png"])] == "refer").all()


def test_parts_are_kept_and_incomplete_ones_made_again(run, monkeypatch):
    fill(Path(run.images), 11)
    path, table = answered(run)
    path.unlink()
    incomplete = path.parent / "part-00001.csv"
    incomplete.write_bytes(incomplete.read_bytes()[:150])
    of_killed_process = path.with_name("part-00001.123.part.csv")
    of_killed_process.touch()
    sizes, answer_images = [], answers.answer_images

    def counted(models, images, *args):
        sizes.append(len(images))
        return answer_images(models, images, *args)

    monkeypatch.setattr(answers, "answer_images", counted)
    assert answered(run)[1].equals(table) and sizes == [4]
    assert not of_killed_process.exists()
    assert answered(run)[1].equals(table) and sizes == [4], "a finished table is returned"


def test_other_models_thresholds_or_files_get_another_folder(run):
    folder = fill(Path(run.images), 5)
    first = answered(run)[0]
    touched = folder / "0" / "0.png"
    touched.write_bytes(touched.read_bytes() + b" ")
    second = answered(run)[0]
    calibrated_run(run.root, threshold=0.99)
    third = answered(run)[0]
    calibrated_run(run.root, threshold=0.99, seed=1)
    fourth = answered(run)[0]
    assert len({first, second, third, fourth}) == 4 and first.exists()


def test_names_with_quotes_lines_and_any_letters_are_kept(run):
    folder = Path(run.images)
    image = fill(folder / "made", 1) / "0" / "0.png"
    names = ['a "quoted", name\nin two lines.png', "Röntgenbild Ω.png"]
    for name in names:
        shutil.copy(image, folder / name)
    table = answered(run, part=2)[1]
    assert {*table["path"]} == {*names, "made/0/0.png"}
    assert not table["reason"].str.startswith("unreadable").any()


def test_every_file_is_found_unless_hidden(tmp_path):
    fill(tmp_path / "a", 2)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "scan").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "README").write_text("no image")
    for hidden in (".cache", "__MACOSX"):
        fill(tmp_path / hidden, 1)
    found = ["README", "a/0/0.png", "a/1/1.png", "notes.txt", "scan"]
    assert find_images(tmp_path) == (tmp_path, found)
    assert find_images(str(tmp_path / "a/0/0.png")) == (tmp_path / "a/0", ["0.png"])


def test_place_without_images_is_rejected(tmp_path):
    with pytest.raises(DataError, match="missing"):
        find_images(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        find_images(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match="empty"):
        find_images(tmp_path / "empty")


def reasons(cfg: Config) -> dict[str, str]:
    return dict(answered(cfg)[1][["path", "reason"]].to_numpy())


def test_every_file_that_is_found_has_a_row_that_says_why_it_was_not_read(run):
    folder = fill(Path(run.images), 3)
    for name in ("notes.txt", "0/Thumbs.db", "README", "scan.heic", "0.png.bak"):
        (folder / name).write_bytes((folder / "0" / "0.png").read_bytes())
    (folder / "x.png").mkdir()
    shutil.copy(folder / "0" / "0.png", folder / "x.png" / "UPPER.PNG")
    rows = reasons(run)
    read = {"0/0.png", "1/1.png", "2/2.png", "x.png/UPPER.PNG"}
    assert {path for path, reason in rows.items() if not reason.startswith("not read")} == read
    assert len(rows) == 9 and not any(rows[path].startswith("unreadable") for path in read)


def test_one_file_that_was_named_is_read_whatever_its_suffix(run):
    image = fill(Path(run.images), 1) / "0" / "0.png"
    named = image.rename(image.with_name("photo.PNG_large"))
    assert not reasons(replace(run, images=str(named)))["photo.PNG_large"].startswith("not read")
    named.write_text("no image")
    assert reasons(replace(run, images=str(named)))["photo.PNG_large"].startswith("unreadable")


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not valid text")
def test_names_that_are_not_valid_text_have_escaped_rows_and_stop_nothing(run):
    folder = fill(Path(run.images), 2)
    content = (folder / "0" / "0.png").read_bytes()
    for name in (b"caf\xe9.png", b"two\rlines.png", b"\xff/inside.png"):
        path = Path(os.fsdecode(bytes(folder) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    rows = reasons(run)
    escaped = {"caf\\udce9.png", "two\\rlines.png", "\\udcff/inside.png"}
    assert rows.keys() == escaped | {"0/0.png", "1/1.png"}
    assert all(rows[path].startswith("not read") for path in escaped)
    assert reasons(run) == rows


def test_images_in_linked_folders_are_predicted_once(run, tmp_path):
    fill(tmp_path / "elsewhere", 1)
    folder = fill(Path(run.images), 1)
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    assert find_images(folder)[1] == ["0/0.png", "link/0/0.png"]


def test_answers_that_depend_on_an_installed_package_are_made_again(run, monkeypatch):
    folder = fill(Path(run.images), 1)
    (folder / "scan.dcm").write_bytes(dicom_file())
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "pydicom", None)
        patched.setattr(dicom, "installed_readers", list)
        assert "pip install pydicom" in reasons(run)["scan.dcm"]
    assert not reasons(run)["scan.dcm"].startswith("unreadable")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_pipes_and_broken_links_are_referred_as_unreadable(run):
    folder = fill(Path(run.images), 1)
    os.mkfifo(folder / "pipe.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    rows = reasons(run)
    assert rows["pipe.png"].startswith("unreadable") and rows["gone.png"].startswith("unreadable")
    assert not rows["0/0.png"].startswith("unreadable")


def test_folder_that_cannot_be_written_is_an_error_that_names_it(run):
    fill(Path(run.images), 2)
    (run.root / "answers").touch()
    with pytest.raises(RunError, match="answers"):
        answered(run)


def answer_with_kills(cfg: Config, part: int, kills: list[int]) -> None:
    """Two processes, killed whenever so many parts are there, then restarted to the end."""
    for enough in kills:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        job = subprocess.Popen(command(cfg, part, 2), env=ENVIRONMENT, **quiet)
        while len(list(cfg.root.glob("answers/*/part-?????.csv"))) < enough:
            assert job.poll() is None, "the job ended before it could be killed"
            time.sleep(0.01)
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        assert len(children) >= 2
        for pid in (job.pid, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
        job.wait()
        assert not list(cfg.root.glob("answers/*/answers.csv"))
    kept = change_times(cfg)
    job = command(cfg, part, 2)
    done = subprocess.run(job, env=ENVIRONMENT, check=True, capture_output=True, text=True)
    predicted = [int(count) for count in re.findall("process of 2 predicted ([0-9]+)", done.stdout)]
    assert len(predicted) == 2
    parts = change_times(cfg)
    assert kept.items() <= parts.items() and len(parts) > len(kept) > 0
    (path,) = cfg.root.glob("answers/*/answers.csv")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert table["path"].tolist() == find_images(cfg.images)[1]
    of_earlier_runs = sum(len(pd.read_csv(path.with_name(name))) for name in kept)
    assert sum(predicted) == len(table) - of_earlier_runs, "each image is predicted once"
    assert {file.name for file in path.parent.iterdir()} == {"answers.csv", *parts}
    print(f"{len(table)} images; {len(kept)} of {len(parts)} parts kept from {len(kills)} kills")


def change_times(cfg: Config) -> dict[str, int]:
    parts = cfg.root.glob("answers/*/part-?????.csv")
    return {path.name: path.stat().st_mtime_ns for path in parts}


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_two_processes_killed_and_restarted_write_the_table_of_one(run):
    fill(Path(run.images), 400)
    answer_with_kills(run, part=4, kills=[5])
    (path,) = run.root.glob("answers/*/answers.csv")
    shared = path.read_bytes()
    shutil.rmtree(path.parent)
    assert answered(replace(run, batch_size=16))[0].read_bytes() == shared


@pytest.mark.soak
def test_five_thousand_images_survive_kills(run):
    fill(Path(run.images), 5000, 160)
    answer_with_kills(run, part=64, kills=sorted(random.Random(0).sample(range(2, 60), 3)))


@pytest.mark.soak
def test_ten_times_the_images_take_no_more_memory(run):
    peaks = {}
    for count in (500, 5000):
        fill(Path(run.images), count, 300)
        job = command(run, 64, 1)
        done = subprocess.run(job, env=ENVIRONMENT, check=True, capture_output=True, text=True)
        peaks[count] = int(done.stdout.split()[-1])
    print(f"peak memory in MiB by number of images: {peaks}")
    assert peaks[5000] - peaks[500] < 30
