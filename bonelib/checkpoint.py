"""Checkpoints that are whole or not there: written aside, fsynced, renamed, and checked by hash when read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bonelib.artifact import told

Tensors = dict[str, torch.Tensor]


def save(folder: Path, tensors: dict[str, Tensors], optimizer: dict[str, Any], state: dict[str, Any]) -> None:
    """Make `folder`/last from named sets of tensors, an optimiser's state and a JSON state; the former last is kept.

    A kill at any moment, or a disk that is full, leaves at least one whole checkpoint.
    """
    aside = folder / "incoming"
    shutil.rmtree(aside, ignore_errors=True)
    with told(folder / "last", aside):
        aside.mkdir(parents=True)
        for name, part in tensors.items():
            save_file({k: v.detach().contiguous().cpu() for k, v in part.items()}, aside / f"{name}.safetensors")
        torch.save(optimizer, aside / "optimizer.pt")
        hashes = {p.name: _sha256(p) for p in sorted(aside.iterdir())}
        (aside / "state.json").write_text(json.dumps({"sha256": hashes, **state}))
        for path in [*aside.iterdir(), aside]:
            _fsync(path)
    last, previous = folder / "last", folder / "previous"
    shutil.rmtree(previous, ignore_errors=True)
    if last.exists():
        last.replace(previous)
    aside.replace(last)
    _fsync(folder)


def keep_best(path: Path) -> None:
    """Make `best`, beside the whole checkpoint `path`, of the weights in it that were validated."""
    aside, best = path.parent / "incoming-best", path.parent / "best"
    shutil.rmtree(aside, ignore_errors=True)
    with told(best, aside):
        aside.mkdir()
        state = json.loads((path / "state.json").read_text())
        weights = "ema.safetensors" if "ema.safetensors" in state["sha256"] else "model.safetensors"
        shutil.copy(path / weights, aside / "weights.safetensors")
        facts = {"sha256": {"weights.safetensors": state["sha256"][weights]}, "epoch": state["epoch"]}
        (aside / "state.json").write_text(json.dumps(facts))
        for part in [*aside.iterdir(), aside]:
            _fsync(part)
    shutil.rmtree(best, ignore_errors=True)
    aside.replace(best)


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The whole checkpoint of the latest epoch, or None, and a message for each torn one."""
    found: list[tuple[int, Path]] = []
    torn = []
    for path in [folder / "last", folder / "incoming", folder / "previous"]:
        if path.is_dir():
            try:
                found.append((read_state(path)["epoch"], path))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                torn.append(f"{path} is not whole ({error}): skipped")
    return max(found, key=lambda f: f[0])[1] if found else None, torn


def read_state(path: Path) -> dict[str, Any]:
    """state.json of a checkpoint whose files are as they were written; raises ValueError or OSError otherwise."""
    state = json.loads((path / "state.json").read_text())
    for name, expected in state["sha256"].items():
        if Path(name).name != name or _sha256(path / name) != expected:
            raise ValueError(f"{name} differs from what was written")
    return dict(state)


def read_tensors(path: Path, name: str) -> Tensors:
    return load_file(path / f"{name}.safetensors")


def read_optimizer(path: Path) -> dict[str, Any]:
    try:
        return dict(torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True))
    except UnpicklingError as error:
        raise ValueError(f"{path / 'optimizer.pt'} holds more than an optimiser's numbers, and is not read") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
