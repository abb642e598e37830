"""A synthetic knee radiograph from a simple physical model, for a given bone loss.

X-rays weaken as exp(-sum of mu * thickness) on their way through soft tissue, cortex and trabecular bone
(Beer-Lambert). Bone loss thins the cortex and leaves fewer, coarser trabeculae; soft tissue, pose, exposure, contrast
and noise are drawn without regard to it. A toy for teaching and tests, no model of a population.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Array = NDArray[np.floating[Any]]
SOFT, FAT, BONE = 0.14, 0.11, 0.45  # attenuation per cm; BONE is what compact bone adds to soft tissue
VIEWS = {  # bone outlines: x (lateral or posterior positive), y (down) in cm from the middle of the joint
    "frontal": {
        "femur": "-1.7,-16 -1.7,-7 -2.6,-4.8 -4.1,-3 -4.4,-1.5 -3.5,-.3 -2,-.05 -.9,-.6 0,-1.5 .9,-.7 2.1,-.1 "
        "3.5,-.35 4.3,-1.5 3.9,-3 2.5,-4.8 1.7,-7 1.7,-16",
        "tibia": "-4.2,.8 -3.7,.4 -1.6,.6 -.5,-.05 0,.4 .5,-.05 1.6,.6 3.7,.4 4.2,.8 3.8,2.2 2.3,4.6 1.6,7.5 "
        "1.5,16 -1.5,16 -1.6,7.5 -2.2,4.6 -3.8,2.2",
        "fibula": "3,2.8 3.6,1.7 4.5,2.1 4.4,3.5 3.7,5.2 3.5,16 2.5,16 2.7,5.2",
        "patella": "-2.2,-3.6 -1.4,-5.1 .2,-5.5 1.8,-5.1 2.5,-3.6 1.7,-1.9 .2,-1.1 -1.3,-1.9",
    },
    "lateral": {
        "femur": "-1.6,-16 -1.6,-7 -2,-4.5 -2.8,-3 -2.9,-1.3 -1.6,-.2 .5,.1 2.5,-.3 3.8,-1.6 3.7,-3.4 2.3,-4.2 "
        "1.6,-5.4 1.5,-7 1.5,-16",
        "tibia": "-2.6,.6 0,.5 .3,.1 .7,.5 2.8,.8 3.1,1.4 2.4,2.7 1.5,5 1.3,8 1.3,16 -1.5,16 -1.6,8 -2.1,4.7 "
        "-2.9,3.4 -2.7,1.6",
        "fibula": "1.5,3 2.2,1.7 3.1,2.5 2.6,4.5 2.4,16 1.4,16 1.5,4.5",
        "patella": "-4.8,-4.6 -3.7,-5 -3.3,-3.2 -3.5,-1.4 -4.6,-2 -5.2,-3.6",
    },
}


@dataclass(frozen=True)
class Bone:
    """What the class decides, for bone loss from 0 (healthy) to 2 (osteoporotic)."""

    cortex: float  # cm
    volume: float  # share of the marrow space that trabeculae fill
    spacing: float  # cm between trabeculae, as they show in projection
    contrast: float  # how far the trabeculae stand out from their mean

    @classmethod
    def of(cls, loss: float) -> Bone:
        """The bone at this loss."""
        return cls(0.62 - 0.22 * loss, 0.36 - 0.085 * loss, 0.38 + 0.26 * loss, 0.17 + 0.13 * loss)


def _polygon(points: str, jitter: Array, pose: Array) -> Array:
    """Smooth closed outline in pixels: (M, 2) float; corners are cut three times (Chaikin)."""
    xy = np.array([p.split(",") for p in points.split()], float)
    xy = xy + jitter[: len(xy)]
    for _ in range(3):
        after = np.roll(xy, -1, axis=0)
        xy = np.stack([0.75 * xy + 0.25 * after, 0.25 * xy + 0.75 * after], axis=1).reshape(-1, 2)
    return xy @ pose[:, :2].T + pose[:, 2]


def _pose(angle: float, scale: float, origin: Array, flip: bool) -> Array:
    """Centimetres to pixels: (2, 3) rotation about the joint, scale in pixels a cm, mirrored if flip."""
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    turn = np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if flip else 1.0, 1.0])
    return np.column_stack([turn, origin])


def _chord(depth: Array, radius: Array | float) -> Array:
    """Thickness of a round bar, `depth` in from its edge: same unit as depth; beyond the axis it stays full."""
    inside = np.clip(depth, 0, radius)
    return 2 * np.sqrt(np.maximum(radius**2 - (radius - inside) ** 2, 0))


def _trabeculae(rng: np.random.Generator, shape: tuple[int, int], spacing: float, contrast: float) -> Array:
    """A mesh of struts, longer along the load than across, mean 1: (H, W) float32; spacing in pixels."""
    struts = np.zeros(shape, np.float32)
    for weight, tall, wide in ((1.0, 3.0, 0.8), (0.6, 1.0, 1.6)):
        noise = rng.standard_normal(shape, np.float32)
        fine = spacing / 3
        band = cv2.GaussianBlur(noise, (0, 0), fine * wide, sigmaY=fine * tall)
        band = band - cv2.GaussianBlur(noise, (0, 0), 1.6 * fine * wide, sigmaY=1.6 * fine * tall)
        struts += weight * np.exp(-((band / (0.45 * band.std())) ** 2))  # the lines where the noise changes sign
    mesh: Array = 1 + contrast * (struts - struts.mean()) / struts.std()
    return np.maximum(mesh, 0)


def _bone(polygon: Array, flare: Array, bone: Bone, struts: Array, radius: float, scale: float) -> Array:
    """Attenuation that one bone adds: (H, W) float32."""
    mask = np.zeros(struts.shape, np.uint8)
    cv2.fillPoly(mask, [np.round(polygon * 16).astype(np.int32)], 1, shift=4)
    depth = np.asarray(cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32) / scale
    cortex = np.minimum(bone.cortex * (1 - 0.62 * flare), 0.45 * radius)
    outer = radius * (1 + 0.45 * flare)
    marrow = _chord(depth - cortex, outer - cortex)
    # trabeculae fill the ends; the shaft is mostly hollow
    return BONE * (_chord(depth, outer) - marrow + marrow * bone.volume * (0.25 + 0.75 * flare) * struts)


def _soft(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Attenuation of muscle and fat around the bones: (H, W) float32; x, y in cm from the joint."""
    half = rng.uniform(5.6, 8.0) - 0.09 * rng.uniform(0.3, 2.2) * y + rng.uniform(0, 0.8) * np.sin(y / 3.5)
    off, fat = rng.normal(0, 0.3), rng.uniform(0.3, 1.3)
    thick = rng.uniform(0.75, 1.0)
    whole, muscle = _chord(half - np.abs(x - off), half), _chord(half - fat - np.abs(x - off), half - fat)
    width = int(rng.uniform(3, 10))  # pixels, of the fibres of a muscle
    grid = rng.standard_normal((len(y) // (3 * width) + 2, x.size // width + 2), np.float32)
    fibres = cv2.resize(grid, (x.size, len(y)), interpolation=cv2.INTER_CUBIC)
    return thick * (FAT * (whole - muscle) + SOFT * muscle * (1 + rng.uniform(0, 0.05) * fibres))


def radiograph(
    rng: np.random.Generator,
    loss: float,
    shape: tuple[int, int],
    view: str = "frontal",
    side: str = "R",
    jitter: Array | None = None,
) -> Array:
    """One knee as (H, W) float32 in 0..1, bone bright; `jitter` (20, 2) cm is what makes this patient's outline."""
    height, width = shape
    scale = min(shape) / rng.uniform(12.5, 14.5)
    origin = np.array([width, height]) * 0.5 + rng.normal(0, 0.5, 2) * scale
    flip = side == "R"
    jitter = np.zeros((20, 2)) if jitter is None else jitter
    x = ((np.arange(width) - origin[0]) / scale).astype(np.float32)[None, :]
    y = ((np.arange(height) - origin[1]) / scale).astype(np.float32)[:, None]
    flare = np.exp(-((y / rng.uniform(3.9, 4.6)) ** 4))  # (H, 1): 1 at the joint, 0 along the shaft
    bone = Bone.of(loss)
    struts = _trabeculae(rng, shape, bone.spacing * scale, bone.contrast * rng.uniform(0.7, 1.3))
    tilt, flexion = np.radians(rng.normal(0, 3)), np.radians(rng.normal(0, 2.5))
    total = _soft(rng, x * (-1 if flip else 1), y)
    for name, points in VIEWS[view].items():
        pose = _pose(tilt + flexion * (name in ("femur", "patella")), scale, origin, flip)
        radius = {"femur": 1.6, "tibia": 1.5, "fibula": 0.5, "patella": 0.3}[name]
        total += _bone(_polygon(points, jitter, pose), flare, bone, struts, radius, scale)
    return np.maximum(_film(rng, total), _letter(rng, shape, side))


def _letter(rng: np.random.Generator, shape: tuple[int, int], side: str) -> Array:
    """The lead letter that tells the side, in an upper corner: (H, W) float32 in 0..1."""
    height, width = shape
    at = (
        width * (rng.uniform(0.03, 0.08) if side == "R" else rng.uniform(0.86, 0.91)),
        height * rng.uniform(0.04, 0.25),
    )
    lead = Image.new("L", (width, height))
    font = ImageFont.load_default(size=round(min(shape) * rng.uniform(0.06, 0.085)))
    ImageDraw.Draw(lead).text(at, side, fill=round(rng.uniform(190, 250)), font=font)
    return np.asarray(lead, np.float32) / 255


def _film(rng: np.random.Generator, total: Array) -> Array:
    """Attenuation to a picture: scatter, blur, quantum noise, automatic window: (H, W) in 0..1."""
    primary = np.exp(-total)
    scatter = cv2.GaussianBlur(cv2.resize(primary, None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA), (0, 0), 6)
    light = primary + rng.uniform(0.1, 0.3) * cv2.resize(scatter, total.shape[::-1])
    light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.6, 1.5))
    quanta = 10 ** rng.uniform(3.3, 4.8)
    light += np.sqrt(light / quanta) * rng.standard_normal(total.shape, np.float32)
    seen = -np.log(np.maximum(light, 1e-4))
    low, high = np.percentile(seen[::3, ::3], (rng.uniform(0.5, 20), rng.uniform(99.3, 99.9))).tolist()
    seen = np.clip((seen - low) / (high - low), 0, 1)
    # brightness and contrast are drawn, then met: neither can tell the class
    goal, few, gamma = rng.uniform(0.3, 0.54), seen[::4, ::4], 1.0
    for _ in range(6):
        gamma *= math.log(goal) / math.log(np.mean(few**gamma))
    seen = seen**gamma
    picture: Array = goal + (seen - goal) * (rng.uniform(0.19, 0.27) / float(seen.std()))
    return np.clip(picture, 0, 1)
