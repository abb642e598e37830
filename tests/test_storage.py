"""Files and folders are written completely or not at all."""

from __future__ import annotations

import os
import sys
import time

import pandas as pd
import pytest

from bonelib import storage
from bonelib.messages import RunError


def test_failed_write_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "metrics.json"
    storage.write_json(path, {"a": 1})
    with pytest.raises(RunError, match=r"metrics\.json"), storage.atomic_file(path) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert storage.read_json(path) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def test_error_without_a_text_is_named_by_its_type(tmp_path):
    with pytest.raises(RunError, match="OSError"), storage.atomic_file(tmp_path / "a.txt"):
        raise OSError


def test_error_that_is_not_about_writing_passes_through(tmp_path):
    with pytest.raises(ZeroDivisionError), storage.atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        1 / 0  # noqa: B018
    with pytest.raises(KeyboardInterrupt), storage.atomic_folder(tmp_path / "b"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_folder_replaces_the_earlier_one_only_when_complete(tmp_path):
    folder = tmp_path / "runs" / "last"
    with storage.atomic_folder(folder) as temporary:
        (temporary / "a").write_text("first")
    with pytest.raises(RunError, match="last"), storage.atomic_folder(folder) as temporary:
        (temporary / "b").write_text("second")
        raise OSError(28, "No space left on device")
    assert [path.name for path in folder.iterdir()] == ["a"]
    with storage.atomic_folder(folder) as temporary:
        (temporary / "b").write_text("second")
    assert [path.name for path in folder.iterdir()] == ["b"]
    assert [path.name for path in folder.parent.iterdir()] == ["last"]


def test_tables_and_texts_come_back_as_written(tmp_path):
    table = pd.DataFrame({"path": ["é, 1.png", 'b"\n.png'], "p": [0.1, 0.2]})
    storage.write_csv(tmp_path / "new" / "t.csv", table)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new" / "t.csv"), table)
    storage.write_text(tmp_path / "t.txt", "骨密度")
    assert (tmp_path / "t.txt").read_text(encoding="utf-8") == "骨密度"


def test_digests_and_stamps_follow_the_content(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert storage.file_digest(path).startswith("ba7816bf8f01cfea")
    assert storage.text_digest("abc") == "ba7816bf8f01cfea"
    before = storage.stamp(path)
    os.utime(path, ns=(1, 1))
    assert before[0] == 3 and storage.stamp(path) == (3, 1)
    assert storage.stamp(tmp_path / "none") == (-1, -1)


def test_parallel_map_keeps_the_order_and_raises_what_the_function_raises():
    assert storage.parallel_map(lambda n: n * n, range(1000)) == [n * n for n in range(1000)]
    with pytest.raises(ZeroDivisionError):
        storage.parallel_map(lambda n: 1 / n, [1, 0])


def test_progress_is_a_line_now_and_then_where_the_output_is_no_terminal(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(storage, "LINE_SECONDS", 0.05)
    assert [n for n in storage.progress(range(4), "count") if not time.sleep(0.06)] == [0, 1, 2, 3]
    lines = capsys.readouterr().err.replace("\r", "").splitlines()
    assert any(line.startswith("count: ") and " of 4, " in line for line in lines)
    list(storage.progress(range(4), "fast"))
    assert "fast" not in capsys.readouterr().err


def test_listing_names_every_file_and_fails_where_a_folder_cannot_be_read(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2").write_text("22")
    (tmp_path / "1").write_text("1")
    assert [entry[:2] for entry in storage.list_files(tmp_path)] == [("1", 1), ("b/2", 2)]
    with pytest.raises(FileNotFoundError):
        storage.list_files(tmp_path / "absent")


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_listing_follows_links_but_never_back_to_a_folder_above(tmp_path):
    folder, other = tmp_path / "folder", tmp_path / "other"
    for path in (folder / "a.png", other / "deep" / "b.png"):
        path.parent.mkdir(parents=True)
        path.touch()
    (folder / "shortcut").symlink_to(other)
    (folder / "again").symlink_to(other / "deep")
    (other / "deep" / "up").symlink_to(folder)
    (folder / "self").symlink_to(".")
    names = ["a.png", "again/b.png", "shortcut/deep/b.png"]
    assert [name for name, *_ in storage.list_files(folder)] == names
    (folder / "gone").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        storage.list_files(folder)
