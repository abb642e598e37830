"""A function in a process of its own, where limits, signals and faults hit it alone; the library is imported once for all."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["bonelib.series", "bonelib.report", "bonelib.export", "bonelib.app"])


class Apart:
    """`function(*args)` on its way in another process; `said` is what it has printed so far, tracebacks included.

    memory: bytes that it may take on top of what it begins with. file_size: bytes of the largest file that it may write.
    weak: without root's right to pass over permissions.
    """

    def __init__(
        self, log: Path, function: Callable[..., Any], *args: Any, memory: int = 0, file_size: int = 0, weak: bool = False
    ) -> None:  # fmt: skip
        self.log = log
        log.write_text("")
        self.process = CONTEXT.Process(target=_inside, args=(log, memory, file_size, weak, function, args))
        self.process.start()

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def until(self, text: str, seconds: float = 120) -> None:
        """Wait until it has said `text`."""
        end = time.monotonic() + seconds
        while text not in self.said:
            assert self.process.is_alive() and time.monotonic() < end, f"never said {text!r}:\n{self.said}"
            time.sleep(0.01)

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.kill(self.process.pid, signal.SIGINT)

    def wait(self, seconds: float = 120) -> int:
        """Its exit code: 0, 1 after an error, -9 after a kill; killed, and the test failed, if it takes longer."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {seconds:.0f} s:\n{self.said}")
        return self.process.exitcode


def _inside(log: Path, memory: int, file_size: int, weak: bool, function: Callable[..., Any], args: Any) -> None:
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # tests that run in the background would hand down its absence
    if memory:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + memory, held + memory))
    if file_size:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if weak and os.geteuid() == 0:
        _drop_rights()
    function(*args)


def _drop_rights() -> None:
    """Give up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, with which root reads and writes whatever the permissions say."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    data[0] &= ~0b110  # effective
    assert libc.capset(header, data) == 0


def hold(name: str, nth: int = 1, seconds: float = 1) -> None:
    """From its nth call on, a function of bonelib (`images.letterbox`, say) first prints HELD and then takes its time."""
    module, _, attribute = name.partition(".")
    room: Any = sys.modules[f"bonelib.{module}"]
    function, calls = getattr(room, attribute), 0

    def held(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= nth:
            print("HELD", flush=True)
            time.sleep(seconds)
        return function(*args, **options)

    setattr(room, attribute, held)


def notebook(name: str, settings: dict[str, str], slow: tuple[str, int] | None = None) -> None:
    """A notebook's script as `make run` starts it; `slow`: what to `hold`, from which call on."""
    os.environ.update({f"BONELIB_{k.upper()}": v for k, v in settings.items()})
    if slow:
        hold(*slow)
    runpy.run_path(str(ROOT / "notebooks" / f"{name}.py"), run_name="__main__")
