"""The training loop: mixed precision, warm restarts, averaged weights, early stopping, resume."""

import contextlib
import copy
import math
import sys
import time
from collections.abc import Callable, Iterator

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from sklearn.metrics import accuracy_score, f1_score
from timm.layers import convert_sync_batchnorm
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from bonelib import augment
from bonelib.config import Config
from bonelib.messages import RunError
from bonelib.split import Fold, class_weights, split_digest
from bonelib.storage import progress, write_csv
from bonelib.training import checkpoint, model
from bonelib.training.device import autocast, precision, start_accelerator
from bonelib.training.loader import Draws, seed_from, training_batches
from bonelib.training.loss import smoothed_targets, weighted_loss

PROGRESS_COLUMNS = ("epoch", "train_loss", "val_loss", "val_accuracy", "images_per_second")


def fit(
    fold: Fold, before_checkpoint: Callable = lambda: None, after_epoch: Callable = lambda _: None
) -> pd.DataFrame:
    """Train on a fold and return the history, one row per epoch.

    Writes `checkpoints/`, `history.csv` and `model/` (the epoch of best validation accuracy, ties
    broken by loss) to the fold's folder, and resumes from there. Under torchrun each process takes
    its share of every batch; the first one alone writes and calls `after_epoch(history)`.
    """
    # Setup: processes and batches
    cfg, class_names, checkpoints = fold.cfg, fold.class_names, fold.folder / "checkpoints"
    accelerator = start_accelerator(cfg)
    device, is_main = accelerator.device, accelerator.is_main_process
    rank, world = accelerator.process_index, accelerator.num_processes
    draws = Draws(fold.splits["draws"].to_numpy(), cfg.batch_size, cfg.seed, rank, world)
    batches = training_batches(cfg, fold.images, fold.labels, draws, augment.policy(cfg), device)
    steps = len(batches)

    # Setup: loss, model, optimizer, learning rate, averaged weights
    weights = torch.from_numpy(class_weights(fold.splits, cfg.balance, class_names)).to(device)
    targets = smoothed_targets(len(class_names), cfg.label_smoothing).to(device)  # (K, K)
    torch.manual_seed(cfg.seed)
    net = model.build(cfg, len(class_names)).to(device)
    # on CPUs each process normalises its own share of a batch
    if world > 1 and device.type == "cuda":
        net.backbone = convert_sync_batchnorm(net.backbone)
    net.freeze(cfg.freeze)
    # no weight decay on norms and biases, nor on the positions and tokens of transformers
    spared = net.backbone.no_weight_decay() if hasattr(net.backbone, "no_weight_decay") else ()
    groups = param_groups_weight_decay(net.backbone, cfg.weight_decay, no_weight_decay_list=spared)
    optimizer = torch.optim.AdamW(groups, lr=cfg.lr)
    schedule = CosineAnnealingWarmRestarts(optimizer, cfg.cycle, cfg.cycle_mult, cfg.lr / 100)
    # with ema = 0 the average is the last value
    ema = ModelEmaV3(net, cfg.ema, use_warmup=True)
    wrapped, optimizer = accelerator.prepare(net, optimizer)

    # Resume
    nets = {"model": net, "averaged": ema.module, "best": copy.deepcopy(ema.module)}
    settings = checkpoint.fixed_settings(cfg) | {"splits": split_digest(fold.splits)}
    scaler = accelerator.scaler or torch.amp.GradScaler(enabled=False)
    state = checkpoint.TrainingState(settings, nets, optimizer, scaler)
    for message in checkpoint.restore(checkpoints, state) if cfg.resume else []:
        accelerator.print(message)

    with _explained_errors(cfg):
        for epoch in range(len(state.history), cfg.epochs):
            # Early stopping
            if state.history and epoch - state.best["epoch"] >= cfg.patience:
                break

            # Draws depend on the seed and the epoch alone, dropout on the process, too
            draws.epoch = epoch
            torch.manual_seed(seed_from(cfg.seed, epoch, rank))
            wrapped.train()
            means, waited = torch.zeros(2, device=device), 0.0
            shown = progress(batches, f"epoch {epoch + 1}", disable=not is_main)
            epoch_start = step_end = time.perf_counter()
            for step, batch in enumerate(shown):
                # Move the batch
                waited += time.perf_counter() - step_end
                images, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
                # Learning rate: cosine with warm restarts
                schedule.step(epoch + step / steps)

                # Forward and backward pass, step, average of the weights
                with accelerator.autocast():
                    logits = wrapped(images)  # (B, K)
                loss = weighted_loss(logits, targets[labels], weights)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(net.parameters(), cfg.clip or math.inf)
                optimizer.step()
                optimizer.zero_grad()
                ema.update(net, step=epoch * steps + step)

                # Means over the epoch, of the loss and of correct predictions
                correct = (logits.argmax(1) == labels).float().mean()
                means += torch.stack([loss.detach(), correct]) / steps
                step_end = time.perf_counter()

            # Validation and history
            train_loss, train_accuracy = accelerator.reduce(means, "mean").tolist()
            seconds = time.perf_counter() - epoch_start
            if not math.isfinite(train_loss):
                raise RunError(f"loss {train_loss} in epoch {epoch + 1}: lower lr (now {cfg.lr:g})")
            row = {"epoch": epoch + 1, "lr": optimizer.param_groups[0]["lr"]}
            row |= {"train_loss": train_loss, "train_accuracy": train_accuracy}
            row |= _validate(ema.module, fold, accelerator)
            row["val_accuracy_raw"] = _validate(net, fold, accelerator)["val_accuracy"]
            row |= {"seconds": seconds, "images_per_second": steps * len(labels) * world / seconds}
            row["data_wait"] = waited / seconds
            state.history.append(row)
            if state.best is row:
                nets["best"].load_state_dict(ema.module.state_dict())

            # Checkpoint
            if is_main:
                if "ipykernel" not in sys.modules:
                    print(", ".join(f"{name} {row[name]:.4g}" for name in PROGRESS_COLUMNS))
                before_checkpoint()
                write_csv(fold.folder / "history.csv", pd.DataFrame(state.history))
                checkpoint.save(checkpoints, state)
                after_epoch(pd.DataFrame(state.history))

    # The model: the weights of the best epoch
    if is_main:
        facts = {"epoch": state.best["epoch"], "splits": settings["splits"], "seed": cfg.seed}
        facts["settings"] = settings
        model.save_model(nets["best"], fold.folder / "model", cfg, class_names, **facts)
    accelerator.wait_for_everyone()
    return pd.DataFrame(state.history)


@torch.inference_mode()
def _validate(net: nn.Module, fold: Fold, accelerator: Accelerator) -> dict[str, float]:
    """Metrics on the validation set; each process predicts some of its batches."""
    device, size, rows = accelerator.device, fold.cfg.batch_size, fold.rows("val")
    logits = torch.zeros(len(rows), len(fold.class_names), device=device)
    first, stride = accelerator.process_index * size, accelerator.num_processes * size
    net.eval()
    with autocast(precision(fold.cfg, device), device):
        for start in range(first, len(rows), stride):
            images = torch.from_numpy(fold.images[rows[start : start + size]])  # (B, S, S)
            logits[start : start + size] = net(images[:, None].to(device))
    logits = accelerator.reduce(logits, "sum").cpu()
    labels, predicted = torch.from_numpy(fold.labels[rows]), logits.argmax(1)
    return {
        "val_loss": nn.functional.cross_entropy(logits, labels).item(),
        "val_accuracy": accuracy_score(labels, predicted),
        "val_f1": f1_score(labels, predicted, average="macro", zero_division=0),
    }


@contextlib.contextmanager
def _explained_errors(cfg: Config) -> Iterator[None]:
    """Turn a lack of memory, or a killed loader process, into a RunError that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error) and not should_reduce_batch_size(error):
            raise
        raise RunError(
            f"memory ran out ({error}): lower batch_size {cfg.batch_size} (BONELIB_BATCH_SIZE) or "
            f"image_size {cfg.image_size}; if a DataLoader worker was killed, set BONELIB_WORKERS=0"
        ) from error
