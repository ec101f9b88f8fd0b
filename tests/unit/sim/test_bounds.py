"""Tables of small limits fill up, refuse what is one too many, and come back from a snapshot."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import pytest

from cyoloctl.errors import StorageError
from cyoloctl.model import Stamp
from cyoloctl.replicated.command import Command, decode_command, encode_command
from cyoloctl.replicated.requests import LIMITS
from cyoloctl.sim.bounds import Bounds
from cyoloctl.sim.model import Model
from cyoloctl.sim.operations import draw
from cyoloctl.sim.scene import Scene
from cyoloctl.sim.tables import small_limits, state_limits
from cyoloctl.state import ClusterState, StateLimits
from cyoloctl.text import Json

SEEDS = range(10)
BYTES = ("total_bytes", "quota", "change_bytes")
COMMANDS = 350
REACHED = {
    *(
        "locks",
        "bytes of keys",
        "open invitations",
        "names",
        "shared hosts",
        "credentials",
        "keys",
        "destroyed keys",
    ),
    *("rendezvous", "tombstones", "bytes of rendezvous", "policies"),
    *("callers of old", "counted"),
}


@dataclass
class World:
    """A state under random operations, and who judges it."""

    limits: StateLimits
    state: ClusterState
    judge: Bounds
    model: Model

    def commands(self, seed: int) -> Iterator[tuple[int, Command, Json, str | None]]:
        """Carry out random operations; after each its index, the command, the answer, and what is wrong."""
        rng, crowd, time_ms = random.Random(seed), self.judge.crowd(), 10**12
        lockers, keepers = random.Random(f"{seed} locks"), random.Random(f"{seed} kv")
        for index in range(1, COMMANDS):
            time_ms += rng.randrange(300)
            scene = Scene(
                rng,
                "n1",
                self.state,
                time_ms,
                far=False,
                nodes=(),
                crowd=crowd,
                lockers=lockers,
                keepers=keepers,
            )
            machine, operation, arguments = draw(scene)
            command = encode_command(machine, operation, arguments, request_id=f"r{index}", kind="client")
            stamp = Stamp(self.state.stamp().epoch, time_ms, time_ms)
            self.state.advance(stamp)
            answer = json.loads(self.state.apply(index, command, index - 1))
            wrong, fresh = self.model.apply(index, command, index - 1, answer, stamp)
            assert fresh
            request = decode_command(command)
            yield index, request, answer, wrong or self.judge.wrong(self.state, request, answer)


def world(seed: int) -> World:
    limits = small_limits(random.Random(seed), LIMITS, 1)
    return World(limits, ClusterState(limits=limits), Bounds(limits), Model(limits))


def test_every_table_is_filled_and_refuses_what_is_one_too_many_and_nothing_else() -> None:
    reached: Counter[str] = Counter()
    for seed in SEEDS:
        found = world(seed)
        for index, request, answer, wrong in found.commands(seed):
            assert wrong is None, (seed, index, request, answer)
        reached.update(found.judge.reached)
    assert {name for name, number in reached.items() if number} == REACHED


def test_full_state_is_restored_under_its_own_limits_and_under_no_smaller_one() -> None:
    """Each field of every limit is what a snapshot is held to."""
    wanted = {
        (group.name, one.name)
        for group in fields(StateLimits)
        # Nobody writes to machines of users in a run, nor says where a command came from.
        if group.name not in ("requests", "machines", "audit")
        for one in fields(getattr(StateLimits(), group.name))
    }
    held: set[tuple[str, str]] = set()
    for seed in SEEDS:
        found = world(seed)
        for index, *_ in found.commands(seed):
            if index % 35:
                continue
            snapshot = b"".join(found.state.begin_snapshot()())
            again = ClusterState(limits=found.limits)
            again.restore(snapshot)
            assert b"".join(again.begin_snapshot()()) == snapshot
            for group, name in wanted - held:
                limits = getattr(found.limits, group)
                most = getattr(limits, name)
                # Bytes come by the dozen, and seldom exactly as many as may be.
                fewer = replace(limits, **{name: most // 2 if name in BYTES else most - 1})
                try:
                    ClusterState(limits=replace(found.limits, **{group: fewer})).restore(snapshot)
                except StorageError:
                    held.add((group, name))
    assert wanted - held == set()


def test_table_that_grows_over_its_bound_is_noticed() -> None:
    found = world(1)
    found.state = ClusterState()
    assert any(wrong and "are allowed" in wrong for *_, wrong in found.commands(1))


def test_refusal_while_there_is_room_is_noticed() -> None:
    found = world(1)
    found.state = ClusterState(limits=replace(found.limits, kv=replace(found.limits.kv, quota=300)))
    assert any(wrong and "is refused, as there are" in wrong for *_, wrong in found.commands(1))


@pytest.mark.parametrize("nodes", [None, 1, 9])
def test_limits_of_a_run_are_the_real_ones_half_the_time_and_leave_room_for_its_nodes(
    nodes: int | None,
) -> None:
    drawn = [state_limits(seed, nodes) for seed in range(100)]
    small = [limits for limits in drawn if limits != StateLimits(requests=limits.requests)]
    assert 30 < len(small) < 70
    assert all(min(each.members.names, each.members.invitations) >= (nodes or 5) for each in small)
    assert state_limits(7, nodes) == state_limits(7, nodes)
