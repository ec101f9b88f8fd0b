"""Surroundings of our processes: what they take from whoever starts them, and what they leave behind.

A child of ours runs the code that is installed and nothing else: not what lies in
the directory that the caller stands in, and not what PYTHON* variables name.
LD_PRELOAD and the like stay as they are: whoever may set them for the command
has its rights already, and sudo takes them away.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping

__all__ = ["child_command", "child_environment", "harden", "open_standard_streams", "was_closed"]

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


def harden() -> None:
    """No core dump of this process, and nobody but root may look into its memory.

    Keys are in it.  prctl(2) by way of ctypes; where there is none (not Linux),
    the limit alone holds.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
