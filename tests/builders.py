"""What tests are made of: tables, images and folders, small and with known properties."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from bonelib.config import CLASSES, Config
from bonelib.split import Fold
from bonelib.storage import write_csv, write_json


def audited_table(
    groups_per_class: Sequence[int] = (40, 25, 15),
    seed: int = 0,
    class_names: Sequence[str] = CLASSES,
) -> pd.DataFrame:
    """An audited table: groups of one to four images, in random order."""
    rng = np.random.default_rng(seed)
    rows = [
        {"path": f"{c}/{g}-{i}.png", "label": c, "group": f"{c}{g}", "status": "ok", "issues": ""}
        for c, n in zip(class_names, groups_per_class, strict=True)
        for g in range(n)
        for i in range(rng.integers(1, 5))
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=seed, ignore_index=True)


def blocks(seed: int = 0, size: int = 96, block: int = 8) -> NDArray[np.uint8]:
    """A grey image (size, size) of random blocks, none black or white."""
    count = size // block
    levels = np.random.default_rng(seed).integers(20, 235, (count, count))
    return np.kron(levels, np.ones((block, block))).astype(np.uint8)


# (120, 200): black on the left, 199 on the right.
RAMP = np.tile(np.arange(200, dtype=np.uint8), (120, 1))
# (50, 100): 12 bits, as a detector stores them.
DEEP_RAMP = np.tile(np.arange(0, 4000, 40, dtype=np.uint16), (50, 1))


def encoded(image: Image.Image | NDArray[Any], image_format: str, **options: Any) -> bytes:
    """The bytes of an image file."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    out = BytesIO()
    image.save(out, image_format, **options)
    return out.getvalue()


def waves(seed: int = 0, shape: tuple[int, int] = (90, 120)) -> NDArray[np.uint8]:
    """A smooth grey image (H, W), another one for each seed."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    a, b, c = np.random.default_rng(seed).uniform(4, 15, 3)
    return (128 + 60 * np.sin(x / a + c) + 60 * np.cos(y / b)).astype(np.uint8)


def dicom_file(pixels: NDArray[Any] = DEEP_RAMP, **header: Any) -> bytes:
    """A DICOM file of 12-bit grey values (H, W), or of colours (H, W, 3) uint8.

    Skips the test without pydicom. The patient is 4711, Doe^Jane.
    """
    pydicom = pytest.importorskip("pydicom", reason="needs the optional pydicom")
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    grey_facts = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    grey_facts |= {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}
    colour_facts = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}
    colour_facts |= {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PlanarConfiguration": 0}
    facts = {"PixelRepresentation": 0, "PatientID": "4711", "PatientName": "Doe^Jane"}
    facts["Rows"], facts["Columns"] = pixels.shape[:2] if colour else pixels.shape[-2:]
    facts |= (colour_facts if colour else grey_facts) | header
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    syntax = facts.pop("TransferSyntaxUID", pydicom.uid.ExplicitVRLittleEndian)
    dataset.file_meta.TransferSyntaxUID = syntax
    for place, prefix in ((dataset, "SOP"), (dataset.file_meta, "MediaStorageSOP")):
        setattr(place, f"{prefix}ClassUID", "1.2.840.10008.5.1.4.1.1.1")
        setattr(place, f"{prefix}InstanceUID", "1.2.3")
    for name, value in facts.items():
        setattr(dataset, name, value)
    data = pixels.astype(np.uint8 if dataset.BitsAllocated == 8 else np.uint16).tobytes()
    compressed = pydicom.uid.UID(syntax).is_compressed
    dataset.PixelData = pydicom.encaps.encapsulate([data]) if compressed else data
    dataset["PixelData"].VR = "OB" if compressed else "OW"
    out = BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def run_apart(
    log: Path,
    function: Callable[..., Any],
    *args: Any,
    memory: int = 0,
    file_size: int = 0,
    seconds: float = 120,
) -> tuple[int, str]:
    """The exit code and the output of `function(*args)` in a process of its own.

    memory: bytes that it may take beyond what it starts with; file_size: of the largest file that
    it may write. The test fails if it takes longer than `seconds`.
    """
    limits = (log, memory, file_size)
    # forked from a fresh process that has imported what most need: importing takes seconds
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bonelib.colab", "bonelib.scoring", "bonelib.plots.evaluation"])
    arguments = (dict(os.environ), *limits, function, args)
    process = context.Process(target=_run_limited, args=arguments)
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"still running after {seconds:.0f} s:\n{log.read_text()}")
    return process.exitcode, log.read_text(errors="replace")


def _run_limited(
    environment: dict[str, str],
    log: Path,
    memory: int,
    file_size: int,
    function: Callable[..., Any],
    args: Any,
) -> None:
    import resource

    os.environ.clear()
    os.environ.update(environment)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if memory:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if file_size:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    function(*args)


def draw_predictions(
    seed: int = 0, groups: int = 60, skill: float = 1.5, most: int = 3, class_count: int = 3
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Labels (N,), probabilities (N, K) whose errors the images of a group share, groups (N,).

    Groups hold one to `most` images. skill: 0 is chance.
    """
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rng.integers(1, most + 1, groups))
    shares = np.linspace(1.6, 1, class_count) / np.linspace(1.6, 1, class_count).sum()
    y = rng.choice(class_count, groups, p=shares)[group]
    errors = rng.normal(size=(groups, class_count))[group]
    errors += 0.7 * rng.normal(size=(len(y), class_count))
    odds = np.exp(skill * np.eye(class_count)[y] + errors)
    return y, odds / odds.sum(1, keepdims=True), group


def probability_table(
    probabilities: NDArray[Any], class_names: Sequence[str] = CLASSES
) -> pd.DataFrame:
    """The probability columns of predictions.csv."""
    return pd.DataFrame(probabilities, columns=[f"p_{name.lower()}" for name in class_names])


def predictions_table(
    seed: int = 0,
    sizes: Sequence[int] = (60, 30, 40),
    skill: float = 1.5,
    class_names: Sequence[str] = CLASSES,
) -> pd.DataFrame:
    """A predictions.csv with rows of train, val and test, plain and tta.

    sizes: groups of each split.
    """
    tables = []
    for number, (split, groups) in enumerate(zip(("train", "val", "test"), sizes, strict=True)):
        y, plain, group = draw_predictions(
            100 * seed + number, groups, skill, class_count=len(class_names)
        )
        labels = [class_names[c] for c in y]
        rows = pd.DataFrame({"path": [f"{c}/{split}{i}.png" for i, c in enumerate(labels)]})
        rows = rows.assign(label=labels, group=[f"{split}-{g}" for g in group], split=split)
        softened = plain ** (1 / 1.3)
        softened /= softened.sum(1, keepdims=True)
        for kind, probabilities in (("plain", plain), ("tta", softened)):
            table = probability_table(probabilities, class_names)
            tables.append(rows.assign(tta=kind).join(table))
    return pd.concat(tables, ignore_index=True)


def baseline_table(
    predictions: pd.DataFrame,
    skill: float,
    name: str = "intensity",
    class_names: Sequence[str] = CLASSES,
) -> pd.DataFrame:
    """Test rows of a baseline whose probabilities lean towards the truth by `skill`."""
    chosen = (predictions["split"] == "test") & (predictions["tta"] == "plain")
    test = predictions[chosen].reset_index(drop=True)
    truth = np.eye(len(class_names))[[list(class_names).index(c) for c in test["label"]]]
    weights = np.random.default_rng(5).dirichlet(np.ones(len(class_names)), len(test))
    weights += skill * truth
    table = probability_table(weights / weights.sum(1, keepdims=True), class_names)
    return test[["path", "label", "group"]].assign(baseline=name).join(table)


def audit_results() -> dict[str, Any]:
    """The content of audit.json: two clusters, one of them a conflict, and a shortcut."""
    conflict = {
        "paths": ["Normal/0.png", "Osteopenia/1.png", "Osteoporosis/2.png"],
        "labels": list(CLASSES),
        "kept": "Normal/0.png",
        "kinds": ["mirrored", "resized"],
        "confidence": 0.9,
        "conflict": True,
    }
    paths = ["Normal/3.png", "Osteopenia/4.png"]
    same = {"paths": paths, "labels": list(CLASSES[:2]), "kept": paths[0], "kinds": ["same file"]}
    age = {"name": "age", "auroc": 0.9, "low": 0.8, "high": 0.95, "warning": "Age predicts."}
    width = {"name": "width", "auroc": 0.4, "low": 0.2, "high": 0.6, "warning": None}
    return {
        "counts": {"found": 9, "readable": 8, "unique": 6, "unconflicted": 6, "used": 5},
        "clusters": [{**same, "confidence": 1.0, "conflict": False}, conflict],
        "conflicts": [conflict],
        "named": [],
        "groups": 5,
        "patients": 0,
        "defects": {"blank": ["Normal/7.png"]},
        "shortcuts": [age, width],
        "metadata": {"odd": [], "unmatched": []},
        "findings": [{"level": "alarm", "text": "Shortcut: age alone predicts the class."}],
    }


def evaluate(table, class_names, baselines=None, catalog=None, shares=None, **settings) -> dict:
    """metrics.json's content with these settings, by default few resamples."""
    from bonelib.evaluation.evaluate import evaluate

    known = CLASSES if set(class_names) <= set(CLASSES) else tuple(class_names)
    cfg = Config(class_names=known, **{"resamples": 30, **settings})
    return evaluate(table, class_names, cfg, baselines, catalog, shares)


def finished_run(folder: Path, class_names: Sequence[str] = CLASSES) -> Path:
    """A run folder with every artifact that the report reads, without leaks."""
    from bonelib.training.model import model_digest

    table = predictions_table(class_names=class_names)
    baselines = baseline_table(table, 0.2, class_names=class_names)
    metrics = evaluate(table, class_names, baselines, resamples=60)
    splits = table.loc[table["tta"] == "plain", ["path", "label", "group", "split"]]
    digests = [f"{number:064x}" for number in range(len(splits))]
    catalog = splits[["path", "label", "group"]].assign(status="ok", patient="", sha256=digests)
    history = pd.DataFrame({"epoch": [1, 2, 3], "lr": 1e-3, "seconds": 60.0})
    history = history.assign(train_loss=[1.0, 0.8, 0.7], val_loss=[1.1, 0.9, 1.0])
    history = history.assign(train_accuracy=[0.4, 0.6, 0.7], val_accuracy=[0.4, 0.6, 0.5])
    splits = splits.assign(fold=0, draws=(splits["split"] == "train").astype(int))
    tables = {"predictions": table, "splits": splits, "catalog": catalog, "history": history}
    for name, rows in tables.items():
        write_csv(folder / f"{name}.csv", rows)
    corners = {"auroc": {"value": 0.5, "low": 0.4, "high": 0.6}}
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    facts = {"test_reads": 3, "model_digest": model_digest(folder / "model")}
    write_json(folder / "metrics.json", metrics | facts)
    write_json(folder / "audit.json", audit_results())
    write_json(folder / "explain.json", {"corners_only": corners, "findings": []})
    write_json(folder / "config.json", {"epochs": 3})
    model = {"class_names": list(class_names), "backbone": "efficientnet_b3", "epoch": 2}
    write_json(folder / "model" / "config.json", model | {"gauge": {"limit": 4.0}})
    return folder


def fold_of(
    images: NDArray[np.uint8],
    y: NDArray[np.int64],
    class_names: Sequence[str] = CLASSES,
    **settings: Any,
) -> Fold:
    """A fold of images (N, S, S) with labels (N,): one group each, every third image in test."""
    labels = [class_names[c] for c in y]
    paths = [f"{label}/{i}.png" for i, label in enumerate(labels)]
    splits = pd.DataFrame({"path": paths, "label": labels, "group": paths, "split": "train"})
    splits.loc[::3, "split"] = "test"
    splits = splits.assign(fold=0, draws=1)
    cfg = Config(class_names=tuple(class_names), image_size=images.shape[1], **settings)
    return Fold(cfg, splits, images, Path("unused"))


# A transformer, one with shifted windows, and convolutions: small models, and their arguments.
FAMILIES: dict[str, dict[str, Any]] = {
    "test_vit": {},
    "swin_tiny_patch4_window7_224": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]},
    "convnext_atto": {},
}


def calibrated_run(
    run: Path,
    class_names: Sequence[str] = CLASSES,
    seed: int = 0,
    size: int = 48,
    backbone: str = "test_efficientnet",
    **facts: Any,
) -> list[Any]:
    """The loaded models of a run folder: one of random weights, calibrated by `facts`.

    By default it rejects blank images only, and refers nothing else.
    """
    import torch

    from bonelib.config import Config
    from bonelib.prediction.answers import load_models
    from bonelib.training.model import build, save_model

    torch.manual_seed(seed)
    settings = {"backbone": backbone, "backbone_args": FAMILIES.get(backbone, {})}
    cfg = Config(**settings, pretrained=False, image_size=size)
    net = build(cfg, len(class_names))
    # the head starts near zero: all probabilities would be equal
    torch.nn.init.normal_(net.backbone.get_classifier().weight)
    count = len(class_names)
    held = np.arange(count, 0, -1) / np.arange(count, 0, -1).sum()
    shares = [[1 / count] * count, held.tolist()]
    calibration = {"temperature": 2.0, "threshold": 0.0, "gauge": {}, "class_shares": shares}
    save_model(net, run / "model", cfg, tuple(class_names), **calibration | facts)
    return load_models(run)


def read_image(path: Path, at_least: int | None = None) -> NDArray[np.uint8]:
    """The grey image in a file."""
    from bonelib.data.images import decode, read_bytes

    return decode(read_bytes(path), at_least)[0]


def image_folder(folder: Path, *paths: str) -> Path:
    """The folder, with a tiny image of noise at each of the paths."""
    for seed, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 255, (20, 30), dtype=np.uint8)
        Image.fromarray(noise).save(folder / path)
    return folder


def drop_root_rights() -> None:
    """Give up root's right to read what permissions forbid (CAP_DAC_OVERRIDE, _READ_SEARCH)."""
    import ctypes

    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    data[0] &= ~0b110
    assert libc.capset(header, data) == 0


def catalog_of(count: int, **columns: Any) -> Any:
    """A catalog of `count` images of noise: PNG files a.png, b.png, ... of class Normal.

    columns: of the table, in place of those or beside them. Only images with status "ok" have
    thumbnails.
    """
    from bonelib.data.catalog import Catalog

    table = pd.DataFrame({"path": [f"{chr(97 + i)}.png" for i in range(count)], "label": "Normal"})
    table = table.assign(patient="", width=224, height=224, format="PNG", bytes=9)
    table["sha256"] = [str(i) for i in range(count)]
    table = table.assign(status="ok", group="", issues="", coloured=0.0).assign(**columns)
    readable = int((table["status"] == "ok").sum())
    noise = np.random.default_rng(0).integers(0, 255, (readable, 224, 224), np.uint8)
    return Catalog(table, noise, Path("unused"), [], [])
