"""Who may see the console: this machine, by a link that works once, and no page of anybody else.

The console faces no network, but every program and every page in a browser of
this machine can speak to its port.  So:

* It listens on a loopback address only, and answers only requests for one: a name
  that an attacker's DNS turns to 127.0.0.1 is refused by its Host header.
* The printed link holds a secret that is good for one browser.  It becomes a
  cookie that no script reads, that no other site's page sends (SameSite), and
  whose path nobody knows who was not let in: cookies do not tell ports apart,
  and another user's server on this machine must not be sent ours.
* What another site's page asks is refused by Origin and Sec-Fetch-Site, and no
  answer has a CORS header.
* Only GET and HEAD exist.

Pure: the secrets are given.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cyoloctl.errors import InvalidInput

__all__ = ["COOKIE", "Asked", "Door", "Refusal", "parse_loopback", "refused"]

COOKIE = "cyoloctl-console"
METHODS = ("GET", "HEAD")

_CLOSED = "This console opens by the link that `cyoloctl console` prints, once for each link.\n"


class Asked(NamedTuple):
    """A request, as far as its admission goes.  hosts, origins, sites: all headers of that name."""

    method: str
    path: str
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    sites: Sequence[str] = ()
    cookies: Sequence[str] = ()


class Refusal(NamedTuple):
    """Why a request gets nothing."""

    status: int
    text: str


def parse_loopback(text: str) -> tuple[str, int]:
    """HOST:PORT of a loopback address, port 0 for any free one.  Raises InvalidInput."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535 and bare):
        raise InvalidInput(f"--listen is {text[:80]!r}: use 127.0.0.1:PORT or [::1]:PORT, port 0 to 65535")
    if not _is_loopback(host):
        raise InvalidInput(
            f"--listen is {text[:80]!r}: the console speaks plain HTTP, so it serves this machine only; "
            "use 127.0.0.1:PORT or [::1]:PORT, and from elsewhere `ssh -L PORT:127.0.0.1:PORT`"
        )
    return ("127.0.0.1" if bare.lower() == "localhost" else bare), int(port)


def _is_loopback(host: str) -> bool:
    """Whether a host as a URL has it is localhost or a loopback address; no name is looked up."""
    if host.lower() == "localhost":
        return True
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        return False
    return address.is_loopback and bracketed == (address.version == 6) and "%" not in host


def _without_port(host: str) -> str:
    name, separator, port = host.rpartition(":")
    return name if separator and (not port or (port.isascii() and port.isdigit())) else host


def refused(asked: Asked) -> Refusal | None:
    """Why nobody may ask like that, whoever they are; None: they may.

    Any port will do: a tunnel has one of its own.
    """
    if len(asked.hosts) != 1 or not _is_loopback(_without_port(asked.hosts[0])):
        return Refusal(421, "The console is at a loopback address only: open it as 127.0.0.1.\n")
    if asked.method not in METHODS:
        return Refusal(405, "The console only shows: it takes GET and HEAD.\n")
    if any(site not in ("none", "same-origin") for site in asked.sites) or any(
        origin != f"http://{asked.hosts[0]}" for origin in asked.origins
    ):
        return Refusal(403, "Pages of other sites may not ask: paste the link into the address bar.\n")
    return None


class Door:
    """Lets browsers in, each by a link of its own.

    secret: makes unguessable text, letters of URLs only.
    """

    def __init__(self, secret: Callable[[], str]) -> None:
        self._secret = secret
        self._place = secret()
        self._pass = secret()
        self._link = secret()

    @property
    def link(self) -> str:
        """The path of the link that opens the next browser."""
        return f"/open/{self._link}"

    @property
    def home(self) -> str:
        """The path below which everything is, unguessable too."""
        return f"/{self._place}/"

    def open(self, asked: Asked) -> str | None:
        """The Set-Cookie of a browser that comes by the link, which is used up; None for any other."""
        if asked.method != "GET" or not _same(asked.path, self.link):
            return None
        self._link = self._secret()
        return f"{COOKIE}={self._pass}; Path={self.home}; HttpOnly; SameSite=Strict"

    def inside(self, asked: Asked) -> str | Refusal:
        """What is asked for below `home`, by a browser that was let in.

        Nobody else learns what is there: one answer for all that is wrong.
        """
        place, name = asked.path[: len(self.home)], asked.path[len(self.home) :]
        passes = [
            value.strip()
            for header in asked.cookies
            for key, _, value in (each.partition("=") for each in header.split(";"))
            if key.strip() == COOKIE
        ]
        if not any(_same(value, self._pass) for value in passes) or not _same(place, self.home):
            return Refusal(403, _CLOSED)
        return name


def _same(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), secret.encode())
