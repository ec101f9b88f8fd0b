"""The listener for browsers and reverse proxies: health, metrics, session refresh, the rendezvous page.

Nobody here is known by a certificate, so the rules are those of the web:

* A GET changes nothing and looks no code up.  What changes something is a POST
  from a page of ours: its Origin (or Sec-Fetch-Site) is ours, and it carries a
  form that this cluster sealed for the very browser (a cookie of its own).
* The form names the record encrypted: the id redeems the answer, so whoever
  approves must not learn it.  Its key comes from the token keys, so any node
  opens what another one sealed, after a rotation too.
* What a browser began is in a cookie of its own, sealed by the same keys: any node
  goes on with it, and no other browser.
* A form counts once: the request id of the transition is a hash of what the form
  seals, so it can be sent again, to another node, when the answer to the first was
  lost, and no other way to write it down is another request.
* Every request is served on behalf of its person, or of its network where there is
  no session, and each of them has bounds of their own.
* What strangers said (who asks, from where, for what) is escaped where it is put
  into the page, and only into text and quoted attributes.  No script runs here at all.
* Consent phishing (RFC 10027, BCP 247: somebody sends his own link to a victim who
  approves) cannot be told from a right approval by the machine.  The page says
  who asks, where it began and that nothing should be approved which one did not
  start oneself; codes live minutes, guesses are counted in the cluster.

aiohttp frames HTTP, as in control.server and for the same reasons below `web.Application`.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import os
import secrets
import socket
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web

from cyoloctl.caller import CALLER, Actor, Caller
from cyoloctl.errors import (
    ApprovalRefused,
    BodyTooLarge,
    ConfigError,
    Conflict,
    CyoloctlError,
    Denied,
    Expired,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    SlowDown,
    TokenRejected,
    Unavailable,
)
from cyoloctl.gateway.forms import (
    FORM_LIFE_S,
    Asked,
    Begun,
    Forms,
    Opened,
    Refused,
    browser_of,
    client_address,
    code_in,
    cookie_of,
    ip,
    is_in,
    network_caller,
    network_of,
    origin_of,
    parse_host,
    person_caller,
    shown_code,
)
from cyoloctl.gateway.metrics import Metrics
from cyoloctl.gateway.pages import (
    BEGIN,
    DECIDE,
    ENTER,
    GO_ON,
    PAGE,
    REDEEMED,
    SECURITY,
    SIGN_IN,
    WAIT,
    Html,
    buttons,
    clock,
    data_html,
    fill,
    left,
    refresh,
)
from cyoloctl.gateway.settings import GatewayNode, GatewaySettings, Limits
from cyoloctl.routing.table import NODE_COOKIE
from cyoloctl.web.listener import Guest, Listener
from cyoloctl.web.strangers import StrangerLimits, Visitors

__all__ = ["Gateway", "tls_context"]

_log = logging.getLogger("cyoloctl.gateway")

MAX_BODY_BYTES = 8 * 1024
_LINGER_S = 1.0
_LIMITS = Limits()
# What proxies wait is longer (routing.ExportOptions): they must hear our 503, not give up on us.
_LIMIT_S = 4.5
_LOOK_AGAIN_S = 5  # RFC 8628's interval


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


@dataclass(slots=True)
class _Answer:
    status: int
    body: str = ""
    kind: str = "text/html"
    headers: dict[str, str] = field(default_factory=dict)
    cookies: list[str] = field(default_factory=list)


def _text(status: int, body: str, **headers: str) -> _Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return _Answer(status, body, "text/plain", named)


class _Connection(web.RequestHandler):
    """One connection, counted, without log lines that anybody could cause."""

    __slots__ = ("_guest", "_owner", "busy")

    def __init__(self, owner: Gateway, manager: web.Server, guest: Guest) -> None:
        super().__init__(
            manager,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=owner.limits.idle_s,
            access_log=None,  # type: ignore[arg-type]  # aiohttp tests it for truth and types it as a Logger
            lingering_time=_LINGER_S,
            auto_decompress=False,
            max_headers=64,
            logger=owner.quiet,
        )
        self._owner = owner
        self._guest = guest
        self.busy = False

    @property
    def stranger(self) -> bool:
        """Whether the caller is no trusted proxy."""
        return self._guest.stranger

    def begin(self) -> None:
        """A request's whole head is there."""
        self.busy = True
        self._guest.asked()

    def end(self) -> None:
        """Its answer is ready."""
        self.busy = False
        self._guest.answered()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read; turn away who is too many."""
        super().connection_made(transport)
        self._owner.connections.add(self)
        # The listener bounds strangers.  Proxies do not count among them, and have room of their own.
        owner = self._owner
        proxies = 0 if self.stranger else sum(not each.stranger for each in owner.connections)
        if owner.closing or proxies > owner.limits.connections:
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._owner.connections.discard(self)
        self._guest.left()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is not HTTP, or too long a head."""
        if status != 400:
            _log.error("the HTTP layer failed", exc_info=exc)
        response = self._owner.respond(_text(status, "the request is not valid HTTP/1.1\n"), "http")
        response.force_close()
        return response


def _less(counts: Counter[str], name: str) -> None:
    counts[name] -= 1
    if counts[name] <= 0:
        del counts[name]


class _SignInFirst(Exception):
    """Ends a request with the page that says so."""


_Handler = Callable[[Asked, web.BaseRequest], Awaitable[_Answer]]


class Gateway:
    """Serves one listening socket.  `start`, then `close`; belongs to the running loop."""

    def __init__(self, node: GatewayNode, settings: GatewaySettings, limits: Limits = _LIMITS) -> None:
        self.limits = limits
        self._node = node
        self._settings = settings
        self._trusted = [ipaddress.ip_network(text) for text in settings.trusted_proxies]
        self._metrics_clients = [ipaddress.ip_network(text) for text in settings.metrics_clients]
        self._forms = Forms(node.form_keys, os.urandom)
        self._metrics = Metrics()
        self._listener: Listener | None = None
        self._tls = False
        self._http = web.Server(self._handle)
        self.connections: set[_Connection] = set()
        #: How many connections a network has; of proxies that are trusted none is counted.
        self._served: Counter[str] = Counter()
        self.quiet = logging.Logger("cyoloctl.gateway.aiohttp", logging.CRITICAL + 1)
        self.closing = False
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._routes: dict[str, dict[str, _Handler]] = {
            "/healthz": {"GET": self._healthz},
            "/readyz": {"GET": self._readyz},
            "/metrics": {"GET": self._show_metrics},
            "/rendezvous": {"GET": self._enter, "POST": self._find},
            "/rendezvous/approve": {"POST": self._approve},
            "/rendezvous/deny": {"POST": self._deny},
            "/session/refresh": {"POST": self._refresh},
            "/r/": {"GET": self._to_owner},
        }
        if settings.begin:
            self._routes |= {
                "/begin": {"GET": self._begin_page, "POST": self._begin},
                "/begin/wait": {"GET": self._wait},
                "/begin/redeem": {"POST": self._redeem},
            }

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
            lambda guest: _Connection(self, self._http, guest),
            visitors,
            name="gateway",
            tls=tls,
            is_known=lambda address: is_in(ip(address), self._trusted),
        )
        self._listener.start()

    def strangers(self) -> int:
        """How many connections there are of callers that are no trusted proxies."""
        return 0 if self._listener is None else len(self._listener.visitors)

    async def close(self, timeout_s: float = 2.0) -> None:
        """Stop accepting, let running requests finish for up to timeout_s seconds.  Idempotent."""
        self.closing = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            if connection.busy:
                connection.close()
            else:
                connection.force_close()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            pass
        await self._http.shutdown(0.1)

    # -- one request

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        started = time.monotonic()
        connection = cast(_Connection, request.protocol)
        connection.begin()
        self._running += 1
        self._idle.clear()
        path, _, query = request.raw_path.partition("?")
        route = "/r/" if path.startswith("/r/") else path
        asked: Asked | None = None
        try:
            async with asyncio.timeout(_LIMIT_S + self.limits.body_s + 1):
                methods = self._routes.get(route)
                asked = self._asked(request, path, query)
                method = "GET" if request.method == "HEAD" else request.method
                if methods is None:
                    raise Refused(404, "Nothing is here", "The link may be wrong or incomplete.")
                if method not in methods:
                    allowed = ", ".join(sorted({*methods, *(("HEAD",) if "GET" in methods else ())}))
                    raise Refused(
                        405, "Not this way", "This page is not made to be used like that.", {"Allow": allowed}
                    )
                answer = await methods[method](asked, request)
        except _SignInFirst:
            answer = self._sign_in(403)
        except Exception as error:
            refused = error if isinstance(error, Refused) else _refused(error)
            answer = self._refusal(route, asked, refused)
        finally:
            connection.end()
            if asked is not None and asked.served is not None:
                _less(self._served, asked.served)
            self._running -= 1
            if not self._running:
                self._idle.set()
        self._metrics.observe(
            route if route in self._routes else "other", answer.status, time.monotonic() - started
        )
        scheme = "http" if asked is None else asked.scheme
        response = self.respond(answer, scheme)
        if self.closing or not request.content.is_eof():
            response.force_close()
        return response

    def respond(self, answer: _Answer, scheme: str) -> web.Response:
        """An answer with all that protects it."""
        response = web.Response(
            status=answer.status,
            body=answer.body.encode(),
            headers={**SECURITY, **answer.headers, NODE_COOKIE: self._node.name, "Server": "cyoloctl"},
        )
        if answer.body:
            response.headers["Content-Type"] = f"{answer.kind}; charset=utf-8"
        if scheme == "https":
            response.headers["Strict-Transport-Security"] = "max-age=31536000"
        for cookie in answer.cookies:
            response.headers.add("Set-Cookie", cookie)
        return response

    def _asked(self, request: web.BaseRequest, path: str, query: str) -> Asked:
        """Raises InvalidInput, Refused for a host that is not ours."""
        peer = ip(request.remote or "")
        by_proxy = is_in(peer, self._trusted)
        headers = request.headers

        def forwarded(name: str) -> str | None:
            values = headers.getall(name, []) if by_proxy else []
            return values[-1].rpartition(",")[2].strip() if values else None

        scheme = "https" if self._tls else forwarded("X-Forwarded-Proto") or "http"
        if scheme not in ("http", "https"):
            raise InvalidInput("X-Forwarded-Proto is neither http nor https: correct the proxy")
        named = headers.getall("Host", [])
        if len(named) > 1:
            raise InvalidInput("there are several Host headers: send one")
        host, port = "", None
        if path not in (
            "/healthz",
            "/readyz",
        ):  # which say nothing, and are asked by address or without a name
            host, port = parse_host(forwarded("X-Forwarded-Host") or (named[0] if named else ""))
            if host not in self._settings.allowed_hosts and host not in self._node.hosts():
                raise Refused(
                    421,
                    "Not served here",
                    "No node here has the host name of this link. The operator can allow it: "
                    "member set-host, route share, or gateway.allowed_hosts.",
                )
        return Asked(
            method=request.method,
            path=path,
            query=query,
            client=client_address(str(peer), headers.getall("X-Forwarded-For", []), self._trusted),
            scheme=scheme,
            origin=origin_of(scheme, host, port),
            host=host,
            cookie="; ".join(headers.getall("Cookie", [])),
            headers=headers,
        )

    # -- pages

    def _page(
        self,
        status: int,
        title: str,
        body: Html,
        headers: Mapping[str, str] | None = None,
        look_again_s: int | None = None,
    ) -> _Answer:
        where = f"Served by node {self._node.name}."
        page = fill(PAGE, title=title, body=body, footer=where, refresh=refresh(look_again_s))
        return _Answer(status, page, headers=dict(headers or {}))

    def _refusal(self, route: str, asked: Asked | None, refused: Refused) -> _Answer:
        if not route.startswith(("/r", "/begin")) or route == "/readyz":  # programs ask there
            return _Answer(refused.status, f"{refused.text}\n", "text/plain", dict(refused.headers))
        again = Html()
        if asked is not None:
            to, text = ("rendezvous", "Enter a code")
            if route.startswith("/begin") and self._settings.begin:
                to, text = ("begin", "Begin again")
            again = fill('<a class="button" href="{to}">{text}</a>', to=asked.root + to, text=text)
        body = fill("<p>{text}</p>\n{again}", text=refused.text, again=again)
        return self._page(refused.status, refused.title, body, refused.headers)

    def _form_cookie(self, asked: Asked) -> str:
        # The prefix keeps other hosts of the same site from setting it (RFC 6265bis 4.1.3); it needs TLS.
        return "__Host-cyolo-form" if asked.scheme == "https" else "cyolo-form"

    def _browser(self, asked: Asked) -> tuple[str, list[str]]:
        """Which browser it is, and the cookie that makes it known from now on."""
        cookie = self._form_cookie(asked)
        browser = browser_of(asked.cookie, cookie)
        if browser is not None:
            return browser, []
        browser = secrets.token_urlsafe(16)
        secure = "; Secure" if asked.scheme == "https" else ""
        return browser, [f"{cookie}={browser}; Path=/; HttpOnly; SameSite=Strict{secure}"]

    async def _actor(self, asked: Asked, browser: str, *, current: bool) -> Actor:
        """Who asks, as far as the cookies prove it; the request is served on their behalf from now on.

        current: as of now in the whole cluster.  Raises Refused for who asks for too much at once.
        """
        CALLER.set(network_caller(asked.client))
        actor = Actor(browser=browser or None)
        try:
            found = await self._node.session(asked.cookie, current=current, timeout_s=_LIMIT_S)
        except TokenRejected:
            pass
        else:
            CALLER.set(person_caller(found["sub"]))
            actor = Actor(sub=found["sub"], sid=found["sid"], browser=browser or None, claims=found["claims"])
        self._serve(asked, CALLER.get())
        return actor

    def _serve(self, asked: Asked, caller: Caller) -> None:
        """Count the request for its caller until it is answered.  Raises Refused."""
        if self._served[caller.name] >= self.limits.caller_requests:
            raise Refused(
                429,
                "Too many at once",
                "Too many of your requests are being answered at this moment. Nothing was changed: "
                "try again in a moment.",
                {"Retry-After": "1"},
            )
        asked.served = caller.name
        self._served[caller.name] += 1

    def _person(self, actor: Actor) -> str | None:
        """Whose session it is, "" where none is needed; None: sign in first."""
        if actor.sub is not None:
            return actor.sub
        return None if self._settings.require_session else ""

    def _sign_in(self, status: int) -> _Answer:
        url = self._settings.sign_in_url
        link = Html("<p>Ask the operator where to sign in.</p>")
        if url is not None:
            link = fill('<a class="button" href="{url}" rel="noreferrer">Sign in</a>', url=url)
        return self._page(status, "Sign in first", fill(SIGN_IN, link=link))

    async def _enter(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        """The form for a code.  Looks nothing up: a link must not tell whether a code is right."""
        browser, cookies = self._browser(asked)
        person = self._person(await self._actor(asked, browser, current=False))
        if person is None:
            return self._sign_in(200)
        form = self._forms.seal("enter", browser, person, b"", self._node.now_unix_s())
        body = fill(ENTER, root=asked.root, form=form, code=code_in(asked.query))
        answer = self._page(200, "Enter the code", body)
        answer.cookies = cookies
        return answer

    def _from_our_page(self, asked: Asked) -> None:
        try:
            asked.refuse_other_origins()
        except Refused:
            _log.info("a request of another origin was refused", extra={"expected": asked.origin})
            raise

    async def _fields(self, asked: Asked, request: web.BaseRequest, *fields: str) -> dict[str, str]:
        """What a form of ours holds, these fields and "form".  Raises Refused, InvalidInput."""
        self._from_our_page(asked)
        if request.content_type != "application/x-www-form-urlencoded":
            raise InvalidInput("this is not a form of this page")
        try:
            pairs = parse_qsl(
                (await _read_body(request, self.limits.body_s)).decode("ascii"),
                keep_blank_values=True,
                strict_parsing=True,
                errors="strict",
                max_num_fields=len(fields) + 1,
            )
        except ValueError:
            raise InvalidInput("this is not a form of this page") from None
        given = dict(pairs)
        if len(pairs) != len(given) or given.keys() != {"form", *fields}:
            raise InvalidInput("this is not a form of this page")
        return given

    async def _posted(
        self, asked: Asked, request: web.BaseRequest, purpose: str, *fields: str
    ) -> tuple[dict[str, str], Opened, Actor, str]:
        """The fields, what the form sealed, who sent it and the person.  Raises Refused, InvalidInput."""
        given = await self._fields(asked, request, *fields)
        browser = browser_of(asked.cookie, self._form_cookie(asked)) or ""
        actor = await self._actor(asked, browser, current=True)
        person = self._person(actor)
        if person is None:
            raise _SignInFirst()
        opened = self._forms.open(given["form"], purpose, browser, person, self._node.now_unix_s())
        return given, opened, actor, person

    async def _find(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        given, opened, actor, person = await self._posted(asked, request, "enter", "user_code")
        by = _by(asked, person)
        try:
            found = await self._node.find(
                given["user_code"],
                client=str(asked.client),
                actor=actor,
                request_id=_once("find", by, opened),
                timeout_s=_LIMIT_S,
            )
        except OutcomeUnknown:
            raise Unavailable("the code was not looked up in time") from None
        if found["state"] != "pending" and not (found["state"] == "claimed" and found["claimed_by"] == by):
            raise Refused(
                409,
                "Somebody was faster",
                f"This request is {found['state']} already. Nothing was changed.",
            )
        form = self._forms.seal(
            "decide", actor.browser or "", person, bytes.fromhex(found["id"]), self._node.now_unix_s()
        )
        body = fill(
            DECIDE,
            code=shown_code(given["user_code"]),
            initiator=found["initiator"],
            origin=found["origin"] or "not said",
            kind=found["kind"],
            node=found["node"],
            created_at=clock(found["created_at"]),
            expires_at=clock(found["expires_at"]),
            left=left(found["expires_in_s"]),
            data=data_html("What it says about the request", found["data"]),
            person=f"You answer as {person}." if person else f"You answer from {asked.client}.",
            form=form,
            root=asked.root,
        )
        return self._page(200, f"Approve \u201c{found['kind']}\u201d?", body)

    async def _approve(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        return await self._decide(
            asked,
            request,
            "approve",
            "Approved",
            "The device or program that waited goes on. You can close this page.",
        )

    async def _deny(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        return await self._decide(
            asked,
            request,
            "deny",
            "Denied",
            "Nothing was granted. If you did not start this yourself, tell your operator: somebody tried.",
        )

    async def _decide(
        self, asked: Asked, request: web.BaseRequest, operation: str, title: str, text: str
    ) -> _Answer:
        _, opened, actor, person = await self._posted(asked, request, "decide")
        by = _by(asked, person)
        # One form, one answer: a repetition, here or at another node, is told the same.
        request_id = _once(operation, by, opened)
        await self._node.decide(
            operation,
            opened.payload.hex(),
            by=by,
            actor=actor,
            request_id=request_id,
            timeout_s=_LIMIT_S,
        )
        _log.info("rendezvous answered on the page", extra={"operation": operation, "by": by})
        return self._page(200, title, fill("<p>{text}</p>", text=text))

    async def _to_owner(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        """/r/NODE?user_code=CODE: to the page of the node where it began, or here when that one is away."""
        code = code_in(asked.query)
        base = self._node.owner_url(asked.path.removeprefix("/r/"))
        where = asked.root if base is None or urlsplit(base).hostname == asked.host else f"{base}/"
        return _text(302, "", Location=f"{where}rendezvous" + (f"?user_code={code}" if code else ""))

    # -- begin in the browser

    def _begun_cookie(self, asked: Asked, value: str) -> str:
        """Set-Cookie for what this browser began; an empty value ends it."""
        prefix, secure = ("__Host-", "; Secure") if asked.scheme == "https" else ("", "")
        # Lax: it may come back by a link from elsewhere, and a GET changes nothing.
        rest = f"Path=/; Max-Age={FORM_LIFE_S if value else 0}; HttpOnly; SameSite=Lax{secure}"
        return f"{prefix}cyolo-begun={value}; {rest}"

    def _begun(self, asked: Asked) -> tuple[Begun, str]:
        """What this browser began, and which cookie its forms are sealed for.  Raises Refused."""
        name = self._begun_cookie(asked, "").partition("=")[0]
        value = cookie_of(asked.cookie, name) or ""
        try:
            begun = Begun.open(self._forms, value, self._node.now_unix_s())
        except Refused:
            raise self._over(
                asked,
                404,
                "Nothing was begun here",
                "This browser began nothing lately, or it keeps no cookies. The answer is for the browser "
                "that began.",
            ) from None
        return begun, hashlib.sha256(value.encode()).hexdigest()

    def _over(self, asked: Asked, status: int, title: str, text: str) -> Refused:
        return Refused(status, title, text, {"Set-Cookie": self._begun_cookie(asked, "")})

    async def _begin_page(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        browser, cookies = self._browser(asked)
        form = self._forms.seal("begin", browser, "", b"", self._node.now_unix_s())
        body = fill(BEGIN, root=asked.root, form=form, buttons=buttons(self._settings.begin))
        answer = self._page(200, "Begin", body)
        answer.cookies = cookies
        return answer

    async def _begin(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        given = await self._fields(asked, request, "kind")
        browser = browser_of(asked.cookie, self._form_cookie(asked)) or ""
        actor = await self._actor(asked, browser, current=False)
        opened = self._forms.open(given["form"], "begin", browser, "", self._node.now_unix_s())
        if given["kind"] not in self._settings.begin:
            raise InvalidInput("this kind is not begun here: use a button of the page")

        def secret(purpose: str) -> str:
            # Of the form, which only this browser has: sent again, to any node, it begins the same once.
            return _once(purpose, given["kind"], opened)

        started = await self._node.begin(
            given["kind"],
            client=str(asked.client),
            network=network_of(asked.client),
            actor=actor,
            request_id=secret("begin"),
            timeout_s=_LIMIT_S,
        )
        begun = Begun(started["id"], secret("redeem"), started["user_code"])
        answer = _text(303, "", Location=f"{asked.root}begin/wait")
        answer.cookies = [self._begun_cookie(asked, begun.seal(self._forms, self._node.now_unix_s()))]
        return answer

    async def _wait(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        begun, cookie = self._begun(asked)
        try:
            await self._actor(asked, "", current=False)
            found = await self._node.look(begun.id, timeout_s=_LIMIT_S)
        except (Unavailable, OutcomeUnknown):
            text = "Too few nodes answer at the moment. Nothing is lost: this page looks again by itself."
            body = fill('<p>{text}</p>\n<p class="big code">{code}</p>', text=text, code=begun.user_code)
            return self._page(503, "Still waiting", body, _TRY_AGAIN, _LOOK_AGAIN_S)
        match found["state"]:
            case "approved" | "consumed":
                form = self._forms.seal("redeem", cookie, "", b"", self._node.now_unix_s())
                body = fill(GO_ON, by=found["claimed_by"], kind=found["kind"], form=form, root=asked.root)
                return self._page(200, "Approved: go on", body)
            case "denied":
                text = f"{found['claimed_by']} denied it. Nothing was granted."
                raise self._over(asked, 403, "It was denied", text)
            case "expired":
                raise self._over(asked, 410, "It has expired", "Nobody approved it in time.")
            case "cancelled":
                text = "The operator ended it, or somebody tried too many wrong codes."
                raise self._over(asked, 409, "It was cancelled", text)
        claimed = (
            f"{found['claimed_by']} looks at it." if found["state"] == "claimed" else "Not approved yet."
        )
        body = fill(
            WAIT,
            link=self._node.page_url(asked.host) or f"{asked.origin}/rendezvous",
            code=begun.user_code,
            status=claimed,
            who="somebody who is signed in" if self._settings.require_session else "anybody who has the code",
            kind=found["kind"],
            node=found["node"],
            left=left(found["expires_in_s"]),
            expires_at=clock(found["expires_at"]),
            interval=_LOOK_AGAIN_S,
            root=asked.root,
        )
        return self._page(200, "Waiting for approval", body, look_again_s=_LOOK_AGAIN_S)

    async def _redeem(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        begun, cookie = self._begun(asked)
        given = await self._fields(asked, request)
        self._forms.open(given["form"], "redeem", cookie, "", self._node.now_unix_s())
        await self._actor(asked, "", current=False)
        try:
            answer = await self._node.redeem(begun.id, begun.redemption, timeout_s=_LIMIT_S)
        except (
            Conflict,
            NotFound,
        ) as error:  # it expired or was cancelled meanwhile, or five minutes are over
            refused = _refused(error)
            raise self._over(asked, refused.status, refused.title, refused.text) from None
        said = data_html("The answer", answer["data"] or {})
        body = fill(REDEEMED, by=answer["approved_by"], kind=answer["kind"], data=said)
        return self._page(200, "Approved", body)

    # -- programs

    async def _refresh(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        self._from_our_page(asked)
        if await _read_body(request, self.limits.body_s):
            raise InvalidInput("this request takes no body")
        await self._actor(asked, "", current=False)
        answer = _Answer(204)
        try:
            answer.cookies = [await self._node.refresh(asked.cookie, timeout_s=_LIMIT_S)]
        except TokenRejected as error:
            # The cookie is not cleared: the browser may have got a newer one since it sent this request, from
            # another node or for another tab, and a header cannot clear the one without the other.
            answer = _text(401, f"{error.message}: sign in again\n", WWW_Authenticate="Cookie")
        return answer

    async def _healthz(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        return _text(200, "ok\n")

    async def _readyz(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        if self.closing or not self._node.ready():
            return _text(503, "not ready: no leader was heard of lately\n", Retry_After="1")
        return _text(200, "ready\n")

    async def _show_metrics(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        if not is_in(asked.client, self._metrics_clients):
            return _text(403, "metrics are not for you: see gateway.metrics_clients in node.yaml\n")
        body = self._metrics.text(self._node.facts(), len(self.connections))
        return _Answer(200, body, "text/plain; version=0.0.4")


_TRY_AGAIN = {"Retry-After": "2"}


def _refused(error: Exception) -> Refused:
    """What a person is told about an error, each kind with its own status."""
    text = error.message[:1].upper() + error.message[1:] + "." if isinstance(error, CyoloctlError) else ""
    match error:
        case NotFound():
            return Refused(404, "Not found", text)
        case SlowDown():
            return Refused(429, "Too many attempts", text, {"Retry-After": "600"})
        case Expired():
            return Refused(410, "It has expired", text)
        case ApprovalRefused():
            return Refused(403, "You cannot approve this", text)
        case Denied():
            return Refused(409, "It was denied", text)
        case Conflict():
            return Refused(409, "Already answered", text)
        case BodyTooLarge():
            return Refused(413, "Too much", text)
        case InvalidInput():
            return Refused(400, "This cannot be read", text)
        case OutcomeUnknown() | TimeoutError():
            return Refused(
                504,
                "Not sure yet",
                "Your answer may or may not have been recorded. Reload this page to send it again: "
                "it counts once.",
            )
        case Overloaded():
            text = "There is too much to do at the moment. Nothing was changed: try again in a moment."
            return Refused(503, "Try again", text, _TRY_AGAIN)
        case Unavailable():
            text = "Too few nodes answer at the moment. Nothing was changed: try again in a moment."
            return Refused(503, "Try again", text, _TRY_AGAIN)
    incident = secrets.token_hex(4)
    _log.error("internal error %s", incident, exc_info=error)
    return Refused(500, "Something failed here", f"Tell the operator the number {incident}.")


def _by(asked: Asked, person: str) -> str:
    return person or f"ip:{asked.client}"


def _once(purpose: str, what: str, form: Opened) -> str:
    """The request id of what a form does, 32 hex digits: the same however and wherever it is sent again."""
    return hashlib.sha256("\0".join((purpose, what, form.digest)).encode()).hexdigest()[:32]


async def _read_body(request: web.BaseRequest, limit_s: float) -> bytes:
    """Raises BodyTooLarge before reading it all, InvalidInput when it dawdles."""
    too_large = BodyTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise too_large
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    try:
        async with asyncio.timeout(limit_s):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError:
        raise InvalidInput(f"the body did not arrive in {limit_s:g} s") from None
    except (web.RequestPayloadError, ConnectionError):
        raise InvalidInput("the body is not valid HTTP/1.1") from None
    return bytes(body)
