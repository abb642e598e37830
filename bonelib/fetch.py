"""Images that lie far away or in a zip, brought once to a folder on the local disk."""

from __future__ import annotations

import fcntl
import hashlib
import json
import lzma
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from io import FileIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, NamedTuple

from tqdm.auto import tqdm

MAX_FILES = 500_000
MAX_RATIO = 100  # bytes unpacked for one packed; radiographs stay below 20
SPARE = 2**30  # bytes of the disk that stay free
THREADS = 8  # files at once: on Drive each one takes its time to come, whatever its length
DOCUMENTS = {".gdoc", ".gsheet", ".gslides", ".gform", ".gdraw"}  # stand on a mounted Drive and cannot be read


class FetchError(ValueError):
    """Images that cannot be brought here, or not now; the message says which, and what to do."""


class Part(NamedTuple):
    """A file to bring: its path below the folder, its length, its CRC where that is known, and how it is opened."""

    name: str
    size: int
    crc: int | None
    open: Callable[[], IO[bytes]]


def unpack(source: Path, cache: Path) -> Path:
    """The folder below `cache` with the files of a zip, each of the length and CRC that the zip states.

    Cut off, it keeps what is there and goes on at the next call. FetchError if the zip is damaged, or no zip to be trusted.
    """
    with told(source):
        info = source.stat()
        folder = _folder(cache, source, [info.st_size, info.st_mtime_ns])
        if not folder.is_dir():
            with zipfile.ZipFile(source) as packed:
                members = _members(packed, info.st_size)
                _bring(folder, [Part(n, i.file_size, i.CRC, partial(packed.open, i)) for n, i in members.items()])
    return folder


def copy(source: Path, cache: Path) -> Path:
    """The folder below `cache` with a copy of the folder `source`, each file of its full length; goes on after a cut."""
    with told(source):
        files = [f for f in listing(source) if PurePosixPath(f[0]).suffix not in DOCUMENTS]
        folder = _folder(cache, source, files)
        if not folder.is_dir():
            _bring(folder, [Part(name, size, None, partial(FileIO, source / name)) for name, size, _ in files])
    return folder


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """Path, length and time of change (ns) of every file below `folder`. An OSError is raised, never a shorter list.

    `Path.rglob` would pass over what it cannot read: a Drive that vanishes would look like a smaller data set.
    """

    def fail(error: OSError) -> None:
        raise error

    found = []
    for here, _, names in os.walk(folder, onerror=fail):
        for path in (Path(here, name) for name in names):
            info = path.stat()
            found.append((path.relative_to(folder).as_posix(), info.st_size, info.st_mtime_ns))
    return sorted(found)


@contextmanager
def told(source: Path) -> Iterator[None]:
    """What goes wrong in reading `source`, as a FetchError that says what to do."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
        raise FetchError(f"{source} is no zip, or a damaged one ({error}): make or upload it again") from error
    except OSError as error:
        raise FetchError(
            f"{source} could not be read to its end ({error}). What has arrived is kept. Check that it exists; if it lies on "
            "Drive, the connection may be lost: run the settings cell again, which connects anew and goes on"
        ) from error


def _members(packed: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The files of a zip of `size` bytes by the path they get; FetchError if they are not what a set of images can be."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in packed.infolist():
        path = PureWindowsPath(info.filename)  # takes both kinds of slash, and sees drive letters
        if info.filename.endswith(("/", "\\")) or path.parts[:1] == ("__MACOSX",):
            continue
        if path.anchor or ".." in path.parts:
            raise FetchError(f"{packed.filename}: {info.filename!r} leads out of its folder; do not use this file")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise FetchError(
                f"{packed.filename}: {info.filename!r} is a link or device, expected plain files; pack it anew"
            )
        if info.flag_bits & 1:
            raise FetchError(f"{packed.filename} is encrypted: unpack it by hand and give the folder")
        if path.as_posix() in found:
            raise FetchError(f"{packed.filename} holds {info.filename!r} twice; pack it anew")
        found[path.as_posix()] = info
    total = sum(i.file_size for i in found.values())
    if len(found) > MAX_FILES or total > MAX_RATIO * size:
        raise FetchError(
            f"{packed.filename} claims {len(found):,} files of {total / 1e9:.1f} GB in {size / 1e9:.3f} GB: at most "
            f"{MAX_FILES:,} files and {MAX_RATIO} times the packed length are believed. Unpack it by hand if you trust it"
        )
    return dict(sorted(found.items(), key=lambda f: f[1].header_offset))


def _folder(cache: Path, source: Path, facts: Sequence[Any]) -> Path:
    """Where the files of `source`, as they are now, belong."""
    key = hashlib.sha256(json.dumps([str(source.resolve()), facts]).encode()).hexdigest()[:12]
    return cache / "fetched" / f"{source.stem}-{key}"


def _bring(folder: Path, parts: Sequence[Part]) -> None:
    """Make `folder` of `parts`: under another name until all are there; another process waits, and finds it made."""
    torn = folder.with_name(folder.name + ".part")
    torn.mkdir(parents=True, exist_ok=True)
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return
        missing = [p for p in parts if not _is_whole(torn / p.name, p)]
        need, free = sum(p.size for p in missing) + SPARE, shutil.disk_usage(torn).free
        if need > free:
            raise FetchError(
                f"{torn.parent}: {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB free; set BONELIB_CACHE"
            )
        with (
            tqdm(total=need - SPARE, desc=f"fetch {folder.name}", unit="B", unit_scale=True) as bar,
            ThreadPoolExecutor(THREADS) as pool,
        ):
            for size in pool.map(partial(_write, torn), missing):
                bar.update(size)
        torn.replace(folder)


def _write(folder: Path, part: Part) -> int:
    target = folder / part.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with part.open() as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 2**20)
    if not _is_whole(target, part):
        raise OSError(f"of {part.name} {target.stat().st_size} bytes arrived, expected {part.size}")
    return part.size


def _is_whole(path: Path, part: Part) -> bool:
    if not path.is_file() or path.stat().st_size != part.size:
        return False
    return part.crc is None or zlib.crc32(path.read_bytes()) == part.crc
