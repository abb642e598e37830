"""A DICOM file as an array. Nothing of its header is returned but size and patient id."""

from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np

from bonelib.messages import DataError

# The transfer syntax of files that are compressed in one piece.
DEFLATED = b"1.2.840.10008.1.2.1.99"
# Optional packages that decide which DICOM files can be read.
DICOM_READERS = ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "rle", "gdcm")


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, whatever its name; True if it can't be opened: decoding says why."""
    try:
        # Reading a pipe would wait forever.
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return True


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
        dataset = dcmread(BytesIO(data))
        facts = _dicom_facts(dataset, max_pixels)
        return _values(dataset), facts
    except DataError:
        raise
    # pydicom raises most kinds of error on damaged data, with texts that may quote the header.
    except Exception as error:
        raise DataError(f"damaged DICOM ({type(error).__name__})") from error


def _dicom_facts(dataset, max_pixels: int) -> dict:
    width, height = int(dataset.Columns), int(dataset.Rows)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise DataError(f"holds {frames} frames, expected one: export a single frame")
    if width * height > max_pixels:
        raise DataError(f"declares {width}x{height} pixels, more than {max_pixels:,}")
    patient = str(dataset.get("PatientID") or "")
    return {"width": width, "height": height, "format": "DICOM", "patient": patient}


def _values(dataset) -> np.ndarray:
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

    try:
        pixels = dataset.pixel_array
    # The plugin for this compression is not installed.
    except (RuntimeError, NotImplementedError) as error:
        name = dataset.file_meta.TransferSyntaxUID.name
        raise DataError(f"is compressed as {name}: pip install pylibjpeg[all]") from error
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim == 3:
        # More than 8 bits are scaled to 8.
        return np.asarray(pixels[..., :3] // (1 + int(pixels.max()) // 256), np.uint8)
    shown = np.asarray(apply_voi_lut(apply_modality_lut(pixels, dataset), dataset), np.float32)
    # What is outside the field of the scanner must not set the range.
    inside = shown[pixels != dataset.get("PixelPaddingValue")]
    if inside.size:
        shown = np.clip(shown, inside.min(), inside.max())
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        np.subtract(shown.max(), shown, out=shown)
    return np.asarray(shown)
