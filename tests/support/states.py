"""States of machines in tests, whole: what a snapshot holds of one, as JSON."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from typing import Any

from cyoloctl.replicated.machine import Machine
from cyoloctl.replicated.stream import StreamReader
from cyoloctl.state import ClusterState
from cyoloctl.text import Json, canonical_json, parse_canonical_json

__all__ = ["as_before_tables", "exported", "head_and_tables", "prepared", "version_2"]


def exported(machine: Machine) -> Json:
    """``{"state": ..., "tables": {NAME: [ROW, ...]}}``, as it comes out of a snapshot."""
    tables = {name: list(rows) for name, rows in machine.freeze_tables().items()}
    found: Json = parse_canonical_json(canonical_json({"state": machine.export_state(), "tables": tables}))
    return found


def prepared(machine: Machine, state: Json) -> Callable[[], None]:
    """`Machine.prepare_restore` of what `exported` gave."""
    return machine.prepare_restore(state["state"], state["tables"])


def as_before_tables(machine: Machine) -> Any:
    """The state as snapshots held it before counters and sessions had tables."""
    state, tables = exported(machine).values()
    if machine.NAME == "counter":
        return dict(tables["values"])
    if machine.NAME == "sessions":
        names = ("keys", "levels", "untils", "steady_ends")
        return {
            name: dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
            if rows
            else {column: [] for column in names}
            for name, rows in tables.items()
        }
    if machine.NAME == "kv":
        return {
            **state,
            "entries": {key: fields for key, *fields in tables["entries"]},
            "changes": tables["changes"],
        }
    return state


def head_and_tables(state: ClusterState) -> tuple[Json, bytes]:
    """What a snapshot of version 2 began with, and its tables of ids."""
    reader = StreamReader(BytesIO(b"".join(state.begin_snapshot()())))
    reader.take(1)
    head = parse_canonical_json(reader.frame().decode("ascii"))
    machines = {name: as_before_tables(state._machines[name]) for name in head["machines"]}
    return {**head, "machines": machines}, b"".join(reader.frame() for _ in range(4))


def version_2(state: ClusterState) -> bytes:
    """A snapshot as it was before machines had tables."""
    head, tables = head_and_tables(state)
    text = canonical_json(head).encode("ascii")
    content = len(text).to_bytes(4, "big") + text + tables
    return b"\x02" + sha256(content).digest() + content
