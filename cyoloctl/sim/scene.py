"""Where an operation is proposed, and what is drawn there."""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cyoloctl.state import ClusterState

__all__ = ["DAY_MS", "Scene"]

DAY_MS = 86_400_000

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Scene:
    """Where an operation is proposed.

    node: the member that proposes it.  state: its copy, which may be old.
    right_unix_ms: the true time.  far: the time may be set to any other.
    nodes: names of the simulated nodes; the other members are nothing but records.
    crowd: draws who else comes, where tables are so small that a few people fill them; None: it is one.
    witnesses: draws when one is invited, granted, or asked for what it must not have; None: nobody is one.
    lockers: draws who locks what; None: nobody does.
    keepers: draws who keeps what under which key; None: nobody does.
    """

    rng: random.Random
    node: str
    state: ClusterState
    right_unix_ms: int
    far: bool
    nodes: Collection[str]
    crowd: random.Random | None = None
    witnesses: random.Random | None = None
    lockers: random.Random | None = None
    keepers: random.Random | None = None

    @property
    def now(self) -> int:
        """Cluster time of the copy."""
        return self.state.time_unix_ms

    def pick(self, *choices: _T) -> _T:
        """One of these."""
        return self.rng.choice(choices)

    def one_of(self, found: Sequence[_T], otherwise: _T) -> _T:
        """One of those found, mostly; the other one where there is none, and now and then."""
        return self.rng.choice(found) if found and self.rng.random() < 0.85 else otherwise

    def digest(self, many: int) -> str:
        """One of so many digests."""
        return f"{self.rng.randrange(many):064x}"

    def person(self) -> str:
        """The digest of somebody who tries a code."""
        return f"{0 if self.crowd is None else self.crowd.randrange(4):064x}"

    def end(self) -> int:
        """An end: passed, close, or far away."""
        return max(0, self.now + self.pick(-10, 1_000, 4_000, 60_000, 30 * DAY_MS))

    def name(self) -> str:
        """A name for a member: of this node, one that no node has, or one that was removed."""
        removed = self.state.members.removed()
        if removed and self.rng.random() < 0.15:
            return self.rng.choice(removed)
        return self.node if self.rng.random() < 0.3 else f"m{self.rng.randrange(8)}"

    def member(self) -> str:
        """A member, or this node."""
        return self.one_of([member.name for member in self.state.members.members()], self.name())

    def key_members(self) -> list[str]:
        """Members that are given keys; now and then all of them."""
        if self.witnesses is not None and self.witnesses.random() < 0.15:
            return [member.name for member in self.state.members.members()]
        return [member.name for member in self.state.members.key_members()]

    def record(self) -> str:
        """A member that is nothing but a record, or one that might be."""
        found = [each.name for each in self.state.members.members() if each.name not in self.nodes]
        return self.one_of(found, f"m{self.rng.randrange(8)}")

    def blobs(self, names: Sequence[str]) -> dict[str, str]:
        """Something sealed to each."""
        blob = b64encode(self.rng.randbytes(80)).decode()
        return dict.fromkeys(names, blob)
