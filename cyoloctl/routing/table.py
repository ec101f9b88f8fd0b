"""The routing table: members by host name, and the head of the exported files."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from cyoloctl.errors import Conflict, InvalidInput, NotFound
from cyoloctl.model import Role, parse_address, parse_hostname, parse_name
from cyoloctl.routing.hrw import order

__all__ = ["NODE_COOKIE", "Backend", "ExportOptions", "Pin", "RoutingTable", "header"]

NODE_COOKIE = "cyolo-node"
"""The cookie that names the node which a browser stays with under a shared host name.

It chooses a node and nothing else: no secret, no authority.  Gateways name
themselves in a response header of the same name, see export_nginx.
"""

Pin = Literal["soft", "strict"]

# Nothing that a configuration language, a shell or a log could read as more than a path.
_PATH = re.compile(r"/[A-Za-z0-9._/+@=-]*[A-Za-z0-9._+@=-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A member as the proxies see it.

    name: the member's.  host: its host identifier, the name by which clients
    ask for this very node; None without one.  address: HOST:PORT of its
    gateway.  alive: whether it was reachable when the table was made.  role:
    for the listing; any role can serve.

    Raises InvalidInput unless each is of its form: they end up in files that
    a proxy executes.
    """

    name: str
    host: str | None
    address: str
    alive: bool
    role: Role

    def __post_init__(self) -> None:
        parse_name(self.name, "member name")
        if self.host is not None:
            parse_hostname(self.host)
        object.__setattr__(self, "address", _address(self.address, f"gateway address of {self.name}"))
        if self.role not in get_args(Role):
            raise InvalidInput(f"role {self.role!r} is not valid: use one of {', '.join(get_args(Role))}")


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """The whole routing, in one spelling: members and shared hosts are kept in the order of their names.

    shared_hosts: host names that any node serves.  log_index: that of the last
    change of members or hosts, for the header of the files.

    Raises InvalidInput where a name, a host or an address is there twice.
    """

    backends: tuple[Backend, ...]
    shared_hosts: tuple[str, ...] = ()
    log_index: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "backends", tuple(sorted(self.backends, key=lambda b: b.name)))
        object.__setattr__(self, "shared_hosts", tuple(sorted(self.shared_hosts)))
        if type(self.log_index) is not int or self.log_index < 0:
            raise InvalidInput("the log index is not valid: use a number from 0 on")
        for host in self.shared_hosts:
            parse_hostname(host)
        for what, values in (
            ("member name", [b.name for b in self.backends]),
            ("host", [*(b.host for b in self.backends if b.host), *self.shared_hosts]),
            ("gateway address", [b.address for b in self.backends]),
        ):
            for value, following in pairwise(sorted(values)):
                if value == following:
                    raise InvalidInput(f"{what} {value} is there twice: give each member its own")

    def resolve(self, host: str) -> list[Backend]:
        """Backends for a host name, first choice first.

        For the host of a member: that member, alive or not, then the live ones
        of the others, by rendezvous hashing of the host.  For a shared host:
        the live members by rendezvous hashing of the host; none may be alive.
        The host is compared without regard to case.  Raises NotFound.
        """
        host = host.lower().removesuffix(".")
        for own in self.backends:
            if own.host == host:
                return [own, *(b for b in self.others(own) if b.alive)]
        if host in self.shared_hosts:
            by_name = {b.name: b for b in self.backends if b.alive}
            return [by_name[name] for name in order(host, by_name)]
        raise NotFound(f"no member has the host {host[:253]!r}, and it is not shared: see route list")

    def others(self, own: Backend) -> list[Backend]:
        """Backends that take over from a member, alive or not: by rendezvous hashing of its host or name."""
        by_name = {b.name: b for b in self.backends if b is not own}
        return [by_name[name] for name in order(own.host or own.name, by_name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Options of a proxy's configuration that the table does not hold.

    pin: "soft" lets the next node answer for a host whose node is down,
    "strict" answers 503.  listen: HOST:PORT of the proxy; a host of 0.0.0.0 or
    :: is every address; default 0.0.0.0:80, or :443 with TLS.
    tls_certificate: a file with the proxy's certificate chain and private key
    in PEM; None: plain HTTP.  backend_tls_ca: the CA certificates that the
    nodes' gateways are checked against, in PEM, for the name that the client
    asked for; None: plain HTTP to the nodes.  response_timeout_s: how long a
    node may take to answer, 1..60 s; longer than a node itself takes to give
    up (5 s).  run_dir: a directory that the proxy owns, for one that runs
    without root and without Debian's directories; None: Debian's service.
    fragment: only what goes beside an operator's own configuration.
    tls_in_front: addresses or networks of proxies in front of this one that end
    TLS: their X-Forwarded-Proto and X-Forwarded-For are believed.

    File names are absolute, of letters, digits and ``._/+@=-``.  Raises InvalidInput.
    """

    pin: Pin = "soft"
    listen: str = ""
    tls_certificate: str | None = None
    backend_tls_ca: str | None = None
    response_timeout_s: int = 6
    run_dir: str | None = None
    fragment: bool = False
    tls_in_front: tuple[str, ...] = ()

    @property
    def secure(self) -> bool:
        """Whether browsers use TLS."""
        return self.tls_certificate is not None or bool(self.tls_in_front)

    def __post_init__(self) -> None:
        if self.pin not in get_args(Pin):
            raise InvalidInput(f"pin {self.pin!r} is not valid: use soft or strict")
        listen = self.listen or f"0.0.0.0:{443 if self.tls_certificate else 80}"
        object.__setattr__(self, "listen", _address(listen, "listen address"))
        for what, path in (
            ("tls certificate", self.tls_certificate),
            ("backend ca", self.backend_tls_ca),
            ("run directory", self.run_dir),
        ):
            if path is not None and not _PATH.fullmatch(path):
                raise InvalidInput(
                    f"{what} {path[:80]!r} is not valid: use an absolute path of letters, digits and ._/+@=-"
                )
        if type(self.response_timeout_s) is not int or not 1 <= self.response_timeout_s <= 60:
            raise InvalidInput("the response timeout is not valid: use 1 to 60 seconds")
        object.__setattr__(self, "tls_in_front", tuple(map(_network, self.tls_in_front)))
        if self.fragment and self.run_dir is not None:
            raise InvalidInput("a fragment has no run directory: that is in the file that includes it")


def header(table: RoutingTable, options: ExportOptions, *, proxy: str, check: str, start: str) -> str:
    """The comment at the top of a file: what made it, from what, how to check and start it.

    Raises Conflict where there is nothing to route to.
    """
    if not table.backends:
        raise Conflict("no member has a gateway: give at least one a gateway address, then export again")
    hosts = {b.name: b.host or "no host of its own" for b in table.backends}
    return "\n".join(
        f"# {line}".rstrip()
        for line in (
            f"Made by `cyoloctl route export --format {proxy} --pin {options.pin}`; do not edit.",
            f"Members and hosts as of log index {table.log_index}:",
            *(f"  {b.name}  {b.address}  {hosts[b.name]}" for b in table.backends),
            *(f"  any of them: {host}" for host in table.shared_hosts),
            f"Check it:  {check}",
            f"Start it:  {start}",
            "",
            "A request that no node received is answered 503: it is safe to send it again.  502 and 504 mean",
            "that a node received it and gave no answer.  A POST is sent to one node only.",
        )
    )


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text if "%" not in text else ""))
    except ValueError:
        raise InvalidInput(
            f"proxy in front {text[:80]!r} is not valid: use an IP address or a network such as 10.0.0.0/8"
        ) from None


def _address(text: str, what: str) -> str:
    """HOST:PORT in one spelling, with a host that is a host name or an IP address and nothing else."""
    address = parse_address(text.lower(), what)
    try:
        # "%" begins the scope of an IPv6 address, in which anything may follow.
        ipaddress.ip_address(address.host if "%" not in address.host else "")
    except ValueError:
        parse_hostname(address.host, f"host of the {what}")
    return str(address)
