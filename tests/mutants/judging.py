"""Planting faults in copies of the tree, and looking whether the named tests fall."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.catalogue import Mutant, NotPlanted, plant
from tests.support.clone import clone

__all__ = ["CAUGHT", "NOT_JUDGED", "SURVIVED", "Verdict", "Workplace", "judge_all"]

CAUGHT, SURVIVED, NOT_JUDGED = "caught", "SURVIVED", "NOT JUDGED"
LIMIT_S = 300
"""A test that hangs with a fault in the code has noticed it."""

_PYTEST = ("-m", "pytest", "-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a fault.  by: what caught it, or why it was not judged.  took_s: wall time."""

    mutant: Mutant
    outcome: str
    by: str
    took_s: float


class Workplace:
    """A copy of the tree, in which one fault at a time is planted."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._root = directory
        # Of its own, since two runs of pytest that tidy up one directory trip over each other.  Not inside
        # the copy: names of sockets must stay short.
        self._temporary = directory.with_name(f"{directory.name}t")
        self._temporary.mkdir()
        self._python = clone(directory)
        # Faults come and go within a second, which a time stamp would not tell: digests of the source do.
        self._run(["-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "cyoloctl"])

    def judge(self, mutant: Mutant) -> Verdict:
        """Plant the fault, try what should catch it, and take it out again."""
        begun = time.monotonic()
        try:
            planted = plant(mutant, self._root)
        except NotPlanted as error:
            return Verdict(mutant, NOT_JUDGED, str(error), 0.0)
        path = self._root / mutant.path
        whole = path.read_text(encoding="utf-8")
        path.write_text(planted, encoding="utf-8")
        try:
            outcome, by = self._try(mutant)
        finally:
            path.write_text(whole, encoding="utf-8")
        return Verdict(mutant, outcome, by, time.monotonic() - begun)

    def passes(self, tests: Iterable[str]) -> tuple[bool, str]:
        """Whether these tests pass as the code is, and what pytest printed last."""
        status, output = self._run([*_PYTEST, *tests])
        return status == 0, output[-2000:]

    def _try(self, mutant: Mutant) -> tuple[str, str]:
        tests = mutant.tests
        if tests:
            status, output = self._run([*_PYTEST, *tests])
            if status is None:
                return CAUGHT, f"no end within {LIMIT_S} s"
            if status == 1:
                fallen = re.search(r"^(?:FAILED|ERROR) (\S+)", output, flags=re.MULTILINE)
                if fallen is None:  # pytest itself failed, such as over a directory that another run removed
                    return NOT_JUDGED, f"no test fell, but pytest failed: {output.strip()[-300:]}"
                return CAUGHT, fallen.group(1)
            if status != 0:
                return NOT_JUDGED, f"pytest ended with {status}: {output.strip()[-300:]}"
        for way in mutant.caught_by:
            if way in tests:
                continue
            arguments = shlex.split(way)
            status, output = self._run(["-m", "cyoloctl", *arguments, "--jobs", "1", "--stop-on-failure"])
            if status is None or status == 4:
                return CAUGHT, way
            if status != 0:
                return NOT_JUDGED, f"{way} ended with {status}: {output.strip()[-300:]}"
        return SURVIVED, ", ".join(mutant.caught_by)

    def _run(self, arguments: list[str]) -> tuple[int | None, str]:
        """Exit status, None when it took too long, and output."""
        process = subprocess.Popen(
            [self._python, *arguments],
            cwd=self._root,
            env={
                **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
                "PYTEST_DEBUG_TEMPROOT": str(self._temporary),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=LIMIT_S)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def judge_all(mutants: list[Mutant], directory: Path, jobs: int) -> Iterator[Verdict]:
    """The verdicts, as they come, from this many copies of the tree below the directory."""
    waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    for mutant in mutants:
        waiting.put(mutant)
    verdicts: queue.SimpleQueue[Verdict | BaseException] = queue.SimpleQueue()
    stopped = threading.Event()

    def work(number: int) -> None:
        try:
            workplace = Workplace(directory / str(number))
            while not stopped.is_set():
                verdicts.put(workplace.judge(waiting.get_nowait()))
        except queue.Empty:
            pass
        except BaseException as error:
            verdicts.put(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(min(jobs, len(mutants)))]
    for thread in threads:
        thread.start()
    try:
        for _ in mutants:
            verdict = verdicts.get()
            if isinstance(verdict, BaseException):
                raise verdict
            yield verdict
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
