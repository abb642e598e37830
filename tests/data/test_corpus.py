"""Every kind of file and folder that people have is used, set aside with a reason, or an error."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bonelib.config import CLASSES, Config
from bonelib.data.catalog import load_catalog
from bonelib.data.dicom import DEFLATED
from bonelib.messages import DataError
from tests.builders import dicom_file, drop_root_rights, encoded, run_apart, waves

# Warnings as a user has them: Pillow warns of some files and decodes them.
pytestmark = pytest.mark.filterwarnings("default")
Maker = Callable[[Path], object]
USED, ASIDE, SKIPPED, UNSEEN = "used", "set aside: unreadable: ", "skipped", "not seen"
ERROR = "error: "


def holding(content: bytes) -> Maker:
    return lambda path: path.write_bytes(content)


def dicom(**header: object) -> Maker:
    return lambda path: path.write_bytes(dicom_file(**header))


def with_flipped_bit(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[int(len(content) * 0.6)] ^= 0x10
    return bytes(changed)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 50 << 30)


def png_of(image: Image.Image | np.ndarray) -> Maker:
    return holding(encoded(image, "PNG"))


GREY = Image.fromarray(waves())
ROTATED = Image.Exif()
ROTATED[0x0112] = 6
FRAMES = {"save_all": True, "append_images": [GREY.rotate(90), GREY.rotate(180)]}
PNG, JPEG, TIFF, BMP = (encoded(GREY, name) for name in ("PNG", "JPEG", "TIFF", "BMP"))
FLOATS = np.asarray(GREY, np.float32)
HUGE = Image.new("1", (20_000, 20_000))
LARGE_DEFLATED = bytes(128) + b"DICM" + DEFLATED + bytes(1 << 20)
SPECIAL_FILE = ASIDE + "is a folder, a pipe"

# What it is, its name, how it is made, and what becomes of it.
FILES: list[tuple[str, str, Maker, str]] = [
    ("8-bit grey PNG", "a.png", holding(PNG), USED),
    ("JPEG", "a.jpeg", holding(JPEG), USED),
    ("TIFF", "a.TIF", holding(TIFF), USED),
    ("BMP", "a.bmp", holding(BMP), USED),
    ("DICOM", "a.dcm", dicom(), USED),
    ("DICOM without suffix", "IM0001", dicom(), USED),
    ("16-bit PNG", "a.png", png_of(np.asarray(GREY).astype(np.uint16) * 257), USED),
    ("1-bit PNG", "a.png", png_of(GREY.convert("1")), USED),
    ("palette PNG", "a.png", png_of(GREY.convert("P")), USED),
    ("RGBA PNG", "a.png", png_of(GREY.convert("RGBA")), USED),
    ("CMYK JPEG", "a.jpg", holding(encoded(GREY.convert("CMYK"), "JPEG")), USED),
    ("float TIFF", "a.tif", holding(encoded(FLOATS, "TIFF")), USED),
    ("EXIF rotation", "a.jpg", holding(encoded(GREY, "JPEG", exif=ROTATED.tobytes())), USED),
    ("1x1 PNG", "a.png", png_of(Image.new("L", (1, 1))), USED),
    ("JPEG named as PNG", "a.png", holding(JPEG), USED),
    ("flipped bit, JPEG, no checksum", "a.jpg", holding(with_flipped_bit(JPEG)), USED),
    ("flipped bit, TIFF, no checksum", "a.tif", holding(with_flipped_bit(TIFF)), USED),
    ("flipped bit, PNG", "a.png", holding(with_flipped_bit(PNG)), ASIDE + "damaged"),
    ("truncated PNG", "a.png", holding(PNG[:-40]), ASIDE + "damaged"),
    ("truncated JPEG", "a.jpg", holding(JPEG[: len(JPEG) // 2]), ASIDE + "damaged"),
    ("truncated TIFF", "a.tif", holding(TIFF[: len(TIFF) // 2]), ASIDE + "damaged"),
    ("truncated BMP", "a.bmp", holding(BMP[: len(BMP) // 2]), ASIDE + "damaged"),
    (
        "truncated DICOM",
        "a.dcm",
        lambda path: path.write_bytes(dicom_file()[:-500]),
        ASIDE + "damaged DICOM",
    ),
    ("DICOM of frames", "a.dcm", dicom(NumberOfFrames=3), ASIDE + "holds 3 frames"),
    ("huge DICOM", "a.dcm", dicom(Rows=20_000, Columns=20_000), ASIDE + "declares"),
    ("deflated DICOM", "a.dcm", holding(LARGE_DEFLATED), ASIDE + "is a deflated DICOM"),
    ("zero bytes", "a.png", holding(b""), ASIDE + "empty (0 bytes)"),
    ("text as PNG", "a.png", holding(b"Normal findings.\n" * 40), ASIDE + "holds no PNG"),
    ("HTML as JPEG", "a.jpg", holding(b"<!doctype html><title>404"), ASIDE + "holds no PNG"),
    ("GIF as PNG", "a.png", holding(encoded(GREY, "GIF")), USED),
    ("animated PNG", "a.png", holding(encoded(GREY, "PNG", **FRAMES)), ASIDE + "holds 3 images"),
    ("TIFF pages", "a.tif", holding(encoded(GREY, "TIFF", **FRAMES)), ASIDE + "holds 3 images"),
    (
        "TIFF of NaN",
        "a.tif",
        holding(encoded(np.where(FLOATS > 100, np.float32("nan"), FLOATS), "TIFF")),
        ASIDE + "holds values that",
    ),
    ("20,000x20,000 in a tiny file", "a.png", png_of(HUGE), ASIDE + "declares"),
    ("50 GB, sparse", "a.tif", sparse, SPECIAL_FILE),
    ("folder named as a file", "a.png", lambda path: path.mkdir(), UNSEEN),
    ("pipe", "a.png", os.mkfifo, SPECIAL_FILE),
    ("link to nothing", "a.png", lambda p: p.symlink_to("gone"), ASIDE + "cannot be opened"),
    ("link to itself", "a.png", lambda p: p.symlink_to(p.name), ASIDE + "cannot be opened"),
    ("link to a folder above", "again", lambda p: p.symlink_to(p.parents[1]), UNSEEN),
    ("WebP", "a.webp", holding(encoded(GREY, "WEBP")), USED),
    ("another format", "a.heic", holding(b"a photo of a phone"), SKIPPED),
    ("hidden file", ".a.png", holding(PNG), UNSEEN),
    ("name that is not ASCII", "骨密度 é ß.png", holding(PNG), USED),
    ("name with a newline and commas", 'a,"b"\nc,.png', holding(PNG), USED),
    ("very long name", "n" * 251 + ".png", holding(PNG), USED),
    ("name that means no value", "NA.png", holding(PNG), USED),
    ("name with a carriage return", "a\rb.png", holding(PNG), ERROR),
    ("name that is not UTF-8", os.fsdecode(b"\xe9t\xe9.png"), holding(PNG), ERROR),
]


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """Settings of a data set of one image per class."""
    for i, label in enumerate(CLASSES):
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.fromarray(waves(i + 10)).save(tmp_path / "data" / label / f"good{i}.png")
    data, cache, run = (str(tmp_path / name) for name in ("data", "cache", "run"))
    return Config(data=data, cache=cache, run=run)


def outcome(cfg: Config, name: str) -> str:
    """What becomes of the file `name` of class Normal; the good images are there in any case."""
    try:
        catalog = load_catalog(cfg)
    except DataError as error:
        return f"{ERROR}{error}"
    rows = catalog.table.set_index("path")
    good = [rows["label"][f"{label}/good{i}.png"] for i, label in enumerate(CLASSES)]
    assert good == list(CLASSES)
    assert len(catalog.thumbnails) == (rows["status"] == "ok").sum()
    path = f"Normal/{name}"
    if path not in rows.index:
        return SKIPPED if path in catalog.skipped else UNSEEN
    assert rows["label"][path] == "Normal"
    status = rows["status"][path]
    return USED if status == "ok" else f"set aside: {status}"


@pytest.mark.parametrize(("kind", "name", "make", "expected"), FILES, ids=[f[0] for f in FILES])
def test_every_kind_of_file_has_its_outcome(cfg, kind, name, make, expected):
    make(Path(cfg.data) / "Normal" / name)
    found = outcome(cfg, name)
    assert found.startswith(expected)
    assert expected != ERROR or repr(name)[1:-1] in found


def test_all_files_together_are_audited_and_their_names_survive_the_table(cfg):
    from bonelib.audit.audit import audit

    names = []
    for i, (_, name, make, expected) in enumerate(FILES):
        if expected == USED or expected.startswith(ASIDE):
            names.append(f"Normal/{i}/{name}")
            (Path(cfg.data) / "Normal" / str(i)).mkdir()
            make(Path(cfg.data) / names[-1])
    catalog = load_catalog(cfg)
    table, results = audit(catalog, cfg)
    again = pd.read_csv(StringIO(table.to_csv(index=False)))
    assert set(names) < set(again["path"]) and list(again["path"]) == list(table["path"])
    assert results["counts"]["found"] == len(names) + 3
    assert results["counts"]["readable"] == len(catalog.thumbnails)


def of_folders(counts: dict[str, int]) -> Maker:
    """A data set with this many images in each folder, in place of what is there."""

    def make(root: Path) -> None:
        shutil.rmtree(root)
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True)
            for i in range(count):
                image = waves(zlib.crc32(folder.encode()) % 1000 + i, (24, 32))
                Image.fromarray(image).save(root / folder / f"{i}.png")

    return make


def link_a_class(root: Path) -> None:
    (root / "Normal").rename(root.parent / "elsewhere")
    (root / "Normal").symlink_to(root.parent / "elsewhere")


EIGHT = dict.fromkeys(CLASSES, 8)
INNER = {f"{label}/{name}": 4 for label in CLASSES for name in ("No 5", "normalized")}
# What it is, how it is made, and the counts of the classes or the names in the error.
FOLDERS: list[tuple[str, Maker, list[int] | list[str]]] = [
    ("three classes", of_folders(EIGHT), [8, 8, 8]),
    ("one class in two cases", of_folders(EIGHT | {"NORMAL": 8}), [16, 8, 8]),
    ("patients and steps inside", of_folders(INNER), [8, 8, 8]),
    ("hidden ones", of_folders(EIGHT | {"__MACOSX/Normal": 5, ".x/Normal": 5}), [8, 8, 8]),
    ("100 classes", of_folders(EIGHT | {f"c{i}": 1 for i in range(97)}), ["'c0'", "97"]),
    ("one class only", of_folders({"Normal": 8}), ["Normal", "Osteopenia", "Osteoporosis"]),
    ("a class without image", of_folders(EIGHT | {"Osteopenia": 0}), [8, 0, 8]),
    ("nothing at all", of_folders({"Normal": 0}), ["no class"]),
    ("no class folders", of_folders({"a": 2, "b": 2}), ["'a' (2 images)", "'b'"]),
    ("another disease", of_folders(EIGHT | {"osteopetrosis": 2}), ["'osteopetrosis'"]),
    ("a negated class", of_folders(EIGHT | {"nonosteoporosis": 2}), ["'nonosteoporosis'"]),
    (
        "a negated class inside",
        of_folders(EIGHT | {"Osteoporosis/no osteoporosis": 2}),
        ["no osteoporosis'"],
    ),
    ("images beside the folders", lambda root: GREY.save(root / "logo.png"), ["'.'"]),
    ("a class folder that is a link", link_a_class, [1, 1, 1]),
]


@pytest.mark.parametrize(("kind", "make", "expected"), FOLDERS, ids=[f[0] for f in FOLDERS])
def test_every_kind_of_folder_is_counted_or_an_error(cfg, kind, make, expected):
    make(Path(cfg.data))
    if isinstance(expected[0], int):
        counts = load_catalog(cfg).table["label"].value_counts()
        assert [counts.get(label, 0) for label in CLASSES] == expected
        return
    with pytest.raises(DataError) as error:
        load_catalog(cfg)
    assert all(name in str(error.value) for name in [cfg.data, *expected])


@pytest.mark.parametrize("name", ["list.csv", "metadata.csv"])
def test_table_with_rows_longer_than_its_head_is_an_error(cfg, name):
    path = Path(cfg.data) / name
    rows = [f"{label}/good{i}.png,{label},50\n" for i, label in enumerate(CLASSES)]
    path.write_text("path,label\n" + "".join(rows))
    with pytest.raises(DataError, match=name):
        load_catalog(replace(cfg, data=str(path)) if name == "list.csv" else cfg)


def print_outcomes(cfg: Config) -> None:
    """What becomes of a file when it, or a folder above it, must not be read."""
    drop_root_rights()
    for closed in ("a.png", "IM1", "below", "."):
        path = Path(cfg.data) / "Normal" / closed
        path.chmod(0)
        print(closed, outcome(cfg, "IM1" if closed == "IM1" else "a.png"))
        path.chmod(0o700)


def test_missing_permission_is_reported(cfg, tmp_path):
    (Path(cfg.data) / "Normal" / "below").mkdir()
    for name in ("a.png", "below/b.png", "IM1"):
        (Path(cfg.data) / "Normal" / name).write_bytes(PNG)
    code, output = run_apart(tmp_path / "log", print_outcomes, cfg)
    assert code == 0, output
    lines = [line for line in output.splitlines() if "Permission denied" in line]
    starts = [f"a.png {ASIDE}", f"IM1 {ASIDE}", f"below {ERROR}", f". {ERROR}"]
    assert len(lines) == 4
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))
