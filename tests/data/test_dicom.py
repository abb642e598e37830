"""DICOM files are shown as in a viewer; of their header only the patient is returned."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from bonelib.data import dicom, images
from bonelib.messages import DataError
from tests.builders import DEEP_RAMP, RAMP, dicom_file, encoded

YELLOW_CORNER = np.repeat(RAMP[..., None], 3, axis=2)
YELLOW_CORNER[:12, :50] = (255, 255, 0)


def test_twelve_bits_become_grey_levels_from_black_to_white():
    grey, facts = images.decode(dicom_file())
    assert (grey.dtype, grey.shape, facts["format"]) == (np.uint8, (50, 100), "DICOM")
    assert (facts["width"], facts["height"], facts["coloured"]) == (100, 50, 0)
    assert grey[0, 0] == 0 and grey[0, -1] == 255 and (np.diff(grey[0].astype(int)) >= 0).all()


def test_values_are_not_stretched_before_all_is_applied():
    values, _ = dicom.decode_dicom(dicom_file(RescaleSlope="2", RescaleIntercept="-100"), 10**6)
    assert values.dtype == np.float32 and np.array_equal(values, DEEP_RAMP * 2.0 - 100)


def test_monochrome1_is_inverted():
    inverted = images.decode(dicom_file(PhotometricInterpretation="MONOCHROME1"))[0]
    assert np.array_equal(inverted, 255 - images.decode(dicom_file())[0])


def test_window_follows_the_rescale_slope():
    scale = {"RescaleSlope": "0.5", "RescaleIntercept": "-100"}
    grey, _ = images.decode(dicom_file(**scale, WindowCenter="400", WindowWidth="400"))
    # 200 to 600 after the slope is 600 to 1400 as stored.
    stored = DEEP_RAMP[0].astype(int)
    assert (grey[0][stored < 590] == 0).all() and (grey[0][stored > 1410] == 255).all()
    assert 100 < grey[0][np.abs(stored - 1000).argmin()] < 155


@pytest.mark.parametrize("padding", [0, 60_000])
def test_padding_outside_the_field_does_not_set_the_range(padding):
    bits = {"BitsStored": 16, "HighBit": 15}
    padded = np.pad(DEEP_RAMP + np.uint16(1000), ((0, 0), (0, 9)), constant_values=padding)
    grey, _ = images.decode(dicom_file(padded, **bits, PixelPaddingValue=padding))
    assert np.array_equal(grey[:, :100], images.decode(dicom_file())[0])
    assert set(np.unique(grey[:, 100:])) == {255 if padding else 0}
    only_padding = np.full_like(padded, padding)
    grey, _ = images.decode(dicom_file(only_padding, **bits, PixelPaddingValue=padding))
    assert grey.max() == 0


def test_colours_are_judged_as_in_every_other_format():
    of_dicom, dicom_facts = images.decode(dicom_file(YELLOW_CORNER))
    of_png, png_facts = images.decode(encoded(YELLOW_CORNER, "PNG"))
    assert np.array_equal(of_dicom, of_png)
    assert dicom_facts["coloured"] == png_facts["coloured"] == 600 / 24000


def test_sixteen_bit_colours_become_the_same_image():
    bits = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}
    deep = images.decode(dicom_file(YELLOW_CORNER.astype(np.uint16) * 257, **bits))[0]
    assert np.array_equal(deep, images.decode(dicom_file(YELLOW_CORNER))[0])


def test_palette_gives_the_grey_levels_not_its_index():
    names = ("Red", "Green", "Blue")
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    palette = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 8] for name in names}
    palette |= {f"{name}PaletteColorLookupTableData": bytes(range(255, -1, -1)) for name in names}
    indexed = dicom_file(RAMP, **bits, PhotometricInterpretation="PALETTE COLOR", **palette)
    assert np.array_equal(images.decode(indexed)[0], 255 - RAMP)


@pytest.mark.parametrize("colours", ["YBR_FULL", "RGB"])
def test_colours_are_shown_as_pydicom_shows_them(colours):
    from pydicom.pixels import convert_color_space

    stored = YELLOW_CORNER
    if colours != "RGB":
        stored = convert_color_space(YELLOW_CORNER, "RGB", colours)
    grey, facts = images.decode(dicom_file(stored, PhotometricInterpretation=colours))
    expected = images.decode(encoded(YELLOW_CORNER, "PNG"))[0]
    assert np.abs(grey.astype(int) - expected).max() <= 2
    assert facts["coloured"] == 600 / 24000


def test_inverse_presentation_is_inverted_once():
    inverted = images.decode(dicom_file(PresentationLUTShape="INVERSE"))[0]
    assert np.array_equal(inverted, 255 - images.decode(dicom_file())[0])
    both = dicom_file(PresentationLUTShape="INVERSE", PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(images.decode(both)[0], inverted)


@pytest.mark.parametrize(
    "window",
    [
        {"WindowCenter": "400", "WindowWidth": "0"},
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowCenter": "400"},
    ],
)
def test_window_that_shows_nothing_is_ignored(window):
    assert np.array_equal(images.decode(dicom_file(**window))[0], images.decode(dicom_file())[0])


def test_the_first_of_several_windows_and_a_curved_one_are_applied():
    window = {"WindowCenter": "1000", "WindowWidth": "800"}
    single = images.decode(dicom_file(**window))[0]
    several = {"WindowCenter": ["1000", "50"], "WindowWidth": ["800", "10"]}
    assert np.array_equal(images.decode(dicom_file(**several))[0], single)
    curved = images.decode(dicom_file(**window, VOILUTFunction="SIGMOID"))[0]
    assert (np.diff(curved[0].astype(int)) >= 0).all() and not np.array_equal(curved, single)


def test_file_without_preamble_is_recognised_and_read(tmp_path):
    complete = dicom_file()
    assert dicom.begins_dicom(complete[132:])
    assert np.array_equal(images.decode(complete[132:])[0], images.decode(complete)[0])
    # without the group of the transfer syntax as well
    bare = complete[complete.index(b"\x08\x00\x16\x00UI") :]
    assert np.array_equal(images.decode(bare)[0], images.decode(complete)[0])
    (tmp_path / "scan").write_bytes(bare)
    assert dicom.is_dicom(tmp_path / "scan")


@pytest.mark.parametrize(
    ("uid", "name"),
    [
        ("1.2.840.10008.5.1.4.1.1.88.11", "Basic Text SR"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "Encapsulated PDF"),
        ("1.2.840.10008.1.3.10", "Media Storage Directory"),
    ],
)
def test_objects_without_an_image_are_named(uid, name):
    import pydicom

    dataset = pydicom.dcmread(BytesIO(dicom_file()))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid
    del dataset.Rows, dataset.Columns, dataset.PixelData
    out = BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    with pytest.raises(DataError, match=f"without an image: {name}"):
        images.decode(out.getvalue())


def test_installing_is_advised_only_where_it_helps(monkeypatch):
    jpeg = dicom_file(TransferSyntaxUID="1.2.840.10008.1.2.4.57")
    with pytest.raises(DataError, match="pip install pylibjpeg"):
        images.decode(jpeg)
    with pytest.raises(DataError, match="damaged"):
        images.decode(dicom_file(TransferSyntaxUID="1.2.840.10008.1.2.5"))
    monkeypatch.setattr(dicom, "installed_readers", lambda: list(dicom.DICOM_READERS))
    with pytest.raises(DataError, match="damaged"):
        images.decode(jpeg)


def test_pydicoms_own_files_are_read_or_set_aside_with_a_reason():
    pydicom = pytest.importorskip("pydicom")
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    read = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            read += images.decode(path.read_bytes())[0].size > 0
        except DataError as error:
            assert str(error)
    assert read > 60 or not folder.is_dir()


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ({"NumberOfFrames": 3}, "3 frames"),
        ({"Rows": 20_000, "Columns": 20_001}, "20001x20000"),
        ({"TransferSyntaxUID": "1.2.840.10008.1.2.4.80"}, r"JPEG-LS.*pip install"),
    ],
)
def test_what_cannot_be_shown_is_rejected_with_the_reason(header, named):
    with pytest.raises(DataError, match=named):
        images.decode(dicom_file(**header))


def test_damaged_file_is_rejected_without_quoting_its_header():
    complete = dicom_file()
    for end in range(200, len(complete), 499):
        with pytest.raises(DataError, match="damaged DICOM") as error:
            images.decode(complete[:end])
        assert "4711" not in str(error.value) and "Doe" not in str(error.value)


def test_large_deflated_file_is_rejected_before_it_is_inflated():
    data = bytes(128) + b"DICM" + dicom.DEFLATED + bytes(1 << 20)
    with pytest.raises(DataError, match="deflated"):
        images.decode(data)


def test_of_the_header_only_the_patient_is_returned():
    _, facts = dicom.decode_dicom(dicom_file(), 10**6)
    assert facts == {"width": 100, "height": 50, "format": "DICOM", "patient": "4711"}


def test_without_pydicom_the_reason_names_it(monkeypatch):
    data = dicom_file()
    assert "pydicom" in dicom.installed_readers()
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "pydicom" not in dicom.installed_readers()
    with pytest.raises(DataError, match="pip install pydicom"):
        images.decode(data)


def test_dicom_is_recognised_by_its_bytes(tmp_path):
    (tmp_path / "scan").write_bytes(dicom_file())
    (tmp_path / "other").write_bytes(b"\x89PNG" + bytes(200))
    assert dicom.is_dicom(tmp_path / "scan") and not dicom.is_dicom(tmp_path / "other")
    assert not dicom.is_dicom(tmp_path)
