"""A folder of any size to one table of answers: shared out over processes, part by part, resumable.

What is held in memory does not grow with the archive, but for the names of its files.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm

from bonelib import artifact, catalog, images, inputs, model, predict
from bonelib.catalog import DataError
from bonelib.config import Config

PART = 256  # images that a file of results holds: what a kill may cost, and what is decoded ahead
COLUMNS = ["path", *predict.PROBS, "call", "reason"]


def files(place: str | Path) -> tuple[Path, list[str]]:
    """A folder, and the sorted paths of all pictures in it at any depth; of a single file, its folder and its name."""
    root = Path(place).expanduser()
    if root.is_file():
        return root.parent, [root.name]
    if not root.is_dir():
        raise DataError(
            f"images = {str(place)!r}: found nothing there from {Path.cwd()}; expected a picture or a folder"
        )
    every = (folder / name for folder, _, names in catalog.walk(root) for name in names)
    found = [p.relative_to(root) for p in every if catalog.is_picture(p)]
    if not found:
        raise DataError(
            f"{root} holds no file named {', '.join(sorted(catalog.SUFFIXES))}, and no DICOM without suffix"
        )
    return root, sorted(p.as_posix() for p in found)


def answers(cfg: Config, models: Sequence[predict.Model], root: Path, paths: Sequence[str], part: int = PART) -> Path:
    """A table `answers.csv` in a folder below the run's `answers`: COLUMNS, a row a file, in the order of `paths`.

    Each process takes its share of the parts, and finds those that an earlier run left. They are of this very model,
    calibration, thresholds and list of files (sizes and times of change too): any other one gets another folder.
    """
    state, kind = model.processes(), model.precision(cfg, model.device())
    # one process says which files: an archive may change while it is listed
    paths, name = broadcast_object_list([list(paths), _key(cfg, root, paths, part, kind)])
    folder = cfg.root / "answers" / f"{root.resolve().name}-{name}"
    out = folder / "answers.csv"
    if out.is_file():
        return out
    parts = {folder / f"part-{i // part:05}.csv": paths[i : i + part] for i in range(0, len(paths), part)}
    missing = {f: n for f, n in list(parts.items())[state.process_index :: state.num_processes] if not _whole(f, n)}
    pictures = _decoded((root / name for names in missing.values() for name in names), models[0][1]["image_size"], part)
    with tqdm(
        total=sum(map(len, missing.values())), desc="answers", unit="img", delay=2, disable=not state.is_main_process
    ) as bar:
        for file, names in missing.items():
            table = predict.answers(models, list(islice(pictures, len(names))), 2 * cfg.batch_size, kind)
            _write(table.assign(path=_shown(names))[COLUMNS], file)
            bar.update(len(names))
    if state.is_main_process:
        for file, names in parts.items():
            while not _whole(file, names):  # no barrier, which would time out where another's share takes long
                time.sleep(0.2)
        _merge(list(parts), out)
    while not out.is_file():
        time.sleep(0.2)
    return out


def _key(cfg: Config, root: Path, paths: Sequence[str], part: int, kind: str) -> str:
    """A hash of all that the answers follow from."""
    folders = predict.folders(cfg.root)
    held = [images.VERSION, part, kind, [(model.digest(f), (f / "config.json").read_text()) for f in folders]]
    out = hashlib.sha256(json.dumps([*held, str(root.resolve())]).encode())
    for path in paths:
        out.update(json.dumps([path, *images.stamp(root / path)]).encode())
    return out.hexdigest()[:12]


def _decoded(paths: Iterable[Path], size: int, ahead: int) -> Iterator[tuple[Any, str]]:
    """What `inputs.read` makes of each file, in order; up to `ahead` files are decoded while the model is at work."""
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    waiting: deque[Future[tuple[Any, str]]] = deque()
    with ThreadPoolExecutor(max(1, cores)) as pool:
        for path in paths:
            waiting.append(pool.submit(inputs.read, path, size))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _shown(names: Sequence[str]) -> list[str]:
    """File names as text that any program reads, whatever their encoding was."""
    return [name.encode(errors="backslashreplace").decode() for name in names]


def _whole(file: Path, names: Sequence[str]) -> bool:
    try:
        return list(pd.read_csv(file, dtype=str, keep_default_na=False)["path"]) == _shown(names)
    except (OSError, ValueError, KeyError):
        return False


def _write(table: pd.DataFrame, file: Path) -> None:
    aside = _aside(file)
    with artifact.told(file, aside):
        file.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(aside, index=False, float_format="%.6f")
        aside.replace(file)


def _aside(file: Path) -> Path:
    """A name of this process alone: one of a run that was cut off may still be at work."""
    return file.with_name(f"{file.name}.{os.getpid()}.tmp")


def _merge(parts: Sequence[Path], out: Path) -> None:
    """One table of all parts, copied through without being held; what killed processes left beside them goes."""
    aside = _aside(out)
    with artifact.told(out, aside), aside.open("wb") as merged:
        for i, part in enumerate(parts):
            with part.open("rb") as lines:
                header = lines.readline()
                merged.writelines([header] if i == 0 else [])
                merged.writelines(lines)
    aside.replace(out)
    for left in out.parent.glob("*.tmp"):
        left.unlink(missing_ok=True)
