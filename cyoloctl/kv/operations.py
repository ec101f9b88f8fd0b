"""Operations of a node on keys and values."""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from contextlib import suppress
from typing import Any, TypedDict, cast

from cyoloctl.errors import InternalError, InvalidInput, NotFound, Unprocessable
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
from cyoloctl.kv.machine import EXPIRED_AT_ONCE, KvMachine
from cyoloctl.kv.records import MAX_TTL_MS, MIN_TTL_MS, Entry, Event
from cyoloctl.members.api import Problem
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.replicated.watchers import Watchers
from cyoloctl.text import Json, rfc3339

__all__ = ["KvOperations"]

# An answer holds each value twice, as base64 and as text, in which a byte may take six.
_PAGE_BYTES = 768 * 1024
_CHANGES_AT_ONCE = 500
_WARN_AT = 0.8


class _Now(TypedDict):
    index: int
    epoch: int


class KvOperations:
    """Implements `kv.api.KvApi`.  Any node takes any request."""

    def __init__(self, proposer: Proposer, kv: KvMachine, *, name: str) -> None:
        """name: this node's."""
        self._proposer = proposer
        self._kv = kv
        self._name = name
        self._watchers = Watchers()
        kv.on_change = lambda key, index: self._watchers.changed(key)

    def restored(self) -> None:
        """The machine's state was replaced by a snapshot."""
        self._watchers.all_changed()

    async def maintain(self) -> bool:
        """As leader: take away keys whose time is over.  Whether there may be more."""
        end = self._kv.next_end_unix_ms()
        if end is None or end > self._proposer.now_ms():
            return False
        await self._proposer.apply("kv", "expire", {"most": EXPIRED_AT_ONCE}, request_id=None, timeout_s=5.0)
        return True

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
        """Read.  Raises NotFound, Compacted, Conflict for a revision to come."""
        check_key(key)
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        entry = self._kv.get(key, at_revision)
        if entry is None:
            then = "" if at_revision is None else f" at revision {at_revision}"
            raise NotFound(f"there is no key {key!r}{then}")
        return {**_listed(key, entry), **self._now()}

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
        entries: list[KvListed] = []
        size = 0
        for key, entry in found[:limit]:
            size += len(entry.value) if values == "with" else 0
            if size > _PAGE_BYTES and entries:
                break
            entries.append(_listed(key, entry, with_value=values == "with"))
        return {
            "entries": entries,
            "next": entries[-1]["key"] if len(entries) < len(found) else None,
            "revision": self._kv.revision if at_revision is None else at_revision,
            **self._now(),
        }

    async def changes(self, *, prefix: str, from_revision: int | None, timeout_s: float) -> KvChanges:
        """Changes of a revision and later, or none after timeout_s.  Raises Compacted, NoLeader."""
        check_prefix(prefix)
        deadline = time.monotonic() + timeout_s
        is_fresh = False
        with self._watchers.watch("") as event:
            while True:
                event.clear()
                if from_revision is not None:
                    found, from_revision = self._changes(prefix, from_revision)
                    if found:
                        return self._changed(found, from_revision)
                left = deadline - time.monotonic()
                if not is_fresh:
                    # A node that is cut off would wait for nothing, as if nothing changed.
                    await self._proposer.fresh(timeout_s=max(0.1, left))
                    is_fresh = True
                    if from_revision is None:
                        from_revision = self._kv.revision + 1
                elif left <= 0:
                    return self._changed([], from_revision or 0)
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

    def _changed(self, found: list[Event], next_revision: int) -> KvChanges:
        return {"changes": [_change(each) for each in found], "next_revision": next_revision, **self._now()}

    def _now(self) -> _Now:
        return {"index": self._proposer.engine.applied_index(), "epoch": self._proposer.epoch()}

    # -- writing ----------------------------------------------------------------------------------

    async def put(
        self,
        *,
        key: str,
        value: str | None,
        value_base64: str | None,
        if_revision: int | None,
        ttl_s: float | None,
        fence: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> KvWritten:
        """Write.  Raises Conflict, AlreadyExists, QuotaExceeded, FenceLost."""
        check_key(key)
        data = _bytes_of(value, value_base64, "value")
        arguments = {
            "key": key,
            "value": b64encode(data).decode("ascii"),
            "if_revision": if_revision,
            "ttl_ms": _ttl_ms(ttl_s, "ttl_s"),
            "fence": _fence(fence),
        }
        done, rest = await self._write("put", arguments, request_id, timeout_s, timed=ttl_s is not None)
        entry = Entry(
            data, done["revision"], done["created_revision"], done["version"], None, done["expires_unix_ms"]
        )
        return cast("KvWritten", {**_listed(key, entry), **rest})

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
        check_key(key)
        arguments = {"key": key, "if_revision": if_revision, "fence": _fence(fence)}
        done, rest = await self._write("delete", arguments, request_id, timeout_s)
        return cast("KvDeleted", {"key": key, **done, **rest})

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
        branches = {
            "then": [_step(each, f"then[{n}]") for n, each in enumerate(then)],
            "otherwise": [_step(each, f"otherwise[{n}]") for n, each in enumerate(otherwise)],
        }
        for name, steps in branches.items():
            if len({step["key"] for step in steps}) < len(steps):
                raise Unprocessable(f"field {name!r}: changes a key twice: keep one of the two")
        asked = [_comparison(each, f"compare[{n}]") for n, each in enumerate(compare)]
        timed = any(step.get("ttl_ms") is not None for steps in branches.values() for step in steps)
        arguments = {"compare": asked, **branches, "fence": _fence(fence)}
        done, rest = await self._write("txn", arguments, request_id, timeout_s, timed=timed)
        steps = branches["then" if done["succeeded"] else "otherwise"]
        results = [_result(step, result) for step, result in zip(steps, done["results"], strict=True)]
        return cast("KvTransaction", {**done, "results": results, **rest})

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
        if type(done.get("revision")) is not int:
            raise InternalError("the leader's answer makes no sense: upgrade every node")
        return done, {"index": index, "epoch": self._proposer.epoch(), "request_id": identifier}


def _listed(key: str, entry: Entry, *, with_value: bool = True) -> KvListed:
    listed: KvListed = {
        "key": key,
        "size": len(entry.value),
        "revision": entry.revision,
        "created_revision": entry.created_revision,
        "version": entry.version,
        "expires_at": None if entry.expires_unix_ms is None else rfc3339(entry.expires_unix_ms / 1000),
    }
    if with_value:
        listed["value_base64"] = b64encode(entry.value).decode("ascii")
        with suppress(UnicodeDecodeError):
            listed["value"] = entry.value.decode("utf-8")
    return listed


def _change(event: Event) -> KvChange:
    change: Any = {"type": event.kind, "key": event.key, "revision": event.revision}
    if event.entry is not None:
        change |= _listed(event.key, event.entry) | {"revision": event.revision}
    return cast("KvChange", change)


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
        try:
            data = b64decode(value_base64, validate=True)
        except (BadBase64, ValueError):
            raise InvalidInput(f"field {where + '_base64'!r}: is not base64") from None
    else:
        raise InvalidInput(f"field {where!r}: must be a string")
    if len(data) > MAX_VALUE_BYTES:
        raise Unprocessable(f"field {where!r}: has {len(data)} bytes, at most {MAX_VALUE_BYTES} are taken")
    return data


def _key_of(given: Json, where: str) -> str:
    key = given.get("key")
    if type(key) is not str:
        raise InvalidInput(f"field '{where}.key': must be a string")
    try:
        check_key(key)
    except InvalidInput as error:
        raise type(error)(f"field '{where}.key': {error.message}") from None
    return key


def _step(given: object, where: str) -> Json:
    """A change as the machine takes it."""
    if type(given) is not dict:
        raise InvalidInput(f"field {where!r}: must be an object")
    op = given.get("op")
    known = {"put": {"op", "key", "value", "value_base64", "ttl_s"}, "delete": {"op", "key"}}.get(str(op))
    if known is None or not given.keys() <= known:
        raise InvalidInput(
            f"field {where!r}: use op put with key, value or value_base64, and ttl_s, or op delete with key"
        )
    step = {"op": op, "key": _key_of(given, where)}
    if op == "put":
        data = _bytes_of(given.get("value"), given.get("value_base64"), f"{where}.value")
        step |= {
            "value": b64encode(data).decode("ascii"),
            "ttl_ms": _ttl_ms(given.get("ttl_s"), f"{where}.ttl_s"),
        }
    return step


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
        comparison["value"] = b64encode(data).decode("ascii")
    elif "value_base64" in given:
        raise InvalidInput(f"field {where!r}: value_base64 is for the target value")
    if type(comparison["value"]) is float:
        raise InvalidInput(f"field '{where}.value': must be a whole number")
    return comparison
