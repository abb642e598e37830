from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from bonelib import candidates, compare, copies, images, sample
from bonelib.images import letterbox

SHARED = Path(__file__).parents[2] / "shared"
TWINS = {f"osteophenia/{n}.png" for n in (48, 54)} | {f"osteoporosis/{n}.png" for n in (13, 41)}
TWINS |= {f"Normal/{n}.png" for n in (32, 34, 43, 45, 46)}


def jpeg(x, quality):
    return cv2.imdecode(cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 0)


def tone(x, gamma=1.0, gain=1.0, lift=0):
    return np.clip(255 * gain * (x / 255.0) ** gamma + lift, 0, 255).astype(np.uint8)


def turned(x, rng, border=cv2.BORDER_CONSTANT):
    h, w = x.shape
    map_ = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), rng.uniform(-180, 180), rng.uniform(0.8, 1.25))
    map_[:, 2] += rng.uniform(-0.1, 0.1, 2) * (w, h)
    return cv2.warpAffine(np.ascontiguousarray(x), map_, (w, h), borderMode=border)


def padded(x, rng):
    top, bottom, left, right = (rng.uniform(0, 0.1, 4) * np.repeat(x.shape, 2)).astype(int)
    return cv2.copyMakeBorder(x, top, bottom, left, right, cv2.BORDER_CONSTANT)


def cropped(x, rng):
    top, bottom, left, right = (rng.uniform(0, 0.1, 4) * np.repeat(x.shape, 2)).astype(int)
    return x[top : x.shape[0] - bottom, left : x.shape[1] - right]


def drawn_over(x, rng):
    h, w = x.shape
    across, down = rng.uniform(0.1, 0.6, 2)
    y = cv2.rectangle(
        x.copy(), (int(across * w), int(down * h)), (int((across + 0.2) * w), int((down + 0.1) * h)), 255, -1
    )
    y = cv2.putText(y, "R 12", (w // 10, int(0.9 * h)), cv2.FONT_HERSHEY_SIMPLEX, h / 150, 255, max(2, h // 80))
    return cv2.line(y, (0, int(0.4 * h)), (w, int(0.5 * h)), 230, max(1, h // 150))


KINDS = {  # what is done to a picture, and the least recall
    "same": (lambda x, rng: x, 0.98),
    "mirrored": (lambda x, rng: x[:, ::-1], 0.98),
    "flipped": (lambda x, rng: x[::-1], 0.98),
    "both": (lambda x, rng: x[::-1, ::-1], 0.98),
    "quarter turn": (lambda x, rng: np.rot90(x), 0.98),
    "halved": (lambda x, rng: cv2.resize(x, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), 0.98),
    "squared": (lambda x, rng: cv2.resize(x, (224, 224), interpolation=cv2.INTER_AREA), 0.98),
    "jpeg 30": (lambda x, rng: jpeg(x, 30), 0.98),
    "brighter": (lambda x, rng: tone(x, gain=1.2, lift=15), 0.98),
    "darker": (lambda x, rng: tone(x, gain=0.7), 0.98),
    "gamma 0.7": (lambda x, rng: tone(x, gamma=0.7), 0.98),
    "gamma 1.5": (lambda x, rng: tone(x, gamma=1.5), 0.98),
    "padded": (padded, 0.98),
    "cropped": (cropped, 0.90),
    "drawn over": (drawn_over, 0.90),
    "any angle": (turned, 0.95),
    "any angle, mirrored": (lambda x, rng: turned(x[:, ::-1], rng), 0.95),
    "any angle, reflected border": (lambda x, rng: turned(x, rng, cv2.BORDER_REFLECT_101), 0.95),
    "any angle, 224 px JPEG": (lambda x, rng: jpeg(turned(letterbox(x, 224), rng), 60), 0.90),
}


@pytest.fixture(scope="module")
def distinct(tmp_path_factory):
    """60 different pictures: drawn ones and, where present, 15 of each real set."""
    folder = sample.make(tmp_path_factory.mktemp("sample"), images=70)
    doubtful = set(pd.read_json(folder / "planted.json")["path"])
    found = [p for p in sorted(folder.glob("*/*")) if p.relative_to(folder).as_posix() not in doubtful]
    for name in ("spine_dxa", "knee_xray"):
        root = SHARED / "data" / name
        real = [p for p in sorted(root.glob("*/*")) if p.relative_to(root).as_posix() not in TWINS]
        found = real[:: max(1, len(real) // 15)][:15] + found
    return [images.read(p, 600) for p in found[:60]]


def files_of(pictures):
    sizes = [x.shape for x in pictures]
    return pd.DataFrame({"sha256": range(len(sizes)), "width": [w for _, w in sizes], "height": [h for h, _ in sizes]})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_copy_is_joined_with_its_original_and_nothing_else(distinct, kind):
    make, least = KINDS[kind]
    rng = np.random.default_rng(3)
    n = len(distinct)
    assert n == 60
    order = rng.permutation(2 * n)
    both = distinct + [np.ascontiguousarray(make(x, rng)) for x in distinct]
    pictures = [both[i] for i in order]
    pairs = copies.find(np.stack([letterbox(x, 224) for x in pictures]), files_of(pictures))
    cluster = np.empty(2 * n, int)
    cluster[order] = copies.joined(2 * n, zip(pairs["a"], pairs["b"], strict=True))
    right = (cluster[:n] == cluster[n:]).sum()
    joined = sum(size * (size - 1) // 2 for size in np.bincount(cluster))
    assert right / n >= least
    assert right / joined >= 0.98


def test_large_sets_still_find_flips_scales_and_exposure(distinct):
    n = len(distinct)
    both = distinct + [np.ascontiguousarray(tone(x[:, ::-1], gamma=0.8)) for x in distinct]
    pairs = copies.find(np.stack([letterbox(x, 224) for x in both]), files_of(both), any_angle=False)
    assert {(i, n + i) for i in range(n)} == set(zip(pairs["a"], pairs["b"], strict=True))


def test_a_copy_is_described_in_words(distinct):
    x = distinct[-1]
    made = [np.ascontiguousarray(y) for y in (x, x[:, ::-1], np.rot90(x), tone(x, 0.6), jpeg(x, 80))]
    thumbs = [letterbox(y, 224) for y in made]
    textures = [
        compare.Texture(t, images.frame(y.shape[1], y.shape[0], 224)) for t, y in zip(thumbs, made, strict=True)
    ]
    rng = np.arange(2)
    said = []
    for k in range(1, 5):
        frames = [images.frame(y.shape[1], y.shape[0], 224) for y in (made[0], made[k])]
        best = candidates.upright(np.stack([thumbs[0], thumbs[k]]), frames, rng)[0]
        said.append(compare.describe(textures[0], textures[k], best.start))
    assert said == ["mirrored", "turned 90°", "exposure changed", "exported again"]


def test_blank_pictures_are_no_copies():
    assert copies.find(np.zeros((3, 224, 224), np.uint8)).empty


def test_pictures_without_any_detail_are_no_copies():
    down, across = np.mgrid[0:224, 0:224].astype(np.uint8)
    assert candidates.features(np.full((224, 224), 9, np.uint8))[0].shape == (0, 4)
    assert candidates.turned(np.stack([np.full((224, 224), n, np.uint8) for n in (9, 99)]), np.arange(2)) == []
    assert copies.find(np.stack([down, across // 2 + 50, np.full_like(down, 7)]), any_angle=True).empty


def test_clusters_are_numbered_over_all_pictures(distinct):
    x, y = distinct[0], distinct[1]
    thumbs = np.stack([letterbox(p, 224) for p in (x, y, np.ascontiguousarray(x[:, ::-1]))])
    number = copies.clusters(thumbs, files_of([x, y, x]), any_angle=False)
    assert number[0] == number[2] != number[1]


def test_clusters_are_closed_transitively():
    number = copies.joined(5, [(0, 1), (3, 1)])
    assert len({number[0], number[1], number[3]}) == 1
    assert len(set(number)) == 3
