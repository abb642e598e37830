"""The loss: targets, weights, and the mean over the batch."""

from __future__ import annotations

import pytest
import torch

from bonelib.training.loss import smoothed_targets, weighted_loss


@pytest.mark.parametrize("class_count", [2, 3, 4])
def test_smoothing_takes_from_the_true_class_and_gives_to_all(class_count):
    targets = smoothed_targets(class_count, 0.3)
    expected = torch.full((class_count, class_count), 0.3 / class_count)
    expected += 0.7 * torch.eye(class_count)
    assert torch.allclose(targets, expected) and torch.allclose(targets.sum(1), torch.ones(1))


def test_no_smoothing_aims_at_certainty():
    assert torch.equal(smoothed_targets(3, 0.0), torch.eye(3))


def test_loss_is_the_sum_of_weighted_cross_entropies_over_the_batch_size():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    targets = smoothed_targets(3, 0.1)[[0, 1, 2, 2, 2]]
    weights = torch.tensor([2.0, 1.0, 0.5])
    by_hand = 0.0
    for row, target in zip(logits, targets, strict=True):
        log_p = row - row.exp().sum().log()
        by_hand -= sum(w * t * p for w, t, p in zip(weights, target, log_p, strict=True)) / 5
    assert torch.allclose(weighted_loss(logits, targets, weights), by_hand)


def test_loss_of_16_bit_logits_has_32_bits():
    logits = torch.randn(4, 2).half()
    loss = weighted_loss(logits, smoothed_targets(2, 0.0)[[0, 1, 0, 1]], torch.ones(2))
    assert loss.dtype == torch.float32
