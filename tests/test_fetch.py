"""A zip or a far folder arrives whole or not at all, goes on after a cut, and nothing in it can do harm."""

from __future__ import annotations

import errno
import os
import stat
import zipfile
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import pytest

from bonelib import fetch

FILES = {f"Normal/{i}.png": bytes([i]) * 3000 for i in range(5)} | {"metadata.csv": b"id,age\n1,50\n"}


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for name, data in FILES.items():
            file.writestr(name, data)
        file.writestr("__MACOSX/Normal/._0.png", b"of no use")
    return tmp_path / "set.zip"


@pytest.fixture
def far(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        path = tmp_path / "far" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "far" / "notes.gdoc").write_bytes(b"cannot be read on a mounted Drive")
    return tmp_path / "far"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_zip_is_unpacked_once_and_anew_when_it_changes(packed, tmp_path, monkeypatch):
    folder = fetch.unpack(packed, tmp_path / "cache")
    assert contents(folder) == FILES
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZipFile", None)
        assert fetch.unpack(packed, tmp_path / "cache") == folder
    os.utime(packed, (1, 1))
    assert fetch.unpack(packed, tmp_path / "cache") != folder


def test_folder_is_copied_once_and_anew_when_a_file_changes(far, tmp_path, monkeypatch):
    folder = fetch.copy(far, tmp_path / "cache")
    assert contents(folder) == FILES
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "FileIO", None)
        assert fetch.copy(far, tmp_path / "cache") == folder
    (far / "Normal" / "1.png").write_bytes(b"changed")
    assert contents(fetch.copy(far, tmp_path / "cache"))["Normal/1.png"] == b"changed"


def test_two_at_once_share_the_work(packed, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: fetch.unpack(packed, tmp_path / "cache"), range(2))
    assert first == second and contents(first) == FILES


def test_cut_unpacking_goes_on_with_what_is_whole(packed, tmp_path, monkeypatch):
    taken = cut(monkeypatch, zipfile.ZipFile, "open", after=3)
    with pytest.raises(KeyboardInterrupt):
        fetch.unpack(packed, tmp_path / "cache")
    [torn] = (tmp_path / "cache" / "fetched").glob("*.part")
    (torn / "Normal" / "1.png").write_bytes(bytes(3000))  # of the right length, of the wrong content
    monkeypatch.undo()
    taken = cut(monkeypatch, zipfile.ZipFile, "open", after=99)
    assert contents(fetch.unpack(packed, tmp_path / "cache")) == FILES
    assert [info.filename for info in taken] == ["Normal/1.png", "Normal/3.png", "Normal/4.png", "metadata.csv"]


def test_drive_that_vanishes_in_a_copy_is_told_and_the_copy_goes_on_later(far, tmp_path, monkeypatch):
    lost = OSError(errno.ENOTCONN, "Transport endpoint is not connected")
    taken = cut(monkeypatch, fetch, "FileIO", after=2, error=lost)
    with pytest.raises(fetch.FetchError, match=r"Transport endpoint .* run the settings cell again"):
        fetch.copy(far, tmp_path / "cache")
    monkeypatch.undo()
    taken = cut(monkeypatch, fetch, "FileIO", after=99)
    assert contents(fetch.copy(far, tmp_path / "cache")) == FILES
    assert len(taken) == len(FILES) - 2


def test_folder_that_cannot_be_listed_is_no_smaller_data_set(far, tmp_path, monkeypatch):
    real = os.scandir

    def lost(path):
        if str(path).endswith("Normal"):
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        return real(path)

    monkeypatch.setattr(os, "scandir", lost)
    with pytest.raises(fetch.FetchError, match="not connected"):
        fetch.copy(far, tmp_path / "cache")


def test_file_of_which_only_a_part_arrives_is_no_file(far, tmp_path, monkeypatch):
    class Short(FileIO):
        def read(self, size=-1):
            return super().read(1000) if self.tell() == 0 else b""

    monkeypatch.setattr(fetch, "FileIO", Short)
    with pytest.raises(fetch.FetchError, match="1000 bytes arrived, expected 3000"):
        fetch.copy(far, tmp_path / "cache")


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/tmp/evil.png", "C:\\evil.png", "..\\evil.png"])
def test_zip_that_leads_out_of_its_folder_is_refused(name, tmp_path):
    bad(tmp_path, zipfile.ZipInfo(name))
    with pytest.raises(fetch.FetchError, match="leads out of its folder"):
        fetch.unpack(tmp_path / "bad.zip", tmp_path / "deep" / "cache")
    assert not list(tmp_path.rglob("evil.png"))


def test_link_in_a_zip_is_refused(tmp_path):
    link = zipfile.ZipInfo("Normal")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    bad(tmp_path, link, b"/etc")
    with pytest.raises(fetch.FetchError, match="is a link"):
        fetch.unpack(tmp_path / "bad.zip", tmp_path / "cache")


def test_bomb_is_refused_unopened(tmp_path):
    bad(tmp_path, zipfile.ZipInfo("big.png"), bytes(20_000_000))
    with pytest.raises(fetch.FetchError, match=r"claims 1 files of 0\.0 GB in .* 100 times"):
        fetch.unpack(tmp_path / "bad.zip", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_more_files_than_any_set_has_are_refused(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_FILES", 3)
    with pytest.raises(fetch.FetchError, match="at most 3 files"):
        fetch.unpack(packed, tmp_path / "cache")


def test_what_the_disk_cannot_hold_is_not_begun(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "SPARE", 2**60)
    with pytest.raises(fetch.FetchError, match="GB are needed"):
        fetch.unpack(packed, tmp_path / "cache")


def test_damaged_or_no_zip_is_told(packed, tmp_path):
    data = bytearray(packed.read_bytes())
    data[100] ^= 255  # in the first picture
    packed.write_bytes(data)
    (tmp_path / "text.zip").write_text("no zip")
    for path in (packed, tmp_path / "text.zip"):
        with pytest.raises(fetch.FetchError, match="make or upload it again"):
            fetch.unpack(path, tmp_path / "cache")


def test_names_with_backslashes_become_folders(tmp_path):
    bad(tmp_path, zipfile.ZipInfo("Normal\\1.png"), b"1")
    assert contents(fetch.unpack(tmp_path / "bad.zip", tmp_path / "cache")) == {"Normal/1.png": b"1"}


def bad(folder: Path, info: zipfile.ZipInfo, data: bytes = b"") -> None:
    info.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(folder / "bad.zip", "w") as file:
        file.writestr(info, data)


def cut(monkeypatch, owner, name, after: int, error: BaseException | None = None) -> list:
    """Let `owner.name` be called `after` times, then fail; what it was called with is listed."""
    monkeypatch.setattr(fetch, "THREADS", 1)
    real, taken = getattr(owner, name), []

    def counted(*args, **kwargs):
        if len(taken) == after:
            raise error or KeyboardInterrupt
        taken.append(args[-1])
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return taken
