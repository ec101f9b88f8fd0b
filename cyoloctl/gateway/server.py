"""The listener for browsers and reverse proxies: health, metrics, session refresh, the rendezvous pages.

Nobody here is known by a certificate, so the rules are those of the web:

* A GET changes nothing and looks no code up.  What changes something is a POST
  from a page of ours: its Origin (or Sec-Fetch-Site) is ours, and it carries a
  form that this cluster sealed for the very browser (a cookie of its own).  Its
  key comes from the token keys, so any node opens what another one sealed, after
  a rotation too.
* Every request is served on behalf of its person, or of its network where there is
  no session, and each of them has bounds of their own (`callers`).
* What strangers said (who asks, from where, for what) is escaped where it is put
  into the page, and only into text and quoted attributes (`templates`).  No script
  runs here at all.

How HTTP is framed and bounded is `web.connection`'s.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import Callable
from email.utils import formatdate

from markupsafe import Markup

from cyoloctl.errors import ConfigError, InvalidInput
from cyoloctl.gateway.answers import Answer, page, refusal_page, text
from cyoloctl.gateway.callers import LIMIT_S, Callers, SignInFirst
from cyoloctl.gateway.forms import (
    GatewayRequest,
    RefusalPage,
    client_address,
    ip,
    is_in,
    origin_of,
    parse_host,
)
from cyoloctl.gateway.programs import Programs
from cyoloctl.gateway.rendezvous_pages import RendezvousPages
from cyoloctl.gateway.settings import GatewayNode, GatewaySettings, Limits
from cyoloctl.gateway.templates import SECURITY
from cyoloctl.metrics.counts import Requests
from cyoloctl.routing.table import NODE_COOKIE
from cyoloctl.web.connection import Connection, HttpServer
from cyoloctl.web.listener import Guest, Listener
from cyoloctl.web.request import Answer as Response
from cyoloctl.web.request import Request, TooLong, answer_bytes
from cyoloctl.web.strangers import StrangerLimits, Visitors

__all__ = ["Gateway", "tls_context"]

_log = logging.getLogger("cyoloctl.gateway")

_LINGER_S = 1.0
_MAX_HEADERS = 64
_LIMITS = Limits()
_TOO_LONG: dict[TooLong, tuple[int, str, str]] = {
    "line": (
        414,
        "The link is too long",
        "A link of this page has less than 8 KiB. Check where it came from.",
    ),
    "header": (
        431,
        "Too many cookies",
        "Your browser sent more than 8 KiB of cookies, or another header as long. Delete the cookies of this "
        "site and of its parent domains, then open the page again.",
    ),
}


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 and later with a certificate chain and its key, PEM files.  Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot use {certificate} and {key}: {getattr(error, 'strerror', None) or error}; "
            "correct gateway.tls in node.yaml"
        ) from None
    return context


class _Connection(Connection):
    """One connection.  Trusted proxies share a bound of their own."""

    __slots__ = ("_gateway",)

    def __init__(self, gateway: Gateway, guest: Guest) -> None:
        super().__init__(
            gateway, guest, idle_s=gateway.limits.idle_s, linger_s=_LINGER_S, max_headers=_MAX_HEADERS
        )
        self._gateway = gateway

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read, or close when there are too many."""
        super().connection_made(transport)
        # The listener bounds strangers.  Proxies do not count among them, and have room of their own.
        proxies = 0 if self.stranger else sum(not each.stranger for each in self._gateway.connections)
        if proxies > self._gateway.limits.connections:
            self.force_close()


class Gateway(HttpServer[_Connection]):
    """Serves one listening socket.  `start`, then `close`; belongs to the running loop."""

    def __init__(self, node: GatewayNode, settings: GatewaySettings, limits: Limits = _LIMITS) -> None:
        super().__init__()
        self.limits = limits
        self._node = node
        self._callers = Callers(node, settings, limits)
        self._requests = Requests()
        self._listener: Listener | None = None
        self._tls = False
        self.change(settings)

    def change(self, settings: GatewaySettings) -> None:
        """Go by other settings from the next request on.

        A connection that is open stays the proxy's or stranger's that it was.
        """
        self._settings = self._callers.settings = settings
        self._trusted = [ipaddress.ip_network(text) for text in settings.trusted_proxies]
        programs = Programs(
            self._node,
            settings,
            self._callers,
            self._requests,
            closing=lambda: self.closing,
            connections=lambda: len(self.connections),
        )
        pages = RendezvousPages(self._node, settings, self._callers)
        self._routes = {**programs.routes(), **pages.routes()}

    async def start(self, listening: socket.socket, tls: Callable[[], ssl.SSLContext] | None) -> None:
        """Accept on a listening socket, which is the gateway's from now on.

        tls: the context for a new connection, asked each time.
        """
        self._tls = tls is not None
        limits = self.limits
        visitors = Visitors(
            StrangerLimits(
                connections=limits.connections,
                per_source=limits.client_connections,
                head_s=limits.idle_s,
                idle_s=limits.idle_s,
            )
        )
        self._listener = Listener(
            listening,
            lambda guest: _Connection(self, guest),
            visitors,
            name="gateway",
            tls=tls,
            is_known=lambda address: is_in(ip(address), self._trusted),
        )
        self._listener.start()

    async def close(self, timeout_s: float = 2.0) -> None:
        """Stop accepting, let running requests finish for up to timeout_s seconds.  Idempotent."""
        if self._listener is not None:
            self._listener.close()
        await super().close(timeout_s)

    # -- one request

    async def respond(self, request: Request, connection: _Connection) -> Response:
        """The answer to a request."""
        started = time.monotonic()
        path, _, query = request.target.partition("?")
        route = "/r/" if path.startswith("/r/") else path
        asked: GatewayRequest | None = None
        try:
            async with asyncio.timeout(LIMIT_S + self.limits.body_s + 1):
                methods = self._routes.get(route)
                asked = self._asked(request, path, query)
                method = "GET" if request.method == "HEAD" else request.method
                if methods is None:
                    raise RefusalPage(404, "Nothing is here", "The link may be wrong or incomplete.")
                if method not in methods:
                    allowed = ", ".join(sorted({*methods, *(("HEAD",) if "GET" in methods else ())}))
                    raise RefusalPage(
                        405, "Not this way", "This page is not made to be used like that.", {"Allow": allowed}
                    )
                answer = await methods[method](asked, request)
        except SignInFirst as error:
            answer = self._callers.sign_in(asked, 403, error.code)
        except Exception as error:
            why = error if isinstance(error, RefusalPage) else refusal_page(error)
            answer = self._refusal(route, asked, why)
        finally:
            if asked is not None:
                self._callers.done(asked)
        self._requests.observe(
            (route if route in self._routes else "other",), answer.status, time.monotonic() - started
        )
        scheme = "http" if asked is None else asked.scheme
        keep_alive = request.keep_alive and request.is_1_1 and request.complete and not self.closing
        return self._guarded(answer, scheme, keep_alive, body_too=request.method != "HEAD")

    def refuse_unreadable(self, error: BaseException | None, too_long: TooLong | None) -> Response:
        """The answer to bytes that are not HTTP, or to too long a head."""
        if error is not None:
            _log.error("the HTTP layer failed", exc_info=error)
        status = 400 if error is None else 500
        answer = text(status, "the request is not valid HTTP/1.1\n")
        if too_long is not None:  # of a browser, whose user can help it
            status, title, said = _TOO_LONG[too_long]
            answer = page(self._node.name, status, title, Markup("<p>{text}</p>").format(text=said))
        return self._guarded(answer, "http", keep_alive=False)

    def _guarded(self, answer: Answer, scheme: str, keep_alive: bool, *, body_too: bool = True) -> Response:
        """An answer with all that protects it."""
        named = {**SECURITY, **answer.headers, NODE_COOKIE: self._node.name, "Server": "cyoloctl"}
        if answer.body:
            named["Content-Type"] = f"{answer.kind}; charset=utf-8"
        if scheme == "https":
            named["Strict-Transport-Security"] = "max-age=31536000"
        if not keep_alive:
            named["Connection"] = "close"
        headers = [("Date", formatdate(usegmt=True)), *named.items()]
        headers += [("Set-Cookie", cookie) for cookie in answer.cookies]
        body = answer.body.encode()
        return Response(
            answer.status, answer_bytes(answer.status, headers, body, body_too=body_too), keep_alive
        )

    def _asked(self, request: Request, path: str, query: str) -> GatewayRequest:
        """The request as the pages see it.

        Raises InvalidInput, and RefusalPage for a host that is not ours.
        """
        peer = ip(request.connection.remote)
        by_proxy = is_in(peer, self._trusted)
        headers = request.headers

        def forwarded(name: str) -> str | None:
            values = headers.all(name) if by_proxy else []
            return values[-1].rpartition(",")[2].strip() if values else None

        scheme = "https" if self._tls else forwarded("X-Forwarded-Proto") or "http"
        if scheme not in ("http", "https"):
            raise InvalidInput("X-Forwarded-Proto is neither http nor https: correct the proxy")
        named = headers.all("Host")
        if len(named) > 1:
            raise InvalidInput("there are several Host headers: send one")
        host, port = "", None
        if path not in (
            "/healthz",
            "/readyz",
        ):  # which say nothing, and are asked by address or without a name
            host, port = parse_host(forwarded("X-Forwarded-Host") or (named[0] if named else ""))
            if host not in self._settings.allowed_hosts and host not in self._node.hosts():
                raise RefusalPage(
                    421,
                    "Not served here",
                    "No node here has the host name of this link. The operator can allow it: "
                    "member set-host, route share, or gateway.allowed_hosts.",
                )
        return GatewayRequest(
            method=request.method,
            path=path,
            query=query,
            client=client_address(str(peer), headers.all("X-Forwarded-For"), self._trusted),
            scheme=scheme,
            origin=origin_of(scheme, host, port),
            host=host,
            port=port,
            cookie="; ".join(headers.all("Cookie")),
            headers=headers,
        )

    def _refusal(self, route: str, asked: GatewayRequest | None, why: RefusalPage) -> Answer:
        if not route.startswith(("/r", "/begin")) or route == "/readyz":  # programs ask there
            return Answer(why.status, f"{why.text}\n", "text/plain", dict(why.headers))
        again = Markup()
        if asked is not None:
            to, text = ("rendezvous", "Enter a code")
            if route.startswith("/begin") and self._settings.begin:
                to, text = ("begin", "Begin again")
            again = Markup('<a class="button" href="{to}">{text}</a>').format(to=asked.root + to, text=text)
        body = Markup("<p>{text}</p>\n{again}").format(text=why.text, again=again)
        return page(self._node.name, why.status, why.title, body, why.headers)
