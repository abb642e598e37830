"""A second copy of a run folder, on Drive for example, that is consistent at every moment."""

from __future__ import annotations

import filecmp
import math
import shutil
import stat
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from bonelib.storage import list_files

# Seconds between copies while training: what they replace on Drive fills its trash, and counts.
COPY_INTERVAL = 120


class RunCopy:
    """Copies what has changed in `here` to `there` in the background, checkpoints as units.

    A copy that fails (Drive vanished, no space left) is reported and tried again at the next
    `push`: training continues. The folder above `there` must exist: where Drive is lost, a local
    folder of the same name would only look like a copy.
    """

    def __init__(self, here: Path, there: Path | None) -> None:
        self.here, self.there = here, there
        self.pool = ThreadPoolExecutor(1)
        self.running: Future[int] | None = None
        self.last_push = -math.inf

    def pull(self, checkpoints: bool = True) -> bool:
        """Copy back what is missing here; True if something was. Nothing here is replaced."""
        if self.there is None:
            return False
        try:
            # is_dir() would report a lost Drive as "no folder"
            if not stat.S_ISDIR(self.there.stat().st_mode):
                return False
        except FileNotFoundError:
            return False
        return _copy_missing(self.there, self.here, checkpoints) > 0

    def push(self, now: bool = True) -> None:
        """Start to copy; if not `now`, only some time after the last copy."""
        if self.there is not None and (now or time.monotonic() - self.last_push > COPY_INTERVAL):
            self.wait()
            self.last_push = time.monotonic()
            self.running = self.pool.submit(_copy_changed, self.here, self.there)

    def wait(self) -> bool:
        """Wait until the last push has ended; False, with a message, if it failed.

        Call it before the checkpoints change.
        """
        running, self.running = self.running, None
        try:
            return running is None or running.result() >= 0
        except OSError as error:
            print(f"{self.there} could not be written ({error}); the next copy tries again")
            return False


def _copy_missing(source: Path, target: Path, checkpoints: bool) -> int:
    """How many files and checkpoints were copied; none if the target has a checkpoint already."""
    target.mkdir(parents=True, exist_ok=True)
    copied = 0
    for name in _units(source, checkpoints):
        is_checkpoint = (source / name).is_dir()
        if (target / name).exists() or (is_checkpoint and (target / name.parent / "last").exists()):
            continue
        _copy_unit(source / name, target / name)
        copied += 1
    return copied


def _copy_changed(source: Path, target: Path) -> int:
    """How many files and checkpoints were copied, `target` made a copy of `source`."""
    target.mkdir(exist_ok=True)
    copied = 0
    for name in _units(source, checkpoints=True):
        if _is_same(source / name, target / name):
            continue
        last = target / name.parent / "last"
        if name.name == "previous" and _is_same(source / name, last):
            # the last checkpoint there has become the previous one
            shutil.rmtree(target / name, ignore_errors=True)
            last.replace(target / name)
        else:
            _copy_unit(source / name, target / name)
        copied += 1
    return copied


def _units(source: Path, checkpoints: bool) -> list[Path]:
    """What is copied as one: files, then checkpoint folders, the newest last."""
    names = [Path(name) for name, *_ in list_files(source) if ".incoming" not in name]
    folders = [
        name.parent
        for name in names
        if name.name == "state.json" and name.parent.parent.name == "checkpoints"
    ]
    files = [name for name in names if "checkpoints" not in name.parts]
    return files + (sorted(folders, key=lambda name: name.name == "last") if checkpoints else [])


def _copy_unit(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    incoming = target.with_name(target.name + ".incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, incoming)
        shutil.rmtree(target, ignore_errors=True)
    else:
        shutil.copy2(source, incoming)
    incoming.replace(target)


def _is_same(source: Path, target: Path) -> bool:
    """Whether a file, or the state.json (with its hashes) of a checkpoint, is already there."""
    a, b = (path / "state.json" if source.is_dir() else path for path in (source, target))
    # a mounted Drive does not keep times, so contents are compared
    return b.is_file() and filecmp.cmp(a, b, shallow=False)
