"""Batches that depend on (seed, epoch, image) alone, never on loader processes or GPUs."""

import mmap
import os
from collections.abc import Iterator, Sequence

import albumentations as A
import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from bonelib import augment
from bonelib.messages import ConfigError

# row of the image, epoch, and how many times the epoch has drawn the row before
Draw = tuple[int, int, int]


class Draws(Sampler[list[Draw]]):
    """The batches of an epoch: each row `draws` times, in another order each epoch.

    draws: (N,). Each of `world` processes gets every world-th image of the same batches. The
    remainder that fills no batch is left out, another one each epoch: batch normalisation suffers
    from a batch of one. Set `epoch` before each epoch.
    """

    def __init__(self, draws, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if batch_size % world:
            raise ConfigError(f"batch_size {batch_size}: expected a multiple of {world} processes")
        self.rows = np.repeat(np.arange(len(draws)), draws)
        self.repeats = np.concatenate([np.arange(count) for count in draws])
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.epoch = 0

    def __len__(self) -> int:
        return max(1, len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.rows))
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            mine = order[start : start + self.batch_size][self.rank :: self.world]
            yield [(int(self.rows[i]), self.epoch, int(self.repeats[i])) for i in mine]


class AugmentedBatches(Dataset):
    """A batch for each list of draws: augmented images (B, 1, S, S) uint8, labels (B,) int64."""

    def __init__(self, images, labels, policy: A.Compose, seed: int) -> None:
        self.images, self.labels, self.policy, self.seed = images, labels, policy, seed

    def __getitem__(self, draws: Sequence[Draw]) -> tuple[torch.Tensor, torch.Tensor]:
        # indexing a plain array is faster than indexing a memory map
        images = np.asarray(self.images)
        batch = np.empty((len(draws), 1, *images.shape[1:]), np.uint8)
        for i, (row, epoch, repeat) in enumerate(draws):
            augment.seed(self.policy, self.seed, epoch, row, repeat)
            batch[i, 0] = self.policy(image=images[row].copy())["image"]
        labels = self.labels[[row for row, _, _ in draws]]
        return torch.from_numpy(batch), torch.from_numpy(labels)

    def __getstate__(self) -> dict:
        """Where loader processes are spawned, each opens a memory map's file instead of a copy."""
        is_file = isinstance(self.images.base, mmap.mmap)
        return self.__dict__ | {"images": self.images.filename if is_file else self.images}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ = state
        if not isinstance(self.images, np.ndarray):
            self.images = np.load(self.images, mmap_mode="r")


def training_batches(cfg, images, labels, draws, policy, device) -> DataLoader:
    """Images (B, 1, S, S) uint8 and labels (B,) int64 in the order of `draws`, a Draws.

    images: (N, S, S) uint8. labels: (N,). policy: from `augment.policy`. device: that the model is
    on. A batch belongs to whoever receives it.
    """
    # on a CPU the model needs the cores
    most = min(4, os.cpu_count() or 1) if device.type == "cuda" else 0
    workers = most if cfg.workers < 0 else cfg.workers
    return DataLoader(
        AugmentedBatches(images, labels, policy, cfg.seed),
        batch_size=None,
        sampler=draws,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        worker_init_fn=_use_one_thread,
        # its own generator: the loader must not draw from the one that dropout uses
        generator=torch.Generator(),
    )


def seed_from(*keys: int) -> int:
    """One well-mixed 32-bit seed from several numbers."""
    return int(np.random.SeedSequence(keys).generate_state(1)[0])


def _use_one_thread(worker: int) -> None:
    cv2.setNumThreads(0)
