"""Copies are found whatever was done to them, and different images stay apart."""

import os
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from bonelib.audit import copies
from bonelib.audit.alignment import is_plausible
from bonelib.audit.copies import cluster_numbers, copies_by_name, find_copies, join_links
from bonelib.data import images
from bonelib.data.images import letterbox
from bonelib.data.sample import make_sample

# Real images with a copy among the others.
REAL_COPIES = {f"osteophenia/{n}.png" for n in (48, 54)} | {
    f"osteoporosis/{n}.png" for n in (13, 41)
}
REAL_COPIES |= {f"Normal/{n}.png" for n in (32, 34, 43, 45, 46)}


def jpeg(image, quality):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 0)


def exposed(image, gamma=1.0, gain=1.0, lift=0):
    return np.clip(255 * gain * (image / 255.0) ** gamma + lift, 0, 255).astype(np.uint8)


def small(image):
    return letterbox(np.ascontiguousarray(image), 224)


def shrunk(image, size):
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def rotated(image, rng, border=cv2.BORDER_CONSTANT):
    """At any angle, zoomed by 0.8 to 1.25 and shifted by up to 10%."""
    h, w = image.shape
    centre, zoom = ((w - 1) / 2, (h - 1) / 2), rng.uniform(0.8, 1.25)
    affine = cv2.getRotationMatrix2D(centre, rng.uniform(-180, 180), zoom)
    affine[:, 2] += rng.uniform(-0.1, 0.1, 2) * (w, h)
    return cv2.warpAffine(np.ascontiguousarray(image), affine, (w, h), borderMode=border)


def margins(image, rng):
    """Up to 10% of each side: top, bottom, left, right."""
    return (rng.uniform(0, 0.1, 4) * np.repeat(image.shape, 2)).astype(int)


def padded(image, rng):
    return cv2.copyMakeBorder(image, *margins(image, rng).tolist(), cv2.BORDER_CONSTANT)


def cropped(image, rng):
    top, bottom, left, right = margins(image, rng)
    return image[top : image.shape[0] - bottom, left : image.shape[1] - right]


def drawn_over(image, rng):
    """With a white box, a text and a line."""
    h, w = image.shape
    across, down = rng.uniform(0.1, 0.6, 2)
    corner, opposite = (across * w, down * h), ((across + 0.2) * w, (down + 0.1) * h)
    corners = [tuple(map(int, point)) for point in (corner, opposite)]
    drawn = cv2.rectangle(image.copy(), *corners, 255, -1)
    place, font = (w // 10, int(0.9 * h)), cv2.FONT_HERSHEY_SIMPLEX
    drawn = cv2.putText(drawn, "R 12", place, font, h / 150, 255, max(2, h // 80))
    return cv2.line(drawn, (0, int(0.4 * h)), (w, int(0.5 * h)), 230, max(1, h // 150))


def marked(image, rng):
    """With a small box of strong texture, and mirrored."""
    box = np.kron(rng.choice([0, 255], (24, 24)), np.ones((3, 3)))[: image.shape[0] // 5]
    drawn = image.copy()
    drawn[10 : 10 + len(box), 10:82] = box
    return drawn[:, ::-1]


def sheared(image, rng):
    shear = np.array([[1, 0.18, 0], [0.18, 1, 0]])
    shear[:, 2] = -0.09 * np.array(image.shape)
    return cv2.warpAffine(np.ascontiguousarray(image), shear, image.shape[::-1])


def speckled(image, rng):
    """A twentieth of the pixels black or white."""
    return np.where(rng.random(image.shape) < 0.05, rng.choice([0, 255], image.shape), image)


def squeezed(image, angle):
    """Of an image that is 1.5 times as high as wide: rotated, then squeezed to a square."""
    high = shrunk(image, (400, 600))
    affine = cv2.getRotationMatrix2D((199.5, 299.5), angle, 1)
    return shrunk(cv2.warpAffine(high, affine, (400, 600)), (224, 224))


# What is done to an image, and the smallest recall.
KINDS = {
    "same": (lambda image, rng: image, 0.98),
    "mirrored": (lambda image, rng: image[:, ::-1], 0.98),
    "flipped": (lambda image, rng: image[::-1], 0.98),
    "mirrored and flipped": (lambda image, rng: image[::-1, ::-1], 0.98),
    "quarter rotation": (lambda image, rng: np.rot90(image), 0.98),
    "halved": (lambda image, rng: shrunk(image, (image.shape[1] // 2, image.shape[0] // 2)), 0.98),
    "squared": (lambda image, rng: shrunk(image, (224, 224)), 0.98),
    "jpeg 30": (lambda image, rng: jpeg(image, 30), 0.98),
    "brighter": (lambda image, rng: exposed(image, gain=1.2, lift=15), 0.98),
    "darker": (lambda image, rng: exposed(image, gain=0.7), 0.98),
    "gamma 0.7": (lambda image, rng: exposed(image, gamma=0.7), 0.98),
    "gamma 1.5": (lambda image, rng: exposed(image, gamma=1.5), 0.98),
    "padded": (padded, 0.98),
    "cropped": (cropped, 0.90),
    # 0.8 is reached: synthetic images have little texture beside what is drawn
    "drawn over": (drawn_over, 0.75),
    "a marker of strong texture": (marked, 0.90),
    "any angle": (rotated, 0.95),
    "any angle, mirrored": (lambda image, rng: rotated(image[:, ::-1], rng), 0.95),
    "any angle, reflected": (lambda image, rng: rotated(image, rng, cv2.BORDER_REFLECT_101), 0.95),
    "any angle, small": (lambda image, rng: jpeg(rotated(letterbox(image, 224), rng), 60), 0.90),
    "any angle, squared": (lambda image, rng: shrunk(rotated(image, rng), (224, 224)), 0.90),
    "sheared by 10 degrees": (sheared, 0.95),
    "a twentieth of the pixels black or white": (lambda i, rng: speckled(small(i), rng), 0.95),
    "noise": (lambda i, rng: exposed(small(i) + rng.normal(0, 8, (224, 224)).clip(0)), 0.90),
    "blurred by 2.5 pixels": (lambda i, rng: cv2.GaussianBlur(small(i), (0, 0), 2.5), 0.90),
}


@pytest.fixture(scope="module")
def distinct(tmp_path_factory):
    """30 different images: synthetic ones and, where present, 10 of each real set."""
    folder = make_sample(tmp_path_factory.mktemp("sample"), images=80)
    planted = set(pd.read_json(folder / "planted.json")["path"])
    # one image per patient
    table = pd.read_csv(folder / "metadata.csv").drop_duplicates("patient_id")
    paths = [folder / path for path in table["image"] if path not in planted]
    for name in ("spine_dxa", "knee_xray"):
        root = Path(os.environ.get("BONELIB_REAL", "absent")) / "data" / name
        files = sorted(root.glob("*/*"))
        real = [p for p in files if p.relative_to(root).as_posix() not in REAL_COPIES]
        paths = real[:: max(1, len(real) // 10)][:10] + paths
    assert len(paths) >= 30
    return [images.decode(images.read_bytes(path), 600)[0] for path in paths[:30]]


def files_of(originals):
    heights, widths = zip(*(image.shape for image in originals), strict=True)
    return pd.DataFrame({"sha256": range(len(widths)), "width": widths, "height": heights})


def thumbnails_of(originals):
    return np.stack([letterbox(np.ascontiguousarray(image), 224) for image in originals])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_copy_is_joined_with_its_original_and_nothing_else(distinct, kind):
    make, least = KINDS[kind]
    rng = np.random.default_rng(3)
    originals = distinct[::2]
    n = len(originals)
    both = originals + [np.ascontiguousarray(make(image, rng)) for image in originals]
    order = rng.permutation(2 * n)
    shuffled = [both[i] for i in order]
    numbers = np.empty(2 * n, int)
    numbers[order] = cluster_numbers(thumbnails_of(shuffled), files_of(shuffled))
    right = (numbers[:n] == numbers[n:]).sum()
    joined = sum(size * (size - 1) // 2 for size in np.bincount(numbers))
    assert right >= int(least * n)
    assert right / joined >= 0.98


def test_copies_rotated_by_large_angles_and_then_squeezed_are_found(distinct):
    both = [squeezed(image, angle) for angle in (0, 75) for image in distinct[:30]]
    numbers = cluster_numbers(thumbnails_of(both), files_of(both))
    assert np.mean(numbers[:30] == numbers[30:]) >= 0.9
    assert len(set(numbers[:30])) == 30


def test_of_large_sets_blocks_are_searched_and_the_same_pixels_found_anywhere(
    distinct, monkeypatch
):
    monkeypatch.setattr(copies, "MAX_COMPARED", 4)
    first, second, *others = distinct[:7]
    both = [first, second, first[:, ::-1], *others, second[:, ::-1], first]
    pairs = find_copies(thumbnails_of(both), files_of(both))
    assert set(zip(pairs["a"], pairs["b"], strict=True)) == {(0, 2), (0, 9)}


def test_a_copy_is_described_in_words(distinct):
    image = distinct[-1]
    changed = {
        "same pixels": image,
        "mirrored": image[:, ::-1],
        "flipped": image[::-1],
        # the key points are matched by a random search
        r"rotated (89|90|91)°": np.rot90(image),
        "exposure changed": exposed(image, 0.6),
        "exported again": jpeg(image, 80),
        "resized": shrunk(image, (image.shape[1] // 2, image.shape[0] // 2)),
    }
    for words, copy in changed.items():
        pair = find_copies(thumbnails_of([image, copy]), files_of([image, copy]))
        assert len(pair) == 1 and re.fullmatch(words, pair["kind"][0])
        assert 0.86 <= pair["confidence"][0] <= 1


def test_the_same_file_is_a_copy_whatever_its_thumbnail(distinct):
    files = files_of(distinct[:3]).assign(sha256=["x", "y", "x"])
    (pair,) = find_copies(thumbnails_of(distinct[:3]), files).to_dict("records")
    assert pair == {"a": 0, "b": 2, "kind": "same file", "confidence": 1.0}


def test_blank_images_are_no_copies():
    assert find_copies(np.zeros((3, 224, 224), np.uint8)).empty
    assert find_copies(np.zeros((0, 224, 224), np.uint8)).empty


def test_images_without_any_detail_are_no_copies():
    down, across = np.mgrid[0:224, 0:224].astype(np.uint8)
    gradients = np.stack([down, across // 2 + 50, np.full_like(down, 7)])
    assert find_copies(gradients).empty


@pytest.mark.parametrize(
    ("across", "down", "plausible"),
    [
        (1, 1, True),
        (-1, 2.1, True),
        (0.5, 0.5, True),
        (2.4, 2.4, True),
        (0.39, 0.5, False),
        (2.6, 2.6, False),
        (1.2, 0.5, False),
    ],
)
def test_copies_are_zoomed_and_stretched_in_limits(across, down, plausible):
    assert is_plausible(np.array([[across, 0, 9], [0, down, -4]])) is plausible


def test_an_image_without_any_detail_is_no_copy_of_others(distinct):
    plain = np.mgrid[0:224, 0:224].astype(np.uint8)[0]
    three = [plain, distinct[0], distinct[0][:, ::-1]]
    pairs = find_copies(thumbnails_of(three), files_of(three))
    assert pairs[["a", "b"]].to_numpy().tolist() == [[1, 2]]


def test_numbers_are_those_of_clusters_over_all_images(distinct):
    three = [distinct[0], distinct[1], distinct[0][:, ::-1]]
    numbers = cluster_numbers(thumbnails_of(three), files_of(three))
    assert numbers[0] == numbers[2] != numbers[1]


def test_clusters_are_closed_transitively():
    numbers = join_links(5, [(0, 1), (3, 1)])
    assert len({numbers[0], numbers[1], numbers[3]}) == 1
    assert len(set(numbers)) == 3
    assert len(set(join_links(4, []))) == 4


def test_names_link_copies_only_to_images_that_are_there():
    paths = ["a/OP130.jpg", "b/OP130_aug_0.jpeg", "b/OP130_aug_1.jpeg", "a/img (1).png"]
    paths += ["a/img (2).png", "a/x.png", "a/x - Copy.png", "a/x (2).png", "b/x (3).png"]
    links = {(paths[a], paths[b]) for a, b, reason in copies_by_name(paths) if reason}
    assert links == {
        ("a/OP130.jpg", "b/OP130_aug_0.jpeg"),
        ("a/OP130.jpg", "b/OP130_aug_1.jpeg"),
        ("a/x.png", "a/x - Copy.png"),
        ("a/x.png", "a/x (2).png"),
    }


def test_augmented_images_are_linked_without_their_original():
    ((a, b, _),) = copies_by_name(["a/n_aug_1.png", "b/N_AUG_2.png"])
    assert (a, b) == (0, 1)


def test_odd_file_names_are_no_copies_and_no_error():
    assert copies_by_name(["a/. (2).png", "a/.png", "b/x.png", "a/x (2).png"]) == []
    assert copies_by_name(["a/x.png", "a/x (2).png"]) == [(0, 1, "named as a copy of x")]


def test_names_that_augmentation_tools_give_are_linked_across_folders():
    code, uuid = "0123456789abcdef" * 2, "01234567-89ab-cdef-0123-456789abcdef"
    made = [f"x/OP1_png.rf.{code}.jpg", f"y/op1_jpg.rf.{code[::-1]}.jpg", "z/OP1_aug_3.png"]
    made += [f"output/train_original_OP1.png_{uuid}.png", f"x/OP1_aug_0_jpg.rf.{code}.jpg"]
    paths = ["a/OP1.png", *made, "k/OP1_0_1234.png", "a/P7_0_1234.png", "a/P7_1_99.png"]
    linked = join_links(len(paths), [(a, b) for a, b, _ in copies_by_name(paths)])
    assert len(set(linked[:-2])) == 1 and len(set(linked)) == 3
    assert [(a, b) for a, b, _ in copies_by_name(made[:2])] == [(0, 1)]
