"""The training loop: mixed precision, warm restarts, averaged weights, early stopping, exact resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from timm.utils import ModelEmaV3
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from tqdm.auto import tqdm

from bonelib import augment, checkpoint, loader, model
from bonelib.config import CLASSES, Config
from bonelib.split import class_weights, digest

# Settings that may differ between a run and its resume: they change where things lie or when to stop, not the path.
MAY_CHANGE = {"data", "run", "cache", "workers", "epochs", "patience", "tta", "resamples", "resume", "metadata"}


class ResumeError(RuntimeError):
    """A checkpoint of other settings or data; the message names the difference."""


class DivergedError(RuntimeError):
    """The loss is not a number any more."""


def train(
    cfg: Config,
    splits: pd.DataFrame,
    pixels: NDArray[Any],
    folder: Path,
    after_epoch: Callable[[pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Train on the rows of `splits` (pictures in the same order: (N, S, S) uint8) and return the history, a row an epoch.

    Leaves `checkpoints/`, `history.csv` and `model/` (the epoch of best validation accuracy, ties broken by loss) in
    `folder`. Called again, it goes on from the newest whole checkpoint, or returns at once if training had ended.
    """
    device = model.device()
    kind = model.precision(cfg, device)
    accelerator = Accelerator(mixed_precision=kind, cpu=device.type == "cpu")
    device = accelerator.device
    labels = splits["label"].map(CLASSES.index).to_numpy(np.int64)
    val = np.flatnonzero(splits["split"] == "val")

    torch.manual_seed(cfg.seed)
    net = model.build(cfg)
    net.freeze(cfg.freeze)
    net.to(device)
    optimizer = torch.optim.AdamW(_parameter_groups(net, cfg), lr=cfg.lr)
    schedule = CosineAnnealingWarmRestarts(optimizer, cfg.cycle, cfg.cycle_mult, eta_min=cfg.lr / 100)
    draws = loader.Draws(
        splits["draws"].to_numpy(), cfg.batch_size, cfg.seed, accelerator.process_index, accelerator.num_processes
    )
    batches = loader.training(cfg, pixels, labels, draws, augment.policy(cfg), device)
    weights = torch.from_numpy(class_weights(splits, cfg.balance)).to(device)
    ema = ModelEmaV3(net, cfg.ema, use_warmup=True) if cfg.ema else None
    judged = ema.module if ema else net  # the weights that validation sees and `model/` keeps
    wrapped, optimizer = accelerator.prepare(net, optimizer)

    state = {"epoch": 0, "history": [], "best": None, "config": asdict(cfg), "splits": digest(splits)}
    found, torn = checkpoint.newest(folder / "checkpoints")
    for message in torn:
        accelerator.print(message)
    if found and cfg.resume:
        state |= _restore(found, state, net, ema, optimizer, accelerator)
        accelerator.print(f"going on after epoch {state['epoch']} of {folder}")

    steps = len(batches)
    bar = tqdm(
        total=cfg.epochs * steps,
        initial=state["epoch"] * steps,
        desc="train",
        unit="batch",
        disable=not accelerator.is_main_process,
    )
    for epoch in range(state["epoch"], cfg.epochs):
        if _stopped(state, cfg.patience):
            break
        draws.epoch = epoch
        torch.manual_seed(
            loader.seed_of(cfg.seed, epoch, accelerator.process_index)
        )  # dropout, too, depends on the epoch alone
        wrapped.train()
        loss_sum, right, seen, waited, began = torch.zeros((), device=device), 0, 0, 0.0, time.perf_counter()
        ready = began
        for step, (pictures, y) in enumerate(batches):
            waited += time.perf_counter() - ready
            pictures, y = pictures.to(device, non_blocking=True), y.to(device, non_blocking=True)
            schedule.step(epoch + step / steps)
            out = wrapped(pictures)  # (B, 3)
            loss = F.cross_entropy(out, y, weights, reduction="none", label_smoothing=cfg.label_smoothing).mean()
            accelerator.backward(loss)
            if cfg.clip:
                accelerator.clip_grad_norm_(net.parameters(), cfg.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if ema:
                ema.update(net, step=epoch * steps + step)
            loss_sum += loss.detach() * len(y)
            right += (out.detach().argmax(1) == y).sum()
            seen += len(y)
            bar.update()
            ready = time.perf_counter()
        seconds = time.perf_counter() - began
        train_loss = float(loss_sum) / seen
        if not math.isfinite(train_loss):
            raise DivergedError(f"the loss became {train_loss} in epoch {epoch + 1}: lower lr (now {cfg.lr:g})")
        row = {
            "epoch": epoch + 1, "lr": optimizer.param_groups[-1]["lr"], "train_loss": train_loss,
            "train_accuracy": int(right) / seen, **_validate(judged, pixels, val, labels[val], cfg, kind, device),
            "seconds": seconds, "images_per_second": seen / seconds, "data_wait": waited / seconds,
        }  # fmt: skip
        better = _is_better(row, state["best"])
        state |= {"epoch": epoch + 1, "history": [*state["history"], row], "best": row if better else state["best"]}
        tensors = {"model": net.state_dict()} | ({"ema": judged.state_dict()} if ema else {})
        optimizer_state = {
            "optimizer": optimizer.state_dict(),
            "scaler": accelerator.scaler and accelerator.scaler.state_dict(),
        }
        checkpoint.save(folder / "checkpoints", tensors, optimizer_state, state)
        if better:
            checkpoint.keep_best(folder / "checkpoints")
        history = pd.DataFrame(state["history"])
        history.to_csv(folder / "history.csv", index=False)
        bar.set_postfix_str(
            f"epoch {epoch + 1}/{cfg.epochs} loss {train_loss:.3f} val accuracy {row['val_accuracy']:.3f} "
            f"{row['images_per_second']:.0f} img/s waiting {row['data_wait']:.0%}"
        )
        if after_epoch:
            after_epoch(history)
    bar.close()
    judged.load_state_dict(checkpoint.read_tensors(folder / "checkpoints" / "best", "weights"))
    model.save(judged, folder / "model", cfg, epoch=state["best"]["epoch"], splits=state["splits"], seed=cfg.seed)
    return pd.DataFrame(state["history"])


def _parameter_groups(net: torch.nn.Module, cfg: Config) -> list[dict[str, Any]]:
    """AdamW's groups: weight decay for matrices and filters, none for 1-D parameters (norms, biases)."""
    free = [p for p in net.parameters() if p.requires_grad]
    return [
        {"params": [p for p in free if p.ndim > 1], "weight_decay": cfg.weight_decay},
        {"params": [p for p in free if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _validate(
    net: torch.nn.Module, pixels: NDArray[Any], rows: NDArray[np.int64], y: NDArray[np.int64], cfg: Config, kind: str,
    device: torch.device,
) -> dict[str, float]:  # fmt: skip
    out = torch.from_numpy(model.logits(net, loader.plain(pixels, rows, cfg.batch_size), kind, device))
    guess = out.argmax(1).numpy()
    return {
        "val_loss": float(F.cross_entropy(out, torch.from_numpy(y))),
        "val_accuracy": float((guess == y).mean()),
        "val_f1": float(f1_score(y, guess, average="macro", labels=range(len(CLASSES)), zero_division=0)),
    }


def _is_better(row: dict[str, Any], best: dict[str, Any] | None) -> bool:
    return best is None or (row["val_accuracy"], -row["val_loss"]) > (best["val_accuracy"], -best["val_loss"])


def _stopped(state: dict[str, Any], patience: int) -> bool:
    """Early stopping: `patience` epochs without a better validation accuracy (or as good with less loss)."""
    return state["best"] is not None and state["epoch"] - state["best"]["epoch"] >= patience


def _restore(
    path: Path,
    fresh: dict[str, Any],
    net: torch.nn.Module,
    ema: ModelEmaV3 | None,
    optimizer: Any,
    accelerator: Accelerator,
) -> dict[str, Any]:
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
    return {k: state[k] for k in ("epoch", "history", "best")}
