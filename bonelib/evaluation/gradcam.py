"""Where the model looks (Grad-CAM), and whether such a heat map can be trusted."""

from dataclasses import asdict

import cv2
import numpy as np
import torch

from bonelib.evaluation.bootstrap import intervals
from bonelib.evaluation.findings import against_chance, format_interval
from bonelib.evaluation.predict import logits, softmax_mean
from bonelib.messages import Finding, RunError
from bonelib.split import label_indices
from bonelib.training.model import Net

# Deletion blurs squares of 1/14 of the side, in ten steps.
DELETION_CELLS = 14
DELETION_STEPS = np.linspace(0, 1, 11)
# Images that `explain` makes heat maps of.
MAX_MAPS = 12


def heatmaps(net: Net, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(N, S, S) in 0..1: the evidence for `classes` (N,) in each of a few dozen images (N, S, S).

    Selvaraju et al. 2017, doi 10.1109/ICCV.2017.74. The gradient goes through the head alone, from
    the backbone's last feature map, so frozen layers do no harm. RunError for a backbone without
    such a map, a vision transformer for example.
    """
    net.eval()
    device = next(net.parameters()).device
    batch = torch.from_numpy(np.ascontiguousarray(images))[:, None].to(device)  # (N, 1, S, S)
    with torch.no_grad():
        features = net.backbone.forward_features((batch.float() - net.mean) / net.std)
    if features.ndim != 4:
        shape = tuple(features.shape)
        raise RunError(f"Grad-CAM needs a feature map (N, C, h, w), and the backbone has {shape}")
    features = features.detach().requires_grad_()
    chosen = torch.from_numpy(classes).to(device)[:, None]  # (N, 1)
    score = net.backbone.forward_head(features).gather(1, chosen).sum()
    (gradient,) = torch.autograd.grad(score, features)
    # Swin and others keep channels last.
    if getattr(net.backbone, "output_fmt", "") == "NHWC":
        gradient, features = gradient.permute(0, 3, 1, 2), features.permute(0, 3, 1, 2)
    maps = (gradient.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True).relu()
    maps = torch.nn.functional.interpolate(maps, images.shape[1:], mode="bilinear")[:, 0]
    maps = maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12)  # (N, S, S)
    return np.asarray(maps.detach().cpu().numpy())


def _deleted(image: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(steps, S, S): more and more squares of an image replaced by a blurred copy, in `order`."""
    size = len(image)
    cells = np.argsort(order).reshape(DELETION_CELLS, DELETION_CELLS).astype(np.float32)
    rank = cv2.resize(cells, (size, size), interpolation=cv2.INTER_NEAREST)
    deleted = rank < np.round(DELETION_STEPS * len(order))[:, None, None]  # (steps, S, S)
    return np.where(deleted, cv2.GaussianBlur(image, (0, 0), size / 12), image)


def _area(net: Net, images: np.ndarray, orders: list, classes: np.ndarray) -> np.ndarray:
    """(N,): the mean probability of `classes` while squares are deleted in these orders."""
    pairs = zip(images, orders, strict=True)
    steps = np.concatenate([_deleted(image, order) for image, order in pairs])  # (N * steps, S, S)
    probabilities = softmax_mean(logits(net, steps)).reshape(len(images), len(DELETION_STEPS), -1)
    return probabilities.mean(1)[np.arange(len(images)), classes]


def deletion(net, images, maps, classes, seed=0) -> dict:
    """How much faster the probability of `classes` falls if squares are deleted by heat.

    images: (N, S, S) uint8. maps: (N, S, S) in 0..1. classes: (N,). Returned is the mean area
    between the curves of random order and of heat, with a 95% interval over images;
    above 0, the maps find what the model uses better than chance (Petsiuk et al. 2018, arXiv
    1806.07421).
    """
    rng, cells = np.random.default_rng(seed), (DELETION_CELLS, DELETION_CELLS)
    heat = [cv2.resize(heat, cells, interpolation=cv2.INTER_AREA).ravel() for heat in maps]
    by_heat = [np.argsort(-values) for values in heat]
    by_chance = [rng.permutation(DELETION_CELLS**2) for _ in images]
    gain = _area(net, images, by_chance, classes) - _area(net, images, by_heat, classes)
    low, high = np.quantile(rng.choice(gain, (1000, len(gain))).mean(1), [0.025, 0.975])
    return {"value": float(gain.mean()), "low": float(low), "high": float(high)}


def corners_only(images: np.ndarray) -> np.ndarray:
    """The images (N, S, S) with all but their corners, a quarter of the side, at the mean grey."""
    position = np.arange(images.shape[1]) / images.shape[1]
    outer = (position < 0.25) | (position >= 0.75)
    corners = outer[:, None] & outer
    return np.where(corners, images, images[:, corners].mean(1).astype(np.uint8)[:, None, None])


def explain(net, images, rows, class_names, seed=0) -> dict:
    """explain.json's content: the corners-only and the deletion check, with their findings.

    images: (N, S, S), of the test set. rows: their `label` and `group`.
    """
    y, blind = label_indices(rows["label"], tuple(class_names)), logits(net, corners_only(images))
    auroc = intervals(y, softmax_mean(blind), rows["group"], class_names)["auroc"]
    some = np.random.default_rng(seed).permutation(len(images))[:MAX_MAPS]
    predicted = logits(net, images[some])[0].argmax(1)
    out: dict = {"images": len(some), "corners_only": {"auroc": auroc}}
    try:
        maps = heatmaps(net, images[some], predicted)
        out["deletion"] = {"gain": deletion(net, images[some], maps, predicted, seed)}
        second = _deletion_finding(out["deletion"]["gain"])
    except RunError as error:
        out["no_map"] = str(error)
        second = Finding("note", f"No heat maps: {error}.")
    return out | {"findings": [asdict(_corners_finding(auroc)), asdict(second)]}


def _corners_finding(auroc: dict) -> Finding:
    """auroc: of the model on the image corners alone."""
    above = Finding("alarm", "Shortcut: from the image corners alone the model predicts the class")
    below = Finding("note", "From the image corners alone the model can't predict the class")
    return against_chance(auroc, above, below, "Too few test images to see if it needs the bone")


def _deletion_finding(gain: dict) -> Finding:
    result = f"(gain by deletion {format_interval(gain, signed=True)})."
    if gain["low"] > 0:
        return Finding("note", f"Heat maps find what the model uses better than chance {result}")
    return Finding("warning", f"Heat maps are not shown to be better than chance {result}")
