"""Files and folders of a run that are whole or as they were: written aside, then renamed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError


class ArtifactError(RuntimeError):
    """A result that could not be kept; the message says which, why, and what to do."""


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` at the end. On a full disk, say, `path` stays as it was."""
    aside = path.with_name(f"{path.stem}.part{path.suffix}")
    with told(path, aside):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        aside.replace(path)


def write(path: Path, text: str) -> None:
    """A text file in UTF-8, whole or as it was."""
    with whole(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def told(path: Path, aside: Path) -> Iterator[None]:
    """Errors of writing become one sentence about `path`, and what was begun in `aside` is cleared away."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch tells a full disk as a RuntimeError
        with contextlib.suppress(OSError):
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)
        raise ArtifactError(
            f"{path} could not be written ({str(error).splitlines()[0]}); what was there is as it was. Make room, or name "
            "another run folder (BONELIB_RUN=path), and run again"
        ) from error
