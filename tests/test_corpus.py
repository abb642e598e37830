"""Every kind of file and folder that people have: used, set aside with a reason, or an error that says what to do."""

from __future__ import annotations

import io
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bonelib import audit, catalog, images, split
from bonelib.catalog import DataError
from bonelib.config import CLASSES, Config
from bonelib.dicom import DEFLATED
from bonelib.split import SplitError
from tests.apart import Apart

pytestmark = pytest.mark.filterwarnings(
    "default"
)  # as a user has it: Pillow warns of what it then decodes all the same
Maker = Callable[[Path], object]
USED, ASIDE, PASSED = "used", "set aside: unreadable: ", "passed over"


def picture(seed: int = 0, shape: tuple[int, int] = (90, 120)) -> Image.Image:
    """Smooth grey waves, another one for each seed."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    a, b, c = np.random.default_rng(seed).uniform(4, 15, 3)
    return Image.fromarray((128 + 60 * np.sin(x / a + c) + 60 * np.cos(y / b)).astype(np.uint8))


def encoded(shown: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    shown.save(out, kind, **options)
    return out.getvalue()


def holding(data: bytes) -> Maker:
    return lambda path: path.write_bytes(data)


def dicom(**header: object) -> bytes:
    from tests.test_dicom import RAMP, made

    return made(RAMP, **header)


def flipped(data: bytes, at: float = 0.6) -> bytes:
    """One bit turned, in the picture's data."""
    changed = bytearray(data)
    changed[int(len(data) * at)] ^= 0x10
    return bytes(changed)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 50 << 30)


GREY = picture()
DEEP = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)
TURNED = Image.Exif()
TURNED[0x0112] = 6
FRAMES = {"save_all": True, "append_images": [picture(1), picture(2)]}
PNG, JPEG, TIFF, BMP = (encoded(GREY, kind) for kind in ("PNG", "JPEG", "TIFF", "BMP"))
NAN = np.where(np.asarray(GREY) > 100, np.float32("nan"), np.float32(1))

FILES: list[tuple[str, str, Maker, str]] = [  # kind, name, how it is made, what it comes to
    ("8-bit grey PNG", "a.png", holding(PNG), USED),
    ("JPEG", "a.jpeg", holding(JPEG), USED),
    ("TIFF", "a.TIF", holding(TIFF), USED),
    ("BMP", "a.bmp", holding(BMP), USED),
    ("DICOM", "a.dcm", lambda p: p.write_bytes(dicom()), USED),
    ("DICOM without suffix", "IM0001", lambda p: p.write_bytes(dicom()), USED),
    ("16-bit PNG", "a.png", holding(encoded(DEEP, "PNG")), USED),
    ("1-bit PNG", "a.png", holding(encoded(GREY.convert("1"), "PNG")), USED),
    ("palette PNG", "a.png", holding(encoded(GREY.convert("P"), "PNG")), USED),
    ("CMYK JPEG", "a.jpg", holding(encoded(GREY.convert("CMYK"), "JPEG")), USED),
    ("RGBA PNG", "a.png", holding(encoded(GREY.convert("RGBA"), "PNG")), USED),
    ("float TIFF", "a.tif", holding(encoded(Image.fromarray(np.asarray(GREY, np.float32)), "TIFF")), USED),
    ("JPEG turned by its EXIF", "a.jpg", holding(encoded(GREY, "JPEG", exif=TURNED.tobytes())), USED),
    ("1x1 PNG", "a.png", holding(encoded(Image.new("L", (1, 1)), "PNG")), USED),
    ("JPEG named as PNG", "a.png", holding(JPEG), USED),
    ("bit-flipped JPEG (no checksum)", "a.jpg", holding(flipped(JPEG)), USED),
    ("bit-flipped TIFF (no checksum)", "a.tif", holding(flipped(TIFF)), USED),
    ("bit-flipped DICOM (no checksum)", "a.dcm", lambda p: p.write_bytes(flipped(dicom())), USED),
    ("bit-flipped PNG", "a.png", holding(flipped(PNG)), ASIDE + "damaged"),
    ("truncated PNG", "a.png", holding(PNG[:-40]), ASIDE + "damaged"),
    ("truncated JPEG", "a.jpg", holding(JPEG[: len(JPEG) // 2]), ASIDE + "damaged"),
    ("truncated TIFF", "a.tif", holding(TIFF[: len(TIFF) // 2]), ASIDE + "damaged"),
    ("truncated BMP", "a.bmp", holding(BMP[: len(BMP) // 2]), ASIDE + "damaged"),
    ("truncated DICOM", "a.dcm", lambda p: p.write_bytes(dicom()[:-500]), ASIDE + "damaged DICOM"),
    ("DICOM of several frames", "a.dcm", lambda p: p.write_bytes(dicom(NumberOfFrames=3)), ASIDE + "holds 3 frames"),
    ("DICOM that declares 20,000x20,000", "a.dcm", lambda p: p.write_bytes(dicom(Rows=20_000, Columns=20_000)), ASIDE + "declares"),
    ("large deflated DICOM", "a.dcm", holding(bytes(128) + b"DICM" + DEFLATED + bytes(1 << 20)), ASIDE + "is a deflated DICOM"),
    ("zero bytes", "a.png", holding(b""), ASIDE + "empty (0 bytes)"),
    ("text as PNG", "a.png", holding(b"Normal findings.\n" * 40), ASIDE + "holds no PNG"),
    ("HTML as JPEG", "a.jpg", holding(b"<!doctype html><title>404</title>"), ASIDE + "holds no PNG"),
    ("GIF named as PNG", "a.png", holding(encoded(GREY, "GIF")), ASIDE + "holds no PNG"),
    ("animated PNG", "a.png", holding(encoded(GREY, "PNG", **FRAMES)), ASIDE + "holds 3 pictures"),
    ("TIFF of several pages", "a.tif", holding(encoded(GREY, "TIFF", **FRAMES)), ASIDE + "holds 3 pictures"),
    ("TIFF of what is no number", "a.tif", holding(encoded(Image.fromarray(NAN), "TIFF")), ASIDE + "holds values that"),
    ("20,000x20,000 in a tiny file", "a.png", holding(encoded(Image.new("1", (20_000, 20_000)), "PNG")), ASIDE + "declares"),
    ("50 GB, sparse", "a.tif", sparse, ASIDE + "is a folder, a pipe"),
    ("a folder where a file is expected", "a.png", lambda p: p.mkdir(), ASIDE + "is a folder, a pipe"),
    ("a pipe", "a.png", os.mkfifo, ASIDE + "is a folder, a pipe"),
    ("a link to nothing", "a.png", lambda p: p.symlink_to("gone.png"), ASIDE + "cannot be opened"),
    ("a link to itself", "a.png", lambda p: p.symlink_to(p.name), ASIDE + "cannot be opened"),
    ("a link to a folder above", "again", lambda p: p.symlink_to(p.parents[1]), PASSED),
    ("another kind of file", "a.webp", holding(encoded(GREY, "WEBP")), PASSED),
    ("a hidden file", ".a.png", holding(PNG), "not looked at"),
    ("a name that is not ASCII", "骨密度 é ß.png", holding(PNG), USED),
    ("a name with a newline and commas", 'a,"b"\nc,.png', holding(PNG), USED),
    ("a very long name", "n" * 251 + ".png", holding(PNG), USED),
    ("a name that spells no value", "NA.png", holding(PNG), USED),
    ("a name with a carriage return", "a\rb.png", holding(PNG), "error: rename that file"),
    ("a name that is not UTF-8", os.fsdecode(b"\xe9t\xe9.png"), holding(PNG), "error: rename that file"),
]  # fmt: skip


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """Settings of a whole data set of one picture a class, beside which a test puts its own."""
    for i, label in enumerate(CLASSES):
        (tmp_path / "data" / label).mkdir(parents=True)
        picture(i + 10).save(tmp_path / "data" / label / f"good{i}.png")
    return Config(data=str(tmp_path / "data"), cache=str(tmp_path / "cache"), run=str(tmp_path / "run"))


def outcome(cfg: Config, name: str) -> str:
    """What became of the file `name` among the Normal ones; whatever it was, the good pictures are there, rightly labelled."""
    try:
        table, thumbs, _ = catalog.catalog(cfg)
    except DataError as error:
        return f"error: {error}"
    rows = table.set_index("path")
    assert [rows["label"][f"{c}/good{i}.png"] for i, c in enumerate(CLASSES)] == list(CLASSES)
    assert len(thumbs) == (table["status"] == "ok").sum()
    path = f"Normal/{name}"
    if path not in rows.index:
        return PASSED if path in table.attrs["ignored"] else "not looked at"
    assert rows["label"][path] == "Normal"
    status = rows["status"][path]
    return USED if status == "ok" else f"set aside: {status}"


@pytest.mark.parametrize(("kind", "name", "make", "expected"), FILES, ids=[f[0] for f in FILES])
def test_every_kind_of_file_comes_to_what_is_said(cfg, kind, name, make, expected):
    if "DICOM" in kind:
        pytest.importorskip("pydicom", reason="needs the optional pydicom")
    make(Path(cfg.data) / "Normal" / name)
    found = outcome(cfg, name)
    assert expected.removeprefix("error: ") in found and found.split(":")[0] == expected.split(":")[0]


def test_the_whole_corpus_at_once_is_audited_and_its_names_come_back_from_the_table(cfg):
    pytest.importorskip("pydicom", reason="needs the optional pydicom")
    names = []
    for i, (_, name, make, expected) in enumerate(FILES):
        if expected == USED or expected.startswith(ASIDE):
            names.append(f"Normal/{i}/{name}")
            (Path(cfg.data) / "Normal" / str(i)).mkdir()
            make(Path(cfg.data) / names[-1])
    table, thumbs, root = catalog.catalog(cfg)
    audited, findings = audit.audit(table, thumbs, cfg, root)
    back = pd.read_csv(io.StringIO(audited.to_csv(index=False)))
    assert set(names) < set(back["path"]) and list(back["path"]) == list(audited["path"])
    assert findings["flow"]["found"] == len(names) + 3 and findings["flow"]["readable"] == len(thumbs)


def of_class(names: dict[str, int]) -> Callable[[Path], None]:
    """A data set of so many pictures in each folder, in place of what is there."""

    def make(root: Path) -> None:
        shutil.rmtree(root)
        for folder, count in names.items():
            (root / folder).mkdir(parents=True)
            for i in range(count):
                picture(zlib.crc32(folder.encode()) % 1000 + i, (24, 32)).save(root / folder / f"{i}.png")

    return make


def linked(root: Path) -> None:
    (root / "Normal").rename(root.parent / "elsewhere")
    (root / "Normal").symlink_to(root.parent / "elsewhere")


THREE = dict.fromkeys(CLASSES, 8)
FOLDERS: list[tuple[str, Callable[[Path], None], str]] = [  # kind, how it is made, what it comes to
    ("three classes", of_class(THREE), "24 used: 8, 8, 8"),
    ("the same class in two cases", of_class(THREE | {"NORMAL": 8}), "32 used: 16, 8, 8"),
    ("100 classes", of_class(THREE | {f"c{i}": 1 for i in range(97)}), "cannot tell the class of 'c0' (1 images), 'c1'"),
    ("one class only", of_class({"Normal": 8}), "none of Osteopenia, Osteoporosis; expected all three"),
    ("no image in a class", of_class(THREE | {"Osteopenia": 0}), "none of Osteopenia; expected all three"),
    ("one image in a class", of_class(THREE | {"Osteopenia": 1}), "too few groups"),
    ("nothing at all", of_class({"Normal": 0}), "found images of no class"),
    ("no class folders", of_class({"a": 2, "b": 2, "c": 2}), "cannot tell the class of 'a' (2 images), 'b'"),
    ("osteopetrosis, another disease", of_class(THREE | {"osteopetrosis": 2}), "cannot tell the class of 'osteopetrosis'"),
    ("what is said not to be", of_class(THREE | {"nonosteoporosis": 2}), "cannot tell the class of 'nonosteoporosis'"),
    ("what is denied inside of it", of_class(THREE | {"Osteoporosis/no osteoporosis": 2}), "class of 'no osteoporosis'"),
    ("patients and steps inside of it", of_class({f"{c}/{b}": 4 for c in CLASSES for b in ("No 5", "normalized")}), "24 used"),
    ("pictures beside the class folders", lambda p: picture().save(p / "logo.png"), "cannot tell the class of '.'"),
    ("a class folder that is a link", linked, "none of Normal; expected all three; passed over: 'Normal'"),
    ("__MACOSX", of_class(THREE | {"__MACOSX/Normal": 5, ".hidden/Normal": 5}), "24 used: 8, 8, 8"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "make", "expected"), FOLDERS, ids=[f[0] for f in FOLDERS])
def test_every_kind_of_folder_comes_to_what_is_said(cfg, kind, make, expected):
    make(Path(cfg.data))
    try:
        table, _, _ = catalog.catalog(cfg)
        splits = split.split(table.assign(group=table["path"], issues=""), cfg)
        counts = splits["label"].value_counts()
        found = f"{len(splits)} used: " + ", ".join(str(counts[c]) for c in CLASSES)
    except (DataError, SplitError) as error:
        found = str(error)
    assert expected in found


def test_pictures_beside_the_class_folders_are_left_out_as_the_error_says(cfg):
    picture().save(Path(cfg.data) / "logo.png")
    table, _, _ = catalog.catalog(replace(cfg, classes={".": ""}))
    assert len(table) == 3


@pytest.mark.parametrize("name", ["list.csv", "metadata.csv"])
def test_table_whose_rows_are_longer_than_its_head_is_refused_as_its_columns_would_shift(cfg, name):
    path = Path(cfg.data) / name
    path.write_text("path,label\n" + "".join(f"{c}/good{i}.png,{c},50\n" for i, c in enumerate(CLASSES)))
    with pytest.raises(DataError, match="hold more values than its first line names columns"):
        catalog.catalog(replace(cfg, data=str(path)) if name == "list.csv" else cfg)


def look(cfg: Config, name: str) -> None:
    print(outcome(cfg, name))


@pytest.mark.parametrize(
    ("closed", "expected"),
    [
        ("Normal/a.png", "set aside: unreadable: cannot be opened"),
        ("Normal/IM1", "set aside: unreadable: cannot be opened"),
        ("Normal/below", "error:"),
        ("Normal", "error:"),
    ],
)
def test_what_may_not_be_read_is_said(cfg, tmp_path, closed, expected):
    (Path(cfg.data) / "Normal" / "below").mkdir()
    for name in ("Normal/a.png", "Normal/below/b.png", "Normal/IM1"):
        (Path(cfg.data) / name).write_bytes(PNG)
    (Path(cfg.data) / closed).chmod(0)
    one = Apart(tmp_path / "log", look, cfg, "IM1" if "IM1" in closed else "a.png", weak=True)
    assert one.wait() == 0 and expected in one.said and "Permission denied" in one.said
    (Path(cfg.data) / closed).chmod(0o700)


def test_a_picture_of_the_largest_size_fits_into_memory(tmp_path):
    data = encoded(Image.new("RGBA", (9400, 9400)), "PNG", compress_level=1)
    (tmp_path / "a.png").write_bytes(data)
    one = Apart(tmp_path / "log", images.read, tmp_path / "a.png", memory=1 << 30)
    assert one.wait() == 0, one.said
