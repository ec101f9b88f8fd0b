"""Whether a node listens where the others are told that it is."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cyoloctl.members.addresses import Addresses
from cyoloctl.members.machine import MemberMachine
from cyoloctl.model import parse_address
from cyoloctl.node.config import Config
from cyoloctl.node.own_address import OwnAddress
from tests.support.cluster import free_port


@pytest.fixture
def listening() -> Iterator[int]:
    """A port at which something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def own(listen: str, advertise: str, told: str | None = None, **others: str) -> OwnAddress:
    config: Any = SimpleNamespace(
        name="n1", listen=parse_address(listen), advertise=parse_address(advertise), peers={}
    )
    machine = MemberMachine()
    for name, address in {"n1": advertise, **others}.items():
        fields = {"role": "voter", "raft_id": name, "certificate_expires_at": None}
        machine.apply(
            "put", {"name": name, "address": address, "sealing_key": "A" * 43 + "=", **fields}, 1, 0
        )
    if told is not None:
        machine.apply("set_address", {"name": "n1", "address": told}, 2, 0)
    return OwnAddress(cast(Config, config), machine, Addresses(config, machine, {}))


@pytest.mark.parametrize("listen", ["127.0.0.1:{}", "0.0.0.0:{}"])
async def test_own_address_at_which_nothing_listens_is_shown_as_the_one_that_is_listened_on(
    listening: int, listen: str
) -> None:
    wrong = f"127.0.0.1:{free_port()}"
    address = own(listen.format(listening), wrong)
    await address.look()
    assert address.shown() == f"127.0.0.1:{listening}"
    [found] = address.problems()
    assert (found["code"], wrong in found["message"]) == ("address", True)
    assert found["command"] == f"cyoloctl node set-address -d DIR --advertise 127.0.0.1:{listening}"


async def test_address_in_front_of_the_node_is_shown_as_it_is(listening: int) -> None:
    for advertise in (
        f"127.0.0.1:{listening}",  # what listens there forwards it here
        "203.0.113.7:443",
        "n1.example.com:443",
        "localhost:1",
    ):
        address = own("127.0.0.1:1", advertise)
        await address.look()
        assert (address.shown(), address.problems()) == (advertise, [])


async def test_address_of_another_member_is_none_of_this_node(listening: int) -> None:
    address = own("127.0.0.1:1", f"127.0.0.1:{listening}", n2=f"127.0.0.1:{listening}")
    await address.look()
    assert address.shown() == "127.0.0.1:1"


async def test_address_that_was_set_is_shown_unless_nothing_listens_there(listening: int) -> None:
    here, nowhere = f"127.0.0.1:{listening}", f"127.0.0.1:{free_port()}"
    address = own(here, here, told="203.0.113.7:443")
    await address.look()
    assert (address.shown(), address.problems()) == ("203.0.113.7:443", [])
    address = own(here, here, told=nowhere)
    await address.look()
    assert address.shown() == here
    [found] = address.problems()
    assert f"the members were told that n1 is at {nowhere}" in found["message"]
    assert found["command"] == f"cyoloctl member set-address n1 {here}"
