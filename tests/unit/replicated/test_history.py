"""Breaks of a cluster's history, and what they do to the machines."""

from __future__ import annotations

import json
from typing import Any

from cyoloctl.replicated.command import encode_command
from cyoloctl.replicated.history import MAX_BREAKS
from cyoloctl.state import ClusterState
from tests.support.states import exported
from tests.unit.replicated.cases import CASES
from tests.unit.replicated.test_every_machine import World

ID = "0" * 32


def replace(state: ClusterState, index: int, **changes: Any) -> dict[str, Any]:
    given = {"kind": "recovered", "epoch": state.history.epoch, "by": "n1", "lost": [], "cluster_id": ID}
    command = encode_command("history", "replace", {**given, **changes}, request_id=f"b{index}", kind="node")
    answer: dict[str, Any] = json.loads(state.apply(index, command))
    return answer


def test_state_without_a_break_is_read_by_releases_that_know_none() -> None:
    assert "history" not in json.loads(_head(ClusterState()))["machines"]
    state = ClusterState()
    replace(state, 5)
    assert "history" in json.loads(_head(state))["machines"]


def _head(state: ClusterState) -> bytes:
    data = b"".join(state.begin_snapshot()())[1:]
    return data[4 : 4 + int.from_bytes(data[:4], "big")]


def test_each_break_begins_an_epoch_and_is_kept() -> None:
    state = ClusterState()
    assert state.history.epoch == 1
    assert replace(state, 5)["value"]["epoch"] == 2
    assert replace(state, 6, epoch=1)["error"]["code"] == "conflict"
    for index in range(7, 7 + 2 * MAX_BREAKS):
        replace(state, index)
    breaks = state.history.breaks()
    assert len(breaks) == MAX_BREAKS
    assert (breaks[0].epoch, breaks[-1].epoch) == (2, state.history.epoch)
    copy = ClusterState()
    copy.restore(b"".join(state.begin_snapshot()()))
    assert copy.history.breaks() == breaks


def test_members_left_behind_are_members_no_more() -> None:
    state = World("keys").state
    names = sorted(member.name for member in state.members.members())
    survivor, lost = names[0], names[1:]
    assert lost
    replace(state, 9000, by=survivor, lost=[*lost, "zz"])
    assert [member.name for member in state.members.members()] == [survivor]
    assert all(state.members.is_removed(name) and state.history.left_behind(name) for name in lost)
    assert not state.history.left_behind(survivor)
    assert all(name not in record.wrapped for record in state.keys.records() for name in lost)


def test_learner_whose_disk_is_all_that_is_left_is_meant_to_vote() -> None:
    state = World("keys").state
    names = sorted(member.name for member in state.members.members())
    state.members.apply("set_role", {"name": names[0], "role": "learner"}, 8999, 0)
    replace(state, 9000, by=names[0], lost=names[1:])
    assert state.members.is_voter(names[0])


def test_new_cluster_with_an_old_state_knows_nobody_of_the_old_one() -> None:
    world = World("keys")
    for machine, operation, arguments in CASES["credentials"].history:
        if machine == "credentials":
            world.apply(machine, operation, arguments)
    state = world.state
    assert state.credentials.export_state() != ClusterState().credentials.export_state()
    state.counters.apply("add", {"name": "a", "by": 4}, 1, 0)
    counters, policy = exported(state.counters), state.keys.policy
    told: list[bool] = []
    state.on_restore = lambda: told.append(True)
    replace(state, 9000, kind="restored", by="m1", lost=["n3"])
    assert not state.history.left_behind("n3")
    assert state.members.members() == []
    assert state.members.removed() == []
    assert state.keys.records() == []
    assert state.keys.policy == policy
    empty = ClusterState()
    for name in ("members", "presence", "credentials", "authorities"):
        assert state._machines[name].export_state() == empty._machines[name].export_state(), name
    assert exported(state.counters) == counters != exported(ClusterState().counters)
    assert told == [True]
    copy = ClusterState()
    copy.restore(b"".join(state.begin_snapshot()()))
    assert copy.digest() == state.digest()
