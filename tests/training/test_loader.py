"""A batch depends on (seed, epoch, image) alone, and belongs to whoever receives it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bonelib import augment
from bonelib.config import Config
from bonelib.messages import ConfigError
from bonelib.training.loader import AugmentedBatches, Draws, seed_from, training_batches

IMAGES = np.random.default_rng(0).integers(0, 255, (20, 32, 32), dtype=np.uint8)
LABELS = np.arange(20) % 3
COUNTS = np.array([2, 1, 0, 3] * 5)
CPU = torch.device("cpu")
Batches = list[tuple[torch.Tensor, torch.Tensor]]


def epochs(*numbers: int, workers: int = 0, rank: int = 0, world: int = 1) -> Batches:
    """The batches of these epochs, all from one loader."""
    cfg = Config(image_size=32, batch_size=4, workers=workers)
    draws = Draws(COUNTS, 4, cfg.seed, rank, world)
    batches = training_batches(cfg, IMAGES, LABELS, draws, augment.policy(cfg), CPU)
    out = []
    for number in numbers:
        draws.epoch = number
        out += list(batches)
    return out


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_list_of_all_batches_holds_the_images_of_its_draws(workers):
    cfg = Config(image_size=32, batch_size=2, workers=workers)
    draws = Draws(COUNTS, 2, cfg.seed)
    batches = training_batches(cfg, IMAGES, LABELS, draws, augment.policy(cfg), CPU)
    received, policy = list(batches), augment.policy(cfg)
    assert len(received) == len(batches) == 15
    for (images, labels), keys in zip(received, draws, strict=True):
        assert images.shape == (2, 1, 32, 32) and images.dtype == torch.uint8
        assert labels.tolist() == [LABELS[row] for row, _, _ in keys]
        for image, (row, epoch, repeat) in zip(images, keys, strict=True):
            augment.seed(policy, cfg.seed, epoch, row, repeat)
            assert np.array_equal(image[0], policy(image=IMAGES[row])["image"])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 4])
def test_epochs_are_the_same_with_any_number_of_workers_and_from_any_start(workers):
    expected = epochs(3) + epochs(4)
    for (a, y), (b, z) in zip(expected, epochs(3, 4, workers=workers), strict=True):
        assert torch.equal(a, b) and torch.equal(y, z)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_leave_the_random_numbers_of_the_model_alone(workers):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    epochs(0, 1, workers=workers)
    assert torch.equal(torch.rand(1), expected)


def test_another_epoch_draws_other_images_in_another_order():
    rows = [[row for batch in one_epoch(number) for row, _, _ in batch] for number in (0, 1)]
    assert rows[0] != rows[1] and not torch.equal(epochs(0)[0][0], epochs(1)[0][0])


def one_epoch(number: int) -> list[list[tuple[int, int, int]]]:
    draws = Draws(COUNTS, 4, seed=0)
    draws.epoch = number
    return list(draws)


def test_two_processes_together_draw_what_one_draws():
    shares = [epochs(2, rank=rank, world=2) for rank in range(2)]
    for whole, first, second in zip(epochs(2), *shares, strict=True):
        for i in range(2):
            assert torch.equal(first[i], whole[i][0::2]) and torch.equal(second[i], whole[i][1::2])


def test_rows_are_drawn_as_often_as_given_and_never_more():
    rows = [row for batch in Draws(COUNTS, 5, seed=0) for row, _, _ in batch]
    assert np.array_equal(np.bincount(rows, minlength=20), COUNTS)


def test_no_batch_is_smaller_unless_it_is_the_only_one():
    assert [len(batch) for batch in Draws(COUNTS, 4, seed=0)] == [4] * 7
    assert [len(batch) for batch in Draws(np.ones(3, int), 4, seed=0)] == [3]


def test_repeated_draws_of_an_image_differ_and_the_same_draw_does_not():
    cfg = Config(image_size=32)
    batches = AugmentedBatches(IMAGES, LABELS, augment.policy(cfg), 0)
    images, labels = batches[[(3, 0, 0), (3, 0, 1), (3, 0, 0)]]
    assert torch.equal(images[0], images[2]) and not torch.equal(images[0], images[1])
    assert labels.tolist() == [0, 0, 0]


def test_another_seed_augments_otherwise():
    policy = augment.policy(Config(image_size=32))
    a, b = (AugmentedBatches(IMAGES, LABELS, policy, seed)[[(3, 0, 0)]][0] for seed in (0, 1))
    assert not torch.equal(a, b)


def test_batch_that_cannot_be_shared_evenly_is_an_error_that_names_the_setting():
    with pytest.raises(ConfigError, match=r"batch_size.* 3 "):
        Draws(COUNTS, 4, 0, world=3)


def test_seeds_differ_with_each_key():
    assert len({seed_from(0, 0), seed_from(0, 1), seed_from(1, 0), seed_from(0, 0, 0, 1)}) == 4


@pytest.fixture
def mapped(tmp_path: Path) -> NDArray[np.uint8]:
    images = np.random.default_rng(0).integers(0, 255, (400, 128, 128), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    return np.load(str(tmp_path / "images.npy"), mmap_mode="r")


def test_spawned_worker_opens_the_memory_map_instead_of_a_copy(mapped):
    labels, policy = np.zeros(400, np.int64), augment.policy(Config(image_size=128))
    sent = pickle.dumps(AugmentedBatches(mapped, labels, policy, 0))
    assert len(sent) < 100_000 < mapped.nbytes
    keys = [(7, 0, 0), (399, 2, 1)]
    in_memory = AugmentedBatches(np.array(mapped), labels, policy, 0)
    assert torch.equal(pickle.loads(sent)[keys][0], in_memory[keys][0])


def test_spawned_worker_gets_a_part_of_a_memory_map_as_that_part(mapped):
    part = AugmentedBatches(mapped[5:9], np.zeros(4, np.int64), augment.policy(Config()), 0)
    assert np.array_equal(pickle.loads(pickle.dumps(part)).images, mapped[5:9])
