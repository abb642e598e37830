"""The mirror holds whole files and checkpoints only, and gives back what is missing, never what is here."""

from __future__ import annotations

from pathlib import Path

import pytest

from bonelib.mirror import Mirror


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    for name in ("best", "last", "previous"):
        (folder / "checkpoints" / name).mkdir(parents=True)
        (folder / "checkpoints" / name / "model.safetensors").write_text(f"weights of {name}")
        (folder / "checkpoints" / name / "state.json").write_text(f"state of {name}")
    (folder / "checkpoints" / "torn").mkdir()
    (folder / "figures").mkdir()
    (folder / "figures" / "flow.png").write_text("a picture")
    (folder / "catalog.csv").write_text("path\n1.png\n")
    return folder


def files(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def push(here: Path, there: Path) -> bool:
    mirror = Mirror(here, there)
    mirror.push()
    return mirror.wait()


def test_fresh_machine_gets_everything_back(run, tmp_path):
    assert push(run, tmp_path / "drive")
    (tmp_path / "drive" / "catalog.csv.incoming").write_text("cut off")
    assert Mirror(tmp_path / "fresh", tmp_path / "drive").pull()
    assert files(tmp_path / "fresh") == files(run)
    assert not Mirror(tmp_path / "fresh", tmp_path / "drive").pull(), "a second time there is nothing to bring"


def test_what_is_here_is_not_replaced_by_what_the_mirror_has(run, tmp_path):
    push(run, tmp_path / "drive")
    (run / "catalog.csv").write_text("newer")
    (run / "checkpoints" / "previous" / "state.json").unlink()
    (run / "checkpoints" / "previous" / "model.safetensors").unlink()
    (run / "checkpoints" / "previous").rmdir()  # of another moment than the `last` that is here
    (run / "figures" / "flow.png").unlink()
    assert Mirror(run, tmp_path / "drive").pull()
    assert (run / "catalog.csv").read_text() == "newer"
    assert (run / "figures" / "flow.png").exists() and not (run / "checkpoints" / "previous").exists()


@pytest.mark.parametrize("there", ["fresh", "drive"])
def test_cut_copy_has_no_newest_checkpoint_without_its_best_and_goes_on(run, tmp_path, monkeypatch, there):
    import shutil

    real, count = shutil.copytree, []

    def cut(source, *args, **kwargs):
        count.append(Path(source).name)
        if len(count) == 3:
            raise OSError(107, "Transport endpoint is not connected")
        return real(source, *args, **kwargs)

    if there == "fresh":
        push(run, tmp_path / "drive")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", cut)
        if there == "fresh":
            with pytest.raises(OSError, match="not connected"):
                Mirror(tmp_path / "fresh", tmp_path / "drive").pull()
        else:
            assert not push(run, tmp_path / "drive")
    assert count[-1] == "last" and {p.name for p in (tmp_path / there / "checkpoints").iterdir()} == {
        "best",
        "previous",
    }
    Mirror(tmp_path / "fresh", tmp_path / "drive").pull() if there == "fresh" else push(run, tmp_path / "drive")
    assert files(tmp_path / there) == files(run)


def test_lost_drive_is_told_and_gets_no_local_folder_in_its_place(run, tmp_path, capsys):
    assert not push(run, tmp_path / "unmounted" / "MyDrive" / "run")
    assert "could not be written" in capsys.readouterr().out
    assert not (tmp_path / "unmounted").exists()


def test_previous_checkpoint_is_renamed_in_the_mirror_and_not_sent_again(run, tmp_path, monkeypatch):
    import shutil

    push(run, tmp_path / "drive")
    shutil.rmtree(run / "checkpoints" / "previous")
    (run / "checkpoints" / "last").rename(run / "checkpoints" / "previous")
    shutil.copytree(run / "checkpoints" / "best", run / "checkpoints" / "last")
    real, sent = shutil.copytree, []
    monkeypatch.setattr(shutil, "copytree", lambda a, b: sent.append(a.name) or real(a, b))
    assert push(run, tmp_path / "drive")
    assert sent == ["last"] and files(tmp_path / "drive") == files(run)


def test_copies_while_training_are_spaced_out_and_the_last_one_is_made_at_once(run, tmp_path):
    mirror = Mirror(run, tmp_path / "drive")
    mirror.push(now=False)
    mirror.wait()
    (run / "catalog.csv").write_text("second")
    mirror.push(now=False)
    mirror.wait()
    assert (tmp_path / "drive" / "catalog.csv").read_text() != "second"
    mirror.push()
    mirror.wait()
    assert files(tmp_path / "drive") == files(run)


def test_tables_come_back_without_the_checkpoints_that_only_training_needs(run, tmp_path):
    push(run, tmp_path / "drive")
    assert Mirror(tmp_path / "fresh", tmp_path / "drive").pull(checkpoints=False)
    assert set(files(tmp_path / "fresh")) == {"catalog.csv", "figures/flow.png"}
    assert Mirror(tmp_path / "fresh", tmp_path / "drive").pull()
    assert files(tmp_path / "fresh") == files(run)
