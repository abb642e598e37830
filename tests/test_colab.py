"""Settings, Drive, upload and download on Colab, under a stand-in for `google.colab`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import kagglehub
import pytest

from bonelib import colab
from bonelib.config import Config
from bonelib.data.catalog import load_catalog
from bonelib.messages import DataError, RunError
from bonelib.prediction.archive import find_images
from bonelib.storage import write_json
from tests.builders import calibrated_run, encoded, waves


class Drive:
    """Google Drive: what is in `far` appears below `mount` while mounted, and stays afterwards."""

    def __init__(self, mount: Path, far: Path) -> None:
        self.mounted, self.home, self.far, self.denies = mount, mount / "MyDrive", far, False

    def mount(self, place: str) -> None:
        if self.denies:
            raise ValueError("mount failed: credential propagation was unsuccessful")
        assert Path(place) == self.mounted
        self.mounted.mkdir(exist_ok=True)
        self.far.mkdir(exist_ok=True)
        if not self.home.is_symlink():
            assert not list(self.mounted.iterdir()), "Colab does not mount over files"
            self.home.symlink_to(self.far)

    def flush_and_unmount(self) -> None:
        self.home.unlink()


class Files:
    """Upload and download: `chosen` are the files that the user sends."""

    def __init__(self) -> None:
        self.chosen: dict[str, bytes] = {}
        self.downloaded: list[str] = []

    def upload(self) -> dict[str, bytes]:
        for name, content in self.chosen.items():
            # Colab's upload saves to the working directory
            Path(name).write_bytes(content)
        return self.chosen

    def download(self, path: str) -> None:
        self.downloaded.append(path)


@pytest.fixture
def drive(tmp_path, monkeypatch) -> Drive:
    monkeypatch.setattr(colab, "MOUNT", tmp_path / "drive")
    stand_in = types.ModuleType("google.colab")
    stand_in.drive = Drive(tmp_path / "drive", tmp_path / "far")
    stand_in.files = Files()
    secrets = {"KAGGLE_API_TOKEN": "from the secret"}
    stand_in.userdata = types.SimpleNamespace(get=lambda key: secrets[key])
    monkeypatch.setitem(sys.modules, "google.colab", stand_in)
    fresh_machine(tmp_path, monkeypatch, "machine1")
    return stand_in.drive


@pytest.fixture
def files(drive) -> Files:
    return sys.modules["google.colab"].files


def fresh_machine(folder: Path, monkeypatch, name: str) -> None:
    (folder / name).mkdir()
    monkeypatch.chdir(folder / name)


def zip_folder(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as packed:
        for path in folder.rglob("*.*"):
            packed.write(path, path.relative_to(folder))
    return target


def test_form_comes_before_environment_before_saved_before_default(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved = {"epochs": 3, "seed": 3, "folds": 3, "data": str(tiny)}
    write_json(tmp_path / "run" / "config.json", saved)
    monkeypatch.setenv("BONELIB_EPOCHS", "40")
    monkeypatch.setenv("BONELIB_SEED", "4")
    cfg = colab.settings(run="run", seed="5", data="")
    assert (cfg.seed, cfg.epochs, cfg.folds) == (5, 40, 3) and cfg.batch_size == Config.batch_size
    assert cfg.data == str(tiny) and cfg.run == "run"
    kept = {name: str(value) for name, value in cfg.given.items()}
    assert kept == {"seed": "5", "epochs": "40", "folds": "3", "data": str(tiny)}
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == saved, "not written here"


def test_form_may_depend_on_what_the_run_was_given(tiny, tmp_path):
    run = tmp_path / "run"
    write_json(run / "config.json", {"class_names": "Healthy,Ill", "data": str(tiny)})
    cfg = colab.settings(run=str(run), prevalence="0.9,0.1", classes='{"a": "Ill"}')
    assert cfg.class_names == ("Healthy", "Ill") and cfg.prevalence == (0.9, 0.1)


def test_off_colab_settings_are_those_of_config_load(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BONELIB_EPOCHS", "3")
    cfg = colab.settings(True, data=str(tiny), run="", batch_size="8")
    assert cfg == Config.load(data=str(tiny), batch_size="8") and cfg.epochs == 3
    assert "BONELIB_MIRROR" in capsys.readouterr().out


def test_run_of_version_1_is_rejected(tmp_path):
    write_json(tmp_path / "run" / "config.json", {"layer_decay": 0.8, "data": "sample"})
    with pytest.raises(RunError, match="run"):
        colab.settings(run=str(tmp_path / "run"))


@pytest.mark.parametrize(
    "variable", ["COLAB_TPU_ADDR", "TPU_NAME", "COLAB_TPU_1VM", "TPU_ACCELERATOR_TYPE"]
)
def test_tpu_runtime_is_rejected(drive, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(RunError, match="T4 GPU"):
        colab.settings()


def test_gpu_runtime_with_an_empty_variable_about_tpus_is_accepted(drive, tiny, monkeypatch):
    monkeypatch.setenv("COLAB_TPU_1VM", "")
    assert colab.settings(data=str(tiny)).data == str(tiny)


def test_runtime_without_timm_is_rejected_at_import():
    code = "import sys; sys.modules['timm'] = None; import bonelib.colab"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode and "T4 GPU" in done.stderr.splitlines()[-1]
    assert "timm" in done.stderr.splitlines()[-1]


def test_shortcut_on_drive_to_a_folder_of_data_is_copied(drive, tiny, tmp_path):
    drive.mount(str(colab.MOUNT))
    (drive.far / "bones").mkdir()
    for folder in tiny.glob("*/"):
        (drive.far / "bones" / folder.name).symlink_to(folder)
    cfg = colab.settings(data="MyDrive/bones", smoke="1")
    drive.flush_and_unmount()
    assert len(load_catalog(cfg).table) >= 60


def test_next_notebook_on_its_own_machine_finds_results_and_settings(
    drive, tiny, tmp_path, monkeypatch, capsys
):
    drive.far.mkdir()
    (drive.far / "bones").symlink_to(tiny)
    cfg = colab.settings(True, data="MyDrive/bones", run="runs/mine", image_size="64", seed="3")
    write_json(cfg.root / "config.json", cfg.given)
    (cfg.root / "catalog.csv").write_text("what 01 found")
    colab.finish(cfg)
    assert not drive.home.exists(), "flushed and unmounted"
    fresh_machine(tmp_path, monkeypatch, "machine2")
    cfg = colab.settings(True, run="runs/mine", seed="4")
    assert (cfg.root / "catalog.csv").read_text() == "what 01 found"
    assert (cfg.image_size, cfg.seed, cfg.given["data"]) == (64, 4, "MyDrive/bones")
    assert Path(cfg.data).is_relative_to(cfg.cache) and len(load_catalog(cfg).table) >= 60
    assert "image_size 64" in capsys.readouterr().out


def test_run_folder_on_drive_is_kept_here_and_copied_there(drive):
    cfg = colab.settings(run=f"{drive.home}/results/mine")
    assert cfg.run == "runs/mine" and cfg.mirror == f"{drive.home}/results/mine"
    assert "mirror" not in cfg.given


@pytest.mark.parametrize(
    "written", ["{home}/bones", "MyDrive/bones", "drive/MyDrive/bones/", "MyDrive/bones.zip"]
)
def test_data_on_drive_is_read_from_the_local_disk_alone(drive, tiny, written):
    drive.mount(str(colab.MOUNT))
    # as Drive shows what others have shared
    (drive.far / "bones").symlink_to(tiny)
    zip_folder(tiny, drive.far / "bones.zip")
    given = written.format(home=drive.home)
    cfg = colab.settings(data=given, smoke="1")
    drive.flush_and_unmount()
    assert cfg.run == "runs/bones" and cfg.given["data"] == given
    assert len(load_catalog(cfg).table) >= 60


def test_table_on_drive_comes_with_the_images_beside_it(drive, tiny):
    drive.mount(str(colab.MOUNT))
    shutil.copytree(tiny, drive.far / "bones" / "images")
    (drive.far / "bones" / "table.csv").write_text("path,label\n")
    data = Path(colab.settings(data="MyDrive/bones/table.csv").data)
    assert data.read_text() == "path,label\n" and not data.is_relative_to(drive.mounted)
    assert len(list((data.parent / "images").rglob("*.*"))) >= 60


def test_denied_drive_is_an_error_that_says_what_to_do(drive):
    drive.denies = True
    with pytest.raises(RunError, match="allow the access"):
        colab.settings(True)


def test_drive_lost_at_the_end_is_an_error_and_the_next_try_copies_everything(drive):
    cfg = colab.settings(True, run="runs/mine")
    cfg.root.mkdir(parents=True, exist_ok=True)
    (cfg.root / "report.html").write_text("the report")
    drive.flush_and_unmount()
    with pytest.raises(RunError, match="settings cell"):
        colab.finish(cfg)
    colab.finish(colab.settings(True, run="runs/mine"))
    copied = drive.far / "bonelib" / "runs" / "mine" / "report.html"
    assert copied.read_text() == "the report"


def test_drive_lost_while_a_run_is_copied_back_is_an_error(drive, tmp_path, monkeypatch):
    cfg = colab.settings(True, run="runs/mine")
    write_json(Path(cfg.mirror) / "checkpoints" / "last" / "state.json", {})
    fresh_machine(tmp_path, monkeypatch, "machine2")

    def lost(path):
        raise OSError(107, "Transport endpoint is not connected")

    monkeypatch.setattr(os, "scandir", lost)
    with pytest.raises(DataError, match="not connected"):
        colab.settings(True, run="runs/mine")


def test_zip_of_own_images_works_off_colab(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zip_folder(tiny, Path("bones.zip"))
    cfg = colab.settings(data="bones.zip", smoke="1")
    assert cfg.run == "runs/bones" and len(load_catalog(cfg).table) >= 60


def test_kaggle_set_is_downloaded_once_for_a_notebook(drive, tiny, monkeypatch):
    asked = []
    monkeypatch.setattr(kagglehub, "dataset_download", lambda n: asked.append(n) or str(tiny))
    cfg = colab.settings(data="owner/bones", smoke="1")
    assert len(load_catalog(cfg).table) >= 60 and asked == ["owner/bones"]
    assert cfg.given["data"] == "owner/bones"


def test_kaggle_set_that_needs_an_account_says_where_the_token_goes(drive, monkeypatch):
    def deny(name):
        raise PermissionError("403 Client Error")

    monkeypatch.setattr(kagglehub, "dataset_download", deny)
    with pytest.raises(DataError, match="KAGGLE_API_TOKEN"):
        colab.settings(data="owner/bones")


def test_kagglehub_reads_the_secret_and_works_without_it(drive, monkeypatch):
    assert kagglehub.config.get_colab_credentials().api_key == "from the secret"
    monkeypatch.setattr(sys.modules["google.colab"].userdata, "get", lambda key: {}[key])
    assert kagglehub.config.get_colab_credentials() is None


def test_trained_model_predicts_new_images_without_its_data(tiny, tmp_path):
    run = tmp_path / "run"
    calibrated_run(run)
    write_json(run / "config.json", {"data": "/no/longer/here"})
    cfg = colab.settings(run=str(run), images=str(tiny))
    assert cfg.images == str(tiny) and "images" not in cfg.given
    with pytest.raises(DataError, match="/no/longer/here"):
        colab.settings(run=str(run))


def test_uploaded_images_are_those_to_predict(files, tmp_path):
    here = Path.cwd()
    image = encoded(waves(), "PNG")
    files.chosen = {"a.png": image, "b.png": image}
    folder = colab.upload("uploaded")
    assert Path.cwd() == here and find_images(folder)[1] == ["a.png", "b.png"]


def test_one_uploaded_zip_is_the_data(files, tiny, tmp_path):
    files.chosen = {"bones.zip": zip_folder(tiny, tmp_path / "bones.zip").read_bytes()}
    cfg = colab.settings(data=str(colab.upload("uploaded")), smoke="1")
    assert len(load_catalog(cfg).table) >= 60


def test_upload_of_nothing_is_an_error(files):
    with pytest.raises(RunError):
        colab.upload("uploaded")


def test_upload_off_colab_is_an_error_and_download_does_nothing(tmp_path):
    with pytest.raises(RunError, match="Colab"):
        colab.upload(tmp_path / "uploaded")
    assert not (tmp_path / "uploaded").exists()
    colab.download(tmp_path / "report.html")


def test_download_sends_the_file(files, tmp_path):
    colab.download(tmp_path / "report.html")
    assert files.downloaded == [str(tmp_path / "report.html")]
