"""Clients that are handed things with an end, and check that each lasts as long as it was promised.

Three threads work through all nodes while the faults go on: sessions (minted on one
node, shown to others until after their end), rendezvous (begun, approved, redeemed once,
on three nodes), invitations (made all the time, some withdrawn, some kept and redeemed
when everything is over).  True time is this process's monotonic clock.

An answer that says nothing (no leader, outcome unknown) is counted and proves nothing.
Any refusal for the sake of time before the true end is a broken promise, and so is a
session that opens too long after it.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cyoloctl.control.client import Client
from cyoloctl.errors import (
    AccessDenied,
    ClientTimeout,
    CyoloctlError,
    OutcomeUnknown,
    StorageError,
    TokenRejected,
    Unavailable,
    Unreachable,
)

__all__ = ["LATE_S", "Keepers"]

# StorageError: the node that was asked says that its disk has failed, and ends.
_SILENT = (Unavailable, Unreachable, OutcomeUnknown, ClientTimeout, StorageError)
"""Errors that say nothing about what was promised."""

_LEEWAY_S = 60
"""Sessions open that much longer than their time to live, for the clocks of whoever made them."""

LATE_S = 30.0
"""How much later than that a session may still open: cluster time stands still while nobody leads."""

_SHORT_TTLS_S = (2, 5, 10)
_LONG_TTL_S = 900
_RENDEZVOUS_TTL_S = 120
_MOST_PROBLEMS = 40  # told; one wrong clock can break a thousand
_GIVE_UP_S = 60.0  # half of a rendezvous' life: after that, nothing is claimed about it
_INVITATION_TTL_S = 900
_KEPT = 3


@dataclass(frozen=True, slots=True)
class _Session:
    """asked_s, answered_s: between these it was minted, on the monotonic clock."""

    token: str
    minter: str
    ttl_s: int
    asked_s: float
    answered_s: float


class Keepers:
    """Starts and ends the threads.

    endpoints: node name -> endpoint.  now: seconds since the run began, for the problems' texts.
    """

    def __init__(self, endpoints: Mapping[str, str], *, seed: int, now: Callable[[], float]) -> None:
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.kept: dict[str, str] = {}
        """Invitations for the end of the run: name -> join token."""
        self.withdrawn: dict[str, str] = {}
        """Some that were withdrawn: none may be redeemed."""
        self._endpoints = dict(endpoints)
        self._now = now
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._sessions: list[_Session] = []
        work = {
            "sessions": self._sessions_turn,
            "rendezvous": self._rendezvous_turn,
            "invitations": self._invite,
        }
        self._threads = [
            threading.Thread(target=self._run, args=(turn, random.Random(f"{seed}/{name}")), daemon=True)
            for name, turn in work.items()
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """End, each after the turn that it is in."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * _GIVE_UP_S)
            if thread.is_alive():
                self._broken("a client of promises was not answered")

    def _run(self, turn: Callable[[random.Random], None], rng: random.Random) -> None:
        try:
            while not self._stop.wait(rng.random() * 0.2):
                turn(rng)
        except Exception as error:
            self._broken(f"a client of promises failed: {error!r}")

    def forget_kept(self) -> None:
        """The CA was exchanged: what was made before pins the old one."""
        with self._lock:
            self.kept.clear()

    # --- what is counted --------------------------------------------------------------------------

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def _broken(self, text: str) -> None:
        with self._lock:
            self.counts["BROKEN"] += 1
            if len(self.problems) < _MOST_PROBLEMS:
                self.problems.append(f"{self._now():.1f} s: {text}")

    def _ask(
        self, name: str, operation: str, what: str, /, whose: str = "", timeout_s: float = 2.0, **body: Any
    ) -> dict[str, Any]:
        """One call; counts answers that say nothing, and raises them.  whose: the name in the path."""
        client = Client([self._endpoints[name]], credentials=None, timeout_s=timeout_s, retry=False)
        try:
            answer = client.call(operation, whose, body)
        except _SILENT:
            self._count(f"{what}: no answer")
            raise
        self._count(what)
        return answer

    # --- sessions ---------------------------------------------------------------------------------

    def _sessions_turn(self, rng: random.Random) -> None:
        if rng.random() < 0.3 or not self._sessions:
            self._mint(rng)
        else:
            self._show(rng, rng.choice(self._sessions))

    def _mint(self, rng: random.Random) -> None:
        name = rng.choice(list(self._endpoints))
        ttl_s = rng.choice((*_SHORT_TTLS_S, _LONG_TTL_S))
        asked_s = time.monotonic()
        try:
            token = str(self._ask(name, "token_mint", "sessions minted", sub="zoe", ttl_s=ttl_s)["token"])
        except _SILENT:
            return
        except CyoloctlError as error:
            self._broken(f"{name} mints nothing: {error.code}: {error.message}")
            return
        self._sessions.append(_Session(token, name, ttl_s, asked_s, time.monotonic()))
        if len(self._sessions) > 400:
            del self._sessions[rng.randrange(200)]

    def _show(self, rng: random.Random, session: _Session) -> None:
        name = rng.choice(list(self._endpoints))
        quorum = rng.random() < 0.3
        asked_s = time.monotonic()
        what = "sessions shown"
        try:
            self._ask(name, "token_inspect", what, token=session.token, require_quorum=quorum)
        except _SILENT:
            return
        except TokenRejected:
            age_s = time.monotonic() - session.asked_s
            if age_s < session.ttl_s:
                self._broken(
                    f"{name} rejects a session of {session.ttl_s} s, of {session.minter}, after {age_s:.1f} s"
                )
            else:
                self._count("sessions refused after their end")
                self._forget(session)
        except CyoloctlError as error:
            self._broken(f"{name} opens nothing: {error.code}: {error.message}")
        else:
            late_s = asked_s - session.answered_s - session.ttl_s - _LEEWAY_S
            if late_s > LATE_S:
                self._broken(f"{name} opens a session of {session.ttl_s} s {late_s:.1f} s after its end")
                self._forget(session)

    def _forget(self, session: _Session) -> None:
        if session in self._sessions:
            self._sessions.remove(session)

    # --- rendezvous -------------------------------------------------------------------------------

    def _rendezvous_turn(self, rng: random.Random) -> None:
        names = list(self._endpoints)
        began_s = time.monotonic()
        try:
            begun = self._ask(
                rng.choice(names), "rendezvous_start", "rendezvous begun", kind="mfa", ttl_s=_RENDEZVOUS_TTL_S
            )
        except _SILENT:
            return
        except CyoloctlError as error:
            self._broken(f"no rendezvous begins: {error.code}: {error.message}")
            return
        identifier = begun["id"]
        mark = f"{rng.getrandbits(64):016x}"
        asks: tuple[tuple[str, dict[str, Any]], ...] = (
            ("rendezvous_approve", {"request_id": f"approve-{mark}"}),
            ("rendezvous_wait", {"request_id": mark}),
        )
        for operation, body in asks:
            answer = self._until_answered(rng, began_s, operation, {"id": identifier, **body})
            if answer is None:
                return
        if rng.random() < 0.5:
            self._redeemed_once(rng, identifier)

    def _until_answered(
        self, rng: random.Random, began_s: float, operation: str, body: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Repeat it through any node until it is answered; None when given up, or when it broke a promise."""
        while time.monotonic() - began_s < _GIVE_UP_S:
            name = rng.choice(list(self._endpoints))
            try:
                return self._ask(name, operation, operation.replace("_", " "), **body)
            except _SILENT:
                self._stop.wait(0.05)
            except CyoloctlError as error:
                age_s = time.monotonic() - began_s
                self._broken(
                    f"{operation} through {name}, {age_s:.1f} s into a rendezvous of {_RENDEZVOUS_TTL_S} s: "
                    f"{error.code}: {error.message}"
                )
                return None
        self._count("rendezvous given up")
        return None

    def _redeemed_once(self, rng: random.Random, identifier: str) -> None:
        name = rng.choice(list(self._endpoints))
        try:
            self._ask(name, "rendezvous_wait", "second redemptions", id=identifier, request_id="f" * 16)
        except _SILENT:
            return
        except CyoloctlError:
            self._count("second redemptions refused")
            return
        self._broken(f"{name} redeems rendezvous {identifier} a second time")

    # --- invitations ------------------------------------------------------------------------------

    def _invite(self, rng: random.Random) -> None:
        name = rng.choice(list(self._endpoints))
        guest = f"guest-{rng.getrandbits(40):010x}"
        try:
            answer = self._ask(
                name, "member_invite", "invitations", name=guest, learner=True, ttl_s=_INVITATION_TTL_S
            )
        except _SILENT:
            return
        except CyoloctlError as error:
            if not _is_a_learners(error):
                self._broken(f"{name} invites nobody: {error.code}: {error.message}")
            return
        if len(self.kept) < _KEPT:
            with self._lock:
                self.kept[guest] = str(answer["token"])
        else:
            self._withdraw(rng, guest, str(answer["token"]))
        self._stop.wait(rng.random() * 2)

    def _withdraw(self, rng: random.Random, guest: str, token: str) -> None:
        name = rng.choice(list(self._endpoints))
        try:
            self._ask(name, "member_uninvite", "invitations withdrawn", whose=guest)
        except _SILENT:
            return
        except CyoloctlError as error:
            if not _is_a_learners(error):
                self._broken(f"{name} withdraws no invitation: {error.code}: {error.message}")
            return
        if len(self.withdrawn) < _KEPT:
            self.withdrawn[guest] = token


def _is_a_learners(error: CyoloctlError) -> bool:
    """Whether a node refused that was demoted meanwhile, and knows who may."""
    return isinstance(error, AccessDenied) and "ask a voter" in error.message
