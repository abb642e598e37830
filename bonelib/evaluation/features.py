"""Images to feature vectors: texture, corners, or a frozen pretrained backbone."""

import numpy as np

from bonelib.config import Config
from bonelib.evaluation.predict import logits
from bonelib.training.device import device, precision
from bonelib.training.model import build

# Rotation-invariant uniform patterns (Ojala 2002, doi 10.1109/TPAMI.2002.1017623): 0..8 set
# neighbours, 9 for the rest.
_BITS = (np.arange(256)[:, None] >> np.arange(8)) & 1
_UNIFORM = (np.roll(_BITS, 1, 1) != _BITS).sum(1) <= 2
_PATTERNS = np.where(_UNIFORM, _BITS.sum(1), 9).astype(np.uint8)
_NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
# The corners are 2 x 2 cells each of a grid with this many cells per side.
_GRID = 8


def cheap_features(cfg: Config, images: np.ndarray) -> np.ndarray:
    """(N, D): the features of the frozen backbone or, without pretrained weights, texture."""
    if cfg.pretrained:
        return frozen_features(cfg, images)
    return np.stack([texture_features(image) for image in images])


def frozen_features(cfg: Config, images: np.ndarray) -> np.ndarray:
    """(N, D): the pooled last feature map of the pretrained backbone; images: (N, S, S) uint8."""
    net = build(cfg, 2).to(device())
    net.backbone.reset_classifier(0)
    mode = precision(cfg, device())
    # Without a classifier the backbone returns its features in place of logits.
    features = logits(net, images, batch_size=2 * cfg.batch_size, precision=mode)
    return features[0].astype(np.float64)  # (N, D)


def texture_features(image: np.ndarray) -> np.ndarray:
    """Grey-level histogram, and local binary patterns at 1, 2 and 4 px: (S, S) uint8 to (62,)."""
    patterns = [_binary_patterns(image, radius) for radius in (1, 2, 4)]
    return np.concatenate([_histogram(image >> 3, 32), *patterns])


def corner_features(image: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of 4 cells in each corner: (S, S) uint8 to (32,)."""
    step = len(image) // _GRID
    cells = image[: step * _GRID, : step * _GRID].reshape(_GRID, step, _GRID, step)
    outer = np.isin(np.arange(_GRID), (0, 1, _GRID - 2, _GRID - 1))
    corners = outer[:, None] & outer
    return np.concatenate([cells.mean((1, 3))[corners], cells.std((1, 3))[corners]])


def _histogram(values: np.ndarray, count: int) -> np.ndarray:
    """Shares of the integers 0..count - 1: (count,)."""
    return np.bincount(values.ravel(), minlength=count) / values.size


def _binary_patterns(image: np.ndarray, radius: int) -> np.ndarray:
    """Histogram (10,) of the local binary patterns of an image (S, S)."""
    code = np.zeros(image.shape, np.uint8)
    for bit, (dy, dx) in enumerate(_NEIGHBOURS):
        neighbour = np.roll(image, (-dy * radius, -dx * radius), (0, 1))
        code |= (neighbour >= image).astype(np.uint8) << bit
    # The outermost pixels have neighbours beyond the edge.
    return _histogram(_PATTERNS[code[radius:-radius, radius:-radius]], 10)
