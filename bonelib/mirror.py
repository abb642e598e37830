"""A second copy of the run folder, on a mounted Drive say, that is whole at every moment."""

from __future__ import annotations

import filecmp
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path


class Mirror:
    """Copies what has changed in `here` to `there` in the background; a checkpoint is copied as one, or not at all.

    A copy that fails (Drive vanished, no space left) is told and tried again at the next `push`: training goes on.
    """

    def __init__(self, here: Path, there: Path | None) -> None:
        self.here, self.there = here, there
        self.pool = ThreadPoolExecutor(1)
        self.running: Future[None] | None = None

    def pull(self) -> bool:
        """Bring the run folder back on a fresh machine: only if nothing of a training is here yet."""
        if self.there is None or not self.there.is_dir() or (self.here / "checkpoints").exists():
            return False
        shutil.copytree(self.there, self.here, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.incoming"))
        return True

    def push(self) -> None:
        """Begin to copy. `wait` before the checkpoints are changed again."""
        if self.there is not None:
            self.wait()
            self.running = self.pool.submit(_copy, self.here, self.there)

    def wait(self) -> None:
        """Until the last push has ended."""
        running, self.running = self.running, None
        if running is not None:
            try:
                running.result()
            except OSError as error:
                print(
                    f"{self.there} could not be written ({error}): going on here, to be tried again after the next epoch"
                )


def _copy(here: Path, there: Path) -> None:
    there.mkdir(parents=True, exist_ok=True)
    whole = [p for p in here.glob("checkpoints/*") if (p / "state.json").is_file()]
    single = [p for p in here.rglob("*") if p.is_file() and "checkpoints" not in p.relative_to(here).parts]
    for source in [*whole, *single]:
        target = there / source.relative_to(here)
        if not _same(source, target):
            target.parent.mkdir(parents=True, exist_ok=True)
            incoming = target.with_name(target.name + ".incoming")
            shutil.rmtree(incoming, ignore_errors=True)
            if source.is_dir():
                shutil.copytree(source, incoming)
                shutil.rmtree(target, ignore_errors=True)
            else:
                shutil.copy2(source, incoming)
            incoming.replace(target)


def _same(source: Path, target: Path) -> bool:
    """Whether a file, or the state.json (with its hashes) that stands for a checkpoint, is already there."""
    a, b = (p / "state.json" if source.is_dir() else p for p in (source, target))
    return b.is_file() and filecmp.cmp(a, b, shallow=False)  # a mounted Drive does not keep times
