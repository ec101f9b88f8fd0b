"""The listener of the console: files of the page and one object of data, for browsers that `Door` lets in.

How HTTP is framed and bounded is `web.connection`'s.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from importlib import resources

from cyoloctl.console.guard import Asked, Door, Refusal, refused
from cyoloctl.text import Json
from cyoloctl.web.connection import Connection, HttpServer
from cyoloctl.web.listener import Guest, Listener
from cyoloctl.web.request import Answer, Request, TooLong, answer_bytes
from cyoloctl.web.strangers import StrangerLimits, Visitors

__all__ = ["SECURITY", "ConsoleServer"]

#: What protects every answer.  Trusted types are off for good: text from nodes never becomes HTML.
SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
    "Server": "cyoloctl",
}

_FILES = {
    "": ("console.html", "text/html"),
    "console.css": ("console.css", "text/css"),
    "charts.js": ("charts.js", "text/javascript"),
    "console.js": ("console.js", "text/javascript"),
    "elements.js": ("elements.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
_IDLE_S = 20.0
_LINGER_S = 1.0
_MAX_HEADERS = 64
# All of them are of this machine, so they share one bound.
_CONNECTIONS = 64


class ConsoleServer(HttpServer[Connection]):
    """Serves one listening socket.  `start`, then `close`; belongs to the running loop.

    data: what the page shows.  opened: told when a link was used, and there is another one.
    """

    def __init__(self, door: Door, data: Callable[[], Json], opened: Callable[[], None]) -> None:
        super().__init__()
        self._door = door
        self._data = data
        self._opened = opened
        self._listener: Listener | None = None
        page = resources.files("cyoloctl.console").joinpath("page")
        self._files = {
            name: (page.joinpath(file).read_bytes(), kind) for name, (file, kind) in _FILES.items()
        }

    def start(self, listening: socket.socket) -> None:
        """Accept on a listening socket, which is the server's from now on."""
        limits = StrangerLimits(
            connections=_CONNECTIONS, per_source=_CONNECTIONS, head_s=_IDLE_S, idle_s=_IDLE_S
        )
        self._listener = Listener(listening, self._accept, Visitors(limits), name="console", tls=None)
        self._listener.start()

    async def close(self, timeout_s: float = 1.0) -> None:
        """Stop accepting, let running requests finish.  Idempotent."""
        if self._listener is not None:
            self._listener.close()
        await super().close(timeout_s)

    def _accept(self, guest: Guest) -> Connection:
        return Connection(self, guest, idle_s=_IDLE_S, linger_s=_LINGER_S, max_headers=_MAX_HEADERS)

    async def respond(self, request: Request, connection: Connection) -> Answer:
        """The answer to a request."""
        headers = request.headers
        asked = Asked(
            method=request.method,
            path=request.target.partition("?")[0],
            hosts=headers.all("Host"),
            origins=headers.all("Origin"),
            sites=headers.all("Sec-Fetch-Site"),
            cookies=headers.all("Cookie"),
        )
        keep_alive = request.keep_alive and request.is_1_1 and request.complete and not self.closing
        return self._answer(asked).answer(keep_alive, body_too=request.method != "HEAD")

    def _answer(self, asked: Asked) -> _Said:
        refusal = refused(asked)
        if refusal is not None:
            return _refuse(refusal)
        cookie = self._door.open(asked)
        if cookie is not None:
            self._opened()
            return _Said(303, b"", "text/plain", {"Location": self._door.home, "Set-Cookie": cookie})
        name = self._door.inside(asked)
        if isinstance(name, Refusal):
            return _refuse(name)
        if name == "data":
            text = json.dumps(self._data(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            return _Said(200, text.encode("utf-8", "replace"), "application/json", {})
        if name not in self._files:
            return _refuse(Refusal(404, "Nothing is here.\n"))
        body, kind = self._files[name]
        return _Said(200, body, kind, {})

    def refuse_unreadable(self, error: BaseException | None, too_long: TooLong | None) -> Answer:
        """The answer to bytes that are not HTTP, or to too long a head."""
        refusal = Refusal(400 if error is None else 500, "The request is not valid HTTP/1.1.\n")
        return _refuse(refusal).answer(keep_alive=False)


@dataclass(frozen=True, slots=True)
class _Said:
    """An answer, before what protects it is added."""

    status: int
    body: bytes
    kind: str
    headers: Mapping[str, str]

    def answer(self, keep_alive: bool, *, body_too: bool = True) -> Answer:
        """With all that protects it."""
        headers = {
            "Date": formatdate(usegmt=True),
            **SECURITY,
            **self.headers,
            "Content-Type": f"{self.kind}; charset=utf-8",
            **({} if keep_alive else {"Connection": "close"}),
        }
        data = answer_bytes(self.status, headers.items(), self.body, body_too=body_too)
        return Answer(self.status, data, keep_alive)


def _refuse(refusal: Refusal) -> _Said:
    allowed = {"Allow": "GET, HEAD"} if refusal.status == 405 else {}
    return _Said(refusal.status, refusal.text.encode(), "text/plain", allowed)
