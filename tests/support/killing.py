"""SIGKILL to a command before the nth thing that it does to its files, from within its own process.

The steps are what changes something that outlives the process: opening a file to write, rename, link,
unlink, mkdir, utime and their like (by audit hooks), and each statement to SQLite that writes.  What SQLite
makes of a statement is for the tests of torn files.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from typing import Any

__all__ = ["install"]

_EVENTS = {
    "os.chown",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "os.utime",
}
_READS = ("PRAGMA", "SELECT")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def install(at: int, steps: int) -> None:
    """Count the steps from now on, and end this process before the one of that number; from 1.

    steps: a descriptor; each step is a line there.
    """
    done, busy = 0, False

    def step(text: str) -> None:
        nonlocal done, busy
        if busy:
            return
        busy = True
        done += 1
        os.write(steps, text.replace("\n", " ").encode("utf-8", "replace")[:200] + b"\n")
        if done == at:
            os.kill(os.getpid(), signal.SIGKILL)
        busy = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS:
            step(f"{event} {arguments[0]}")
        elif event == "open" and arguments[2] & _WRITES and isinstance(arguments[0], str | os.PathLike):
            step(f"open {arguments[0]}")

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connected(*arguments, **options)
        connection.set_trace_callback(lambda sql: None if sql.startswith(_READS) else step(f"sql {sql}"))
        return connection

    connected = sqlite3.connect
    sqlite3.connect = connect
    sys.addaudithook(hook)
