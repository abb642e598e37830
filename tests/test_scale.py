"""Kills lose at most an epoch and change nothing; two processes do what one does."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from bonelib import recipe, train
from bonelib.config import Config
from tests import trainee

TRAINEE = Path(trainee.__file__)
PATH = ["epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_f1"]


def command(run: Path, processes: int = 1, **settings) -> list[str]:
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    )
    return [sys.executable, *launch, str(TRAINEE), str(run), json.dumps(settings)]


ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TRAINEE.parents[1])}


def trained(run: Path, processes: int = 1, **settings) -> tuple[dict[str, torch.Tensor], pd.DataFrame]:
    subprocess.run(command(run, processes, **settings), env=ENV, check=True, capture_output=True, timeout=300)
    return load_file(run / "model" / "model.safetensors"), pd.read_csv(run / "history.csv")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 0.0) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k], rtol=0, atol=tolerance) for k in a)


def kill_at(run: Path, moment: float | str, **settings) -> bool:
    """Start a training and SIGKILL it after `moment` seconds, or as soon as a file matching it appears; False if it ended."""
    process = subprocess.Popen(command(run, **settings), env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + (moment if isinstance(moment, float) else 120)
    while process.poll() is None and time.monotonic() < until:
        if isinstance(moment, str) and any(run.glob(moment)):
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("kills", [pytest.param(3, id="short"), pytest.param(20, id="long", marks=pytest.mark.soak)])
def test_training_killed_at_any_moment_ends_in_the_same_weights(tmp_path, kills):
    whole, history = trained(tmp_path / "whole", epochs=6)
    chance = random.Random(0)
    killed = 0
    # half of the kills fall into the writing of a checkpoint, the others anywhere once the process has got going
    while killed < kills:
        run = tmp_path / f"run-{killed}"
        writing = "checkpoints/incoming/*"
        moments = [writing if chance.random() < 0.5 else chance.uniform(3.0, 9.0) for _ in range(2)]
        killed += sum(kill_at(run, moment, epochs=6) for moment in moments)
        weights, resumed = trained(run, epochs=6)
        assert same(weights, whole) and resumed[PATH].equals(history[PATH])


def test_two_processes_end_in_the_weights_of_one(tmp_path):
    # layer norms, no dropout, no augmentation: what is left to differ is the order of floating-point sums
    settings = {"backbone": "test_convnext", "epochs": 2, "dropout": 0.0, "augment": [], "lr": 1e-3}
    one, history = trained(tmp_path / "one", **settings)
    two, history_two = trained(tmp_path / "two", processes=2, **settings)
    assert same(one, two, 1e-4)
    assert np.allclose(history[PATH], history_two[PATH], atol=1e-4), "no padded sample is counted twice"


def test_killed_rank_ends_the_job_and_a_restart_resumes(tmp_path):
    settings = {"backbone": "test_convnext", "epochs": 40, "patience": 40}
    quiet = subprocess.DEVNULL
    job = subprocess.Popen(command(tmp_path, 2, **settings), env=ENV, stdout=quiet, stderr=quiet)
    while not (tmp_path / "checkpoints" / "last").exists():
        assert job.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert job.wait(timeout=60) != 0
    done = len(pd.read_csv(tmp_path / "history.csv"))
    _, history = trained(tmp_path, processes=2, **settings | {"epochs": done + 2})
    assert history["epoch"].tolist() == list(range(1, done + 3))


def test_short_memory_takes_a_batch_in_halves_with_the_same_result(tmp_path, monkeypatch, capsys):
    settings = trainee.SETTINGS | {"backbone": "test_convnext", "epochs": 2, "dropout": 0.0}
    cfg = Config(run=str(tmp_path / "whole"), **settings)
    whole = train.train(cfg, *trainee.data(), cfg.root)

    inner = train._train

    def short_of_memory(*args):
        if args[-1] > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return inner(*args)

    monkeypatch.setattr(train, "_train", short_of_memory)
    short = Config(run=str(tmp_path / "short"), **settings)
    history = train.train(short, *trainee.data(), short.root)
    assert np.allclose(history[PATH], whole[PATH], atol=1e-4)
    said = capsys.readouterr().out
    assert "4 images at once" in said and "2 images at once" in said


def test_other_errors_are_not_taken_for_short_memory(tmp_path, monkeypatch):
    def broken(*args):
        raise RuntimeError("something else")

    monkeypatch.setattr(train, "_train", broken)
    with pytest.raises(RuntimeError, match="something else"):
        train.train(Config(run=str(tmp_path)), *trainee.data(), tmp_path)


RECIPES = {
    "layer_decay": {"layer_decay": 0.7}, "thaw": {"thaw": 1}, "mixup": {"mixup": 0.4}, "ordinal": {"ordinal": True},
    "no_ema": {"ema": 0.0}, "bf16": {"precision": "bf16"}, "no_clip": {"clip": 0.0}, "frozen": {"freeze": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_trains_resumes_exactly_and_changes_the_path(tmp_path, name):
    def run(folder: str, epochs: int, **settings) -> pd.DataFrame:
        cfg = Config(run=str(tmp_path / folder), **(trainee.SETTINGS | {"epochs": epochs} | settings))
        return train.train(cfg, *trainee.data(), cfg.root)

    settings = RECIPES[name]
    whole = run("whole", 3, **settings)
    run("parts", 1, **settings)
    assert run("parts", 3, **settings)[PATH].equals(whole[PATH])
    assert not run("plain", 3)[PATH].equals(whole[PATH])


def test_ordinal_smoothing_gives_nothing_to_the_far_class():
    aims = recipe.targets(Config(label_smoothing=0.2, ordinal=True))
    assert torch.allclose(aims, torch.tensor([[0.8, 0.2, 0.0], [0.1, 0.8, 0.1], [0.0, 0.2, 0.8]]))
    plain = recipe.targets(Config(label_smoothing=0.3))
    assert torch.allclose(plain, torch.full((3, 3), 0.1) + 0.7 * torch.eye(3))


def test_thawing_releases_a_quarter_at_a_time_down_to_the_setting():
    cfg = Config(thaw=2, freeze=0.4)
    assert [recipe.frozen_share(cfg, e) for e in range(8)] == [1, 1, 0.75, 0.75, 0.5, 0.5, 0.4, 0.4]


def test_rates_fall_towards_the_input_with_layer_decay():
    from bonelib import model

    cfg = Config(backbone="test_efficientnet", pretrained=False, freeze=0.0, layer_decay=0.5)
    net = model.build(cfg)
    rates = {id(p): g["lr"] for g in recipe.parameter_groups(net, cfg) for p in g["params"]}
    assert rates[id(net.backbone.classifier.weight)] == cfg.lr
    assert rates[id(net.backbone.conv_stem.weight)] < 0.2 * cfg.lr


def test_rate_finder_rises_learns_and_stops_where_the_loss_explodes():
    cfg = Config(**(trainee.SETTINGS | {"augment": ()}))
    table = recipe.find_lr(cfg, *trainee.data(), low=1e-4, high=10.0, steps=40)
    assert table["lr"].is_monotonic_increasing and table["lr"].iloc[0] == pytest.approx(1e-4)
    assert table["loss"].min() < 0.8 * table["loss"].iloc[0]


def test_mirror_brings_a_run_back_on_a_fresh_machine(tmp_path):
    drive = tmp_path / "drive"
    cfg = Config(run=str(tmp_path / "here"), mirror=str(drive), **(trainee.SETTINGS | {"epochs": 2}))
    first = train.train(cfg, *trainee.data(), cfg.root)
    fresh = Config(run=str(tmp_path / "fresh"), mirror=str(drive), **(trainee.SETTINGS | {"epochs": 3}))
    longer = train.train(fresh, *trainee.data(), fresh.root)
    assert longer[:2][PATH].equals(first[PATH]) and len(longer) == 3
    assert not list(drive.rglob("*.incoming"))


def test_mirror_that_vanishes_is_told_and_training_goes_on(tmp_path, capsys):
    (tmp_path / "drive").write_text("a file where the folder should be")
    cfg = Config(run=str(tmp_path / "here"), mirror=str(tmp_path / "drive"), **(trainee.SETTINGS | {"epochs": 2}))
    assert len(train.train(cfg, *trainee.data(), cfg.root)) == 2
    assert "could not be written" in capsys.readouterr().out
