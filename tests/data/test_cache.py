"""Images are decoded once, and a torn or outdated cache is never used."""

from __future__ import annotations

import ctypes
import hashlib
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bonelib.data import images
from bonelib.data.cache import cached_images
from bonelib.messages import RunError
from tests.builders import RAMP, dicom_file, run_apart

FACTS = {"width", "height", "format", "bytes", "sha256", "status", "patient", "coloured"}


@pytest.fixture
def folder(tmp_path):
    """Three different PNG files, and 2.png that is none."""
    for i in range(4):
        Image.fromarray(RAMP + np.uint8(i)).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"not an image")
    return tmp_path


def test_images_and_facts_come_in_the_order_of_the_paths(folder):
    paths = ["3.png", "2.png", "0.png"]
    pixels, facts = cached_images(folder, paths, 32, folder / "cache")
    assert pixels.shape == (3, 32, 32) and pixels.dtype == np.uint8
    for row in (0, 2):
        image, _ = images.decode(images.read_bytes(folder / paths[row]))
        assert np.array_equal(pixels[row], images.letterbox(image, 32))
    assert set(facts) == FACTS and list(facts["width"]) == [200, 0, 200]
    data = [(folder / path).read_bytes() for path in paths]
    assert list(facts["bytes"]) == [len(content) for content in data]
    assert list(facts["sha256"]) == [hashlib.sha256(content).hexdigest() for content in data]


def test_unreadable_image_is_black_and_its_status_is_the_reason(folder):
    pixels, facts = cached_images(folder, ["0.png", "2.png", "gone.png"], 32, folder / "cache")
    assert facts["status"][0] == "ok" and pixels[1:].max() == 0
    assert (
        facts["status"][1]
        == "unreadable: holds no PNG, JPEG, TIFF, BMP, WEBP, GIF, JPEG2000 or DICOM image"
    )
    assert facts["status"][2].startswith("unreadable: cannot be opened")


def test_second_call_reads_the_cache_and_not_the_images(folder):
    paths = ["0.png", "2.png"]
    pixels, facts = cached_images(folder, paths, 32, folder / "cache")
    info = (folder / "0.png").stat()
    (folder / "0.png").write_bytes(bytes(info.st_size))
    os.utime(folder / "0.png", ns=(info.st_atime_ns, info.st_mtime_ns))
    again, facts_again = cached_images(folder, paths, 32, folder / "cache")
    assert np.array_equal(again, pixels) and facts_again.equals(facts)
    assert isinstance(pixels, np.memmap) and isinstance(again, np.memmap)


@pytest.mark.parametrize("time", [None, (0, 0)], ids=["now", "older than the cache"])
def test_changed_file_is_decoded_again(folder, time):
    before, _ = cached_images(folder, ["0.png"], 32, folder / "cache")
    Image.fromarray(255 - RAMP).save(folder / "0.png")
    os.utime(folder / "0.png", time)
    after, _ = cached_images(folder, ["0.png"], 32, folder / "cache")
    assert np.array_equal(after[0], images.letterbox(255 - RAMP, 32))
    assert not np.array_equal(before, after)


def test_cache_torn_anywhere_is_made_again(folder):
    paths = ["0.png", "1.png", "2.png"]
    complete, facts = cached_images(folder, paths, 32, folder / "cache")
    complete = np.array(complete)
    for suffix, step in (("json", 29), ("npy", 997)):
        (file,) = (folder / "cache").glob(f"*.{suffix}")
        data = file.read_bytes()
        for kept in range(0, len(data), step):
            # What follows was never written, or is a hole in the file.
            for rest in (b"", bytes(len(data) - kept)):
                if suffix == "json" or not rest:
                    file.write_bytes(data[:kept] + rest)
                    pixels, again = cached_images(folder, paths, 32, folder / "cache")
                    assert np.array_equal(pixels, complete), (suffix, kept)
                    assert again.equals(facts), (suffix, kept)


def test_patients_are_hashed_before_anything_is_written(tmp_path):
    for name, patient in {"a": "4711", "b": "4711", "c": "0815"}.items():
        (tmp_path / name).write_bytes(dicom_file(PatientID=patient))
    hashes = list(cached_images(tmp_path, ["a", "b", "c"], 32, tmp_path / "cache")[1]["patient"])
    assert hashes[0] == hashes[1] != hashes[2] and "" not in hashes
    for file in (tmp_path / "cache").iterdir():
        assert not any(text in file.read_bytes() for text in (b"4711", b"0815", b"Doe"))
    elsewhere = cached_images(tmp_path, ["a"], 32, tmp_path / "other")[1]["patient"][0]
    assert elsewhere not in hashes, "every cache has its own salt"


def test_file_is_read_once_the_package_it_needs_is_installed(tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_bytes(dicom_file())
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "pydicom", None)
        _, facts = cached_images(tmp_path, ["a.dcm"], 32, tmp_path / "cache")
        assert "pip install pydicom" in facts["status"][0]
    pixels, facts = cached_images(tmp_path, ["a.dcm"], 32, tmp_path / "cache")
    assert facts["status"][0] == "ok" and pixels.max() > 200


def cache_digest(folder: Path) -> str:
    paths = [f"{i}.png" for i in range(4)]
    pixels, facts = cached_images(folder, paths, 64, folder / "cache")
    return hashlib.sha256(pixels.tobytes() + facts.to_csv().encode()).hexdigest()


def test_two_processes_may_share_a_cache_from_the_start(folder):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(cache_digest, [folder] * 2, chunksize=1)
    assert first == second == cache_digest(folder)
    assert not [path for path in (folder / "cache").iterdir() if ".part" in path.name]


def fill_up(folder: Path) -> None:
    """Leave 32 kB on the disk of `folder`."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 14))
        except OSError:
            os.truncate(file.name, file.tell() - (1 << 15))


def cache_on_full_disk(folder: Path) -> None:
    """Fill a small disk of its own, see the error, make room, and continue."""
    folder.mkdir()
    libc = ctypes.CDLL(None)
    if libc.unshare(0x20000) or libc.mount(b"none", b"/", None, 0x44000, None):
        os._exit(77)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=16m"):
        os._exit(77)
    paths = [f"{i}.png" for i in range(40)]
    for i, path in enumerate(paths):
        Image.fromarray(np.full((64, 64), i, np.uint8)).save(folder / path)
    fill_up(folder)
    with pytest.raises(RunError, match=r"40 decoded images.*No space left.*BONELIB_CACHE"):
        cached_images(folder, paths, 64, folder / "cache")
    assert not [path for path in (folder / "cache").iterdir() if path.name != "patient-salt"]
    (folder / "filler").unlink()
    pixels, _ = cached_images(folder, paths, 64, folder / "cache")
    assert pixels[:, 5, 5].tolist() == list(range(40))


def test_full_disk_is_an_error_that_names_the_setting_and_leaves_nothing(tmp_path):
    code, output = run_apart(tmp_path / "log", cache_on_full_disk, tmp_path / "disk")
    if code == 77:
        pytest.skip("needs the right to mount a disk in memory")
    assert code == 0, output


def cache_on_limited_disk(folder: Path) -> None:
    with pytest.raises(RunError, match=r"3 decoded images.*BONELIB_CACHE"):
        cached_images(folder, ["0.png", "1.png", "3.png"], 300, folder / "cache")
    assert [path.name for path in (folder / "cache").iterdir()] == ["patient-salt"]


def test_limit_of_file_size_is_an_error_too(folder):
    code, output = run_apart(folder / "log", cache_on_limited_disk, folder, file_size=20_000)
    assert code == 0, output
