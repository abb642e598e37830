"""What a training leaves after each epoch, and how it takes it up again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import nn

from bonelib import artifact, checkpoint

# Settings that may differ between a run and its resume: they change where things lie or when to stop, not the path.
MAY_CHANGE = {
    "data", "run", "images", "cache", "mirror", "workers", "epochs", "patience", "tta", "resamples", "prevalence", "cost", "target",
    "resume", "metadata", "trackers",
}  # fmt: skip


class ResumeError(RuntimeError):
    """A checkpoint of other settings or data; the message names the difference."""


def keep(
    folder: Path, state: dict[str, Any], net: nn.Module, averaged: nn.Module | None, optimizer: Any, accelerator: Accelerator
) -> None:  # fmt: skip
    """Leave everything that an exact resume needs; random draws need nothing, they follow from seed and epoch."""
    tensors = {"model": net.state_dict()} | ({"ema": averaged.state_dict()} if averaged else {})
    scaler = accelerator.scaler.state_dict() if accelerator.scaler else None
    checkpoint.save(folder / "checkpoints", tensors, {"optimizer": optimizer.state_dict(), "scaler": scaler}, state)
    if state["best"]["epoch"] == state["epoch"]:
        checkpoint.keep_best(folder / "checkpoints" / "last")
    artifact.write(folder / "history.csv", pd.DataFrame(state["history"]).to_csv(index=False))


def restore(
    path: Path, fresh: dict[str, Any], net: nn.Module, ema: ModelEmaV3 | None, optimizer: Any, accelerator: Accelerator
) -> dict[str, Any]:  # fmt: skip
    """Put everything back as the checkpoint has it and return its state; ResumeError if it is of another run."""
    state = checkpoint.read_state(path)
    old, new = state["config"], {k: list(v) if isinstance(v, tuple) else v for k, v in fresh["config"].items()}
    differs = [f"{k} was {old.get(k)!r}, is {v!r}" for k, v in new.items() if k not in MAY_CHANGE and old.get(k) != v]
    if state["splits"] != fresh["splits"]:
        differs.append("the images or their splits are others")
    if differs:
        raise ResumeError(
            f"{path} cannot be continued: {'; '.join(differs)}. Restore that, choose another run folder, or set "
            "BONELIB_RESUME=0 to begin anew"
        )
    net.load_state_dict(checkpoint.read_tensors(path, "model"))
    if ema:
        ema.module.load_state_dict(checkpoint.read_tensors(path, "ema"))
    saved = checkpoint.read_optimizer(path)
    optimizer.load_state_dict(saved["optimizer"])
    if accelerator.scaler and saved["scaler"]:
        accelerator.scaler.load_state_dict(saved["scaler"])
    if accelerator.is_main_process and state["best"]["epoch"] == state["epoch"]:
        checkpoint.keep_best(path)  # a kill may have come just before
    return {k: state[k] for k in ("epoch", "history", "best")}


def best(folder: Path, epoch: int) -> checkpoint.Tensors:
    """The weights of the best epoch; ResumeError if they are not whole, or of another epoch."""
    path = folder / "checkpoints" / "best"
    try:
        found = checkpoint.read_state(path)["epoch"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"no whole one ({error})"
    if found != epoch:
        raise ResumeError(
            f"{path}: expected the weights of epoch {epoch}, found {found}. Bring that folder back from a mirror, or set "
            "BONELIB_RESUME=0 to train anew"
        )
    return checkpoint.read_tensors(path, "weights")
