"""Operations of a node on keys and values."""

from __future__ import annotations

import asyncio
import time
from binascii import a2b_base64
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypedDict, cast

from cyoloctl.errors import Conflict, InternalError, InvalidInput, NotFound, Unprocessable
from cyoloctl.keys.keyring import Key
from cyoloctl.keys.operations import KeyOperations
from cyoloctl.kv.api import (
    MAX_VALUE_BYTES,
    KvChange,
    KvChanges,
    KvDeleted,
    KvEntry,
    KvKept,
    KvListed,
    KvPage,
    KvPrefixDeleted,
    KvResult,
    KvTransaction,
    KvWritten,
    check_key,
    check_prefix,
    fence_of,
)
from cyoloctl.kv.machine import EXPIRED_AT_ONCE, SEALED_KEY, SEALED_VALUE, KvMachine
from cyoloctl.kv.records import (
    MAX_TTL_MS,
    MIN_TTL_MS,
    Entry,
    Event,
    check_comparisons,
    encode_value,
    plain_size,
)
from cyoloctl.kv.values import Clear, Values, sealed_under
from cyoloctl.members.api import Problem
from cyoloctl.replicated.command import Malformed
from cyoloctl.replicated.proposer import Planned, Proposer
from cyoloctl.replicated.watchers import PrefixWatchers, Turns
from cyoloctl.text import Json, rfc3339

__all__ = ["KvOperations"]

# An answer holds each value twice, as base64 and as text, in which a byte may take six.
_PAGE_BYTES = 768 * 1024
_CHANGES_AT_ONCE = 500
_WARN_AT = 0.8


_PUT = {None: "put", False: "put_clear", True: "put_sealed"}

_Under = Callable[[Key | None], Json]
"""The arguments of a command, what is secret in it sealed under a key; None: nothing is."""


class _Now(TypedDict):
    index: int
    epoch: int


class KvOperations:
    """Implements `kv.api.KvApi`.  Any node takes any request."""

    def __init__(self, proposer: Proposer, kv: KvMachine, keys: KeyOperations, *, name: str) -> None:
        """name: this node's."""
        self._proposer = proposer
        self._kv = kv
        self._values = Values(keys, kv)
        self._name = name
        self._watchers = PrefixWatchers()
        self._turns = Turns()
        self._told_revision = kv.revision
        kv.on_change = self._tell

    def restored(self) -> None:
        """The machine's state was replaced by a snapshot."""
        self._told_revision = self._kv.revision
        self._watchers.all_changed()

    def _tell(self, _: str, __: int) -> None:
        """Wake those who follow a key that an entry changed."""
        after, self._told_revision = self._told_revision, self._kv.revision
        if not self._watchers.is_watching or after == self._told_revision:
            return
        if self._kv.first_revision > after + 1:  # some of it is forgotten already
            self._watchers.all_changed()
        else:
            self._watchers.changed({event.key for event in self._kv.changes(after + 1, 2**31)})

    async def maintain(self) -> bool:
        """As leader: take away keys whose time is over, and seal values under the present key.

        Whether there may be more to do.
        """
        end = self._kv.next_end_unix_ms()
        if end is not None and end <= self._proposer.now_ms():
            await self._maintain("expire", {"most": EXPIRED_AT_ONCE})
            return True
        values = self._values.to_reseal()
        if values:
            await self._maintain("reseal", {"values": values})
        return bool(values)

    async def _maintain(self, operation: str, arguments: Json) -> None:
        await self._proposer.apply("kv", operation, arguments, request_id=None, timeout_s=5.0)

    def problems(self) -> list[Problem]:
        """Keys and values that come near their quota."""
        size, quota = self._kv.size, self._kv.quota
        if size < _WARN_AT * quota:
            return []
        return [
            {
                "code": "kv_quota",
                "member": self._name,
                "message": f"keys and values take {size} bytes of {quota}, and more are refused then: "
                "delete keys, or put them with a time to live",
                "command": "cyoloctl kv list --keys-only",
            }
        ]

    # -- reading ----------------------------------------------------------------------------------

    async def get(self, *, key: str, at_revision: int | None, consistency: str, timeout_s: float) -> KvEntry:
        """Read.  Raises NotFound, Compacted, Conflict for a revision to come, and as `Values.open`."""
        check_key(key)
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        entry = self._kv.get(key, at_revision)
        if entry is None:
            then = "" if at_revision is None else f" at revision {at_revision}"
            raise NotFound(f"there is no key {key!r}{then}")
        await self._values.ready((entry,), timeout_s=timeout_s)
        return {**_listed(key, entry, self._values.open(key, entry)), **self._now()}

    async def page(
        self,
        *,
        prefix: str,
        after: str | None,
        limit: int,
        values: str,
        at_revision: int | None,
        consistency: str,
        timeout_s: float,
    ) -> KvPage:
        """A page, by key."""
        check_prefix(prefix)
        check_prefix(after or "")
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        found = self._kv.page(prefix, after, limit + 1, at_revision)
        now: Json = {"revision": self._kv.revision if at_revision is None else at_revision, **self._now()}
        with_values = values == "with"
        entries: list[KvListed] = []
        size = 0
        if with_values:
            await self._values.ready((entry for _, entry in found[:limit]), timeout_s=timeout_s)
        for key, entry in found[:limit]:
            size += len(entry.value) if with_values else 0
            if size > _PAGE_BYTES and entries:
                break
            entries.append(_listed(key, entry, self._values.open(key, entry) if with_values else None))
        more = len(entries) < len(found)
        return cast("KvPage", {"entries": entries, "next": entries[-1]["key"] if more else None, **now})

    async def changes(self, *, prefix: str, from_revision: int | None, timeout_s: float) -> KvChanges:
        """Changes of a revision and later, or none after timeout_s.  Raises Compacted, NoLeader."""
        check_prefix(prefix)
        deadline = time.monotonic() + timeout_s
        is_fresh = False
        with self._watchers.watch(prefix) as event:
            while True:
                event.clear()
                # A thousand who look at each change would leave no time for the changes.
                if from_revision is not None and await self._turns.take(deadline - time.monotonic()):
                    found, from_revision = self._changes(prefix, from_revision)
                    if found:
                        left = max(0.1, deadline - time.monotonic())
                        return await self._changed(found, from_revision, left)
                left = deadline - time.monotonic()
                if not is_fresh:
                    # A node that is cut off would wait for nothing, as if nothing changed.
                    await self._proposer.fresh(timeout_s=max(0.1, left))
                    is_fresh = True
                    if from_revision is None:
                        from_revision = self._kv.revision + 1
                elif left <= 0:
                    return await self._changed([], from_revision or 0, 0)
                else:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(event.wait(), left)

    def _changes(self, prefix: str, from_revision: int) -> tuple[list[Event], int]:
        """The first changes that are wanted, and the revision after those that were looked at."""
        found: list[Event] = []
        size = 0
        while not found and (events := self._kv.changes(from_revision, _CHANGES_AT_ONCE)):
            for event in events:
                if size > _PAGE_BYTES and event.revision > found[-1].revision:
                    return found, event.revision
                if event.key.startswith(prefix):
                    found.append(event)
                    size += 0 if event.entry is None else len(event.entry.value)
            from_revision = events[-1].revision + 1
        return found, from_revision

    async def _changed(self, found: list[Event], next_revision: int, timeout_s: float) -> KvChanges:
        now = self._now()
        entries = [event.entry for event in found if event.entry is not None]
        await self._values.ready(entries, timeout_s=timeout_s)
        return {"changes": [self._change(each) for each in found], "next_revision": next_revision, **now}

    def _change(self, event: Event) -> KvChange:
        change: Any = {"type": event.kind, "key": event.key, "revision": event.revision}
        if event.entry is not None:
            value = self._values.open(event.key, event.entry)
            change |= _listed(event.key, event.entry, value) | {"revision": event.revision}
        return cast("KvChange", change)

    def _now(self) -> _Now:
        return {"index": self._proposer.engine.applied_index(), "epoch": self._proposer.epoch()}

    # -- writing ----------------------------------------------------------------------------------

    def put(
        self,
        *,
        key: str,
        value: str | None,
        value_base64: str | None,
        if_revision: int | None,
        ttl_s: float | None,
        fence: str | None,
        sealed: bool | None,
        request_id: str | None,
        timeout_s: float,
    ) -> Coroutine[Any, Any, KvWritten]:
        """Write.  Raises Conflict, AlreadyExists, QuotaExceeded, FenceLost."""
        planned = self.plan_put(
            key=key,
            value=value,
            value_base64=value_base64,
            if_revision=if_revision,
            ttl_s=ttl_s,
            fence=fence,
            sealed=sealed,
        )
        if planned is not None:
            return self._proposer.carry_out(planned, request_id=request_id, timeout_s=timeout_s)
        data = _bytes_of(value, value_base64, "value")
        rest = {"if_revision": if_revision, "ttl_ms": _ttl_ms(ttl_s, "ttl_s"), "fence": _fence(fence)}
        return self._put(key, data, rest, sealed, request_id, timeout_s)

    async def _put(
        self, key: str, data: bytes, rest: Json, sealed: bool | None, request_id: str | None, timeout_s: float
    ) -> KvWritten:
        """`put` of what is sealed, or may be, or expires."""
        drawn_id = request_id or self._proposer.draw_id()

        def under(ring_key: Key | None) -> Json:
            if ring_key is None:
                return {"key": key, "value": encode_value(data), **rest}
            blob, digest = sealed_under(ring_key, Clear(key, data), drawn_id)
            return {"key": key, "blob": blob, "digest": digest, **rest}

        clear = [(key, SEALED_KEY)] if sealed is None else []
        timed = rest["ttl_ms"] is not None
        done, more = await self._write_guarded(_PUT[sealed], under, clear, request_id, timeout_s, timed=timed)
        return cast("KvWritten", {**_written(key, data, encode_value(data), bool(sealed), done), **more})

    def plan_put(
        self,
        *,
        key: str,
        value: str | None,
        value_base64: str | None,
        if_revision: int | None,
        ttl_s: float | None,
        fence: str | None,
        sealed: bool | None,
    ) -> Planned | None:
        """The write of `put`; None where it waits for something first.  Raises InvalidInput."""
        check_key(key)
        if sealed or ttl_s is not None or (sealed is None and self._is_sealed(key)):
            return None
        data = _bytes_of(value, value_base64, "value")
        encoded = encode_value(data)
        arguments = {
            "key": key,
            "value": encoded,
            "if_revision": if_revision,
            "ttl_ms": None,
            "fence": _fence(fence),
        }
        return self._planned(_PUT[sealed], arguments, lambda done: _written(key, data, encoded, False, done))

    async def delete(
        self,
        *,
        key: str,
        if_revision: int | None,
        fence: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> KvDeleted:
        """Raises NotFound, Conflict, FenceLost."""
        planned = self.plan_delete(key=key, if_revision=if_revision, fence=fence)
        deleted: KvDeleted = await self._proposer.carry_out(
            planned, request_id=request_id, timeout_s=timeout_s
        )
        return deleted

    def plan_delete(self, *, key: str, if_revision: int | None, fence: str | None) -> Planned:
        """The write of `delete`.  Raises InvalidInput."""
        check_key(key)
        arguments = {"key": key, "if_revision": if_revision, "fence": _fence(fence)}
        return self._planned("delete", arguments, lambda done: {"key": key, **done})

    async def delete_prefix(
        self, *, prefix: str, request_id: str | None, timeout_s: float
    ) -> KvPrefixDeleted:
        """The first 1,000 keys of a prefix."""
        check_prefix(prefix)
        done, rest = await self._write("delete_prefix", {"prefix": prefix}, request_id, timeout_s)
        return cast("KvPrefixDeleted", {"prefix": prefix, **done, **rest})

    async def txn(
        self,
        *,
        compare: list[Any],
        then: list[Any],
        otherwise: list[Any],
        fence: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> KvTransaction:
        """Raises InvalidInput naming the item, QuotaExceeded, FenceLost."""
        arguments, secrets = _transaction(compare, then, otherwise, fence)
        drawn_id = request_id or self._proposer.draw_id()

        def under(ring_key: Key | None) -> Json:
            if ring_key is None:
                return arguments
            blobs = []
            for step, clear in secrets:
                blob, step["digest"] = sealed_under(ring_key, clear, drawn_id)
                blobs.append(blob)
            return {**arguments, "blobs": blobs}

        done, rest = await self._write_guarded(
            "txn_sealed" if secrets else "txn",
            under,
            _in_clear(arguments),
            request_id,
            timeout_s,
            timed=_is_timed(arguments),
        )
        return cast("KvTransaction", {**_transacted(arguments, done), **rest})

    def plan_txn(
        self, *, compare: list[Any], then: list[Any], otherwise: list[Any], fence: str | None
    ) -> Planned | None:
        """The write of `txn`; None where it waits for something first.  Raises InvalidInput."""
        arguments, secrets = _transaction(compare, then, otherwise, fence)
        if secrets or _is_timed(arguments) or any(self._is_sealed(key) for key, _ in _in_clear(arguments)):
            return None
        return self._planned("txn", arguments, lambda done: _transacted(arguments, done))

    async def keep(
        self,
        *,
        key: str,
        created_revision: int | None,
        ttl_s: float,
        request_id: str | None,
        timeout_s: float,
    ) -> KvKept:
        """A new end for a key that expires.  Raises NotFound, Conflict."""
        check_key(key)
        arguments = {"key": key, "created_revision": created_revision, "ttl_ms": _ttl_ms(ttl_s, "ttl_s")}
        done, rest = await self._write("keep", arguments, request_id, timeout_s, timed=True)
        expires = rfc3339(done["expires_unix_ms"] / 1000)
        return cast("KvKept", {"key": key, "revision": done["revision"], "expires_at": expires, **rest})

    async def _write_guarded(
        self,
        operation: str,
        under: _Under,
        clear: list[tuple[str, str]],
        request_id: str | None,
        timeout_s: float,
        *,
        timed: bool,
    ) -> tuple[Json, Json]:
        """As `_write`, where something is sealed, or some keys must not be.

        under: the arguments, what is secret sealed under the ring's primary key.
        clear: keys that must not be sealed, each with what its refusal says.
        That is looked at here as well as in the machine: what the machine
        refuses has been written to every journal.

        A repetition is told of the first attempt also where the ring rotated
        since, or the key was sealed.
        """
        deadline = time.monotonic() + timeout_s
        is_sealed = operation in self._kv.DRAWN
        key = await self._values.primary(timeout_s=timeout_s) if is_sealed else None
        refusal = await self._refusal(clear, timeout_s)
        left = max(0.1, deadline - time.monotonic())
        if refusal is None:
            try:
                return await self._write(operation, under(key), request_id, left, timed=timed)
            except Conflict as error:
                if key is None:
                    raise
                refusal = error
        if request_id is not None:
            await self._proposer.fresh(timeout_s=max(0.1, deadline - time.monotonic()))
            for other in (key, *self._values.others()) if is_sealed else (None,):
                done = self._done_before(operation, under(other), request_id)
                if done is not None:
                    return self._told(*done, request_id)
        raise refusal

    async def _refusal(self, clear: list[tuple[str, str]], timeout_s: float) -> Conflict | None:
        if any(self._is_sealed(key) for key, _ in clear):
            await self._proposer.fresh(timeout_s=timeout_s)
            for key, message in clear:
                if self._is_sealed(key):
                    return Conflict(message.format(repr(key)))
        return None

    def _is_sealed(self, key: str) -> bool:
        entry = self._kv.get(key) if self._kv.has_sealed else None
        return entry is not None and entry.sealed and not entry.is_due(self._proposer.now_ms())

    def _done_before(self, operation: str, arguments: Json, request_id: str) -> tuple[int, Json] | None:
        drawn = self._kv.DRAWN.get(operation, ())
        given = {name: value for name, value in arguments.items() if name not in drawn}
        with suppress(Conflict):  # another command has the id, or the same one under another key
            return self._proposer.first_result("kv", operation, given, request_id)
        return None

    def _told(self, index: int, done: Json, request_id: str) -> tuple[Json, Json]:
        return done, {"index": index, "epoch": self._proposer.epoch(), "request_id": request_id}

    async def _write(
        self,
        operation: str,
        arguments: Json,
        request_id: str | None,
        timeout_s: float,
        *,
        timed: bool = False,
    ) -> tuple[Json, Json]:
        """What the machine answered, and what every answer to a write has.  timed: something gets an end."""
        deadline = time.monotonic() + timeout_s
        if timed:
            await self._proposer.in_time(timeout_s=timeout_s)
        index, done, identifier = await self._proposer.apply(
            "kv",
            operation,
            arguments,
            request_id=request_id,
            timeout_s=max(0.1, deadline - time.monotonic()),
        )
        _check_answer(done)
        return self._told(index, done, identifier)

    def _planned(self, operation: str, arguments: Json, answer: Callable[[Json], Json]) -> Planned:
        """answer: makes what this write's answer holds beside what every one does, which is added to it."""

        def told(index: int, done: Json, request_id: str) -> Any:
            _check_answer(done)
            answered = answer(done)
            answered["index"] = index
            answered["epoch"] = self._proposer.epoch()
            answered["request_id"] = request_id
            return answered

        return Planned("kv", operation, arguments, told)


def _check_answer(done: Json) -> None:
    """Raises InternalError."""
    if type(done.get("revision")) is not int:
        raise InternalError("the leader's answer makes no sense: upgrade every node")


def _listed(key: str, entry: Entry, value: bytes | None) -> KvListed:
    """value: as it was given; None: it is not wanted."""
    listed: KvListed = {
        "key": key,
        "size": plain_size(entry) if value is None else len(value),
        "sealed": entry.sealed,
        "revision": entry.revision,
        "created_revision": entry.created_revision,
        "version": entry.version,
        "expires_at": None if entry.expires_unix_ms is None else rfc3339(entry.expires_unix_ms / 1000),
    }
    if value is not None:
        _add_value(listed, value, encode_value(value))
    return listed


def _written(key: str, data: bytes, encoded: str, sealed: bool, done: Json) -> Json:
    end = done["expires_unix_ms"]
    written = {
        "key": key,
        "size": len(data),
        "sealed": sealed,
        "revision": done["revision"],
        "created_revision": done["created_revision"],
        "version": done["version"],
        "expires_at": None if end is None else rfc3339(end / 1000),
    }
    _add_value(written, data, encoded)
    return written


def _add_value(listed: Any, value: bytes, encoded: str) -> None:
    listed["value_base64"] = encoded
    text = _text_of(value)
    if text is not None:
        listed["value"] = text


def _text_of(value: bytes) -> str | None:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _transacted(arguments: Json, done: Json) -> Json:
    steps = arguments["then" if done["succeeded"] else "otherwise"]
    results = [_result(step, result) for step, result in zip(steps, done["results"], strict=True)]
    return {**done, "results": results}


def _result(step: Json, result: Json) -> KvResult:
    answer: Json = {"op": step["op"], "key": step["key"], **result}
    if step["op"] == "put":
        end = answer.pop("expires_unix_ms")
        answer["expires_at"] = None if end is None else rfc3339(end / 1000)
    return cast("KvResult", answer)


# -- what callers write ---------------------------------------------------------------------------


def _fence(fence: str | None) -> Json | None:
    if fence is None:
        return None
    name, token = fence_of(fence)
    return {"name": name, "token": token}


def _ttl_ms(ttl_s: object, where: str) -> int | None:
    if ttl_s is None:
        return None
    if type(ttl_s) not in (int, float) or not MIN_TTL_MS <= cast("float", ttl_s) * 1000 <= MAX_TTL_MS:
        raise InvalidInput(f"field {where!r}: must be 1 to {MAX_TTL_MS // 1000}")
    return int(cast("float", ttl_s) * 1000)


def _bytes_of(value: object, value_base64: object, where: str) -> bytes:
    if (value is None) is (value_base64 is None):
        raise InvalidInput(f"field {where!r}: give it, or {where}_base64, and not both")
    if type(value) is str:
        try:
            data = value.encode("utf-8")
        except UnicodeEncodeError:
            raise InvalidInput(f"field {where!r}: is not text: use {where}_base64") from None
    elif type(value_base64) is str:
        data = _from_base64(value_base64, f"{where}_base64")
    else:
        raise InvalidInput(f"field {where!r}: must be a string")
    if len(data) > MAX_VALUE_BYTES:
        raise Unprocessable(f"field {where!r}: has {len(data)} bytes, at most {MAX_VALUE_BYTES} are taken")
    return data


def _from_base64(text: str, where: str) -> bytes:
    """The bytes.  Raises InvalidInput for whatever the field's pattern does not match."""
    try:
        if len(text) % 4 == 0 and not text.endswith("==="):  # which the decoder takes
            return a2b_base64(text, strict_mode=True)
    except ValueError:
        pass
    raise InvalidInput(f"field {where!r}: is not base64: use groups of four characters, the last one padded")


def _key_of(given: Json, where: str) -> str:
    key = given.get("key")
    if type(key) is not str:
        raise InvalidInput(f"field '{where}.key': must be a string")
    try:
        check_key(key)
    except InvalidInput as error:
        raise type(error)(f"field '{where}.key': {error.message}") from None
    return key


def _step(given: object, where: str, secrets: list[tuple[Json, Clear]]) -> Json:
    """A change as the machine takes it.  secrets: gets those that are to be sealed, without their value."""
    if type(given) is not dict:
        raise InvalidInput(f"field {where!r}: must be an object")
    op = given.get("op")
    known = {"put": {"op", "key", "value", "value_base64", "ttl_s", "sealed"}, "delete": {"op", "key"}}.get(
        str(op)
    )
    if known is None or not given.keys() <= known:
        raise InvalidInput(
            f"field {where!r}: use op put with key, value or value_base64, ttl_s and sealed, or op delete "
            "with key"
        )
    step = {"op": op, "key": _key_of(given, where)}
    if op == "put":
        data = _bytes_of(given.get("value"), given.get("value_base64"), f"{where}.value")
        step["ttl_ms"] = _ttl_ms(given.get("ttl_s"), f"{where}.ttl_s")
        sealed = given.get("sealed")
        if sealed is not None and type(sealed) is not bool:
            raise InvalidInput(f"field '{where}.sealed': must be true, false or null")
        if sealed:
            secrets.append((step, Clear(_key_of(given, where), data)))
        else:
            step |= {"value": encode_value(data), **({} if sealed is None else {"sealed": False})}
    return step


def _transaction(
    compare: list[Any], then: list[Any], otherwise: list[Any], fence: str | None
) -> tuple[Json, list[tuple[Json, Clear]]]:
    """A transaction as the machine takes it, and its changes that are to be sealed, without their values."""
    secrets: list[tuple[Json, Clear]] = []
    branches = {
        "then": [_step(each, f"then[{n}]", secrets) for n, each in enumerate(then)],
        "otherwise": [_step(each, f"otherwise[{n}]", secrets) for n, each in enumerate(otherwise)],
    }
    for name, steps in branches.items():
        if len({step["key"] for step in steps}) < len(steps):
            raise Unprocessable(f"field {name!r}: changes a key twice: keep one of the two")
    asked = [_comparison(each, f"compare[{n}]") for n, each in enumerate(compare)]
    try:
        check_comparisons(asked)  # before anything is said about what they compare
    except Malformed as error:
        raise InvalidInput(error.message) from None
    return {"compare": asked, **branches, "fence": _fence(fence)}, secrets


def _steps(transaction: Json) -> list[Json]:
    return [*transaction["then"], *transaction["otherwise"]]


def _is_timed(transaction: Json) -> bool:
    """Whether something in it gets an end."""
    return any(step.get("ttl_ms") is not None for step in _steps(transaction))


def _in_clear(transaction: Json) -> list[tuple[str, str]]:
    """The keys of a transaction that must not be sealed, each with what its refusal says."""
    compared = [(each["key"], SEALED_VALUE) for each in transaction["compare"] if each["target"] == "value"]
    put = [
        (step["key"], SEALED_KEY)
        for step in _steps(transaction)
        if step["op"] == "put" and "value" in step and "sealed" not in step
    ]
    return compared + put


def _comparison(given: object, where: str) -> Json:
    """A comparison as the machine takes it, which checks the rest of it."""
    if type(given) is not dict or not given.keys() <= {"key", "target", "op", "value", "value_base64"}:
        raise InvalidInput(f"field {where!r}: use an object with key, target, op and value")
    comparison = {
        "key": _key_of(given, where),
        "target": given.get("target"),
        "op": given.get("op", "="),
        "value": given.get("value"),
    }
    if given.get("target") == "value":
        data = _bytes_of(given.get("value"), given.get("value_base64"), f"{where}.value")
        comparison["value"] = encode_value(data)
    elif "value_base64" in given:
        raise InvalidInput(f"field {where!r}: value_base64 is for the target value")
    if type(comparison["value"]) is float:
        raise InvalidInput(f"field '{where}.value': must be a whole number")
    return comparison
