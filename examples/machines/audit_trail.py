"""An audit trail: entries that nobody can change or take out of the middle, each sealing those before.

Rows: ``e/NUMBER`` -> an entry, ``head`` -> number and hash of the last one.  The hash of an
entry covers the hash before it, so whoever has noted a head can tell whether all of it is still there.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from cyoloctl import ReadTable, Refuse, StateMachine, Table, operation, query

_MAX_TEXT, _KEEP = 2000, 100_000
_NONE = {"number": 0, "hash": "0" * 64}


class AuditTrail(StateMachine):
    NAME = "audit-trail"

    @operation
    def record(
        self, table: Table, actor: str, action: str, now_unix_ms: int, index: int, about: str = ""
    ) -> dict[str, Any]:
        """Add an entry; its number and hash."""
        if not actor or not action:
            raise Refuse("say who did what: actor and action are not empty")
        if max(len(actor), len(action), len(about)) > _MAX_TEXT:
            raise Refuse(f"the entry is too long: use {_MAX_TEXT} characters for each of its texts")
        head = table.get("head", _NONE)
        entry = {
            "number": head["number"] + 1,
            "unix_ms": now_unix_ms,
            "index": index,
            "actor": actor,
            "action": action,
            "about": about,
            "before": head["hash"],
        }
        head = {"number": entry["number"], "hash": _hash(entry)}
        table.set(_key(entry["number"]), entry)
        table.set("head", head)
        if entry["number"] > _KEEP:
            table.delete(_key(entry["number"] - _KEEP))
        return head

    @query
    def head(self, table: ReadTable) -> dict[str, Any]:
        """Number and hash of the last entry: to be noted where nobody here can change it."""
        return dict(table.get("head", _NONE))

    @query
    def entries(self, table: ReadTable, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Entries by number."""
        rows = table.range("e/", start=_key(max(0, min(after, 2**53)) + 1), limit=max(1, min(limit, 1000)))
        return [entry for _, entry in rows]

    @query
    def verify(self, table: ReadTable, after: int = 0) -> dict[str, Any]:
        """Whether the next 10,000 entries after this number follow from each other; where it goes on."""
        rows = [
            each for _, each in table.range("e/", start=_key(max(0, min(after, 2**53)) + 1), limit=10_000)
        ]
        before = rows[0]["before"] if rows else None
        for entry in rows:
            if entry["before"] != before:
                return {"good": False, "number": entry["number"]}
            before = _hash(entry)
        return {"good": True, "number": rows[-1]["number"] if rows else after}


def _key(number: int) -> str:
    return f"e/{number:016d}"


def _hash(entry: dict[str, Any]) -> str:
    text = json.dumps(entry, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
