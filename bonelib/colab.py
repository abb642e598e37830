"""What only Colab needs: settings from the form, images and results on Drive. Elsewhere it is little more than `Config.load`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from bonelib import artifact, catalog, fetch, model, predict
from bonelib.config import Config
from bonelib.mirror import Mirror

MOUNT = Path("/content/drive")


def settings(on_drive: bool = False, **form: Any) -> Config:
    """What the form says, else what the forms of this run's other notebooks said, else `BONELIB_<FIELD>`, else the default.

    Images on Drive or in a zip are brought to the local disk, and the run folder comes back from its mirror.
    on_drive: mirror the run folder in MyDrive/bonelib.
    """
    cfg = _with_mirror(Config.load(**form), on_drive)
    with model.processes().main_process_first():  # under torchrun the others find what the first has brought
        if cfg.mirror:
            with fetch.told(Path(cfg.mirror)):
                Path(cfg.mirror).mkdir(parents=True, exist_ok=True)
                if Mirror(cfg.root, Path(cfg.mirror)).pull(checkpoints=False):  # training brings those itself
                    print(f"brought {cfg.run} back from {cfg.mirror}")
        cfg = Config.load(**_remembered(cfg.root, form) | {"run": cfg.run, "mirror": cfg.mirror})
        cfg = replace(cfg, images=_near(cfg.images, cfg.cache))
        about = f"images {cfg.images}"
        if not (cfg.images and predict.folders(cfg.root)):  # a trained model answers about new ones without its data
            cfg = replace(cfg, data=_near(cfg.data, cfg.cache))
            cfg = cfg if cfg.data == "sample" else replace(cfg, data=str(catalog.locate(cfg)))
            about = f"data {cfg.data}"
    print(f"{about}, results in {cfg.run}" + (f" and {cfg.mirror}" if cfg.mirror else ""))
    return cfg


def finish(cfg: Config) -> None:
    """Bring the results to the mirror, if there is one; on Drive, wait until they have left this machine."""
    if not cfg.mirror or not model.processes().is_main_process:
        return
    mirror = Mirror(cfg.root, Path(cfg.mirror))
    mirror.push()
    if not mirror.wait():
        raise fetch.FetchError(f"{cfg.mirror} lacks some of {cfg.run}: run the settings cell again, then this one")
    if Path(cfg.mirror).is_relative_to(MOUNT):
        from google.colab import drive

        drive.flush_and_unmount()
    print(f"{cfg.mirror} now holds what {cfg.run} holds")


def _is_colab() -> bool:
    return "google.colab" in sys.modules


def _drive_path(text: str) -> Path | None:
    """What `text` means on Drive, written as Colab's file browser copies it, or from `drive` or `MyDrive` on; else None."""
    tail = text.removeprefix(f"{MOUNT}/").removeprefix("drive/")
    return MOUNT / tail if _is_colab() and tail.startswith(("MyDrive", "Shareddrives")) else None


def _mount() -> None:
    from google.colab import drive

    try:
        drive.mount(str(MOUNT))
    except Exception as error:  # Colab raises many kinds: access refused, a blocked cookie, a time-out
        raise fetch.FetchError(
            f"Drive could not be connected ({error}): allow the access that Colab asks for, or leave Drive out"
        ) from error


def _with_mirror(cfg: Config, on_drive: bool) -> Config:
    """`cfg` with a mirror on Drive where it is wanted; a run folder that was put on Drive is mirrored there."""
    named = _drive_path(cfg.mirror) or _drive_path(cfg.run)
    if on_drive and not _is_colab():
        print(f"This is not Colab, without a Drive: results stay in {cfg.run}; BONELIB_MIRROR names a second folder")
    elif on_drive or named:
        _mount()
        run = f"runs/{cfg.root.name}" if _drive_path(cfg.run) else cfg.run
        return replace(cfg, run=run, mirror=str(named or MOUNT / "MyDrive" / "bonelib" / run.lstrip("/")))
    return cfg


def _remembered(run: Path, form: dict[str, Any]) -> dict[str, Any]:
    """The form's values over those that other notebooks of this run were given: else each would need all of them again."""
    path, given = run / "form.json", {k: v for k, v in form.items() if v not in ("", None)}
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    if taken := {k: v for k, v in earlier.items() if k not in given}:
        print("as in the forms before:", ", ".join(f"{k} {v}" for k, v in taken.items()))
    if kept := {k: v for k, v in (earlier | given).items() if k not in ("run", "images")}:
        artifact.write(path, json.dumps(kept))
    return earlier | given


def _near(where: str, cache: str) -> str:
    """`where`, or the place on the local disk of what it holds: a zip; on Drive a folder, or a table with what is beside it."""
    path = _drive_path(where)
    if path:
        _mount()
    if where.lower().endswith(".zip"):
        return str(fetch.unpack(path or Path(where).expanduser(), Path(cache)))
    if path is None or (path.suffix.lower() != ".csv" and path.is_file()):
        return str(path or where)
    if path.suffix.lower() == ".csv":
        return str(fetch.copy(path.parent, Path(cache)) / path.name)
    return str(fetch.copy(path, Path(cache)))
