"""The bounds of the machines' tables, held against what is in them after every command.

Written by what each machine promises, from the state that it exports: no table
holds more than it may, nobody is refused for a table that has room, and every
state can be read from its own snapshot.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from cyoloctl.kv.machine import KEY_OVERHEAD_BYTES
from cyoloctl.replicated.command import Command
from cyoloctl.replicated.machine import Machine
from cyoloctl.state import ClusterState, StateLimits
from cyoloctl.text import Json, canonical_json, parse_canonical_json

__all__ = ["Bounds"]

_LIMITS = StateLimits()

Room = dict[str, tuple[int, int]]
"""By table, how much is in it and how much may be."""


class Bounds:
    """What is looked at after each command of a run.

    reached: by table, how often somebody was refused because it was full, or
    how often it was full, where the oldest entry makes room.
    """

    def __init__(self, limits: StateLimits = _LIMITS) -> None:
        self._limits = limits
        real = StateLimits(requests=limits.requests)
        self._are_small = limits != real  # with the real ones no run comes near them
        self.reached: Counter[str] = Counter()

    def crowd(self) -> random.Random | None:
        """Who draws the people that fill the tables; None where they are too large for that."""
        return random.Random("crowd") if self._are_small else None

    def wrong(self, state: ClusterState, request: Command, answer: Json) -> str | None:
        """The bound that a command broke which was just carried out, or refused; None if it broke none."""
        room = _ROOM.get(request.machine)
        if room is None or not self._are_small:
            return None
        machine = _machine(state, request.machine)
        exported = parse_canonical_json(canonical_json(machine.export_state()))
        rows = parse_canonical_json(
            canonical_json({name: list(rows) for name, rows in machine.freeze_tables().items()})
        )
        tables = room({**exported, **rows}, self._limits)
        for name, (size, most) in tables.items():
            if size > most:
                return f"there are {size} {name}, {most} are allowed"
        try:
            machine.prepare_restore(exported, rows)
        except ValueError as error:
            return f"the state of {request.machine} cannot be restored: {error}"
        return self._refusal(request, answer, tables)

    def _refusal(self, request: Command, answer: Json, tables: Room) -> str | None:
        """Whether somebody was refused for no reason, and what is full."""
        error = answer.get("error")
        named = (request.machine, request.operation)
        if error is None:
            for name in _MAKES_ROOM.get(request.machine, ()):
                size, most = tables[name]
                self.reached[name] += size == most
            return None
        why = next((text for text in _FULL if text in error["message"]), None)
        if why is None:
            return f"{named} is overloaded: {error}" if error["code"] == "overloaded" else None
        name = _FULL[why]
        size, most = tables[name]
        more = 1
        if name == "bytes of rendezvous":
            more = _bytes_of(request.arguments)
        elif name == "bytes of keys":
            more = _written(request.arguments)
        elif request.operation == "import":
            more = len(request.arguments["keys"])
        if size + more <= most:
            return f"{named} is refused, as there are {size} {name} of {most}: {error}"
        self.reached[name] += 1
        return None


def _machine(state: ClusterState, name: str) -> Machine:
    machines = (
        state.locks,
        state.kv,
        state.members,
        state.credentials,
        state.keys,
        state.rendezvous,
    )
    return next(machine for machine in machines if name == machine.NAME)


def _locks(state: Json, limits: StateLimits) -> Room:
    return {"locks": (len(state["locks"]), limits.locks.locks)}


def _kv(state: Json, limits: StateLimits) -> Room:
    entries, changes = state["entries"], state["changes"]
    size = sum(_kv_bytes(key, value) for key, value, *_ in entries)
    replaced = sum(len(key.encode()) + _decoded(old[0] if old else "") + 64 for _, _, key, old in changes)
    return {
        "bytes of keys": (size, limits.kv.quota),
        "changes of keys": (len(changes), limits.kv.changes),
        "bytes of changes": (replaced, limits.kv.change_bytes),
    }


def _kv_bytes(key: str, value: str) -> int:
    return len(key.encode()) + _decoded(value) + KEY_OVERHEAD_BYTES


def _decoded(value: str) -> int:
    return len(value) * 3 // 4 - value.count("=")


def _members(state: Json, limits: StateLimits) -> Room:
    most = limits.members
    kinds = {kind: len(state.get(kind, ())) for kind in ("invitations", "issued_invitations", "grants")}
    return {
        **{kind: (size, most.invitations) for kind, size in kinds.items()},
        # Some of them may be over: it is the most that can stand in the way.
        "open invitations": (min(sum(kinds.values()), most.invitations), most.invitations),
        "names": (len(state["members"]) + len(state["removed"]), most.names),
        "shared hosts": (len(state.get("shared_hosts", ())), most.shared_hosts),
    }


def _credentials(state: Json, limits: StateLimits) -> Room:
    return {"credentials": (len(state["entries"]), limits.credentials.credentials)}


def _keys(state: Json, limits: StateLimits) -> Room:
    destroyed = sum(each["state"] == "destroyed" for each in state["keys"].values())
    return {
        "keys": (len(state["keys"]) - destroyed, limits.keys.keys),
        "destroyed keys": (destroyed, limits.keys.destroyed),
    }


def _rendezvous(state: Json, limits: StateLimits) -> Room:
    records, most = state["records"].values(), limits.rendezvous
    live = sum(each["state"] in ("pending", "claimed", "approved") for each in records)
    counted = state.get("tries", {})
    return {
        "rendezvous": (live, most.live),
        "tombstones": (len(records) - live, most.tombstones),
        "bytes of rendezvous": (sum(map(_bytes_of, records)), most.total_bytes),
        "policies": (len(state.get("policies", ())), most.policies),
        "callers of old": (len(state["misses"]), most.callers),
        "counted": (max(map(len, counted.values()), default=0), most.counted),
        "counted in all": (len(counted.get("all", ())), 1),
    }


def _written(given: Json) -> int:
    """The most bytes that a command on keys could add."""
    steps = [given, *given.get("then", ()), *given.get("otherwise", ())]
    return sum(_kv_bytes(step["key"], step["value"]) for step in steps if "value" in step)


def _bytes_of(fields: Json) -> int:
    """What somebody chose, of a record or an operation."""
    texts = [canonical_json(fields[name]) for name in ("data", "answer") if fields.get(name)]
    return sum(map(len, texts)) + len(fields.get("sealed_result") or "")


_ROOM: dict[str, Callable[[Json, StateLimits], Room]] = {
    "lock": _locks,
    "kv": _kv,
    "members": _members,
    "credentials": _credentials,
    "keys": _keys,
    "rendezvous": _rendezvous,
}

_MAKES_ROOM = {"rendezvous": ("tombstones", "counted"), "keys": ("destroyed keys",)}
"""Tables of a machine whose oldest entries go when they are full."""

_FULL = {
    "locks are held already": "locks",
    "keys and values take": "bytes of keys",
    "invitations: ": "open invitations",
    "names of members are used up": "names",
    "hosts are shared already": "shared hosts",
    "credentials count already": "credentials",
    "there can be": "keys",
    "rendezvous: wait until some end": "rendezvous",
    "rendezvous hold": "bytes of rendezvous",
    "kinds have a policy": "policies",
    "wrong codes from everywhere: wait 10 minutes, or use": "callers of old",
}
"""The words by which somebody is told that a table is full."""
