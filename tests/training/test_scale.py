"""Kills lose at most an epoch and change nothing; two processes do what one does."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.training import trainee
from tests.training.test_loop import EXACT

TRAINEE = Path(trainee.__file__)
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TRAINEE.parents[2])}
Weights = dict[str, torch.Tensor]


def command(run: Path, processes: int = 1, **settings: Any) -> list[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    launch = torchrun if processes > 1 else []
    return [sys.executable, *launch, str(TRAINEE), str(run), json.dumps(settings)]


def trained(run: Path, processes: int = 1, **settings: Any) -> tuple[Weights, pd.DataFrame]:
    done = subprocess.run(
        command(run, processes, **settings),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return load_file(run / "model" / "model.safetensors"), pd.read_csv(run / "history.csv")


def same(a: Weights, b: Weights, tolerance: float = 0.0) -> bool:
    return a.keys() == b.keys() and all(
        torch.allclose(a[name], b[name], rtol=0, atol=tolerance) for name in a
    )


def started(run: Path, processes: int = 1, **settings: Any) -> subprocess.Popen[bytes]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command(run, processes, **settings), env=ENVIRONMENT, **quiet)


def kill_at(run: Path, moment: float | str, **settings: Any) -> bool:
    """Start a training and kill it after `moment` seconds, or when a file matches it.

    False if it had ended before.
    """
    process = started(run, **settings)
    until = time.monotonic() + (moment if isinstance(moment, float) else 120)
    while process.poll() is None and time.monotonic() < until:
        if isinstance(moment, str) and any(run.glob(moment)):
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    "kills", [pytest.param(1, id="short"), pytest.param(20, id="long", marks=pytest.mark.soak)]
)
def test_training_killed_at_any_moment_ends_in_the_same_weights(tmp_path, kills):
    expected, history = trained(tmp_path / "whole", epochs=6)
    rng = random.Random(0)
    killed = 0
    # of two kills one falls into the writing of a checkpoint, the other anywhere
    while killed < kills:
        run = tmp_path / f"run-{killed}"
        moments = ["checkpoints/next*/*", rng.uniform(3.0, 9.0)]
        killed += sum(kill_at(run, moment, epochs=6) for moment in moments)
        weights, resumed = trained(run, epochs=6)
        assert same(weights, expected) and resumed[EXACT].equals(history[EXACT])


def test_two_processes_end_in_the_weights_of_one(tmp_path):
    # layer norms, no dropout, no augmentation: only the order of floating-point sums differs
    settings = {"backbone": "test_convnext", "epochs": 2, "dropout": 0.0, "augment": [], "lr": 1e-3}
    one, history = trained(tmp_path / "one", **settings)
    two, history_of_two = trained(tmp_path / "two", processes=2, **settings)
    assert same(one, two, 1e-4)
    assert np.allclose(history[EXACT], history_of_two[EXACT], atol=1e-4)


def test_killed_rank_ends_the_job_and_a_restart_resumes(tmp_path):
    settings = {"backbone": "test_convnext", "epochs": 40, "patience": 40}
    job = started(tmp_path, 2, **settings)
    while not (tmp_path / "checkpoints" / "last").exists():
        assert job.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert job.wait(timeout=60) != 0
    # the row of an epoch is written before its checkpoint
    done = len(pd.read_csv(tmp_path / "history.csv"))
    _, history = trained(tmp_path, processes=2, **settings | {"epochs": done + 2})
    assert history["epoch"].tolist() == list(range(1, done + 3))
