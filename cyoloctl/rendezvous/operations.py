"""Operations on rendezvous: transactions that begin at one actor and end at another."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from cyoloctl.caller import CALLER, Actor
from cyoloctl.errors import (
    AuthorizationPending,
    Conflict,
    InvalidInput,
    NotFound,
)
from cyoloctl.keys.operations import KeyOperations
from cyoloctl.model import NAME_PATTERN, LocalNode
from cyoloctl.rendezvous import codes
from cyoloctl.rendezvous.machine import RendezvousMachine
from cyoloctl.rendezvous.records import MAX_BEGUN_BY, Rendezvous
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.replicated.watchers import Watchers
from cyoloctl.text import Json, rfc3339
from cyoloctl.tokens.operations import TokenOperations

__all__ = ["Counted", "RendezvousOperations", "counted", "person_digest"]

INTERVAL_S = 5
# Codes that are taken are drawn again; with 10,000 live ones among 20**8 this is never needed twice.
_DRAWS = 4

# Number and purpose -> 32 bytes.
_Draw = Callable[[int, str], bytes]


class _Beginning(NamedTuple):
    """The random parts of a start.  request_id: of the command."""

    id: str
    user_code: str
    request_id: str


def _sha256(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


#: For whom a wrong code counts: levels of the machine, each with a digest.
Counted = list[list[str]]

# What an address is part of: one customer, their neighbours, their provider.
_NETWORKS = {
    4: (("network", 32), ("site", 24), ("region", 16)),
    6: (("network", 64), ("site", 48), ("region", 32)),
}


def counted(sub: str | None, client: str) -> Counted:
    """Accounts of a wrong code: the person's alone, or those of the networks of the client's address.

    So that nobody with a session is stopped by others behind the same address.
    """
    if sub is not None:
        return [["person", _sha256("cyoloctl wrong codes v1", "sub", sub)]]
    address = ip_address(client)
    found = [
        [level, _sha256("cyoloctl wrong codes v1", level, str(ip_network((address, prefix), strict=False)))]
        for level, prefix in _NETWORKS[address.version]
    ]
    return [*found, ["all", _sha256("cyoloctl wrong codes v1", "all")]]


def _credentials() -> str | None:
    """The name in the caller's certificate; None at the control socket, which has no such name."""
    name = CALLER.get().name
    return name if re.fullmatch(NAME_PATTERN, name) else None


def _digest(kind: str, name: str) -> str:
    return _sha256("cyoloctl actor v1", kind, name)


def person_digest(sub: str) -> str:
    """Digest of a person, kept in each record that they began."""
    return _digest("sub", sub)


def _digests(actor: Actor, browsers: int | None = None) -> list[str]:
    """Digests of an actor, of so many of their browser's secrets at most, in ascending order."""
    names = [("sub", actor.sub), ("sid", actor.sid), ("credentials", actor.credentials)]
    names += [("browser", name) for name in actor.browsers[:browsers]]
    return sorted({_digest(kind, name) for kind, name in names if name is not None})


def _actors(actor: Actor, begun_by: Sequence[str]) -> list[str]:
    """Digests of whoever answers a record, as many as a command holds, first those that began it too."""
    known = sorted(_digests(actor), key=lambda digest: digest not in begun_by)
    return sorted(known[:MAX_BEGUN_BY])


class RendezvousOperations:
    """Implements `rendezvous.api.RendezvousApi`; the gateway calls it too.

    page_url: where the page of a node is, None when it has none.  was_applied: whether a command of this kind
    of caller was applied under this request id.
    """

    def __init__(
        self,
        proposer: Proposer,
        node: LocalNode,
        records: RendezvousMachine,
        *,
        keys: KeyOperations,
        tokens: TokenOperations,
        page_url: Callable[[str], str | None],
        was_applied: Callable[[str, str], bool],
    ) -> None:
        self._proposer = proposer
        self._node = node
        self._keys = keys
        self._tokens = tokens
        self._records = records
        self._page_url = page_url
        self._was_applied = was_applied
        self._watchers = Watchers()
        records.on_change = self._on_change

    def _on_change(self, id: str, index: int) -> None:
        self._watchers.changed(id)

    def restored(self) -> None:
        """The machines were replaced by a snapshot."""
        self._watchers.all_changed()

    def _now_ms(self) -> int:
        """Replicated time goes on only with the log: a record is due by cluster time."""
        return self._proposer.now_ms()

    async def _write(
        self, operation: str, arguments: Json, timeout_s: float, request_id: str | None = None
    ) -> Json:
        await self._proposer.in_time(timeout_s=timeout_s)
        return await self._proposer.apply_here(
            "rendezvous", operation, arguments, request_id=request_id, timeout_s=timeout_s
        )

    async def _actor(
        self, token: str | None, cookie_name: str, audience: str, *, current: bool, timeout_s: float
    ) -> Actor:
        """The actor behind a caller of the API: the person whose session it shows, or the caller itself.

        The control socket belongs to everybody who administers the machine, so
        it is no one in particular.  current: as of now in the whole cluster.
        Raises TokenRejected.
        """
        if token is None:
            return Actor(credentials=_credentials())
        session = await self._tokens.inspect(
            token=token,
            cookie=None,
            cookie_name=cookie_name,
            audience=audience,
            require_quorum=current,
            explain=False,
            timeout_s=timeout_s,
        )
        return Actor(sub=session["sub"], sid=session["sid"], claims=session["claims"])

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
        token: str | None,
        cookie_name: str,
        audience: str,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """token: the session for which a program begins; its person cannot approve."""
        actor = await self._actor(token, cookie_name, audience, current=False, timeout_s=timeout_s)
        # Whoever begins for a person began it too: it shows a person's approval, and gives none of its own.
        actor = replace(actor, credentials=_credentials())
        return await self.begin(
            kind=kind,
            ttl_s=ttl_s,
            data=data,
            public_key=public_key,
            initiator=initiator,
            origin=origin,
            actor=actor,
            request_id=request_id,
            timeout_s=timeout_s,
        )

    async def begin(
        self,
        *,
        kind: str,
        ttl_s: int,
        data: Json,
        public_key: str | None,
        initiator: str,
        origin: str | None,
        actor: Actor,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        if public_key is not None:
            codes.seal_result(public_key, b"")  # a key that nothing can be sealed to: say so now
        draws = await self._draws(request_id, timeout_s)
        for draw in draws[1:]:  # done before, under a key that was primary then
            for number in range(_DRAWS):
                beginning = _begin(draw, number, public_key)
                if self._was_begun(beginning, public_key):
                    return self._started(beginning, kind, data)
        for number in range(_DRAWS):
            beginning = _begin(draws[0], number, public_key)
            if request_id is not None and self._was_begun(beginning, public_key):
                break  # done before, maybe by another node
            arguments = {
                "id": beginning.id,
                "kind": kind,
                "user_code_sha256": codes.hash_user_code(beginning.user_code),
                "ttl_ms": ttl_s * 1000,
                "node": str(self._node.name),
                "initiator": initiator,
                "origin": origin,
                "data": data,
                "initiator_public_key": public_key,
                "begun_by": _digests(actor, 1),
            }
            envelope = None if request_id is None else beginning.request_id
            try:
                await self._write("begin", arguments, timeout_s, envelope)
                break
            except Conflict as error:
                if request_id is not None:
                    # Another node may be doing the same request, with its own name in the command.
                    await self._proposer.fresh(timeout_s=timeout_s)
                    if self._was_begun(beginning, public_key):
                        break
                # Only a taken code is drawn again; any other conflict goes to the caller.
                if type(error) is not Conflict or number == _DRAWS - 1:
                    raise
        return self._started(beginning, kind, data)

    def _was_begun(self, beginning: _Beginning, public_key: str | None) -> bool:
        """Whether the record is that of this very request.

        An id that no key fixes says it; else the code does, which a record has until it ends.
        """
        record = self._records.get(beginning.id, self._now_ms())
        return record is not None and (
            public_key is None or record.user_code_sha256 == codes.hash_user_code(beginning.user_code)
        )

    def _started(self, beginning: _Beginning, kind: str, data: Json) -> Json:
        record, user_code = self._records.get(beginning.id, self._now_ms()), beginning.user_code
        if record is None:  # the answer to the request id outlived the tombstone
            raise Conflict("the request id began a rendezvous that ended long ago: use a new one")
        if (record.kind, record.data) != (kind, data):
            raise Conflict("the request id began another rendezvous: use a new one for this command")
        page = self._page_url(record.node)
        return {
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
        that anyone who guesses the request id learns nothing.  After it, those of the
        other keys, of which one was primary before a rotation.
        """
        if request_id is None:
            keys, what = [os.urandom(32)], ""
        else:
            await self._proposer.fresh(timeout_s=timeout_s)
            await self._keys.wait_primary(timeout_s=timeout_s)
            ring, what = self._keys.ring(), request_id
            keys = [key.secret for key in sorted(ring.keys, key=lambda key: key is not ring.primary)]

        def draw(key: bytes) -> _Draw:
            def secret(number: int, purpose: str) -> bytes:
                message = f"cyoloctl rendezvous start v1\0{purpose}\0{number}\0{what}"
                return hmac.digest(key, message.encode(), "sha256")

            return secret

        return [draw(key) for key in keys]

    async def wait(
        self, *, id: str, request_id: str | None, redemption: str | None = None, timeout_s: float
    ) -> Json:
        """The answer, once; AuthorizationPending when there is none in time.

        The same request id is told the same answer again for 5 minutes, by
        whichever node, so a caller whose node died asks another one.
        redemption: the older name of the request id; the one that counts where there is one.
        """
        deadline = time.monotonic() + timeout_s
        digest = _sha256("cyoloctl redemption v1", redemption or request_id or os.urandom(16).hex())
        with self._watchers.watch(id) as event:
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AuthorizationPending("the rendezvous is still pending: ask again")
                event.clear()
                await self._proposer.fresh(timeout_s=left)
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

    def _redeemed(self, record: Rendezvous, answer: Mapping[str, str] | None, sealed: str | None) -> Json:
        return {
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
        counts_for: Counted,
        timeout_s: float,
        request_id: str | None = None,
    ) -> Rendezvous:
        """The record of an id or a user code, for somebody who may be guessing: wrong codes are counted.

        counts_for: see `counted`; empty where there is only an id.  request_id:
        the same one with the same code finds the same record again, even when
        that has ended and no longer has a code.  Raises NotFound, SlowDown,
        Conflict (ended), InvalidInput.
        """
        if id is None and user_code is None:
            raise InvalidInput("give an id or a user code")
        if user_code is not None:
            arguments = {
                "id": id,
                "user_code_sha256": codes.hash_user_code(user_code),
                "counted": counts_for,
            }
            tried = await self._write(
                "try_code", arguments, timeout_s, request_id and _sha256("cyoloctl attempt v1", request_id)
            )
            if tried["id"] is None:
                raise NotFound(
                    "no rendezvous has this user code: check the letters; "
                    f"{tried['attempts_left']} attempts left"
                )
            id = str(tried["id"])
        else:
            await self._proposer.fresh(timeout_s=timeout_s)
        record = self._records.get(str(id), self._now_ms())
        if record is None:
            raise NotFound("there is no such rendezvous: it never was, or it ended long ago")
        return record

    async def _act(
        self,
        operation: str,
        id: str | None,
        user_code: str | None,
        by: str | None,
        token: str | None,
        cookie_name: str,
        audience: str,
        request_id: str | None,
        timeout_s: float,
        data: Json | None = None,
    ) -> Json:
        """Answer a record for a caller of the API; data: of an approval.

        Wrong codes are counted for the person whose session is shown, else for
        each `by`, so that whoever mistypes stops nobody else.  `by` is only
        the caller's claim: whoever may call this may also list the records.
        """
        deadline = time.monotonic() + timeout_s
        actor = await self._actor(token, cookie_name, audience, current=True, timeout_s=timeout_s)
        if actor.sub is not None and by not in (None, actor.sub):
            raise InvalidInput("field 'by': is not whose token it is: leave it out")
        by = actor.sub or by or "operator"
        record = await self.find(
            id=id,
            user_code=user_code,
            counts_for=(
                counted(actor.sub, "")
                if actor.sub is not None
                else [["person", _sha256("cyoloctl wrong codes v1", "by", by)]]
            ),
            timeout_s=max(0.1, deadline - time.monotonic()),
            request_id=request_id,
        )
        return await self.answer(
            operation, record, by, actor, request_id, max(0.1, deadline - time.monotonic()), data
        )

    async def answer(
        self,
        operation: str,
        record: Rendezvous,
        by: str,
        actor: Actor,
        request_id: str | None,
        timeout_s: float,
        data: Json | None = None,
    ) -> Json:
        """claim, approve (with data) or deny as somebody; the same request id answers once.

        Raises ApprovalRefused, Conflict (Denied, Expired), NotFound.
        """
        deadline = time.monotonic() + timeout_s
        arguments: Json = {"by": by} if data is None else self._approval(record, by, data)
        is_open = record.state in ("pending", "claimed")  # else this may be a repetition, answered as before
        if operation != "deny":  # which grants nothing
            if is_open:
                self.refuse(record, actor)
            arguments |= {
                "actors": _actors(actor, record.begun_by),
                "claims": self._shown_claims(record, actor),
            }
        command = {"id": record.id, "expected": None, **arguments}
        left = max(0.1, deadline - time.monotonic())
        try:
            done = await self._write(_COMMANDS[operation], command, left, request_id)
            answer = self._answer(record.id)
            # Whoever waits may have redeemed it since; a repetition is told what has become of it.
            return {**answer, "state": done["state"]} if is_open else answer
        except Conflict:
            # What is sealed is sealed again, so a repetition is another command to the machine.
            if data is None or request_id is None:
                raise
            await self._proposer.fresh(timeout_s=left)
            if not self._was_applied(CALLER.get().kind, request_id):
                raise
            found = self._records.get(record.id, self._now_ms())
            sealed = found is not None and found.sealed_result is not None
            if found is None or found.claimed_by != by or not (sealed or found.state == "consumed"):
                raise
            return self._answer(record.id)

    def refuse(self, record: Rendezvous, actor: Actor) -> None:
        """Raise ApprovalRefused where the machine would, without a command that a request id remembers."""
        refusal = self._records.refusal(record, _digests(actor), self._shown_claims(record, actor))
        if refusal is not None:
            raise refusal

    def _shown_claims(self, record: Rendezvous, actor: Actor) -> Json:
        """Those that the kind's policy demands and the session has, no others: the journal keeps them.

        A claim that is a list has each of its values, such as ``amr`` of OpenID Connect.
        """
        required = self._records.policy(record.kind).require
        return {name: value for name, value in required.items() if _has(actor.claims.get(name), value)}

    async def claim(
        self,
        *,
        id: str | None,
        user_code: str | None,
        by: str | None,
        token: str | None,
        cookie_name: str,
        audience: str,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        return await self._act(
            "claim", id, user_code, by, token, cookie_name, audience, request_id, timeout_s
        )

    async def approve(
        self,
        *,
        id: str | None,
        user_code: str | None,
        by: str | None,
        data: Json,
        token: str | None,
        cookie_name: str,
        audience: str,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        return await self._act(
            "approve", id, user_code, by, token, cookie_name, audience, request_id, timeout_s, data
        )

    async def deny(
        self,
        *,
        id: str | None,
        user_code: str | None,
        by: str | None,
        token: str | None,
        cookie_name: str,
        audience: str,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        return await self._act("deny", id, user_code, by, token, cookie_name, audience, request_id, timeout_s)

    def _approval(self, record: Rendezvous, by: str, data: Json) -> Json:
        """The arguments of an approval: in clear, or sealed to the initiator when it gave a key."""
        key = record.initiator_public_key
        if key is None:
            return {"by": by, "answer": data, "sealed_result": None}
        result = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
        return {"by": by, "answer": None, "sealed_result": codes.seal_result(key, result)}

    # ------------------------------------------------------------- who may answer

    async def policy(
        self, *, kind: str, require: Json, allow_self: bool, request_id: str | None, timeout_s: float
    ) -> Json:
        """Set who may approve what a kind is for, the whole of it; the defaults remove it."""
        arguments = {"kind": kind, "require": require, "allow_self": allow_self}
        return await self._write("set_policy", arguments, timeout_s, request_id)

    async def policies(self, *, timeout_s: float) -> Json:
        """Every policy that is not the default."""
        await self._proposer.fresh(timeout_s=timeout_s)
        found = [
            {"kind": kind, "require": dict(policy.require), "allow_self": policy.allow_self}
            for kind, policy in self._records.policies().items()
        ]
        return {"policies": found}

    # ------------------------------------------------------------- who looks

    def to_json(self, record: Rendezvous) -> Json:
        """A record, as far as operators may see it."""
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
        return self.to_json(record)

    async def show(self, name: str, *, consistency: str, timeout_s: float) -> Json:
        """name: an id, or a user code.  Operators' wrong codes are not counted: they can list all records."""
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        if re.fullmatch("[0-9a-f]{32}", name):
            return self._answer(name)
        id = self._records.find_code(codes.hash_user_code(name), self._now_ms())
        if id is None:
            raise NotFound("no rendezvous has this user code: check the letters")
        return self._answer(id)

    async def list(
        self, *, state: str | None, limit: int, after: str | None, consistency: str, timeout_s: float
    ) -> Json:
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        # By its time and id a record has a place, whatever became of it since the page before.
        begin = (-1, "") if after is None else (int(after[:-33]), after[-32:])
        found = [
            record
            for record in self._records.records(self._now_ms())
            if state in (None, record.state) and (record.created_unix_ms, record.id) > begin
        ]
        page = found[:limit]
        return {
            "rendezvous": [self.to_json(record) for record in page],
            "next": f"{page[-1].created_unix_ms}-{page[-1].id}" if len(found) > limit else None,
        }


_COMMANDS = {"claim": "claim_as", "approve": "approve_as", "deny": "deny"}


def _has(said: Any, value: bool | int | str) -> bool:
    # type() too: True is equal to 1.
    return any(
        type(item) is type(value) and item == value for item in (said if type(said) is list else [said])
    )


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass


def _begin(draw: _Draw, number: int, public_key: str | None) -> _Beginning:
    """The beginning that a numbered draw gives."""
    id = draw(number, "id").hex()[:32] if public_key is None else codes.id_of_public_key(public_key)
    blocks = itertools.count()
    user_code = codes.new_user_code(lambda count: draw(number, f"code {next(blocks)}")[:count])
    return _Beginning(id, user_code, draw(number, "request").hex()[:32])
