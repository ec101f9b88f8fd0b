"""The listener for browsers and reverse proxies: health, metrics, session refresh, the rendezvous page.

Nobody here is known by a certificate, so the rules are those of the web:

* A GET changes nothing and looks no code up.  What changes something is a POST
  from a page of ours: its Origin (or Sec-Fetch-Site) is ours, and it carries a
  form that this cluster sealed for the very browser (a cookie of its own).
* The form names the record encrypted: the id redeems the answer, so whoever
  approves must not learn it.  Its key comes from the token keys, so any node
  opens what another one sealed, after a rotation too.
* A form counts once: its hash is the request id of the transition, so it can be
  sent again, to another node, when the answer to the first was lost.
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
import base64
import hashlib
import ipaddress
import logging
import os
import re
import secrets
import socket
import ssl
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Protocol, cast
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cyoloctl.errors import (
    BodyTooLarge,
    ConfigError,
    Conflict,
    CyoloctlError,
    Denied,
    Expired,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    SlowDown,
    TokenRejected,
    Unavailable,
)
from cyoloctl.routing import NODE_COOKIE

__all__ = ["Gateway", "GatewayNode", "GatewaySettings", "tls_context"]

_log = logging.getLogger("cyoloctl.gateway")

Json = dict[str, Any]
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_BODY_BYTES = 8 * 1024
MAX_CONNECTIONS = 1024
# A connection may be idle, or dribble a request's head, for so long; and its body.
_IDLE_S = 15.0
_BODY_S = 5.0
_LINGER_S = 1.0
# What proxies wait is longer (routing.ExportOptions): they must hear our 503, not give up on us.
_LIMIT_S = 4.5
_FORM_LIFE_S = 600
_SKEW_S = 60
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class GatewayNode(Protocol):
    """The node, as the gateway sees it.  Errors are errors.py's."""

    name: str

    def ready(self) -> bool:
        """Whether a request could be served now; never waits."""

    def facts(self) -> Json:
        """What /metrics shows of the node."""

    def form_keys(self) -> list[tuple[bytes, bytes]]:
        """(id of 4 bytes, key of 32 bytes) to seal forms with, the one to use first; empty: none yet."""

    def hosts(self) -> set[str]:
        """Host names and IP addresses, in lower case, by which requests may ask for this node."""

    def owner_url(self, name: str) -> str | None:
        """The base of another member's links, None for this node or one that is away.  Raises NotFound."""

    async def subject(self, cookie: str, *, current: bool, timeout_s: float) -> str:
        """Whose session the cookies hold.  Raises TokenRejected."""

    async def refresh(self, cookie: str, *, timeout_s: float) -> str:
        """The new session cookie, for Set-Cookie.  Raises TokenRejected."""

    async def find(self, user_code: str, *, caller: str, timeout_s: float) -> Json:
        """The record of a code; wrong ones are counted.  Raises NotFound, SlowDown, InvalidInput."""

    async def decide(self, operation: str, id: str, *, by: str, request_id: str, timeout_s: float) -> None:
        """approve or deny; the same request id counts once.  Raises Conflict, Denied, Expired, NotFound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What config.GatewayConfig says, without the addresses to listen on."""

    trusted_proxies: tuple[str, ...]
    metrics_clients: tuple[str, ...]
    allowed_hosts: tuple[str, ...] = ()
    require_session: bool = True
    sign_in_url: str | None = None


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


# ---- who asks, by which name ----


def client_address(peer: str, forwarded_for: Iterable[str], trusted: Sequence[IpNetwork]) -> IpAddress:
    """The client: the last address that no trusted proxy vouches for.

    peer: who is connected.  forwarded_for: the X-Forwarded-For lines, in
    order.  Raises InvalidInput where a trusted proxy names what is no address.
    """
    hops = [hop.strip() for line in forwarded_for for hop in line.split(",")]
    address = _ip(peer)
    while hops and _is_in(address, trusted):
        address = _ip(hops.pop())
    return address


def caller_of(address: IpAddress) -> str:
    """Whose wrong codes are counted together: an address, of IPv6 the /64, which is one customer's."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _ip(text: str) -> IpAddress:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        raise InvalidInput("X-Forwarded-For names what is no IP address: correct the proxy") from None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_in(address: IpAddress, networks: Sequence[IpNetwork]) -> bool:
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


def _origin(scheme: str, host: str, port: int | None) -> str:
    """The origin as browsers spell it (RFC 6454 6.2)."""
    shown = f"[{host}]" if ":" in host else host
    standard = port is None or port == (443 if scheme == "https" else 80)
    return f"{scheme}://{shown}" + ("" if standard else f":{port}")


@dataclass(slots=True)
class Asked:
    """A request, as far as it can be believed."""

    method: str
    path: str
    query: str
    client: IpAddress
    scheme: str
    origin: str
    host: str
    cookie: str
    headers: Mapping[str, str]

    @property
    def root(self) -> str:
        """From the page to the base of the links: relative, since proxies may put a path before it."""
        return "../" * (self.path.count("/") - 1)

    def refuse_other_origins(self) -> None:
        """For what changes something.  Raises Refused for a request that no page of ours sent.

        Every browser of today says at least one of the two with a POST; what
        says neither is no browser, and has the API.
        """
        origin, site = self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site")
        if (
            (origin is None and site is None)
            or origin not in (None, self.origin)
            or site
            not in (
                None,
                "same-origin",
            )
        ):
            _log.info("a request of another origin was refused", extra={"expected": self.origin})
            raise Refused(
                403,
                "Not from this page",
                "Your browser says that another web site sent this request, so nothing was done. "
                "If you did want this, open this page yourself and begin again.",
            )


class Refused(Exception):
    """Ends a request with a page."""

    def __init__(self, status: int, title: str, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(title)
        self.status, self.title, self.text, self.headers = status, title, text, headers or {}


class _SignInFirst(Exception):
    """Ends a request with the page that says so."""


# ---- forms ----


class Forms:
    """Seals what a form carries for one purpose, browser and person, and opens it again.

    ``key id (4) || nonce (12) || AES-256-GCM(time in s (8) || payload)`` in
    base64url, with purpose, browser and person as associated data.
    """

    def __init__(self, keys: Callable[[], list[tuple[bytes, bytes]]]) -> None:
        self._keys = keys

    def seal(self, purpose: str, browser: str, person: str, payload: bytes, now_unix_s: int) -> str:
        """Raises Unavailable while the node has no key."""
        keys = self._keys()
        if not keys:
            raise Unavailable("this node has no key yet: try again")
        key_id, key = keys[0]
        nonce = os.urandom(12)
        plain = now_unix_s.to_bytes(8, "big") + payload
        sealed = AESGCM(key).encrypt(nonce, plain, self._context(purpose, browser, person))
        return base64.urlsafe_b64encode(key_id + nonce + sealed).decode().rstrip("=")

    def open(self, form: str, purpose: str, browser: str, person: str, now_unix_s: int) -> bytes:
        """The payload.  Raises Refused, for every reason the same."""
        stale = Refused(
            400,
            "This form is no longer valid",
            "It was made for another browser or person, it is older than ten minutes, or your browser keeps "
            "no cookies. Nothing was changed: begin again.",
        )
        try:
            data = base64.urlsafe_b64decode(form + "=" * (-len(form) % 4)) if len(form) <= 256 else b""
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
                if -_SKEW_S <= now_unix_s - int.from_bytes(plain[:8], "big") <= _FORM_LIFE_S:
                    return plain[8:]
        raise stale

    def _context(self, purpose: str, browser: str, person: str) -> bytes:
        # Purpose and browser hold no zero byte, so no two contexts are the same bytes.
        return "\0".join(("cyoloctl form v1", purpose, browser, person)).encode()


_BROWSER = re.compile(r"[A-Za-z0-9_-]{22}")


def browser_of(cookie: str, name: str) -> str | None:
    """The value of the form cookie; None for none, a strange one, or several."""
    found = [
        value
        for key, equals, value in (part.strip(" \t").partition("=") for part in cookie.split(";"))
        if key == name and equals
    ]
    return found[0] if len(found) == 1 and _BROWSER.fullmatch(found[0]) else None


# ---- pages ----


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def fill(template: str, **values: object) -> Html:
    """Values into a template, escaped unless they are Html; for text and double-quoted attributes only."""
    return Html(
        template.format_map(
            {
                name: value if isinstance(value, Html) else escape(str(value), quote=True)
                for name, value in values.items()
            }
        )
    )


_STYLE = """
:root{color-scheme:light dark;--page:#f3f5f7;--card:#fff;--ink:#17212b;--soft:#51606e;--line:#d5dce3;
--go:#0b5fa8;--go-ink:#fff;--warn:#fff6e0;--warn-line:#b7791f;--warn-ink:#4a3200;--bad:#a3242a}
@media (prefers-color-scheme:dark){:root{--page:#10161c;--card:#18212a;--ink:#e8edf2;--soft:#a3b1be;
--line:#34424f;--go:#7cbcf5;--go-ink:#0b1a28;--warn:#33290f;--warn-line:#d69e2e;--warn-ink:#f6e3b4;--bad:#ff9a9e}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:1.0625rem/1.5 system-ui,-apple-system,"Segoe UI",
Roboto,"Noto Sans","DejaVu Sans",sans-serif}
main{max-width:34rem;margin:0 auto;padding:1.25rem 1rem 2rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:.75rem;padding:1.25rem}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .75rem;overflow-wrap:anywhere}
h2{font-size:1.0625rem;margin:1.25rem 0 .25rem}
p{margin:0 0 1rem}
.soft,footer{color:var(--soft);font-size:.9375rem}
footer{padding:1rem .25rem;overflow-wrap:anywhere}
label{display:block;font-weight:600;margin-bottom:.375rem}
input[type=text]{width:100%;font:600 1.5rem/1.2 ui-monospace,"DejaVu Sans Mono",monospace;
letter-spacing:.08em;text-transform:uppercase;padding:.75rem;border:2px solid var(--soft);border-radius:.5rem;
background:var(--card);color:var(--ink);min-height:3.5rem}
input::placeholder{color:var(--soft);opacity:.6}
button,.button{display:block;width:100%;min-height:3.25rem;margin:1rem 0 0;padding:.75rem 1rem;
font:inherit;font-weight:600;text-align:center;text-decoration:none;border-radius:.5rem;
border:2px solid var(--go);background:var(--go);color:var(--go-ink);cursor:pointer}
button.no{background:transparent;border-color:var(--bad);color:var(--bad)}
:focus-visible{outline:3px solid var(--go);outline-offset:3px}
dl{margin:0 0 1rem;border-top:1px solid var(--line)}
dl div{display:flex;flex-wrap:wrap;gap:0 1rem;padding:.4375rem 0;border-bottom:1px solid var(--line)}
dt{flex:0 0 8rem;color:var(--soft);overflow-wrap:anywhere}
dd{flex:1 1 10rem;min-width:0;margin:0;overflow-wrap:anywhere;white-space:pre-wrap}
.warn{background:var(--warn);color:var(--warn-ink);border-left:.375rem solid var(--warn-line);
border-radius:.375rem;padding:.75rem 1rem;margin:0 0 1rem}
.warn p:last-child{margin:0}
.code{font:600 1.375rem/1.3 ui-monospace,"DejaVu Sans Mono",monospace;letter-spacing:.08em}
.row{display:flex;flex-wrap:wrap;gap:0 .75rem}
.row button{flex:1 1 9rem;width:auto}
a{color:var(--go)}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

_SECURITY = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Frame-Options": "DENY",
    # Not no-referrer: then browsers say "Origin: null" of our own forms (Fetch, append a request Origin).
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_PAGE = (
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{title}</title>
<style>"""
    + _STYLE.replace("{", "{{").replace("}", "}}")
    + """</style>
</head>
<body>
<main>
<div class="card">
<h1>{title}</h1>
{body}
</div>
<footer>{footer}</footer>
</main>
</body>
</html>
"""
)

_ENTER = """<p>Another device or program waits for your answer and shows a code. Enter it to see who asks and
for what. Nothing is approved yet.</p>
<form method="post" action="{root}rendezvous" autocomplete="off">
<input type="hidden" name="form" value="{form}">
<label for="user_code">Code</label>
<input type="text" id="user_code" name="user_code" value="{code}" required maxlength="20"
 placeholder="WDJB-MJHT" autocapitalize="characters" autocomplete="off" autocorrect="off" spellcheck="false"
 aria-describedby="hint">
<p class="soft" id="hint">Eight letters; capitals and dashes do not matter.</p>
<button type="submit">Continue</button>
</form>"""

_DECIDE = """<div class="warn" role="note">
<p><strong>Approve only what you started yourself a moment ago.</strong> If somebody sent you this link or
read you this code, deny it: they would act in your name.</p>
<p>The device or program that waits must show this code: <span class="code">{code}</span></p>
</div>
<dl>
<div><dt>Who asks</dt><dd><bdi>{initiator}</bdi></dd></div>
<div><dt>From where</dt><dd><bdi>{origin}</bdi></dd></div>
<div><dt>For what</dt><dd><bdi>{kind}</bdi></dd></div>
<div><dt>Began on node</dt><dd>{node}</dd></div>
<div><dt>Began at</dt><dd>{created_at}</dd></div>
<div><dt>Ends</dt><dd>in {left}, at {expires_at}</dd></div>
</dl>
{data}
<form method="post" action="{root}rendezvous/approve" autocomplete="off">
<input type="hidden" name="form" value="{form}">
<p class="soft">{person}</p>
<div class="row">
<button type="submit" class="no" formaction="{root}rendezvous/deny">Deny</button>
<button type="submit">Approve</button>
</div>
</form>"""

_SIGN_IN = """<p>Approving takes a session: sign in, then open this link again. Nothing was changed.</p>
{link}"""


def _left(seconds: int) -> str:
    if seconds < 90:
        return f"{seconds} second{'' if seconds == 1 else 's'}"
    minutes = seconds // 60
    return f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} hours"


def _data_html(data: Mapping[str, str]) -> Html:
    if not data:
        return Html()
    rows = "".join(
        fill("<div><dt><bdi>{key}</bdi></dt><dd><bdi>{value}</bdi></dd></div>\n", key=key, value=value)
        for key, value in sorted(data.items())
    )
    return Html(f"<h2>What it says about the request</h2>\n<dl>\n{rows}</dl>")


# ---- metrics ----


class _Metrics:
    """Counts of the gateway, and all of /metrics as Prometheus text (exposition format 0.0.4)."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}

    def observe(self, route: str, status: int, seconds: float) -> None:
        self.requests[route, status] += 1
        buckets = self._buckets.setdefault(route, [0] * (len(_BUCKETS_S) + 1))
        buckets[bisect_left(_BUCKETS_S, seconds)] += 1
        self._seconds[route] = self._seconds.get(route, 0.0) + seconds

    def text(self, facts: Json, connections: int) -> str:
        lines: list[str] = []

        def family(name: str, kind: str, help: str, samples: Iterable[tuple[str, float]]) -> None:
            lines.append(f"# HELP cyoloctl_{name} {help}")
            lines.append(f"# TYPE cyoloctl_{name} {kind}")
            lines.extend(f"cyoloctl_{name}{suffix} {value:.10g}" for suffix, value in samples)

        info = {key: facts[key] for key in ("name", "cluster", "version", "storage")}
        # Names of the contract: lower case letters, digits, dashes and dots, nothing to escape.
        labels = ",".join(f'{key}="{value}"' for key, value in info.items())
        family("node_info", "gauge", "Always 1; what this node is.", [(f"{{{labels}}}", 1)])
        family("uptime_seconds", "gauge", "Time since the node started.", [("", facts["uptime_s"])])
        family(
            "raft_role",
            "gauge",
            "1 for the role that this node has.",
            [
                (f'{{role="{role}"}}', role == facts["role"])
                for role in ("leader", "follower", "candidate", "learner")
            ],
        )
        family("raft_is_leader", "gauge", "Whether this node leads.", [("", facts["is_leader"])])
        family("raft_has_leader", "gauge", "Whether a leader is known.", [("", facts["has_leader"])])
        family("raft_term", "gauge", "The Raft term.", [("", facts["term"])])
        family("raft_commit_index", "gauge", "Last committed log index.", [("", facts["commit_index"])])
        family("raft_applied_index", "gauge", "Last applied log index.", [("", facts["applied_index"])])
        lag = max(0, facts["commit_index"] - facts["applied_index"])
        family("raft_apply_lag_entries", "gauge", "Committed entries that are not applied yet.", [("", lag)])
        family("raft_voters", "gauge", "Members that vote.", [("", facts["voters"])])
        family("raft_peers_reachable", "gauge", "Other members with a session.", [("", facts["peers"])])
        family(
            "journal_fsync_p99_seconds",
            "gauge",
            "99th percentile of recent fsync calls of the journal.",
            [("", facts["fsync_p99_s"])],
        )
        family(
            "tokens_total",
            "counter",
            "Session tokens by what was done with them.",
            [(f'{{result="{result}"}}', count) for result, count in sorted(facts["tokens"].items())],
        )
        family(
            "rendezvous",
            "gauge",
            "Rendezvous by state; those that ended are kept for a day.",
            [
                (f'{{state="{state}"}}', facts["rendezvous"].get(state, 0))
                for state in ("pending", "claimed", "approved", "denied", "consumed", "expired", "cancelled")
            ],
        )
        family("gateway_connections", "gauge", "Open connections.", [("", connections)])
        family(
            "gateway_requests_total",
            "counter",
            "Requests by route and status.",
            [
                (f'{{route="{route}",status="{status}"}}', count)
                for (route, status), count in sorted(self.requests.items())
            ],
        )
        histogram: list[tuple[str, float]] = []
        for route, buckets in sorted(self._buckets.items()):
            total = 0
            for bound, count in zip((*map(str, _BUCKETS_S), "+Inf"), buckets, strict=True):
                total += count
                histogram.append((f'_bucket{{route="{route}",le="{bound}"}}', total))
            histogram.append((f'_sum{{route="{route}"}}', self._seconds[route]))
            histogram.append((f'_count{{route="{route}"}}', total))
        family("gateway_request_duration_seconds", "histogram", "Time to answer a request.", histogram)
        return "\n".join(lines) + "\n"


# ---- the server ----


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

    __slots__ = ("_owner", "busy")

    def __init__(self, owner: Gateway, manager: web.Server) -> None:
        super().__init__(
            manager,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=_IDLE_S,
            access_log=None,  # type: ignore[arg-type]  # aiohttp tests it for truth and types it as a Logger
            lingering_time=_LINGER_S,
            auto_decompress=False,
            max_headers=64,
            logger=owner.quiet,
        )
        self._owner = owner
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read; turn away who is too many."""
        super().connection_made(transport)
        self._owner.connections.add(self)
        if self._owner.closing or len(self._owner.connections) > MAX_CONNECTIONS:
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._owner.connections.discard(self)

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


_Handler = Callable[[Asked, web.BaseRequest], Awaitable[_Answer]]


class Gateway:
    """Serves one listening socket.  `start`, then `close`; belongs to the running loop."""

    def __init__(self, node: GatewayNode, settings: GatewaySettings) -> None:
        self._node = node
        self._settings = settings
        self._trusted = [ipaddress.ip_network(text) for text in settings.trusted_proxies]
        self._metrics_clients = [ipaddress.ip_network(text) for text in settings.metrics_clients]
        self._forms = Forms(node.form_keys)
        self._metrics = _Metrics()
        self._server: asyncio.Server | None = None
        self._tls = False
        self._http = web.Server(self._handle)
        self.connections: set[_Connection] = set()
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

    async def start(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Accept on a bound socket, which is the gateway's from now on."""
        self._tls = tls is not None
        limits: dict[str, Any] = {"ssl_handshake_timeout": 5.0, "ssl_shutdown_timeout": 1.0} if tls else {}
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self, self._http), sock=listening, ssl=tls, **limits
        )

    async def close(self, timeout_s: float = 2.0) -> None:
        """Stop accepting, let running requests finish for up to timeout_s seconds.  Idempotent."""
        self.closing = True
        if self._server is not None:
            self._server.close()
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
        connection.busy = True
        self._running += 1
        self._idle.clear()
        path, _, query = request.raw_path.partition("?")
        route = "/r/" if path.startswith("/r/") else path
        asked: Asked | None = None
        try:
            async with asyncio.timeout(_LIMIT_S + _BODY_S + 1):
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
            answer = self._refusal(route, asked, error if isinstance(error, Refused) else _refused(error))
        finally:
            connection.busy = False
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
            headers={**_SECURITY, **answer.headers, NODE_COOKIE: self._node.name, "Server": "cyoloctl"},
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
        peer = _ip(request.remote or "")
        by_proxy = _is_in(peer, self._trusted)
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
            origin=_origin(scheme, host, port),
            host=host,
            cookie="; ".join(headers.getall("Cookie", [])),
            headers=headers,
        )

    # -- pages

    def _page(self, status: int, title: str, body: Html, headers: Mapping[str, str] | None = None) -> _Answer:
        where = f"Served by node {self._node.name}."
        return _Answer(status, fill(_PAGE, title=title, body=body, footer=where), headers=dict(headers or {}))

    def _refusal(self, route: str, asked: Asked | None, refused: Refused) -> _Answer:
        if not route.startswith("/r") or route == "/readyz":  # programs ask there
            return _Answer(refused.status, f"{refused.text}\n", "text/plain", dict(refused.headers))
        again = Html()
        if asked is not None:
            again = fill('<a class="button" href="{root}rendezvous">Enter a code</a>', root=asked.root)
        body = fill("<p>{text}</p>\n{again}", text=refused.text, again=again)
        return self._page(refused.status, refused.title, body, refused.headers)

    def _form_cookie(self, asked: Asked) -> str:
        # The prefix keeps other hosts of the same site from setting it (RFC 6265bis 4.1.3); it needs TLS.
        return "__Host-cyolo-form" if asked.scheme == "https" else "cyolo-form"

    async def _person(self, asked: Asked, *, current: bool) -> str | None:
        """Whose session it is, "" where none is needed; None: sign in first."""
        try:
            return await self._node.subject(asked.cookie, current=current, timeout_s=_LIMIT_S)
        except TokenRejected:
            return None if self._settings.require_session else ""

    def _sign_in(self, status: int) -> _Answer:
        url = self._settings.sign_in_url
        link = Html("<p>Ask the operator where to sign in.</p>")
        if url is not None:
            link = fill('<a class="button" href="{url}" rel="noreferrer">Sign in</a>', url=url)
        return self._page(status, "Sign in first", fill(_SIGN_IN, link=link))

    async def _enter(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        """The form for a code.  Looks nothing up: a link must not tell whether a code is right."""
        person = await self._person(asked, current=False)
        if person is None:
            return self._sign_in(200)
        code = _code_in(asked.query)
        cookie = self._form_cookie(asked)
        browser = browser_of(asked.cookie, cookie)
        fresh = []
        if browser is None:
            browser = secrets.token_urlsafe(16)
            secure = "; Secure" if asked.scheme == "https" else ""
            fresh = [f"{cookie}={browser}; Path=/; HttpOnly; SameSite=Strict{secure}"]
        form = self._forms.seal("enter", browser, person, b"", int(time.time()))
        body = fill(_ENTER, root=asked.root, form=form, code=code)
        answer = self._page(200, "Enter the code", body)
        answer.cookies = fresh
        return answer

    async def _posted(
        self, asked: Asked, request: web.BaseRequest, purpose: str, *fields: str
    ) -> tuple[dict[str, str], bytes, str, str]:
        """The fields, what the form sealed, the browser and the person.  Raises Refused, InvalidInput."""
        asked.refuse_other_origins()
        if request.content_type != "application/x-www-form-urlencoded":
            raise InvalidInput("this is not a form of this page")
        try:
            pairs = parse_qsl(
                (await _read_body(request)).decode("ascii"),
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
        person = await self._person(asked, current=True)
        if person is None:
            raise _SignInFirst()
        browser = browser_of(asked.cookie, self._form_cookie(asked)) or ""
        return (
            given,
            self._forms.open(given["form"], purpose, browser, person, int(time.time())),
            browser,
            person,
        )

    async def _find(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        given, _, browser, person = await self._posted(asked, request, "enter", "user_code")
        try:
            found = await self._node.find(
                given["user_code"], caller=caller_of(asked.client), timeout_s=_LIMIT_S
            )
        except OutcomeUnknown:
            raise Unavailable("the code was not looked up in time") from None
        by = _by(asked, person)
        if found["state"] != "pending" and not (found["state"] == "claimed" and found["claimed_by"] == by):
            raise Refused(
                409,
                "Somebody was faster",
                f"This request is {found['state']} already. Nothing was changed.",
            )
        form = self._forms.seal("decide", browser, person, bytes.fromhex(found["id"]), int(time.time()))
        body = fill(
            _DECIDE,
            code=_shown_code(given["user_code"]),
            initiator=found["initiator"],
            origin=found["origin"] or "not said",
            kind=found["kind"],
            node=found["node"],
            created_at=_clock(found["created_at"]),
            expires_at=_clock(found["expires_at"]),
            left=_left(found["expires_in_s"]),
            data=_data_html(found["data"]),
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
        given, id, _, person = await self._posted(asked, request, "decide")
        by = _by(asked, person)
        # One form, one answer: a repetition, here or at another node, is told the same.
        request_id = hashlib.sha256("\0".join((operation, by, given["form"])).encode()).hexdigest()[:32]
        await self._node.decide(operation, id.hex(), by=by, request_id=request_id, timeout_s=_LIMIT_S)
        _log.info("rendezvous answered on the page", extra={"operation": operation, "by": by})
        return self._page(200, title, fill("<p>{text}</p>", text=text))

    async def _to_owner(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        """/r/NODE?user_code=CODE: to the page of the node where it began, or here when that one is away."""
        code = _code_in(asked.query)
        base = self._node.owner_url(asked.path.removeprefix("/r/"))
        where = asked.root if base is None or urlsplit(base).hostname == asked.host else f"{base}/"
        return _text(302, "", Location=f"{where}rendezvous" + (f"?user_code={code}" if code else ""))

    # -- programs

    async def _refresh(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        asked.refuse_other_origins()
        if await _read_body(request):
            raise InvalidInput("this request takes no body")
        answer = _Answer(204)
        try:
            answer.cookies = [await self._node.refresh(asked.cookie, timeout_s=_LIMIT_S)]
        except TokenRejected as error:
            answer = _text(401, f"{error.message}: sign in again\n", WWW_Authenticate="Cookie")
            answer.cookies = ["cyolo-sid=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax"]
        return answer

    async def _healthz(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        return _text(200, "ok\n")

    async def _readyz(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        if self.closing or not self._node.ready():
            return _text(503, "not ready: no leader was heard of lately\n", Retry_After="1")
        return _text(200, "ready\n")

    async def _show_metrics(self, asked: Asked, request: web.BaseRequest) -> _Answer:
        if not _is_in(asked.client, self._metrics_clients):
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
        case Unavailable():
            text = "Too few nodes answer at the moment. Nothing was changed: try again in a moment."
            return Refused(503, "Try again", text, _TRY_AGAIN)
    incident = secrets.token_hex(4)
    _log.error("internal error %s", incident, exc_info=error)
    return Refused(500, "Something failed here", f"Tell the operator the number {incident}.")


def _by(asked: Asked, person: str) -> str:
    return person or f"ip:{asked.client}"


_CODE = re.compile(r"([A-Za-z]{4})[- ]?([A-Za-z]{4})")


def _shown_code(text: str) -> str:
    """A user code as it is shown, "" for what is none."""
    found = _CODE.fullmatch(text.strip())
    return "" if found is None else f"{found[1]}-{found[2]}".upper()


def _code_in(query: str) -> str:
    try:
        fields = dict(parse_qsl(query, max_num_fields=8))
    except ValueError:
        return ""
    return _shown_code(fields.get("user_code", ""))


def _clock(rfc3339: str) -> str:
    return f"{rfc3339[:10]} {rfc3339[11:19]} UTC"


async def _read_body(request: web.BaseRequest) -> bytes:
    """Raises BodyTooLarge before reading it all, InvalidInput when it dawdles."""
    too_large = BodyTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise too_large
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError:
        raise InvalidInput(f"the body did not arrive in {_BODY_S:g} s") from None
    except (web.RequestPayloadError, ConnectionError):
        raise InvalidInput("the body is not valid HTTP/1.1") from None
    return bytes(body)
