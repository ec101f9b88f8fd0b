"""The level of the cluster, and what each member understands: see ``replicated/levels.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from cyoloctl.errors import NotFound, VersionMismatch
from cyoloctl.members.machine import MemberMachine
from cyoloctl.replicated.checks import exact, integer, json_object, member_name, text
from cyoloctl.replicated.command import Malformed, Refused
from cyoloctl.replicated.levels import BASE_LEVEL, MAX_LEVEL, Release
from cyoloctl.replicated.machine import NO_ROWS, Machine, Operations, Rows
from cyoloctl.text import Json

__all__ = ["LevelMachine", "named", "not_understood"]


def named(names: list[str]) -> str:
    """Names in a sentence: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


class LevelMachine(Machine):
    """Operations and their answers:

    ``announce {name, level}`` -> the same: the member's process understands
    this level and all below; also after it went back to an earlier release.
    not_found for a name that is no member, version_mismatch for a level below
    the cluster's.
    ``raise {to, release}`` -> ``{level, release, changed}``: the cluster is at
    this level from the entry on, and never goes back.  release: the first that
    understands it, for whoever does not.  version_mismatch while a member
    does not; changed is false where the cluster is there already.

    A node that does not understand the level stops at the entry that raises
    it, and takes no snapshot of a state that has it: VersionMismatch.

    Of a member that has announced nothing, and of one that understands no
    more than the base, nothing is kept: the state of a cluster that never
    saw a second level has no place in snapshots.
    """

    NAME = "levels"
    PROPOSERS: ClassVar[dict[str, str]] = {"announce": "self", "raise": "voter"}

    def __init__(self, members: MemberMachine, release: Release) -> None:
        super().__init__(_OPERATIONS)
        self._members = members
        self.own = release
        """The release that runs here.  Not replicated."""
        self.level = BASE_LEVEL
        self.release = ""
        """The first release that understands `level`; empty at the base."""
        self._understood: dict[str, int] = {}

    def understood(self, name: str) -> int:
        """The highest level that a member understands, by its own word."""
        return self._understood.get(name, BASE_LEVEL)

    def lacking(self, level: int) -> list[str]:
        """The members that do not understand a level, by name."""
        return [each.name for each in self._members.members() if self.understood(each.name) < level]

    def why_refused(self, machine: str, operation: str) -> str | None:
        """Why an operation may not be proposed yet, for its caller; None when it may."""
        needed = self.own.level_of(machine, operation)
        if needed <= self.level:
            return None
        what = f"{machine}.{operation} needs level {needed}, and the cluster is at level {self.level}"
        lacking = self.lacking(needed)
        if lacking:
            verb = "does" if len(lacking) == 1 else "do"
            return (
                f"{what}: {named(lacking)} {verb} not understand it; install release "
                f"{self.own.first(needed)} there, then raise the level (`cyoloctl cluster upgrade`)"
            )
        return f"{what}: every member understands it, so raise the level (`cyoloctl cluster upgrade`)"

    def is_new(self) -> bool:
        """See Machine."""
        return self.level == BASE_LEVEL and not self._understood

    def forget_member(self, name: str, index: int) -> None:
        """See Machine."""
        self._understood.pop(name, None)

    def forget_members(self) -> None:
        """A new cluster goes on with this state: its members are strangers here, the level stays."""
        self._understood = {}

    def refuse_newer(self, state: object) -> None:
        """Refuse the exported state of a cluster whose level this release does not understand.

        Raises VersionMismatch; anything else is for `prepare_restore`.
        """
        level = state.get("level") if type(state) is dict else None
        if type(level) is int and level > self.own.level:
            raise VersionMismatch(not_understood(self.own, level, str(state["release"])))  # type: ignore[index]

    def _announce(self, given: Json, index: int, now_unix_ms: int) -> Json:
        name, level = given["name"], given["level"]
        if self._members.get(name) is None:
            raise Refused(NotFound(f"there is no member {name}: see member list"))
        if level < self.level:
            raise Refused(
                VersionMismatch(
                    f"the cluster is at level {self.level}, and {name} understands level {level}: "
                    f"install release {self.release} or a later one there"
                )
            )
        if level == BASE_LEVEL:
            self._understood.pop(name, None)
        else:
            self._understood[name] = level
        return {"name": name, "level": level}

    def _raise(self, given: Json, index: int, now_unix_ms: int) -> Json:
        to, release = given["to"], given["release"]
        if to <= self.level:
            return {"level": self.level, "release": self.release, "changed": False}
        lacking = self.lacking(to)
        if lacking:
            verb = "does" if len(lacking) == 1 else "do"
            raise Refused(
                VersionMismatch(
                    f"{named(lacking)} {verb} not understand level {to}: install release {release} "
                    "or a later one there, then try again"
                )
            )
        if to > self.own.level:
            raise VersionMismatch(not_understood(self.own, to, release))
        self.level, self.release = to, release
        return {"level": to, "release": release, "changed": True}

    def export_state(self) -> dict[str, Any]:
        """The state for the snapshot."""
        return {"level": self.level, "release": self.release, "understood": dict(self._understood)}

    def prepare_restore(self, state: object, tables: Rows = NO_ROWS) -> Callable[[], None]:
        """Checks an exported state; the returned function puts it in place.  Raises ValueError."""
        top = exact(state, {"level", "release", "understood"})
        try:
            level, release = _level(top["level"]), _release_or_none(top["release"])
            understood = {
                member_name(name): _level(each) for name, each in json_object(top["understood"]).items()
            }
        except Malformed:
            raise ValueError("the level of the cluster is not valid") from None
        if bool(release) != (level > BASE_LEVEL) or BASE_LEVEL in understood.values():
            raise ValueError("the level of the cluster contradicts itself")

        def commit() -> None:
            self.level, self.release, self._understood = level, release, understood

        return commit


def not_understood(own: Release, level: int, release: str) -> str:
    """What keeps a release away from data of a level that it does not understand."""
    return (
        f"the cluster was raised to level {level}, and release {own.name} understands level {own.level}: "
        f"install release {release} or a later one"
    )


_level = integer(BASE_LEVEL, MAX_LEVEL, "the level")
_name = r"[0-9A-Za-z.+\-]"
_rule = "the release is not valid: use 1 to 40 of a-z, A-Z, 0-9, '.', '+' and '-'"
_release = text(f"{_name}{{1,40}}", _rule)
_release_or_none = text(f"{_name}{{0,40}}", _rule)

_OPERATIONS: Operations = {
    "announce": ({"name": member_name, "level": _level}, LevelMachine._announce),
    "raise": ({"to": _level, "release": _release}, LevelMachine._raise),
}
