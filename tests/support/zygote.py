"""Commands in forked children of one process that has imported everything, so that thousands cost seconds.

`python -m tests.support.zygote` reads one case per line of stdin, as JSON, and answers with one line each.
A child gives up the root user before it runs the command: it needs no file that only root may read,
since all modules are loaded by then.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.support import killing

__all__ = ["CLOSED", "NOBODY", "Done", "Zygote", "zygote"]

CLOSED = "closed"
"""In place of a file: the descriptor is closed."""

NOBODY = 65534


_WAITS_S = 0.1
_LOOK_S = 0.001
"""A child that has slept for so long, without any work, waits."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended.  status: negative for a signal, -1000 when it had to be killed."""

    status: int
    out: str
    err: str
    steps: list[str]
    """What it did to its files, where that was asked for."""


class Zygote:
    """The process, from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lock = threading.Lock()

    def run(
        self,
        arguments: Sequence[str],
        *,
        stdin: str = os.devnull,
        stdout: str = "",
        stderr: str = "",
        env: Mapping[str, str] | None = None,
        as_nobody: bool = False,
        terminate: bool = False,
        kill_at: int = 0,
        limit_s: float = 20.0,
    ) -> Done:
        """Run one command.

        stdin, stdout, stderr: a path or CLOSED; "": captured.  as_nobody: as a user that owns nothing.
        terminate: SIGTERM is sent once it waits for something.  kill_at: the step before which it is killed
        (killing.py), 0: never.
        """
        case = {
            "arguments": list(arguments),
            "streams": [stdin, stdout, stderr],
            "env": dict(env or {}),
            "as_nobody": as_nobody,
            "terminate": terminate,
            "kill_at": kill_at,
            "limit_s": limit_s,
        }
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(case) + "\n")
            self._process.stdin.flush()
            return Done(**json.loads(self._process.stdout.readline()))


@contextmanager
def zygote(environment: Mapping[str, str]) -> Iterator[Zygote]:
    """A process to fork from; ended afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.zygote"],
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(environment),
    )
    with process:
        try:
            yield Zygote(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


# -- inside ---------------------------------------------------------------------------------------


def _import_everything() -> None:
    import cyoloctl

    for module in pkgutil.walk_packages(cyoloctl.__path__, "cyoloctl."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    # What is imported late, by us and by the standard library.
    for name in (
        "encodings.ascii",
        "encodings.idna",
        "shlex",
        "traceback",
        "getpass",
        "grp",
        "pwd",
        "uuid",
        "uvloop",
        "stringprep",
    ):
        importlib.import_module(name)
    _build_the_tree()


def _build_the_tree() -> None:
    """Every command is built once, here, and not in each child."""
    from cyoloctl.cli import tree

    built = tree.command_tree()
    for group in built.commands.values():
        for leaf in getattr(group, "commands", {}).values():
            assert leaf.name
    tree.command_tree = lambda: built


def _become(case: Mapping[str, Any], captured: Sequence[IO[bytes]]) -> None:
    """The child: streams, environment and user of the case."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, where in enumerate(case["streams"]):
        name = ("stdin", "stdout", "stderr")[number]
        if where == CLOSED:
            os.close(number)
            setattr(sys, name, None)
            continue
        if where == "":
            os.dup2(captured[number - 1].fileno(), number)
        else:
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY
            opened = os.open(where, flags)
            os.dup2(opened, number)
            if opened != number:
                os.close(opened)
        mode = "r" if number == 0 else "w"
        stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.environ.update(case["env"])
    if case["as_nobody"] and os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    sys.argv = ["cyoloctl", *case["arguments"]]


def _wait(pid: int, case: Mapping[str, Any]) -> int:
    """Exit status of the child; it is terminated when the case says so, and killed when it hangs."""
    deadline = time.monotonic() + case["limit_s"]
    to_terminate = case["terminate"]
    seen, since = _seen(pid), time.monotonic()
    with open(os.pidfd_open(pid), "rb", buffering=0) as ended:  # readable once the child has ended
        while True:
            left = max(0.0, deadline - time.monotonic())
            if select.select([ended], [], [], min(_LOOK_S, left) if to_terminate else left)[0]:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return -1000
            if to_terminate:
                before, seen = seen, _seen(pid)
                if seen != before or not seen.startswith("S"):
                    since = time.monotonic()
                elif time.monotonic() - since > _WAITS_S:
                    os.kill(pid, signal.SIGTERM)
                    to_terminate = False


def _seen(pid: int) -> str:
    """State and processor time of a process (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return " ".join([fields[0], *fields[11:13]])


def _finish(status: int) -> None:
    """End as the interpreter does, but without freeing a heap that is the parent's."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        status = 120
    os._exit(status)


def _serve() -> None:
    _import_everything()
    gc.collect()
    gc.freeze()  # a child copies no page because of the collector
    cases, answers = os.dup(0), os.dup(1)
    reader = open(cases, encoding="utf-8")  # noqa: SIM115
    while line := reader.readline():
        case = json.loads(line)
        with (
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            tempfile.TemporaryFile() as steps,
        ):
            pid = os.fork()
            if pid == 0:
                _become(case, (out, err))
                os.close(cases)
                os.close(answers)
                from cyoloctl.cli import main

                if case["kill_at"]:
                    killing.install(case["kill_at"], steps.fileno())
                _finish(main())
            status = _wait(pid, case)
            texts = []
            for file in (out, err, steps):
                file.seek(0)
                texts.append(file.read().decode("utf-8", "replace"))
        answer = json.dumps(
            {"status": status, "out": texts[0], "err": texts[1], "steps": texts[2].splitlines()}
        )
        os.write(answers, answer.encode() + b"\n")


if __name__ == "__main__":
    _serve()
