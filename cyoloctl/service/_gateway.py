"""What the gateway asks of its node: implements `gateway.GatewayNode`."""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

from cyoloctl import __version__
from cyoloctl.errors import NotFound, TokenRejected
from cyoloctl.model import parse_address
from cyoloctl.service._keys import KeyService
from cyoloctl.service._rendezvous import RendezvousService
from cyoloctl.service._replicated import Json, Replicated
from cyoloctl.service._routes import RouteService
from cyoloctl.service._tokens import TokenService
from cyoloctl.tokens import DEFAULT_TTL_S, KeyState

__all__ = ["GatewayService"]

_COOKIE_NAME = "cyolo-sid"
_FORM_KEYS = (KeyState.PRIMARY, KeyState.ENABLED, KeyState.PENDING)


class GatewayService:
    """Narrow on purpose: what people outside reach of a node is what is listed here."""

    def __init__(
        self,
        replicated: Replicated,
        keys: KeyService,
        tokens: TokenService,
        routes: RouteService,
        rendezvous: RendezvousService,
        describe: Callable[[], Json],
    ) -> None:
        self._replicated = replicated
        self._members = replicated.machine.members
        self._keys = keys
        self._tokens = tokens
        self._routes = routes
        self._rendezvous = rendezvous
        self._describe = describe
        self.name = str(replicated.config.name)

    def ready(self) -> bool:
        """Whether a request could be served now: a leader was heard of lately, and there is a key."""
        return self._replicated.engine.leader() is not None and self._keys.ring().primary is not None

    def facts(self) -> Json:
        """What /metrics shows of the node."""
        engine, told = self._replicated.engine, self._describe()
        machine = self._replicated.machine
        now_ms = max(self._replicated.now_ms(), machine.time_unix_ms)
        return {
            "name": self.name,
            "cluster": str(self._replicated.config.cluster),
            "version": __version__,
            "storage": self._replicated.config.storage,
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
            "rendezvous": Counter(record.state for record in machine.rendezvous.records(now_ms)),
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
        """The base of the links of another member that is up, None for this node and who is away.

        Raises NotFound for what is no member.
        """
        if self._members.get(name) is None:
            raise NotFound("the link names no node of this cluster: check it")
        away = name == self.name or name not in self._routes.reachable()
        return None if away else self._routes.base_url(name)

    async def subject(self, cookie: str, *, current: bool, timeout_s: float) -> str:
        """Whose session a ``Cookie:`` header carries; current: as of now in the whole cluster.

        Raises TokenRejected, Unavailable, ClockSetBack.
        """
        if _COOKIE_NAME not in cookie:
            raise TokenRejected(reason="no cookie")  # the usual case waits for nothing
        session = await self._tokens.inspect(
            token=None,
            cookie=cookie,
            cookie_name=_COOKIE_NAME,
            audience="",
            require_quorum=current,
            explain=False,
            timeout_s=timeout_s,
        )
        return str(session["sub"])

    async def refresh(self, cookie: str, *, timeout_s: float) -> str:
        """The value of a ``Set-Cookie:`` header with the session refreshed.  Raises TokenRejected."""
        made = await self._tokens.refresh(
            token=None,
            cookie=cookie,
            ttl_s=DEFAULT_TTL_S,
            cookie_name=_COOKIE_NAME,
            audience="",
            require_quorum=False,
            set_cookie=True,
            timeout_s=timeout_s,
        )
        return str(made["set_cookie"]).removeprefix("Set-Cookie: ")

    async def find(self, user_code: str, *, caller: str, timeout_s: float) -> Json:
        """The record of a user code; a wrong one is counted against the caller, in the cluster.

        Raises NotFound, SlowDown, InvalidInput, Unavailable, OutcomeUnknown.
        """
        record = await self._rendezvous.find(id=None, user_code=user_code, caller=caller, timeout_s=timeout_s)
        now_ms = max(self._replicated.now_ms(), self._replicated.machine.time_unix_ms)
        expires_in_s = max(0, (record.expires_unix_ms - now_ms) // 1000)
        return {**self._rendezvous.to_json(record), "expires_in_s": expires_in_s}

    async def decide(self, operation: str, id: str, *, by: str, request_id: str, timeout_s: float) -> None:
        """approve or deny; the same request id counts once.

        Raises NotFound, Conflict (Denied, Expired), Unavailable, OutcomeUnknown.
        """
        record = await self._rendezvous.find(id=id, user_code=None, caller=by, timeout_s=timeout_s)
        arguments = {"by": by}
        repeatable: str | None = request_id
        if operation == "approve":
            arguments = self._rendezvous.approval(record, by, {})
            if arguments["sealed_result"] is not None:
                repeatable = None  # sealed anew each time: a repetition would be another command
        await self._rendezvous.transition(operation, record, arguments, timeout_s, repeatable)
