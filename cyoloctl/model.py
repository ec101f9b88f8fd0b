"""Frozen types that the modules share.  No clock, no randomness, no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, NewType, Protocol

from cyoloctl.errors import InvalidInput

__all__ = [
    "NAME_PATTERN",
    "NO_STAMP",
    "Address",
    "ClusterId",
    "LocalNode",
    "NodeName",
    "RaftId",
    "Role",
    "Stamp",
    "Storage",
    "is_in_memory",
    "is_wildcard",
    "majority",
    "name_of",
    "parse_address",
    "parse_dialable_address",
    "parse_hostname",
    "parse_name",
    "same_place",
]

NodeName = NewType("NodeName", str)
ClusterId = NewType("ClusterId", str)
RaftId = NewType("RaftId", str)
"""A member in the Raft configuration: NAME, or in memory NAME~LIFE, for each process another LIFE."""

Role = Literal["leader", "follower", "candidate", "learner"]
Storage = Literal["disk", "memory"]

NAME_PATTERN = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(NAME_PATTERN)
# The last label of an address in any spelling that a resolver or browser takes: 127.1, 0x7f.1, 2130706433.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
# 0.0.0.0 in any spelling that inet_aton(3), and with it getaddrinfo(3), reads: 0, 0.0, 0x0.
_ZERO = re.compile(r"(?:0[xX])?0+(?:\.(?:0[xX])?0+){0,3}")


def majority(voters: int) -> int:
    """The smallest majority of this many voters: more than half."""
    return voters // 2 + 1


def name_of(raft_id: RaftId) -> str:
    """The name of the member that has this raft id."""
    return raft_id.partition("~")[0]


def is_in_memory(raft_id: RaftId) -> bool:
    """Whether the raft id is that of a process whose log is in memory."""
    return "~" in raft_id


class Stamp(NamedTuple):
    """The stamp of a log entry: when the leader appended it.

    epoch: how often an operator has set the time.  time_unix_ms: cluster
    time.  steady_ms: milliseconds of leadership, which only leaders'
    monotonic clocks move.
    """

    epoch: int
    time_unix_ms: int
    steady_ms: int

    @property
    def moment(self) -> tuple[int, int]:
        """What orders stamps in time: the epoch, then the milliseconds."""
        return self.epoch, self.time_unix_ms


NO_STAMP = Stamp(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Address:
    """Present address of a node: a host name or IP address, and a TCP port 1..65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class LocalNode(Protocol):
    """The node itself, as its operations know it.

    name: its identity.  cluster_id, cluster: the cluster that it belongs to.
    storage: where its log is.  advertise: where the other members reach it.
    offline_ca: no member holds the key of the CA: the operator does.
    """

    @property
    def name(self) -> NodeName: ...
    @property
    def cluster_id(self) -> ClusterId: ...
    @property
    def cluster(self) -> NodeName: ...
    @property
    def storage(self) -> Storage: ...
    @property
    def advertise(self) -> Address: ...
    @property
    def offline_ca(self) -> bool: ...


def parse_name(text: str, what: str = "name") -> NodeName:
    """A name of a node, cluster or counter: 1 to 63 of a-z, 0-9 and inner dashes.

    Raises InvalidInput that shows the rule.
    """
    if not _NAME.fullmatch(text):
        shown = text if len(text) <= 80 else text[:77] + "..."
        raise InvalidInput(
            f"{what} {shown!r} is not valid: use 1 to 63 of a-z, 0-9 and '-', "
            "beginning and ending with a letter or digit"
        )
    return NodeName(text)


def parse_hostname(text: str, what: str = "host") -> str:
    """A host name (RFC 1123 2.1) in its one spelling: lower case, no dot at the end, no IP address.

    At most 253 characters; labels of 1 to 63 of a-z, 0-9 and inner dashes; one
    label is enough.  Raises InvalidInput that shows the rule.
    """
    labels = text.split(".")
    if len(text) > 253 or not all(map(_NAME.fullmatch, labels)) or _NUMBER.fullmatch(labels[-1]):
        raise InvalidInput(
            f"{what} {text[:80]!r} is not valid: use a host name in lower case (labels of 1 to 63 of a-z, "
            "0-9 and '-', 253 characters at most), no IP address, no port, no dot at the end"
        )
    return text


def parse_address(text: str, what: str = "address") -> Address:
    """HOST:PORT or [IPV6]:PORT.  Raises InvalidInput that shows the form."""
    host, separator, port_text = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if (
        not separator
        or not host
        or len(host) > 253
        or any(c.isspace() or not c.isprintable() or c in "/@[]" for c in host)
        or not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5)
        or not 1 <= int(port_text) <= 65535
    ):
        raise InvalidInput(
            f"{what} {text[:80]!r} is not valid: use HOST:PORT (or [IPV6]:PORT), port 1 to 65535"
        )
    return Address(host, int(port_text))


def is_wildcard(host: str) -> bool:
    """Whether a host, in any spelling, is every address of a machine: one can listen there, not dial."""
    if ":" not in host:
        return host == "*" or _ZERO.fullmatch(host) is not None
    import ipaddress  # here: most commands never see an IPv6 address

    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped
    return address.is_unspecified or (mapped is not None and mapped.is_unspecified)


def same_place(one: Address, other: Address) -> bool:
    """Whether two addresses are spellings of one, as far as that can be told without looking names up."""
    return (_canonical_host(one.host), one.port) == (_canonical_host(other.host), other.port)


def _canonical_host(host: str) -> str:
    import ipaddress

    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().removesuffix(".")
    return str(getattr(address, "ipv4_mapped", None) or address)


def parse_dialable_address(text: str, what: str = "address") -> Address:
    """As parse_address, for an address that others are told: ASCII, and no wildcard.  Raises InvalidInput."""
    if not text.isascii():
        raise InvalidInput(
            f"{what} {text[:80]!r} is not valid: write the host name in ASCII (its xn-- form), "
            "as the other members would look it up"
        )
    address = parse_address(text, what)
    if is_wildcard(address.host):
        raise InvalidInput(
            f"{what} {str(address)!r} is not valid: nobody can dial a wildcard; use an address "
            "at which others reach this node"
        )
    if _is_for_many(address.host):
        raise InvalidInput(
            f"{what} {str(address)!r} is not valid: a multicast or broadcast address is no single host; "
            "use an address at which others reach this node"
        )
    return address


def _is_for_many(host: str) -> bool:
    import ipaddress

    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_multicast or str(address) == "255.255.255.255"


class Source(Protocol):
    """What bytes are read from: a binary file, or a part of one."""

    def read(self, size: int, /) -> bytes:
        """Up to so many of the next bytes; none at the end."""
        ...
