"""Thousands of damaged files, tables and settings: each is taken, or refused in words; nothing else happens."""

from __future__ import annotations

import io
import json
import os
import random
import string
import struct
import sys
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bonelib import catalog, images
from bonelib.catalog import DataError
from bonelib.config import CLASSES, Config, ConfigError, fields
from bonelib.images import ImageError
from tests.apart import Apart

SHORT, LONG = 20, 120  # seconds that a kind of fuzzing may take, here and in the soak
EXTREMES = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff",
    b"\x01\0",
]


def sources() -> list[bytes]:
    """Whole files of every format, mode and compression that the decoder knows, 40 x 30."""
    y, x = np.mgrid[:30, :40]
    grey = Image.fromarray((128 + 60 * np.sin(x / 5) + 60 * np.cos(y / 4)).astype(np.uint8))
    deep, real = (
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 200),
        Image.fromarray(np.asarray(grey, np.float32)),
    )
    kinds = [(grey, "PNG", {}), (deep, "PNG", {}), (grey.convert("P"), "PNG", {}), (grey.convert("RGBA"), "PNG", {})]
    kinds += [
        (grey, "JPEG", {}),
        (grey.convert("CMYK"), "JPEG", {}),
        (grey.convert("RGB"), "JPEG", {"progressive": True}),
    ]
    kinds += [(grey, "BMP", {}), (grey.convert("RGB"), "BMP", {}), (real, "TIFF", {}), (deep, "TIFF", {})]
    kinds += [(grey, "TIFF", {"compression": c}) for c in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")]
    files = []
    for picture, kind, options in kinds:
        out = io.BytesIO()
        picture.save(out, kind, **options)
        files.append(out.getvalue())
    try:
        from tests.test_dicom import RAMP, made
    except pytest.skip.Exception:
        return files
    return [*files, made(RAMP[:, :40]), made(RAMP[:, :40], "MONOCHROME1", WindowCenter="400", WindowWidth="400")]


def mutated(rng: np.random.Generator, data: bytes, other: bytes, words: list[bytes]) -> bytes:
    """One to four changes: bits turned, bytes set, parts cut, doubled, taken from `other`, or a word put in."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at, n = int(rng.integers(len(out) + 1)), int(rng.geometric(0.08))
        kind = rng.integers(7)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.integers(8)
        elif kind == 1:
            out[at : at + n] = rng.bytes(n)
        elif kind == 2:
            del out[at : at + n]
        elif kind == 3:
            out[at:at] = out[at : at + n]
        elif kind == 4:
            out[at : at + n] = other[at : at + n]
        elif kind == 5 and rng.random() < 0.3:
            del out[at:]
        else:
            word = words[rng.integers(len(words))]
            out[at : at + len(word) * int(rng.integers(2))] = word
    return bytes(out)


def mended(data: bytes) -> bytes:
    """A PNG with its checksums made right again, so that damage reaches what lies behind them."""
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        end = at + 8 + struct.unpack(">I", out[at : at + 4])[0]
        if end + 4 > len(out):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(out[at + 4 : end]))
        at = end + 4
    return bytes(out)


def fuzz(case: Callable[[np.random.Generator], str], count: int, seconds: float) -> None:
    """Try `case` with one generator after the other and print how many came to what; stop at the first that fails."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the TIFF library tells of each damage there
    warnings.simplefilter("ignore")
    found: Counter[str] = Counter()
    end = time.monotonic() + seconds
    for i in range(count):
        try:
            found[case(np.random.default_rng([0, i]))] += 1
        except BaseException:
            print(f"case {i} fails")
            traceback.print_exc(file=sys.stdout)
            raise
        if time.monotonic() > end:
            break
    print(json.dumps(found))


def decoding(count: int, seconds: float) -> None:
    files = sources()

    def case(rng: np.random.Generator) -> str:
        data, other = (files[i] for i in rng.integers(len(files), size=2))
        data = mutated(rng, data, other, EXTREMES)
        if data.startswith(b"\x89PNG") and rng.random() < 0.7:
            data = mended(data)
        try:
            grey, facts = images.decode(data, int(rng.choice([0, 32])), b"salt")
        except ImageError as error:
            return "refused" if str(error) else "refused without a word"
        assert grey.dtype == np.uint8 and grey.ndim == 2 and images.letterbox(grey, 32).shape == (32, 32)
        assert 0 < facts["width"] * facts["height"] <= images.MAX_PIXELS
        return "decoded"

    fuzz(case, count, seconds)


def cataloguing(folder: Path, count: int, seconds: float) -> None:
    """A folder with metadata, and a table of images, both mutated; paths must stay inside, labels as they are."""
    catalog.AUDIT_SIZE = 16
    paths = [f"{c}/{i}.png" for c in CLASSES for i in range(2)]
    for i, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 20), 40 * i, np.uint8)).save(folder / path)
    rows = [f"{p},{p.split('/')[0]},P{i // 2},{50 + i},2.5" for i, p in enumerate(paths)]
    table = "\n".join(["path,label,patient_id,age,t_score", *rows]).encode() + b"\n"
    words = [
        b",",
        b'"',
        b"\n",
        b"\r\n",
        b"\0",
        b"\xff",
        b"../",
        b"/etc/passwd",
        b"Normal",
        b"Osteopenia",
        b"1e999",
        b"nan",
    ]
    words += [b"9" * 40, b"path", b"label", b"patient", "é\u2028".encode(), b"\xef\xbb\xbf", b";", b"\t", b"-", b"inf"]
    known = dict(zip(paths, [p.split("/")[0] for p in paths], strict=True))

    def case(rng: np.random.Generator) -> str:
        as_table = bool(rng.integers(2))
        name = folder / ("list.csv" if as_table else "metadata.csv")
        (folder / "metadata.csv").unlink(missing_ok=True)
        name.write_bytes(mutated(rng, table, table[::-1], words))
        data = str(name if as_table else folder)
        try:
            found, thumbs, _ = catalog.catalog(Config(data=data, cache=str(folder / ".cache"), patient_regex=""))
        except DataError as error:
            return "refused" if str(error) else "refused without a word"
        assert set(found["label"]) <= set(CLASSES) and len(thumbs) == (found["status"] == "ok").sum()
        inside = [
            Path(os.path.realpath(folder / p)).is_relative_to(folder)
            for p, s in zip(found["path"], found["status"], strict=True)
            if s == "ok"
        ]
        assert all(inside) and not found["patient"].str.contains("P").any()
        assert as_table or found.set_index("path")["label"].to_dict() == known
        return "read"

    fuzz(case, count, seconds)


CASES = [pytest.param(3000, SHORT, id="short"), pytest.param(10**7, LONG, id="long", marks=pytest.mark.soak)]


def told(one: Apart, seconds: float) -> Counter[str]:
    assert one.wait(seconds) == 0, one.said[-3000:]
    found = Counter(json.loads(one.said.splitlines()[-1]))
    print(dict(found))
    return found


@pytest.mark.parametrize(("count", "seconds"), CASES)
def test_damaged_pictures_are_decoded_or_refused_within_a_gigabyte(tmp_path, count, seconds):
    found = told(Apart(tmp_path / "log", decoding, count, seconds, memory=1 << 30), 5 * seconds)
    assert set(found) == {"decoded", "refused"} and min(found.values()) > 100


@pytest.mark.parametrize(("count", "seconds"), [pytest.param(300, SHORT, id="short"), CASES[1]])
def test_damaged_tables_are_read_or_refused_and_change_no_label(tmp_path, count, seconds):
    found = told(Apart(tmp_path / "log", cataloguing, tmp_path / "data", count, seconds, memory=1 << 30), 5 * seconds)
    assert set(found) == {"read", "refused"} and min(found.values()) > 20


TEXTS = [
    "0",
    "-1",
    "1e9",
    "nan",
    "inf",
    "none",
    "true",
    "no",
    "{}",
    "[]",
    "[[1,2]]",
    "[[[1],2]]",
    "0.5",
    "0.5,nan",
    "(",
    "\0",
]
TEXTS += [
    "0.5,0.5,0.5",
    "1,1,1,1,1,1,1,1,1",
    r"^(\d+)_",
    "é",
    "../..",
    "sample",
    "identity",
    "hflip,vflip",
    "Normal",
    "weights",
]
TEXTS += ['{"a": 1}', '{"a": "Normal"}', "[" * 3000, "9" * 5000, "oversample"]
VALUES = [True, -1, 0, 3, 2**70, 0.5, float("nan"), float("inf"), b"x", [], [1], (), (1,), (0.5,), ("a",), (None,), {}]
VALUES += [{"a": "Normal"}, {1: 2}, {"a": []}, object()]


@pytest.mark.filterwarnings("ignore:Possible nested set")
@pytest.mark.parametrize(
    "count", [pytest.param(3000, id="short"), pytest.param(30_000, id="long", marks=pytest.mark.soak)]
)
def test_any_settings_are_settings_or_a_config_error(count):
    draw = random.Random(0)
    names = [f.name for f in fields(Config)]

    def text() -> str:
        return (
            draw.choice(TEXTS)
            if draw.random() < 0.7
            else "".join(draw.choices(string.printable, k=draw.randint(0, 12)))
        )

    found: Counter[str] = Counter()
    for _ in range(count):
        chosen = [draw.choice(names) if draw.random() < 0.97 else text() for _ in range(draw.choice([1, 1, 2, 4]))]
        env = {f"BONELIB_{n.upper()}": text() for n in chosen if draw.random() < 0.6}
        form = {n: draw.choice([*VALUES, text()]) for n in chosen if draw.random() < 0.4}
        try:
            cfg = Config.load(env, **form)
            assert Config.from_json(cfg.json()).json() == cfg.json()
            found["settings"] += 1
        except ConfigError as error:
            found["refused" if str(error) else "refused without a word"] += 1
    print(dict(found))
    assert set(found) == {"settings", "refused"} and min(found.values()) > count / 20
