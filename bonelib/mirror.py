"""A second copy of the run folder, on a mounted Drive say, that is whole at every moment."""

from __future__ import annotations

import filecmp
import math
import shutil
import stat
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from bonelib import fetch

EVERY = 120  # seconds between copies while training: what they replace on Drive fills its trash, and counts


class Mirror:
    """Copies what has changed in `here` to `there` in the background; a checkpoint is copied as one, or not at all.

    A copy that fails (Drive vanished, no space left) is told and tried again at the next `push`: training goes on. The
    folder above `there` must exist: where Drive is lost, a local folder of its name would only look like a copy.
    """

    def __init__(self, here: Path, there: Path | None) -> None:
        self.here, self.there = here, there
        self.pool = ThreadPoolExecutor(1)
        self.running: Future[int] | None = None
        self.pushed = -math.inf

    def pull(self, checkpoints: bool = True) -> bool:
        """Bring back what is missing here, on a fresh machine everything; what is here is never replaced."""
        try:
            if self.there is None or not stat.S_ISDIR(
                self.there.stat().st_mode
            ):  # is_dir() may call a lost Drive no folder
                return False
        except FileNotFoundError:
            return False
        return _copy(self.there, self.here, False, checkpoints) > 0

    def push(self, now: bool = True) -> None:
        """Begin to copy; if not `now`, then only some time after the last copy. `wait` before the checkpoints are changed."""
        if self.there is not None and (now or time.monotonic() - self.pushed > EVERY):
            self.wait()
            self.pushed = time.monotonic()
            self.running = self.pool.submit(_copy, self.here, self.there, True)

    def wait(self) -> bool:
        """Until the last push has ended; False, and told, if it failed."""
        running, self.running = self.running, None
        try:
            return running is None or running.result() >= 0
        except OSError as error:
            print(f"{self.there} could not be written ({error}): going on here; the next copy tries again")
            return False


def _copy(source: Path, target: Path, replace: bool, checkpoints: bool = True) -> int:
    """How many files and checkpoints were copied. The newest checkpoint comes last: a cut before leaves the older one."""
    names = [Path(name) for name, *_ in fetch.listing(source) if ".incoming" not in name]
    whole = [n.parent for n in names if n.name == "state.json" and n.parent.parent.name == "checkpoints"]
    single = [n for n in names if "checkpoints" not in n.parts]
    target.mkdir(parents=not replace, exist_ok=True)
    copied = 0
    for name in [*single, *sorted(whole if checkpoints else [], key=lambda n: n.name == "last")]:
        a, b = source / name, target / name
        if _same(a, b) if replace else b.exists() or (name in whole and (b.parent / "last").exists()):
            continue
        b.parent.mkdir(parents=True, exist_ok=True)
        incoming = b.with_name(b.name + ".incoming")
        shutil.rmtree(incoming, ignore_errors=True)
        if name in whole and name.name == "previous" and _same(a, b.parent / "last"):
            incoming = b.parent / "last"  # it has become the previous one there, too
        elif a.is_dir():
            shutil.copytree(a, incoming)
        else:
            shutil.copy2(a, incoming)
        if a.is_dir():
            shutil.rmtree(b, ignore_errors=True)
        incoming.replace(b)
        copied += 1
    return copied


def _same(source: Path, target: Path) -> bool:
    """Whether a file, or the state.json (with its hashes) that stands for a checkpoint, is already there."""
    a, b = (p / "state.json" if source.is_dir() else p for p in (source, target))
    return b.is_file() and filecmp.cmp(a, b, shallow=False)  # a mounted Drive does not keep times
