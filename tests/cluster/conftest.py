"""Two clusters for all of these tests.

`shared` runs from the first test that needs it to the end, and must be left as
it was found.  `cluster` is a fresh copy of a formed cluster for one test that
kills, damages or reconfigures it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three running voters, logging everything."""
    with Cluster(tmp_path_factory.mktemp("shared"), log_level="debug") as cluster:
        yield cluster.form(3)


@pytest.fixture(scope="session")
def formed(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Three voters, formed and stopped: never started again, only copied."""
    with Cluster(tmp_path_factory.mktemp("formed")) as cluster:
        cluster.form(3)
        cluster.stop_all()
    return cluster


@pytest.fixture
def stopped(formed: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """A copy of three formed voters of which none runs yet."""
    with formed.copy_to(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def cluster(stopped: Cluster) -> Cluster:
    """A running copy of three formed voters, for one test."""
    stopped.start_all()
    stopped.wait_healthy()
    return stopped
