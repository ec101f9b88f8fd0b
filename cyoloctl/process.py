"""Surroundings of our processes: what they take from whoever starts them, and what they leave behind.

A child of ours runs the code that is installed and nothing else: not what lies in
the directory that the caller stands in, and not what PYTHON* variables name.
LD_PRELOAD and the like stay as they are: whoever may set them for the command
has its rights already, and sudo takes them away.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

__all__ = [
    "child_command",
    "child_environment",
    "end_with_parent",
    "harden",
    "interrupt_on_termination",
    "interrupts_held",
    "open_standard_streams",
    "run_in_loop",
    "until_terminated",
    "was_closed",
]

_T = TypeVar("_T")
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


def child_command(*arguments: str) -> list[str]:
    """The command line that runs ``cyoloctl ARGUMENTS...`` with the code of this process.

    -I: no directory of the caller's and no user's site directory on the path,
    PYTHON* variables ignored.  The package is named by its file, so that it is
    found wherever it is installed (`__main__`).
    """
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
    return [sys.executable, "-I", program, *arguments]


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child: without what steers an interpreter."""
    return {name: value for name, value in environ.items() if not name.startswith("PYTHON")}


_closed: set[str] = set()


def was_closed(name: str) -> bool:
    """Whether stdin, stdout or stderr was closed when this process began."""
    return name in _closed


def open_standard_streams() -> None:
    """Give descriptors 0, 1 and 2 a meaning where the caller closed them (/dev/null).

    Otherwise the first sockets or files get these numbers, and what is printed ends in them.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            _closed.add(name)
            # The lowest free number is this one: those below are open by now.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
            if getattr(sys, name) is None:
                setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def interrupt_on_termination() -> None:
    """Let SIGTERM and SIGHUP interrupt a command as Ctrl-C does, so that it cleans up and says so.

    The second one ends it at once.  A signal that whoever started us ignores (nohup) stays ignored.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt


def until_terminated(follow: Callable[[], NoReturn]) -> None:
    """Run what only a signal ends.  SIGTERM is its regular end: returns then, cleaned up like any other.

    A second SIGTERM ends it at once.
    """
    told: list[int] = []

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        told.append(number)
        raise KeyboardInterrupt

    if callable(signal.getsignal(signal.SIGTERM)):  # whoever started us may ignore it
        signal.signal(signal.SIGTERM, end)
    try:
        follow()
    except KeyboardInterrupt:
        if not told:
            raise


def run_in_loop(work: Coroutine[Any, Any, _T]) -> _T:
    """`asyncio.run`, in which SIGTERM and SIGHUP cancel the work as SIGINT does, and then do what they did.

    A handler that raises would otherwise do so within whichever step of the loop runs, which nobody
    catches there.  A second signal ends the process at once.  Raises what the work and the handler do.
    """
    import asyncio

    came: list[signal.Signals] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    handled = {number: handler for number, handler in before.items() if callable(handler)}

    async def run() -> _T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def interrupt(number: signal.Signals) -> None:
            came.append(number)
            loop.remove_signal_handler(number)  # the default from here on
            task.cancel()

        for number in handled:
            loop.add_signal_handler(number, interrupt, number)
        try:
            return await work
        finally:
            for number, handler in handled.items():
                if number not in came:
                    loop.remove_signal_handler(number)
                    signal.signal(number, handler)

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        if not came:
            raise
    finally:
        work.close()  # where a signal came before the loop ran
        for number in came:
            handled[number](number, None)
    raise AssertionError("a handler of signals that ends nothing")


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let an interrupt that comes inside take effect at the end: what was begun is whole, and known."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    held = [number for number, handler in before.items() if callable(handler)]
    for number in held:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number in held:
            signal.signal(number, before[number])
    if came:
        raise KeyboardInterrupt


def end_with_parent(parent: int) -> None:
    """End this process when its parent has ended, however that ended (Linux).

    parent: the process that started this one; when it is gone already, this one ends now.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(1)


def harden() -> None:
    """No core dump of this process, and nobody but root may look into its memory.

    Keys are in it.  Where there is no prctl(2) (not Linux), the limit alone holds.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)


def _prctl(option: int, value: int) -> None:
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
