"""Where the model looks (Grad-CAM, doi:10.1109/ICCV.2017.74), and checks of whether such a map may be believed."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bonelib import metrics, predict, verdict
from bonelib.config import CLASSES
from bonelib.model import Net

CELLS = 14  # the checks take away or give back squares of 1/14 of the side
STEPS = np.linspace(0, 1, 11)  # share of the squares taken away
REGIONS = ("padding", "overlay", "border", "bone", "other")


class NoMapError(ValueError):
    """A backbone without a feature map, such as a vision transformer: Grad-CAM has nothing to paint."""


def heat(net: Net, pixels: NDArray[Any], classes: NDArray[Any], batch_size: int = 16) -> NDArray[Any]:
    """(N, S, S) float32 0..1: what speaks for `classes` (N,) in each picture (N, S, S) uint8.

    The gradient runs through the head alone, from the backbone's last feature map, so frozen layers do no harm.
    """
    net.eval()
    on, out = next(net.parameters()).device, []
    for i in range(0, len(pixels), batch_size):
        x = torch.from_numpy(np.ascontiguousarray(pixels[i : i + batch_size]))[:, None].to(on)
        with torch.no_grad():
            features = net.backbone.forward_features((x.float() - net.mean) / net.std)  # (B, C, h, w)
        if features.ndim != 4:
            raise NoMapError(f"the backbone's features are {tuple(features.shape)}: expected a map (B, C, h, w)")
        features = features.detach().requires_grad_()
        chosen = torch.from_numpy(np.asarray(classes[i : i + batch_size])).to(on)[:, None]
        score = net.backbone.forward_head(features).gather(1, chosen).sum()
        (slope,) = torch.autograd.grad(score, features)
        if getattr(net.backbone, "output_fmt", "") == "NHWC":  # as in Swin
            slope, features = (t.permute(0, 3, 1, 2) for t in (slope, features))
        cam = (slope.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True).relu()  # (B, 1, h, w)
        cam = torch.nn.functional.interpolate(cam, size=pixels.shape[1:], mode="bilinear", align_corners=False)[:, 0]
        out.append((cam / cam.amax((1, 2), keepdim=True).clamp_min(1e-12)).detach().cpu().numpy())
    return np.concatenate(out)


def _probs(net: Net, pixels: NDArray[Any], batch_size: int = 32) -> NDArray[Any]:
    return predict.probabilities(predict.logits(net, pixels, np.arange(len(pixels)), batch_size=batch_size))


def _blurred(picture: NDArray[Any]) -> NDArray[Any]:
    return cv2.GaussianBlur(picture, (0, 0), picture.shape[0] / 12)


def _ladder(picture: NDArray[Any], order: NDArray[Any], delete: bool) -> NDArray[Any]:
    """(steps, S, S): squares blurred (delete) or given back to the blurred picture in `order`."""
    rank = np.empty(CELLS * CELLS, int)
    rank[order] = np.arange(CELLS * CELLS)
    size = picture.shape[0]
    rank = cv2.resize(rank.reshape(CELLS, CELLS).astype(np.float32), (size, size), interpolation=cv2.INTER_NEAREST)
    soft = _blurred(picture)
    taken = rank[None] < np.round(STEPS * CELLS * CELLS)[:, None, None]
    return np.where(taken == delete, soft, picture).astype(np.uint8)


def faithfulness(
    net: Net, pixels: NDArray[Any], heats: NDArray[Any], classes: NDArray[Any], seed: int = 0
) -> dict[str, Any]:
    """Mean probability of `classes` while squares go (deletion) or come (insertion), by heat and at random, and the gain.

    `gain` is the mean area between random and heat, with a 95% interval over pictures; above 0 the map is better than
    chance at naming what the model uses (Petsiuk 2018, arXiv 1806.07421).
    """
    rng, size = np.random.default_rng(seed), pixels.shape[1:]
    maps = np.stack([cv2.resize(h, (CELLS, CELLS), interpolation=cv2.INTER_AREA).ravel() for h in heats])
    orders = {"heat": np.argsort(-maps, 1), "random": np.stack([rng.permutation(CELLS * CELLS) for _ in pixels])}
    out: dict[str, Any] = {}
    for name, delete in (("deletion", True), ("insertion", False)):
        curves = {}
        for by, order in orders.items():
            steps = np.stack([_ladder(p, o, delete) for p, o in zip(pixels, order, strict=True)])  # (N, steps, S, S)
            probs = _probs(net, steps.reshape(-1, *size)).reshape(len(pixels), len(STEPS), len(CLASSES))
            curves[by] = np.take_along_axis(probs, np.asarray(classes)[:, None, None], 2)[..., 0]
        gain = (curves["random"] - curves["heat"]).mean(1) * (1 if delete else -1)
        drawn = rng.choice(gain, (1000, len(gain))).mean(1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        out[name] = {by: c.mean(0).round(4).tolist() for by, c in curves.items()}
        out[name]["gain"] = {"value": float(gain.mean()), "low": float(low), "high": float(high)}
    return out


def regions(picture: NDArray[Any]) -> NDArray[Any]:
    """(S, S) int: index into REGIONS. Stated rules, no annotation, so read the shares as rough.

    padding: rows and columns that are black throughout. overlay: nearly white and thin (text, lines, markers).
    border: the outer 8% of what is left. bone: the brighter part of the rest by Otsu's threshold.
    """
    out = np.full(picture.shape, REGIONS.index("other"))
    lit = picture > 8
    rows, columns = (np.flatnonzero(lit.any(a)) for a in (1, 0))
    if not len(rows):
        return np.full(picture.shape, REGIONS.index("padding"))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    inner = picture[top:bottom, left:right]
    bone = cv2.threshold(cv2.GaussianBlur(inner, (0, 0), 2), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]
    out[top:bottom, left:right][bone > 0] = REGIONS.index("bone")
    edge = max(1, round(0.08 * min(inner.shape)))
    frame = np.ones(inner.shape, bool)
    frame[edge:-edge, edge:-edge] = False
    out[top:bottom, left:right][frame] = REGIONS.index("border")
    side = max(3, picture.shape[0] // 24) | 1
    thin = cv2.morphologyEx(picture, cv2.MORPH_TOPHAT, np.ones((side, side), np.uint8))
    out[(picture >= 235) & (thin >= 60)] = REGIONS.index("overlay")
    outside = np.ones(picture.shape, bool)
    outside[top:bottom, left:right] = False
    out[outside] = REGIONS.index("padding")
    return out


def shares(pixels: NDArray[Any], heats: NDArray[Any]) -> dict[str, dict[str, float]]:
    """Each region's mean share of the heat and of the area; a model that looks at bone has more heat there than area."""
    parts = np.stack([regions(p) for p in pixels])
    total = heats.sum((1, 2)).clip(1e-9)
    return {
        name: {"heat": float(((heats * (parts == i)).sum((1, 2)) / total).mean()), "area": float((parts == i).mean())}
        for i, name in enumerate(REGIONS)
    }


def corners_only(pixels: NDArray[Any], share: float = 0.25) -> NDArray[Any]:
    """The pictures with all but their four corners (`share` of the side each) at the corners' mean grey: no bone left."""
    size = pixels.shape[1]
    at = np.arange(size)
    outer = (at < share * size) | (at >= (1 - share) * size)
    kept = outer[:, None] & outer
    grey = pixels[:, kept].mean(1).astype(np.uint8)[:, None, None]
    return np.where(kept, pixels, grey)


def explain(net: Net, pixels: NDArray[Any], rows: pd.DataFrame, most: int = 12, seed: int = 0) -> dict[str, Any]:
    """explain.json's content, from test pictures (N, S, S) uint8 and their `label`, `group`: checks with their sentences."""
    y = rows["label"].map(CLASSES.index).to_numpy()
    some = np.random.default_rng(seed).permutation(len(pixels))[:most]
    called = _probs(net, pixels[some]).argmax(1)
    blind = metrics.intervals(y, _probs(net, corners_only(pixels)), rows["group"])["auroc"]
    out: dict[str, Any] = {"pictures": len(some), "corners_only": {"auroc": blind}}
    try:
        heats = heat(net, pixels[some], called)
        out |= {"regions": shares(pixels[some], heats)} | faithfulness(net, pixels[some], heats, called, seed)
    except NoMapError as error:
        out["no_heat"] = str(error)
    return out | {"verdict": sentences(out)}


def sentences(found: dict[str, Any]) -> list[str]:
    """What the checks say, in words."""
    blind = found["corners_only"]["auroc"]
    told = {
        True: "Shortcut: shown the corners alone, the model still tells the classes apart",
        False: "Shown the corners alone, without the bone, the model is at a loss",
        None: "Shown the corners alone, without the bone: too few test images to tell whether the model is at a loss",
    }
    out = [f"{told[verdict.ranks(blind)]} (AUROC {verdict.span(blind)})."]
    if "no_heat" in found:
        return [*out, f"No heat maps: {found['no_heat']}."]
    for name in ("deletion", "insertion"):
        gain = found[name]["gain"]
        said = "are better than chance" if gain["low"] > 0 else "are not shown to be better than chance"
        out.append(f"Heat maps {said} at naming what the model uses, by {name} (gain {verdict.span(gain, True)}).")
    bone, rest = found["regions"]["bone"], [found["regions"][k] for k in ("padding", "overlay", "border")]
    on_bone = f"{bone['heat']:.0%} of the heat on {bone['area']:.0%} of the area"
    beside = f"{sum(r['heat'] for r in rest):.0%} on {sum(r['area'] for r in rest):.0%}"
    return [*out, f"Bone (by a rule of brightness) holds {on_bone}; padding, overlay and border hold {beside}."]
