"""Addresses of members: the log before node.yaml, and nobody who was removed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from cyoloctl.members.addresses import Addresses
from cyoloctl.members.machine import MemberMachine
from cyoloctl.model import LocalNode, NodeName, parse_address

KEY = "A" * 43 + "="
NODE = cast("LocalNode", SimpleNamespace(name="n1", advertise=parse_address("new.example:1")))


def members(**addresses: str) -> MemberMachine:
    machine = MemberMachine()
    for name, address in addresses.items():
        fields = {"role": "voter", "sealing_key": KEY, "raft_id": name, "certificate_expires_at": None}
        machine.apply("put", {"name": name, "address": address, **fields}, 1, 0)
    return machine


def test_log_comes_before_the_configuration_and_both_are_dialled() -> None:
    configured = {NodeName("n2"): parse_address("b:2"), NodeName("n4"): parse_address("d:4")}
    found = Addresses(NODE, members(n1="old.example:1", n2="moved:2", n3="c:3"), configured)
    assert found.known() == {"n1": "old.example:1", "n2": "moved:2", "n3": "c:3", "n4": "d:4"}
    assert found.to_dial()["n2"] == ("moved:2", "b:2")
    assert found.to_dial()["n3"] == ("c:3",)
    assert found.with_own()["n1"] == "new.example:1"


def test_removed_member_has_no_address_even_if_it_is_configured() -> None:
    machine = members(n2="b:2")
    machine.apply("remove", {"name": "n2"}, 2, 0)
    assert Addresses(NODE, machine, {NodeName("n2"): parse_address("b:2")}).known() == {}


def test_address_that_was_set_is_dialled_before_what_the_member_says_itself() -> None:
    machine = members(n1="old:1", n2="b:2")
    for name in ("n1", "n2"):
        machine.apply("set_address", {"name": name, "address": f"{name}.nat:3"}, 2, 0)
    found = Addresses(NODE, machine, {NodeName("n2"): parse_address("yaml:2")})
    assert found.to_dial()["n2"] == ("n2.nat:3", "b:2", "yaml:2")
    assert found.known()["n2"] == "n2.nat:3"


def test_own_address_is_what_was_set_until_the_configuration_says_something_new() -> None:
    machine = members(n1="new.example:1")
    found = Addresses(NODE, machine, {})
    machine.apply("set_address", {"name": "n1", "address": "nat:3"}, 2, 0)
    assert (found.own(), found.with_own()["n1"]) == ("nat:3", "nat:3")
    found.unheard = "nat:3"
    assert found.own() == "new.example:1"
    found.unheard = None
    other = Addresses(cast("LocalNode", SimpleNamespace(name="n1", advertise="later:1")), machine, {})
    assert other.own() == "later:1"
