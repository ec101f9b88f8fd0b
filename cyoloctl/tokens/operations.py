"""Operations on session tokens: this node makes, opens, changes and revokes them."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cyoloctl.errors import CyoloctlError, InvalidInput, TokenRejected, Unavailable
from cyoloctl.keys.operations import KeyOperations
from cyoloctl.replicated.proposer import Proposer, step_of
from cyoloctl.text import Json, decode_base64url, encode_base64url, rfc3339
from cyoloctl.tokens import format as token_format
from cyoloctl.tokens.format import Session
from cyoloctl.tokens.issuer import Context, Issuer, read_item, refusal
from cyoloctl.tokens.machine import MAX_AHEAD_MS, Revocation, SessionMachine

__all__ = ["TokenOperations"]

# An entry outlives the last token that it is for by what clocks may differ.
_MARGIN_S = 120
# Other callers get a turn after this many items of a batch.
_TURN = 50
_UPDATES_AT_ONCE = 100


class TokenOperations:
    """Implements `tokens.api.TokenApi`.  Every answer is the contract's JSON."""

    def __init__(self, proposer: Proposer, sessions: SessionMachine, keys: KeyOperations) -> None:
        self._proposer = proposer
        self._keys = keys
        self._sessions = sessions
        self._issuer = Issuer(
            ring=keys.ring,
            keep_s=keys.keep_s,
            refuses=self._refuses,
            earliest_iat=self._sessions.earliest_iat_unix_s,
            lacks=keys.lacks,
            # Cluster time does not go back; a new epoch is an operator's decision.
            check_clock=lambda now_unix_s: None,
        )

    @property
    def counts(self) -> Mapping[str, int]:
        """Numbers of tokens that this process minted, opened and rejected."""
        return self._issuer.counts

    def _refuses(self, session: Session) -> str | None:
        return self._sessions.refuses(session.sid, session.gen, session.sub, session.iat)

    def _token(self, token: str | None, cookie: str | None, context: Context) -> str:
        if cookie is not None and token is None:
            return self._issuer.token_of(cookie, context=context, now_unix_s=self._now_s())
        if token is not None and cookie is None:
            return token
        raise InvalidInput("give a token or a cookie")

    def _now_s(self) -> int:
        return self._proposer.now_ms() // 1000

    def _until_ms(self, unix_s: int) -> int:
        """Time when an entry about tokens until unix_s may be forgotten: a little later."""
        return min((unix_s + _MARGIN_S) * 1000, self._proposer.now_ms() + MAX_AHEAD_MS)

    async def _ensure_fresh(self, require_quorum: bool, timeout_s: float) -> None:
        """Wait until this node's revocations are fresh enough, and its keys and the time are known.

        require_quorum: as of now in the whole cluster.  Raises Unavailable.
        """
        if require_quorum:
            await self._proposer.fresh(timeout_s=timeout_s)
        else:
            await self._proposer.caught_up(timeout_s=timeout_s)
        await self._proposer.in_time(timeout_s=timeout_s)
        await self._keys.wait_whole(timeout_s=timeout_s)
        if not self._proposer.now_ms():
            # Every session would seem to come from the future: not known is not refused.
            raise Unavailable(
                "this node does not know the cluster's time yet: try again, or ask another node"
            )

    async def mint(
        self,
        *,
        sub: str,
        claims: Json,
        ttl_s: int,
        max_age_s: int,
        cookie_name: str,
        audience: str,
        set_cookie: bool,
        timeout_s: float,
    ) -> Json:
        await self._ensure_fresh(False, timeout_s)
        await self._keys.wait_primary(timeout_s=timeout_s)
        return self._issuer.mint(
            sub=sub,
            claims=claims,
            ttl_s=ttl_s,
            max_age_s=max_age_s,
            context=Context(cookie_name, audience),
            now_unix_s=self._now_s(),
            set_cookie=set_cookie,
        )

    async def inspect(
        self,
        *,
        token: str | None,
        cookie: str | None,
        cookie_name: str,
        audience: str,
        require_quorum: bool,
        explain: bool,
        timeout_s: float,
    ) -> Json:
        await self._ensure_fresh(require_quorum, timeout_s)
        try:
            context = Context(cookie_name, audience)
            found = self._token(token, cookie, context)
            return self._issuer.inspect(found, context=context, now_unix_s=self._now_s())
        except TokenRejected as error:
            if explain and error.reason:
                raise TokenRejected(f"{error.message}: {error.reason}") from None
            raise

    async def update(
        self,
        *,
        token: str | None,
        cookie: str | None,
        set: Json,
        unset: list[Any],
        keep_previous: bool,
        cookie_name: str,
        audience: str,
        set_cookie: bool,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        await self._ensure_fresh(False, timeout_s)
        context = Context(cookie_name, audience)
        now_s = self._now_s()
        given = self._token(token, cookie, context)
        # Without keep_previous the replicated machine judges: a repetition of this very request must pass.
        session = self._issuer.open(
            given,
            context=context,
            now_unix_s=now_s,
            revoked_too=not keep_previous,
        )
        answer = self._issuer.seal_updated(
            session, set, _names(unset), context=context, now_unix_s=now_s, set_cookie=set_cookie
        )
        if not keep_previous:
            arguments: Json = {
                "sid": session.sid,
                "gen": session.gen,
                "sub": session.sub,
                "iat_unix_s": session.iat,
                "until_unix_ms": self._until_ms(session.abs),
            }
            if request_id is not None:
                arguments["change"] = self._change(given, set, unset)
            operation = "advance" if request_id is None else "advance_to"
            await self._proposer.apply_here(
                "sessions", operation, arguments, request_id=request_id, timeout_s=timeout_s
            )
            # A repetition is answered like the first attempt, unless the session went on or ended since.
            reason = self._sessions.refuses(session.sid, session.gen + 1, session.sub, session.iat)
            if reason is not None:
                raise TokenRejected(reason=reason)
        return answer

    def _change(self, token: str, changes: Json, removed: list[Any]) -> str:
        """What stands for a change of claims in the journal: it tells nothing to whoever lacks the keys.

        Under the key of the token that is changed, which every repetition shows too.
        """
        key = self._keys.ring().get(token_format.key_id_of(token))
        if key is None:  # it opened a token a moment ago, and was destroyed meanwhile
            raise TokenRejected(reason="unknown key")
        text = json.dumps([changes, removed], sort_keys=True, separators=(",", ":"))
        return hmac.digest(key.secret, f"cyoloctl token change v1\0{text}".encode(), "sha256").hex()

    async def refresh(
        self,
        *,
        token: str | None,
        cookie: str | None,
        ttl_s: int,
        cookie_name: str,
        audience: str,
        require_quorum: bool,
        set_cookie: bool,
        timeout_s: float,
    ) -> Json:
        await self._ensure_fresh(require_quorum, timeout_s)
        context = Context(cookie_name, audience)
        return self._issuer.refresh(
            self._token(token, cookie, context),
            ttl_s=ttl_s,
            context=context,
            now_unix_s=self._now_s(),
            set_cookie=set_cookie,
        )

    async def revoke(
        self,
        *,
        token: str | None,
        cookie: str | None,
        sid: str | None,
        sub: str | None,
        cookie_name: str,
        audience: str,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        if (token is not None or cookie is not None) + (sid is not None) + (sub is not None) != 1:
            raise InvalidInput("give one of a token, a sid and a sub")
        # Null is by the cluster's time: a repetition must be the same command.
        if sub is not None:
            if not sub.isascii():
                import unicodedata  # here: hardly any sub needs it

                sub = unicodedata.normalize("NFC", sub)
            arguments: Json = {"sub": sub, "issued_before_unix_s": None, "until_unix_ms": None}
            value = await self._proposer.apply_here(
                "sessions", "revoke_sub", arguments, request_id=request_id, timeout_s=timeout_s
            )
            found = Revocation("sub", sub, None, value["issued_before_unix_s"], value["until_unix_ms"])
            return _row(found)
        until_ms = None
        if sid is None:
            await self._proposer.caught_up(timeout_s=timeout_s)
            context = Context(cookie_name, audience)
            session = self._issuer.open(
                self._token(token, cookie, context),
                context=context,
                now_unix_s=self._now_s(),
                revoked_too=True,
            )
            sid, until_ms = session.sid, self._until_ms(session.abs)
        value = await self._proposer.apply_here(
            "sessions",
            "revoke_sid",
            {"sid": sid, "until_unix_ms": until_ms},
            request_id=request_id,
            timeout_s=timeout_s,
        )
        found = Revocation("sid", sid, value["minimum_gen"], None, value["until_unix_ms"])
        return _row(found)

    async def revocations(self, *, limit: int, after: str | None, consistency: str, timeout_s: float) -> Json:
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        mark = None if after is None else _mark(after)
        found = self._sessions.list(mark, limit + 1, self._proposer.now_ms())
        page = found[:limit]
        return {
            "revocations": [_row(revocation) for revocation in page],
            "next": _next(page[-1]) if len(found) > limit else None,
        }

    async def batch(
        self,
        *,
        operation: str,
        items: list[Any],
        keep_previous: bool,
        cookie_name: str,
        audience: str,
        require_quorum: bool,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        await self._ensure_fresh(require_quorum, timeout_s)
        if operation == "mint":
            await self._keys.wait_primary(timeout_s=timeout_s)
        context = Context(cookie_name, audience)
        results: list[Json] = []
        if operation == "update":
            gate = asyncio.Semaphore(_UPDATES_AT_ONCE)

            async def update(number: int, item: Any) -> Json:
                async with gate:
                    return await self.update(
                        **read_item("update", item),
                        cookie=None,
                        keep_previous=keep_previous,
                        cookie_name=cookie_name,
                        audience=audience,
                        set_cookie=False,
                        request_id=None if request_id is None else step_of(request_id, f"item {number}"),
                        timeout_s=timeout_s,
                    )

            updates = (update(number, item) for number, item in enumerate(items))
            results = await asyncio.gather(*map(_answered, updates))
        else:
            run = self._one(operation, context)
            for number, item in enumerate(items):
                try:
                    results.append(run(item))
                except (TokenRejected, InvalidInput, Unavailable) as error:
                    results.append(refusal(error))
                if number % _TURN == _TURN - 1:
                    await asyncio.sleep(0)
        return {"results": results}

    def _one(self, operation: str, context: Context) -> Callable[[Any], Json]:
        issuer, now_s = self._issuer, self._now_s()
        run: dict[str, Callable[..., Json]] = {
            "mint": issuer.mint,
            "inspect": issuer.inspect,
            "refresh": issuer.refresh,
        }
        return lambda item: run[operation](**read_item(operation, item), context=context, now_unix_s=now_s)


async def _answered(update: Awaitable[Json]) -> Json:
    try:
        return await update
    except CyoloctlError as error:
        return refusal(error)


def _names(unset: list[Any]) -> list[str]:
    if not all(type(name) is str for name in unset):
        raise InvalidInput("unset is a list of the names of claims")
    return unset


def _row(revocation: Revocation) -> Json:
    issued = revocation.issued_before_unix_s
    return {
        "kind": revocation.kind,
        "value": revocation.value,
        "minimum_gen": revocation.minimum_gen,
        "issued_before": None if issued is None else rfc3339(issued),
        "expires_at": rfc3339(revocation.until_unix_ms / 1000),
    }


def _next(last: Revocation) -> str:
    """A mark that needs no quoting in a URL, whatever characters the subject has."""
    return encode_base64url(f"{last.kind}:{last.value}".encode())


def _mark(text: str) -> tuple[str, str]:
    try:
        kind, _, value = decode_base64url(text).decode().partition(":")
    except ValueError:
        kind, value = "", ""
    if kind not in ("sid", "sub"):
        raise InvalidInput("field 'after': must be `next` of the page before")
    return kind, value
