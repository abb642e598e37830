"""Thousands of damaged files, tables and settings: each is read or rejected with a reason."""

from __future__ import annotations

import dataclasses
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

from bonelib.config import CLASSES, Config
from bonelib.data import images
from bonelib.data.catalog import load_catalog
from bonelib.messages import ConfigError, DataError
from tests.builders import DEEP_RAMP, dicom_file, encoded, run_apart, waves

# Seconds that one kind of fuzzing may take, short and in the soak.
SHORT, LONG = 20, 120
# Bytes at the limits of numbers.
EXTREMES = [b"\0", b"\xff", b"\x7f", b"\x80", b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff"]
EXTREMES += [b"\xff\xff", b"\x01\0"]
# Parts of tables.
WORDS = [b",", b'"', b"\n", b"\r\n", b"\0", b"\xff", b"../", b"/etc/passwd", b"Normal"]
WORDS += [b"Osteopenia", b"1e999", b"nan", b"9" * 40, b"path", b"label", b"patient"]
WORDS += ["é\u2028".encode(), b"\xef\xbb\xbf", b";", b"\t", b"-", b"inf"]


def complete_files() -> list[bytes]:
    """Files of every format, mode and compression that the decoder knows, 40 x 30."""
    pixels = waves(shape=(30, 40))
    grey, deep = Image.fromarray(pixels), Image.fromarray(pixels.astype(np.uint16) * 200)
    colour, cmyk = grey.convert("RGB"), grey.convert("CMYK")
    pngs = [grey, deep, colour, grey.convert("P"), grey.convert("RGBA")]
    files = [encoded(image, "PNG") for image in pngs]
    files += [encoded(image, "JPEG") for image in (grey, cmyk)]
    files += [encoded(colour, "JPEG", progressive=True)]
    files += [encoded(image, "BMP") for image in (grey, colour)]
    files += [encoded(image, "TIFF") for image in (deep, pixels.astype(np.float32))]
    compressions = ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
    files += [encoded(grey, "TIFF", compression=compression) for compression in compressions]
    inverted = {"PhotometricInterpretation": "MONOCHROME1"}
    window = {"WindowCenter": "400", "WindowWidth": "400"}
    files += [dicom_file(DEEP_RAMP[:, :40]), dicom_file(DEEP_RAMP[:, :40], **inverted, **window)]
    files += [dicom_file(np.asarray(colour))]
    return files


def mutated(rng: np.random.Generator, data: bytes, other: bytes, words: list[bytes]) -> bytes:
    """`data` with one to four changes: bits, bytes, and parts of `other` or of `words`."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        start, length = int(rng.integers(len(out) + 1)), int(rng.geometric(0.08))
        part = slice(start, start + length)
        change = rng.integers(7)
        if change == 0 and start < len(out):
            out[start] ^= 1 << rng.integers(8)
        elif change == 1:
            out[part] = rng.bytes(length)
        elif change == 2:
            del out[part]
        elif change == 3:
            out[start:start] = out[part]
        elif change == 4:
            out[part] = other[part]
        elif change == 5 and rng.random() < 0.3:
            del out[start:]
        else:
            word = words[rng.integers(len(words))]
            out[start : start + len(word) * int(rng.integers(2))] = word
    return bytes(out)


def with_checksums(data: bytes) -> bytes:
    """A PNG file with valid checksums, so that the damage reaches what is behind them."""
    out, start = bytearray(data), 8
    while start + 12 <= len(out):
        end = start + 8 + struct.unpack(">I", out[start : start + 4])[0]
        if end + 4 > len(out):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(out[start + 4 : end]))
        start = end + 4
    return bytes(out)


def fuzz(case: Callable[[np.random.Generator], str], count: int, seconds: float) -> None:
    """Run `case` with one generator after the other and print how often it returned what."""
    # The TIFF library reports each damage there.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    warnings.simplefilter("ignore")
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + seconds
    for i in range(count):
        try:
            outcomes[case(np.random.default_rng([0, i]))] += 1
        except BaseException:
            print(f"case {i} fails")
            traceback.print_exc(file=sys.stdout)
            raise
        if time.monotonic() > end:
            break
    print(json.dumps(outcomes))


def fuzz_decoder(count: int, seconds: float) -> None:
    files = complete_files()

    def case(rng: np.random.Generator) -> str:
        data, other = (files[i] for i in rng.integers(len(files), size=2))
        data = mutated(rng, data, other, EXTREMES)
        if data.startswith(b"\x89PNG") and rng.random() < 0.7:
            data = with_checksums(data)
        try:
            grey, facts = images.decode(data, int(rng.choice([0, 32])))
        except DataError as error:
            return "rejected" if str(error) else "rejected without a reason"
        assert grey.dtype == np.uint8 and grey.ndim == 2
        assert images.letterbox(grey, 32).shape == (32, 32)
        assert 0 < facts["width"] * facts["height"] <= images.MAX_PIXELS
        assert 0 <= facts["coloured"] <= 1
        return "read"

    fuzz(case, count, seconds)


def fuzz_tables(folder: Path, count: int, seconds: float) -> None:
    """Mutate the metadata of a folder, or a table of images; no label and no path may change."""
    paths = [f"{name}/{i}.png" for name in CLASSES for i in range(2)]
    for i, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 20), 40 * i, np.uint8)).save(folder / path)
    labels = {path: path.split("/")[0] for path in paths}
    rows = [f"{path},{labels[path]},P{i // 2},{50 + i},2.5" for i, path in enumerate(paths)]
    table = "\n".join(["path,label,patient_id,age,t_score", *rows]).encode() + b"\n"

    def case(rng: np.random.Generator) -> str:
        as_table = bool(rng.integers(2))
        file = folder / ("list.csv" if as_table else "metadata.csv")
        (folder / "metadata.csv").unlink(missing_ok=True)
        file.write_bytes(mutated(rng, table, table[::-1], WORDS))
        data = str(file if as_table else folder)
        try:
            catalog = load_catalog(Config(data=data, cache=str(folder / ".cache")))
        except DataError as error:
            return "rejected" if str(error) else "rejected without a reason"
        table_read = catalog.table
        readable = table_read["path"][table_read["status"] == "ok"]
        assert set(table_read["label"]) <= set(CLASSES)
        assert len(catalog.thumbnails) == len(readable)
        real_paths = [Path(os.path.realpath(folder / path)) for path in readable]
        assert all(path.is_relative_to(folder) for path in real_paths)
        assert not table_read["patient"].str.contains("P").any()
        assert as_table or table_read.set_index("path")["label"].to_dict() == labels
        return "read"

    fuzz(case, count, seconds)


SOAK = pytest.param(10**7, LONG, id="long", marks=pytest.mark.soak)


def outcomes_of(tmp_path: Path, function: Callable[..., None], *args: object) -> Counter[str]:
    """What a function has printed, run in a gigabyte; the last argument is its time in seconds."""
    log = tmp_path / "log"
    code, output = run_apart(log, function, *args, memory=1 << 30, seconds=5 * float(args[-1]))
    assert code == 0, output[-3000:]
    outcomes = Counter(json.loads(output.splitlines()[-1]))
    print(dict(outcomes))
    return outcomes


@pytest.mark.parametrize(("count", "seconds"), [pytest.param(3000, SHORT, id="short"), SOAK])
def test_damaged_images_are_decoded_or_rejected_within_a_gigabyte(tmp_path, count, seconds):
    outcomes = outcomes_of(tmp_path, fuzz_decoder, count, seconds)
    assert set(outcomes) == {"read", "rejected"} and min(outcomes.values()) > 100


@pytest.mark.parametrize(("count", "seconds"), [pytest.param(300, SHORT, id="short"), SOAK])
def test_damaged_tables_are_read_or_rejected_and_change_no_label(tmp_path, count, seconds):
    outcomes = outcomes_of(tmp_path, fuzz_tables, tmp_path / "data", count, seconds)
    assert set(outcomes) == {"read", "rejected"} and min(outcomes.values()) > 20


TEXTS = ["0", "-1", "1e9", "nan", "inf", "none", "true", "no", "{}", "[]", "[[1,2]]", "[[[1],2]]"]
TEXTS += ["0.5", "0.5,nan", "(", "\0", "0.5,0.5,0.5", "1,1,1,1,1,1,1,1,1", r"^(\d+)_", "é"]
TEXTS += ["../..", "sample", "identity", "hflip,vflip", "Normal", "Normal,Ill", "weights"]
TEXTS += ['{"a": 1}', '{"a": "Normal"}', "[" * 3000, "9" * 5000, "oversample"]
VALUES = [True, -1, 0, 3, 2**70, 0.5, float("nan"), float("inf"), [], [1], (), (1,), (0.5,)]
VALUES += [("a",), (None,), {}, {"a": "Normal"}, {1: 2}, {"a": []}, object()]


@pytest.mark.filterwarnings("ignore:Possible nested set")
@pytest.mark.parametrize(
    "count",
    [pytest.param(3000, id="short"), pytest.param(30_000, id="long", marks=pytest.mark.soak)],
)
def test_any_settings_are_valid_and_survive_a_rerun_or_are_a_config_error(count):
    draw = random.Random(0)
    names = [field.name for field in dataclasses.fields(Config)]

    def text() -> str:
        characters = draw.choices(string.printable, k=draw.randint(0, 12))
        return draw.choice(TEXTS) if draw.random() < 0.7 else "".join(characters)

    def name() -> str:
        return draw.choice(names) if draw.random() < 0.97 else text()

    outcomes: Counter[str] = Counter()
    for _ in range(count):
        chosen = [name() for _ in range(draw.choice([1, 1, 2, 4]))]
        env = {f"BONELIB_{n.upper()}": text() for n in chosen if draw.random() < 0.6}
        form = {n: draw.choice([*VALUES, text()]) for n in chosen if draw.random() < 0.4}
        try:
            cfg = Config.load(env, **form)
        except ConfigError as error:
            outcomes["rejected" if str(error) else "rejected without a reason"] += 1
            continue
        outcomes["valid"] += 1
        # What the run's config.json keeps gives the same settings again.
        saved = json.loads(json.dumps(cfg.given))
        again = Config.load({}, saved, run=cfg.run, cache=cfg.cache, smoke=cfg.smoke)
        machine = ("given", "images", "mirror")
        compared = [n for n in names if n not in machine]
        assert {n: getattr(again, n) for n in compared} == {n: getattr(cfg, n) for n in compared}
    print(dict(outcomes))
    assert set(outcomes) == {"valid", "rejected"} and min(outcomes.values()) > count / 20
