"""Every setting in one validated, frozen dataclass."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

CLASSES = ("Normal", "Osteopenia", "Osteoporosis")
AUGMENTATIONS = ("hflip", "vflip", "rotate", "shift_scale_rotate", "brightness_contrast", "blur", "noise", "dropout")
VIEWS = (
    "identity", "mirror", "rotate -6", "rotate +6", "mirror rotate -6", "mirror rotate +6",
    "zoom 0.94", "zoom 1.06", "mirror zoom 0.94", "mirror zoom 1.06",
)  # fmt: skip

# What differs from the defaults when there are no ImageNet weights, on the embedded sample, and in CI.
SCRATCH: dict[str, Any] = {"lr": 2e-3, "freeze": 0.0}
SAMPLE: dict[str, Any] = {
    "pretrained": False, "image_size": 96, "batch_size": 16, "epochs": 18, "cycle": 18, "ema": 0.95, "dropout": 0.1,
    "augment": ("hflip", "shift_scale_rotate", "brightness_contrast"),
}  # fmt: skip
SMOKE: dict[str, Any] = {"image_size": 64, "batch_size": 8, "epochs": 2, "cycle": 1, "resamples": 50}

ALLOWED: dict[str, tuple[Any, ...]] = {
    "balance": ("oversample", "weights", "both", "none"),
    "precision": ("auto", "no", "fp16", "bf16"),
    "augment": AUGMENTATIONS,
    "tta": VIEWS,
}
RANGES: dict[str, tuple[float, float]] = {
    "folds": (0, 100), "repeats": (1, 100), "test_size": (0.05, 0.34), "seed": (0, 2**31 - 1),
    "image_size": (32, 1024), "batch_size": (2, 4096), "epochs": (1, 10_000), "patience": (1, 10_000),
    "workers": (-1, 64), "strength": (0.0, 2.0), "dropout": (0.0, 0.9), "freeze": (0.0, 1.0), "lr": (1e-7, 1.0),
    "weight_decay": (0.0, 1.0), "cycle": (1, 10_000), "cycle_mult": (1, 10), "label_smoothing": (0.0, 0.5),
    "mixup": (0.0, 10.0), "layer_decay": (0.1, 1.0), "thaw": (0, 1000), "clip": (0.0, 1000.0), "ema": (0.0, 0.99999), "target": (0.34, 1.0), "resamples": (20, 100_000),
}  # fmt: skip

KINDS: dict[str, Any] = {"str": str, "bool": bool, "int": int, "float": (int, float), "tuple": tuple, "dict": dict}
NUMBERS = {"mean": (1, 3), "std": (1, 3), "prevalence": (3,), "cost": (9,)}  # settings of several numbers, and how many


class ConfigError(ValueError):
    """A setting that does not exist or cannot be; the message names the field, the value and what is allowed."""


@dataclass(frozen=True)
class Config:
    """The settings of a run. Empty strings and -1 mean «decide for me»; `Config.load` is the usual way in."""

    # what is read, and where results go
    data: str = "sample"  # "sample", a folder of class folders, a table (.csv), or a Kaggle slug owner/name
    run: str = ""  # results; empty: runs/<name of the data>
    images: str = ""  # new pictures to be answered about: a file or a folder; empty: the test split's
    cache: str = ".cache/bonelib"  # decoded images and downloads; keep it on a local disk
    classes: dict[str, str] = field(default_factory=dict)  # folder name -> class, for names not understood
    metadata: str = ""  # a table of patients; empty: metadata.csv beside the class folders, if there
    patient_regex: str = ""  # finds the patient in a file name, e.g. ^(\d+)_
    # partition and balance
    test_size: float = 0.2  # of all groups; val is as large
    folds: int = 0  # 0: one train/val/test split; k: k-fold cross-validation
    repeats: int = 1  # of the cross-validation, each with its own seed
    balance: str = "oversample"
    seed: int = 0
    # pictures
    image_size: int = 300
    augment: tuple[str, ...] = tuple(a for a in AUGMENTATIONS if a != "vflip")  # radiographs have an up: see the README
    strength: float = 1.0  # of the augmentation; 0 leaves only the flips
    workers: int = -1  # loader processes; -1: none on the CPU (the model needs the cores), else up to 4
    # model
    backbone: str = "efficientnet_b3"  # any timm name
    pretrained: bool = True
    weights: str = ""  # a file of backbone weights, in place of the hub
    backbone_args: dict[str, Any] = field(default_factory=dict)  # passed to timm, e.g. {"pad_type": "same"}
    mean: tuple[float, ...] = ()  # of the weights' training images, 0..1; empty: timm's for this backbone
    std: tuple[float, ...] = ()
    dropout: float = 0.3
    freeze: float = 0.5  # share of the backbone's parameter tensors, from the input on, that stay as they are
    # training
    batch_size: int = 16  # over all devices together
    epochs: int = 30
    patience: int = 15  # epochs without a better validation accuracy
    lr: float = 1e-3
    weight_decay: float = 0.01
    cycle: int = 8  # epochs to the first warm restart of the cosine schedule
    cycle_mult: int = 2  # each cycle is so many times as long as the one before
    label_smoothing: float = 0.1
    ordinal: bool = False  # label smoothing towards the neighbouring classes only
    mixup: float = 0.0  # alpha of timm's mixup; 0: off
    layer_decay: float = 1.0  # each block's rate is so many times that of the block above; 1: off
    thaw: int = 0  # epochs between quarters of the backbone that are released, down to `freeze`; 0: released at once
    clip: float = 1.0  # gradient norm; 0: off
    ema: float = 0.99  # decay of the averaged weights; 0: off
    precision: str = "auto"
    deterministic: bool = False  # on a GPU: the same figures every time, at some cost in speed
    trackers: tuple[str, ...] = ()  # of accelerate, such as tensorboard or wandb
    mirror: str = ""  # a second folder, on Drive say, that the run folder is copied to as it grows
    resume: bool = True  # go on from the newest checkpoint in the run folder
    # evaluation
    tta: tuple[str, ...] = VIEWS  # what test-time augmentation averages over
    resamples: int = 1000  # of the bootstrap
    prevalence: tuple[
        float, ...
    ] = ()  # shares of the three classes where the model is to be used; empty: as in the data
    cost: tuple[float, ...] = ()  # nine numbers, a row a true class, of calling it each class; empty: the distance
    target: float = 0.9  # accuracy of what is answered, when unsure images are referred
    smoke: bool = False  # the tiny run that CI makes

    @classmethod
    def load(cls, env: Mapping[str, str] | None = None, **form: Any) -> Config:
        """Defaults, then what the sample or a smoke run changes, then `BONELIB_<FIELD>`, then the form's non-empty values."""
        env = os.environ if env is None else env
        given = {k[len("BONELIB_") :].lower(): v for k, v in env.items() if k.startswith("BONELIB_") and v != ""}
        given |= {k: v for k, v in form.items() if v not in ("", None)}
        plain = cls()
        defaults = {f.name: getattr(plain, f.name) for f in fields(cls)}
        for name in given:
            if name not in defaults:
                near = difflib.get_close_matches(name, defaults, 1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(defaults)}"
                raise ConfigError(f"no setting is called {name!r} (value {given[name]!r}): {hint}")
        given = {k: _parse(k, v, defaults[k]) if isinstance(v, str) else v for k, v in given.items()}
        profile: dict[str, Any] = {}
        if given.get("data", cls.data) == "sample":
            profile |= SAMPLE
        if not given.get("pretrained", profile.get("pretrained", True)) and not given.get("weights"):
            profile |= SCRATCH
        if given.get("smoke", False):
            profile |= SMOKE | {"pretrained": False, "freeze": 0.0}
        return cls(**(profile | given))

    def __post_init__(self) -> None:
        for f in fields(self):
            value, (kind, _, inner) = getattr(self, f.name), str(f.type).partition("[")
            fits = isinstance(value, KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))
            if not fits or (kind == "tuple" and not all(isinstance(v, KINDS[inner.split(",")[0]]) for v in value)):
                raise ConfigError(f"{f.name} = {value!r}: expected {f.type}")
        if not self.run:
            object.__setattr__(self, "run", f"runs/{Path(self.data).stem or 'run'}")
        if self.weights:
            object.__setattr__(self, "pretrained", True)
        for name, allowed in ALLOWED.items():
            value = getattr(self, name)
            for one in value if isinstance(value, tuple) else (value,):
                if one not in allowed:
                    raise ConfigError(f"{name} = {one!r}: allowed are {', '.join(allowed)}")
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} = {getattr(self, name)!r}: allowed is {low:g} to {high:g}")
        if self.folds in (1, 2):
            raise ConfigError(f"folds = {self.folds}: allowed is 0 (one train/val/test split) or at least 3")
        for folder, label in self.classes.items():
            if label not in (*CLASSES, ""):
                raise ConfigError(
                    f"classes: folder {folder!r} is mapped to {label!r}: allowed are {', '.join(CLASSES)}, "
                    "or an empty text to leave the folder out"
                )
        if not self.tta:
            raise ConfigError(f"tta = {self.tta!r}: expected at least one view, such as {VIEWS[0]}")
        try:
            re.compile(self.patient_regex)
        except re.error as error:
            raise ConfigError(f"patient_regex = {self.patient_regex!r}: no regular expression ({error})") from error
        for name, counts in NUMBERS.items():
            value = getattr(self, name)
            least = 1e-6 if name == "std" else 0
            if value and (len(value) not in counts or not all(least <= v < math.inf for v in value) or max(value) <= 0):
                raise ConfigError(
                    f"{name} = {value!r}: expected {' or '.join(map(str, counts))} numbers, not negative, not all 0"
                )

    @property
    def root(self) -> Path:
        """The run folder."""
        return Path(self.run)

    def json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Config:
        raw: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
        return cls(**raw)


def _parse(name: str, text: str, default: Any) -> Any:
    """`text` as the type of the field's default."""
    try:
        if isinstance(default, bool):
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        if isinstance(default, (int, float)):
            return type(default)(text)
        if isinstance(default, dict):
            return dict(json.loads(text))
        if isinstance(default, tuple):
            parts = tuple(p.strip() for p in text.split(",") if p.strip() and p.strip() != "none")
            return tuple(float(p) for p in parts) if name in NUMBERS else parts
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        expected = {bool: "1 or 0", dict: 'JSON such as {"a": "b"}', tuple: "values parted by commas"}
        kind = expected.get(type(default), f"a number ({type(default).__name__})")
        raise ConfigError(f"{name} = {text!r}: expected {kind}") from error
    return text
