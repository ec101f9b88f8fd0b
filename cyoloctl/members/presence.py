"""The latest process of each node, and how far its disk had got: so that copies are recognised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from cyoloctl.errors import Conflict, InvalidInput, NotFound
from cyoloctl.members.machine import MemberMachine
from cyoloctl.replicated.checks import Check, checked, integer, json_object, member_name, text
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS, Malformed, Refused
from cyoloctl.replicated.machine import NO_ROWS, Machine, Operations, Rows
from cyoloctl.text import Json

__all__ = ["Presence", "PresenceMachine"]


@dataclass(frozen=True, slots=True)
class Presence:
    """boots: how often the node's disk was started.  boot: random, of its latest process.

    index: of a committed log entry that its disk held; it can never hold less.
    """

    boots: int
    boot: str
    index: int


class PresenceMachine(Machine):
    """Operations, each answered with ``{"name","boots","index"}``:

    ``boot {name, boots, boot, index}``: a process of a member began; index is
    that of an entry that it has applied.  conflict when the register knows a
    later process, or another one that was counted the same: one of the two
    runs on a copy of the other's disk.
    ``reached {name, index}``: the leader knows that the member's disk holds
    the committed entry of this index.

    Both are refused with not_found for a name that is no member, and with
    invalid_input for an index above the entry's own.  What is known of a
    member goes with it (`forget_member`).

    PROPOSERS: which node may propose an operation for others; ``reached`` is
    the leader's own word, so no peer may forward it.
    """

    NAME = "presence"
    PROPOSERS: ClassVar[dict[str, str]] = {"boot": "self", "reached": "leader"}

    def __init__(self, members: MemberMachine) -> None:
        super().__init__(_OPERATIONS)
        self._members = members
        self._nodes: dict[str, Presence] = {}

    def get(self, name: str) -> Presence | None:
        """The latest known process of a member."""
        return self._nodes.get(name)

    def forget_member(self, name: str, index: int) -> None:
        """The member was removed; its name never returns."""
        self._nodes.pop(name, None)

    def _boot(self, given: Json, index: int, now_unix_ms: int) -> Json:
        name, boots, boot = given["name"], given["boots"], given["boot"]
        self._refuse(given, index)
        known = self._nodes.get(name)
        if known is not None and (known.boots > boots or (known.boots == boots and known.boot != boot)):
            raise Refused(
                Conflict(
                    f"another process of {name} was started {known.boots} times, this one {boots}: "
                    "one of them runs on a copy of the other's disk"
                )
            )
        return self._put(name, boots, boot, given["index"])

    def _reached(self, given: Json, index: int, now_unix_ms: int) -> Json:
        self._refuse(given, index)
        known = self._nodes.get(given["name"], Presence(0, "", 0))
        return self._put(given["name"], known.boots, known.boot, given["index"])

    def _refuse(self, given: Json, index: int) -> None:
        name = given["name"]
        if self._members.get(name) is None:
            raise Refused(NotFound(f"there is no member {name}: see member list"))
        if given["index"] > index:
            raise Refused(InvalidInput(f"{name} cannot hold entry {given['index']} at entry {index}"))

    def _put(self, name: str, boots: int, boot: str, index: int) -> Json:
        known = self._nodes.get(name)
        held = max(index, known.index if known is not None else 0)
        self._nodes[name] = Presence(boots, boot, held)
        return {"name": name, "boots": boots, "index": held}

    def export_state(self) -> dict[str, Any]:
        """The state for the snapshot."""
        return {
            name: {"boot": known.boot, "boots": known.boots, "index": known.index}
            for name, known in self._nodes.items()
        }

    def prepare_restore(self, state: object, tables: Rows = NO_ROWS) -> Callable[[], None]:
        """Checks an exported state; the returned function puts it in place.  Raises ValueError."""
        try:
            nodes = {
                member_name(name): Presence(**checked(fields, _STATE))
                for name, fields in json_object(state).items()
            }
        except Malformed:
            raise ValueError("the record of a node's processes is not valid") from None

        def commit() -> None:
            self._nodes = nodes

        return commit


_boots = integer(0, MAX_TIME_UNIX_MS, "the number of starts")
_index = integer(0, MAX_TIME_UNIX_MS, "the index")
_boot = text(r"[\x21-\x7e]{0,64}", "the boot is not valid: use up to 64 printable ascii characters")
_STATE: dict[str, Check] = {"boots": _boots, "boot": _boot, "index": _index}
_OPERATIONS: Operations = {
    "boot": ({"name": member_name, **_STATE}, PresenceMachine._boot),
    "reached": ({"name": member_name, "index": _index}, PresenceMachine._reached),
}
