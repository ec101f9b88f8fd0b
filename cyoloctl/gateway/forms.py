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
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cyoloctl.caller import Caller
from cyoloctl.errors import InvalidInput, Unavailable
from cyoloctl.rendezvous.codes import shown_user_code
from cyoloctl.text import decode_base64url, encode_base64url

__all__ = [
    "FORM_LIFE_S",
    "Begun",
    "Forms",
    "GatewayRequest",
    "IpAddress",
    "IpNetwork",
    "Opened",
    "RefusalPage",
    "browser_of",
    "client_address",
    "code_in",
    "cookie_of",
    "ip",
    "is_in",
    "network_caller",
    "network_of",
    "origin_of",
    "parse_host",
    "person_caller",
]

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

FORM_LIFE_S = 600
_SKEW_S = 60


def client_address(peer: str, forwarded_for: Iterable[str], trusted: Sequence[IpNetwork]) -> IpAddress:
    """The client: the last address that no trusted proxy vouches for.

    peer: who is connected.  forwarded_for: the X-Forwarded-For lines, in
    order.  Raises InvalidInput where a trusted proxy names what is no address.
    """
    hops = [hop.strip() for line in forwarded_for for hop in line.split(",")]
    address = ip(peer)
    while hops and is_in(address, trusted):
        address = ip(hops.pop())
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


def parse_host(text: str) -> tuple[str, int | None]:
    """Host name or IP address in lower case, and port, of a Host header.  Raises InvalidInput."""
    found = _HOST.fullmatch(text.lower())
    if found is None:
        raise InvalidInput("the Host header is not valid: use a host name")
    name = found[1].strip("[]")
    if found[1].startswith("["):
        try:
            name = str(ipaddress.IPv6Address(name))
        except ValueError:
            raise InvalidInput("the Host header is not valid: use a host name") from None
    return name, None if found[2] is None else int(found[2])


def origin_of(scheme: str, host: str, port: int | None) -> str:
    """The origin as browsers spell it (RFC 6454 6.2)."""
    shown = f"[{host}]" if ":" in host else host
    standard = port is None or port == (443 if scheme == "https" else 80)
    return f"{scheme}://{shown}" + ("" if standard else f":{port}")


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
    headers: Mapping[str, str]
    served: str | None = None

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
        if unsaid or origin not in (None, self.origin) or site not in (None, "same-origin"):
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

    def open(self, form: str, purpose: str, browser: str, person: str, now_unix_s: int) -> Opened:
        """Open a form.

        Raises the same RefusalPage for every reason, another spelling of the same bytes too.
        """
        stale = RefusalPage(
            400,
            "This form is no longer valid",
            "It was made for another browser or person, it is older than ten minutes, or your browser keeps "
            "no cookies. Nothing was changed: begin again.",
        )
        try:
            data = decode_base64url(form) if len(form) <= 256 else b""
        except ValueError:
            raise stale from None
        for key_id, key in self._keys():
            if data[:4] == key_id and len(data) >= 40:
                try:
                    plain = AESGCM(key).decrypt(
                        data[4:16], data[16:], self._context(purpose, browser, person)
                    )
                except InvalidTag:
                    continue
                if -_SKEW_S <= now_unix_s - int.from_bytes(plain[:8], "big") <= FORM_LIFE_S:
                    return Opened(plain[8:], hashlib.sha256(data).hexdigest())
        raise stale

    def _context(self, purpose: str, browser: str, person: str) -> bytes:
        # Purpose and browser hold no zero byte, so no two contexts are the same bytes.
        return "\0".join(("cyoloctl form v1", purpose, browser, person)).encode()


_BROWSER = re.compile(r"[A-Za-z0-9_-]{22}")


def cookie_of(cookie: str, name: str) -> str | None:
    """The value of a cookie in the ``Cookie:`` header; None for none or several."""
    found = [
        value
        for key, equals, value in (part.strip(" \t").partition("=") for part in cookie.split(";"))
        if key == name and equals
    ]
    return found[0] if len(found) == 1 else None


def browser_of(cookie: str, name: str) -> str | None:
    """The value of the form cookie; None for none, a strange one, or several."""
    found = cookie_of(cookie, name)
    return found if found is not None and _BROWSER.fullmatch(found) else None


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
        payload = forms.open(value, "begun", "", "", now_unix_s).payload
        return cls(payload[:16].hex(), payload[16:32].hex(), payload[32:].decode("ascii"))


def code_in(query: str) -> str:
    """The user code that a link fills in, as it is shown; "" for none."""
    try:
        fields = dict(parse_qsl(query, max_num_fields=8))
        return shown_user_code(fields.get("user_code", ""))
    except (ValueError, InvalidInput):
        return ""
