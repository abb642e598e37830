"""A copy of a run holds complete files and checkpoints, and gives back only what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bonelib.run_copy import RunCopy


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    for name in ("best", "last", "previous"):
        (folder / "checkpoints" / name).mkdir(parents=True)
        (folder / "checkpoints" / name / "model.safetensors").write_text(f"weights of {name}")
        (folder / "checkpoints" / name / "state.json").write_text(f"state of {name}")
    (folder / "checkpoints" / "torn").mkdir()
    (folder / "figures").mkdir()
    (folder / "figures" / "flow.png").write_text("an image")
    (folder / "catalog.csv").write_text("path\n1.png\n")
    return folder


def files(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()
    }


def push(here: Path, there: Path) -> bool:
    copy = RunCopy(here, there)
    copy.push()
    return copy.wait()


def test_fresh_machine_gets_everything_back(run, tmp_path):
    assert push(run, tmp_path / "drive")
    (tmp_path / "drive" / "catalog.csv.incoming").write_text("interrupted")
    assert RunCopy(tmp_path / "fresh", tmp_path / "drive").pull()
    assert files(tmp_path / "fresh") == files(run)
    assert not RunCopy(tmp_path / "fresh", tmp_path / "drive").pull(), (
        "a second time there is nothing to bring"
    )


def test_nothing_here_is_replaced_by_what_the_copy_has(run, tmp_path):
    push(run, tmp_path / "drive")
    (run / "catalog.csv").write_text("newer")
    (run / "checkpoints" / "previous" / "state.json").unlink()
    (run / "checkpoints" / "previous" / "model.safetensors").unlink()
    (run / "checkpoints" / "previous").rmdir()  # of another moment than the `last` that is here
    (run / "figures" / "flow.png").unlink()
    assert RunCopy(run, tmp_path / "drive").pull()
    assert (run / "catalog.csv").read_text() == "newer"
    assert (run / "figures" / "flow.png").exists() and not (
        run / "checkpoints" / "previous"
    ).exists()


@pytest.mark.parametrize("there", ["fresh", "drive"])
def test_interrupted_copy_has_no_newest_checkpoint_without_its_best_and_resumes(
    run, tmp_path, monkeypatch, there
):
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
                RunCopy(tmp_path / "fresh", tmp_path / "drive").pull()
        else:
            assert not push(run, tmp_path / "drive")
    assert count[-1] == "last" and {
        p.name for p in (tmp_path / there / "checkpoints").iterdir()
    } == {"best", "previous"}
    RunCopy(tmp_path / "fresh", tmp_path / "drive").pull() if there == "fresh" else push(
        run, tmp_path / "drive"
    )
    assert files(tmp_path / there) == files(run)


def test_lost_drive_is_reported_and_gets_no_local_folder_in_its_place(run, tmp_path, capsys):
    assert not push(run, tmp_path / "unmounted" / "MyDrive" / "run")
    assert "could not be written" in capsys.readouterr().out
    assert not (tmp_path / "unmounted").exists()


def test_previous_checkpoint_is_renamed_in_the_copy_and_not_sent_again(run, tmp_path, monkeypatch):
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
    copy = RunCopy(run, tmp_path / "drive")
    copy.push(now=False)
    copy.wait()
    (run / "catalog.csv").write_text("second")
    copy.push(now=False)
    copy.wait()
    assert (tmp_path / "drive" / "catalog.csv").read_text() != "second"
    copy.push()
    copy.wait()
    assert files(tmp_path / "drive") == files(run)


def test_tables_come_back_without_the_checkpoints_that_only_training_needs(run, tmp_path):
    push(run, tmp_path / "drive")
    assert RunCopy(tmp_path / "fresh", tmp_path / "drive").pull(checkpoints=False)
    assert set(files(tmp_path / "fresh")) == {"catalog.csv", "figures/flow.png"}
    assert RunCopy(tmp_path / "fresh", tmp_path / "drive").pull()
    assert files(tmp_path / "fresh") == files(run)
