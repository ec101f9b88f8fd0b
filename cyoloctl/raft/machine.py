"""Interface of the state machine that the engine replicates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, Protocol

from cyoloctl.model import Source, Stamp

__all__ = ["PeerRole", "StateMachine"]

PeerRole = Literal["voter", "learner"]


class StateMachine(Protocol):
    """The replicated state machine.  Bytes in, bytes out; no clock, no randomness, no I/O."""

    def advance(self, stamp: Stamp) -> None:
        """An entry of this stamp is applied: its commands follow."""
        ...

    def stamp(self) -> Stamp:
        """The time that the state has reached."""
        ...

    def admit(self, command: bytes, peer: str, role: PeerRole) -> bytes | None:
        """As leader, before a peer's command is logged: the result that refuses it, None to log it.

        peer: its name.  role: what the configuration in force says of it.
        """
        ...

    def refused_unlogged(self, result: bytes) -> bool:
        """Whether `admit` gave this result: the leader has not logged the command for it."""
        ...

    def apply(self, index: int, command: bytes, after: int | None = None) -> bytes:
        """Apply one command.  Deterministic and total: refusals are results.

        after: see `BatchItem`.  Raises VersionMismatch for what this release
        cannot apply and a newer one can: the node then stops.
        """
        ...

    def begin_snapshot(self) -> Callable[[], Iterable[bytes]]:
        """The whole state of this moment, in parts, the same bytes for the same state.

        Quick, for it holds the node up; the returned function encodes, once, in
        another thread, in steps that do not, while commands are applied.
        """
        ...

    def prepare_restore(self, source: Source, /) -> Callable[[], None]:
        """Read a state and verify it; the returned function puts it in place, at once, and cannot fail.

        source: its bytes, to be read once.  Changes nothing, and may run in
        another thread while commands are applied.
        Raises StorageError or VersionMismatch.
        """
        ...
