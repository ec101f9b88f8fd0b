"""Settings of a node's listener for browsers, as node.yaml has them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from cyoloctl.errors import InvalidInput
from cyoloctl.model import Address, parse_hostname

__all__ = [
    "LOOPBACK",
    "GatewayConfig",
    "parse_gateway_url",
    "parse_host",
    "parse_link",
    "parse_network",
]

LOOPBACK = ("127.0.0.0/8", "::1/128")

# What members.set_gateway takes too: a base to which paths are appended.
_URL = re.compile(r"https?://[a-zA-Z0-9.\-\[\]:]{1,255}(/[a-zA-Z0-9._~/-]{0,200})?")
# A link: printable ASCII without what ends an attribute or a header; or a path at the host that was asked.
_LINK = re.compile(
    r"(https?://[a-zA-Z0-9.\-\[\]:]{1,255}([/?][!#-;=?-\[\]_a-z~]{0,1000})?|/(?!/)[!#-;=?-\[\]_a-z~]{0,1000})"
)
#: What stands in it for the link that brings people back, in its query and once.
_RETURN = "{return}"


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """The listener for browsers and reverse proxies.

    listen: where it accepts connections.  advertise: where proxies reach it.
    url: the base of links that people are given, None: by the node's host
    name, or else the address.  certificate, key: absolute paths of PEM files,
    both or neither; None: plain HTTP.  trusted_proxies: IP addresses or
    networks whose X-Forwarded-* are believed; metrics_clients: those that may
    read /metrics.  allowed_hosts: host names and IP addresses, besides those of the
    members, that requests may name.  require_session: whether approving takes
    a session cookie; sign_in_url: where people get one, with ``{return}`` for the
    link that brings them back.  begin: the kinds of rendezvous that browsers may
    begin, which takes no session; none: no such page.
    """

    listen: Address
    advertise: Address
    url: str | None = None
    certificate: str | None = None
    key: str | None = None
    trusted_proxies: tuple[str, ...] = LOOPBACK
    metrics_clients: tuple[str, ...] = LOOPBACK
    allowed_hosts: tuple[str, ...] = ()
    require_session: bool = True
    sign_in_url: str | None = None
    begin: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the addresses.  Raises InvalidInput for one that proxies' files could not hold."""
        parse_host(self.advertise.host.lower())


def parse_gateway_url(text: str) -> str:
    """The base of links to a gateway: http or https, a host, a port and a path if need be.

    Raises InvalidInput that shows the rule.
    """
    if not _URL.fullmatch(text) or ".." in text:
        raise InvalidInput(f"url {text[:80]!r} is not valid: use https://HOST or https://HOST:PORT")
    return text.rstrip("/")


def parse_link(text: str) -> str:
    """The link to where people get a session, with ``{return}`` for the one back.  Raises InvalidInput."""
    before, returns, after = text.partition(_RETURN)
    if not _LINK.fullmatch(before + after) or (returns and "?" not in before):
        raise InvalidInput(
            f"url {text[:80]!r} is not valid: use https://HOST/PATH, or /PATH at the same host; "
            "{return} once, in the query, becomes the link that brings people back"
        )
    return text


def parse_network(text: str) -> str:
    """An IP address or network in its one spelling.  Raises InvalidInput."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise InvalidInput(
            f"{text[:80]!r} is not valid: use an IP address or a network such as 10.0.0.0/8"
        ) from None


def parse_host(text: str) -> str:
    """An IP address or a host name.  Raises InvalidInput."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return parse_hostname(text)
