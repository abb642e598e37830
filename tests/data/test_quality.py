"""One definition of blank, inverted and coloured, and a gauge of what training images look like."""

from __future__ import annotations

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from bonelib.data import images, quality
from bonelib.data.cache import cached_images
from bonelib.messages import DataError
from tests.builders import RAMP, dicom_file, waves

NOISE = np.random.default_rng(0).integers(0, 256, (1, 64, 64), dtype=np.uint8)


@pytest.fixture(scope="module")
def radiographs(tiny):
    """The readable radiographs of the sample, (N, 64, 64)."""
    squares = []
    for path in sorted(tiny.rglob("*.*g")):
        try:
            squares.append(images.letterbox(images.decode(images.read_bytes(path))[0], 64))
        except DataError:
            continue
    return np.stack([square for square in squares if not quality.is_blank(square)])


@pytest.mark.parametrize("shape", [(64, 64), (40, 64), (64, 30)])
def test_black_one_grey_and_faint_noise_are_blank_with_or_without_letterbox(shape):
    draw = np.random.default_rng(0)
    for image in (
        np.zeros(shape, np.uint8),
        np.full(shape, 90, np.uint8),
        draw.normal(120, 3, shape).astype(np.uint8),
    ):
        assert quality.is_blank(image) and quality.is_blank(images.letterbox(image, 64))


def test_faint_radiograph_is_not_blank(radiographs):
    for image in radiographs[::5]:
        spread = (image - image.mean()) / image.std()
        faint = np.clip(60 + 6 * spread, 1, 255).astype(np.uint8)
        assert not quality.is_blank(image) and not quality.is_blank(faint)


def test_dark_bone_on_white_is_inverted():
    bone = np.full((60, 40), 30, np.uint8)
    bone[:, 14:26] = 200
    assert quality.is_inverted(255 - bone) and not quality.is_inverted(bone)
    assert not quality.is_inverted(np.full((60, 40), 220, np.uint8))
    # Too thin to judge.
    assert not quality.is_inverted(np.full((1, 64), 220, np.uint8))


def test_training_like_images_are_accepted(radiographs):
    gauge = json.loads(json.dumps(quality.fit_gauge(radiographs[::2])))
    reasons = quality.rejections(radiographs[1::2], gauge)
    assert np.mean([reason == "" for reason in reasons]) > 0.9


def test_blank_inverted_and_foreign_images_are_rejected_with_the_reason(radiographs):
    gauge = quality.fit_gauge(radiographs)
    assert quality.rejections(np.full((1, 64, 64), 90, np.uint8), gauge)[0].startswith("blank")
    assert quality.rejections(NOISE, gauge)[0].startswith("not like the training images")
    reasons = quality.rejections(255 - radiographs, gauge)
    assert np.mean([reason.startswith("inverted") for reason in reasons]) > 0.9


def test_with_too_few_training_images_only_blank_images_are_rejected(radiographs):
    few = quality.MIN_GAUGE_IMAGES
    assert quality.fit_gauge(radiographs[: few - 1]) == {}
    assert quality.fit_gauge(radiographs[:few])["limit"] > 0
    reasons = quality.rejections(np.concatenate([NOISE, np.full_like(NOISE, 90)]), {})
    assert reasons[0] == "" and reasons[1].startswith("blank")


def test_file_is_read_as_the_cache_reads_it(tmp_path):
    Image.fromarray(waves(shape=(700, 900))).save(tmp_path / "a.jpg")
    cached = cached_images(tmp_path, ["a.jpg"], 64, tmp_path / "cache")[0][0]
    image, reason = quality.read_for_model(tmp_path / "a.jpg", 64)
    assert np.array_equal(image, cached) and reason == ""


def test_unreadable_file_is_none_with_the_reason(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    for name, expected in {"text.png": "holds no PNG", "gone.png": "cannot be opened"}.items():
        image, reason = quality.read_for_model(tmp_path / name, 64)
        assert image is None and reason.startswith(f"unreadable: {expected}")


@pytest.mark.parametrize("as_dicom", [False, True], ids=["PNG", "DICOM"])
def test_colour_photo_is_rejected_and_an_overlay_is_not_in_every_format(tmp_path, as_dicom):
    grey = np.repeat(RAMP[..., None], 3, axis=2)
    overlay = grey.copy()
    overlay[:6, :20] = (255, 255, 0)
    photo = (grey * np.array([1.0, 0.6, 0.3])).astype(np.uint8)
    found = {}
    for name, rgb in {"grey": grey, "overlay": overlay, "photo": photo}.items():
        if as_dicom:
            (tmp_path / name).write_bytes(dicom_file(rgb))
        else:
            Image.fromarray(rgb).save(tmp_path / name, "PNG")
        share = images.decode((tmp_path / name).read_bytes())[1]["coloured"]
        reason = quality.read_for_model(tmp_path / name, 64)[1]
        found[name] = (share > quality.OVERLAY_SHARE, share > quality.PHOTO_SHARE, reason[:14])
    assert found["grey"] == (False, False, "")
    assert found["overlay"] == (True, False, "")
    assert found["photo"] == (True, True, "a colour photo")


def test_every_real_printout_has_an_overlay_and_no_knee_has(real):
    """Also after JPEG compression of the knees in grey, as colours, at a low quality."""
    for path in (real / "data" / "spine_dxa").rglob("*.png"):
        assert images.decode(path.read_bytes(), 224)[1]["coloured"] > quality.OVERLAY_SHARE, path
    for path in (real / "data" / "knee_xray").rglob("*.jp*g"):
        small = BytesIO()
        with Image.open(path) as image:
            image.convert("L").convert("RGB").save(small, "JPEG", quality=30)
        for data in (path.read_bytes(), small.getvalue()):
            assert not images.decode(data, 224)[1]["coloured"] > quality.OVERLAY_SHARE, path


def test_no_real_image_is_blank_and_none_is_a_colour_photo(real):
    paths = [path for path in (real / "data").rglob("*.*") if path.suffix in (".png", ".jpg")]
    assert paths
    for path in paths[::4]:
        image, reason = quality.read_for_model(path, 224)
        assert reason == "" and not quality.is_blank(image), path


def test_overlays_and_photos_are_judged_the_same_as_png_and_as_dicom(tmp_path):
    draw = np.random.default_rng(0)
    for i in range(30):
        printout = np.repeat(RAMP[..., None], 3, axis=2)
        printout[i : i + 3, 10:150] = (255, 255, 0)
        out = BytesIO()
        Image.fromarray(printout).save(out, "PNG")
        shares = [images.decode(d)[1]["coloured"] for d in (out.getvalue(), dicom_file(printout))]
        assert shares[0] == shares[1] > quality.OVERLAY_SHARE
    photo = draw.integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    (tmp_path / "photo.dcm").write_bytes(dicom_file(photo))
    for name in ("photo.png", "photo.dcm"):
        assert quality.read_for_model(tmp_path / name, 64)[1].startswith("a colour photo")
