"""What one notebook takes from the one before: found in the run folder if it fits, made by the same functions if not."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm.auto import tqdm

from bonelib import archive, artifact, audit, catalog, evaluation, images, inputs, model, predict, split, train
from bonelib.config import Config
from bonelib.resume import ResumeError

Training = tuple[Config, pd.DataFrame, NDArray[Any]]  # settings, splits, and the pictures in their order


def audited(cfg: Config, afresh: bool = False) -> tuple[pd.DataFrame, dict[str, Any], NDArray[Any], Path]:
    """The audited table, the audit's findings, (N, 224, 224) pictures of its readable rows, and the data folder.

    `catalog.csv` and `audit.json` are read if they are of these very files, else made; `afresh` makes them anyway.
    """
    with model.processes().main_process_first():  # under torchrun the others find what the first has made
        table, thumbs, root = catalog.catalog(cfg)
        kept = None if afresh else _kept(cfg.root, table)
        if kept is None:
            if not afresh:
                print(f"{cfg.root} holds no audit of these images: making it, as 01_explore does")
            kept = audit.audit(table, thumbs, cfg, root)
            artifact.write(cfg.root / "catalog.csv", kept[0].to_csv(index=False))
            artifact.write(cfg.root / "audit.json", json.dumps(kept[1], indent=2))
            artifact.write(cfg.root / "config.json", cfg.json())
    return *kept, thumbs, root


def trainings(cfg: Config) -> Iterator[Training]:
    """Each training that `cfg` asks for: its settings, its splits, and the pictures in their order, (N, S, S) uint8.

    One in the run folder, or with `folds` one a fold and repeat in a folder of its own below it, with `splits.csv` each.
    """
    table, _, _, root = audited(cfg)
    each = list(itertools.product(range(cfg.repeats if cfg.folds else 1), range(cfg.folds or 1)))
    for repeat, fold in tqdm(each, desc="trainings", disable=len(each) == 1 or not model.processes().is_main_process):
        below = f"/repeat-{repeat}-fold-{fold}" if cfg.folds else ""
        mirror = cfg.mirror and cfg.mirror + below
        one = dataclasses.replace(cfg, run=cfg.run + below, mirror=mirror, seed=cfg.seed + repeat)
        splits = split.split(table, cfg, fold, repeat)
        with model.processes().main_process_first():
            artifact.write(one.root / "splits.csv", splits.to_csv(index=False))
            if cfg.folds and repeat == fold == 0:
                artifact.write(cfg.root / "splits.csv", splits.to_csv(index=False))
            pixels, facts = images.cache(root, splits["path"].tolist(), cfg.image_size, cfg.cache)
        known = table.set_index("path")["sha256"].reindex(splits["path"])
        changed = splits["path"][facts["sha256"].to_numpy() != known.to_numpy()]
        if len(changed):
            raise catalog.DataError(f"{changed.iloc[0]} changed since the audit; run 01_explore again")
        yield one, splits, pixels


def _kept(run: Path, table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """What an earlier notebook left in the run folder, if it is of the same files, labels and patients."""
    try:
        old = pd.read_csv(run / "catalog.csv", dtype={"patient": str, "group": str, "issues": str, "sha256": str})
        findings = json.loads((run / "audit.json").read_text())
    except (OSError, ValueError):
        return None
    texts = ["patient", "format", "sha256", "group", "issues"]
    old[texts] = old[texts].fillna("")
    same = ["path", "label", "sha256"]
    if len(old) != len(table) or not np.array_equal(old[same].to_numpy(str), table[same].to_numpy(str)):
        return None
    if not np.array_equal(*(pd.factorize(t["patient"])[0] for t in (old, table))):  # by whom, whatever the salt
        return None
    return old, findings


def trained(cfg: Config, splits: pd.DataFrame, pixels: NDArray[Any]) -> tuple[model.Net, dict[str, Any]]:
    """The run's model, on the device, and its config.json; trained here, as 03_train does, if the run has none."""
    folder = cfg.root / "model"
    if not (folder / "config.json").is_file():
        print(f"{cfg.root} holds no trained model: training one, as 03_train does")
        train.train(cfg, splits, pixels, cfg.root)
    net, meta = model.load(folder)
    if meta["image_size"] != pixels.shape[1]:
        raise ResumeError(
            f"{folder} was trained at image_size {meta['image_size']}, found {pixels.shape[1]}: say the same"
        )
    if meta["splits"] != split.digest(splits):
        raise ResumeError(
            f"{folder} was trained on other images or another split than {cfg.root}/splits.csv; evaluating it would mix "
            "training and test images. Restore the data and settings, or choose another run folder and train again"
        )
    return net.to(model.device()), meta


def amend(trainings: Sequence[Training], **learnt: float | None) -> None:
    """Leave in each config.json what validation taught, the class shares of training, and what its images are like."""
    for one, splits, pixels in trainings:
        gauge = inputs.fit(pixels[np.flatnonzero(splits["split"] == "train")])
        model.amend(one.root / "model", **learnt, priors=[p.tolist() for p in split.priors(splits)], inputs=gauge)
        if not gauge:
            print("too few training images to say what is like them: the model will refuse blank images only")


def calibrated(cfg: Config) -> list[predict.Model]:
    """The run's models, ready to answer; where missing, trained as 03_train does and calibrated as 04_evaluate does."""
    metas = [json.loads((folder / "config.json").read_text()) for folder in predict.folders(cfg.root)]
    if not metas or not all("threshold" in meta for meta in metas):
        _check_data(cfg)
        made = list(trainings(cfg))
        nets = [trained(*one)[0] for one in made]
        parts = [
            predict.held_out(net, *one[1:], one[0], ["val"], ["plain"]) for net, one in zip(nets, made, strict=True)
        ]
        if model.processes().is_main_process:
            amend(made, **evaluation.learnt(pooled(cfg, parts, made), split.priors(made[0][1]), cfg.target))
        model.processes().wait_for_everyone()
    return predict.load(cfg.root)


def _check_data(cfg: Config) -> None:
    """A run of other data is left as it is: its catalogue and splits would be written over."""
    kept = cfg.root / "config.json"
    if kept.is_file() and (data := json.loads(kept.read_text())["data"]) != cfg.data:
        raise catalog.DataError(
            f"{cfg.root} was made from data = {data!r}, and is asked about {cfg.data!r}: give that data, another run "
            "folder, or, to ask a calibrated model about new pictures, images"
        )


def unseen(cfg: Config) -> tuple[Path, list[str]]:
    """A folder and the paths in it of the pictures that `cfg.images` means; if it is empty, those of the test split."""
    if cfg.images:
        return archive.files(cfg.images)
    _check_data(cfg)
    splits = next(trainings(cfg))[1]
    return audited(cfg)[3], splits.loc[splits["split"] == "test", "path"].tolist()


def pooled(cfg: Config, tables: Sequence[pd.DataFrame], trainings: Sequence[Training]) -> pd.DataFrame:
    """What each training says of its own held-out images, in one table; with `folds`, `seed` and `fold` say which it was."""
    if not cfg.folds:
        return tables[0]
    named = [
        t.assign(seed=one.seed, fold=splits.loc[splits["split"] == "test", "fold"].iloc[0])
        for t, (one, splits, _) in zip(tables, trainings, strict=True)
    ]
    return pd.concat(named, ignore_index=True)


def show(figure: Figure, cfg: Config, name: str) -> Figure:
    """Keep a figure as `figures/<name>.png` in the run folder, and give it back to be displayed."""
    if model.processes().is_main_process:
        with artifact.whole(cfg.root / "figures" / f"{name}.png") as aside:
            figure.savefig(aside)
    return figure


def say(sentences: Iterable[str]) -> None:
    """Print sentences, a line each, folded between words: a notebook breaks long lines within them."""
    for sentence in sentences:
        print(textwrap.fill(sentence, 100, subsequent_indent="  "))


def live(plot: Callable[[pd.DataFrame], Figure]) -> Callable[[pd.DataFrame], None] | None:
    """A callback that redraws `plot` in place under the running cell; None where there is no notebook."""
    if "ipykernel" not in sys.modules:
        return None
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)
    return lambda table: handle.update(plot(table))
