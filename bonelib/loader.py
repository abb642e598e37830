"""Batches whose draws depend on (seed, epoch, image) alone, never on workers or processes."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from bonelib import augment
from bonelib.config import Config

Key = tuple[int, int, int]  # row of the pictures, epoch, how manyeth time the epoch draws it


class Draws(Sampler[list[Key]]):
    """An epoch's batches: every row as often as it is drawn, in a new order each epoch.

    Each of `world` processes gets every world-th picture of the same global batches. The rest that fills no batch is
    left to chance, another one each epoch: batch normalisation suffers from a batch of one.
    """

    def __init__(self, draws: NDArray[np.int64], batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if batch_size % world:
            raise ValueError(f"batch_size = {batch_size}: expected a multiple of the {world} processes")
        self.rows = np.repeat(np.arange(len(draws)), draws)
        self.nth = np.concatenate([np.arange(d) for d in draws])
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.epoch = 0

    def __len__(self) -> int:
        return max(1, len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.rows))
        order = order[: max(1, len(order) // self.world) * self.world]
        for i in range(len(self)):
            mine = order[i * self.batch_size : (i + 1) * self.batch_size][self.rank :: self.world]
            yield [(int(self.rows[j]), self.epoch, int(self.nth[j])) for j in mine]


class Augmented(Dataset[Any]):
    """Whole batches of augmented pictures: (B, 1, S, S) uint8, and their labels (B,) int64."""

    def __init__(self, pixels: NDArray[Any], labels: NDArray[np.int64], policy: A.Compose, seed: int) -> None:
        self.pixels, self.labels, self.policy, self.seed = pixels, labels, policy, seed

    def __getitems__(self, keys: Sequence[Key]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [row for row, _, _ in keys]
        batch = _read(self.pixels, rows)
        for picture, (row, epoch, nth) in zip(batch, keys, strict=True):
            augment.seed(self.policy, self.seed, epoch, row, nth)
            picture[:] = self.policy(image=picture)["image"]
        return torch.from_numpy(batch)[:, None], torch.from_numpy(self.labels[rows])

    def __getstate__(self) -> dict[str, Any]:
        """Where workers are spawned, each opens a memory map's file anew; as an array they would all get a copy."""
        pixels = self.pixels
        return self.__dict__ | {"pixels": pixels.filename if isinstance(pixels.base, mmap.mmap) else pixels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        if isinstance(self.pixels, os.PathLike | str):
            self.pixels = np.load(self.pixels, mmap_mode="r")


def training(
    cfg: Config, pixels: NDArray[Any], labels: NDArray[np.int64], draws: Draws, policy: A.Compose, device: torch.device
) -> DataLoader[Any]:
    """Batches in the order of `draws`; set `draws.epoch` before each epoch."""
    cuda = device.type == "cuda"
    workers = cfg.workers if cfg.workers >= 0 else min(4, os.cpu_count() or 1) if cuda else 0
    return DataLoader(
        Augmented(pixels, labels, policy, cfg.seed), batch_sampler=draws, collate_fn=_as_it_is, num_workers=workers,
        pin_memory=cuda, persistent_workers=workers > 0, worker_init_fn=_one_thread,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # else each new iterator, but no kept one, would draw from the model's chance
    )  # fmt: skip


def plain(pixels: NDArray[Any], rows: Sequence[int] | NDArray[np.int64], batch_size: int) -> Iterator[torch.Tensor]:
    """The pictures as they are, in order: (B, 1, S, S) uint8."""
    for i in range(0, len(rows), batch_size):
        yield torch.from_numpy(_read(pixels, rows[i : i + batch_size]))[:, None]


def _read(pixels: NDArray[Any], rows: Sequence[int] | NDArray[np.int64]) -> NDArray[Any]:
    """A copy of some pictures; what a memory map took up meanwhile is given back, however many pictures there are."""
    out: NDArray[Any] = pixels[np.asarray(rows)]  # fancy indexing copies
    if isinstance(pixels.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        pixels.base.madvise(mmap.MADV_DONTNEED)
    return out


def seed_of(*keys: int) -> int:
    """One well-mixed 32-bit seed from several numbers."""
    return int(np.random.SeedSequence(keys).generate_state(1)[0])


def _as_it_is(batch: Any) -> Any:
    return batch


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)
