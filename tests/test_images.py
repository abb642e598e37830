"""Any picture file becomes one grey uint8 array, or a reason."""

import io

import numpy as np
import pytest
from PIL import Image

from bonelib import images
from bonelib.images import ImageError

RAMP = np.tile(np.arange(200, dtype=np.uint8), (120, 1))  # (120, 200)


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


GREY = Image.fromarray(RAMP)


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        (encoded(GREY, "PNG"), 0),
        (encoded(GREY, "TIFF"), 0),
        (encoded(GREY, "BMP"), 0),
        (encoded(GREY, "JPEG", quality=95), 3),
        (encoded(GREY.convert("RGB"), "PNG"), 0),
        (encoded(GREY.convert("RGBA"), "PNG"), 0),
        (encoded(GREY.convert("P"), "PNG"), 0),
        (encoded(GREY.convert("CMYK"), "JPEG", quality=95), 4),
        (encoded(Image.fromarray(RAMP.astype(np.uint16) * 300), "PNG"), 26),
        (encoded(Image.fromarray(RAMP.astype(np.float32) / 3), "TIFF"), 57),
    ],
)
def test_every_mode_and_depth_becomes_the_same_grey_ramp(data, tolerance):
    grey, facts = images.decode(data)
    assert grey.dtype == np.uint8 and grey.shape == RAMP.shape and (facts["width"], facts["height"]) == (200, 120)
    if tolerance > 20:  # deep pictures are stretched to the whole range
        assert grey.min() == 0 and grey.max() == 255
        grey = np.rint(grey * (199 / 255))
    assert np.abs(grey.astype(int) - RAMP).max() <= min(tolerance, 4)


def test_transparent_pixels_show_black():
    picture = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    assert images.decode(encoded(picture, "PNG"))[0].max() == 0


def test_photograph_turned_by_its_exif_is_turned_back():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    grey, _ = images.decode(encoded(GREY, "JPEG", exif=exif.tobytes()))
    assert grey.shape == (200, 120)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<html>not found</html>", "holds no"),
        (encoded(GREY, "PNG")[:-60], "damaged"),
        (encoded(GREY, "JPEG")[:-300], "damaged"),
        (encoded(GREY, "GIF"), "holds no"),
        (encoded(GREY, "TIFF", save_all=True, append_images=[GREY]), "2 pictures"),
        (encoded(Image.new("1", (20000, 20000)), "PNG"), "pixels"),
    ],
)
def test_what_is_no_single_whole_picture_is_refused_with_a_reason(data, reason):
    with pytest.raises(ImageError, match=reason):
        images.decode(data)


def test_empty_and_missing_files_are_told_apart(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(ImageError, match="empty"):
        images.read(tmp_path / "a.png")
    with pytest.raises(ImageError, match="cannot be opened"):
        images.read(tmp_path / "b.png")


def test_large_jpeg_is_decoded_no_larger_than_needed_and_no_smaller():
    big = Image.fromarray(np.tile(RAMP, (10, 10)))  # (1200, 2000)
    grey, facts = images.decode(encoded(big, "JPEG"), at_least=300)
    assert 300 <= max(grey.shape) < 600 and facts["width"] == 2000


def test_letterbox_keeps_aspect_and_centres_on_black():
    box = images.letterbox(np.full((50, 100), 200, np.uint8), 64)
    assert box.shape == (64, 64) and (box[16:48] == 200).all() and box[:16].max() == box[48:].max() == 0


def test_letterbox_of_a_hair_keeps_a_pixel():
    assert images.letterbox(np.full((1, 5000), 9, np.uint8), 32).max() == 9


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        Image.fromarray(RAMP + np.uint8(i)).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"torn")
    return tmp_path


def test_cache_keeps_order_sets_aside_what_is_unreadable_and_is_used_again(folder, monkeypatch):
    paths = ["3.png", "2.png", "0.png"]
    pixels, facts = images.cache(folder, paths, 32, folder / "cache")
    assert list(facts["status"].str.split(":").str[0]) == ["ok", "unreadable", "ok"]
    assert pixels.shape == (3, 32, 32) and pixels[1].max() == 0
    assert np.array_equal(pixels[0], images.letterbox(images.read(folder / "3.png"), 32))
    monkeypatch.setattr(images, "decode", None)  # a second decoding would fail
    again, facts_again = images.cache(folder, paths, 32, folder / "cache")
    assert np.array_equal(again, pixels) and facts_again.equals(facts)


def test_changed_file_is_decoded_anew(folder):
    before, _ = images.cache(folder, ["0.png"], 32, folder / "cache")
    Image.fromarray(255 - RAMP).save(folder / "0.png")
    after, _ = images.cache(folder, ["0.png"], 32, folder / "cache")
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("keep", [0, 100, 2000])
def test_torn_cache_is_made_anew(folder, keep):
    whole, _ = images.cache(folder, ["0.png", "1.png"], 32, folder / "cache")
    whole = np.array(whole)
    (file,) = (folder / "cache").glob("*.npy")
    file.write_bytes(file.read_bytes()[:keep])
    mended, _ = images.cache(folder, ["0.png", "1.png"], 32, folder / "cache")
    assert np.array_equal(mended, whole)
