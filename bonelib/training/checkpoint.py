"""Checkpoints: written atomically, checked by hash when read, and resumed from exactly."""

import contextlib
import shutil
from dataclasses import dataclass, field, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from bonelib.config import Config
from bonelib.messages import RunError
from bonelib.storage import atomic_folder, file_digest, read_json, write_json

# Settings that may change before a resume: they set where files are and when training ends.
RESUMABLE_SETTINGS = {"data", "run", "images", "cache", "mirror", "metadata", "given", "workers"}
RESUMABLE_SETTINGS |= {"epochs", "patience", "resume"}
# The evaluation has these, training does not.
RESUMABLE_SETTINGS |= {"tta", "resamples", "prevalence", "target", "sensitivity", "external"}

# Folders of checkpoints; `next` is there if a kill came before it was renamed.
NEWEST_FIRST = ("last", "next", "previous")


@dataclass
class TrainingState:
    """All that an exact resume needs; random numbers follow from seed and epoch.

    settings: what must not change before a resume. nets: by the name of their file. scaler: of the
    loss, in fp16. history: one row per epoch.
    """

    settings: dict[str, str]
    nets: dict[str, nn.Module]
    optimizer: Any
    scaler: Any
    history: list[dict] = field(default_factory=list)

    @property
    def best(self) -> dict:
        """The row of the highest validation accuracy, of equal ones that with the least loss."""
        return max(self.history, key=lambda row: (row["val_accuracy"], -row["val_loss"]))


def fixed_settings(cfg: Config) -> dict[str, str]:
    """The settings that must not change before a resume, as texts."""
    names = [setting.name for setting in fields(cfg) if setting.name not in RESUMABLE_SETTINGS]
    return {name: str(getattr(cfg, name)) for name in names}


def check(run: Path, settings: dict[str, str]) -> None:
    """RunError if the run's newest checkpoint, or its model, has other settings or splits."""
    checkpoints = [run / "checkpoints" / name / "state.json" for name in NEWEST_FIRST]
    for path in (*checkpoints, run / "model" / "config.json"):
        # a damaged one is not resumed from
        with contextlib.suppress(OSError, ValueError, TypeError):
            facts = dict(read_json(path))
            made_with = facts.get("settings") or {"splits": facts.get("splits")}
            return _check_settings(path.parent, made_with, settings)


def save(folder: Path, state: TrainingState) -> None:
    """Write `folder`/last and make the former one `folder`/previous.

    A kill at any moment, or a full disk, leaves at least one complete checkpoint.
    """
    with atomic_folder(folder / "next") as temporary:
        for name, net in state.nets.items():
            save_model(net, str(temporary / f"{name}.safetensors"))
        numbers = {"optimizer": state.optimizer.state_dict(), "scaler": state.scaler.state_dict()}
        torch.save(numbers, temporary / "optimizer.pt")
        hashes = {path.name: file_digest(path) for path in sorted(temporary.iterdir())}
        facts = {"sha256": hashes, "settings": state.settings, "history": state.history}
        write_json(temporary / "state.json", facts)
    last, previous = folder / "last", folder / "previous"
    if last.exists():
        shutil.rmtree(previous, ignore_errors=True)
        last.replace(previous)
    (folder / "next").replace(last)


def restore(folder: Path, state: TrainingState) -> list[str]:
    """Put the newest complete checkpoint, if any, into `state`; returns messages to print.

    RunError if it was made with other settings or splits.
    """
    messages = []
    for path in (folder / name for name in NEWEST_FIRST):
        if path.is_dir():
            try:
                facts = _read_facts(path)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                messages.append(f"{path} is incomplete or damaged ({error}): skipped")
                continue
            _check_settings(path, facts.get("settings", {}), state.settings)
            _load(path, state)
            state.history = facts["history"]
            return [*messages, f"resuming after epoch {len(state.history)} of {folder.parent}"]
    return messages


def _read_facts(path: Path) -> dict:
    """The content of state.json; an error of any kind if a file is not as it was written."""
    facts = dict(read_json(path / "state.json"))
    for name, expected in facts["sha256"].items():
        if file_digest(path / name) != expected:
            raise ValueError(f"{name} differs from what was written")
    return facts


def _load(path: Path, state: TrainingState) -> None:
    """Put the numbers of a checkpoint into `state`."""
    try:
        for name, net in state.nets.items():
            load_model(net, path / f"{name}.safetensors")
        numbers = torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
    except (UnpicklingError, SafetensorError) as error:
        raise RunError(f"{path}: a file holds more than numbers, and was not read") from error
    state.optimizer.load_state_dict(numbers["optimizer"])
    state.scaler.load_state_dict(numbers["scaler"])


def _check_settings(path: Path, old: dict[str, str], new: dict[str, str]) -> None:
    """RunError that names each difference between a checkpoint and the training to resume."""
    changed = [name for name in new if old.get(name, new[name]) != new[name]]
    differences = "; ".join(f"{name} was {old[name]}, is {new[name]}" for name in changed)
    if "splits" in changed:
        differences += " (other images or another split)"
    if changed or not old:
        raise RunError(
            f"{path} belongs to another training: {differences or 'bonelib 1 made it'}. Nothing "
            "was changed. Give the same data and settings, choose another run folder "
            "(BONELIB_RUN=path), or train from the beginning (BONELIB_RESUME=0)"
        )
