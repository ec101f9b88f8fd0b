"""After each story its files are closed: an open one would fail some later test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.raft_ours import OurCluster


@pytest.fixture(autouse=True)
def _close_clusters() -> Iterator[None]:
    yield
    while OurCluster.opened:
        OurCluster.opened.pop().close()
