"""Files and folders that are written completely or not at all, hashes, and a parallel map."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from tqdm.auto import tqdm

from bonelib.messages import RunError

Item = TypeVar("Item")
Result = TypeVar("Result")

WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which replaces `path` at the end.

    On an error, a full disk for example, `path` is unchanged and a RunError says what to do.
    """
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")
    with _write_errors(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to write files to, which replaces the folder `path` at the end.

    A kill in between leaves `path` or nothing. Checkpoints are checked by hash besides, so that a
    loss of power is noticed, too.
    """
    temporary = path.with_name(f"{path.name}.incoming")
    shutil.rmtree(temporary, ignore_errors=True)
    with _write_errors(path, temporary):
        temporary.mkdir(parents=True)
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)


@contextlib.contextmanager
def _write_errors(path: Path, temporary: Path) -> Iterator[None]:
    """Errors of writing become one RunError about `path`, and `temporary` is removed."""
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)
        # torch and safetensors report a full disk as errors of their own
        if isinstance(error, RunError) or not isinstance(error, WRITE_ERRORS):
            raise
        raise RunError(
            f"{path} could not be written ({str(error).splitlines()[0]}); its earlier content is "
            "unchanged. Make room, or name another run folder (BONELIB_RUN=path), and run again"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, completely or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value) -> None:
    write_text(path, json.dumps(value, indent=2))


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def write_csv(path: Path, table, **options) -> None:
    """Write a DataFrame without its index, completely or not at all."""
    with atomic_file(path) as temporary:
        table.to_csv(temporary, index=False, **options)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_digest(text: str, length: int = 16) -> str:
    """The first digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of change (ns), by which a changed file is recognised; -1, -1 if absent."""
    try:
        info = path.stat()
    except (OSError, ValueError):
        return (-1, -1)
    return (info.st_size, info.st_mtime_ns)


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], progress: str = "", threads: int = 0
) -> list[Result]:
    """`function` of every item in order, on all cores: OpenCV, Pillow and NumPy release the GIL.

    progress: the name of a progress bar, shown after two seconds.
    """
    count = threads or os.cpu_count() or 1
    # small items go to the threads in blocks, which costs less than one by one
    size = max(1, min(64, len(items) // (8 * count)))

    def block(start: int) -> list[Result]:
        return [function(item) for item in items[start : start + size]]

    with ThreadPoolExecutor(count) as pool:
        blocks = pool.map(block, range(0, len(items), size))
        shown = tqdm(blocks, progress, -(-len(items) // size), disable=not progress, delay=2)
        return [result for results in shown for result in results]


def list_files(folder: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of change (ns) of every file below `folder`, sorted.

    An OSError is raised, never a shorter list: a Drive that vanishes must not look like less data.
    """

    def fail(error: OSError) -> None:
        raise error

    found = []
    for parent, _, names in os.walk(folder, onerror=fail):
        for path in (Path(parent, name) for name in names):
            info = path.stat()
            found.append((path.relative_to(folder).as_posix(), info.st_size, info.st_mtime_ns))
    return sorted(found)
