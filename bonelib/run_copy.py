"""A second copy of a run folder, on Drive for example, that is consistent at every moment."""

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

    def __init__(self, here: Path, there: Path | None):
        self.here, self.there = here, there
        self.pool = ThreadPoolExecutor(1)
        self.running: Future[None] | None = None
        self.last_push = -math.inf

    def pull(self, checkpoints: bool = True) -> bool:
        """Copy back what is missing here; True if something was. Nothing here is replaced."""
        try:
            # is_dir() would report a lost Drive as "no folder"
            if self.there is None or not stat.S_ISDIR(self.there.stat().st_mode):
                return False
        except FileNotFoundError:
            return False
        names = _units(self.there)
        if not checkpoints or (self.here / "checkpoints" / "last").exists():
            names = [name for name in names if "checkpoints" not in name.parts]
        missing = [name for name in names if not (self.here / name).exists()]
        for name in missing:
            _copy_unit(self.there / name, self.here / name)
        return bool(missing)

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
            if running is not None:
                running.result()
        except OSError as error:
            print(f"{self.there} could not be written ({error}); the next copy tries again")
            return False
        return True


def _copy_changed(source: Path, target: Path) -> None:
    """Copy what is new or changed; what was deleted in `source` stays in `target`."""
    target.mkdir(exist_ok=True)
    for name in _units(source):
        last = target / name.parent / "last"
        if name.name == "previous" and _is_same(source / name, last):
            # the last checkpoint there has become the previous one
            shutil.rmtree(target / name, ignore_errors=True)
            last.replace(target / name)
        elif not _is_same(source / name, target / name):
            _copy_unit(source / name, target / name)


def _units(folder: Path) -> list[Path]:
    """What is copied as one: files, then checkpoint folders, the newest last."""
    names = [Path(name) for name, *_ in list_files(folder) if ".incoming" not in name]
    units = [name for name in names if "checkpoints" not in name.parts]
    checkpoints = [name.parent for name in names if name.match("checkpoints/*/state.json")]
    return units + sorted(checkpoints, key=lambda name: name.name == "last")


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
