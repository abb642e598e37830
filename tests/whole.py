"""A data set as hostile as names, tables and headers can make it, and the notebooks run on it, each cut off once by Ctrl-C."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from bonelib import sample
from tests.apart import Apart, notebook

PATIENT = "PATIENT-4711"  # what every patient's id begins with
EVIL = '"><img src=x onerror=alert(1)><script>alert(2)</script>'
NAMES = (
    "<img src=x onerror=alert(1)>",
    "a,b\nc\"d'e",
    "$x$ $\\frac{",
    "骨密度 é",
    "|`* _&amp;#",
    "{evil}%s",
    "n" * 200,
)
STAGES = {  # notebook: which of its calls Ctrl-C falls into, and what its rerun leaves
    "01_explore": ("images.letterbox", 2, "audit.json"),
    "02_balance": ("split.split", 1, "figures/views.png"),
    "03_train": ("checkpoint.save_file", 3, "model/config.json"),  # while the second epoch's checkpoint is written
    "04_evaluate": ("metrics.intervals", 1, "report.html"),
    "05_predict": ("archive._write", 1, "answers/*/answers.csv"),
}


@dataclass
class Whole:
    """Where the data, the run and the cache of decoded pictures lie, and what each cut and each complete run has said."""

    folder: Path
    cut: dict[str, tuple[int, str]] = field(default_factory=dict)
    again: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.data, self.run, self.cache = (self.folder / name for name in ("data", "run", "cache"))


def hostile(folder: Path) -> None:
    """36 synthetic radiographs; some with names, and all with metadata, that would break a page or tell who they are of."""
    sample.make(folder, images=36)
    (folder / "planted.json").unlink()
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as sheet:
        rows = list(csv.DictReader(sheet))
    for row, name in zip(rows[::4], NAMES, strict=False):
        path = Path(row["image"])
        row["image"] = (path.parent / (name + path.suffix)).as_posix()
        (folder / path).rename(folder / row["image"])
    for i, row in enumerate(rows):
        row["patient_id"] = f"{PATIENT}-{row['patient_id']}"
        row |= {"Patient Name": f"Doe^Jane{i}", "birth_date": "1950-04-07", "MRN": f"{PATIENT}/{i}", EVIL: EVIL}
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as sheet:
        writer = csv.DictWriter(sheet, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def run(folder: Path) -> Whole:
    """The series on hostile data; every notebook is first interrupted, then run to its end."""
    whole = Whole(folder)
    hostile(whole.data)
    settings = {"data": str(whole.data), "run": str(whole.run), "cache": str(whole.cache), "smoke": "1"}
    settings |= {"backbone": "test_efficientnet"}
    for name, (call, nth, _) in STAGES.items():
        one = Apart(folder / f"{name}.cut", notebook, name, settings, (call, nth))
        one.until("HELD")
        one.interrupt()
        whole.cut[name] = one.wait(60), one.said
        again = Apart(folder / f"{name}.log", notebook, name, settings)
        assert again.wait(600) == 0, again.said
        whole.again[name] = again.said
    return whole


if __name__ == "__main__":  # to look at the report: python -m tests.whole FOLDER
    import sys

    shutil.rmtree(sys.argv[1], ignore_errors=True)
    Path(sys.argv[1]).mkdir(parents=True)
    run(Path(sys.argv[1]))
