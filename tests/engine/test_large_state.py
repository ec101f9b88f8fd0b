"""A state that takes long to encode: the leader goes on leading while it is saved."""

from __future__ import annotations

import threading
import time

import pytest

from cyoloctl.state import ClusterState

pytestmark = pytest.mark.fault

_REVOCATIONS, _COUNTERS = 60_000, 40_000


def _large() -> ClusterState:
    cluster = ClusterState()
    for number in range(_REVOCATIONS):
        cluster.sessions._sids.rows.set(f"{number:022d}", (2**53, 10**12, 10**9))
    for number in range(_COUNTERS):
        cluster.counters._values.set(f"c{number}", number)
    return cluster


@pytest.mark.alone
def test_snapshot_of_a_large_state_holds_nobody_up_while_it_is_encoded() -> None:
    cluster = _large()
    started = time.perf_counter()
    expected = b"".join(cluster.begin_snapshot()())
    whole_s = time.perf_counter() - started
    started = time.perf_counter()
    encode = cluster.begin_snapshot()
    begun_s = time.perf_counter() - started
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(b"".join(encode())))
    longest, last = 0.0, time.perf_counter()
    thread.start()
    while thread.is_alive():
        thread.join(0.0005)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    assert found == [expected]
    # Of the time that it took, and bounded however slow the machine is: far below an election timeout.
    assert begun_s < whole_s / 3
    assert longest < max(0.2, whole_s / 2)
