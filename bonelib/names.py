"""What file names tell: copies made by a tool, patients, and data sets whose defects are known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import pandas as pd

from bonelib.config import CLASSES

# OP130_aug_0, OP130-aug-0, OP130_augmented_3: made from OP130, which may lie in another folder
MADE = re.compile(r"^(?P<of>.+?)[ _-]+(?:aug|augmented|flip|flipped|rot|rotated|mirrored)(?:[ _-]*\d*)$", re.I)
# x (2), x - Copy, x - Copy (3), x_copy: made from x, if that lies beside it
COPY = re.compile(r"^(?P<of>.+?)(?: \(\d+\)|[ _-]+copy(?:[ _-]*\(?\d+\)?)?)$", re.I)
PATIENTS = (r"^(\d{4,})[_-]", r"^([A-Za-z]{1,8}[_-]?\d{3,})[_-]", r"^((?:patient|pat|subject|sub|case|p)[_-]?\d+)[_-]")
KNOWN = {  # images of each class, and what others found in the set
    (36, 154, 49): "the Knee X-ray Osteoporosis Database (doi 10.17632/fxjm8fb6mw): 21 groups of its images are "
    "identical pixel by pixel, 7 of them across classes; ages of 17 and 107; T-scores of the heel, not of the knee",
    (780, 374, 793): "the multi-class knee set of 1,947 images: most are copies, Osteopenia 1 to 220 rescaled and "
    "mirrored ones of 221 to 374, and only the format PNG tells apart what is not osteopenia",
}


def made_from(paths: Sequence[str]) -> list[tuple[int, int, str]]:
    """Pairs (a, b, the reason) of images whose names say that one was made from the other or both from a third."""
    first: dict[str, int] = {}
    stems = [PurePosixPath(p).stem.casefold() for p in paths]
    beside = {(str(PurePosixPath(p).parent), stem): i for i, (p, stem) in enumerate(zip(paths, stems, strict=True))}
    roots = [m["of"] if (m := MADE.match(stem)) else stem for stem in stems]
    made = {root for root, stem in zip(roots, stems, strict=True) if root != stem}
    links = []
    for i, (root, stem) in enumerate(zip(roots, stems, strict=True)):
        if root in made:
            of = first.setdefault(root, i)
            if of != i:
                links.append((of, i, f"named as made from {root}"))
        elif m := COPY.match(stem):
            original = beside.get((str(PurePosixPath(paths[i]).parent), m["of"]))
            if original is not None:
                links.append((original, i, f"named as a copy of {m['of']}"))
    return links


def patients(paths: Sequence[str]) -> str | None:
    """A sentence that suggests `patient_regex`, when most names look as if they carried a patient; else None."""
    names = [PurePosixPath(p).name for p in paths]
    for pattern in PATIENTS:
        found = [m[1] for name in names if (m := re.search(pattern, name, re.I))]
        people = len(set(found))
        if len(found) >= 0.8 * len(names) and 1 < people < 0.9 * len(found):
            return (
                f"The file names look as if they carried the patient, e.g. {names[0]!r}: patient_regex = {pattern!r} "
                f"would find {people:,} patients in {len(found):,} of {len(names):,} images. Without it, images of one "
                "patient may stand on both sides of the split."
            )
    return None


def known_set(table: pd.DataFrame) -> str | None:
    """A sentence about the data set, if its counts are those of one whose defects are known."""
    counts = tuple(int((table["label"] == c).sum()) for c in CLASSES)
    if counts in KNOWN:
        return f"With {', '.join(map(str, counts))} images this is {KNOWN[counts]}."
    made = sum(bool(re.match(r"^(n|op|os)\d+_aug_\d+$", PurePosixPath(p).stem, re.I)) for p in table["path"])
    if made >= 20:
        return (
            f"{made:,} names such as OP130_aug_0 are those of the knee set of 224 pixels: most of its images were made "
            "from others by turning and cropping, across its folders train, val and test; they are joined by name too."
        )
    return None
