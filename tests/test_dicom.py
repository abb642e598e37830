from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest

from bonelib import dicom
from bonelib.images import ImageError

pydicom = pytest.importorskip("pydicom", reason="needs the optional pydicom")


def made(pixels, kind="MONOCHROME2", **header):
    held = pydicom.Dataset()
    held.file_meta = pydicom.dataset.FileMetaDataset()
    held.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    held.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    held.SOPClassUID, held.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    held.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    held.Rows, held.Columns = pixels.shape[-2:]
    held.SamplesPerPixel, held.PhotometricInterpretation, held.PixelRepresentation = 1, kind, 0
    held.BitsAllocated, held.BitsStored, held.HighBit = 16, 12, 11
    held.PatientID, held.PatientName = "4711", "Doe^Jane"
    held.PixelData = pixels.astype(np.uint16).tobytes()
    for name, value in header.items():
        setattr(held, name, value)
    out = BytesIO()
    held.save_as(out, enforce_file_format=True)
    return out.getvalue()


RAMP = np.tile(np.arange(0, 4000, 40), (50, 1))  # (50, 100), 12 bit


def test_twelve_bits_become_grey_with_black_at_zero():
    grey, facts = dicom.decode(made(RAMP))
    assert (grey.dtype, grey.shape, facts["format"]) == (np.uint8, (50, 100), "DICOM")
    assert grey[0, 0] == 0 and grey[0, -1] == 255 and (np.diff(grey[0].astype(int)) >= 0).all()


def test_monochrome1_is_inverted():
    assert np.array_equal(dicom.decode(made(RAMP, "MONOCHROME1"))[0], 255 - dicom.decode(made(RAMP))[0])


def test_the_window_follows_the_rescale_slope():
    windowed = made(RAMP, RescaleSlope="0.5", RescaleIntercept="-100", WindowCenter="400", WindowWidth="400")
    grey, _ = dicom.decode(windowed)
    stored = RAMP[0]  # 200..600 after the slope is 600..1400 as stored
    assert (grey[0][stored < 590] == 0).all() and (grey[0][stored > 1410] == 255).all()
    assert 100 < grey[0][np.abs(stored - 1000).argmin()] < 155


def test_padding_outside_the_field_does_not_set_the_scale():
    padded = np.pad(RAMP, ((0, 0), (0, 9)), constant_values=60_000)
    grey, _ = dicom.decode(made(padded, BitsStored=16, HighBit=15, PixelPaddingValue=60_000))
    assert np.array_equal(grey[:, :100], dicom.decode(made(RAMP))[0])


def test_several_frames_are_refused_with_their_number():
    with pytest.raises(ImageError, match="holds 3 frames, expected one"):
        dicom.decode(made(np.stack([RAMP] * 3), NumberOfFrames=3))


def test_a_cut_off_file_is_damaged():
    with pytest.raises(ImageError, match="damaged DICOM"):
        dicom.decode(made(RAMP)[:-2000])


def test_the_patient_is_only_a_salted_hash(tmp_path):
    one, other = dicom.salt(tmp_path), dicom.salt(tmp_path / "else")
    assert one == dicom.salt(tmp_path) and one != other
    facts = dicom.decode(made(RAMP), one)[1]
    assert set(facts) == {"width", "height", "format", "patient"}
    assert facts["patient"] == dicom.decode(made(RAMP + 1), one)[1]["patient"] != ""
    assert facts["patient"] != dicom.decode(made(RAMP), other)[1]["patient"]
    assert "4711" not in str(facts) and "Doe" not in str(facts)


def test_dicom_is_known_by_its_bytes(tmp_path):
    for name, data in (("one", made(RAMP)), ("other", b"\x89PNG" + bytes(200))):
        (tmp_path / name).write_bytes(data)
    assert dicom.is_dicom(tmp_path / "one") and not dicom.is_dicom(tmp_path / "other")
    assert not dicom.is_dicom(tmp_path)
