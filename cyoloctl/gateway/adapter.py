"""The node as its gateway sees it."""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from cyoloctl.caller import Actor
from cyoloctl.errors import NotFound, SlowDown, TokenRejected
from cyoloctl.gateway.forms import host_of_url, one_host
from cyoloctl.keys.keyring import KeyState
from cyoloctl.keys.operations import KeyOperations
from cyoloctl.members.machine import MemberMachine
from cyoloctl.metrics.families import Family, Figures
from cyoloctl.model import LocalNode, parse_address
from cyoloctl.rendezvous import codes
from cyoloctl.rendezvous.machine import RendezvousMachine
from cyoloctl.rendezvous.operations import RendezvousOperations, counted, person_digest
from cyoloctl.rendezvous.records import Rendezvous
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.routing.operations import RoutingOperations
from cyoloctl.text import Json
from cyoloctl.tokens import format as token_format
from cyoloctl.tokens.format import DEFAULT_TTL_S
from cyoloctl.tokens.operations import TokenOperations

__all__ = ["GatewayAdapter"]

# What browsers may leave to be approved: of one person, or of one client without a session, IPv6 by
# /64; and of all, out of the machine's 10,000, which are for programs too.  Anyone who has a
# session has room that nobody without one can take.
MAX_BEGUN_BY_CLIENT = 10
MAX_BEGUN = 1_000
MAX_BEGUN_WITH_SESSIONS = 5_000
# With the 5 minutes in which an answer is told again, as long as a form lives.
BEGUN_TTL_S = 300
_BROWSER = "browser"
# The cookies of a session, the better one first: no other host of the site can set that one, and browsers
# take it over TLS only (RFC 6265bis 4.1.3.2).
_COOKIE_NAMES = ("__Host-cyolo-sid", "cyolo-sid")
_FORM_KEYS = (KeyState.PRIMARY, KeyState.ENABLED, KeyState.PENDING)


class GatewayAdapter:
    """Narrow on purpose: people outside reach nothing of a node but these operations."""

    def __init__(
        self,
        proposer: Proposer,
        node: LocalNode,
        members: MemberMachine,
        records: RendezvousMachine,
        *,
        keys: KeyOperations,
        tokens: TokenOperations,
        routing: RoutingOperations,
        rendezvous: RendezvousOperations,
        metrics: Callable[[Iterable[Family], Figures], Awaitable[str]],
    ) -> None:
        self._proposer = proposer
        self._node = node
        self._members = members
        self._records = records
        self._keys = keys
        self._tokens = tokens
        self._routing = routing
        self._rendezvous = rendezvous
        self._page = metrics
        self._beginning: Counter[str] = Counter()
        self.name = str(node.name)

    def ready(self) -> bool:
        """Whether a request could be served now: a leader was heard recently, and there is a key."""
        return self._proposer.engine.leader() is not None and self._keys.ring().primary is not None

    async def metrics(self, more: Iterable[Family], figures: Figures) -> str:
        """The text of /metrics: the node's own, and more with their figures."""
        return await self._page(more, figures)

    def form_keys(self) -> list[tuple[bytes, bytes]]:
        """Keys for what the gateway seals into forms, (id, 32 bytes), the one to seal with first.

        Derived from the token keys, so that every node opens what another one
        sealed, through rotations too.  A pending key is primary on others already.
        """
        ring = self._keys.ring()
        live = [key for key in ring.keys if key.state in _FORM_KEYS]
        live.sort(key=lambda key: key is not ring.primary)
        if ring.primary is None:
            return []
        return [(k.key_id, hmac.digest(k.secret, b"cyoloctl gateway form v1", "sha256")) for k in live]

    def hosts(self) -> set[str]:
        """Every host name or IP address by which this node may be asked: any node serves for any other."""
        found = set(self._members.hosts()) | set(self._members.shared_hosts())
        for member in self._members.members():
            gateway = self._members.gateway(member.name)
            if gateway is not None:
                found.add(one_host(parse_address(gateway.address).host))
                if gateway.url is not None:
                    found.add(host_of_url(gateway.url))
        return found

    def owner_url(self, name: str) -> str | None:
        """The base of the links of another member that is up, None for this node and for one that is away.

        Raises NotFound for what is no member.
        """
        if self._members.get(name) is None:
            raise NotFound("the link names no node of this cluster: check it")
        away = name == self.name or name not in self._routing.reachable()
        return None if away else self._routing.base_url(name)

    def page_url(self, host: str) -> str | None:
        """The rendezvous page by the configured base of this node's links, None when its host is another."""
        gateway = self._members.gateway(self.name)
        url = None if gateway is None or gateway.url is None else gateway.url.rstrip("/")
        return f"{url}/rendezvous" if url is not None and host_of_url(url) == host else None

    def shared_hosts(self) -> list[str]:
        """The host names that every member serves, and at which people are signed in."""
        return sorted(self._members.shared_hosts())

    def is_pin(self, host: str) -> bool:
        """Whether a host name is the one of a single member."""
        return host in self._members.hosts()

    def now_unix_s(self) -> int:
        """The cluster's time, by which forms and sessions end."""
        return self._proposer.now_ms() // 1000

    async def session(self, cookie: str, *, current: bool, timeout_s: float) -> Json:
        """sub, sid and claims of the session that a ``Cookie:`` header carries.

        current: as of now in the whole cluster.  Raises TokenRejected, Unavailable.
        """
        return (await self._opened(cookie, current=current, timeout_s=timeout_s))[2]

    async def _opened(self, cookie: str, *, current: bool, timeout_s: float) -> tuple[str, str, Json]:
        """The session that the cookies carry: the cookie's name, its newest token and what that says.

        One that a neighbouring host or an older path left behind hides no good one.  Of two sessions in
        cookies of one name nobody can say which is the user's.
        """
        for name in _COOKIE_NAMES:
            if name not in cookie:  # the usual case waits for nothing
                continue
            found: list[tuple[Json, str]] = []
            for value in token_format.token_cookies(cookie, cookie_name=name):
                # By this node's copy first: what does not open costs the cluster nothing.
                with suppress(TokenRejected):
                    found.append(
                        (await self._inspect(name, value, current=False, timeout_s=timeout_s), value)
                    )
            if len({session["sid"] for session, _ in found}) > 1:
                raise TokenRejected(reason="cookies of two sessions")
            if found:
                session, token = max(found, key=lambda one: (one[0]["gen"], one[0]["expires_at"]))
                if current:
                    session = await self._inspect(name, token, current=True, timeout_s=timeout_s)
                return name, token, session
        raise TokenRejected(reason="no cookie that opens")

    async def _inspect(self, name: str, token: str, *, current: bool, timeout_s: float) -> Json:
        return await self._tokens.inspect(
            token=token,
            cookie=None,
            cookie_name=name,
            audience="",
            require_quorum=current,
            explain=False,
            timeout_s=timeout_s,
        )

    async def refresh(self, cookie: str, *, timeout_s: float) -> str:
        """The value of a ``Set-Cookie:`` header with the session refreshed, under the name that it has.

        Raises TokenRejected.
        """
        name, token, _ = await self._opened(cookie, current=False, timeout_s=timeout_s)
        made = await self._tokens.refresh(
            token=token,
            cookie=None,
            ttl_s=DEFAULT_TTL_S,
            cookie_name=name,
            audience="",
            require_quorum=False,
            set_cookie=True,
            timeout_s=timeout_s,
        )
        return str(made["set_cookie_value"])

    async def find(
        self, user_code: str, *, client: str, actor: Actor, request_id: str, timeout_s: float
    ) -> Json:
        """The record of a user code; a wrong one is counted, in the cluster.

        The same request id counts the same code once, however it is written.
        Raises ApprovalRefused for anyone who could not approve it, NotFound, SlowDown, InvalidInput,
        Unavailable, OutcomeUnknown.
        """
        once = f"{request_id} {codes.hash_user_code(user_code)}"
        record = await self._rendezvous.find(
            id=None,
            user_code=user_code,
            counts_for=counted(actor.sub, client),
            timeout_s=timeout_s,
            request_id=once,
        )
        self._rendezvous.refuse(record, actor)
        return self._shown(record)

    def _shown(self, record: Rendezvous) -> Json:
        now_ms = self._proposer.now_ms()
        expires_in_s = max(0, (record.expires_unix_ms - now_ms) // 1000)
        return {**self._rendezvous.to_json(record), "expires_in_s": expires_in_s}

    async def decide(
        self, operation: str, id: str, *, by: str, actor: Actor, request_id: str, timeout_s: float
    ) -> None:
        """approve or deny; the same request id counts once.

        Raises NotFound, Conflict (Denied, Expired), Unavailable, OutcomeUnknown.
        """
        record = await self._rendezvous.find(id=id, user_code=None, counts_for=[], timeout_s=timeout_s)
        data: Json | None = {} if operation == "approve" else None
        await self._rendezvous.answer(operation, record, by, actor, request_id, timeout_s, data)

    async def begin(
        self, kind: str, *, client: str, network: str, actor: Actor, request_id: str, timeout_s: float
    ) -> Json:
        """Begin a rendezvous: the answer of RendezvousOperations.start; one request id begins one.

        Live ones are counted in the replicated records; requests that are
        under way at other nodes are not, and may pass the bound by a few.
        Raises SlowDown, Unavailable, OutcomeUnknown.
        """
        await self._proposer.fresh(timeout_s=timeout_s)
        now_ms = self._proposer.now_ms()
        live = [r for r in self._records.live(now_ms) if r.initiator == _BROWSER]
        if actor.sub is None:
            addresses, most, who = ip_network(network), MAX_BEGUN, network
            mine = sum(_is_in(r.origin, addresses) for r in live)
        else:
            most, who = MAX_BEGUN_WITH_SESSIONS, person_digest(actor.sub)
            mine = sum(who in r.begun_by for r in live)
        if mine + self._beginning[who] >= MAX_BEGUN_BY_CLIENT or len(live) + self._beginning.total() >= most:
            raise SlowDown("too many wait for an approval already: end one, or wait until some ended")
        self._beginning[who] += 1
        try:
            return await self._rendezvous.begin(
                kind=kind,
                ttl_s=BEGUN_TTL_S,
                data={},
                public_key=None,
                initiator=_BROWSER,
                origin=client,
                actor=actor,
                request_id=request_id,
                timeout_s=timeout_s,
            )
        finally:
            self._beginning[who] -= 1
            self._beginning += Counter()  # without those at 0

    async def look(self, id: str, *, timeout_s: float) -> Json:
        """The record of an id, as `find` gives it.  Raises NotFound, Unavailable, OutcomeUnknown."""
        return self._shown(
            await self._rendezvous.find(id=id, user_code=None, counts_for=[], timeout_s=timeout_s)
        )

    async def redeem(self, id: str, redemption: str, *, timeout_s: float) -> Json:
        """The answer of an approved record, once; again for the same redemption for 5 minutes.

        Raises AuthorizationPending, NotFound, Conflict (Denied, Expired), Unavailable, OutcomeUnknown.
        """
        return await self._rendezvous.wait(id=id, request_id=redemption, timeout_s=timeout_s)


def _is_in(origin: str | None, network: IPv4Network | IPv6Network) -> bool:
    try:
        return ip_address(origin or "") in network
    except ValueError:
        return False  # of a program that calls itself browser
