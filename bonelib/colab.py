"""What only Colab needs: settings from a form, images and results on Drive, upload, download.

Elsewhere, `settings` adds to `Config.load` what earlier notebooks of the run were given.
"""

import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path

from bonelib.config import Config
from bonelib.data import catalog, fetch, tables
from bonelib.messages import RunError
from bonelib.run_copy import RunCopy
from bonelib.storage import read_json

MOUNT = Path("/content/drive")
# On other runtimes the third one is there, but empty.
TPU_VARIABLES = ("COLAB_TPU_ADDR", "TPU_NAME", "COLAB_TPU_1VM", "TPU_ACCELERATOR_TYPE")
NO_TPU = "on Colab, choose Runtime > Change runtime type > T4 GPU: TPUs are not supported"

try:
    from bonelib import display, pipeline
    from bonelib.training.device import processes
    from bonelib.training.model import model_folders
except ModuleNotFoundError as error:
    raise RunError(f"{error.name} is not installed; {NO_TPU}") from error


def settings(on_drive: bool = False, **form) -> Config:
    """The settings: form, then `BONELIB_<FIELD>`, then what the run was given, then the defaults.

    Images on Drive or in a zip are copied to the local disk, and the run folder is copied back.
    on_drive: keep a copy of the run folder in MyDrive/bonelib.
    """
    if _is_colab() and any(map(os.environ.get, TPU_VARIABLES)):
        raise RunError(f"this runtime has a TPU; {NO_TPU}")
    # other values can be wrong without those that the run was given
    places = ("run", "data", "mirror")
    given = {name: form.get(name) or os.environ.get(f"BONELIB_{name.upper()}") for name in places}
    cfg = _with_mirror(Config.load({}, {}, **given), on_drive)
    with processes().main_process_first():
        _copy_back(cfg)
        cfg = _with_saved(cfg, form)
        images, external = (_local(place, cfg.cache) for place in (cfg.images, cfg.external))
        cfg = replace(cfg, images=images, external=external)
        # a trained model predicts new images without its data
        if not (cfg.images and model_folders(cfg.root)):
            cfg = replace(cfg, data=_local(cfg.data, cfg.cache))
            if cfg.data != "sample":
                cfg = replace(cfg, data=str(catalog.locate(cfg)))
    shown = f"data {cfg.data}, results in {cfg.run}" + (f" and {cfg.mirror}" if cfg.mirror else "")
    display.sentences(shown)
    return cfg


def finish(cfg: Config) -> None:
    """Complete the copy of the run folder, if there is one; on Drive, wait for its upload."""
    if not cfg.mirror or not processes().is_main_process:
        return
    copy = RunCopy(cfg.root, Path(cfg.mirror))
    copy.push()
    if not copy.wait():
        raise RunError(f"{cfg.mirror} is incomplete: run the settings cell again, then this one")
    if Path(cfg.mirror).is_relative_to(MOUNT):
        _google("drive").flush_and_unmount()
    print(f"{cfg.mirror} now is a copy of {cfg.run}")


def upload(folder: str | Path) -> Path:
    """What the user sends from their computer: one file, or the folder of several."""
    if not _is_colab():
        raise RunError("upload works on Colab only; here, give the path of a file or folder")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(target):
        names = list(_google("files").upload())
    if not names:
        raise RunError("no file was sent: run the cell again and choose some, or untick upload")
    return target / names[0] if len(names) == 1 else target


def download(path: Path) -> None:
    """Send a file to the user's computer; does nothing where this is not Colab."""
    if _is_colab():
        _google("files").download(str(path))


def _is_colab() -> bool:
    return "google.colab" in sys.modules


def _google(name: str):
    """A module of google.colab."""
    return getattr(sys.modules["google.colab"], name)


def _drive_path(text: str) -> Path | None:
    """The path on Drive that `text` means, with Drive mounted; None if it means another place.

    Written as Colab's file browser copies it, or from `drive`, `MyDrive` or `Shareddrives` on.
    """
    tail = text.removeprefix(f"{MOUNT}/").removeprefix("drive/")
    if not _is_colab() or not tail.startswith(("MyDrive", "Shareddrives")):
        return None
    try:
        _google("drive").mount(str(MOUNT))
    # Colab raises many types: access denied, a blocked cookie, a timeout
    except Exception as error:
        advice = "allow the access that Colab asks for, or do without Drive"
        raise RunError(f"Drive could not be connected ({error}): {advice}") from error
    return MOUNT / tail


def _with_mirror(cfg: Config, on_drive: bool) -> Config:
    """`cfg` with a copy on Drive where it is wanted; a run folder on Drive becomes the copy."""
    run = f"runs/{cfg.root.name}" if _drive_path(cfg.run) else cfg.run
    mirror = _drive_path(cfg.mirror) or _drive_path(cfg.run)
    if on_drive and not _is_colab():
        print(f"no Drive outside Colab: results stay in {run}; set BONELIB_MIRROR for a copy")
    elif on_drive and not mirror:
        mirror = _drive_path(f"MyDrive/bonelib/{run.lstrip('/')}")
    return replace(cfg, run=run, mirror=str(mirror or cfg.mirror))


def _copy_back(cfg: Config) -> None:
    """Copy what the run folder lacks; training copies its checkpoints itself."""
    if cfg.mirror:
        mirror = Path(cfg.mirror)
        with fetch.fetch_errors(mirror):
            mirror.mkdir(parents=True, exist_ok=True)
            if RunCopy(cfg.root, mirror).pull(checkpoints=False):
                print(f"copied {cfg.run} back from {mirror}")


def _with_saved(places: Config, form: dict) -> Config:
    """All settings, with what earlier notebooks of this run were given."""
    pipeline.check_version(places.root)
    path = places.root / "config.json"
    saved = read_json(path) if path.is_file() else {}
    cfg = Config.load(None, saved, **form | {"run": places.run, "mirror": places.mirror})
    taken = [f"{name} {value}" for name, value in saved.items() if cfg.given.get(name) == value]
    if taken:
        display.sentences(f"as given to an earlier notebook: {', '.join(taken)}")
    return cfg


def _local(place: str, cache: str) -> str:
    """`place`, or its copy on the local disk if it is a zip or on Drive.

    Of a table on Drive, the images beside it are copied, too.
    """
    path = _drive_path(place)
    if place.lower().endswith(".zip"):
        return str(fetch.unpack(path or Path(place).expanduser(), Path(cache)))
    if path and path.suffix.lower() in tables.TABLE_SUFFIXES:
        return str(fetch.copy_folder(path.parent, Path(cache)) / path.name)
    if path and not path.is_file():
        return str(fetch.copy_folder(path, Path(cache)))
    return str(path or place)
