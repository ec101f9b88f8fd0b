"""The operations rendezvous_*: transactions that begin at one actor and end at another."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

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

# Number and purpose -> 32 bytes.
_Draw = Callable[[int, str], bytes]


class _Beginning(NamedTuple):
    """What a start draws.  request_id: the command's."""

    id: str
    user_code: str
    request_id: str


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
        if public_key is not None:
            rendezvous.seal_result(public_key, b"")  # a key that nothing can be sealed to: say so now
        draws = await self._draws(request_id, timeout_s)
        for draw in draws[1:]:  # done before, under a key that was primary then
            for number in range(_DRAWS):
                beginning = _begin(draw, number, public_key)
                if self._was_begun(beginning, public_key):
                    return self._started(beginning)
        for number in range(_DRAWS):
            beginning = _begin(draws[0], number, public_key)
            if request_id is not None and self._was_begun(beginning, public_key):
                break  # done before, maybe by another node
            arguments = {
                "id": beginning.id,
                "kind": kind,
                "user_code_sha256": rendezvous.hash_user_code(beginning.user_code),
                "ttl_ms": ttl_s * 1000,
                "node": str(self._replicated.config.name),
                "initiator": initiator,
                "origin": origin,
                "data": data,
                "initiator_public_key": public_key,
            }
            envelope = None if request_id is None else beginning.request_id
            try:
                await self._write("start", arguments, timeout_s, envelope)
                break
            except Conflict as error:
                if request_id is not None:
                    # Another node may be doing the same request, with its own name in the command.
                    await self._replicated.fresh(timeout_s=timeout_s)
                    if self._was_begun(beginning, public_key):
                        break
                # Only a taken code is drawn again; what is no conflict of codes is the caller's to know.
                if type(error) is not Conflict or number == _DRAWS - 1:
                    raise
        return self._started(beginning)

    def _was_begun(self, beginning: _Beginning, public_key: str | None) -> bool:
        """Whether the record is that of this very request.

        An id that no key fixes says it; else the code does, which a record has until it ends.
        """
        record = self._records.get(beginning.id, self._now_ms())
        return record is not None and (
            public_key is None or record.user_code_sha256 == rendezvous.hash_user_code(beginning.user_code)
        )

    def _started(self, beginning: _Beginning) -> Json:
        record, user_code = self._records.get(beginning.id, self._now_ms()), beginning.user_code
        if record is None:  # the answer to the request id outlived the tombstone
            raise Conflict("the request id began a rendezvous that ended long ago: use a new one")
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

    async def _draws(self, request_id: str | None, timeout_s: float) -> list[_Draw]:
        """Randomness for a start: fresh, or with a request id the same at every repetition on every node.

        Whoever repeats must get the same id and code, of which only hashes are
        kept: both come from the request id under the primary token key, so
        that who guesses the request id learns nothing.  After it, those of the
        other keys, of which one was primary before a rotation.
        """
        if request_id is None:
            keys, what = [os.urandom(32)], ""
        else:
            await self._replicated.fresh(timeout_s=timeout_s)
            await self._keys.wait_primary(timeout_s=timeout_s)
            ring, what = self._keys.ring(), request_id
            keys = [key.secret for key in sorted(ring.keys, key=lambda key: key is not ring.primary)]

        def draw(key: bytes) -> _Draw:
            def secret(number: int, purpose: str) -> bytes:
                message = f"cyoloctl rendezvous start v1\0{purpose}\0{number}\0{what}"
                return hmac.digest(key, message.encode(), "sha256")

            return secret

        return [draw(key) for key in keys]

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

    async def cancel(self, *, id: str, request_id: str | None, timeout_s: float) -> Json:
        await self._write("cancel", {"id": id, "expected": None}, timeout_s, request_id)
        return self._answer(id)

    # ------------------------------------------------------------- who answers

    async def find(
        self,
        *,
        id: str | None,
        user_code: str | None,
        caller: str,
        timeout_s: float,
        request_id: str | None = None,
    ) -> Rendezvous:
        """The record of an id or a user code, for somebody who may be guessing: wrong codes are counted.

        request_id: the same one with the same code finds the same record again,
        even when that has ended and has no code any more.  Raises NotFound,
        SlowDown, Conflict (ended), InvalidInput.
        """
        if id is None and user_code is None:
            raise InvalidInput("give an id or a user code")
        if user_code is not None:
            arguments = {
                "id": id,
                "user_code_sha256": rendezvous.hash_user_code(user_code),
                "caller_sha256": _sha256("cyoloctl caller v1", caller),
            }
            tried = await self._write(
                "attempt", arguments, timeout_s, request_id and _sha256("cyoloctl attempt v1", request_id)
            )
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
        by: str,
        request_id: str | None,
        timeout_s: float,
        data: Json | None = None,
    ) -> Json:
        """As an operator; data: of an approval.

        Wrong codes are counted for each `by`, so that who mistypes stops
        nobody else.  It is what the caller claims: an operator need not guess
        codes, who can list the records.
        """
        deadline = time.monotonic() + timeout_s
        caller = f"operator {by}"
        record = await self.find(
            id=id, user_code=user_code, caller=caller, timeout_s=timeout_s, request_id=request_id
        )
        arguments = {"by": by} if data is None else self.approval(record, by, data)
        left = max(0.1, deadline - time.monotonic())
        try:
            return await self.transition(operation, record, arguments, left, request_id)
        except Conflict as error:
            # What is sealed is sealed anew, so a repetition is another command to the machine.
            if data is None or not error.message.startswith("the request id was used"):
                raise
            await self._replicated.fresh(timeout_s=left)
            done = self._records.get(record.id, self._now_ms())
            sealed = done is not None and done.sealed_result is not None
            if done is None or done.claimed_by != by or not (sealed or done.state == "consumed"):
                raise
            return self._answer(record.id)

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
        return await self._act("claim", id, user_code, by, request_id, timeout_s)

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
        return await self._act("approve", id, user_code, by, request_id, timeout_s, data)

    async def deny(
        self, *, id: str | None, user_code: str | None, by: str, request_id: str | None, timeout_s: float
    ) -> Json:
        return await self._act("deny", id, user_code, by, request_id, timeout_s)

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
        # By its time and id a record has a place, whatever became of it since the page before.
        begin = (-1, "") if after is None else (int(after[:-33]), after[-32:])
        found = [
            record
            for record in self._records.records(self._now_ms())
            if state in (None, record.state) and (record.created_unix_ms, record.id) > begin
        ]
        page = found[:limit]
        return {
            "schema_version": 1,
            "rendezvous": [self.to_json(record) for record in page],
            "next": f"{page[-1].created_unix_ms}-{page[-1].id}" if len(found) > limit else None,
        }


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass


def _begin(draw: _Draw, number: int, public_key: str | None) -> _Beginning:
    """What the draw of a number begins."""
    id = draw(number, "id").hex()[:32] if public_key is None else rendezvous.id_of_public_key(public_key)
    blocks = itertools.count()
    user_code = rendezvous.new_user_code(lambda count: draw(number, f"code {next(blocks)}")[:count])
    return _Beginning(id, user_code, draw(number, "request").hex()[:32])
