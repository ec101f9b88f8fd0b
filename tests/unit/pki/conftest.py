"""Clusters that the tests of one module share, and one that a test may spoil."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pki import ID, OTHER_ID, Cluster, make_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    return make_cluster(tmp_path_factory.mktemp("one"), ID)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    return make_cluster(tmp_path_factory.mktemp("two"), OTHER_ID)


@pytest.fixture
def fresh(tmp_path: Path) -> Cluster:
    """One that a test may spoil."""
    return make_cluster(tmp_path / "data", ID)
