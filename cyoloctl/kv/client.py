"""Keys and values, as programs and commands use them."""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, TypeVar, cast

from cyoloctl.errors import CyoloctlError, InvalidInput, OutcomeUnknown, Unavailable, Unreachable, UsageError
from cyoloctl.kv.api import MAX_PAGE, check_key, check_prefix, fence_of
from cyoloctl.web.steps import Group, Item, Pause, Turns, consistency, iteration, operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Literal

    from cyoloctl.kv.api import KvDeleted, KvKept, KvPrefixDeleted, KvTransaction
    from cyoloctl.web.steps import Caller, Items, Steps

__all__ = ["Change", "Entry", "Kv", "Listing", "Written", "changes", "delete_prefix", "listed"]

M = TypeVar("M")
T = TypeVar("T")

_POLL_S = 20.0
_PAUSE_S = 0.2


class Entry(TypedDict):
    """A key with its value; sealed: no disk holds it; expires_at: RFC 3339, None: never."""

    key: str
    value: bytes
    sealed: bool
    size: int
    revision: int
    created_revision: int
    version: int
    expires_at: str | None


class Written(Entry):
    """A key after the write; the same for every repetition of the request id."""

    request_id: str
    index: int
    epoch: int


class Listing(TypedDict):
    """Keys in the order of their bytes, as they were at one revision."""

    entries: list[Entry]
    revision: int


class Change(TypedDict):
    """A change of a key; value: what there is after it, None where it is gone."""

    type: Literal["put", "delete", "expire"]
    key: str
    revision: int
    value: bytes | None
    sealed: NotRequired[bool]
    created_revision: NotRequired[int]
    version: NotRequired[int]
    expires_at: NotRequired[str | None]


class Kv(Group[M]):
    """Any bytes by key: up to 256 KiB under up to 512 bytes of UTF-8 without control characters.

    Reads raise KeyMissing where a value is sealed under a key that the cluster does not have.
    Every write raises QuotaExceeded where all keys and values would become too large, FenceLost where
    `fence` (NAME=TOKEN, such as `lock.fence`) is of a lock that is no longer held, and InvalidInput.
    """

    @operation
    def get(self, key: str, *, at_revision: int | None = None, stale: bool = False) -> Steps[Entry]:
        """A key: linearizable, or with stale what the asked node has.

        at_revision: as it was at a recent revision.  Raises NotFound, Compacted for a revision that is
        forgotten, Conflict for one to come.
        """
        check_key(key)
        query = {"key": key, "at_revision": at_revision, **consistency(stale)}
        return _entry((yield from self._caller.call("kv_get", query=query)))

    @operation
    def put(
        self,
        key: str,
        value: bytes | str,
        *,
        if_revision: int | None = None,
        if_absent: bool = False,
        ttl_s: float | None = None,
        sealed: bool | None = None,
        fence: str | None = None,
        request_id: str | None = None,
    ) -> Steps[Written]:
        """Give a key a value, once per request id.  A str is stored as UTF-8.

        if_revision: only if the key is at this revision.  if_absent: only if there is no such key.
        ttl_s: seconds after which the key expires, 1 to 31622400; None: never.  sealed: True: encrypted
        under the cluster's key ring, so that no disk holds it; False: not; None: not, and refused where the
        present value is sealed.
        Raises Conflict for another revision and as said, AlreadyExists; nothing is changed then.
        """
        check_key(key)
        if if_absent and if_revision is not None:
            raise UsageError("give if_absent or if_revision, not both")
        body = {
            "key": key,
            "value_base64": _base64(value),
            "if_revision": 0 if if_absent else if_revision,
            "ttl_s": ttl_s,
            **({} if sealed is None else {"sealed": sealed}),
            "fence": _fence(fence),
            "request_id": request_id,
        }
        return cast("Written", _entry((yield from self._caller.call("kv_put", body=body))))

    @operation
    def delete(
        self,
        key: str,
        *,
        if_revision: int | None = None,
        fence: str | None = None,
        request_id: str | None = None,
    ) -> Steps[KvDeleted]:
        """Delete a key, once per request id.  Raises NotFound, Conflict for another revision."""
        check_key(key)
        body = {"key": key, "if_revision": if_revision, "fence": _fence(fence), "request_id": request_id}
        return self._caller.call("kv_delete", body=body)

    @operation
    def delete_prefix(self, prefix: str, *, request_id: str | None = None) -> Steps[KvPrefixDeleted]:
        """Delete every key that begins with prefix ("": every key), a thousand at once.

        `deleted` of the answer counts all of them.  Not one change: others may write between.
        """
        return (yield from delete_prefix(self._caller, prefix, request_id))

    @operation
    def list(
        self,
        prefix: str = "",
        *,
        after: str | None = None,
        limit: int | None = None,
        at_revision: int | None = None,
        stale: bool = False,
    ) -> Steps[Listing]:
        """Every key that begins with prefix, all as they were at one revision.

        after: begin after this key.  limit: at most so many.  To follow them, watch from the revision of
        the listing plus one.  Raises Compacted where that revision was forgotten meanwhile.
        """
        found = yield from listed(
            self._caller, prefix, after=after, limit=limit, at_revision=at_revision, stale=stale
        )
        return {"entries": [_entry(each) for each in found["entries"]], "revision": found["revision"]}

    @operation
    def keys(self, prefix: str = "", *, stale: bool = False) -> Steps[Sequence[str]]:
        """As `list`, the keys only."""
        found = yield from listed(self._caller, prefix, values=False, stale=stale)
        return [each["key"] for each in found["entries"]]

    @iteration
    def watch(
        self, prefix: str = "", *, from_revision: int | None = None, patience_s: float = 30.0
    ) -> Items[Change]:
        """Every change of keys that begin with prefix, until the caller stops.

        from_revision: the first revision that is wanted; None: what changes from the first `next` on.
        Nothing is missed and nothing comes twice, whichever node answers, across failovers and restarts.
        patience_s: how long it goes on while nobody answers.
        Raises Compacted where the changes from there on are no longer all known: read again, and go on
        from that revision; Unavailable when nobody answered for patience_s.
        """
        yield from changes(self._caller, prefix, from_revision, _change, patience_s=patience_s)

    @operation
    def txn(
        self,
        *,
        compare: Iterable[Mapping[str, Any]] = (),
        then: Iterable[Mapping[str, Any]] = (),
        otherwise: Iterable[Mapping[str, Any]] = (),
        fence: str | None = None,
        request_id: str | None = None,
    ) -> Steps[KvTransaction]:
        """Compare keys and change others, all at one revision or not at all; once per request id.

        compare: up to 64 of ``{"key", "target", "op", "value"}``, with target exists, value, revision,
        created_revision or version, and op =, !=, < or >.  then, otherwise: up to 64 of
        ``{"op": "put", "key", "value", "ttl_s", "sealed"}`` and ``{"op": "delete", "key"}``.  A value may
        be bytes.  `succeeded` of the answer says which of the two was carried out.
        """
        body = {
            "compare": [_item(each) for each in compare],
            "then": [_item(each) for each in then],
            "otherwise": [_item(each) for each in otherwise],
            "fence": _fence(fence),
            "request_id": request_id,
        }
        return self._caller.call("kv_txn", body=body)

    @operation
    def keep(
        self, key: str, *, ttl_s: float, created_revision: int | None = None, request_id: str | None = None
    ) -> Steps[KvKept]:
        """Give a key that expires a later end, ttl_s seconds from now; it is no change of the key.

        created_revision: only the key that was made at this revision.  Raises NotFound, Conflict.
        """
        check_key(key)
        body = {"key": key, "ttl_s": ttl_s, "created_revision": created_revision, "request_id": request_id}
        return self._caller.call("kv_keep", body=body)


def delete_prefix(caller: Caller, prefix: str, request_id: str | None) -> Steps[KvPrefixDeleted]:
    """A thousand keys at a time, the request id of each part made from that of the first."""
    check_prefix(prefix)
    body: dict[str, Any] = {"prefix": prefix, "request_id": request_id}
    answer: KvPrefixDeleted = yield from caller.call("kv_delete_prefix", body=body)
    first, deleted, number = answer["request_id"], answer["deleted"], 0
    while answer["more"]:
        number += 1
        part = {"prefix": prefix, "request_id": f"{first[:100]}-{number}"}
        try:
            answer = yield from caller.call("kv_delete_prefix", body=part)
        except CyoloctlError as error:
            error.request_id = first
            raise
        deleted += answer["deleted"]
    return {**answer, "deleted": deleted, "request_id": first}


def listed(
    caller: Caller,
    prefix: str,
    *,
    after: str | None = None,
    limit: int | None = None,
    values: bool = True,
    at_revision: int | None = None,
    stale: bool = False,
) -> Steps[dict[str, Any]]:
    """A page of the API with the keys of all pages, at one revision."""
    check_prefix(prefix)
    query: dict[str, Any] = {
        "prefix": prefix,
        "after": after,
        "values": "with" if values else "without",
        "at_revision": at_revision,
        **consistency(stale),
    }
    entries: list[dict[str, Any]] = []
    while True:
        query["limit"] = MAX_PAGE if limit is None else min(MAX_PAGE, limit - len(entries))
        page: dict[str, Any] = yield from caller.call("kv_list", query=query)
        entries += page["entries"]
        query |= {"after": page["next"], "at_revision": page["revision"]}
        if page["next"] is None or (limit is not None and len(entries) >= limit):
            return {**page, "entries": entries}


def changes(
    caller: Caller,
    prefix: str,
    revision: int | None,
    shown: Callable[[dict[str, Any]], T],
    *,
    patience_s: float,
    on_silence: Callable[[str], None] = lambda reason: None,
) -> Items[T]:
    """Changes, as `shown` makes them of the API's.  on_silence: told why nobody answers, once each time."""
    check_prefix(prefix)
    turns = Turns(caller)  # one endpoint a poll: a share of the time for each would end the first one early
    heard = time.monotonic()
    told = False
    while True:
        query = {"prefix": prefix, "from_revision": revision}
        try:
            page = yield from turns.ask("kv_changes", query=query, timeout_s=_POLL_S)
        except (Unavailable, Unreachable, OutcomeUnknown) as error:
            go_on = "" if revision is None else f"; go on from revision {revision} (--from {revision})"
            if time.monotonic() - heard > patience_s:
                raise Unavailable(f"nobody answered for {patience_s:g}s: {error.message}{go_on}") from None
            if not told:
                told = True
                on_silence(error.message)
            yield Pause(_PAUSE_S)  # all of them may be down: do not spin
            continue
        heard, told = time.monotonic(), False
        revision = page["next_revision"]
        for change in page["changes"]:
            yield Item(shown(change))


def _change(answer: dict[str, Any]) -> Change:
    text = answer.get("value_base64")
    kept = {name: each for name, each in answer.items() if name != "value_base64"}
    return cast("Change", {**kept, "value": None if text is None else b64decode(text)})


def _entry(answer: dict[str, Any]) -> Entry:
    """An entry of the API, with its value as bytes."""
    kept = {name: each for name, each in answer.items() if name not in ("value_base64", "schema_version")}
    return cast("Entry", {**kept, "value": b64decode(answer["value_base64"])})


def _base64(value: bytes | str) -> str:
    data = value.encode("utf-8") if isinstance(value, str) else value
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InvalidInput("the value must be bytes or str")
    return b64encode(data).decode("ascii")


def _item(given: Mapping[str, Any]) -> dict[str, Any]:
    """An item of a transaction, as the API takes it."""
    item = dict(given)
    if isinstance(item.get("value"), bytes | bytearray | memoryview):
        item["value_base64"] = _base64(item.pop("value"))
    return item


def _fence(text: str | None) -> str | None:
    if text is not None:
        fence_of(text)
    return text
