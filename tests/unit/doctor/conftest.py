"""A directory for the doctor to look at, and a node that is not there to be asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from cyoloctl.errors import Unreachable
from cyoloctl.node import create
from cyoloctl.text import Json


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The directory of a node that never ran."""
    directory = tmp_path / "n1"
    create.init_cluster(directory, "n1", "127.0.0.1:1", None, "cyolo", "disk")
    return directory


def down(operation: str, query: Mapping[str, str]) -> Json:
    raise Unreachable("nobody there")
