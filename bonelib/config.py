"""Every setting of a run, with its range, in one frozen dataclass."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from bonelib import parsing

# Default class names, from healthy to ill.
CLASSES = ("Normal", "Osteopenia", "Osteoporosis")
AUGMENTATIONS = (
    *("hflip", "vflip", "rotate", "shift_scale_rotate"),
    *("brightness_contrast", "blur", "noise", "dropout"),
)
VIEWS = (
    *("identity", "mirror", "rotate -6", "rotate +6", "mirror rotate -6", "mirror rotate +6"),
    *("zoom 0.94", "zoom 1.06", "mirror zoom 0.94", "mirror zoom 1.06"),
)
Augmentations = Annotated[tuple[Literal[AUGMENTATIONS], ...], parsing.Commas]  # type: ignore
Views = Annotated[tuple[Literal[VIEWS], ...], parsing.Commas]  # type: ignore

# What differs from the defaults without pretrained weights, on the embedded sample, and in CI.
SCRATCH_PROFILE: dict = {"lr": 2e-3, "freeze": 0.0}
SAMPLE_PROFILE: dict = {"pretrained": False, "image_size": 96, "epochs": 16, "cycle": 16}
SAMPLE_PROFILE |= {"augment": ("hflip", "shift_scale_rotate", "brightness_contrast")}
SAMPLE_PROFILE |= {"ema": 0.95, "dropout": 0.1}
SMOKE_PROFILE: dict = {"pretrained": False, "image_size": 64, "batch_size": 8, "epochs": 2}
SMOKE_PROFILE |= {"cycle": 1, "resamples": 50}

# Settings that belong to a machine or a moment, not to a run.
NOT_SAVED = ("run", "images", "mirror", "cache", "smoke")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Config:
    """The settings of a run, usually made by `Config.load`. Empty texts and -1 mean "choose"."""

    # "sample", a folder with one folder per class, a table (.csv), or a Kaggle slug owner/name
    data: parsing.Place = "sample"
    # results; empty: runs/<name of the data>
    run: str = ""
    # labelled images of another source, given like `data`, on which 04_evaluate tests the run, too
    external: parsing.Place = ""
    # new images for 05_predict: a file or a folder; empty: the test set
    images: parsing.Place = ""
    # decoded images and downloads; keep it on a local disk
    cache: str = ".cache/bonelib"
    # class names, from healthy to ill
    class_names: parsing.Texts = CLASSES
    # folder name -> class name, for folder names that are not understood; "" leaves a folder out
    classes: Annotated[dict[str, str], parsing.Json] = Field(default_factory=dict)
    # a table about the images; empty: metadata.csv beside the class folders, if there is one
    metadata: parsing.Place = ""
    # finds the patient in a file name or path, e.g. ^(\d+)_; "none": no patient is guessed
    patient_regex: str = ""
    # "use": the folder test is the test set; "ignore": all images are split
    given_split: Literal["ignore", "use"] = "ignore"

    # share of all groups in the test set, to the nearest 1/k; the validation set is as large
    test_size: float = Field(default=0.2, ge=0.05, le=0.34)
    # 0: one train/val/test split; k: k-fold cross-validation
    folds: int = Field(default=0, ge=0, le=100)
    # of the cross-validation, each with its own seed
    repeats: int = Field(default=1, ge=1, le=100)
    balance: Literal["oversample", "weights", "both", "none"] = "oversample"
    seed: int = Field(default=0, ge=0, le=2**31 - 1)

    # pixels per side
    image_size: int = Field(default=300, ge=32, le=1024)
    # a radiograph has an up, so the vertical flip is left out by default
    augment: Augmentations = tuple(name for name in AUGMENTATIONS if name != "vflip")
    # of the augmentation; 0 leaves only the flips
    strength: float = Field(default=1.0, ge=0, le=2)
    # loader processes; -1: none on a CPU (the model needs the cores), else up to 4
    workers: int = Field(default=-1, ge=-1, le=64)

    # any timm model
    backbone: str = "efficientnet_b3"
    pretrained: bool = True
    # a .safetensors file of backbone weights, in place of the model hub
    weights: str = ""
    # passed to timm, e.g. {"pad_type": "same"}
    backbone_args: Annotated[dict[str, Any], parsing.Json] = Field(default_factory=dict)
    # of the images that the weights were trained on, 0..1; empty: timm's values for this backbone
    mean: parsing.Numbers = ()
    std: parsing.Positives = ()
    dropout: float = Field(default=0.3, ge=0, le=0.9)
    # share of the backbone's parameter tensors, from the input on, that stay unchanged
    freeze: float = Field(default=0.5, ge=0, le=1)

    # over all devices together
    batch_size: int = Field(default=16, ge=2, le=4096)
    epochs: int = Field(default=30, ge=1, le=10_000)
    # epochs without a better validation accuracy before training stops
    patience: int = Field(default=15, ge=1, le=10_000)
    lr: float = Field(default=1e-3, ge=1e-7, le=1)
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    # epochs to the first warm restart of the cosine schedule
    cycle: int = Field(default=8, ge=1, le=10_000)
    # each cycle is this many times as long as the one before
    cycle_mult: int = Field(default=2, ge=1, le=10)
    label_smoothing: float = Field(default=0.1, ge=0, le=0.5)
    # largest norm of the gradient; 0: off
    clip: float = Field(default=1.0, ge=0, le=1000)
    # decay of the averaged weights; 0: off
    ema: float = Field(default=0.99, ge=0, le=0.99999)
    precision: Literal["auto", "no", "fp16", "bf16"] = "auto"
    # on a GPU: the same numbers every time, at some cost in speed
    deterministic: bool = False
    # a second folder, on Drive for example, that the run folder is copied to while it grows
    mirror: str = ""
    # continue from the newest checkpoint in the run folder
    resume: bool = True

    # the views that test-time augmentation averages over
    tta: Views = Field(default=VIEWS, min_length=1)
    # of the bootstrap
    resamples: int = Field(default=1000, ge=20, le=100_000)
    # shares of the classes where the model is to be used; empty: as in the data
    prevalence: parsing.Numbers = ()
    # accuracy of the answered images, when unsure ones are referred to a person
    target: float = Field(default=0.9, ge=0.34, le=1)
    # that a threshold for screening reaches on validation images
    sensitivity: float = Field(default=0.9, ge=0.5, le=1)
    # the tiny run that CI makes
    smoke: bool = False
    # what the user gave, as given: the content of the run's config.json
    given: dict = Field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, env: Mapping[str, str] | None = None, saved: dict | None = None, **form) -> Self:
        """The settings of a run: form, then `BONELIB_<FIELD>`, then `saved`, then the defaults.

        saved: the run's config.json. Empty values count as not given.
        """
        environment = os.environ if env is None else env
        given = dict(saved or {})
        # BONELIB_REAL is no setting but the tests' folder of real images
        given |= {
            name.removeprefix("BONELIB_").lower(): value
            for name, value in environment.items()
            if name.startswith("BONELIB_") and name != "BONELIB_REAL" and value != ""
        }
        given |= {name: value for name, value in form.items() if value not in ("", None)}
        fields = [field.name for field in dataclasses.fields(cls) if field.name != "given"]
        parsing.check_names(given, fields)
        kept = {name: given[name] for name in given if name not in NOT_SAVED}
        try:
            cfg = cls(**given)
            profile = SAMPLE_PROFILE if cfg.data == "sample" else {}
            profile = profile | (SMOKE_PROFILE if cfg.smoke else {})
            if not cls(**(profile | given)).pretrained:
                profile |= SCRATCH_PROFILE
            return cls(**(profile | given), given=kept)
        except ValidationError as error:
            raise parsing.config_error(error) from error

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.run:
            object.__setattr__(self, "run", f"runs/{Path(self.data).stem or 'run'}")
        if self.weights:
            object.__setattr__(self, "pretrained", True)
        for field in ("mean", "std"):
            if len(values := getattr(self, field)) == 1:
                object.__setattr__(self, field, values * 3)
            elif len(values) not in (0, 3):
                raise ValueError(f"{field} = {values}: expected 3 numbers")
        count = len(self.class_names)
        if count < 2 or len({name.casefold() for name in self.class_names}) < count:
            raise ValueError(
                f"class_names = {self.class_names}: expected two or more different names"
            )
        if self.folds in (1, 2):
            raise ValueError(f"folds = {self.folds}: allowed is 0 (one split) or at least 3")
        if self.folds and self.given_split == "use":
            raise ValueError("given_split = use has one test set: folds must be 0")
        allowed = (*self.class_names, "")
        if unknown := [name for name in self.classes.values() if name not in allowed]:
            raise ValueError(f"classes: {unknown[0]!r} is not one of {', '.join(allowed)} or empty")
        # of the classes that the data hold, which may be fewer than there are names
        shares, allowed_counts = self.prevalence, range(2, count + 1)
        if shares and (len(shares) not in allowed_counts or max(shares) == 0):
            raise ValueError(f"prevalence = {shares}: expected 2 to {count} numbers, not all 0")
        try:
            re.compile(self.patient_regex)
        except re.error as error:
            pattern = self.patient_regex
            raise ValueError(
                f"patient_regex = {pattern!r}: no regular expression ({error})"
            ) from error
        return self

    @property
    def root(self) -> Path:
        """The run folder."""
        return Path(self.run)


def present_classes(cfg: Config, labels: Iterable[str]) -> tuple[str, ...]:
    """Those of the class names that occur in `labels`, in their order."""
    present = set(labels)
    return tuple(name for name in cfg.class_names if name in present)
