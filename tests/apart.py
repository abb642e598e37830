"""A notebook's script in a process of its own, interrupted by Ctrl-C at a chosen call."""

from __future__ import annotations

import importlib
import itertools
import os
import runpy
import signal
import threading
import time
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def interrupt_at(name: str, number: int) -> None:
    """Ctrl-C while a function, such as `bonelib.pipeline.split`, is called for that time."""
    module, _, attribute = name.rpartition(".")
    owner = importlib.import_module(module)
    function, calls = getattr(owner, attribute), itertools.count(1)

    def interrupted(*args: Any, **options: Any) -> Any:
        if next(calls) == number:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            # this may be another thread, which the signal does not stop
            time.sleep(1)
        return function(*args, **options)

    setattr(owner, attribute, interrupted)


def run_notebook(
    name: str, settings: dict[str, str], interrupted: tuple[str, int] | None = None
) -> None:
    """Run a notebook's script as `make run` does; interrupted: arguments of `interrupt_at`."""
    os.environ.update({f"BONELIB_{key.upper()}": value for key, value in settings.items()})
    # a process that was started in the background ignores Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if interrupted:
        interrupt_at(*interrupted)
    runpy.run_path(str(NOTEBOOKS / f"{name}.py"), run_name="__main__")
