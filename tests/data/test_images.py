"""Any image file becomes one grey uint8 array, or a reason."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bonelib.data import images
from bonelib.messages import DataError
from tests.builders import RAMP, encoded, read_image, run_apart

GREY = Image.fromarray(RAMP)
DEEP = Image.fromarray(RAMP.astype(np.uint16) * 300)
REAL = Image.fromarray(RAMP.astype(np.float32) / 3)
YELLOW, PALE_YELLOW = (255, 255, 0), (255, 230, 90)


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        (encoded(GREY, "PNG"), 0),
        (encoded(GREY, "TIFF"), 0),
        (encoded(GREY, "BMP"), 0),
        (encoded(GREY, "JPEG", quality=95), 3),
        (encoded(GREY.convert("RGB"), "PNG"), 0),
        (encoded(GREY.convert("RGB"), "JPEG", quality=95), 3),
        (encoded(GREY.convert("RGBA"), "PNG"), 0),
        (encoded(GREY.convert("LA"), "PNG"), 0),
        (encoded(GREY.convert("P"), "PNG"), 0),
        (encoded(GREY.convert("CMYK"), "JPEG", quality=95), 4),
    ],
)
def test_every_mode_of_8_bits_becomes_the_same_grey_ramp(data, tolerance):
    grey, facts = images.decode(data)
    assert grey.dtype == np.uint8 and (facts["width"], facts["height"]) == (200, 120)
    assert facts["coloured"] == 0 and facts["patient"] == ""
    assert np.abs(grey.astype(int) - RAMP).max() <= tolerance


@pytest.mark.parametrize(
    "data", [encoded(DEEP, "PNG"), encoded(DEEP, "TIFF"), encoded(REAL, "TIFF")]
)
def test_deeper_images_are_stretched_to_the_full_range(data):
    grey, _ = images.decode(data)
    assert np.abs(grey - RAMP * (255 / 199)).max() <= 0.51


def test_few_extreme_values_of_a_deep_image_do_not_set_the_range():
    deep = RAMP.astype(np.uint16) * 20
    expected = images.decode(encoded(Image.fromarray(deep), "PNG"))[0].astype(int)
    marked = deep.copy()
    marked[:10, :20] = 65535
    grey = images.decode(encoded(Image.fromarray(marked), "PNG"))[0]
    assert (grey[:10, :20] == 255).all()
    assert np.abs(grey[10:] - expected[10:]).max() <= 4
    single = np.zeros((100, 100), np.uint16)
    single[0, 0] = 9
    assert images.decode(encoded(Image.fromarray(single), "PNG"))[0].max() == 255


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_tiff_whose_zero_is_white_is_shown_inverted(bits):
    image = {1: GREY.convert("1"), 8: GREY, 16: DEEP}[bits]
    plain = images.decode(encoded(image, "TIFF"))[0]
    data = bytearray(encoded(image, "TIFF"))
    # the tag of the photometric interpretation, a short
    place = data.index(b"\x06\x01\x03\x00\x01\x00\x00\x00")
    assert data[place + 8] == 1
    data[place + 8] = 0
    assert np.array_equal(images.decode(bytes(data))[0], 255 - plain)


def test_main_image_of_a_phones_jpeg_is_taken():
    preview = GREY.resize((20, 12))
    grey, facts = images.decode(encoded(GREY, "MPO", save_all=True, append_images=[preview]))
    assert grey.shape == RAMP.shape and facts["format"] == "JPEG"


@pytest.mark.parametrize("image_format", ["WEBP", "GIF", "JPEG2000"])
def test_other_formats_are_read(image_format):
    options = {"lossless": True} if image_format == "WEBP" else {}
    assert np.array_equal(images.decode(encoded(GREY, image_format, **options))[0], RAMP)


def test_moving_images_are_set_aside():
    frames = {"save_all": True, "append_images": [GREY.rotate(180)]}
    for image_format in ("PNG", "GIF", "WEBP", "TIFF"):
        with pytest.raises(DataError, match="2 images"):
            images.decode(encoded(GREY, image_format, **frames))


def test_too_little_memory_is_no_damage(monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(images.ImageOps, "exif_transpose", fail)
    with pytest.raises(MemoryError):
        images.decode(encoded(GREY, "PNG"))


def test_one_bit_is_black_or_white():
    grey, _ = images.decode(encoded(GREY.convert("1"), "PNG"))
    assert grey.dtype == np.uint8 and set(np.unique(grey)) == {0, 255}


def test_transparent_pixels_are_black_whatever_colour_they_hide():
    image = Image.new("RGBA", (4, 4), (255, 255, 0, 0))
    image.putpixel((0, 0), (200, 200, 200, 255))
    grey, facts = images.decode(encoded(image, "PNG"))
    assert grey[0, 0] == 200 and grey.sum() == 200 and facts["coloured"] == 0
    palette = GREY.convert("P")
    grey, _ = images.decode(encoded(palette, "PNG", transparency=palette.getpixel((150, 0))))
    assert grey[0, 150] == 0 and grey[0, 151] == 151


def test_image_rotated_by_its_exif_is_shown_upright():
    exif = Image.Exif()
    # Rotated by 90 degrees.
    exif[0x0112] = 6
    grey, facts = images.decode(encoded(GREY, "JPEG", exif=exif.tobytes()))
    assert grey.shape == (200, 120) and (facts["width"], facts["height"]) == (120, 200)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<html>not found</html>", "holds no PNG, JPEG, .* or DICOM image"),
        (encoded(GREY, "ICO"), "holds no PNG"),
        (encoded(GREY, "PNG")[:-60], "damaged"),
        (encoded(GREY, "JPEG")[:-300], "damaged"),
        (encoded(GREY, "TIFF", save_all=True, append_images=[GREY]), "2 images"),
        (encoded(Image.new("1", (20000, 20000)), "PNG"), "declares more"),
        (encoded(np.where(RAMP > 100, np.float32("nan"), np.float32(1)), "TIFF"), "nan"),
    ],
)
def test_what_is_not_one_complete_image_is_rejected_with_the_reason(data, reason):
    with pytest.raises(DataError, match=reason):
        images.decode(data)


def test_empty_missing_and_impossible_files_are_distinguished(tmp_path):
    (tmp_path / "a.png").touch()
    cases = {"a.png": "empty", "b.png": "cannot be opened", ".": "folder", "a\0.png": "null"}
    for name, reason in cases.items():
        with pytest.raises(DataError, match=reason):
            images.decode(images.read_bytes(tmp_path / name))


@pytest.mark.parametrize(("mode", "largest"), [("L", 600), ("RGB", 1100)])
def test_large_jpeg_is_decoded_no_larger_than_needed_and_no_smaller(mode, largest):
    large = Image.fromarray(np.tile(RAMP, (20, 20))).convert(mode)
    grey, facts = images.decode(encoded(large, "JPEG"), at_least=300)
    assert 300 <= max(grey.shape) < largest and (facts["width"], facts["height"]) == (4000, 2400)
    assert images.decode(encoded(large, "JPEG"), at_least=4000)[0].shape == (2400, 4000)


@pytest.mark.parametrize("at_least", [None, 224])
def test_thin_coloured_lines_stay_coloured_in_a_large_jpeg(at_least):
    image = Image.fromarray(np.tile(RAMP, (20, 20))).convert("RGB")
    assert images.decode(encoded(image, "JPEG"), at_least)[1]["coloured"] == 0
    ImageDraw.Draw(image).rectangle((500, 700, 3000, 1900), outline=PALE_YELLOW)
    share = (2 * 2500 + 2 * 1200) / (4000 * 2400)
    found = images.decode(encoded(image, "JPEG", quality=85), at_least)[1]["coloured"]
    assert share < found < 5 * share


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "BMP"])
def test_coloured_share_counts_pixels_whose_channels_clearly_differ(image_format):
    rgb = np.repeat(RAMP[..., None], 3, axis=2)
    rgb[:12, :50] = YELLOW
    # A tint, as of a scanned film, is not clearly coloured.
    rgb[60:, :, 2] += 30
    assert images.decode(encoded(rgb, image_format))[1]["coloured"] == 600 / 24000


def test_letterbox_keeps_the_aspect_ratio_and_centres_on_black():
    box = images.letterbox(np.full((50, 100), 200, np.uint8), 64)
    assert box.shape == (64, 64) and (box[16:48] == 200).all()
    assert box[:16].max() == box[48:].max() == 0 and images.frame(100, 50, 64) == (16, 48, 0, 64)
    assert np.array_equal(images.letterbox(box, 64), box)


def test_letterbox_of_a_very_thin_image_keeps_a_pixel():
    assert images.letterbox(np.full((1, 5000), 9, np.uint8), 32).max() == 9


def test_largest_image_fits_into_a_gigabyte(tmp_path):
    data = encoded(Image.new("RGBA", (9400, 9400)), "PNG", compress_level=1)
    (tmp_path / "a.png").write_bytes(data)
    code, output = run_apart(tmp_path / "log", read_image, tmp_path / "a.png", memory=1 << 30)
    assert code == 0, output
