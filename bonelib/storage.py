"""Files and folders that are written completely or not at all, hashes, and a parallel map."""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safetensors import SafetensorError
from tqdm.auto import tqdm

from bonelib.messages import RunError

# How the names of files begin that are no data.
HIDDEN = (".", "__MACOSX")
# Progress where the output is no terminal: how often, and what.
LINE_SECONDS = 20
LINE_FORMAT = "{desc}: {n_fmt} of {total_fmt}, {elapsed} so far, {remaining} left\n"


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
    with _write_errors(path, temporary):
        shutil.rmtree(temporary, ignore_errors=True)
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
        of_writing = isinstance(error, OSError | RuntimeError | SafetensorError)
        if isinstance(error, RunError) or not of_writing:
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise RunError(
            f"{path} could not be written ({reason}); its earlier content is "
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


def progress(items: Iterable, name: str, total: int | None = None, disable: bool = False) -> tqdm:
    """`items` with a progress bar; where the output is no terminal, a line every 20 seconds."""
    options: dict = {"delay": 2}
    if "ipykernel" not in sys.modules and not sys.stderr.isatty():
        options = {"delay": LINE_SECONDS, "mininterval": LINE_SECONDS, "bar_format": LINE_FORMAT}
    return tqdm(items, name, total, leave=False, disable=disable, **options)


def parallel_map(function: Callable, items: Sequence, name="items", threads=0) -> list:
    """`function` of every item in order, on all cores: OpenCV, Pillow and NumPy release the GIL.

    name: of a progress bar.
    """
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        return list(progress(pool.map(function, items), name, len(items)))


def find_files(folder: Path, hidden: tuple = HIDDEN, above: tuple = ()) -> Iterator[Path]:
    """Every file below `folder`, in links to folders, too, unless a link leads back `above` it.

    An OSError is raised, never a shorter list: a Drive that vanishes must not look like less data.
    hidden: how the names of files and folders begin that are left out.
    """
    above = (*above, folder.resolve())
    shown = [entry for entry in os.scandir(folder) if not entry.name.startswith(hidden)]
    for entry in sorted(shown, key=lambda entry: entry.name):
        path = folder / entry.name
        # a broken link is a file that cannot be read
        if (entry.is_symlink() and not path.exists()) or not entry.is_dir():
            yield path
        elif not any(folder.is_relative_to(path.resolve()) for folder in above):
            yield from find_files(path, hidden, above)


def list_files(folder: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of change (ns) of every file of `find_files`, sorted."""
    files = [(path.relative_to(folder).as_posix(), path.stat()) for path in find_files(folder, ())]
    return sorted((name, info.st_size, info.st_mtime_ns) for name, info in files)
