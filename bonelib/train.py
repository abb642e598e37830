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
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from accelerate.utils.memory import should_reduce_batch_size
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from timm.utils import ModelEmaV3
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from tqdm.auto import tqdm

from bonelib import augment, checkpoint, loader, model, recipe, resume
from bonelib.config import CLASSES, Config
from bonelib.mirror import Mirror
from bonelib.split import class_weights, digest


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
    `folder`. Called again, it goes on from the newest whole checkpoint, or returns at once if training had ended. Under
    torchrun each process takes its share of every batch. Where the GPU's memory does not hold a batch, it is taken in
    halves whose gradients are added up, from the last checkpoint on.
    """
    at_once = cfg.batch_size
    while True:
        try:
            return _train(cfg, splits, pixels, folder, after_epoch, at_once)
        except RuntimeError as error:
            if "DataLoader worker" in str(error):
                raise RuntimeError(
                    f"{str(error).strip(' .')}: memory may be short; run again, with BONELIB_WORKERS=0, to go on from the last "
                    "checkpoint"
                ) from error
            if not should_reduce_batch_size(error) or at_once == 1 or model.processes().num_processes > 1:
                raise
            at_once = (at_once + 1) // 2
            print(f"out of memory: going on with {at_once} images at once, added up to batches of {cfg.batch_size}")
            torch.cuda.empty_cache()


def _train(
    cfg: Config, splits: pd.DataFrame, pixels: NDArray[Any], folder: Path,
    after_epoch: Callable[[pd.DataFrame], None] | None, at_once: int,
) -> pd.DataFrame:  # fmt: skip
    kind = model.precision(cfg, model.device(), learning=True)
    cpu = model.device().type == "cpu"
    AcceleratorState._reset_state()  # else a second training in one process could not have another precision
    accelerator = Accelerator(
        mixed_precision=kind, cpu=cpu, log_with=list(cfg.trackers) or None, project_dir=str(folder)
    )
    if cfg.trackers:
        accelerator.init_trackers("bonelib")
    device, main, rank, world = (
        accelerator.device, accelerator.is_main_process, accelerator.process_index, accelerator.num_processes
    )  # fmt: skip
    if not cpu:
        torch.backends.cudnn.benchmark = not cfg.deterministic
        torch.use_deterministic_algorithms(cfg.deterministic, warn_only=True)
    labels = splits["label"].map(CLASSES.index).to_numpy(np.int64)
    val = np.flatnonzero(splits["split"] == "val")

    torch.manual_seed(cfg.seed)
    net = model.build(cfg)
    optimizer = torch.optim.AdamW(recipe.parameter_groups(net, cfg), lr=cfg.lr)
    if world > 1:
        net = model.sync_norms(net, accelerator.print)
    net.to(device)
    schedule = CosineAnnealingWarmRestarts(optimizer, cfg.cycle, cfg.cycle_mult, eta_min=cfg.lr / 100)
    draws = loader.Draws(splits["draws"].to_numpy(), cfg.batch_size, cfg.seed, rank, world)
    batches = loader.training(cfg, pixels, labels, draws, augment.policy(cfg), device)
    weights = torch.from_numpy(class_weights(splits, cfg.balance)).to(device)
    aims, blend = recipe.targets(cfg).to(device), recipe.mixup(cfg)
    ema = ModelEmaV3(net, cfg.ema, use_warmup=True) if cfg.ema else None
    judged = ema.module if ema else net  # the weights that validation sees and `model/` keeps
    wrapped, optimizer = accelerator.prepare(net, optimizer)

    state: dict[str, Any] = {"epoch": 0, "history": [], "best": None, "config": asdict(cfg), "splits": digest(splits)}
    mirror = Mirror(folder, Path(cfg.mirror) if cfg.mirror and main else None)
    if cfg.resume and mirror.pull():
        print(f"brought {folder} back from {cfg.mirror}")
    accelerator.wait_for_everyone()
    found, torn = checkpoint.newest(folder / "checkpoints")
    for message in torn:
        accelerator.print(message)
    if found and cfg.resume:
        state |= resume.restore(found, state, net, ema, optimizer, accelerator)
        accelerator.print(f"going on after epoch {state['epoch']} of {folder}")

    steps = len(batches)
    bar = tqdm(total=cfg.epochs * steps, initial=state["epoch"] * steps, desc="train", unit="batch", disable=not main)
    for epoch in range(state["epoch"], cfg.epochs):
        if _stopped(state, cfg.patience):
            break
        draws.epoch = epoch
        torch.manual_seed(loader.seed_of(cfg.seed, epoch, rank))  # dropout and mixup, too, depend on the epoch alone
        np.random.seed(loader.seed_of(cfg.seed, epoch, rank))
        net.freeze(recipe.frozen_share(cfg, epoch))
        wrapped.train()
        sums, waited, began = (
            torch.zeros(3, device=device),
            0.0,
            time.perf_counter(),
        )  # of loss, of right calls, of images
        ready = began
        for step, (pictures, y) in enumerate(batches):
            waited += time.perf_counter() - ready
            pictures, y = pictures.to(device, non_blocking=True), y.to(device, non_blocking=True)
            schedule.step(epoch + step / steps)
            aim = aims[y]  # (B, 3), rows sum to 1
            if blend and len(y) % 2 == 0:
                pictures, mixed = blend(pictures.float(), y)
                aim = mixed @ aims
            for part in torch.arange(len(y), device=device).split(at_once):  # one, unless memory is short
                out = wrapped(pictures[part])  # (b, 3)
                loss = F.cross_entropy(out, aim[part], weights, reduction="none").sum() / len(y)
                accelerator.backward(loss)
                sums += torch.stack(
                    [loss.detach() * len(y), (out.detach().argmax(1) == y[part]).sum(), y.new_tensor(len(part))]
                )
            if cfg.clip:
                accelerator.clip_grad_norm_(net.parameters(), cfg.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if ema:
                ema.update(net, step=epoch * steps + step)
            bar.update()
            ready = time.perf_counter()
        loss_sum, right, seen = accelerator.reduce(sums, "sum").tolist()
        seconds = time.perf_counter() - began
        if not math.isfinite(loss_sum):
            raise DivergedError(f"the loss became {loss_sum} in epoch {epoch + 1}: lower lr (now {cfg.lr:g})")
        row = {
            "epoch": epoch + 1, "lr": max(g["lr"] for g in optimizer.param_groups), "train_loss": loss_sum / seen,
            "train_accuracy": right / seen, **_validate(judged, pixels, labels, val, cfg, accelerator),
            "seconds": seconds, "images_per_second": seen / seconds, "data_wait": waited / seconds,
        }  # fmt: skip
        better = _is_better(row, state["best"])
        state |= {"epoch": epoch + 1, "history": [*state["history"], row], "best": row if better else state["best"]}
        history = pd.DataFrame(state["history"])
        if main:
            mirror.wait()
            resume.keep(folder, state, net, judged if ema else None, optimizer, accelerator)
            mirror.push(now=False)
        if cfg.trackers:
            accelerator.log({k: v for k, v in row.items() if k != "epoch"}, step=epoch + 1)
        bar.set_postfix_str(
            f"epoch {epoch + 1}/{cfg.epochs} loss {row['train_loss']:.3f} val accuracy {row['val_accuracy']:.3f} "
            f"{row['images_per_second']:.0f} img/s waiting {row['data_wait']:.0%}"
        )
        if after_epoch and main:
            after_epoch(history)
    bar.close()
    if main:
        judged.load_state_dict(resume.best(folder, state["best"]["epoch"]))
        model.save(judged, folder / "model", cfg, epoch=state["best"]["epoch"], splits=state["splits"], seed=cfg.seed)
        mirror.push()
        mirror.wait()
    if cfg.trackers:
        accelerator.end_training()
    accelerator.wait_for_everyone()
    return pd.DataFrame(state["history"])


def _validate(
    net: torch.nn.Module, pixels: NDArray[Any], labels: NDArray[np.int64], rows: NDArray[np.int64], cfg: Config,
    accelerator: Accelerator,
) -> dict[str, float]:  # fmt: skip
    """Figures on the validation rows; each process predicts its share of them, and each row counts once."""
    mine = rows[accelerator.process_index :: accelerator.num_processes]
    kind = model.precision(cfg, accelerator.device)  # as prediction will have it
    out = model.logits(net, loader.plain(pixels, mine, cfg.batch_size), kind, accelerator.device)
    shares = gather_object([(mine, out)])
    order = np.argsort(np.concatenate([s[0] for s in shares]))
    every = torch.from_numpy(np.concatenate([s[1] for s in shares])[order])
    y, guess = labels[np.sort(rows)], every.argmax(1).numpy()
    return {
        "val_loss": float(F.cross_entropy(every, torch.from_numpy(y))),
        "val_accuracy": float((guess == y).mean()),
        "val_f1": float(f1_score(y, guess, average="macro", labels=range(len(CLASSES)), zero_division=0)),
    }


def _is_better(row: dict[str, Any], best: dict[str, Any] | None) -> bool:
    return best is None or (row["val_accuracy"], -row["val_loss"]) > (best["val_accuracy"], -best["val_loss"])


def _stopped(state: dict[str, Any], patience: int) -> bool:
    """Early stopping: `patience` epochs without a better validation accuracy (or as good with less loss)."""
    return state["best"] is not None and state["epoch"] - state["best"]["epoch"] >= patience
