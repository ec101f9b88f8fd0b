"""Two releases in one simulated cluster, and a planted fault of the older one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from cyoloctl.errors import VersionMismatch
from cyoloctl.model import NO_STAMP, RaftId
from cyoloctl.raft.batch import encode_batch
from cyoloctl.raft.journal import Entry
from cyoloctl.raft.replica import Replica
from cyoloctl.raft.settings import Limits
from cyoloctl.raft.vendor import NO_OP, encode_membership
from cyoloctl.replicated.command import encode_command, encode_refusal
from cyoloctl.replicated.snapshot import SNAPSHOT_VERSION
from cyoloctl.sim import FAULTS, run_seed
from cyoloctl.sim.node import Node
from cyoloctl.sim.plan import Plan
from cyoloctl.sim.releases import Newer, Older
from cyoloctl.sim.upkeep import founding
from cyoloctl.sim.world import World
from cyoloctl.state import StateLimits

pytestmark = [pytest.mark.fault, pytest.mark.slow]

MIXED = (*FAULTS, "releases")


def test_simulation_older_release_stops_refuses_and_catches_up_once_upgraded() -> None:
    counts: Counter[str] = Counter()
    for seed in range(648, 654):
        report = run_seed(seed, faults=MIXED)
        assert report.violation is None, report.violation
        counts.update(report.counts)
    assert counts["converged"] == 6
    for outcome in (
        "older release stopped",
        "unknown to an older leader",
        "snapshot of a newer release refused",
        "upgraded",
    ):
        assert counts[outcome] > 0, outcome


def test_simulation_finds_an_older_release_that_answers_what_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answers(self: Older, index: int, *given: Any) -> bytes:
        try:
            return super(Older, self).apply(index, *given)
        except VersionMismatch as error:
            return encode_refusal(index, error.code, error.message)

    monkeypatch.setattr(Older, "apply", answers, raising=False)
    found = (run_seed(seed, faults=MIXED).violation for seed in range(6))
    assert "state machine safety" in {each.kind for each in found if each is not None}


def test_older_state_refuses_a_newer_snapshot_which_the_newer_one_takes() -> None:
    data = b"".join(Newer(limits=StateLimits()).begin_snapshot()())
    older, newer = Older(limits=StateLimits()), Newer(limits=StateLimits())
    before = older.digest()
    with pytest.raises(VersionMismatch):
        older.restore(data)
    assert older.digest() == before
    newer.restore(data)
    assert b"".join(newer.begin_snapshot()()) == data


class _LeftBehind:
    """Three members; n3 runs the older release, and is cut off until the others' logs begin after its own."""

    def __init__(self, seed: int) -> None:
        self.world = World(Plan(seed, Limits(keep_entries=0), older=frozenset({"n3"})))
        names = ("n1", "n2", "n3")
        log: list[Entry] = [(NO_OP, 1, 0)]
        log += [(encode_membership("add", RaftId(name)), 2 + at, 0) for at, name in enumerate(names)]
        log.append((encode_batch([(each, 0) for each in founding(list(names))], NO_STAMP), len(log) + 1, 0))
        self.n1, self.n2, self.n3 = (self.world.add_node(name, log) for name in names)
        self.pairs = [(a, b) for a in names for b in names if a != b and "n3" in (a, b)]
        for source, target in self.pairs:
            self.world.network.cut(source, target)
        for number in range(3):
            self.write(f"write-{number}")
        for node in (self.n1, self.n2):
            node.put(node.life, partial(self.replica(node).maybe_compact, force=True))
        last = self.replica(self.n3).status().last_index
        self.until(lambda: min(self.n1.journal.first_index, self.n2.journal.first_index) > last + 1)

    def until(self, holds: Callable[[], Any]) -> None:
        deadline = self.world.time.now + 20.0
        while not holds():
            self.world.time.run_until(self.world.time.now + 0.05)
            assert self.world.time.broken is None, self.world.time.broken
            assert self.world.time.now < deadline

    @staticmethod
    def replica(node: Node) -> Replica:
        assert node.replica is not None
        return node.replica

    def leader(self) -> Node:
        self.until(lambda: any(node is not self.n3 for node in self.world.leaders()))
        return next(node for node in self.world.leaders() if node is not self.n3)

    def write(self, request_id: str) -> None:
        leader, done = self.leader(), list[Any]()
        command = encode_command(
            "counter", "add", {"name": "c", "by": 1}, request_id=request_id, kind="client"
        )
        leader.put(
            leader.life,
            lambda: self.replica(leader).propose(command, lambda result, error: done.append((result, error))),
        )
        self.until(lambda: done)
        assert done[0][1] is None

    def mend(self) -> None:
        for source, target in self.pairs:
            self.world.network.mend(source, target)

    def told(self, node: Node) -> list[tuple[str, str, str]]:
        return [(each.code, each.peer, each.message) for each in self.replica(node).status().troubles]


def test_older_node_refuses_a_newer_snapshot_both_say_so_and_it_takes_it_once_upgraded() -> None:
    cluster = _LeftBehind(1)
    older, before = cluster.n3, cluster.n3.state.digest()
    cluster.mend()
    leader = cluster.leader()
    cluster.until(lambda: cluster.told(older) and cluster.told(leader))
    reason = (
        f"the snapshot has version {SNAPSHOT_VERSION + 1}, this release reads version {SNAPSHOT_VERSION}: "
        "use the release that wrote it, or a newer one"
    )
    assert cluster.told(leader) == [("snapshot_refused", "n3", reason)]
    assert cluster.told(older) == [("snapshot_unusable", leader.name, reason)]
    assert older.state.digest() == before
    cluster.write("meanwhile")

    older.upgrade()
    older.crash(power=True)
    cluster.until(lambda: older.replica and older.state.digest() == leader.state.digest())
    assert cluster.world.time.counts["snapshot installed"] == 1
    cluster.until(lambda: not any(cluster.told(node) for node in cluster.world.running()))
