"""The operations rendezvous_*: transactions that begin at one actor and end at another."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from cyoloctl import rendezvous
from cyoloctl.errors import (
    AuthorizationPending,
    Conflict,
    InvalidInput,
    NotFound,
)
from cyoloctl.machines.rendezvous import Rendezvous
from cyoloctl.service._keys import KeyService
from cyoloctl.service._replicated import Json, Replicated, rfc3339

__all__ = ["RendezvousService"]

INTERVAL_S = 5
# Codes that are taken are drawn again; with 10,000 live ones among 20**8 this is never needed twice.
_DRAWS = 4


def _sha256(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class RendezvousService:
    """What control.server and the gateway call for rendezvous_*.

    page_url: where the page of a node is, None when it has none.
    """

    def __init__(
        self, replicated: Replicated, keys: KeyService, page_url: Callable[[str], str | None]
    ) -> None:
        self._replicated = replicated
        self._keys = keys
        self._records = replicated.machine.rendezvous
        self._page_url = page_url
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._records.on_change = self._on_change

    def _on_change(self, id: str, index: int) -> None:
        for event in self._waiting.get(id, ()):
            event.set()

    def restored(self) -> None:
        """The machines were replaced by a snapshot."""
        for events in self._waiting.values():
            for event in events:
                event.set()

    def _now_ms(self) -> int:
        """Replicated time goes on only with the log: a record is due by the clock too."""
        return max(self._replicated.now_ms(), self._replicated.machine.time_unix_ms)

    async def _write(
        self, operation: str, arguments: Json, timeout_s: float, request_id: str | None = None
    ) -> Json:
        return await self._replicated.apply_here(
            "rendezvous", operation, arguments, request_id=request_id, timeout_s=timeout_s
        )

    # ------------------------------------------------------------- who begins

    async def start(
        self,
        *,
        kind: str,
        ttl_s: int,
        data: Json,
        public_key: str | None,
        initiator: str,
        origin: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        draw = await self._draw(request_id, timeout_s)
        node = str(self._replicated.config.name)
        for number in range(_DRAWS):
            secret = draw(number)
            id = secret("id").hex()[:32] if public_key is None else rendezvous.id_of_public_key(public_key)
            user_code = rendezvous.new_user_code(_stream(secret))
            digest = rendezvous.hash_user_code(user_code)
            known = None if request_id is None else self._records.get(id, self._now_ms())
            if known is not None and known.user_code_sha256 in (digest, None):
                return self._started(known, user_code)  # this request was done before, maybe by another node
            arguments = {
                "id": id,
                "kind": kind,
                "user_code_sha256": digest,
                "ttl_ms": ttl_s * 1000,
                "node": node,
                "initiator": initiator,
                "origin": origin,
                "data": data,
                "initiator_public_key": public_key,
            }
            envelope = None if request_id is None else secret("request").hex()[:32]
            try:
                await self._write("start", arguments, timeout_s, envelope)
                break
            except Conflict as error:
                # Only a taken code is drawn again; what is no conflict of codes is the caller's to know.
                if type(error) is not Conflict or number == _DRAWS - 1:
                    raise
        record = self._records.get(id, self._now_ms())
        assert record is not None  # it was made a moment ago, and tombstones stay for a day
        return self._started(record, user_code)

    def _started(self, record: Rendezvous, user_code: str) -> Json:
        page = self._page_url(record.node)
        return {
            "schema_version": 1,
            "id": record.id,
            "user_code": user_code,
            "verification_uri": page,
            "verification_uri_complete": None if page is None else f"{page}?user_code={user_code}",
            "expires_in": max(0, (record.expires_unix_ms - self._now_ms()) // 1000),
            "interval": INTERVAL_S,
            "node": record.node,
        }

    async def _draw(
        self, request_id: str | None, timeout_s: float
    ) -> Callable[[int], Callable[[str], bytes]]:
        """Randomness for a start: fresh, or with a request id the same at every repetition on every node.

        Whoever repeats must get the same id and code, of which only hashes are
        kept: both come from the request id under the primary token key, so
        that who guesses the request id learns nothing.
        """
        if request_id is None:
            fresh = rendezvous.new_id()
            key, what = bytes.fromhex(fresh), fresh
        else:
            await self._replicated.fresh(timeout_s=timeout_s)
            await self._keys.wait_primary(timeout_s=timeout_s)
            primary = self._keys.ring().primary
            assert primary is not None
            key, what = primary.secret, request_id

        def numbered(number: int) -> Callable[[str], bytes]:
            def secret(purpose: str) -> bytes:
                message = f"cyoloctl rendezvous start v1\0{purpose}\0{number}\0{what}"
                return hmac.digest(key, message.encode(), "sha256")

            return secret

        return numbered

    async def wait(self, *, id: str, redemption: str, timeout_s: float) -> Json:
        """The answer, once; AuthorizationPending when there is none in time.

        The same redemption is told the same answer again for 5 minutes, by
        whichever node, so a caller whose node died asks another one.
        """
        deadline = time.monotonic() + timeout_s
        digest = _sha256("cyoloctl redemption v1", redemption)
        event = asyncio.Event()
        self._waiting.setdefault(id, set()).add(event)
        try:
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AuthorizationPending("the rendezvous is still pending: ask again")
                event.clear()
                await self._replicated.fresh(timeout_s=left)
                record = self._records.get(id, self._now_ms())
                if record is None:
                    raise NotFound("there is no such rendezvous: it never was, or it ended long ago")
                if record.state in ("pending", "claimed"):
                    until_expiry = (record.expires_unix_ms - self._now_ms()) / 1000 + 0.01
                    await _wait(event, min(left, max(until_expiry, 0.01)))
                    continue
                # Also for what ended in another way: the machine says which.
                arguments = {"id": id, "expected": None, "redemption_sha256": digest}
                await self._write("consume", arguments, max(0.1, left))
                found = self._records.answer(id, digest, self._now_ms())
                if found is None:
                    raise Conflict("the rendezvous was already redeemed: start another")
                return self._redeemed(record, *found)
        finally:
            events = self._waiting[id]
            events.discard(event)
            if not events:
                del self._waiting[id]

    def _redeemed(self, record: Rendezvous, answer: Mapping[str, str] | None, sealed: str | None) -> Json:
        return {
            "schema_version": 1,
            "id": record.id,
            "state": "consumed",
            "kind": record.kind,
            "approved_by": record.claimed_by,
            "data": None if answer is None else dict(answer),
            "sealed_result": sealed,
            "node": record.node,
        }

    async def cancel(self, *, id: str, timeout_s: float) -> Json:
        await self._write("cancel", {"id": id, "expected": None}, timeout_s)
        return self._answer(id)

    # ------------------------------------------------------------- who answers

    async def find(
        self, *, id: str | None, user_code: str | None, caller: str, timeout_s: float
    ) -> Rendezvous:
        """The record of an id or a user code, for somebody who may be guessing: wrong codes are counted.

        Raises NotFound, SlowDown, Conflict (ended), InvalidInput.
        """
        if id is None and user_code is None:
            raise InvalidInput("give an id or a user code")
        if user_code is not None:
            arguments = {
                "id": id,
                "user_code_sha256": rendezvous.hash_user_code(user_code),
                "caller_sha256": _sha256("cyoloctl caller v1", caller),
            }
            tried = await self._write("attempt", arguments, timeout_s)
            if tried["id"] is None:
                raise NotFound(
                    "no rendezvous has this user code: check the letters; "
                    f"{tried['attempts_left']} attempts left"
                )
            id = str(tried["id"])
        else:
            await self._replicated.fresh(timeout_s=timeout_s)
        record = self._records.get(str(id), self._now_ms())
        if record is None:
            raise NotFound("there is no such rendezvous: it never was, or it ended long ago")
        return record

    async def _act(
        self,
        operation: str,
        id: str | None,
        user_code: str | None,
        more: Callable[[Rendezvous], Json],
        timeout_s: float,
        request_id: str | None,
    ) -> Json:
        record = await self.find(id=id, user_code=user_code, caller="operator", timeout_s=timeout_s)
        return await self.transition(operation, record, more(record), timeout_s, request_id)

    async def transition(
        self,
        operation: str,
        record: Rendezvous,
        arguments: Json,
        timeout_s: float,
        request_id: str | None = None,
    ) -> Json:
        """One compare-and-set from any state that the operation leaves."""
        await self._write(operation, {"id": record.id, "expected": None, **arguments}, timeout_s, request_id)
        return self._answer(record.id)

    async def claim(
        self, *, id: str | None, user_code: str | None, by: str, request_id: str | None, timeout_s: float
    ) -> Json:
        return await self._act("claim", id, user_code, lambda record: {"by": by}, timeout_s, request_id)

    async def approve(
        self,
        *,
        id: str | None,
        user_code: str | None,
        by: str,
        data: Json,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        return await self._act(
            "approve",
            id,
            user_code,
            lambda record: self.approval(record, by, data),
            timeout_s,
            request_id,
        )

    async def deny(
        self, *, id: str | None, user_code: str | None, by: str, request_id: str | None, timeout_s: float
    ) -> Json:
        return await self._act("deny", id, user_code, lambda record: {"by": by}, timeout_s, request_id)

    def approval(self, record: Rendezvous, by: str, data: Json) -> Json:
        """The arguments of an approval: in clear, or sealed to the initiator when it gave a key."""
        key = record.initiator_public_key
        if key is None:
            return {"by": by, "answer": data, "sealed_result": None}
        result = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
        return {"by": by, "answer": None, "sealed_result": rendezvous.seal_result(key, result)}

    # ------------------------------------------------------------- who looks

    def to_json(self, record: Rendezvous) -> Json:
        """What an operator may see of a record."""
        return {
            "id": record.id,
            "kind": record.kind,
            "state": record.state,
            "node": record.node,
            "initiator": record.initiator,
            "origin": record.origin,
            "data": dict(record.data),
            "claimed_by": record.claimed_by,
            "sealed": record.initiator_public_key is not None,
            "failed_attempts": record.failed_attempts,
            "created_at": rfc3339(record.created_unix_ms / 1000),
            "expires_at": rfc3339(record.expires_unix_ms / 1000),
            "changed_at": rfc3339(record.changed_unix_ms / 1000),
        }

    def _answer(self, id: str) -> Json:
        record = self._records.get(id, self._now_ms())
        if record is None:
            raise NotFound("there is no such rendezvous: it never was, or it ended long ago")
        return {"schema_version": 1, **self.to_json(record)}

    async def show(self, name: str, *, timeout_s: float) -> Json:
        """name: an id, or a user code; wrong codes of operators are not counted, who can list them all."""
        await self._replicated.fresh(timeout_s=timeout_s)
        if len(name) == 32:
            return self._answer(name)
        id = self._records.find_code(rendezvous.hash_user_code(name), self._now_ms())
        if id is None:
            raise NotFound("no rendezvous has this user code: check the letters")
        return self._answer(id)

    async def list(self, *, state: str | None, limit: int, after: str | None, timeout_s: float) -> Json:
        await self._replicated.fresh(timeout_s=timeout_s)
        found: Any = [
            record for record in self._records.records(self._now_ms()) if state in (None, record.state)
        ]
        if after is not None:
            places = [place for place, record in enumerate(found) if record.id == after]
            # The record may have gone since: what is older than all that is left needs no mark.
            found = found[places[0] + 1 :] if places else found
        page = found[:limit]
        return {
            "schema_version": 1,
            "rendezvous": [self.to_json(record) for record in page],
            "next": page[-1].id if len(found) > limit else None,
        }


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass


def _stream(secret: Callable[[str], bytes]) -> Callable[[int], bytes]:
    """Random bytes, as many as are asked for, from a keyed hash."""
    position = 0

    def read(count: int) -> bytes:
        nonlocal position
        found = b""
        while len(found) < count:
            found += secret(f"code {position}")
            position += 1
        return found[:count]

    return read
