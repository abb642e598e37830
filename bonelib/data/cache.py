"""Every image of a data set decoded once, into a memory map that later runs find again."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bonelib import storage
from bonelib.data import dicom, images, metadata
from bonelib.messages import DataError, RunError

Decoded = tuple[np.ndarray, pd.DataFrame]


def cached_images(root: str | Path, paths: Sequence[str], size: int, folder: str | Path) -> Decoded:
    """A memory map (N, size, size) uint8 of letterboxed images, and facts, in the order of `paths`.

    Facts: `width`, `height`, `format`, `bytes`, `sha256`, `status` ("ok", or the reason why not:
    the image is black then), `patient` (of DICOM files: a salted hash) and `coloured`.
    They are kept in `folder`, beside the salt. A file that changes, or a package that can read more
    of them, makes another cache. Raises RunError if there is no room.
    """
    root, folder = Path(root), Path(folder)
    stamps = [(path, *storage.stamp(root / path)) for path in paths]
    depends_on = [images.DECODING_VERSION, dicom.installed_readers(), str(root.resolve()), stamps]
    stem = folder / f"{storage.text_digest(json.dumps(depends_on), 20)}-{size}"
    try:
        files = [root / path for path in paths]
        return _load(stem, len(paths), size) or _decode_all(files, size, stem)
    except (OSError, RunError) as error:
        raise RunError(
            f"{folder} could not take {len(paths):,} decoded images, "
            f"{len(paths) * size**2 / 1e6:,.0f} MB ({error.__cause__ or error}). "
            "Make room there, or name another folder (BONELIB_CACHE=path)"
        ) from error


def _load(stem: Path, count: int, size: int) -> Decoded | None:
    """What an earlier run decoded, or None if it is absent or incomplete."""
    try:
        pixels = np.load(f"{stem}.npy", mmap_mode="r")
        facts = pd.DataFrame(storage.read_json(Path(f"{stem}.json")))
    except (OSError, ValueError, EOFError):
        return None
    complete = pixels.shape == (count, size, size) and len(facts) == count
    return (pixels, facts) if complete else None


def _decode_all(files: list[Path], size: int, stem: Path) -> Decoded:
    """Decode all images into a new memory map, and write the facts of each beside it."""
    salt = metadata.patient_salt(stem.parent)
    with storage.atomic_file(Path(f"{stem}.npy")) as temporary:
        pixels = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(files), size, size))
        # On a full disk this is an error; without it, writing to the map would kill the process.
        if hasattr(os, "posix_fallocate"):
            with temporary.open("r+b") as handle:
                os.posix_fallocate(handle.fileno(), 0, temporary.stat().st_size)
        jobs = list(zip(pixels, files, strict=True))
        facts = pd.DataFrame(
            storage.parallel_map(lambda job: _decode(job[0], job[1], salt), jobs, "decode")
        )
        pixels.flush()
        storage.write_json(Path(f"{stem}.json"), facts.to_dict("list"))
    return np.load(f"{stem}.npy", mmap_mode="r"), facts


def _decode(square: np.ndarray, path: Path, salt: bytes) -> dict:
    """The facts of an image file; its pixels, letterboxed, are written to `square`."""
    facts: dict = {"width": 0, "height": 0, "format": "", "bytes": 0, "sha256": ""}
    facts |= {"coloured": 0.0, "status": "ok", "patient": ""}
    try:
        data = images.read_bytes(path)
        facts.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        image, found = images.decode(data, len(square))
    except DataError as error:
        return facts | {"status": f"unreadable: {error}"}
    square[:] = images.letterbox(image, len(square))
    return facts | found | {"patient": metadata.hash_patient(found["patient"], salt)}
