"""A DICOM file as a grey picture (optional: pip install pydicom). Of the header nothing is kept but a salted patient hash."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonelib.images import MAX_PIXELS, ImageError, stretched

DEFLATED = b"1.2.840.10008.1.2.1.99"  # the transfer syntax


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, whatever its name; one that cannot be opened may be: who decodes it is told the reason."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return True


def salt(folder: str | Path) -> bytes:
    """A secret made once and kept in `folder`: with it, and only with it, one patient gives one hash."""
    path = Path(folder) / "patient-salt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        aside.touch(mode=0o600)
        aside.write_bytes(secrets.token_bytes(32))
        with contextlib.suppress(FileExistsError):  # of two runs that begin at once, the first one's holds
            os.link(aside, path)
        aside.unlink()
    held = path.read_bytes()
    if len(held) != 32:
        raise ValueError(f"{path} holds {len(held)} bytes, expected 32: delete it, and another is made")
    return held


def hashed(patient: str, salt: bytes) -> str:
    """What stands for a patient in every table: 16 hexadecimal digits; empty without an id, or without a salt."""
    name = patient.strip().encode("utf-8", "surrogatepass")
    return hashlib.blake2b(name, key=salt, digest_size=8).hexdigest() if name and salt else ""


def decode(data: bytes, salt: bytes = b"") -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """The picture as (H, W) uint8, 0 black, and `width`, `height`, `format`, `patient` (a hash; empty without a salt).

    The modality's rescale slope and the window are applied, MONOCHROME1 is inverted. Raises ImageError with the reason.
    """
    try:
        from pydicom import dcmread
        from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
    except ImportError as error:
        raise ImageError("is DICOM, and pydicom is not installed: pip install pydicom") from error
    if DEFLATED in data[:4096] and len(data) > 2**20:  # it is inflated whole, to a thousand times its size
        raise ImageError(f"is a deflated DICOM file of {len(data):,} bytes: export it uncompressed")
    try:
        held = dcmread(BytesIO(data))
        rows, columns, kind = int(held.Rows), int(held.Columns), str(held.PhotometricInterpretation)
        frames = int(held.get("NumberOfFrames") or 1)
        if frames > 1:
            raise ImageError(f"holds {frames} frames, expected one: export the radiograph as a single frame")
        if rows * columns > MAX_PIXELS:
            raise ImageError(f"declares {columns}x{rows} pixels, more than {MAX_PIXELS:,}")
        try:
            pixels = held.pixel_array
        except (RuntimeError, NotImplementedError) as error:  # a compression whose plugin is absent
            name = held.file_meta.TransferSyntaxUID.name
            raise ImageError(f"is compressed as {name}: pip install pylibjpeg[all] to read it") from error
        if pixels.ndim == 3:
            grey = pixels.astype(np.float32).mean(axis=2)
        else:
            shown = np.asarray(apply_voi_lut(apply_modality_lut(pixels, held), held), np.float32)
            grey = _without_padding(shown, pixels, held.get("PixelPaddingValue"))
        out = stretched(grey.max() - grey if kind == "MONOCHROME1" else grey)
        name = str(held.get("PatientID") or "")
    except ImageError:
        raise
    except Exception as error:  # pydicom raises most kinds of error on damaged data
        raise ImageError(f"damaged DICOM ({type(error).__name__})") from error  # its text may quote the header
    return out, {"width": columns, "height": rows, "format": "DICOM", "patient": hashed(name, salt)}


def _without_padding(shown: NDArray[Any], stored: NDArray[Any], padding: Any) -> NDArray[Any]:
    """What a scanner put outside its field is shown as its darkest or brightest pixel, so that it doesn't set the scale."""
    outside = np.zeros(stored.shape, bool) if padding is None else stored == padding
    if outside.any() and not outside.all():
        shown[outside] = np.clip(shown[outside], shown[~outside].min(), shown[~outside].max())
    return shown
