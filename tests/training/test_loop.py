"""Training learns, repeats and resumes exactly, and stops with an error that says what to do."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score, log_loss

from bonelib.messages import RunError
from bonelib.split import Fold, split_digest
from bonelib.training import loader, loop
from bonelib.training.device import device
from bonelib.training.model import Net, build, load_model
from tests.builders import run_apart
from tests.training.trainee import training_fold

# the columns that do not depend on time
EXACT = ["epoch", "lr", "train_loss", "train_accuracy"]
EXACT += ["val_loss", "val_accuracy", "val_f1", "val_accuracy_raw"]
TIMES = ["seconds", "images_per_second", "data_wait"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Interrupted(Exception):
    """Colab takes the machine away."""


def interrupt_after(epoch: int) -> Callable[[pd.DataFrame], None]:
    def after_epoch(history: pd.DataFrame) -> None:
        if len(history) == epoch:
            raise Interrupted

    return after_epoch


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Fold, pd.DataFrame]:
    """A training of four epochs that nothing interrupted; tests must not change it."""
    fold = training_fold(tmp_path_factory.mktemp("finished"))
    return fold, loop.fit(fold)


def test_artifacts_and_history_are_complete(finished):
    fold, history = finished
    assert list(history.columns) == EXACT + TIMES
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    pd.testing.assert_frame_equal(pd.read_csv(fold.folder / "history.csv"), history)
    assert {p.name for p in (fold.folder / "checkpoints").iterdir()} == {"last", "previous"}
    drawn = fold.splits["draws"].sum() // fold.cfg.batch_size * fold.cfg.batch_size
    assert np.allclose(history["images_per_second"] * history["seconds"], drawn)
    best = history.sort_values(["val_accuracy", "val_loss"], ascending=[False, True]).iloc[0]
    meta = load_model(fold.folder / "model").meta
    assert meta["epoch"] == best["epoch"] and meta["seed"] == 0
    assert meta["splits"] == split_digest(fold.splits)
    assert tuple(meta["class_names"]) == fold.class_names


def validation_logits(net: Net, fold: Fold) -> NDArray[np.float64]:
    images = torch.from_numpy(fold.images[fold.rows("val")])[:, None]
    with torch.inference_mode():
        return net.eval().to(device())(images.to(device())).double().cpu().numpy()


def test_validation_metrics_are_those_of_the_saved_model(finished):
    fold, history = finished
    model, labels = load_model(fold.folder / "model"), fold.labels[fold.rows("val")]
    logits = validation_logits(model.net, fold)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    row = history.set_index("epoch").loc[model.meta["epoch"]]
    assert row["val_accuracy"] == accuracy_score(labels, logits.argmax(1))
    assert row["val_f1"] == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"))
    assert row["val_loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-4)


def test_raw_accuracy_is_that_of_the_weights_before_averaging(tmp_path):
    fold = training_fold(tmp_path, ema=0.999, epochs=6, lr=2e-2, seed=1)
    history = loop.fit(fold)
    net, labels = build(fold.cfg, 3), fold.labels[fold.rows("val")]
    net.load_state_dict(load_file(tmp_path / "checkpoints" / "last" / "model.safetensors"))
    accuracy = accuracy_score(labels, validation_logits(net, fold).argmax(1))
    assert history["val_accuracy_raw"].iloc[-1] == accuracy
    assert (history["val_accuracy_raw"] != history["val_accuracy"]).any()


def test_without_averaging_the_raw_weights_are_validated(tmp_path):
    fold = training_fold(tmp_path, ema=0.0)
    history = loop.fit(fold)
    assert history["val_accuracy_raw"].equals(history["val_accuracy"])
    last = tmp_path / "checkpoints" / "last"
    assert same(*(load_file(last / f"{name}.safetensors") for name in ("model", "averaged")))


def test_learning_rate_follows_the_cosine_with_warm_restarts(finished):
    fold, history = finished
    steps = fold.splits["draws"].sum() // fold.cfg.batch_size
    # cycles of two, then of four epochs; the row has the rate of the epoch's last step
    for epoch, (start, length) in enumerate([(0, 2), (0, 2), (2, 4), (2, 4)]):
        position = (epoch + (steps - 1) / steps - start) / length
        low, high = fold.cfg.lr / 100, fold.cfg.lr
        expected = low + (high - low) * (1 + math.cos(math.pi * position)) / 2
        assert history["lr"][epoch] == pytest.approx(expected)


def test_first_losses_are_those_of_chance_and_each_image_counts_once(tmp_path):
    history = loop.fit(training_fold(tmp_path, lr=1e-7, epochs=1, augment=()))
    assert history["train_loss"][0] == pytest.approx(math.log(3), abs=0.02)
    assert 0 <= history["train_accuracy"][0] <= 1
    fold = training_fold(tmp_path)
    seen = fold.splits["draws"].sum() // 8 * 8
    assert history["images_per_second"][0] * history["seconds"][0] == pytest.approx(seen)
    assert 0 < history["data_wait"][0] < 1


@pytest.mark.parametrize("class_names", [("A", "B"), ("A", "B", "C", "D")])
def test_any_number_of_classes_can_be_learnt(tmp_path, class_names):
    settings = {"epochs": 15, "cycle": 15, "patience": 15, "ema": 0.9, "lr": 1e-2}
    fold = training_fold(tmp_path, class_names=class_names, **settings)
    history = loop.fit(fold)
    assert history["val_accuracy"].max() >= 0.9
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    assert load_model(tmp_path / "model").class_names == class_names


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_same_seed_gives_the_same_weights_whatever_the_workers(finished, tmp_path):
    fold, history = finished
    for workers in (0, 1, 4):
        other = training_fold(tmp_path / str(workers), workers=workers)
        assert loop.fit(other)[EXACT].equals(history[EXACT])
        assert same(weights(other.folder), weights(fold.folder))


def test_another_seed_gives_another_history(finished, tmp_path):
    assert not loop.fit(training_fold(tmp_path, seed=1))[EXACT].equals(finished[1][EXACT])


def test_interrupted_training_ends_in_the_same_weights(finished, tmp_path, capsys):
    fold = training_fold(tmp_path)
    for epoch in (1, 3):
        with pytest.raises(Interrupted):
            loop.fit(fold, after_epoch=interrupt_after(epoch))
    capsys.readouterr()
    history = loop.fit(fold)
    assert history[EXACT].equals(finished[1][EXACT])
    assert same(weights(tmp_path), weights(finished[0].folder))
    assert "resuming after epoch 3" in capsys.readouterr().out


def test_finished_training_returns_at_once_and_more_epochs_continue_it(tmp_path):
    first = loop.fit(training_fold(tmp_path, epochs=2))
    before = (tmp_path / "checkpoints" / "last" / "state.json").stat().st_mtime_ns
    assert loop.fit(training_fold(tmp_path, epochs=2)).equals(first)
    assert (tmp_path / "checkpoints" / "last" / "state.json").stat().st_mtime_ns == before
    longer = loop.fit(training_fold(tmp_path, epochs=3))
    assert longer[:2].equals(first) and len(longer) == 3


def test_changed_setting_is_refused_and_without_resume_training_starts_again(tmp_path):
    loop.fit(training_fold(tmp_path, epochs=2))
    changed = training_fold(tmp_path, epochs=1, lr=1e-3)
    with pytest.raises(RunError, match=r"lr was 0\.005, is 0\.001"):
        loop.fit(changed)
    assert len(loop.fit(replace(changed, cfg=replace(changed.cfg, resume=False)))) == 1
    assert len(loop.fit(changed)) == 1


def test_changed_draws_are_refused(tmp_path):
    fold = training_fold(tmp_path, epochs=1)
    loop.fit(fold)
    with pytest.raises(RunError, match="splits was"):
        loop.fit(replace(fold, splits=fold.splits.assign(draws=fold.splits["draws"] * 2)))


def test_damaged_checkpoint_is_skipped_and_the_result_is_the_same(finished, tmp_path, capsys):
    shutil.copytree(finished[0].folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    path = tmp_path / "run" / "checkpoints" / "last" / "averaged.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    history = loop.fit(training_fold(tmp_path / "run"))
    assert history[EXACT].equals(finished[1][EXACT])
    assert same(weights(tmp_path / "run"), weights(finished[0].folder))
    assert str(path.parent) in capsys.readouterr().out


@pytest.mark.parametrize("patience", [1, 3])
def test_training_stops_after_patience_epochs_without_a_better_one(tmp_path, patience):
    fold = training_fold(tmp_path, epochs=60, patience=patience, ema=0.0)
    history = loop.fit(fold)
    model, labels = load_model(tmp_path / "model"), torch.from_numpy(fold.labels[fold.rows("val")])
    assert len(history) == model.meta["epoch"] + patience < 60
    logits = torch.from_numpy(validation_logits(model.net, fold))
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert history["val_loss"][model.meta["epoch"] - 1] == pytest.approx(loss, rel=1e-4)
    assert len(loop.fit(fold)) == len(history)


def test_callbacks_surround_each_checkpoint(tmp_path):
    last = tmp_path / "checkpoints" / "last" / "state.json"
    events: list[tuple[str, Any]] = []

    def before_checkpoint() -> None:
        events.append(("before", last.stat().st_mtime_ns if last.exists() else 0))

    def after_epoch(history: pd.DataFrame) -> None:
        events.append((f"after {len(history)}", last.stat().st_mtime_ns))
        assert len(pd.read_csv(tmp_path / "history.csv")) == len(history)

    loop.fit(training_fold(tmp_path, epochs=2), before_checkpoint, after_epoch)
    assert [name for name, _ in events] == ["before", "after 1", "before", "after 2"]
    times = [time for _, time in events]
    assert times[0] == 0 < times[1] == times[2] < times[3]


def test_each_epoch_prints_a_line_where_there_is_no_terminal(tmp_path, capsys):
    loop.fit(training_fold(tmp_path, epochs=2))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2 and all("val_accuracy" in line for line in lines)


def test_weight_decay_spares_norms_and_biases(finished):
    fold, _ = finished
    path = fold.folder / "checkpoints" / "last" / "optimizer.pt"
    groups = torch.load(path, weights_only=True)["optimizer"]["param_groups"]
    counts = {group["weight_decay"]: len(group["params"]) for group in groups}
    parameters = list(build(fold.cfg, 3).parameters())
    assert counts == {
        0.0: sum(p.ndim <= 1 for p in parameters),
        fold.cfg.weight_decay: sum(p.ndim > 1 for p in parameters),
    }


RECIPES = {
    "no_ema": {"ema": 0.0},
    "bf16": {"precision": "bf16"},
    "no_clip": {"clip": 0.0},
    "frozen": {"freeze": 0.5},
    "weighted": {"balance": "both"},
    "no_smoothing": {"label_smoothing": 0.0},
    "no_dropout": {"dropout": 0.0},
    "more_decay": {"weight_decay": 0.5},
}


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_resumes_exactly_and_changes_the_training(finished, tmp_path, name):
    settings = RECIPES[name]
    whole = loop.fit(training_fold(tmp_path / "whole", epochs=3, **settings))
    loop.fit(training_fold(tmp_path / "resumed", epochs=2, **settings))
    resumed = loop.fit(training_fold(tmp_path / "resumed", epochs=3, **settings))
    assert resumed[EXACT].equals(whole[EXACT])
    assert same(weights(tmp_path / "resumed"), weights(tmp_path / "whole"))
    assert not whole[EXACT].equals(finished[1][EXACT][:3])


def test_gradients_are_clipped_at_the_given_norm_and_not_at_all_at_0(tmp_path):
    histories = {
        clip: loop.fit(training_fold(tmp_path / str(clip), epochs=2, clip=clip))[EXACT]
        for clip in (0.0, 1000.0, 0.01)
    }
    assert histories[0.0].equals(histories[1000.0])
    assert not histories[0.0].equals(histories[0.01])


def test_averaging_counts_the_steps_also_after_a_resume(tmp_path, monkeypatch):
    steps: list[int] = []
    update = loop.ModelEmaV3.update

    def counted(self: Any, net: Any, step: int) -> None:
        steps.append(step)
        update(self, net, step)

    monkeypatch.setattr(loop.ModelEmaV3, "update", counted)
    for epochs in (1, 3):
        fold = training_fold(tmp_path, epochs=epochs)
        loop.fit(fold)
    assert steps == list(range(3 * (fold.splits["draws"].sum() // fold.cfg.batch_size)))


def test_average_follows_the_weights_from_the_first_steps_on(tmp_path):
    fold = training_fold(tmp_path, ema=0.9999, epochs=2)
    torch.manual_seed(fold.cfg.seed)
    first = build(fold.cfg, 3).state_dict()
    loop.fit(fold)
    raw, averaged = (
        load_file(tmp_path / "checkpoints" / "last" / f"{name}.safetensors")
        for name in ("model", "averaged")
    )
    names = [name for name in raw if name.endswith(".weight")]
    moved = sum((raw[name] - first[name]).square().sum() for name in names)
    behind = sum((raw[name] - averaged[name]).square().sum() for name in names)
    assert behind < 0.1 * moved


def test_frozen_part_is_the_pretrained_one_after_training(tmp_path):
    fold = training_fold(tmp_path, freeze=1.0, epochs=1)
    loop.fit(fold)
    torch.manual_seed(fold.cfg.seed)
    before, after = build(fold.cfg, 3).state_dict(), weights(tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"backbone.classifier.weight", "backbone.classifier.bias"}


def test_loss_that_is_not_finite_ends_training_before_a_checkpoint(tmp_path, monkeypatch):
    losses = loop.weighted_loss
    fold = training_fold(tmp_path)
    loop.fit(replace(fold, cfg=replace(fold.cfg, epochs=1)))
    monkeypatch.setattr(loop, "weighted_loss", lambda *args: losses(*args) * math.nan)
    with pytest.raises(RunError, match=r"nan.*epoch 2.*lr"):
        loop.fit(fold)
    assert len(pd.read_csv(tmp_path / "history.csv")) == 1


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("a CUDA out of memory.")],
)
def test_too_little_memory_is_an_error_that_names_batch_and_image_size(
    tmp_path, monkeypatch, error
):
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(loop, "weighted_loss", fail)
    with pytest.raises(RunError, match=r"batch_size 8 \(BONELIB_BATCH_SIZE\) or image_size 32"):
        loop.fit(training_fold(tmp_path))


def test_other_errors_are_not_taken_for_too_little_memory(tmp_path, monkeypatch):
    def fail(*args: Any) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(loop, "weighted_loss", fail)
    with pytest.raises(RuntimeError, match=r"^something else$"):
        loop.fit(training_fold(tmp_path))


def lose_a_worker(run: Path) -> None:
    """Train with a loader process that is killed in the second epoch, as if memory were short."""
    # the process inherits what is planted here
    multiprocessing.set_start_method("fork", force=True)
    augmented = loader.AugmentedBatches.__getitem__

    def killed(self: Any, draws: Any) -> Any:
        if draws[0][1] == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return augmented(self, draws)

    loader.AugmentedBatches.__getitem__ = killed
    loop.fit(training_fold(run, workers=1))


def test_killed_loader_process_is_reported_and_the_rerun_resumes(finished, tmp_path, capsys):
    code, output = run_apart(tmp_path / "log", lose_a_worker, tmp_path / "run")
    assert code == 1 and "RunError" in output and "BONELIB_WORKERS=0" in output, output
    history = loop.fit(training_fold(tmp_path / "run"))
    assert "resuming after epoch 1" in capsys.readouterr().out
    assert history[EXACT].equals(finished[1][EXACT])


def train(run: Path) -> None:
    loop.fit(training_fold(run))


def test_full_disk_is_reported_and_the_rerun_resumes(finished, tmp_path, capsys):
    run = tmp_path / "run"
    loop.fit(training_fold(run, epochs=2))
    code, output = run_apart(tmp_path / "log", train, run, file_size=100_000)
    assert code == 1 and f"RunError: {run / 'checkpoints'}" in output, output
    capsys.readouterr()
    history = loop.fit(training_fold(run))
    assert "resuming after epoch 2" in capsys.readouterr().out
    assert history[EXACT].equals(finished[1][EXACT])
