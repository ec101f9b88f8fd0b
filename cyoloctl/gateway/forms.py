"""The caller and the contents of a form, believed only as far as they are proved.  Pure.

A form names its record encrypted: the id redeems the answer, so whoever approves
must not learn it.  The keys come from the token keys, so any node opens what
another one sealed, after a rotation too.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cyoloctl.caller import Caller
from cyoloctl.errors import InvalidInput, Unavailable
from cyoloctl.rendezvous.codes import shown_user_code
from cyoloctl.text import decode_base64url, encode_base64url

__all__ = [
    "FORM_LIFE_S",
    "UNKNOWN",
    "Begun",
    "Forms",
    "GatewayRequest",
    "IpAddress",
    "IpNetwork",
    "Opened",
    "RefusalPage",
    "browsers_of",
    "client_address",
    "code_in",
    "code_of",
    "cookie_of",
    "host_of_url",
    "ip",
    "is_in",
    "network_caller",
    "network_of",
    "one_host",
    "origin_of",
    "parse_host",
    "person_caller",
]

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

#: The client whose address nobody tells: nobody's address, so that no list of addresses has it.
UNKNOWN = ipaddress.IPv4Address("0.0.0.0")
_UNKNOWN = re.compile(r"unknown|_[A-Za-z0-9._-]{1,64}", re.ASCII | re.IGNORECASE)
_WITH_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}|\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?", re.ASCII)

FORM_LIFE_S = 600
_SKEW_S = 60


def client_address(peer: str, forwarded_for: Iterable[str], trusted: Sequence[IpNetwork]) -> IpAddress:
    """The client: the last address that no trusted proxy vouches for.

    peer: who is connected.  forwarded_for: the X-Forwarded-For lines, in
    order; a port after an address says nothing.  UNKNOWN where a trusted proxy
    says that it does not know or does not tell (RFC 7239 6.2, 6.3).  Raises
    InvalidInput where one names what is no address.
    """
    hops = [hop.strip() for line in forwarded_for for hop in line.split(",")]
    address = ip(peer)
    while hops and is_in(address, trusted):
        hop = hops.pop()
        if _UNKNOWN.fullmatch(hop):
            return UNKNOWN
        port = _WITH_PORT.fullmatch(hop)
        address = ip(hop if port is None else port[1] or port[2])
    return address


def network_of(address: IpAddress) -> str:
    """The network of one customer: an IPv4 address, or the /64 of an IPv6 address."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def network_caller(address: IpAddress) -> Caller:
    """The caller behind a request without a session."""
    return _caller("network", network_of(address))


def person_caller(sub: str) -> Caller:
    """The caller behind a request with a session, through whatever address and session."""
    return _caller("person", sub)


def _caller(kind: str, name: str) -> Caller:
    digest = hashlib.sha256("\0".join(("cyoloctl browser caller v1", kind, name)).encode()).hexdigest()
    return Caller("browser", digest[:32])


def ip(text: str) -> IpAddress:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        raise InvalidInput("X-Forwarded-For names what is no IP address: correct the proxy") from None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_in(address: IpAddress, networks: Sequence[IpNetwork]) -> bool:
    return any(address in network for network in networks)  # of the other version: not in it


_HOST = re.compile(r"([a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::([0-9]{1,5}))?")


def one_host(text: str) -> str:
    """A host in its one spelling: lower case, no dot at the end, an IP address as it is written shortest."""
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        return text.lower().removesuffix(".")


def host_of_url(url: str) -> str:
    """The host of a link, in its one spelling; "" for none."""
    return one_host(urlsplit(url).hostname or "")


def parse_host(text: str) -> tuple[str, int | None]:
    """Host, in its one spelling, and port of a Host header.  Raises InvalidInput."""
    found = _HOST.fullmatch(text.lower())
    host = "" if found is None else one_host(found[1])
    if found is None or not host or (found[1].startswith("[") and ":" not in host) or "[" in host:
        raise InvalidInput("the Host header is not valid: use a host name")
    return host, None if found[2] is None else int(found[2])


def _one_origin(text: str) -> str:
    """An origin as `origin_of` spells it; as it is where it is none."""
    scheme, separator, host = text.partition("://")
    try:
        return origin_of(scheme, *parse_host(host)) if separator else text
    except InvalidInput:
        return text


def origin_of(scheme: str, host: str, port: int | None) -> str:
    """The origin as browsers spell it (RFC 6454 6.2)."""
    shown = f"[{host}]" if ":" in host else host
    standard = port is None or port == (443 if scheme == "https" else 80)
    return f"{scheme}://{shown}" + ("" if standard else f":{port}")


class _Headers(Protocol):
    def get(self, name: str, /) -> str | None:
        """The first value of a header."""


@dataclass(slots=True)
class GatewayRequest:
    """A request, as far as it can be believed; served: the caller for whom it is counted."""

    method: str
    path: str
    query: str
    client: IpAddress
    scheme: str
    origin: str
    host: str
    cookie: str
    headers: _Headers
    port: int | None = None
    served: str | None = None

    def origin_at(self, host: str) -> str:
        """The origin of another host name that is served where this one is: scheme and port are the same."""
        return origin_of(self.scheme, host, self.port)

    @property
    def client_name(self) -> str:
        """The client's address, as people read it."""
        return "an unknown address" if self.client == UNKNOWN else str(self.client)

    @property
    def root(self) -> str:
        """From the page to the base of the links: relative, since proxies may put a path before it."""
        return "../" * (self.path.count("/") - 1)

    def refuse_other_origins(self) -> None:
        """Check a request for a change.  Raises RefusalPage for a request that no page of ours sent.

        Every present browser sends at least one of the two with a POST; a client
        that sends neither is no browser, and has the API.
        """
        origin, site = self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site")
        unsaid = origin is None and site is None
        other = origin is not None and _one_origin(origin) != self.origin
        if unsaid or other or site not in (None, "same-origin"):
            raise RefusalPage(
                403,
                "Not from this page",
                "Your browser says that another web site sent this request, so nothing was done. "
                "If you did want this, open this page yourself and begin again.",
            )


class RefusalPage(Exception):
    """Ends a request with a page."""

    def __init__(self, status: int, title: str, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(title)
        self.status, self.title, self.text, self.headers = status, title, text, headers or {}


# ---- forms ----


@dataclass(frozen=True, slots=True)
class Opened:
    """The contents of a form.

    digest: 64 hex digits, of the sealed bytes: another one for each form that
    was made, and the same however the form is sent.
    """

    payload: bytes
    digest: str = field(repr=False)


class Forms:
    """Seals what a form carries for one purpose, browser and person, and opens it again.

    ``id of the key (4) || nonce (12) || AES-256-GCM(time in s (8) || payload)`` in
    base64url, with purpose, browser and person as associated data.  random: n -> n random bytes.
    """

    def __init__(self, keys: Callable[[], list[tuple[bytes, bytes]]], random: Callable[[int], bytes]) -> None:
        self._keys = keys
        self._random = random

    def seal(self, purpose: str, browser: str, person: str, payload: bytes, now_unix_s: int) -> str:
        """A sealed form for one browser and person.  Raises Unavailable while the node has no key."""
        keys = self._keys()
        if not keys:
            raise Unavailable("this node has no key yet: try again")
        key_id, key = keys[0]
        nonce = self._random(12)
        plain = now_unix_s.to_bytes(8, "big") + payload
        sealed = AESGCM(key).encrypt(nonce, plain, self._context(purpose, browser, person))
        return encode_base64url(key_id + nonce + sealed)

    def open(
        self, form: str, purpose: str, browsers: Sequence[str], person: str, now_unix_s: int
    ) -> tuple[Opened, str]:
        """Open a form that was sealed for one of a browser's secrets: what it says, and for which.

        Raises RefusalPage, with the reason; for another spelling of the same bytes too.
        """
        try:
            data = decode_base64url(form) if len(form) <= 256 else b""
        except ValueError:
            data = b""
        for browser in browsers:
            plain = self._decrypted(data, self._context(purpose, browser, person))
            if plain is None:
                continue
            if -_SKEW_S <= now_unix_s - int.from_bytes(plain[:8], "big") <= FORM_LIFE_S:
                return Opened(plain[8:], hashlib.sha256(data).hexdigest()), browser
            raise _stale("It is older than ten minutes.")
        if not browsers:
            raise _stale("Your browser sent no cookie of this page: it keeps none, or they were deleted.")
        raise _stale("It was made for another person or in another browser, or it was damaged.")

    def _decrypted(self, data: bytes, context: bytes) -> bytes | None:
        for key_id, key in self._keys():
            if data[:4] == key_id and len(data) >= 40:
                with suppress(InvalidTag):
                    return AESGCM(key).decrypt(data[4:16], data[16:], context)
        return None

    def _context(self, purpose: str, browser: str, person: str) -> bytes:
        # Purpose and browser hold no zero byte, so no two contexts are the same bytes.
        return "\0".join(("cyoloctl form v1", purpose, browser, person)).encode()


def _stale(why: str) -> RefusalPage:
    said = f"{why} Nothing was changed: begin again."
    return RefusalPage(400, "This form is no longer valid", said)


_BROWSER = re.compile(r"[A-Za-z0-9_-]{22}")
#: More form cookies than a browser gets from us, which gives it one only when it shows none.
_MAX_BROWSERS = 8


def cookie_of(cookie: str, name: str) -> str | None:
    """The value of a cookie in the ``Cookie:`` header; None for none or several."""
    found = [
        value
        for key, equals, value in (part.strip(" \t").partition("=") for part in cookie.split(";"))
        if key == name and equals
    ]
    return found[0] if len(found) == 1 else None


def browsers_of(cookie: str, name: str) -> tuple[str, ...]:
    """The values of the form cookies: those of this name, and of it with anything after a dash.

    A browser that opened two pages at once, before it had a cookie, has two: each
    of the pages is for one of them.  A name that is there twice counts for none.
    """
    names = [part.strip(" \t").partition("=")[0] for part in cookie.split(";")]
    found = (cookie_of(cookie, n) for n in names if n == name or n.startswith(f"{name}-"))
    known = dict.fromkeys(value for value in found if value is not None and _BROWSER.fullmatch(value))
    return tuple(known)[:_MAX_BROWSERS]


@dataclass(frozen=True, slots=True)
class Begun:
    """A browser's record of the rendezvous that it began, sealed in a cookie so that any node goes on.

    id: of the record.  redemption: the secret that redeems it, 32 hex digits.
    user_code: as it is shown.
    """

    id: str = field(repr=False)
    redemption: str = field(repr=False)
    user_code: str = field(repr=False)

    def seal(self, forms: Forms, now_unix_s: int) -> str:
        """The cookie's value.  Raises Unavailable."""
        payload = bytes.fromhex(self.id + self.redemption) + self.user_code.encode("ascii")
        return forms.seal("begun", "", "", payload, now_unix_s)

    @classmethod
    def open(cls, forms: Forms, value: str, now_unix_s: int) -> Begun:
        """Open a cookie's value.  Raises the same RefusalPage for every reason."""
        payload = forms.open(value, "begun", [""], "", now_unix_s)[0].payload
        return cls(payload[:16].hex(), payload[16:32].hex(), payload[32:].decode("ascii"))


def code_of(text: str) -> str:
    """A user code as it is shown, "" for what is none."""
    try:
        return shown_user_code(text)
    except InvalidInput:
        return ""


def code_in(query: str) -> str:
    """The user code that a link fills in, as it is shown; "" for none."""
    try:
        fields = dict(parse_qsl(query, max_num_fields=8))
    except ValueError:
        return ""
    return code_of(fields.get("user_code", ""))
