"""A checkpoint is complete or skipped, and resumes only the training that it belongs to."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bonelib.config import Config
from bonelib.messages import RunError
from bonelib.storage import file_digest, read_json, write_json
from bonelib.training import checkpoint
from bonelib.training.checkpoint import TrainingState, fixed_settings

FILES = ["averaged.safetensors", "best.safetensors", "model.safetensors", "optimizer.pt"]


def new_state(seed: int = 0, **settings: Any) -> TrainingState:
    """The state before the first epoch, with weights of their own for each seed."""
    torch.manual_seed(seed)
    nets = {name: nn.Linear(2, 2) for name in ("model", "averaged", "best")}
    optimizer = torch.optim.AdamW(nets["model"].parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0 + seed)
    fixed = fixed_settings(Config(**settings)) | {"splits": "abc"}
    return TrainingState(fixed, nets, optimizer, scaler)


def train_epoch(state: TrainingState, accuracy: float = 0.5, loss: float = 1.0) -> None:
    state.nets["model"](torch.ones(1, 2)).sum().backward()
    state.optimizer.step()
    epoch = len(state.history) + 1
    state.history.append({"epoch": epoch, "val_accuracy": accuracy, "val_loss": loss})


def saved(folder: Path, epochs: int = 2) -> TrainingState:
    state = new_state()
    for _ in range(epochs):
        train_epoch(state)
        checkpoint.save(folder, state)
    return state


def test_restored_state_is_the_saved_one(tmp_path):
    old, new = saved(tmp_path), new_state(seed=1)
    (message,) = checkpoint.restore(tmp_path, new)
    assert "2" in message and new.history == old.history
    for name, net in old.nets.items():
        assert torch.equal(new.nets[name].weight, net.weight)
    states = [list(s.optimizer.state_dict()["state"].values()) for s in (old, new)]
    assert all(torch.equal(a["exp_avg"], b["exp_avg"]) for a, b in zip(*states, strict=True))
    assert new.scaler.state_dict() == old.scaler.state_dict()


def test_without_a_checkpoint_nothing_changes(tmp_path):
    state = new_state()
    assert checkpoint.restore(tmp_path / "checkpoints", state) == [] and not state.history


def test_last_and_previous_are_kept(tmp_path):
    saved(tmp_path, epochs=3)
    lengths = {p.name: len(read_json(p / "state.json")["history"]) for p in tmp_path.iterdir()}
    assert lengths == {"last": 3, "previous": 2}
    assert {p.name for p in (tmp_path / "last").iterdir()} == {*FILES, "state.json"}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def plant_list(path: Path) -> None:
    path.write_text("[1]")


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink, plant_list])
@pytest.mark.parametrize("name", [*FILES, "state.json"])
def test_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path, name, damage):
    saved(tmp_path)
    damage(tmp_path / "last" / name)
    state = new_state()
    messages = checkpoint.restore(tmp_path, state)
    assert len(state.history) == 1
    assert str(tmp_path / "last") in messages[0] and len(messages) == 2


def test_damaged_last_does_not_cost_the_checkpoint_before_it(tmp_path):
    saved(tmp_path)
    flip(tmp_path / "last" / "model.safetensors")
    state = new_state()
    checkpoint.restore(tmp_path, state)
    train_epoch(state)
    checkpoint.save(tmp_path, state)
    assert len(read_json(tmp_path / "last" / "state.json")["history"]) == 2
    again = new_state()
    assert len(checkpoint.restore(tmp_path, again)) == 1 and len(again.history) == 2


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("moment", range(4))
def test_kill_between_two_steps_of_saving_leaves_a_complete_checkpoint(
    tmp_path, moment, monkeypatch
):
    state = saved(tmp_path)
    steps: list[Any] = []
    functions: list[tuple[Any, str]] = [(shutil, "rmtree"), (Path, "replace")]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **options: Any) -> Any:
            # what state.json and a temporary folder do does not count
            if Path(path).name in ("last", "next", "previous"):
                steps.append(path)
                if len(steps) > moment + 1:
                    raise Killed
            return function(path, *args, **options)

        return call

    train_epoch(state)
    with monkeypatch.context() as patched:
        for owner, name in functions:
            patched.setattr(owner, name, counted(getattr(owner, name)))
        try:
            checkpoint.save(tmp_path, state)
        except Killed:
            assert moment < 3
    found = new_state()
    checkpoint.restore(tmp_path, found)
    assert len(found.history) in (2, 3)
    checkpoint.save(tmp_path, state)
    checkpoint.restore(tmp_path, found)
    assert len(found.history) == 3


@pytest.mark.parametrize(
    ("change", "named"),
    [({"lr": 0.5}, "lr was 0.001, is 0.5"), ({"augment": ("hflip",)}, "augment was")],
)
def test_changed_setting_is_refused_and_named(tmp_path, change, named):
    saved(tmp_path)
    state = new_state(seed=1, **change)
    before = state.nets["model"].weight.clone()
    with pytest.raises(RunError, match=named):
        checkpoint.restore(tmp_path, state)
    assert torch.equal(state.nets["model"].weight, before) and not state.history


def test_changed_splits_are_refused_and_named(tmp_path):
    saved(tmp_path)
    state = new_state()
    state.settings["splits"] = "other"
    with pytest.raises(RunError, match="splits"):
        checkpoint.restore(tmp_path, state)


def test_settings_that_change_no_weight_may_change():
    cfg = Config()
    changes = {"epochs": 99, "patience": 3, "workers": 2, "run": "x", "cache": "y", "mirror": "z"}
    given = {"given": {"epochs": 99}}
    assert fixed_settings(replace(cfg, **changes, **given)) == fixed_settings(cfg)
    assert fixed_settings(replace(cfg, batch_size=8)) != fixed_settings(cfg)


def test_checkpoint_of_version_1_is_refused(tmp_path):
    saved(tmp_path)
    for path in tmp_path.glob("*/state.json"):
        facts = read_json(path)
        write_json(path, facts | {"config": facts.pop("settings"), "epoch": 2, "best": None})
    with pytest.raises(RunError, match="bonelib 1"):
        checkpoint.restore(tmp_path, new_state())


def test_best_row_has_the_highest_accuracy_then_the_least_loss_then_the_first_epoch():
    state = new_state()
    for accuracy, loss in [(0.5, 0.1), (0.6, 9.0), (0.6, 8.0), (0.6, 8.0), (0.5, 0.1)]:
        train_epoch(state, accuracy, loss)
    assert state.best["epoch"] == 3


class Evil:
    """What leaves a trace where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.mark,)


def test_nothing_in_a_checkpoint_is_unpickled(tmp_path):
    mark = tmp_path / "unpickled"
    for name in (*FILES, "state.json"):
        saved(tmp_path / name, epochs=1)
        path = tmp_path / name / "last" / name
        if name == "optimizer.pt":
            torch.save({"optimizer": Evil(mark), "scaler": {}}, path)
        else:
            path.write_bytes(pickle.dumps(Evil(mark)))
        if name != "state.json":
            facts = read_json(path.with_name("state.json"))
            facts["sha256"][name] = file_digest(path)
            write_json(path.with_name("state.json"), facts)
            with pytest.raises(RunError, match=str(path.parent)):
                checkpoint.restore(tmp_path / name, new_state())
        else:
            assert len(checkpoint.restore(tmp_path / name, new_state())) == 1
        assert not mark.exists(), name
