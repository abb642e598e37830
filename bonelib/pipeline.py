"""What a notebook takes from the one before: found in the run folder if it fits, else made."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from bonelib.audit.audit import audit
from bonelib.audit.copies import cluster_numbers
from bonelib.config import Config
from bonelib.data.cache import cached_images
from bonelib.data.catalog import load_catalog
from bonelib.messages import ConfigError, DataError, RunError
from bonelib.prediction.archive import find_images
from bonelib.run_copy import RunCopy
from bonelib.split import Fold, split, split_digest
from bonelib.storage import file_digest, progress, read_json, text_digest, write_csv, write_json
from bonelib.training.checkpoint import check, fixed_settings
from bonelib.training.device import processes
from bonelib.training.loop import fit
from bonelib.training.model import TrainedModel, load_model


@dataclasses.dataclass(frozen=True)
class Audited:
    """The audited table, audit.json's content, and the thumbnails of the readable rows.

    table: one row per file. thumbnails: (n, 224, 224) uint8. root: the folder of the data.
    """

    table: pd.DataFrame
    audit: dict
    thumbnails: np.ndarray
    root: Path

    @property
    def readable(self) -> pd.DataFrame:
        """The rows of the thumbnails, in their order."""
        return self.table[self.table["status"] == "ok"].reset_index(drop=True)

    @functools.cached_property
    def clusters(self) -> np.ndarray:
        """(n,) int: readable rows with the same number are copies, compared once more."""
        return cluster_numbers(self.thumbnails, self.readable)


def audited(cfg: Config, refresh: bool = False) -> Audited:
    """The audited data; `catalog.csv` and `audit.json` are read if they belong to these files.

    Nothing in the run folder changes before all checks have passed. refresh: make them again.
    """
    with processes().main_process_first():
        check_version(cfg.root)
        catalog = load_catalog(cfg)
        made_from = _fingerprint(catalog.table, cfg)
        found = None if refresh else _earlier_audit(cfg, made_from)
        if found is None and not refresh:
            print(f"{cfg.root} holds no audit of these images: making it, as 01_explore does")
        table, results = found or audit(catalog, cfg)
        _check_trainings(cfg, table)
        if found is None:
            write_csv(cfg.root / "catalog.csv", table)
            results["made_from"] = [made_from, file_digest(cfg.root / "catalog.csv")]
            write_json(cfg.root / "audit.json", results)
        write_json(cfg.root / "config.json", cfg.given)
    return Audited(table, results, catalog.thumbnails, catalog.root)


def folds(cfg: Config) -> Iterator[Fold]:
    """Each training that `cfg` asks for, with its `splits.csv`.

    One in the run folder, or with `folds` one per fold and repeat in folders of their own below.
    """
    data, trainings = audited(cfg), list(_trainings(cfg))
    hidden = len(trainings) == 1 or not processes().is_main_process
    for fold_cfg, number, repeat in progress(trainings, "trainings", disable=hidden):
        splits = split(data.table, cfg, number, repeat)
        paths = splits["path"].tolist()
        with processes().main_process_first():
            images, facts = cached_images(data.root, paths, cfg.image_size, cfg.cache)
            known = data.table.set_index("path")["sha256"].reindex(paths)
            changed = splits["path"][facts["sha256"].to_numpy() != known.to_numpy()]
            if len(changed):
                raise DataError(f"{changed.iloc[0]} changed since the audit; run 01_explore again")
            write_csv(fold_cfg.root / "splits.csv", splits)
            if cfg.folds and repeat == number == 0:
                write_csv(cfg.root / "splits.csv", splits)
        yield Fold(fold_cfg, splits, images, fold_cfg.root)


def train(fold: Fold, after_epoch: Callable[[pd.DataFrame], None] | None = None) -> pd.DataFrame:
    """The history of a training; the run folder is copied to `mirror` while it grows."""
    mirror = fold.cfg.mirror if processes().is_main_process else ""
    copy = RunCopy(fold.folder, Path(mirror) if mirror else None)
    if fold.cfg.resume and copy.pull():
        print(f"copied {fold.folder} back from {mirror}")
    processes().wait_for_everyone()

    def epoch_ended(history: pd.DataFrame) -> None:
        copy.push(now=False)
        if after_epoch:
            after_epoch(history)

    history = fit(fold, before_checkpoint=copy.wait, after_epoch=epoch_ended)
    copy.push()
    copy.wait()
    return history


def trained_model(fold: Fold) -> TrainedModel:
    """The fold's model; trained here, as 03_train does, if there is none."""
    folder = fold.folder / "model"
    if not (folder / "config.json").is_file():
        print(f"{fold.folder} holds no trained model: training one, as 03_train does")
        train(fold)
    model = load_model(folder)
    made_for = (model.meta["image_size"], model.meta.get("splits"))
    if made_for != (fold.images.shape[1], split_digest(fold.splits)):
        raise RunError(
            f"{folder} was trained at image_size {made_for[0]}, found {fold.images.shape[1]}, or "
            "on another split: train again (03_train), or give another run folder"
        )
    return model


def new_images(cfg: Config) -> tuple[Path, list[str]]:
    """A folder and the paths in it of the images to predict; without `images`, the test set.

    ConfigError without `images` after a cross-validation: no image is new to all of its models.
    """
    if cfg.images:
        return find_images(cfg.images)
    if cfg.folds:
        raise ConfigError(
            "images is empty (BONELIB_IMAGES): after cross-validation each image of the data was "
            "in the training of some model. Give new images; the others are in predictions.csv"
        )
    data = audited(cfg)
    splits = split(data.table, cfg)
    return data.root, splits.loc[splits["split"] == "test", "path"].tolist()


def _trainings(cfg: Config) -> Iterator[tuple[Config, int, int]]:
    """The settings of each training that `cfg` asks for, its fold and its repeat."""
    if not cfg.folds:
        yield cfg, 0, 0
    for repeat, fold in itertools.product(range(cfg.repeats), range(cfg.folds)):
        below, seed = f"/repeat-{repeat}-fold-{fold}", cfg.seed + repeat
        mirror = cfg.mirror and cfg.mirror + below
        yield dataclasses.replace(cfg, run=cfg.run + below, mirror=mirror, seed=seed), fold, repeat


def _earlier_audit(cfg: Config, made_from: str) -> tuple[pd.DataFrame, dict] | None:
    """The run's audit, if it has this fingerprint and its table is unchanged since."""
    texts = ["path", "label", "patient", "format", "sha256", "group", "issues"]
    path = cfg.root / "catalog.csv"
    try:
        results = read_json(cfg.root / "audit.json")
        if results["made_from"] != [made_from, file_digest(path)]:
            return None
        table = pd.read_csv(path, dtype=dict.fromkeys(texts, str))
        return table.fillna(dict.fromkeys(texts, "")), results
    except (OSError, ValueError, KeyError):
        return None


def _fingerprint(table: pd.DataFrame, cfg: Config) -> str:
    """A hash of what decides an audit: files, labels, patients, metadata, use of a given split."""
    # patients are compared by who is the same person: the hashes differ with the salt
    persons = pd.factorize(table["patient"])[0]
    return text_digest(cfg.given_split + table.assign(patient=persons).to_csv())


def check_version(run: Path) -> None:
    """RunError for a run folder of version 1, whose files have other contents."""
    path = run / "config.json"
    if path.is_file() and "layer_decay" in read_json(path):
        raise RunError(
            f"{run} was made by bonelib 1, which this version cannot continue: choose another run "
            "folder (BONELIB_RUN=path). Its report.html can still be opened"
        )


def _check_trainings(cfg: Config, table: pd.DataFrame) -> None:
    """Errors for a run whose models or checkpoints belong to other images, splits or settings."""
    planned = {training[0].root: training for training in _trainings(cfg)}
    names = ("splits.csv", "model", "checkpoints")
    for folder in sorted({path.parent for name in names for path in cfg.root.rglob(name)}):
        settings, *number = planned.get(folder, (cfg, 0, 0))
        made_with = fixed_settings(settings) | {"splits": split_digest(split(table, cfg, *number))}
        places = (str(folder), settings.mirror) if cfg.resume else ()
        for place in filter(None, places):
            check(Path(place), made_with)
