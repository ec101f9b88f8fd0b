"""Majorities of voters, and spellings of addresses."""

from __future__ import annotations

import itertools
import socket

import pytest

from cyoloctl.errors import InvalidInput
from cyoloctl.model import (
    RaftId,
    Stamp,
    is_in_memory,
    is_wildcard,
    majority,
    name_of,
    parse_address,
    parse_dialable_address,
    same_place,
)


@pytest.mark.parametrize(
    ("voters", "needed"), [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)]
)
def test_majority_of_so_many_voters_is_more_than_half(voters: int, needed: int) -> None:
    assert majority(voters) == needed
    assert 2 * needed > voters >= 2 * (needed - 1)


@pytest.mark.parametrize(("raft_id", "in_memory"), [("n1", False), ("n1~0a1b", True)])
def test_member_is_the_same_in_each_of_its_lives(raft_id: str, in_memory: bool) -> None:
    assert name_of(RaftId(raft_id)) == "n1"
    assert is_in_memory(RaftId(raft_id)) is in_memory


def test_moment_in_a_later_epoch_is_later_whatever_the_clock_says() -> None:
    before, after = Stamp(0, 2_000, 1), Stamp(1, 1_000, 2)
    assert after.moment > before.moment
    assert Stamp(1, 1_001, 2).moment > after.moment


def _numeric(host: str) -> str | None:
    """The address that the system takes a host for without looking anything up."""
    try:
        found = socket.getaddrinfo(host, 1, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return str(found[0][4][0])


def test_every_host_that_the_system_takes_for_a_wildcard_is_one() -> None:
    for length in range(1, 8):
        for characters in itertools.product("0x.", repeat=length):
            host = "".join(characters)
            assert is_wildcard(host) == (_numeric(host) == "0.0.0.0"), host
    for length in range(1, 7):
        for characters in itertools.product("0:f", repeat=length):
            host = "".join(characters)
            if ":" in host:
                assert is_wildcard(host) == (_numeric(host) in ("::", "::ffff:0.0.0.0")), host


@pytest.mark.parametrize(
    "host",
    [
        *("*", "0", "00", "0.0", "0x0", "0X00.0", "0.0.0.0", "[0.0.0.0]", "[::]", "[::0]"),
        *("[0:0:0:0:0:0:0:0]", "[::0.0.0.0]", "[::ffff:0.0.0.0]", "[::FFFF:0:0]", "[::%1]"),
    ],
)
def test_dialable_address_is_no_wildcard_in_any_spelling(host: str) -> None:
    assert is_wildcard(parse_address(f"{host}:7700").host)
    with pytest.raises(InvalidInput, match="nobody can dial"):
        parse_dialable_address(f"{host}:7700")


@pytest.mark.parametrize("host", ["\uff10", "\uff10.\uff10.\uff10.\uff10", "b\u00fccher.example"])
def test_dialable_address_is_ascii_as_the_log_holds_it(host: str) -> None:
    with pytest.raises(InvalidInput, match="xn--"):
        parse_dialable_address(f"{host}:7700")


@pytest.mark.parametrize("host", ["0.0.0.1", "10.0.0.0", "0x", "0.example", "[::1]", "[::ffff:10.0.0.1]"])
def test_dialable_address_of_one_machine_is_taken(host: str) -> None:
    assert str(parse_dialable_address(f"{host}:7700")) == f"{host}:7700"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("N2.example:1", "n2.example.:1", True),
        ("[::ffff:10.0.0.1]:1", "10.0.0.1:1", True),
        ("[0:0::1]:1", "[::1]:1", True),
        ("10.0.0.1:1", "10.0.0.1:2", False),
        ("10.0.0.1:1", "10.0.0.2:1", False),
    ],
)
def test_two_spellings_of_an_address_are_the_same_place(one: str, other: str, same: bool) -> None:
    assert same_place(parse_address(one), parse_address(other)) is same


@pytest.mark.parametrize("host", ["224.0.0.1", "255.255.255.255", "[ff02::1]"])
def test_dialable_address_is_one_host(host: str) -> None:
    with pytest.raises(InvalidInput, match="no single host"):
        parse_dialable_address(f"{host}:7700")
