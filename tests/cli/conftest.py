"""Fixtures of the command line's tests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.harness import Endpoint


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
