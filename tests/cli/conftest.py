"""Fixtures of the command line's tests."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.harness import Endpoint, processes_of


@pytest.fixture
def serve() -> Iterator[Callable[[dict[tuple[str, str], Any]], Endpoint]]:
    """A function that opens a control socket with scripted answers."""
    opened: list[Endpoint] = []
    with tempfile.TemporaryDirectory(prefix="cyolo") as base:

        def open_endpoint(answers: dict[tuple[str, str], Any]) -> Endpoint:
            directory = Path(base, str(len(opened)))
            directory.mkdir()
            opened.append(Endpoint(directory, answers))
            return opened[-1]

        yield open_endpoint
        for endpoint in opened:
            endpoint.close()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory whose node processes are ended whatever the test does."""
    yield tmp_path
    for pid in processes_of(tmp_path):
        os.kill(pid, signal.SIGKILL)
