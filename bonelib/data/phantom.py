"""A synthetic frontal knee radiograph from a simple physical model, for a given bone loss.

X-rays weaken as exp(-sum of mu * thickness) through soft tissue, cortex and trabecular bone
(Beer-Lambert). Bone loss thins the cortex and leaves fewer, coarser trabeculae; soft tissue, pose,
exposure, contrast and noise do not depend on it. For teaching and tests, no model of a population.
"""

import math

import cv2
import numpy as np

# Attenuation per cm of soft tissue, and what compact bone adds to it.
SOFT_TISSUE, BONE = 0.14, 0.45
# Outlines: x (outwards) and y (downwards) in cm from the centre of the joint.
OUTLINES = {
    "femur": "-1.7,-16 -1.7,-7 -2.6,-4.8 -4.1,-3 -4.4,-1.5 -3.5,-.3 -2,-.05 -.9,-.6 0,-1.5 .9,-.7 "
    "2.1,-.1 3.5,-.35 4.3,-1.5 3.9,-3 2.5,-4.8 1.7,-7 1.7,-16",
    "tibia": "-4.2,.8 -3.7,.4 -1.6,.6 -.5,-.05 0,.4 .5,-.05 1.6,.6 3.7,.4 4.2,.8 3.8,2.2 2.3,4.6 "
    "1.6,7.5 1.5,16 -1.5,16 -1.6,7.5 -2.2,4.6 -3.8,2.2",
    "fibula": "3,2.8 3.6,1.7 4.5,2.1 4.4,3.5 3.7,5.2 3.5,16 2.5,16 2.7,5.2",
    "patella": "-2.2,-3.6 -1.4,-5.1 .2,-5.5 1.8,-5.1 2.5,-3.6 1.7,-1.9 .2,-1.1 -1.3,-1.9",
}
# Half the thickness of the shafts, cm.
RADII = {"femur": 1.6, "tibia": 1.5, "fibula": 0.5, "patella": 0.3}


def radiograph(rng, loss, shape, outline_seed=0) -> np.ndarray:
    """One knee, left or right, as (H, W) float32 in 0..1, bone bright.

    loss: of bone, from 0 (healthy) to 2 (osteoporotic). outline_seed: for the shape of the bones,
    which the images of one patient have in common.
    """
    height, width = shape
    side = rng.choice(["L", "R"])
    # Pixels per cm, and the centre of the joint.
    scale = min(shape) / rng.uniform(12.5, 14.5)
    centre = np.array([width, height]) * 0.5 + rng.normal(0, 0.5, 2) * scale
    x = ((np.arange(width) - centre[0]) / scale).astype(np.float32)[None, :]  # (1, W) cm
    y = ((np.arange(height) - centre[1]) / scale).astype(np.float32)[:, None]  # (H, 1) cm
    # 1 at the joint, 0 along the shafts, which have the thicker cortex and are mostly hollow.
    flare = np.exp(-((y / rng.uniform(3.9, 4.6)) ** 4))  # (H, 1)
    cortex = (0.62 - 0.22 * loss) * (1 - 0.62 * flare)
    volume = (0.36 - 0.085 * loss) * (0.25 + 0.75 * flare)
    spacing, contrast = 0.38 + 0.26 * loss, (0.17 + 0.13 * loss) * rng.uniform(0.7, 1.3)
    trabeculae = volume * _struts(rng, shape, spacing * scale, contrast)
    # The outlines of one patient are similar, but not the same in two images.
    jitter = np.random.default_rng(outline_seed).normal(0, 0.1, (20, 2))
    jitter += rng.normal(0, 0.05, jitter.shape)
    # No knee is bent twice in the same way: femur and patella rotate against the others.
    tilt, flexion = np.radians(rng.normal(0, 3)), np.radians(rng.normal(0, 3.5))
    half_width = rng.uniform(5.6, 8.0) - rng.uniform(0, 0.2) * y  # (H, 1)
    soft_tissue = _chord(half_width - np.abs(x - rng.normal(0, 0.3)), half_width)
    attenuation = rng.uniform(0.7, 1.0) * SOFT_TISSUE * soft_tissue
    for bone, points in OUTLINES.items():
        angle = tilt + flexion * (bone in ("femur", "patella"))
        outline = _outline(points, jitter, angle) * (scale if side == "L" else -scale, scale)
        depth = _depth(outline + centre, shape) / scale
        outer = RADII[bone] * (1 + 0.45 * flare)
        inner = outer - np.minimum(cortex, 0.45 * RADII[bone])
        marrow = _chord(depth - (outer - inner), inner)
        attenuation += BONE * (_chord(depth, outer) - marrow + marrow * trabeculae)
    return np.maximum(_exposed(rng, attenuation), _letter(rng, shape, side))


def _outline(points: str, jitter: np.ndarray, angle: float) -> np.ndarray:
    """A closed outline, its corners cut three times (Chaikin), rotated: (M, 2) cm."""
    xy = np.array([point.split(",") for point in points.split()], float)
    xy += jitter[: len(xy)]
    for _ in range(3):
        following = np.roll(xy, -1, axis=0)
        cut = [0.75 * xy + 0.25 * following, 0.25 * xy + 0.75 * following]
        xy = np.stack(cut, axis=1).reshape(-1, 2)
    c, s = math.cos(angle), math.sin(angle)
    return xy @ np.array([[c, s], [-s, c]])


def _depth(outline: np.ndarray, shape: tuple) -> np.ndarray:
    """The distance of every pixel to the outline that it is inside of, or 0: (H, W) pixels."""
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 1, shift=4)
    return cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _chord(depth: np.ndarray, radius: np.ndarray | float) -> np.ndarray:
    """Thickness of a round bar at a depth from its edge, same unit; constant beyond its axis."""
    to_axis = radius - np.clip(depth, 0, radius)
    return 2 * np.sqrt(np.maximum(radius**2 - to_axis**2, 0))


def _struts(rng: np.random.Generator, shape: tuple, spacing: float, contrast: float) -> np.ndarray:
    """A mesh of struts with mean 1, (H, W) float32, longer along the load; spacing in pixels."""
    struts = np.zeros(shape, np.float32)
    for weight, tall, wide in ((1.0, 1.0, 0.27), (0.6, 0.33, 0.53)):
        noise = rng.standard_normal(shape, np.float32)
        fine = cv2.GaussianBlur(noise, (0, 0), wide * spacing, sigmaY=tall * spacing)
        coarse = cv2.GaussianBlur(noise, (0, 0), 1.6 * wide * spacing, sigmaY=1.6 * tall * spacing)
        # Lines where the band-passed noise changes its sign.
        band = (fine - coarse) / (fine - coarse).std()
        struts += weight * np.exp(-((band / 0.45) ** 2))
    return np.maximum(1 + contrast * (struts - struts.mean()) / struts.std(), 0)


def _exposed(rng: np.random.Generator, attenuation: np.ndarray) -> np.ndarray:
    """Attenuation to grey levels, (H, W) in 0..1: scatter, blur, quantum noise and a window."""
    primary = np.exp(-attenuation)
    light = primary + rng.uniform(0.1, 0.3) * cv2.blur(primary, (99, 99))
    light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.6, 1.5))
    quanta = 10 ** rng.uniform(3.3, 4.8)
    light += np.sqrt(light / quanta) * rng.standard_normal(light.shape, np.float32)
    density = -np.log(np.maximum(light, 1e-4))
    low, high = np.percentile(density, (rng.uniform(0.5, 20), rng.uniform(99.3, 99.9))).tolist()
    grey = np.clip((density - low) / (high - low), 0, 1)
    # Brightness and contrast are drawn, then reached, so that neither depends on the class.
    mean, deviation, gamma = rng.uniform(0.3, 0.54), rng.uniform(0.19, 0.27), 1.0
    for _ in range(6):
        gamma *= math.log(mean) / math.log(np.mean(grey[::4, ::4] ** gamma))
    grey = grey**gamma
    return np.clip(mean + (grey - mean) * (deviation / float(grey.std())), 0, 1)


def _letter(rng: np.random.Generator, shape: tuple, side: str) -> np.ndarray:
    """The lead letter of the side, in an upper corner of black: (H, W) float32 in 0..1."""
    height, width = shape
    left = rng.uniform(0.03, 0.08) if side == "R" else rng.uniform(0.86, 0.91)
    place = (round(left * width), round(rng.uniform(0.1, 0.3) * height))
    lead = np.zeros(shape, np.uint8)
    size, grey = min(shape) * rng.uniform(0.06, 0.085) / 30, rng.uniform(190, 250)
    cv2.putText(lead, side, place, cv2.FONT_HERSHEY_DUPLEX, size, grey, 1, cv2.LINE_AA)
    return lead.astype(np.float32) / 255
