"""What is drawn depends on (seed, epoch, image) alone."""

import pickle
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bonelib import augment, loader
from bonelib.config import Config

PIXELS = np.random.default_rng(0).integers(0, 255, (20, 32, 32), dtype=np.uint8)
LABELS = np.arange(20) % 3
COUNTS = np.array([2, 1, 0, 3] * 5)
CPU = torch.device("cpu")


def epochs(*numbers: int, workers: int = 0, rank: int = 0, world: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of these epochs, all from one loader."""
    cfg = Config(image_size=32, batch_size=4, workers=workers)
    draws = loader.Draws(COUNTS, 4, cfg.seed, rank, world)
    batches = loader.training(cfg, PIXELS, LABELS, draws, augment.policy(cfg), CPU)
    out = []
    for draws.epoch in numbers:
        out += [(pictures.clone(), labels) for pictures, labels in batches]  # a worker fills its places anew
    return out


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_epochs_are_the_same_with_any_number_of_workers_and_from_any_start():
    alone = epochs(3) + epochs(4)
    for workers in (0, 1, 4):
        for (a, y), (b, z) in zip(alone, epochs(3, 4, workers=workers), strict=True):
            assert torch.equal(a, b) and torch.equal(y, z)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2])
def test_batch_stays_as_it_is_while_workers_run_ahead_and_the_next_is_asked_for(workers):
    cfg = Config(image_size=32, batch_size=2, workers=workers)
    pixels, labels = np.tile(PIXELS, (3, 1, 1)), np.tile(LABELS, 3)
    draws = loader.Draws(np.ones(60, int), 2, cfg.seed)
    expected = list(loader.training(replace(cfg, workers=0), pixels, labels, draws, augment.policy(cfg), CPU))
    last = None
    for i, (pictures, _) in enumerate(loader.training(cfg, pixels, labels, draws, augment.policy(cfg), CPU)):
        time.sleep(0.02)  # time enough to fill every place that is free
        assert torch.equal(pictures, expected[i][0]) and (last is None or torch.equal(last, expected[i - 1][0]))
        last = pictures
    assert i == 29


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_leave_the_chance_of_the_model_alone(workers):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    epochs(0, 1, workers=workers)
    assert torch.equal(torch.rand(1), expected)


def test_another_epoch_draws_other_pictures_in_another_order():
    assert not torch.equal(epochs(0)[0][0], epochs(1)[0][0])


def test_two_processes_together_draw_what_one_draws():
    parts = [epochs(2, rank=r, world=2) for r in range(2)]
    for i, (whole, labels) in enumerate(epochs(2)):
        assert torch.equal(torch.cat([parts[0][i][0], parts[1][i][0]]), torch.cat([whole[0::2], whole[1::2]]))
        assert torch.equal(torch.cat([parts[0][i][1], parts[1][i][1]]), torch.cat([labels[0::2], labels[1::2]]))


def test_rows_are_drawn_as_often_as_asked_and_never_more():
    draws = loader.Draws(COUNTS, 5, seed=0)
    seen = np.bincount([row for batch in draws for row, _, _ in batch], minlength=20)
    assert np.array_equal(seen, COUNTS), "30 draws fill six batches of five"
    some = loader.Draws(COUNTS, 4, seed=0)
    assert len(some) == 7 and all(len(b) == 4 for b in some), "no batch of a remainder"


def test_repeated_draws_of_an_image_differ():
    cfg = Config(image_size=32)
    data = loader.Augmented(PIXELS, LABELS, augment.policy(cfg), 0)
    pictures, labels = data.__getitems__([(3, 0, 0), (3, 0, 1), (3, 0, 0)])
    assert torch.equal(pictures[0], pictures[2]) and not torch.equal(pictures[0], pictures[1])
    assert pictures.shape == (3, 1, 32, 32) and pictures.dtype == torch.uint8 and labels.tolist() == [0, 0, 0]


def test_batch_that_cannot_be_shared_evenly_is_refused():
    with pytest.raises(ValueError, match="multiple of the 3"):
        loader.Draws(COUNTS, 4, 0, world=3)


def test_plain_batches_are_the_pictures_in_order():
    out = torch.cat(list(loader.plain(PIXELS, [5, 1, 7], 2)))
    assert np.array_equal(out[:, 0].numpy(), PIXELS[[5, 1, 7]])


@pytest.fixture
def mapped(tmp_path):
    np.save(tmp_path / "pixels.npy", np.random.default_rng(0).integers(0, 255, (400, 128, 128), dtype=np.uint8))
    return np.load(tmp_path / "pixels.npy", mmap_mode="r")


def test_spawned_worker_opens_the_memory_map_instead_of_a_copy(mapped):
    labels, policy = np.zeros(400, np.int64), augment.policy(Config(image_size=128))
    sent = pickle.dumps(loader.Augmented(mapped, labels, policy, 0))
    assert len(sent) < 100_000 < mapped.nbytes
    keys = [(7, 0, 0), (399, 2, 1)]
    again, whole = pickle.loads(sent), loader.Augmented(np.array(mapped), labels, policy, 0)
    assert torch.equal(again.__getitems__(keys)[0], whole.__getitems__(keys)[0])
    part = pickle.loads(pickle.dumps(loader.Augmented(mapped[5:9], labels, policy, 0)))
    assert np.array_equal(part.pixels, mapped[5:9]), "a slice is not the whole file"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pictures_that_were_read_do_not_stay_in_memory(mapped):
    for _ in loader.plain(mapped, np.arange(400), 32):
        pass
    entries = Path("/proc/self/smaps").read_text().split("VmFlags")
    (entry,) = [e for e in entries if str(mapped.filename) in e]
    resident = int(entry.split("Rss:")[1].split()[0])
    assert resident < 100, f"{resident} KiB of {mapped.nbytes // 1024} are still held"
