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
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from bonelib import augment
from bonelib.config import Config

Key = tuple[int, int, int]  # row of the pictures, epoch, how manyeth time the epoch draws it
AHEAD = 4  # batches that a worker prepares


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
        self.ring: torch.Tensor | None = None
        self.turn = 0

    def __getitems__(self, keys: Sequence[Key]) -> tuple[torch.Tensor, torch.Tensor]:
        batch, pixels = self._room(len(keys)), np.asarray(self.pixels)
        for picture, (row, epoch, nth) in zip(batch.numpy(), keys, strict=True):
            picture[:] = pixels[row]
            augment.seed(self.policy, self.seed, epoch, row, nth)
            picture[:] = self.policy(image=picture)["image"]
        _let_go(self.pixels)
        return batch[:, None], torch.from_numpy(self.labels[[row for row, _, _ in keys]])

    def _room(self, count: int) -> torch.Tensor:
        """(count, S, S) uint8; in a worker, a place in a ring: to share new memory each time cost a sixth of the speed."""
        shape = count, *self.pixels.shape[1:]
        if get_worker_info() is None:
            return torch.from_numpy(np.empty(shape, np.uint8))
        if self.ring is None or self.ring.shape[1:] != shape:
            self.ring = torch.empty((AHEAD + 2, *shape), dtype=torch.uint8).share_memory_()
        self.turn = (self.turn + 1) % len(self.ring)
        return self.ring[self.turn]

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
    """Batches in the order of `draws`; set `draws.epoch` before each epoch.

    On a CPU with workers a batch is overwritten when the next but one is asked for: use it, or copy it.
    """
    cuda = device.type == "cuda"
    workers = cfg.workers if cfg.workers >= 0 else min(4, os.cpu_count() or 1) if cuda else 0
    return DataLoader(
        Augmented(pixels, labels, policy, cfg.seed), batch_sampler=draws, collate_fn=_as_it_is, num_workers=workers,
        pin_memory=cuda, persistent_workers=workers > 0, worker_init_fn=_one_thread,
        prefetch_factor=AHEAD if workers else None,
        generator=torch.Generator(),  # else each new iterator, but no kept one, would draw from the model's chance
    )  # fmt: skip


def plain(pixels: NDArray[Any], rows: Sequence[int] | NDArray[np.int64], batch_size: int) -> Iterator[torch.Tensor]:
    """The pictures as they are, in order: (B, 1, S, S) uint8."""
    for i in range(0, len(rows), batch_size):
        batch = pixels[np.asarray(rows[i : i + batch_size])]  # fancy indexing copies
        _let_go(pixels)
        yield torch.from_numpy(batch)[:, None]


def _let_go(pixels: NDArray[Any]) -> None:
    """Give back what reading a memory map took up, however many pictures there are."""
    if isinstance(pixels.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        pixels.base.madvise(mmap.MADV_DONTNEED)


def seed_of(*keys: int) -> int:
    """One well-mixed 32-bit seed from several numbers."""
    return int(np.random.SeedSequence(keys).generate_state(1)[0])


def _as_it_is(batch: Any) -> Any:
    return batch


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)
