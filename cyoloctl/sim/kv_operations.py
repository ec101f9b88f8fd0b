"""Random operations of keys and values, and a naive judge of their answers.

Four keys, so that they meet.  Everything is drawn from `Scene.keepers`: where
nobody keeps data, a run is as it was before there was any.
"""

from __future__ import annotations

import random
from base64 import b64encode
from dataclasses import dataclass

from cyoloctl.kv.machine import DELETED_AT_ONCE
from cyoloctl.replicated.command import Command
from cyoloctl.sim.scene import Scene
from cyoloctl.sim.shares import share_of
from cyoloctl.text import Json

__all__ = ["KV", "Table", "draw_kv", "keepers"]

_OPERATIONS = ("put", "put", "put", "delete", "delete_prefix", "txn", "txn", "keep", "keep", "expire")


def keepers(seed: int) -> random.Random | None:
    """See `Scene`."""
    return share_of(seed, "kv")


def draw_kv(scene: Scene) -> str | None:
    """The operation on keys that is next; None: another machine's is."""
    if scene.keepers is None or scene.keepers.random() >= 0.15:
        return None
    return scene.keepers.choice(_OPERATIONS)


def _rng(scene: Scene) -> random.Random:
    return scene.rng if scene.keepers is None else scene.keepers


def _key(scene: Scene) -> str:
    return _rng(scene).choice(("a", "a/1", "a/2", "b"))


def _value(scene: Scene) -> str:
    return b64encode(_rng(scene).randbytes(_rng(scene).randrange(40))).decode("ascii")


def _ttl_ms(scene: Scene) -> int | None:
    return _rng(scene).choice((None, None, 1_000, 4_000, 60_000))


def _revision(scene: Scene, key: str) -> int | None:
    """A condition: mostly none, or one that holds as far as this node knows."""
    rng, entry = _rng(scene), scene.state.kv.get(key)
    return rng.choice((None, None, 0 if entry is None else entry.revision, 0, 7))


def _fence(scene: Scene) -> Json | None:
    locks, rng = scene.state.locks.list(None, 3, 0), _rng(scene)
    if rng.random() < 0.8:
        return None
    if not locks or rng.random() < 0.3:
        return {"name": "lock0", "token": rng.choice((1, 2**40))}
    lock = rng.choice(locks)
    return {"name": lock.name, "token": lock.token}


def _put(scene: Scene) -> Json:
    key = _key(scene)
    return {
        "key": key,
        "value": _value(scene),
        "if_revision": _revision(scene, key),
        "ttl_ms": _ttl_ms(scene),
        "fence": _fence(scene),
    }


def _delete(scene: Scene) -> Json:
    key = _key(scene)
    return {"key": key, "if_revision": _revision(scene, key), "fence": _fence(scene)}


def _delete_prefix(scene: Scene) -> Json:
    return {"prefix": _rng(scene).choice(("a/", "b", "c"))}


def _compare(scene: Scene) -> Json:
    key, rng = _key(scene), _rng(scene)
    entry = scene.state.kv.get(key)
    target = rng.choice(("exists", "value", "version", "revision", "created_revision"))
    if target == "exists":
        return {"key": key, "target": target, "op": "=", "value": (entry is not None) ^ (rng.random() < 0.2)}
    if target == "value":
        value = _value(scene) if entry is None else b64encode(entry.value).decode("ascii")
        return {"key": key, "target": target, "op": rng.choice(("=", "=", "!=")), "value": value}
    number = 0 if entry is None else getattr(entry, target)
    op = rng.choice(("=", "=", "!=", "<", ">"))
    return {
        "key": key,
        "target": target,
        "op": op,
        "value": number + (op == "<") - (op == ">" and number > 0),
    }


def _branch(scene: Scene) -> list[Json]:
    keys = _rng(scene).sample(("a", "a/1", "a/2", "b"), _rng(scene).randrange(3))
    return [
        {"op": "put", "key": key, "value": _value(scene), "ttl_ms": _ttl_ms(scene)}
        if _rng(scene).random() < 0.7
        else {"op": "delete", "key": key}
        for key in keys
    ]


def _txn(scene: Scene) -> Json:
    return {
        "compare": [_compare(scene) for _ in range(_rng(scene).randrange(3))],
        "then": _branch(scene),
        "otherwise": _branch(scene),
        "fence": _fence(scene),
    }


def _keep(scene: Scene) -> Json:
    key, rng = _key(scene), _rng(scene)
    entry = scene.state.kv.get(key)
    created = rng.choice((None, 5 if entry is None else entry.created_revision))
    return {"key": key, "created_revision": created, "ttl_ms": rng.choice((1_000, 4_000, 60_000))}


def _expire(scene: Scene) -> Json:
    return {"most": _rng(scene).choice((1, 500))}


KV = {
    "put": _put,
    "delete": _delete,
    "delete_prefix": _delete_prefix,
    "txn": _txn,
    "keep": _keep,
    "expire": _expire,
}
"""How the arguments of each operation are drawn."""


@dataclass(frozen=True, slots=True)
class _Row:
    value: str
    revision: int
    created: int
    version: int
    ttl_ms: int | None
    end_ms: int | None


class Table:
    """What is under which key; it is told of every command that was carried out, once."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}
        self._revision = 0

    def applied(self, request: Command, answer: Json, held: bool, now_ms: int) -> str | None:
        """What is wrong with the answer to a command that was carried out just now; None: nothing.

        held: whether the lock of its fence is held with its token.
        """
        given, operation = request.arguments, request.operation
        wrong = f"{answer} to {operation} {given} at {now_ms}, revision {self._revision}: {self._rows}"
        if given.get("fence") is not None and not held:
            return None if _code(answer) == "fence_lost" else wrong
        if _code(answer) in ("fence_lost", "internal", "invalid_input"):
            return wrong
        if operation == "expire":
            return None  # what is over counts as gone already
        if operation == "delete_prefix":
            return None if self._prefix(given["prefix"], answer["value"], now_ms) else wrong
        if operation == "keep":
            return None if self._kept(given, answer, now_ms) else wrong
        if operation == "txn":
            return None if self._compared(given, answer, now_ms) else wrong
        return None if self._one(operation, given, answer, now_ms) else wrong

    def _live(self, key: str, now_ms: int) -> _Row | None:
        row = self._rows.get(key)
        return None if row is None or (row.end_ms is not None and row.end_ms <= now_ms) else row

    def _one(self, operation: str, given: Json, answer: Json, now_ms: int) -> bool:
        row = self._live(given["key"], now_ms)
        revision = 0 if row is None else row.revision
        code = _code(answer)
        if operation == "delete" and row is None:
            return code == "not_found"
        if given["if_revision"] not in (None, revision):
            return code == ("already_exists" if given["if_revision"] == 0 else "conflict")
        if code is not None:  # `Bounds` knows whether there is room
            return operation == "put" and code == "quota_exceeded"
        if operation == "delete":
            return (
                self._changed(answer["value"]["revision"]) and self._rows.pop(given["key"], None) is not None
            )
        new = answer["value"]["revision"]
        return self._changed(new) and self._write(given, answer["value"], new, now_ms)

    def _changed(self, revision: int) -> bool:
        """Every change has a higher revision than all before it."""
        higher = revision > self._revision
        self._revision = max(self._revision, revision)
        return higher

    def _write(self, given: Json, value: Json, revision: int, now_ms: int) -> bool:
        old = self._live(given["key"], now_ms)
        row = _Row(
            given["value"],
            revision,
            revision if old is None else old.created,
            1 if old is None else old.version + 1,
            given["ttl_ms"],
            None if given["ttl_ms"] is None else now_ms + given["ttl_ms"],
        )
        self._rows[given["key"]] = row
        found = value["created_revision"], value["version"], value["expires_unix_ms"]
        return found == (row.created, row.version, row.end_ms)

    def _prefix(self, prefix: str, value: Json, now_ms: int) -> bool:
        keys = [key for key in self._rows if key.startswith(prefix)]
        live = [key for key in keys if self._live(key, now_ms) is not None]
        for key in keys:
            del self._rows[key]
        right = len(live) <= value["deleted"] <= len(keys) <= DELETED_AT_ONCE and not value["more"]
        return right and (value["deleted"] == 0 or self._changed(value["revision"]))

    def _kept(self, given: Json, answer: Json, now_ms: int) -> bool:
        row, code = self._live(given["key"], now_ms), _code(answer)
        if row is None:
            return code == "not_found"
        if given["created_revision"] not in (None, row.created) or row.end_ms is None:
            return code == "conflict"
        if code is not None:
            return False
        end_ms = max(row.end_ms, now_ms + given["ttl_ms"])
        self._rows[given["key"]] = _Row(
            row.value, row.revision, row.created, row.version, given["ttl_ms"], end_ms
        )
        return bool(answer["value"] == {"revision": row.revision, "expires_unix_ms": end_ms})

    def _compared(self, given: Json, answer: Json, now_ms: int) -> bool:
        true = all(_is_true(each, self._live(each["key"], now_ms)) for each in given["compare"])
        if _code(answer) is not None:
            return _code(answer) == "quota_exceeded"
        value = answer["value"]
        steps = given["then" if true else "otherwise"]
        right = value["succeeded"] is true and len(value["results"]) == len(steps)
        if any(step["op"] == "put" or self._live(step["key"], now_ms) for step in steps):
            right = self._changed(value["revision"]) and right
        for step, result in zip(steps, value["results"], strict=False):
            if step["op"] == "put":
                right = self._write(step, result, value["revision"], now_ms) and right
            else:
                there = self._live(step["key"], now_ms) is not None
                if there:  # the machine may keep what is over
                    del self._rows[step["key"]]
                right = result == {"deleted": there} and right
        return right

    def set_back(self, from_ms: int, to_ms: int) -> None:
        """Cluster time was set back: no row lasts longer than it was given, and what is over stays so."""
        for key, row in self._rows.items():
            if row.ttl_ms is not None and row.end_ms is not None:
                end_ms = min(row.end_ms, to_ms + (0 if row.end_ms <= from_ms else row.ttl_ms))
                self._rows[key] = _Row(row.value, row.revision, row.created, row.version, row.ttl_ms, end_ms)


def _code(answer: Json) -> str | None:
    code: str | None = answer.get("error", {}).get("code")
    return code


def _is_true(compare: Json, row: _Row | None) -> bool:
    target, op, value = compare["target"], compare["op"], compare["value"]
    if target == "exists":
        return (row is not None) == bool(value)
    if target == "value":
        return bool(bool((None if row is None else row.value) == value) == (op == "="))
    numbers = {"version": 0, "revision": 0, "created_revision": 0}
    if row is not None:
        numbers = {"version": row.version, "revision": row.revision, "created_revision": row.created}
    number = numbers[target]
    return bool({"=": number == value, "!=": number != value, "<": number < value, ">": number > value}[op])
