"""The images below a folder, and the classes that the names of their folders mean."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path, PurePath

import pandas as pd

from bonelib.config import CLASSES, Config
from bonelib.data.dicom import is_dicom
from bonelib.messages import DataError, Finding
from bonelib.storage import find_files

# Words for the default class names.
ALIASES = {"normal": 0, "healthy": 0, "control": 0, "osteopenia": 1, "osteophenia": 1}
ALIASES |= {"osteopenic": 1, "osteoporosis": 2, "osteoporotic": 2}
# Words that question or change a class ("no osteoporosis"), and those of names about a class.
UNCLEAR = re.compile(
    r"\b(abnormal|no|not|without|non[a-z]*|pre(osteo[a-z]*)?|near(ly)?|almost|border[a-z]*|risk"
    r"|susp[a-z]*|possibl[ey]|probabl[ey]|likely|questionable|osteopetro[a-z]*)\b"
)
ABOUT_CLASS = re.compile(r"\b(ab)?normal\b|healthy|osteop")
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp"}
IMAGE_SUFFIXES |= {".gif", ".jp2", ".dcm", ".dicom"}
GIVEN_SPLIT = re.compile(
    r"(train|val|test)(?:ing|id|idation)?(?:[ _-]?(?:set|data|images?|split))?", re.I
)
# Folders, and names behind the name of an image, of what is drawn over images: 12_mask.png.
ANNOTATION = re.compile(
    r"(?i)(.+[ _-])?(masks?|labels?|annotations?|segmentations?|seg|rois?|heat[ _-]?maps?"
    r"|overlays?|contours?|ground[ _-]?truths?|gt)([ _-](images?|maps?))?"
)


def class_of(name: str, class_names: tuple, mapping: Mapping[str, str] | None = None) -> str | None:
    """The class that a folder name or label means; None if unclear.

    Case is ignored, for the default names numbers and misspellings, too. mapping: the setting
    `classes`, whose empty text leaves images out.
    """
    if mapping and name in mapping:
        return mapping[name]
    known = {given.casefold(): given for given in class_names}
    if name.casefold() in known:
        return known[name.casefold()]
    words = _words(name)
    if UNCLEAR.search(words):
        return None
    near = [difflib.get_close_matches(word, ALIASES, 1, cutoff=0.88) for word in words.split()]
    meanings = {CLASSES[ALIASES[match[0]]] for match in near if match}.intersection(class_names)
    return meanings.pop() if len(meanings) == 1 else None


def list_paths(root: Path) -> list[Path]:
    """The paths of all files below `root`, sorted, relative to it; hidden ones are left out.

    DataError for a folder that cannot be listed and a name that cannot be written: nothing may be
    lost silently.
    """
    try:
        paths = sorted(file.relative_to(root) for file in find_files(root))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be listed ({error.strerror})") from error
    for path in paths:
        if re.search("[\r\ud800-\udfff]", str(path)):
            raise DataError(f"{root}: the name {str(path)!r} is not valid text: rename it")
    return paths


def is_image(path: Path) -> bool:
    """Whether a file is to be read: by its suffix or, without one, as DICOM."""
    return path.suffix.lower() in IMAGE_SUFFIXES if path.suffix else is_dicom(path)


def from_folders(root: Path, cfg: Config, findings: list) -> tuple[pd.DataFrame, list[str]]:
    """`path`, `label`, `named` (its folder) and `given_split`, if any; and skipped files."""
    paths = list_paths(root)
    found = [path for path in paths if is_image(root / path)]
    images = _without_annotations(found, cfg, findings)
    # a folder that holds all images cannot tell the classes apart
    parents = [path.parts[:-2] for path in images if not _is_left_out(path.parent, cfg)]
    shared = [*(len(set(names)) == 1 for names in zip(*parents, strict=False)), False].index(False)
    labels = {folder: _label(folder, shared, cfg) for folder in {path.parent for path in paths}}
    skipped = [path.as_posix() for path in sorted({*paths} - {*found}) if labels[path.parent][0]]
    table = pd.DataFrame({"path": [path.as_posix() for path in images]}, dtype=str)
    table["label"] = [labels[path.parent][0] for path in images]
    table["named"] = [labels[path.parent][1] for path in images]
    differing = table[table["label"].notna() & (table["named"] != "")]
    if len(differing):
        path, label, named = differing.iloc[0]
        text = f"Folders of one path name different classes in {len(differing):,} images, e.g. "
        text += f"{path!r}, used as {label} although {named!r} means another class: set classes "
        findings.append(Finding("warning", f"{text}(BONELIB_CLASSES) for one of the folders."))
    given = [[GIVEN_SPLIT.fullmatch(part) for part in path.parts] for path in images]
    splits = [next((m[1].lower() for m in matches if m), "") for matches in given]
    return table.assign(given_split=splits) if any(splits) else table, skipped


def _words(name: str) -> str:
    return " ".join(re.findall(r"[a-z]+", name.lower()))


def _is_left_out(folder: PurePath, cfg: Config) -> bool:
    return any(cfg.classes.get(name) == "" for name in folder.parts or (".",))


def _label(folder: PurePath, shared: int, cfg: Config) -> tuple[str | None, str]:
    """The class that a folder means, None if unclear; and the name that is unclear or differs.

    A name that is nothing but a class counts before others such as "Osteoporosis Knee".
    shared: the folders that all images have in common.
    """
    if _is_left_out(folder, cfg):
        return "", ""
    names = folder.parts[shared:] or (".",)
    means = {name: class_of(name, cfg.class_names, cfg.classes) for name in names}
    about = [name for name in names if means[name] or ABOUT_CLASS.search(_words(name))]
    if not about:
        return None, folder.name or "."
    known = {*cfg.classes, *cfg.class_names}
    exact = [n for n in about if means[n] and (n in known or " " not in _words(n))] or about
    # below the folder of a class, no name may be unclear
    is_unclear = not all(means[name] for name in about[about.index(exact[0]) :])
    labels = {means[name] for name in exact}
    if is_unclear or len(labels) > 1:
        return None, "/".join(about)
    label = labels.pop()
    return label, next((name for name in about if means[name] not in (label, None)), "")


def _without_annotations(images: list[Path], cfg: Config, findings: list[Finding]) -> list[Path]:
    """The images without masks, labels and the like, unless nothing else is there."""
    stems = {path.with_suffix("") for path in images}

    def is_annotation(path: Path) -> bool:
        if any(ANNOTATION.fullmatch(n) and n not in cfg.classes for n in path.parts[:-1]):
            return True
        match = ANNOTATION.fullmatch(path.stem)
        return bool(match and match[1] and path.with_name(match[1][:-1]) in stems)

    kept = [path for path in images if not is_annotation(path)]
    if not kept or len(kept) == len(images):
        return images
    text = f"{len(images) - len(kept):,} files are masks, labels or other annotations of images by"
    example = next(path.as_posix() for path in images if path not in kept)
    findings.append(Finding("note", f"{text} their names and are not used, e.g. {example!r}."))
    return kept
