"""The five notebooks on data with hostile names and metadata, interrupted by Ctrl-C."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from bonelib.data.sample import make_sample
from bonelib.storage import read_json
from tests.apart import run_notebook
from tests.builders import run_apart

# What every patient's id begins with.
PATIENT = "PATIENT-4711"
MARKUP = '"><img src=x onerror=alert(1)><script>alert(2)</script>'
FILE_NAMES = (
    "<img src=x onerror=alert(1)>",
    "a,b\nc\"d'e",
    "$x$ $\\frac{",
    "骨密度 é",
    "|`* _&amp;#",
    "{evil}%s",
    "n" * 200,
)
# Of each notebook: the call that Ctrl-C interrupts, and what its rerun leaves in the run folder.
STAGES = {
    "01_explore": ("bonelib.data.images.letterbox", 2, "audit.json"),
    "02_balance": ("bonelib.pipeline.split", 1, "figures/views.png"),
    # the second epoch's checkpoint is half written
    "03_train": ("bonelib.training.checkpoint.save_model", 4, "model/config.json"),
    "04_evaluate": ("bonelib.evaluation.evaluate.intervals", 1, "report.html"),
    "05_predict": ("bonelib.prediction.archive.write_csv", 1, "answers/*/answers.csv"),
}


@dataclass
class Whole:
    """The folders of the data, the run and the cache, and what each notebook did.

    interrupted: exit code and output. leftovers: temporary files after it. rerun: the output.
    """

    folder: Path
    interrupted: dict[str, tuple[int, str]] = field(default_factory=dict)
    leftovers: dict[str, list[str]] = field(default_factory=dict)
    rerun: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.data, self.run, self.cache = (self.folder / name for name in ("data", "run", "cache"))

    @property
    def settings(self) -> dict[str, str]:
        folders = {name: str(getattr(self, name)) for name in ("data", "run", "cache")}
        return folders | {"smoke": "1", "backbone": "test_efficientnet"}


def hostile_data(folder: Path) -> None:
    """The smallest sample; some file names break pages, and all metadata identify patients."""
    make_sample(folder, images=60)
    planted = read_json(folder / "planted.json")
    # the report names a copy with another label
    shown = [defect["path"] for defect in planted if defect["kind"].startswith("conflict")]
    (folder / "planted.json").unlink()
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as sheet:
        rows = list(csv.DictReader(sheet))
    renamed = sorted(rows, key=lambda row: row["image"] not in shown)[::4]
    for row, name in zip(renamed, FILE_NAMES, strict=False):
        path = Path(row["image"])
        row["image"] = (path.parent / (name + path.suffix)).as_posix()
        (folder / path).rename(folder / row["image"])
    for number, row in enumerate(rows):
        row["patient_id"] = f"{PATIENT}-{row['patient_id']}"
        row |= {"Patient Name": f"Doe^Jane{number}", "birth_date": "1950-04-07"}
        row |= {"accession": f"{PATIENT}/{number}", MARKUP: MARKUP}
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as sheet:
        writer = csv.DictWriter(sheet, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def run_series(folder: Path, stages: Collection[str] = tuple(STAGES)) -> Whole:
    """Run every notebook on hostile data, those of `stages` after an interruption."""
    whole = Whole(folder)
    hostile_data(whole.data)
    for name, (call, number, _) in STAGES.items():
        if name in stages:
            log, arguments = folder / f"{name}.interrupted", (name, whole.settings, (call, number))
            whole.interrupted[name] = run_apart(log, run_notebook, *arguments, seconds=300)
            files = folder.rglob("*")
            temporary = [file.name for file in files if {".part", ".incoming"} & set(file.suffixes)]
            whole.leftovers[name] = temporary
        log = folder / f"{name}.log"
        code, whole.rerun[name] = run_apart(log, run_notebook, name, whole.settings, seconds=600)
        assert code == 0, whole.rerun[name]
    return whole


# To look at the report: python -m tests.whole FOLDER
if __name__ == "__main__":
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    Path(sys.argv[1]).mkdir(parents=True)
    run_series(Path(sys.argv[1]))
