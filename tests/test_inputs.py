import json

import numpy as np
import pytest
from PIL import Image

from bonelib import images, inputs


@pytest.fixture(scope="module")
def pixels(tiny):
    """The sample's readable radiographs at 64 px."""
    out = []
    for path in sorted(tiny.rglob("*.*g")):
        try:
            out.append(images.letterbox(images.read(path), 64))
        except images.ImageError:
            continue
    return np.stack(out)


def test_pictures_like_the_training_images_are_let_in(pixels):
    gauge = json.loads(json.dumps(inputs.fit(pixels[::2])))
    assert np.mean([why == "" for why in inputs.refuse(pixels[1::2], gauge)]) > 0.9


def test_blank_inverted_and_foreign_pictures_are_refused_with_the_reason(pixels):
    gauge = inputs.fit(pixels)
    blank = np.full((1, 64, 64), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64), dtype=np.uint8)
    assert inputs.refuse(blank, gauge)[0].startswith("blank")
    assert inputs.refuse(noise, gauge)[0].startswith("not like the training images")
    turned = inputs.refuse(255 - pixels, gauge)
    assert np.mean([why.startswith("inverted") for why in turned]) > 0.9


def test_a_colour_photo_is_refused_and_a_small_overlay_is_not(tmp_path):
    rng = np.random.default_rng(1)
    photo = rng.integers(0, 256, (40, 60, 1)) * np.array([1.0, 0.6, 0.3])
    grey = np.repeat(rng.integers(0, 256, (60, 60, 1), dtype=np.uint8), 3, 2)
    grey[:6, :20] = (255, 255, 0)
    Image.fromarray(photo.astype(np.uint8)).save(tmp_path / "photo.png")
    Image.fromarray(grey).save(tmp_path / "overlay.png")
    assert inputs.refuse_file(tmp_path / "photo.png").startswith("a colour photo")
    assert inputs.refuse_file(tmp_path / "overlay.png") == ""
    assert 0 < (images.colour(tmp_path / "overlay.png", 64) > 24).mean() < 0.1


def test_too_few_training_pictures_make_no_gauge_and_only_blank_pictures_are_refused(pixels):
    assert inputs.fit(pixels[: inputs.FEWEST - 1]) == {}
    assert inputs.fit(pixels[: inputs.FEWEST])["limit"] > 0
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    assert [why[:5] for why in inputs.refuse(np.stack([noise, np.full_like(noise, 90)]), {})] == ["", "blank"]


def test_files_are_read_as_the_cache_reads_them_or_set_aside_with_the_reason(tiny, tmp_path):
    path = next(tiny.rglob("*.jpg"))
    cached = images.cache(path.parent, [path.name], 64, tmp_path)[0][0]
    picture, why = inputs.read(path, 64)
    assert np.array_equal(picture, cached) and why == ""
    (tmp_path / "text.png").write_text("no picture")
    assert inputs.read(tmp_path / "text.png", 64) == (
        None,
        "unreadable: holds no PNG, JPEG, TIFF, BMP or DICOM picture",
    )
    assert inputs.read(tmp_path / "none.png", 64)[1].startswith("unreadable: cannot be opened")


def test_dicom_is_read_and_never_a_colour_photo(tmp_path):
    pytest.importorskip("pydicom", reason="needs the optional pydicom")
    from tests.test_dicom import RAMP, made

    (tmp_path / "scan").write_bytes(made(RAMP))
    picture, why = inputs.read(tmp_path / "scan", 64)
    assert picture.shape == (64, 64) and why == ""
