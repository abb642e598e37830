"""What a notebook takes from the one before: used if it fits, made if absent, else refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bonelib import colab, pipeline
from bonelib.config import Config
from bonelib.messages import ConfigError, DataError, RunError
from bonelib.split import split_digest
from bonelib.storage import file_digest, list_files, read_json, write_csv, write_json
from bonelib.training.checkpoint import fixed_settings
from tests.builders import encoded, image_folder, waves
from tests.training.trainee import training_fold


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file of a folder."""
    return {name: file_digest(folder / name) for name, *_ in list_files(folder)}


@pytest.fixture
def copied(trained: Config, tiny: Path, tmp_path: Path) -> Config:
    """Settings of a trained run on data of its own, both of which a test may change."""
    shutil.copytree(tiny, tmp_path / "data")
    shutil.copytree(trained.root, tmp_path / "run")
    return replace(trained, data=str(tmp_path / "data"), run=str(tmp_path / "run"))


@pytest.fixture
def audited_run(trained: Config, tmp_path: Path) -> Config:
    """Settings of a run that holds an audit and nothing else."""
    for name in ("catalog.csv", "audit.json"):
        (tmp_path / "run").mkdir(exist_ok=True)
        shutil.copy(trained.root / name, tmp_path / "run")
    return replace(trained, run=str(tmp_path / "run"))


class AuditMade(Exception):
    """Another audit was made."""


@pytest.fixture
def no_audit(monkeypatch):
    def audit(*args):
        raise AuditMade

    monkeypatch.setattr(pipeline, "audit", audit)


def test_audit_is_made_once_and_read_again(cfg, request):
    first = pipeline.audited(cfg)
    request.getfixturevalue("no_audit")
    again = pipeline.audited(cfg)
    pd.testing.assert_frame_equal(first.table, again.table, check_dtype=False)
    assert again.audit == read_json(cfg.root / "audit.json")
    assert np.array_equal(first.thumbnails, again.thumbnails) and first.root == again.root
    assert len(again.readable) == len(again.thumbnails) < len(again.table)


def test_audit_is_read_on_a_machine_with_another_salt(audited_run, tmp_path, no_audit):
    data = pipeline.audited(replace(audited_run, cache=str(tmp_path / "cache")))
    table = pd.read_csv(audited_run.root / "catalog.csv", keep_default_na=False)
    assert list(data.table["patient"]) == list(table["patient"])


@pytest.mark.parametrize("column", ["label", "patient", "sha256"])
def test_audit_of_other_labels_patients_or_contents_is_made_again(audited_run, column, no_audit):
    table = pd.read_csv(audited_run.root / "catalog.csv", keep_default_na=False)
    others = table[column][table[column] != table.loc[0, column]]
    table.loc[0, column] = others.iloc[-1]
    write_csv(audited_run.root / "catalog.csv", table)
    with pytest.raises(AuditMade):
        pipeline.audited(audited_run)


def test_audit_without_metadata_that_were_added_since_is_made_again(
    audited_run, tmp_path, no_audit
):
    table = pd.read_csv(audited_run.root / "catalog.csv")[["path"]]
    write_csv(tmp_path / "table.csv", table.assign(grip_strength=range(len(table))))
    with pytest.raises(AuditMade):
        pipeline.audited(replace(audited_run, metadata=str(tmp_path / "table.csv")))


def test_after_cross_validation_only_new_images_can_be_predicted(trained, tmp_path):
    cfg = replace(trained, folds=3)
    with pytest.raises(ConfigError, match="BONELIB_IMAGES"):
        pipeline.new_images(cfg)
    (tmp_path / "x.png").write_bytes(encoded(waves(), "PNG"))
    assert pipeline.new_images(replace(cfg, images=str(tmp_path)))[1] == ["x.png"]


def lose_column(run: Path) -> None:
    write_csv(run / "catalog.csv", pd.read_csv(run / "catalog.csv").drop(columns="group"))


def lose_results(run: Path) -> None:
    (run / "audit.json").write_text('{"half')


@pytest.mark.parametrize("damage", [lose_column, lose_results])
def test_audit_that_is_damaged_is_made_again(audited_run, damage, no_audit):
    damage(audited_run.root)
    with pytest.raises(AuditMade):
        pipeline.audited(audited_run)


def test_refresh_makes_the_audit_again(audited_run, no_audit):
    with pytest.raises(AuditMade):
        pipeline.audited(audited_run, refresh=True)


def test_trained_run_is_complete_and_config_json_holds_only_what_was_given(trained, tiny):
    names = set(contents(trained.root))
    tables = {"catalog.csv", "audit.json", "splits.csv", "history.csv", "config.json"}
    assert tables | {"model/model.safetensors", "checkpoints/last/state.json"} <= names
    given = {"data": str(tiny), "backbone": "test_efficientnet"}
    assert read_json(trained.root / "config.json") == given


@pytest.mark.parametrize("refresh", [True, False])
def test_what_notebook_01_was_given_is_what_the_next_one_gets(audited_run, monkeypatch, refresh):
    monkeypatch.setenv("BONELIB_CACHE", audited_run.cache)
    earlier = pipeline.audited(audited_run)
    monkeypatch.setattr(pipeline, "audit", lambda *args: (earlier.table, earlier.audit))
    form = {"data": audited_run.data, "seed": "7"}
    pipeline.audited(colab.settings(run=audited_run.run, **form), refresh=refresh)
    cfg = colab.settings(run=audited_run.run, data="")
    assert (cfg.data, cfg.seed) == (audited_run.data, 7)


def test_fold_holds_its_images_in_the_order_of_its_splits(trained):
    fold = next(pipeline.folds(trained))
    size = trained.image_size
    assert fold.cfg == trained and fold.images.shape == (len(fold.splits), size, size)
    data = pipeline.audited(trained)
    row = int(fold.rows("test")[0])
    position = data.readable.index[data.readable["path"] == fold.splits["path"][row]][0]
    thumbnail = data.thumbnails[position].astype(float)
    means = [thumbnail.mean(), fold.images[row].mean()]
    assert means[0] == pytest.approx(means[1], rel=0.03)


def test_trained_model_is_loaded_and_one_of_another_image_size_is_refused(trained, monkeypatch):
    monkeypatch.setattr(pipeline, "train", None)
    fold = next(pipeline.folds(trained))
    assert pipeline.trained_model(fold).class_names == fold.class_names
    with pytest.raises(RunError, match="image_size 64, found 32"):
        pipeline.trained_model(replace(fold, images=fold.images[:, ::2, ::2]))


def test_run_of_a_model_that_was_trained_on_another_split_is_not_changed(copied):
    before = contents(copied.root)
    with pytest.raises(RunError, match=r"another split.*Nothing was changed"):
        next(pipeline.folds(replace(copied, seed=5, given={"seed": 5})))
    assert contents(copied.root) == before


def test_run_of_a_model_that_was_trained_on_other_images_is_not_changed(copied):
    before = contents(copied.root)
    paths = sorted(Path(copied.data).glob("Normal/*"))
    paths[0].unlink()
    paths[1].with_name("new.png").write_bytes(encoded(waves(), "PNG"))
    with pytest.raises(RunError, match=r"other images.*Nothing was changed"):
        next(pipeline.folds(copied))
    assert contents(copied.root) == before


def test_without_resume_another_split_replaces_the_run(copied):
    cfg = replace(copied, seed=5, resume=False, given={"seed": 5})
    fold = next(pipeline.folds(cfg))
    assert read_json(copied.root / "config.json") == {"seed": 5}
    pd.testing.assert_frame_equal(pd.read_csv(copied.root / "splits.csv"), fold.splits)


def other_images(cfg: Config) -> Config:
    paths = sorted(Path(cfg.data).glob("Normal/*"))
    paths[0].unlink()
    paths[1].with_name("new.png").write_bytes(encoded(waves(), "PNG"))
    return cfg


def too_few_images(cfg: Config) -> Config:
    for path in sorted(Path(cfg.data).glob("Normal/*"))[3:]:
        path.unlink()
    return cfg


def other_labels(cfg: Config) -> Config:
    other = next(path for path in Path(cfg.data).glob("*/") if path.name.startswith("Osteop"))
    for path in sorted(Path(cfg.data).glob("Normal/*"))[:4]:
        path.rename(other / path.name)
    return cfg


def other_settings(**changes) -> Callable[[Config], Config]:
    return lambda cfg: replace(cfg, **changes, given=changes)


CHANGES = {
    "images": other_images,
    "too few images": too_few_images,
    "labels": other_labels,
    "seed": other_settings(seed=5),
    "learning rate": other_settings(lr=0.5),
    "image size": other_settings(image_size=96),
    "balance": other_settings(balance="none"),
    "cross-validation": other_settings(folds=3),
}


@pytest.mark.parametrize(
    ("change", "lost"),
    [(change, "nothing") for change in CHANGES]
    + [(change, lost) for change in list(CHANGES)[3:] for lost in ("model", "checkpoints")],
)
def test_nothing_of_a_run_changes_before_all_checks_have_passed(copied, change, lost):
    """A run that was stopped before its first model, one without checkpoints, a complete one."""
    shutil.rmtree(copied.root / lost, ignore_errors=True)
    before = contents(copied.root)
    cfg = CHANGES[change](copied)
    with pytest.raises((RunError, DataError)):
        pipeline.train(next(pipeline.folds(cfg)))
    assert contents(copied.root) == before
    with pytest.raises((RunError, DataError, ConfigError)):
        pipeline.new_images(cfg)
    assert contents(copied.root) == before


def test_without_resume_a_split_that_fails_changes_nothing(copied):
    before = contents(copied.root)
    cfg = replace(too_few_images(copied), resume=False)
    with pytest.raises(DataError):
        next(pipeline.folds(cfg))
    assert contents(copied.root) == before


def test_run_whose_checkpoints_are_on_drive_alone_is_not_changed(copied, tmp_path):
    mirror = tmp_path / "drive" / "run"
    shutil.copytree(copied.root, mirror)
    for name in ("model", "checkpoints"):
        shutil.rmtree(copied.root / name)
    before = contents(copied.root), contents(mirror)
    with pytest.raises(RunError, match="lr was"):
        next(pipeline.folds(replace(copied, mirror=str(mirror), lr=0.5)))
    assert (contents(copied.root), contents(mirror)) == before


def test_fold_of_a_cross_validation_that_was_trained_otherwise_keeps_the_run(audited_run):
    cfg = replace(audited_run, folds=3)
    fold = list(pipeline.folds(cfg))[1]
    settings = fixed_settings(replace(fold.cfg, lr=0.5)) | {"splits": split_digest(fold.splits)}
    write_json(fold.folder / "checkpoints" / "previous" / "state.json", {"settings": settings})
    before = contents(cfg.root)
    with pytest.raises(RunError, match=r"fold-1.*lr was 0\.5"):
        list(pipeline.folds(replace(cfg, given={"seed": 0})))
    assert contents(cfg.root) == before


def test_training_again_keeps_the_calibration_of_the_same_weights(copied):
    before = contents(copied.root)
    assert "threshold" in read_json(copied.root / "model" / "config.json")
    pipeline.train(next(pipeline.folds(copied)))
    assert contents(copied.root) == before


def test_model_of_a_training_that_was_started_anew_is_not_evaluated(copied):
    cfg = replace(copied, seed=5, resume=False, given={"seed": 5})
    with pytest.raises(RunError, match="03_train"):
        pipeline.trained_model(next(pipeline.folds(cfg)))


@pytest.mark.parametrize("function", [pipeline.audited, lambda cfg: next(pipeline.folds(cfg))])
def test_run_of_version_1_is_refused_by_its_name_and_not_changed(cfg, function):
    write_json(cfg.root / "config.json", {"layer_decay": 0.8, "data": "sample"})
    before = contents(cfg.root)
    with pytest.raises(RunError, match=f"{cfg.root} was made by bonelib 1.*BONELIB_RUN"):
        function(cfg)
    assert contents(cfg.root) == before


def test_cross_validation_in_the_run_folder_of_one_training_is_refused(copied):
    before = contents(copied.root)
    with pytest.raises(RunError, match="another run folder"):
        next(pipeline.folds(replace(copied, folds=3)))
    assert contents(copied.root) == before


def test_cross_validation_tests_every_image_once_a_repeat_in_folders_of_their_own(
    audited_run, tmp_path
):
    cfg = replace(audited_run, folds=3, repeats=2, mirror=str(tmp_path / "drive"))
    folds = list(pipeline.folds(cfg))
    assert len({fold.folder for fold in folds}) == len({fold.cfg.mirror for fold in folds}) == 6
    assert [fold.cfg.seed for fold in folds] == [0, 0, 0, 1, 1, 1]
    for repeat in (folds[:3], folds[3:]):
        tested = pd.concat([fold.splits.iloc[fold.rows("test")] for fold in repeat])["path"]
        assert sorted(tested) == sorted(folds[0].splits["path"])
    for fold in folds:
        pd.testing.assert_frame_equal(pd.read_csv(fold.folder / "splits.csv"), fold.splits)
    pd.testing.assert_frame_equal(pd.read_csv(cfg.root / "splits.csv"), folds[0].splits)


def test_training_is_copied_while_it_grows_and_continues_on_a_fresh_machine(tmp_path, capsys):
    run, mirror = tmp_path / "run", tmp_path / "drive"
    epochs = []
    pipeline.train(training_fold(run, mirror=str(mirror), epochs=2), epochs.append)
    assert [len(history) for history in epochs] == [1, 2]
    assert contents(run) == contents(mirror) != {}
    shutil.rmtree(run)
    history = pipeline.train(training_fold(run, mirror=str(mirror), epochs=3))
    assert len(history) == 3 and "resuming after epoch 2" in capsys.readouterr().out
    assert contents(run) == contents(mirror)


def test_images_to_predict_are_those_given_else_the_test_set(trained, tmp_path):
    root, paths = pipeline.new_images(trained)
    fold = next(pipeline.folds(trained))
    assert paths == fold.splits["path"][fold.rows("test")].tolist()
    assert root == Path(trained.data)
    (tmp_path / "a.png").write_bytes(encoded(waves(), "PNG"))
    given = pipeline.new_images(replace(trained, images=str(tmp_path), data="/absent"))
    assert given == (tmp_path, ["a.png"])


def test_classes_that_are_numbers_are_texts_in_every_notebook(tmp_path):
    data = image_folder(
        tmp_path / "data", *(f"{grade}/{i}.png" for grade in "01" for i in range(2))
    )
    places = {"data": str(data), "run": str(tmp_path / "run"), "cache": str(tmp_path / "cache")}
    cfg = Config(**places, class_names=("0", "1"))
    first, again = pipeline.audited(cfg).table, pipeline.audited(cfg).table
    assert first["label"].tolist() == again["label"].tolist() == ["0", "0", "1", "1"]
