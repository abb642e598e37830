"""From the bytes of one image file to one grey `uint8` array, and its place in a square."""

import math
import stat
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from bonelib.data import dicom
from bonelib.messages import DataError

RASTER_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000")
# Pillow itself warns a little above.
MAX_PIXELS = 89_000_000
# Of a file: four channels of 16 bits, uncompressed.
MAX_BYTES = 8 * MAX_PIXELS
# A change makes every cache again.
DECODING_VERSION = 6
# Difference between the channels of a pixel above which it is clearly coloured. At 32 each of 138
# spine printouts has at least 0.8% coloured pixels, none of 174 knees has any, and ten photos have
# over 33%. At 40 dull photos come down to 25%, the limit of a photo; at 24 the noise of a colour
# camera (standard deviation 5) counts as an overlay.
COLOUR_DIFFERENCE = 32
# Outliers in `stretch`: at most FEW percent at either end, at least FAR times the range of all
# others away from them.
FEW, FAR = 1, 2
# A colour JPEG is reduced no further: at an eighth, thin coloured lines fade to grey, and decoding
# is no faster.
COLOUR_REDUCTION = 4


def read_bytes(path: str | Path) -> bytes:
    """The content of an image file. DataError if it is empty, too large, or no readable file."""
    try:
        info = Path(path).stat()
        # Reading a pipe would wait forever.
        readable = stat.S_ISREG(info.st_mode) and info.st_size <= MAX_BYTES
        data = Path(path).read_bytes() if readable else None
    # A name that no file can have is a ValueError.
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be opened ({getattr(error, 'strerror', error)})") from error
    if data is None:
        raise DataError(f"is a folder, a pipe, or a file of more than {MAX_BYTES:,} bytes")
    if not data:
        raise DataError("empty (0 bytes)")
    return data


def decode(data: bytes, at_least: int | None = None) -> tuple[np.ndarray, dict]:
    """The image in `data` as (H, W) uint8, 0 black, and facts about it.

    at_least: pixels of the longer side that suffice; a larger JPEG is decoded at a reduced size.
    Facts: `width` and `height` as shown, `format`, `coloured` (share of clearly coloured pixels,
    0..1) and `patient` (PatientID of a DICOM file, or ""). Raises DataError with the reason.
    """
    if dicom.begins_dicom(data):
        values, facts = dicom.decode_dicom(data, MAX_PIXELS)
    else:
        values, facts = _decode_raster(data, at_least)
    if values.ndim == 2:
        facts["coloured"] = 0.0
        return values if values.dtype == np.uint8 else stretch(values), facts
    red, green, blue = cv2.split(values)
    difference = cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue)
    facts["coloured"] = float(np.mean(difference > COLOUR_DIFFERENCE))
    return np.asarray(cv2.cvtColor(values, cv2.COLOR_RGB2GRAY), np.uint8), facts


def stretch(values: np.ndarray) -> np.ndarray:
    """(H, W) uint8: numbers of any range, their minimum black and their maximum white.

    Few values far outside of all others, as of a marker in 16 bits beside a scan in 12, become
    black or white. Raises DataError if a value is not finite.
    """
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(high - low):
        raise DataError(f"holds values that are no grey levels (from {low:g} to {high:g})")
    # of a large image a part of the rows and columns suffices
    step = max(values.shape) // 1000 + 1
    darkest, brightest = np.percentile(values[::step, ::step], (FEW, 100 - FEW))
    margin = brightest - darkest
    if margin > 0:
        low = low if darkest - low < FAR * margin else darkest
        high = high if high - brightest < FAR * margin else brightest
    grey = np.subtract(np.clip(values, low, high), low, dtype=np.float32)
    return np.asarray(cv2.convertScaleAbs(grey, alpha=255 / max(high - low, 1e-6)), np.uint8)


def letterbox(image: np.ndarray, size: int) -> np.ndarray:
    """(size, size) uint8: the complete image, its aspect ratio kept, centred on black."""
    top, bottom, left, right = frame(image.shape[1], image.shape[0], size)
    method = cv2.INTER_AREA if size < max(image.shape) else cv2.INTER_LINEAR
    resized = cv2.resize(image, (right - left, bottom - top), interpolation=method)
    square = np.zeros((size, size), np.uint8)
    square[top:bottom, left:right] = resized
    return square


def frame(width: int, height: int, side: int) -> tuple[int, int, int, int]:
    """Where an image is in its letterbox: top, bottom, left, right."""
    h, w = (max(1, round(length * side / max(width, height))) for length in (height, width))
    top, left = (side - h) // 2, (side - w) // 2
    return top, top + h, left, left + w


def _decode_raster(data: bytes, at_least: int | None) -> tuple[np.ndarray, dict]:
    """(H, W) uint8 or float32, or (H, W, 3) uint8, and the facts that the header holds."""
    try:
        image: Image.Image = Image.open(BytesIO(data), formats=RASTER_FORMATS)
        facts = _header_facts(image)
        if at_least and facts["format"] == "JPEG":
            limit = 8 if image.mode == "L" else COLOUR_REDUCTION
            factor = min(max(image.size) / at_least, limit)
            image.draft(None, (int(image.width / factor) or 1, int(image.height / factor) or 1))
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            values = np.asarray(image, np.float32)
            # Pillow inverts a TIFF whose 0 is white only up to 8 bits
            is_inverted = getattr(image, "tag_v2", {}).get(262) == 0
            return values.max() - values if is_inverted else values, facts
        if image.has_transparency_data:
            image = _on_black(image)
        mode = "L" if image.mode in ("1", "L") else "RGB"
        return np.asarray(image if image.mode == mode else image.convert(mode)), facts
    # what depends on the memory that is free says nothing about the file
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"holds no {', '.join(RASTER_FORMATS)} or DICOM image") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"declares more than {MAX_PIXELS:,} pixels ({error})") from error
    # Pillow's decoders raise most kinds of error on damaged data.
    except Exception as error:
        raise DataError(f"damaged: {str(error) or type(error).__name__}") from error


def _header_facts(image: Image.Image) -> dict:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(f"declares {width}x{height} pixels, more than {MAX_PIXELS:,}")
    frames = getattr(image, "n_frames", 1)
    # the other images of an MPO, the JPEG of a phone, are previews
    if frames > 1 and image.format != "MPO":
        raise DataError(f"holds {frames} images, expected one")
    # Orientations of EXIF in which width and height are exchanged.
    if image.getexif().get(0x0112) in (5, 6, 7, 8):
        width, height = height, width
    image_format = str(image.format).replace("MPO", "JPEG")
    return {"width": width, "height": height, "format": image_format, "patient": ""}


def _on_black(image: Image.Image) -> Image.Image:
    """Transparent pixels are shown black."""
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    black = Image.new("RGB", image.size)
    black.paste(rgba, mask=rgba)
    return black
