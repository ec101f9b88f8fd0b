"""The latest process of each node, and how far its disk had got."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from cyoloctl.members.machine import MemberMachine
from cyoloctl.members.presence import Presence, PresenceMachine
from cyoloctl.replicated.command import Refused
from cyoloctl.state import ClusterState

KEY = base64.b64encode(bytes(32)).decode()


class World:
    """A cluster's members n1 and n2 with their presence."""

    def __init__(self) -> None:
        self.members = MemberMachine()
        self.machine = PresenceMachine(self.members)
        for name in ("n1", "n2"):
            self.members.apply(
                "put",
                {
                    "name": name,
                    "address": "h:1",
                    "role": "voter",
                    "sealing_key": KEY,
                    "raft_id": name,
                    "certificate_expires_at": None,
                },
                1,
                0,
            )

    def boot(self, boots: int, boot: str, *, index: int = 0, name: str = "n1", at: int = 100) -> None:
        given = {"name": name, "boots": boots, "boot": boot, "index": index}
        self.machine.apply("boot", given, at, 0)

    def reached(self, index: int, *, name: str = "n1", at: int = 100) -> dict[str, Any]:
        return self.machine.apply("reached", {"name": name, "index": index}, at, 0)


def test_boot_of_a_later_process_replaces_the_earlier_one_and_keeps_how_far_the_disk_was() -> None:
    world = World()
    world.boot(1, "a", index=7)
    world.boot(2, "b", index=3)
    assert world.machine.get("n1") == Presence(2, "b", 7)
    world.boot(2, "b", index=9)  # said again
    assert world.machine.get("n1") == Presence(2, "b", 9)


@pytest.mark.parametrize(("boots", "boot"), [(1, "a"), (2, "copy")])
def test_boot_of_an_earlier_or_equally_counted_process_is_refused(boots: int, boot: str) -> None:
    world = World()
    world.boot(2, "b")
    with pytest.raises(Refused, match="copy of the other's disk"):
        world.boot(boots, boot, index=50)
    assert world.machine.get("n1") == Presence(2, "b", 0)


def test_reached_only_rises_and_never_passes_the_entry_that_says_so() -> None:
    world = World()
    assert world.reached(10) == {"name": "n1", "boots": 0, "index": 10}
    assert world.reached(5)["index"] == 10
    with pytest.raises(Refused, match="cannot hold entry 101"):
        world.reached(101)
    with pytest.raises(Refused, match="cannot hold entry 101"):
        world.boot(1, "a", index=101)
    assert world.reached(100)["index"] == 100
    world.boot(3, "c", index=100)
    world.reached(100)
    assert world.machine.get("n1") == Presence(3, "c", 100)


def test_presence_of_an_unknown_name_is_refused() -> None:
    world = World()
    with pytest.raises(Refused, match="no member"):
        world.boot(1, "a", name="n9")
    with pytest.raises(Refused, match="no member"):
        world.reached(1, name="n9")


def test_presence_goes_with_the_member() -> None:
    cluster = ClusterState()
    empty = b"".join(cluster.begin_snapshot()())
    cluster.presence._nodes["n1"] = Presence(1, "a", 1)
    assert b"".join(cluster.begin_snapshot()()) != empty
    cluster.presence.forget_member("n1", 2)
    cluster.presence.forget_member("n1", 2)
    assert b"".join(cluster.begin_snapshot()()) == empty
