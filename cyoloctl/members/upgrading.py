"""Operations of a node on the cluster's level: what the members understand, and raising it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cyoloctl import __version__
from cyoloctl.errors import VersionMismatch
from cyoloctl.members.api import Problem
from cyoloctl.members.facts import problem
from cyoloctl.members.levels import LevelMachine, named
from cyoloctl.members.machine import MemberMachine
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.security_log import log_security
from cyoloctl.text import Json

__all__ = ["Standing", "UpgradeOperations", "target"]

_COMMAND = "cyoloctl cluster upgrade"


class Standing(NamedTuple):
    """A member, the release that it said it runs (None: it is away), and the level that it understands."""

    name: str
    release: str | None
    level: int


def target(level: int, members: Iterable[Standing]) -> tuple[int, list[str]]:
    """The level that a cluster can go to, and who keeps it from the highest that any member understands.

    level: the present one.  The names are empty where it can go to the highest.
    """
    listed = list(members)
    every = min((each.level for each in listed), default=level)
    highest = max((each.level for each in listed), default=level)
    return max(level, every), [each.name for each in listed if each.level < max(level, highest)]


class UpgradeOperations:
    """Tells how far the members' releases are apart, and raises the level once all understand more.

    name: this node's.
    """

    def __init__(
        self, proposer: Proposer, members: MemberMachine, levels: LevelMachine, *, name: str
    ) -> None:
        self._proposer = proposer
        self._members = members
        self.levels = levels
        self._name = name

    def standings(self) -> list[Standing]:
        """The members by name.

        The word of a member's present process counts where it understands less than it had announced.
        """
        peers = self._proposer.engine.peers()
        found = []
        for member in self._members.members():
            peer, level = peers.get(member.name), self.levels.understood(member.name)
            if member.name == self._name:
                found.append(Standing(member.name, __version__, self.levels.own.level))
            elif peer is None:
                found.append(Standing(member.name, None, level))
            else:
                found.append(Standing(member.name, peer.release, min(level, peer.level)))
        return found

    async def upgrade(self, *, dry_run: bool, request_id: str | None, timeout_s: float) -> Json:
        """Raise the cluster's level to the highest that every member understands.

        Raises VersionMismatch, naming the members, where some understand more
        than others and the level cannot be raised.
        """
        deadline = time.monotonic() + timeout_s
        await self._proposer.fresh(timeout_s=timeout_s)

        async def run() -> Json:
            return await self._upgrade(dry_run, max(0.1, deadline - time.monotonic()))

        if dry_run:
            return await run()
        return await self._proposer.once(
            "cluster_upgrade", {}, run, request_id=request_id, timeout_s=max(0.1, deadline - time.monotonic())
        )

    async def _upgrade(self, dry_run: bool, timeout_s: float) -> Json:
        levels, members = self.levels, self.standings()
        level = levels.level
        to, waits_for = target(level, members)
        if to == level and waits_for:
            raise VersionMismatch(self._waiting(members, waits_for))
        if to > level and not dry_run:
            given = {"to": to, "release": levels.own.first(to)}
            await self._proposer.apply_here("levels", "raise", given, request_id=None, timeout_s=timeout_s)
            log_security("cluster upgrade", level=to)
        return {
            "level": level,
            "to": to,
            "release": levels.own.first(to) if to > level else levels.release or None,
            "changed": to > level,
            "dry_run": dry_run,
            "waits_for": waits_for,
            "members": [
                {"name": each.name, "release": each.release, "level": each.level} for each in members
            ],
        }

    def _waiting(self, members: list[Standing], names: list[str]) -> str:
        best = max(members, key=lambda each: each.level)
        release = self.levels.own.since.get(best.level) or best.release
        needed = "the release that the others run" if release is None else f"release {release} or a later one"
        verb = "does" if len(names) == 1 else "do"
        return (
            f"the cluster stays at level {self.levels.level}: {named(names)} {verb} not understand level "
            f"{best.level}; install {needed} there, one after the other, then repeat the command"
        )

    def problems(self) -> Iterator[Problem]:
        """The step that is left once every member runs the newer release."""
        to, _ = target(self.levels.level, self.standings())
        if to > self.levels.level:
            yield problem(
                "level_behind",
                None,
                f"every member understands level {to}, and the cluster is at level {self.levels.level}: "
                "raise it when no member has to go back to the earlier release",
                _COMMAND,
            )
