"""A DICOM file as an array. Nothing of its header is returned but size and patient id."""

import re
from contextlib import suppress
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np

from bonelib.messages import DataError

# What is written where no patient is known.
PLACEHOLDER = re.compile(
    r"(?i)[\W_]*|0+|xx+|n/?a|nan|nil|none|null|unk(nown)?|missing|anon(ym\w*)?|not \w+|no (id|name)"
)
# The transfer syntax of files that are compressed in one piece.
DEFLATED = b"1.2.840.10008.1.2.1.99"
# Of a file that does not say it: by implicit types and little endian.
SYNTAXES = {(True, True): "1.2.840.10008.1.2", (False, True): "1.2.840.10008.1.2.1"}
# Optional packages that decide which DICOM files can be read.
DICOM_READERS = ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "rle", "gdcm", "jpeg_ls")
# How a file begins that has no preamble: with group 2 or 8 in either byte order, and a length or a
# type of two letters.
NO_PREAMBLE = re.compile(rb"([\2\x08]\0.\0|\0[\2\x08]\0.)([A-Z]{2}|..\0\0)", re.DOTALL)


def begins_dicom(data: bytes) -> bool:
    """Whether a file that begins with `data`, at least 132 bytes, is DICOM."""
    return data[128:132] == b"DICM" or NO_PREAMBLE.match(data) is not None


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, whatever its name; True if it can't be opened: decoding says why."""
    try:
        # Reading a pipe would wait forever.
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return begins_dicom(file.read(132))
    except OSError:
        return True


def patient_id(path: Path) -> str:
    """The PatientID of a DICOM file; empty if none is known, or it cannot be read as DICOM."""
    # damaged files raise most kinds of error; pydicom may not be installed
    with suppress(Exception):
        from pydicom import dcmread

        if is_dicom(path):
            return _patient(dcmread(path, force=True, stop_before_pixels=True))
    return ""


def installed_readers() -> list[str]:
    """Those of DICOM_READERS that are installed."""
    return [name for name in DICOM_READERS if find_spec(name)]


def decode_dicom(data: bytes, max_pixels: int) -> tuple[np.ndarray, dict]:
    """Grey values (H, W) float32 of any range, or a colour image (H, W, 3) uint8; and facts.

    Facts: `width`, `height`, `format` and `patient`, the PatientID. Rescale slope and window are
    applied, MONOCHROME1 is inverted. Raises DataError with the reason.
    """
    try:
        from pydicom import dcmread
    except ImportError as error:
        raise DataError("is DICOM, and pydicom is not installed: pip install pydicom") from error
    # It would be inflated in one piece, to up to a thousand times its size.
    if DEFLATED in data[:4096] and len(data) > 2**20:
        raise DataError(f"is a deflated DICOM file of {len(data):,} bytes: export it uncompressed")
    try:
        dataset = dcmread(BytesIO(data), force=True)
        facts = _dicom_facts(dataset, max_pixels)
        return _values(dataset), facts
    except (DataError, MemoryError):
        raise
    # pydicom raises most kinds of error on damaged data, with texts that may quote the header.
    except Exception as error:
        raise DataError(f"damaged DICOM ({type(error).__name__})") from error


def _dicom_facts(dataset, max_pixels: int) -> dict:
    kind = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    if "Rows" not in dataset and kind and "Image" not in kind.name:
        raise DataError(f"is DICOM without an image: {kind.name}")
    width, height = int(dataset.Columns), int(dataset.Rows)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise DataError(f"holds {frames} frames, expected one: export a single frame")
    if width * height > max_pixels:
        raise DataError(f"declares {width}x{height} pixels, more than {max_pixels:,}")
    return {"width": width, "height": height, "format": "DICOM", "patient": _patient(dataset)}


def _patient(dataset) -> str:
    patient = str(dataset.get("PatientID") or "").strip()
    return "" if PLACEHOLDER.fullmatch(patient) else patient


def _values(dataset) -> np.ndarray:
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

    meta = dataset.file_meta
    if "TransferSyntaxUID" not in meta:
        meta.TransferSyntaxUID = SYNTAXES[dataset.original_encoding]
    try:
        pixels = dataset.pixel_array
    except (RuntimeError, NotImplementedError) as error:
        name = meta.TransferSyntaxUID.name
        # with all decoders, and of RLE without any, it is the data that are damaged
        if "pylibjpeg" in installed_readers() or name.startswith("RLE"):
            raise
        raise DataError(f"is compressed as {name}: pip install pylibjpeg[all]") from error
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim == 3:
        # More than 8 bits are scaled to 8.
        return np.asarray(pixels[..., :3] // (1 + int(pixels.max()) // 256), np.uint8)
    shown = apply_modality_lut(pixels, dataset)
    # a window without a width or a centre is ignored
    with suppress(ValueError, TypeError, AttributeError, KeyError):
        shown = apply_voi_lut(shown, dataset)
    shown = np.asarray(shown, np.float32)
    # What is outside the field of the scanner must not set the range.
    inside = shown[pixels != dataset.get("PixelPaddingValue")]
    if inside.size:
        shown = np.clip(shown, inside.min(), inside.max())
    is_inverse = dataset.get("PresentationLUTShape") == "INVERSE"
    if is_inverse or dataset.PhotometricInterpretation == "MONOCHROME1":
        np.subtract(shown.max(), shown, out=shown)
    return np.asarray(shown)
