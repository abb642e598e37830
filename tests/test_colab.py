"""The setup cell and the settings on Colab, under a stand-in for `google.colab` (drive, userdata)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import kagglehub
import pytest

from bonelib import catalog, colab, fetch
from bonelib.config import Config

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STAND_IN = {  # packages that stand before the real ones: Colab's own, and a pip that notes what it is asked for
    "google/colab/__init__.py": "",
    "pip/__init__.py": "",
    "pip/__main__.py": "import sys; print(*sys.argv[1:], file=open('pip.log', 'a'))",
}


def setup_cell(notebook: Path) -> str:
    return "".join(next(c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code")["source"])


def run_setup(folder: Path, colab: bool = True, also: tuple[str, ...] = ()) -> str:
    """Run the setup cell in `folder` as a fresh Python without site-packages; what pip was asked for, or the error."""
    for name, text in (STAND_IN | dict.fromkeys(also, "")).items():
        path = folder / "packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    code = ("import google.colab\n" if colab else "") + setup_cell(NOTEBOOKS[0])
    env = os.environ | {"PYTHONPATH": str(folder / "packages")}
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=folder, env=env, capture_output=True, text=True)
    log = folder / "pip.log"
    return done.stderr + (log.read_text() if log.exists() else "")


def test_setup_cell_comes_first_is_short_and_the_same_everywhere():
    assert len({setup_cell(n) for n in NOTEBOOKS}) == 1
    assert len(setup_cell(NOTEBOOKS[0]).splitlines()) <= 15
    assert "bonelib import" not in setup_cell(NOTEBOOKS[0])


def test_fresh_machine_gets_bonelib_and_what_is_missing_without_dependencies(tmp_path):
    repository = next(x for x in setup_cell(NOTEBOOKS[0]).splitlines() if x.startswith("REPOSITORY")).split('"')[1]
    assert run_setup(tmp_path).splitlines() == [
        f"install -q --no-deps git+{repository}",
        "install -q --no-deps pydicom",
    ]


def test_second_run_of_the_setup_cell_installs_nothing(tmp_path):
    assert run_setup(tmp_path, also=("bonelib/__init__.py", "pydicom/__init__.py")) == ""


def test_folder_that_is_only_called_bonelib_is_not_taken_for_the_package(tmp_path):
    assert "git+https" in run_setup(tmp_path, also=("bonelib/README.md",))


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ("bonelib-0.1.0-py3-none-any.whl", "bonelib-0.1.0-py3-none-any.whl"),
        ("drive/MyDrive/bonelib/bonelib-0.1.0-py3-none-any.whl",) * 2,
        ("drive/MyDrive/bonelib/pyproject.toml", "drive/MyDrive/bonelib"),
    ],
)
def test_wheel_beside_the_notebook_or_a_folder_on_drive_is_taken_before_the_repository(there, taken, tmp_path):
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).touch()
    assert run_setup(tmp_path).splitlines()[0] == f"install -q --no-deps {taken}"


def test_off_colab_the_setup_cell_installs_nothing_and_says_so_where_bonelib_is_missing(tmp_path):
    assert run_setup(tmp_path / "with", colab=False, also=("bonelib/__init__.py",)) == ""
    said = run_setup(tmp_path / "without", colab=False)
    assert "bonelib is not installed here" in said and "install -q" not in said


class Drive:
    """Google Drive: what lies in `far` is seen below `mount` while it is mounted, and stays when the machine goes."""

    def __init__(self, mount: Path, far: Path) -> None:
        self.mounted, self.home, self.far, self.refuses = mount, mount / "MyDrive", far, False

    def mount(self, place: str) -> None:
        if self.refuses:
            raise ValueError("mount failed: credential propagation was unsuccessful")
        assert Path(place) == self.mounted
        self.mounted.mkdir(exist_ok=True)
        self.far.mkdir(exist_ok=True)
        if not self.home.is_symlink():
            assert not list(self.mounted.iterdir()), "Colab does not mount over a folder that holds files"
            self.home.symlink_to(self.far)

    def flush_and_unmount(self) -> None:
        self.home.unlink()


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Drive:
    monkeypatch.setattr(colab, "MOUNT", tmp_path / "drive")
    stand_in = types.ModuleType("google.colab")
    stand_in.drive = Drive(tmp_path / "drive", tmp_path / "far")
    stand_in.userdata = types.SimpleNamespace(get=lambda key: {"KAGGLE_API_TOKEN": "from the secret"}[key])
    monkeypatch.setitem(sys.modules, "google.colab", stand_in)
    fresh_machine(tmp_path, monkeypatch, "machine1")
    return stand_in.drive


def fresh_machine(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (folder / name).mkdir()
    monkeypatch.chdir(folder / name)


def test_off_colab_settings_are_those_of_config_load(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BONELIB_EPOCHS", "3")
    cfg = colab.settings(True, data=str(tiny), run="", batch_size="8")
    assert cfg == Config.load(data=str(tiny), batch_size="8") and cfg.epochs == 3
    assert "This is not Colab" in capsys.readouterr().out


def test_next_notebook_on_its_own_machine_finds_results_and_settings(drive, tmp_path, monkeypatch, capsys):
    cfg = colab.settings(True, run="runs/mine", image_size="64", seed="3")
    cfg.root.mkdir(parents=True, exist_ok=True)
    (cfg.root / "catalog.csv").write_text("what 01 found")
    colab.finish(cfg)
    assert not drive.home.exists(), "flushed, and let go"
    fresh_machine(tmp_path, monkeypatch, "machine2")
    cfg = colab.settings(True, run="runs/mine", seed="4")
    assert (cfg.root / "catalog.csv").read_text() == "what 01 found"
    assert (cfg.image_size, cfg.seed) == (64, 4)
    assert "as in the forms before: image_size 64\n" in capsys.readouterr().out


def test_run_folder_on_drive_is_kept_here_and_mirrored_there(drive, tmp_path):
    cfg = colab.settings(run=f"{drive.home}/results/mine")
    assert cfg.run == "runs/mine" and cfg.mirror == f"{drive.home}/results/mine"


@pytest.mark.parametrize("written", ["{home}/bones", "MyDrive/bones", "drive/MyDrive/bones/", "MyDrive/bones.zip"])
def test_data_on_drive_is_read_from_the_local_disk_alone(drive, tiny, written):
    drive.mount(str(colab.MOUNT))
    (drive.far / "bones").symlink_to(tiny)  # so Drive shows what others have shared
    with zipfile.ZipFile(drive.far / "bones.zip", "w") as file:
        for path in tiny.rglob("*.*"):
            file.write(path, path.relative_to(tiny))
    cfg = colab.settings(data=written.format(home=drive.home), smoke="1")
    drive.flush_and_unmount()
    assert cfg.run == "runs/bones"
    assert len(catalog.catalog(cfg)[0]) >= 60


def test_table_on_drive_comes_with_the_images_beside_it(drive, tiny):
    drive.mount(str(colab.MOUNT))
    (drive.far / "bones").mkdir()
    (drive.far / "bones" / "images").symlink_to(tiny)
    (drive.far / "bones" / "table.csv").write_text("path,label\n")
    assert Path(colab.settings(data="MyDrive/bones/table.csv").data).read_text() == "path,label\n"


def test_refused_drive_is_told(drive):
    drive.refuses = True
    with pytest.raises(fetch.FetchError, match="allow the access that Colab asks for"):
        colab.settings(True)


def test_drive_lost_at_the_end_is_an_error_and_the_next_try_brings_all(drive, tmp_path):
    cfg = colab.settings(True, run="runs/mine")
    (cfg.root / "report.html").write_text("the report")
    drive.flush_and_unmount()
    with pytest.raises(fetch.FetchError, match="run the settings cell again"):
        colab.finish(cfg)
    colab.finish(colab.settings(True, run="runs/mine"))
    assert (drive.far / "bonelib" / "runs" / "mine" / "report.html").read_text() == "the report"


def test_drive_lost_while_a_run_comes_back_stops_before_anything_is_trained_anew(drive, tmp_path, monkeypatch):
    cfg = colab.settings(True, run="runs/mine")
    (Path(cfg.mirror) / "checkpoints" / "last").mkdir(parents=True)
    (Path(cfg.mirror) / "checkpoints" / "last" / "state.json").write_text("{}")
    fresh_machine(tmp_path, monkeypatch, "machine2")
    monkeypatch.setattr(
        os, "scandir", lambda path: (_ for _ in ()).throw(OSError(107, "Transport endpoint is not connected"))
    )
    with pytest.raises(fetch.FetchError, match="not connected"):
        colab.settings(True, run="runs/mine")


def test_zip_of_the_own_images_works_off_colab(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("bones.zip", "w") as file:
        for path in tiny.rglob("*.*"):
            file.write(path, path.relative_to(tiny))
    cfg = colab.settings(data="bones.zip", smoke="1")
    assert cfg.run == "runs/bones" and len(catalog.catalog(cfg)[0]) >= 60


def test_kaggle_set_is_fetched_once_for_a_notebook(drive, tiny, monkeypatch):
    asked = []
    monkeypatch.setattr(kagglehub, "dataset_download", lambda slug: asked.append(slug) or str(tiny))
    cfg = colab.settings(data="owner/bones", smoke="1")
    assert len(catalog.catalog(cfg)[0]) >= 60 and asked == ["owner/bones"]


def test_kaggle_set_that_asks_for_an_account_says_where_the_token_goes(drive, monkeypatch):
    def refuse(slug):
        raise PermissionError("403 Client Error")

    monkeypatch.setattr(kagglehub, "dataset_download", refuse)
    with pytest.raises(ValueError, match=r"403 .*secret KAGGLE_API_TOKEN"):
        colab.settings(data="owner/bones")


def test_kagglehub_reads_the_secret_and_does_without_it(drive, monkeypatch):
    assert kagglehub.config.get_colab_credentials().api_key == "from the secret"
    monkeypatch.setattr(sys.modules["google.colab"].userdata, "get", lambda key: {}[key])
    assert kagglehub.config.get_colab_credentials() is None


def test_trained_model_is_asked_about_new_pictures_without_its_data(tiny, tmp_path, capsys):
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / "model" / "config.json").write_text("{}")
    (run / "form.json").write_text(json.dumps({"data": "/no/longer/here"}))
    assert colab.settings(run=str(run), images=str(tiny)).images == str(tiny)
    assert f"images {tiny}, results in {run}" in capsys.readouterr().out
    with pytest.raises(catalog.DataError, match="/no/longer/here"):
        colab.settings(run=str(run))
