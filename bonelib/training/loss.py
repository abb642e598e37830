"""The loss: cross-entropy with class weights and label smoothing."""

import torch
import torch.nn.functional as F
from torch import Tensor


def smoothed_targets(class_count: int, smoothing: float) -> Tensor:
    """(K, K): row c is what the loss aims at for class c; rows sum to 1.

    smoothing: 0..1, the share that is spread over all classes (Szegedy et al. 2016,
    doi 10.1109/CVPR.2016.308).
    """
    return (1 - smoothing) * torch.eye(class_count) + smoothing / class_count


def weighted_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """A scalar: the sum of the weighted cross-entropies of a batch, divided by its size.

    logits, targets: (B, K). weights: (K,).
    """
    # float: a 16-bit softmax is too coarse. With (B, K) targets the mean is over B alone.
    return F.cross_entropy(logits.float(), targets, weights)
