"""One file to one grey `uint8` array, and the decoded cache of a whole data set."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError
from tqdm.auto import tqdm

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
FACTS = {"width": 0, "height": 0, "format": "", "bytes": 0, "sha256": "", "status": "ok", "patient": ""}
MAX_PIXELS = 89_000_000  # Pillow itself warns a little above
MAX_BYTES = 8 * MAX_PIXELS  # of a file: four channels of 16 bits, uncompressed
VERSION = 3  # of the decoding: a change here makes every cache anew

Grey = NDArray[np.uint8]


class ImageError(ValueError):
    """A file that is no usable picture; the message is the reason, in words."""


class CacheError(RuntimeError):
    """Decoded pictures that cannot be kept; the message says where, how much is needed, and what to do."""


def read(path: str | Path, at_least: int | None = None) -> Grey:
    """The picture in a file as (H, W) uint8, 0 black.

    at_least: pixels of the longer side that suffice; a larger JPEG is then decoded at a half, quarter or eighth.
    Raises ImageError with the reason.
    """
    return decode(_bytes(Path(path)), at_least)[0]


def decode(data: bytes, at_least: int | None = None, salt: bytes = b"") -> tuple[Grey, dict[str, Any]]:
    """The picture in `data` as (H, W) uint8, and its `width` and `height` as shown, `format`, and of DICOM `patient`."""
    if data[128:132] == b"DICM":
        from bonelib import dicom  # it needs ImageError from here

        return dicom.decode(data, salt)
    try:
        picture = Image.open(BytesIO(data), formats=FORMATS)
        facts = {"width": picture.width, "height": picture.height, "format": picture.format}
        if picture.width * picture.height > MAX_PIXELS:
            raise ImageError(f"declares {picture.width}x{picture.height} pixels, more than {MAX_PIXELS:,}")
        if (frames := getattr(picture, "n_frames", 1)) > 1:
            raise ImageError(f"holds {frames} pictures, expected one")
        if picture.getexif().get(0x0112) in (5, 6, 7, 8):  # lies on its side
            facts |= {"width": picture.height, "height": picture.width}
        if at_least and picture.format == "JPEG":
            shrink = at_least / max(picture.size)
            picture.draft("L", (math.ceil(picture.width * shrink), math.ceil(picture.height * shrink)))
        ImageOps.exif_transpose(picture, in_place=True)
        return _grey(picture), facts
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"declares too many pixels ({error})") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"holds no {', '.join(FORMATS)} or DICOM picture") from error
    except Exception as error:  # Pillow's decoders raise most kinds of error on damaged data
        raise ImageError(f"damaged: {str(error) or type(error).__name__}") from error


def colour(path: str | Path, most: int) -> NDArray[np.int16]:
    """(h, w), at most `most` a side: how far the channels of a file's pixels lie apart; 0 where there is no colour to see."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.mode in ("1", "L", "LA", "I", "F") or picture.mode.startswith("I;16"):
                return np.zeros((1, 1), np.int16)
            picture.draft("RGB", (most // 4, most // 4))
            few = [min(side, most) for side in picture.size]  # every so many pixels of a large one: memory is finite
            rgb = np.asarray(picture.resize(few, Image.Resampling.NEAREST).convert("RGB"), np.int16)
    except OSError:  # DICOM, which is grey here, or unreadable
        return np.zeros((1, 1), np.int16)
    return np.asarray(np.ptp(rgb, axis=2))


def stretched(deep: NDArray[Any]) -> Grey:
    """(H, W) uint8: any numbers, their own minimum black and their maximum white. ImageError if one is no number."""
    low, high = float(deep.min()), float(deep.max())
    if not math.isfinite(high - low):
        raise ImageError(f"holds values that are no grey levels (from {low:g} to {high:g})")
    grey = np.subtract(deep, low, dtype=np.float32)
    grey *= 255 / max(high - low, 1e-6)
    out: Grey = np.rint(grey, out=grey).astype(np.uint8)
    return out


def letterbox(grey: Grey, size: int) -> Grey:
    """(size, size) uint8: the whole picture, its aspect kept, centred on black."""
    top, bottom, left, right = frame(grey.shape[1], grey.shape[0], size)
    shape = bottom - top, right - left
    if shape != grey.shape:
        way = cv2.INTER_AREA if size < max(grey.shape) else cv2.INTER_LINEAR
        grey = np.asarray(cv2.resize(grey, shape[::-1], interpolation=way), np.uint8)
    out = np.zeros((size, size), np.uint8)
    out[top:bottom, left:right] = grey
    return out


def frame(width: int, height: int, side: int) -> tuple[int, int, int, int]:
    """Where a picture lies in its letterbox: top, bottom, left, right."""
    h, w = (max(1, round(n * side / max(width, height))) for n in (height, width))
    top, left = (side - h) // 2, (side - w) // 2
    return top, top + h, left, left + w


def cache(root: str | Path, paths: Sequence[str], size: int, folder: str | Path) -> tuple[NDArray[Any], pd.DataFrame]:
    """Every picture decoded once: a memory map (N, size, size) uint8, and a table of facts, both in the order of `paths`.

    The table holds `width`, `height`, `format`, `bytes`, `sha256`, `status` (`ok`, or why not; then the picture is black)
    and `patient` (of DICOM files, a hash salted with a secret that stays in `folder`). Files are kept in `folder`, keyed by path, length and time of change, so a changed file is decoded anew.
    """
    root, folder = Path(root), Path(folder)
    key = [VERSION, size, str(root.resolve()), [(p, *stamp(root / p)) for p in paths]]
    stem = folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]}-{size}"
    kept = _kept(stem, len(paths), size)
    try:
        return kept if kept is not None else _fill(root, paths, size, stem)
    except OSError as error:
        raise CacheError(
            f"{folder} could not take {len(paths):,} decoded pictures, {len(paths) * size**2 / 1e6:,.0f} MB ({error}). "
            "Make room there, or name another folder (BONELIB_CACHE=path)"
        ) from error


def _kept(stem: Path, n: int, size: int) -> tuple[NDArray[Any], pd.DataFrame] | None:
    """The cache that an earlier run left, or None if it is absent or torn."""
    try:
        pixels = np.load(f"{stem}.npy", mmap_mode="r")
        if not Path(f"{stem}.csv").read_bytes().endswith(b"\n"):
            return None  # cut short: the last row may still look whole
        facts = pd.read_csv(f"{stem}.csv", dtype={k: str for k, v in FACTS.items() if v != 0}, keep_default_na=False)
    except (OSError, ValueError, EOFError):
        return None
    return (pixels, facts) if pixels.shape == (n, size, size) and len(facts) == n else None


def _fill(root: Path, paths: Sequence[str], size: int, stem: Path) -> tuple[NDArray[Any], pd.DataFrame]:
    from bonelib import dicom

    stem.parent.mkdir(parents=True, exist_ok=True)
    salt = dicom.salt(stem.parent)
    torn = Path(f"{stem}.{os.getpid()}.tmp")
    table = Path(f"{torn}.csv")

    def one(i: int) -> dict[str, Any]:
        grey, facts = _probe(root / paths[i], size, salt)
        if grey is not None:
            pixels[i] = letterbox(grey, size)
        return facts

    try:
        pixels = np.lib.format.open_memmap(torn, mode="w+", dtype=np.uint8, shape=(len(paths), size, size))
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, but would kill who writes to the map
            with torn.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, torn.stat().st_size)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow, OpenCV and hashlib let go of the interpreter
            rows = list(tqdm(pool.map(one, range(len(paths))), "decode", len(paths), unit="img", delay=2))
        pixels.flush()
        facts = pd.DataFrame(rows, columns=list(FACTS))
        facts.to_csv(table, index=False)
        table.replace(f"{stem}.csv")
        torn.replace(f"{stem}.npy")
    finally:
        torn.unlink(missing_ok=True)
        table.unlink(missing_ok=True)
    return np.load(f"{stem}.npy", mmap_mode="r"), facts


def _probe(path: Path, size: int, salt: bytes) -> tuple[Grey | None, dict[str, Any]]:
    facts: dict[str, Any] = dict(FACTS)
    try:
        data = _bytes(path)
        facts |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        grey, found = decode(data, size, salt)
    except ImageError as error:
        return None, facts | {"status": f"unreadable: {error}"}
    return grey, facts | found


def _bytes(path: Path) -> bytes:
    try:
        held = path.stat()
        fits = stat.S_ISREG(held.st_mode) and held.st_size <= MAX_BYTES  # a pipe would be waited for for ever
        data = path.read_bytes() if fits else None
    except OSError as error:
        raise ImageError(f"cannot be opened ({error.strerror})") from error
    except ValueError as error:
        raise ImageError(f"has a name that no file can have ({error})") from error
    if data is None:
        raise ImageError(f"is a folder, a pipe, or a file of more than {MAX_BYTES:,} bytes")
    if not data:
        raise ImageError("empty (0 bytes)")
    return data


def stamp(path: Path) -> tuple[int, int]:
    """Length and time of change (ns), by which a changed file is known; -1 where there is none."""
    try:
        held = path.stat()
    except (OSError, ValueError):
        return (-1, -1)
    return (held.st_size, held.st_mtime_ns)


def _grey(picture: Image.Image) -> Grey:
    """Any mode as uint8; more than 8 bits are stretched from their own minimum and maximum."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return stretched(np.asarray(picture, np.float32))
    if picture.mode in ("LA", "PA", "RGBA", "P"):  # what is transparent shows black
        picture = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        picture = ImageChops.multiply(picture.convert("L"), picture.getchannel("A"))
    return np.array(picture.convert("L"))
