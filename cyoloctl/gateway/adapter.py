"""The node as its gateway sees it."""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from cyoloctl import __version__
from cyoloctl.caller import Actor
from cyoloctl.errors import NotFound, SlowDown, TokenRejected
from cyoloctl.keys.keyring import KeyState
from cyoloctl.keys.operations import KeyOperations
from cyoloctl.members.machine import MemberMachine
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
_COOKIE_NAME = "cyolo-sid"
# More cookies of this name are a flood, and each costs an opening.
_MAX_COOKIES = 4
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
        describe: Callable[[], Json],
    ) -> None:
        self._proposer = proposer
        self._node = node
        self._members = members
        self._records = records
        self._keys = keys
        self._tokens = tokens
        self._routing = routing
        self._rendezvous = rendezvous
        self._describe = describe
        self._beginning: Counter[str] = Counter()
        self.name = str(node.name)

    def ready(self) -> bool:
        """Whether a request could be served now: a leader was heard recently, and there is a key."""
        return self._proposer.engine.leader() is not None and self._keys.ring().primary is not None

    def facts(self) -> Json:
        """The node's figures for /metrics."""
        engine, told = self._proposer.engine, self._describe()
        now_ms = self._proposer.now_ms()
        return {
            "name": self.name,
            "cluster": str(self._node.cluster),
            "version": __version__,
            "storage": self._node.storage,
            "uptime_s": told["uptime_s"],
            "role": told["role"],
            "is_leader": engine.is_leader(),
            "has_leader": engine.leader() is not None,
            "term": told["term"],
            "commit_index": told["commit_index"],
            "applied_index": told["applied_index"],
            "peers": len(engine.peers()),
            "voters": len(engine.status().voters),
            "fsync_p99_s": told["fsync_p99_ms"] / 1000,
            "tokens": dict(self._tokens.counts),
            "rendezvous": self._records.counts(now_ms),
        }

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
                found.add(parse_address(gateway.address).host.lower())
                if gateway.url is not None:
                    found.add(urlsplit(gateway.url).hostname or "")
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
        """The rendezvous page by this node's own links, None when they do not go to the host."""
        url = self._routing.page_url(self.name)
        return url if url is not None and urlsplit(url).hostname == host else None

    def now_unix_s(self) -> int:
        """The cluster's time, by which forms and sessions end."""
        return self._proposer.now_ms() // 1000

    async def session(self, cookie: str, *, current: bool, timeout_s: float) -> Json:
        """sub, sid and claims of the session that a ``Cookie:`` header carries.

        current: as of now in the whole cluster.  Raises TokenRejected, Unavailable.
        """
        return (await self._opened(cookie, current=current, timeout_s=timeout_s))[1]

    async def _opened(self, cookie: str, *, current: bool, timeout_s: float) -> tuple[str, Json]:
        """The one token among the cookies that opens, and its session.

        One that a neighbouring host or an older path left behind hides no good
        one; of two good ones nobody can say which is the user's.
        """
        if _COOKIE_NAME not in cookie:  # the usual case waits for nothing
            raise TokenRejected(reason="no cookie")
        values = token_format.cookie_values(cookie, cookie_name=_COOKIE_NAME)
        if len(values) > _MAX_COOKIES:
            raise TokenRejected(reason="too many cookies")
        found: list[tuple[str, Json]] = []
        for value in values:
            # By this node's copy first: what does not open costs the cluster nothing.
            with suppress(TokenRejected):
                found.append((value, await self._inspect(value, current=False, timeout_s=timeout_s)))
        if len(found) != 1:
            raise TokenRejected(reason="duplicate cookie" if found else "no cookie that opens")
        token, session = found[0]
        if current:
            session = await self._inspect(token, current=True, timeout_s=timeout_s)
        return token, session

    async def _inspect(self, token: str, *, current: bool, timeout_s: float) -> Json:
        return await self._tokens.inspect(
            token=token,
            cookie=None,
            cookie_name=_COOKIE_NAME,
            audience="",
            require_quorum=current,
            explain=False,
            timeout_s=timeout_s,
        )

    async def refresh(self, cookie: str, *, timeout_s: float) -> str:
        """The value of a ``Set-Cookie:`` header with the session refreshed.  Raises TokenRejected."""
        token, _ = await self._opened(cookie, current=False, timeout_s=timeout_s)
        made = await self._tokens.refresh(
            token=token,
            cookie=None,
            ttl_s=DEFAULT_TTL_S,
            cookie_name=_COOKIE_NAME,
            audience="",
            require_quorum=False,
            set_cookie=True,
            timeout_s=timeout_s,
        )
        return str(made["set_cookie"]).removeprefix("Set-Cookie: ")

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
