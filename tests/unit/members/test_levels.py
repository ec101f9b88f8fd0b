"""The level of a cluster: raised once every member understands it, and never lowered."""

from __future__ import annotations

import base64
import json

import pytest

from cyoloctl.errors import VersionMismatch
from cyoloctl.members.duties import level_due, level_of_founder
from cyoloctl.members.upgrading import Standing, target
from cyoloctl.replicated.command import decode_result_with_index, encode_command
from cyoloctl.replicated.levels import THIS, Release
from cyoloctl.state import ClusterState
from cyoloctl.text import Json

KEY = base64.b64encode(bytes(32)).decode()
NEXT = Release("0.9.0", 2, {"counter.reset": 2}, {2: "0.9.0"})
LATER = Release("0.9.9", 3, {"counter.reset": 2, "keys.disable": 3}, {2: "0.9.0", 3: "0.9.9"})


class World:
    """The state of a cluster of n1, n2 and n3 on a node of one release."""

    def __init__(self, release: Release = NEXT) -> None:
        self.state = ClusterState(release=release)
        self.index = 0
        for name in ("n1", "n2", "n3"):
            fields = {"address": "h:1", "role": "voter", "raft_id": name, "certificate_expires_at": None}
            self.state.members.apply("put", {"name": name, "sealing_key": KEY, **fields}, 1, 0)

    def apply(self, operation: str, machine: str = "levels", **arguments: object) -> Json:
        self.index += 1
        command = encode_command(machine, operation, arguments, request_id=f"r{self.index}")
        return decode_result_with_index(self.state.apply(self.index, command))[1]

    def announce(self, *names: str, level: int = 2) -> None:
        for name in names:
            self.apply("announce", name=name, level=level)

    def raised(self, to: int = 2, release: str = "0.9.0") -> Json:
        return self.apply("raise", to=to, release=release)


def machines_in(data: bytes) -> dict[str, Json]:
    size = int.from_bytes(data[1:5], "big")
    return dict(json.loads(data[5 : 5 + size])["machines"])


def test_level_is_raised_once_every_member_understands_it_and_a_second_time_changes_nothing() -> None:
    world = World()
    world.announce("n1", "n3")
    with pytest.raises(VersionMismatch, match=r"^n2 does not understand level 2: install release 0\.9\.0 "):
        world.raised()
    assert world.state.levels.level == 1
    world.announce("n2")
    assert world.raised() == {"level": 2, "release": "0.9.0", "changed": True}
    assert world.raised() == {"level": 2, "release": "0.9.0", "changed": False}
    assert world.raised(1, "0.2.0") == {"level": 2, "release": "0.9.0", "changed": False}


def test_level_waits_for_learners_and_for_members_that_have_announced_nothing() -> None:
    world = World()
    world.announce("n1", "n2", "n3")
    given = {"address": "h:4", "role": "learner", "raft_id": "n4", "certificate_expires_at": None}
    world.state.members.apply("put", {"name": "n4", "sealing_key": KEY, **given}, 1, 0)
    with pytest.raises(VersionMismatch, match="n4 does not"):
        world.raised()
    world.apply("remove", "members", name="n4")
    assert world.raised()["changed"]


def test_member_that_went_back_to_the_earlier_release_holds_the_level_down() -> None:
    world = World()
    world.announce("n1", "n2", "n3")
    world.announce("n2", level=1)
    assert world.state.levels.lacking(2) == ["n2"]
    with pytest.raises(VersionMismatch):
        world.raised()


def test_member_below_the_level_of_the_cluster_is_refused_and_nothing_is_lowered() -> None:
    world = World()
    world.announce("n1", "n2", "n3")
    world.raised()
    with pytest.raises(VersionMismatch, match="cluster is at level 2, and n2 understands level 1"):
        world.announce("n2", level=1)
    assert (world.state.levels.level, world.state.levels.understood("n2")) == (2, 2)


def test_removed_member_is_forgotten_with_what_it_understood() -> None:
    world = World()
    world.announce("n1", "n2", "n3")
    world.apply("remove", "members", name="n2")
    assert world.state.levels.export_state()["understood"] == {"n1": 2, "n3": 2}


def test_raise_stops_a_node_that_does_not_understand_it_only_where_it_takes_effect() -> None:
    world = World(THIS)
    world.announce("n1", "n2")
    with pytest.raises(VersionMismatch, match=r"^n3 does not"):
        world.raised()  # an answer, the same on every node
    world.announce("n3")
    command = encode_command("levels", "raise", {"to": 2, "release": "0.9.0"}, request_id="stops")
    before = world.state.digest()
    with pytest.raises(VersionMismatch, match=r"raised to level 2.*level 1: install release 0\.9\.0"):
        world.state.apply(9, command)
    assert world.state.digest() == before


def test_operation_above_the_level_is_refused_naming_who_lacks_it_and_then_the_command() -> None:
    world = World()
    levels = world.state.levels
    assert levels.why_refused("counter", "add") is None
    world.announce("n2")
    assert levels.why_refused("counter", "reset") == (
        "counter.reset needs level 2, and the cluster is at level 1: n1 and n3 do not understand it; install "
        "release 0.9.0 there, then raise the level (`cyoloctl cluster upgrade`)"
    )
    world.announce("n1")
    assert "n3 does not understand it" in str(levels.why_refused("counter", "reset"))
    world.announce("n3")
    assert levels.why_refused("counter", "reset") == (
        "counter.reset needs level 2, and the cluster is at level 1: every member understands it, so raise "
        "the level (`cyoloctl cluster upgrade`)"
    )
    world.raised()
    assert levels.why_refused("counter", "reset") is None


def test_leader_logs_nothing_above_the_level_whatever_peer_forwards_it() -> None:
    world = World()
    command = encode_command("counter", "reset", {"name": "a"}, request_id="early")
    refused = world.state.admit(command, "n1", "voter")
    assert refused is not None
    assert world.state.refused_unlogged(refused)
    with pytest.raises(VersionMismatch, match="needs level 2"):
        decode_result_with_index(refused)
    world.announce("n1", "n2", "n3")
    world.raised()
    assert world.state.admit(command, "n1", "voter") is None


def test_snapshot_of_a_cluster_that_saw_one_level_is_the_same_as_ever() -> None:
    world, before = World(), World()
    assert "levels" not in machines_in(b"".join(world.state.begin_snapshot()()))
    world.state.levels.apply("announce", {"name": "n1", "level": 2}, 2, 0)
    assert "levels" in machines_in(b"".join(world.state.begin_snapshot()()))
    world.state.levels.apply("announce", {"name": "n1", "level": 1}, 3, 0)
    assert b"".join(world.state.begin_snapshot()()) == b"".join(before.state.begin_snapshot()())


def test_snapshot_is_taken_by_the_earlier_release_until_the_level_is_raised() -> None:
    world, older = World(), World(THIS)
    world.announce("n1", "n2", "n3")
    data = b"".join(world.state.begin_snapshot()())
    older.state.restore(data)
    assert b"".join(older.state.begin_snapshot()()) == data
    world.raised()
    with pytest.raises(VersionMismatch, match="raised to level 2"):
        older.state.restore(b"".join(world.state.begin_snapshot()()))
    assert b"".join(older.state.begin_snapshot()()) == data
    again = World()
    again.state.restore(b"".join(world.state.begin_snapshot()()))
    assert (again.state.levels.level, again.state.levels.release) == (2, "0.9.0")


def test_snapshot_whose_level_is_no_level_is_damaged() -> None:
    levels = ClusterState().levels
    for state in (None, {"level": "9"}, {"level": True, "release": "", "understood": {}}):
        levels.refuse_newer(state)  # not for it to judge
        with pytest.raises(ValueError):
            levels.prepare_restore(state)


def test_level_survives_into_a_new_cluster_and_what_strangers_understood_does_not() -> None:
    world = World()
    world.announce("n1", "n2", "n3")
    world.raised()
    given = {"kind": "restored", "epoch": 1, "by": "n1", "lost": [], "cluster_id": "c" * 32}
    world.apply("replace", "history", **given)
    assert world.state.levels.export_state() == {"level": 2, "release": "0.9.0", "understood": {}}


def test_announcement_is_due_once_for_a_member_and_again_after_each_change_of_release() -> None:
    world = World()
    members, levels = world.state.members, world.state.levels
    assert level_due("n1", members, levels) == {"name": "n1", "level": 2}
    assert level_due("stranger", members, levels) is None
    world.announce("n1")
    assert level_due("n1", members, levels) is None
    older = World(THIS)
    older.state.restore(b"".join(world.state.begin_snapshot()()))
    assert level_due("n1", older.state.members, older.state.levels) == {"name": "n1", "level": 1}


def test_release_knows_the_level_of_each_operation_and_who_understood_it_first() -> None:
    assert [LATER.level_of(*each) for each in (("counter", "add"), ("counter", "reset"))] == [1, 2]
    assert (LATER.first(2), LATER.first(3), LATER.first(4)) == ("0.9.0", "0.9.9", "0.9.9")


def test_new_cluster_begins_at_the_level_of_the_release_that_made_it() -> None:
    state = ClusterState(release=NEXT)
    raising = level_of_founder(state.members, state.levels, leads=True)
    assert raising == {"to": 2, "release": "0.9.0"}
    assert level_of_founder(state.members, state.levels, leads=False) is None
    state.apply(1, encode_command("levels", "raise", raising, request_id="founding", kind="node"))
    assert (state.levels.level, level_of_founder(state.members, state.levels, leads=True)) == (2, None)
    # One that has members stays where it is: they may want to go back.
    grown = World()
    assert level_of_founder(grown.state.members, grown.state.levels, leads=True) is None
    today = ClusterState()
    assert level_of_founder(today.members, today.levels, leads=True) is None


@pytest.mark.parametrize(
    ("level", "understood", "expected"),
    [
        (1, [1, 1, 1], (1, [])),
        (1, [2, 2, 1], (1, ["n3"])),
        (1, [2, 2, 2], (2, [])),
        (2, [2, 2, 2], (2, [])),
        (1, [3, 2, 2], (2, ["n2", "n3"])),
        (2, [3, 2, 3], (2, ["n2"])),
        (2, [2, 1, 2], (2, ["n2"])),  # it was admitted, and has announced nothing yet
        (1, [], (1, [])),
    ],
)
def test_target_is_what_every_member_understands_and_names_who_keeps_it_lower(
    level: int, understood: list[int], expected: tuple[int, list[str]]
) -> None:
    members = [Standing(f"n{at + 1}", "0.9.0", each) for at, each in enumerate(understood)]
    assert target(level, members) == expected
