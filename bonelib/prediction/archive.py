"""A folder of any size to one table of predictions: shared by processes, resumable part by part.

Memory does not grow with the number of images, except for the list of their names.
"""

import hashlib
import json
import os
import re
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pandas as pd
from accelerate.utils import broadcast_object_list

from bonelib.config import Config
from bonelib.data import dicom, fetch, folders, images, quality
from bonelib.messages import DataError
from bonelib.prediction import answers
from bonelib.storage import atomic_file, find_files, progress, stamp, write_csv
from bonelib.training import device

# Seconds between two looks for the files of other processes.
POLL_INTERVAL = 0.2


def find_images(place: str | Path) -> tuple[Path, list[str]]:
    """A folder and the sorted paths of all files in it at any depth; or those of one image.

    Hidden files are left out; DataError if no file is an image.
    """
    root = Path(place).expanduser()
    if root.is_file():
        return root.parent, [root.name]
    with fetch.fetch_errors(root):
        files = list(find_files(root))
    if not any(folders.is_image(path) for path in files):
        suffixes = ", ".join(sorted(folders.IMAGE_SUFFIXES))
        raise DataError(f"{root}: found no file named {suffixes}, and no DICOM without a suffix")
    return root, sorted(path.relative_to(root).as_posix() for path in files)


def answer_archive(cfg: Config, models, root: Path, paths, part: int = 256) -> Path:
    """A table `answers.csv` below the run's folder `answers`, with one row per file, in order.

    Columns: path, then those of `answer_images`. Each process predicts its share of the parts of
    `part` files, less those that an earlier run left. Another model, calibration or list of files
    (with sizes and times of change) makes another folder.
    """
    state, precision = device.processes(), device.precision(cfg, device.device())
    key, size = _archive_key([part, precision], models, root, paths), models[0].meta["image_size"]
    # one process lists the files for all: an archive may change meanwhile
    paths, key = broadcast_object_list([list(paths), key])
    out = cfg.root / "answers" / f"{root.resolve().name}-{key}" / "answers.csv"
    if out.is_file():
        return out
    starts = range(0, len(paths), part)
    parts = {out.with_name(f"part-{i // part:05}.csv"): paths[i : i + part] for i in starts}
    mine = list(parts)[state.process_index :: state.num_processes]
    missing = [file for file in mine if _read_part(file, parts[file]) is None]
    # one file that was named is read whatever its suffix
    reads = ((root, path, size, len(paths) == 1) for file in missing for path in parts[file])
    decoded = _decode_ahead(reads, part)
    for file in progress(missing, "parts", disable=not state.is_main_process):
        some = list(islice(decoded, len(parts[file])))
        table = answers.answer_images(models, some, 2 * cfg.batch_size, precision)
        table.insert(0, "path", [_writable(path) for path in parts[file]])
        write_csv(file, table, float_format="%.6f")
    if state.is_main_process:
        _merge(parts, out)
    # no barrier: it would time out where the share of another process takes long
    while not out.is_file():
        time.sleep(POLL_INTERVAL)
    return out


def _archive_key(options, models, root, paths) -> str:
    """A hash of everything that the predictions depend on."""
    known = [answers.models_digest(models), *(model.meta for model in models), str(root.resolve())]
    known += [images.DECODING_VERSION, dicom.installed_readers()]
    digest = hashlib.sha256(json.dumps([options, known]).encode())
    for path in paths:
        digest.update(json.dumps([path, *stamp(root / path)]).encode())
    return digest.hexdigest()[:12]


def _writable(path: str) -> str:
    """The path as text that a table can hold: what is not valid in it is escaped."""
    return re.sub("[\r\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], path)


def _read(root: Path, path: str, size: int, is_alone: bool):
    """`quality.read_for_model` of a file that was found, or the reason why it was not read."""
    if path != _writable(path):
        return None, "not read: its name is not valid text, rename the file"
    if not is_alone and not folders.is_image(root / path):
        return None, "not read: no image by its suffix, and no DICOM"
    return quality.read_for_model(root / path, size)


def _decode_ahead(reads, count):
    """The results of `_read`; `count` files are decoded while the model works."""
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    with ThreadPoolExecutor(max(1, cores)) as pool:
        submitted = (pool.submit(_read, *read) for read in reads)
        waiting = deque(islice(submitted, count))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(islice(submitted, 1))


def _read_part(file: Path, paths: Sequence[str]) -> pd.DataFrame | None:
    """A part as texts; None if it is absent, incomplete, or of other files."""
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        return table if table["path"].tolist() == [_writable(path) for path in paths] else None
    except (OSError, ValueError, KeyError):
        return None


def _merge(parts: dict[Path, Sequence[str]], out: Path) -> None:
    """Write all parts, each when it is complete, to one table."""
    with atomic_file(out) as temporary, temporary.open("wb") as merged:
        for file, paths in parts.items():
            while (table := _read_part(file, paths)) is None:
                time.sleep(POLL_INTERVAL)
            table.to_csv(merged, header=merged.tell() == 0, index=False)
    # left behind by processes that were killed
    for leftover in out.parent.glob("*.part.csv"):
        leftover.unlink(missing_ok=True)
