"""A DICOM file as a grey picture (optional: pip install pydicom). Of the header nothing is kept but a salted patient hash."""

from __future__ import annotations

import hashlib
import secrets
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonelib.images import MAX_PIXELS, ImageError


def is_dicom(data: bytes) -> bool:
    """Whether the bytes are a DICOM file, whatever its name."""
    return data[128:132] == b"DICM"


def salt(folder: str | Path) -> bytes:
    """A secret made once and kept in `folder`: with it, and only with it, one patient gives one hash."""
    path = Path(folder) / "patient-salt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()


def decode(data: bytes, salt: bytes = b"") -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """The picture as (H, W) uint8, 0 black, and `width`, `height`, `format`, `patient` (a hash; empty without a salt).

    The modality's rescale slope and the window are applied, MONOCHROME1 is inverted. Raises ImageError with the reason.
    """
    try:
        from pydicom import dcmread
        from pydicom.pixels import apply_modality_lut, apply_voi_lut
    except ImportError as error:
        raise ImageError("is DICOM, and pydicom is not installed: pip install pydicom") from error
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
    except ImageError:
        raise
    except Exception as error:  # pydicom raises most kinds of error on damaged data
        raise ImageError(f"damaged DICOM: {str(error) or type(error).__name__}") from error
    if kind == "MONOCHROME1":
        grey = grey.max() - grey
    low, high = float(grey.min()), float(grey.max())
    out = ((grey - low) * (255 / max(high - low, 1e-6))).round().astype(np.uint8)
    return out, {"width": columns, "height": rows, "format": "DICOM", "patient": _patient(held, salt)}


def _without_padding(shown: NDArray[Any], stored: NDArray[Any], padding: Any) -> NDArray[Any]:
    """What a scanner put outside its field is shown as its darkest or brightest pixel, so that it doesn't set the scale."""
    outside = np.zeros(stored.shape, bool) if padding is None else stored == padding
    if outside.any() and not outside.all():
        shown[outside] = np.clip(shown[outside], shown[~outside].min(), shown[~outside].max())
    return shown


def _patient(held: Any, salt: bytes) -> str:
    name = str(held.get("PatientID") or "").strip()
    return hashlib.blake2b(name.encode(), key=salt, digest_size=8).hexdigest() if name and salt else ""
