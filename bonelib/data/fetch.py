"""Images from a zip, a slow folder such as a mounted Drive, or Kaggle, on the local disk."""

import lzma
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bonelib import storage
from bonelib.messages import DataError

MAX_FILES = 500_000
# Bytes unpacked for one byte packed; radiographs stay below 20.
MAX_RATIO = 100
# Bytes of the disk that stay free.
SPARE_BYTES = 2**30
# A mounted Drive takes its time for each file, whatever its size.
COPY_THREADS = 8
# Appear on a mounted Drive and cannot be read.
DRIVE_DOCUMENTS = {".gdoc", ".gsheet", ".gslides", ".gform", ".gdraw"}
# An encrypted one, or one packed by an unknown method, is a RuntimeError.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


def unpack(source: Path, cache: Path) -> Path:
    """The folder in `cache` with the files of a zip, unpacked once; raises DataError."""
    with fetch_errors(source):
        folder = _folder_for(source, cache, storage.stamp(source))
        if not folder.is_dir():
            _extract(source, folder)
    return folder


def copy_folder(source: Path, cache: Path) -> Path:
    """The folder in `cache` with a copy of the folder `source`; raises DataError.

    After an interruption the next call resumes: files that have arrived are not copied again.
    """
    with fetch_errors(source):
        listed = storage.list_files(source)
        files = [file for file in listed if Path(file[0]).suffix not in DRIVE_DOCUMENTS]
        folder = _folder_for(source, cache, files)
        if not folder.is_dir():
            _copy_files(source, files, folder)
    return folder


def from_kaggle(slug: str) -> Path:
    """The folder of a Kaggle data set (owner/name), downloaded once; raises DataError."""
    import kagglehub

    try:
        return Path(kagglehub.dataset_download(slug))
    # kagglehub raises many kinds of error: no network, no such data set, licence not accepted.
    except Exception as error:
        raise DataError(
            f"Kaggle data set {slug!r} could not be downloaded ({type(error).__name__}: {error}). "
            "Check the name and the network; some need an account, whose token belongs in the "
            "variable or Colab secret KAGGLE_API_TOKEN. Or download it by hand and give its folder"
        ) from error


@contextmanager
def fetch_errors(source: Path) -> Iterator[None]:
    """Errors of reading `source` become a DataError that says what to do."""
    try:
        yield
    except (OSError, UnicodeDecodeError, *ZIP_ERRORS) as error:
        raise DataError(
            f"{source} could not be read completely ({error}). Check that it exists; upload a "
            "damaged zip again, unpack an encrypted one by hand and give the folder; if Drive was "
            "disconnected, run the settings cell again to resume"
        ) from error


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A path to make a folder at, which then becomes `folder`, unless that has been made directly.

    An OSError is ignored if another process has made `folder` meanwhile, with the same content.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        try:
            new = Path(temporary, "files")
            yield new
            if new.exists():
                new.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


def _folder_for(source: Path, cache: Path, facts) -> Path:
    """Where the files of `source` belong, as long as these facts about them do not change."""
    return cache / "fetched" / f"{source.stem}-{storage.text_digest(f'{source.resolve()} {facts}')}"


def _check_room(folder: Path, size: int) -> None:
    if shutil.disk_usage(folder).free < size + SPARE_BYTES:
        needed = f"{(size + SPARE_BYTES) / 1e9:.1f} GB"
        raise DataError(f"{folder}: {needed} are needed. Make room, or set BONELIB_CACHE=path")


def _extract(source: Path, folder: Path) -> None:
    """Make `folder` from the files of a zip, which zipfile keeps inside it and checks by CRC."""
    with zipfile.ZipFile(source) as archive, new_folder(folder) as new:
        members = archive.infolist()
        size = sum(member.file_size for member in members)
        if len(members) > MAX_FILES or size > MAX_RATIO * source.stat().st_size:
            raise DataError(
                f"{source} claims {len(members):,} files of {size / 1e9:.1f} GB; allowed are "
                f"{MAX_FILES:,} files and {MAX_RATIO} times its own size. Unpack it by hand"
            )
        _check_room(new.parent, size)
        for member in storage.progress(members, f"unpack {source.name}"):
            # Some programs on Windows write backslashes.
            member.filename = member.filename.replace("\\", "/")
            archive.extract(member, new)
        if len(storage.list_files(new)) < sum(not member.is_dir() for member in members):
            raise DataError(f"{source} has several files of the same name: pack it again")


def _copy_files(source: Path, files: list[tuple[str, int, int]], folder: Path) -> None:
    """Make `folder` from files (path, size, time) of `source`, those of an earlier attempt kept."""
    incoming = folder.with_name(f"{folder.name}.incoming")
    missing = [file for file in files if storage.stamp(incoming / file[0])[0] != file[1]]
    incoming.mkdir(parents=True, exist_ok=True)
    _check_room(incoming, sum(size for _, size, _ in missing))

    def copy(file: tuple[str, int, int]) -> None:
        path, size, _ = file
        # A file gets its name when it is complete, whatever another process does.
        arriving = new.parent / storage.text_digest(path)
        shutil.copyfile(source / path, arriving)
        if arriving.stat().st_size != size:
            raise OSError(f"{path}: {arriving.stat().st_size} of {size} bytes arrived")
        (incoming / path).parent.mkdir(parents=True, exist_ok=True)
        arriving.replace(incoming / path)

    with new_folder(folder) as new:
        storage.parallel_map(copy, missing, f"copy {source.name}", COPY_THREADS)
        # in one step: for another process, there is always one of the two
        incoming.rename(folder)
    # Left if another process was faster.
    shutil.rmtree(incoming, ignore_errors=True)
