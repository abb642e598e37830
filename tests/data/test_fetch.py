"""A zip or a slow folder arrives completely or not at all, resumes, and cannot do harm."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import types
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bonelib.data import fetch
from bonelib.messages import DataError

FILES = {f"Normal/{i}.png": bytes([i]) * 3000 for i in range(5)}
FILES["metadata.csv"] = b"id,age\n1,50\n"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
        archive.mkdir("empty")
    return tmp_path / "set.zip"


@pytest.fixture
def far(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "far" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "far" / "notes.gdoc").write_bytes(b"cannot be read on a mounted Drive")
    return tmp_path / "far"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "cache"


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def zip_of(folder: Path, member: str | zipfile.ZipInfo, content: bytes = b"") -> Path:
    with zipfile.ZipFile(folder / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    return folder / "bad.zip"


def count_copies(
    monkeypatch: pytest.MonkeyPatch, fail_after: int = 99, error: BaseException | None = None
) -> list[str]:
    """The names of the files that are copied from now on; after some, copying fails."""
    real, copied = shutil.copyfile, []

    def copyfile(source: Path, target: Path) -> None:
        if len(copied) == fail_after:
            raise error or KeyboardInterrupt
        copied.append(source.name)
        real(source, target)

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    monkeypatch.setattr(fetch, "COPY_THREADS", 1)
    return copied


@pytest.mark.parametrize(
    ("name", "function"), [("packed", fetch.unpack), ("far", fetch.copy_folder)]
)
def test_source_is_brought_once_and_again_when_it_changes(name, function, cache, request):
    source: Path = request.getfixturevalue(name)
    folder = function(source, cache)
    assert contents(folder) == FILES and folder.is_relative_to(cache)
    made = folder.stat().st_mtime_ns, folder.stat().st_ino
    assert function(source, cache) == folder
    assert (folder.stat().st_mtime_ns, folder.stat().st_ino) == made
    os.utime(source if source.is_file() else source / "metadata.csv", (1, 1))
    assert contents(function(source, cache)) == FILES
    assert function(source, cache) != folder


@pytest.mark.parametrize(
    ("name", "function"), [("packed", fetch.unpack), ("far", fetch.copy_folder)]
)
def test_many_at_once_get_the_same_complete_folder(name, function, cache, request):
    source: Path = request.getfixturevalue(name)

    def arrived(_: int) -> tuple[Path, dict[str, bytes]]:
        folder = function(source, cache)
        return folder, contents(folder)

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(arrived, range(6)))
    assert all(result == (results[0][0], FILES) for result in results)
    left = [path for path in results[0][0].parent.iterdir() if path != results[0][0]]
    assert not [path for path in left if contents(path)]


def test_interrupted_copy_resumes_with_the_files_that_are_missing(far, cache, monkeypatch):
    with monkeypatch.context() as patch:
        count_copies(patch, fail_after=3)
        with pytest.raises(KeyboardInterrupt):
            fetch.copy_folder(far, cache)
    copied = count_copies(monkeypatch)
    folder = fetch.copy_folder(far, cache)
    assert contents(folder) == FILES and len(copied) == len(FILES) - 3
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_drive_that_vanishes_is_an_error_and_the_copy_resumes_later(far, cache, monkeypatch):
    with monkeypatch.context() as patch:
        lost = OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        count_copies(patch, fail_after=2, error=lost)
        with pytest.raises(DataError, match=r"far .*Transport endpoint"):
            fetch.copy_folder(far, cache)
    copied = count_copies(monkeypatch)
    assert contents(fetch.copy_folder(far, cache)) == FILES
    assert len(copied) == len(FILES) - 2


def test_folder_that_cannot_be_listed_is_no_smaller_data_set(far, cache, monkeypatch):
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("Normal"):
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="not connected"):
        fetch.copy_folder(far, cache)


def test_file_that_arrives_in_part_is_no_file(far, cache, monkeypatch):
    def copyfile(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:1000])

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    with pytest.raises(DataError, match="1000 of 3000 bytes"):
        fetch.copy_folder(far, cache)
    monkeypatch.undo()
    assert contents(fetch.copy_folder(far, cache)) == FILES


@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/tmp/evil.png", "C:\\evil.png", "..\\..\\evil.png"]
)
def test_member_of_a_zip_cannot_leave_its_folder(name, tmp_path, cache):
    folder = fetch.unpack(zip_of(tmp_path, zipfile.ZipInfo(name), b"evil"), cache)
    (path,) = tmp_path.rglob("evil.png")
    assert path.is_relative_to(folder) and not Path("/tmp/evil.png").exists()


def test_link_in_a_zip_is_not_followed(tmp_path, cache):
    link = zipfile.ZipInfo("Normal")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    folder = fetch.unpack(zip_of(tmp_path, link, b"/etc"), cache)
    assert not (folder / "Normal").is_symlink() and (folder / "Normal").read_bytes() == b"/etc"


def test_names_with_backslashes_become_folders(tmp_path, cache):
    folder = fetch.unpack(zip_of(tmp_path, zipfile.ZipInfo("Normal\\1.png"), b"1"), cache)
    assert contents(folder) == {"Normal/1.png": b"1"}


def change_first_image(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 255
    path.write_bytes(content)


def encrypt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # Flag bit 0 in the central directory.
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def break_a_name(path: Path) -> None:
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    # The flag of names in UTF-8, and a byte that is none.
    content[entry + 9] |= 8
    content[entry + 46] = 255
    path.write_bytes(content)


def repeat_a_name(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../Normal/1.png", b"another image")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_first_image, "CRC"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "set.zip"),
        (lambda path: path.write_text("no zip"), "not a zip"),
        (lambda path: path.unlink(), "No such file"),
        (encrypt, "encrypted"),
        (break_a_name, "utf-8"),
        (repeat_a_name, "same name"),
    ],
)
def test_unusable_zip_is_an_error_and_leaves_nothing(
    change: Callable[[Path], object], named, packed, cache
):
    change(packed)
    with pytest.raises(DataError, match=named) as error:
        fetch.unpack(packed, cache)
    assert str(packed) in str(error.value)
    assert contents(cache) == {}


def test_zip_bomb_is_rejected_before_it_is_unpacked(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(zipfile.ZipFile, "extract", None)
    path = zip_of(tmp_path, "big.png", bytes(20_000_000))
    with pytest.raises(DataError, match=r"bad\.zip claims 1 files"):
        fetch.unpack(path, cache)


def test_too_many_files_are_rejected(packed, cache, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_FILES", 3)
    with pytest.raises(DataError, match=r"set\.zip claims 7 files"):
        fetch.unpack(packed, cache)


@pytest.mark.parametrize(
    ("name", "function"), [("packed", fetch.unpack), ("far", fetch.copy_folder)]
)
def test_too_little_room_is_an_error_before_anything_is_written(
    name, function, cache, monkeypatch, request
):
    monkeypatch.setattr(fetch, "SPARE_BYTES", 2**60)
    with pytest.raises(DataError, match="BONELIB_CACHE"):
        function(request.getfixturevalue(name), cache)
    assert contents(cache) == {}


def test_kaggle_set_that_cannot_be_downloaded_is_an_error_with_the_reason(monkeypatch):
    def refuse(slug: str) -> str:
        raise ConnectionError("no route")

    kaggle = types.SimpleNamespace(dataset_download=refuse)
    monkeypatch.setitem(sys.modules, "kagglehub", kaggle)
    with pytest.raises(DataError, match=r"'someone/some-set'.*ConnectionError: no route"):
        fetch.from_kaggle("someone/some-set")
