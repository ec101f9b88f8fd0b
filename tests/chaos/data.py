"""Clients that keep data by key and take locks through every node, and note all that they are told.

Registers: four keys that are read, also without confirmation, written, compared and deleted; each write is
repeated under its request id until it is answered, or left behind unanswered.
A set: keys that are made once and listed.  Watchers, which read every change
through another node each time.  Workers, which take a lock, write with its fence,
and go on writing when they have lost it.  `judging` says what of it is wrong.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from cyoloctl.control.client import Client
from cyoloctl.errors import (
    AccessDenied,
    AlreadyExists,
    ClientTimeout,
    Conflict,
    CyoloctlError,
    FenceLost,
    NotFound,
    OutcomeUnknown,
    StorageError,
    Unavailable,
    Unreachable,
)
from cyoloctl.web.steps import consistency
from tests.chaos.judging import REGISTER, Call, Change, Fenced, Hold, Notes, Page

__all__ = ["LOCKS", "REGISTERS", "DataClients"]

REGISTERS = tuple(f"{REGISTER}{number}" for number in range(4))
LOCKS = ("chaos-a", "chaos-b")
_TTL_S = 2.0
_NOT_DONE = (Unavailable, Unreachable, ClientTimeout)
_SILENT = (*_NOT_DONE, OutcomeUnknown, StorageError)
"""Errors that say nothing about what was asked.  StorageError: the node's disk has failed, and it ends."""


class DataClients:
    """Starts and ends the threads.

    endpoints: node name -> endpoint.  rate: operations per second of all
    clients of registers and of the set together, at most.
    now: seconds since the run began.  stale: read registers without confirmation, as if it were with one,
    to see that the check finds it.
    """

    def __init__(
        self,
        endpoints: Mapping[str, str],
        *,
        seed: int,
        now: Callable[[], float],
        rate: float = 40.0,
        stale: bool = False,
    ) -> None:
        self.notes = Notes()
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self._stale = stale
        self._endpoints = dict(endpoints)
        self._now = now
        self._pause_s = 4 / rate
        self._stop = threading.Event()
        self._abandon = threading.Event()
        self._pause = threading.Event()  # never set
        self._watched_to: int | None = None
        self._lock = threading.Lock()
        work: dict[str, Callable[[random.Random, str], None]] = {
            **{f"register-{number}": self._register for number in range(3)},
            "set-0": self._set,
            **{f"lock-{number}": self._worker for number in range(3)},
            "ring-0": self._rotate,
        }
        self._threads = [
            threading.Thread(target=self._run, args=(turn, f"{seed}/{name}", name), daemon=True)
            for name, turn in work.items()
        ]
        self._watchers = [
            threading.Thread(target=self._watch, args=(f"{seed}/watch-{number}", number), daemon=True)
            for number in range(2)
        ]
        self.notes.changes = [[] for _ in self._watchers]

    def start(self) -> None:
        for thread in (*self._threads, *self._watchers):
            thread.start()

    def finish(self, timeout_s: float) -> None:
        """No new operations; those that wait for an answer get so long."""
        self._stop.set()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        self._abandon.set()
        for thread in self._threads:
            thread.join(20.0)
            if thread.is_alive():
                self._broken("a client of data was not answered")

    def last_reads(self) -> None:
        """Every register and the set through every node: they belong to what is judged."""
        for name in self._endpoints:
            for key in REGISTERS:
                self._get(f"last-{name}", key, name, 10.0)
                self._get_stale(f"last-{name}", key, name)
            self._list(name, 10.0)
            self._list_stale(name)

    def finish_watching(self) -> None:
        """Return when the watchers have seen the newest change, and stop them."""
        name = next(iter(self._endpoints))
        page = self._ask(name, "kv_list", "last revision", query={"limit": 1, "values": "without"})
        self._watched_to = page["revision"]
        for thread in self._watchers:
            thread.join(30.0)
            if thread.is_alive():
                self._broken(f"a watcher did not get to revision {self._watched_to} within 30 s")

    def all_sealed_again(self) -> bool:
        """Whether all sealed values are under the ring's primary key."""
        status = self._ask(next(iter(self._endpoints)), "key_status", "ring shown")
        return all(not count for key, count in status["sealed_values"].items() if key != status["primary"])

    def _run(self, turn: Callable[[random.Random, str], None], seed: str, name: str) -> None:
        rng = random.Random(seed)
        try:
            while not self._stop.wait(rng.random() * 2 * self._pause_s):
                turn(rng, name)
        except Exception as error:
            self._broken(f"a client of data failed: {error!r}")

    def _broken(self, text: str) -> None:
        with self._lock:
            self.problems.append(f"{self._now():.1f} s: {text}")

    def _note(self, into: list[Any], what: Any) -> None:
        with self._lock:
            into.append(what)

    def _any(self, rng: random.Random) -> str:
        return rng.choice(list(self._endpoints))

    def _ask(
        self,
        name: str,
        operation: str,
        what: str,
        body: dict[str, Any] | None = None,
        *,
        whose: str = "",
        query: dict[str, Any] | None = None,
        timeout_s: float = 2.0,
    ) -> dict[str, Any]:
        """One call; counts what was answered, and raises what says nothing."""
        client = Client([self._endpoints[name]], credentials=None, timeout_s=timeout_s)
        try:
            answer = client.call(operation, whose, body, query=query)
        except _SILENT:
            self._count(f"{what}: no answer")
            raise
        except CyoloctlError as error:
            self._count(f"{what}: {error.code}")
            raise
        self._count(what)
        return answer

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    # -- registers ---------------------------------------------------------------------------------

    def _register(self, rng: random.Random, client: str) -> None:
        key = rng.choice(REGISTERS)
        draw = rng.random()
        if draw < 0.08:
            self._get_stale(client, key, self._any(rng))
            return
        if draw < 0.12:
            self._list_stale(self._any(rng))
            return
        if draw < 0.45:
            self._get(client, key, self._any(rng), rng.choice((0.5, 2.0)))
            return
        value = f"{rng.getrandbits(64):016x}"
        body: dict[str, Any] = {"key": key, "request_id": value}
        if draw < 0.70:
            call = Call(client, key, "put", (value,), self._now())
        elif draw < 0.95:
            seen = self._get(client, key, self._any(rng), 2.0)
            if seen is None:
                return
            body["if_revision"] = seen[1]
            call = Call(client, key, "cas", (seen[1], value), self._now())
        else:
            call = Call(client, key, "delete", (), self._now())
        if call.f != "delete":
            body["value"] = value
            body["sealed"] = rng.random() < 0.3
        self._note(self.notes.calls, call)
        self._until_answered(rng, call, body, patient=call.f == "delete" or rng.random() < 0.7)

    def _get(self, client: str, key: str, name: str, timeout_s: float) -> tuple[str | None, int] | None:
        """Value and revision as they were answered, (None, 0) where there is none; None without an answer."""
        call = Call(client, key, "get", (), self._now())
        seen = self._read(call, name, timeout_s, stale=self._stale)
        if seen is not None:
            self._note(self.notes.calls, call)
        return seen

    def _get_stale(self, client: str, key: str, name: str) -> None:
        call = Call(client, key, "get", (), self._now())
        if self._read(call, name, 2.0, stale=True, what="kv get stale") is not None:
            self._note(self.notes.stale, call)

    def _read(
        self, call: Call, name: str, timeout_s: float, *, stale: bool, what: str = "kv get"
    ) -> tuple[str | None, int] | None:
        """As `_get`; call: is given the answer."""
        seen: tuple[str | None, int] = (None, 0)
        query = {"key": call.key, **consistency(stale)}
        try:
            entry = self._ask(name, "kv_get", what, query=query, timeout_s=timeout_s)
            seen = entry["value"], entry["revision"]
        except NotFound:
            pass
        except _SILENT:
            return None  # it had no effect
        call.done(None if seen[0] is None else seen, self._now(), name)
        return seen

    def _list_stale(self, name: str) -> None:
        start_s = self._now()
        query = {"prefix": REGISTER, "values": "with", "limit": 1000, **consistency(True)}
        try:
            page = self._ask(name, "kv_list", "kv list stale", query=query)
        except _SILENT:
            return
        found = {each["key"]: (each["value"], each["revision"]) for each in page["entries"]}
        self._note(self.notes.pages, Page(start_s, self._now(), name, page["revision"], found))

    def _until_answered(self, rng: random.Random, call: Call, body: dict[str, Any], *, patient: bool) -> None:
        """Send it through any node; again and again under its request id, where patient."""
        operation, what = ("kv_delete", "kv delete") if call.f == "delete" else ("kv_put", f"kv {call.f}")
        doubtful = False
        while True:
            name = self._any(rng)
            try:
                answer = self._ask(name, operation, what, body, timeout_s=rng.choice((0.3, 2.0)))
                call.revision = answer["revision"]
                call.done(True, self._now(), name)
                return
            except (AlreadyExists, NotFound):
                call.done(False, self._now(), name)
                return
            except _NOT_DONE:
                pass
            except (OutcomeUnknown, StorageError):
                doubtful = True
            except Conflict as error:
                if call.f != "cas" or "request id" in error.message:
                    self._broken(f"{name} answers {call}: {error.message}")
                call.done(False, self._now(), name)
                return
            if not patient or self._abandon.wait(0.02 + rng.random() * 0.1):
                break
        if not doubtful:
            call.refused(self._now())

    def _rotate(self, rng: random.Random, client: str) -> None:
        """A new key of the ring now and then, so that sealed values are sealed again under faults."""
        if self._stop.wait(10.0 + rng.random() * 10.0):
            return
        try:
            self._ask(self._any(rng), "key_rotate", "ring rotated", {}, timeout_s=5.0)
        except (*_SILENT, Conflict, AccessDenied):
            return  # AccessDenied: the node is a learner at present

    # -- the set -----------------------------------------------------------------------------------

    def _set(self, rng: random.Random, client: str) -> None:
        if rng.random() < 0.2:
            self._list(self._any(rng), 2.0)
            return
        key = f"set/{rng.getrandbits(64):016x}"
        call = Call(client, key, "put", ("1",), self._now())
        self._note(self.notes.added, call)
        body = {"key": key, "value": "1", "request_id": key, "if_revision": 0}
        self._until_answered(rng, call, body, patient=rng.random() < 0.7)
        if call.outcome == "ok" and call.answer is False:
            self._broken(f"{key} is there already, and was never made before")

    def _list(self, name: str, timeout_s: float) -> None:
        start_s = self._now()
        query: dict[str, Any] = {"prefix": "set/", "values": "without", "limit": 1000}
        keys: list[str] = []
        while True:
            try:
                page = self._ask(name, "kv_list", "kv list", query=query, timeout_s=timeout_s)
            except _SILENT:
                return
            keys += [entry["key"] for entry in page["entries"]]
            if page["next"] is None:
                break
            query |= {"after": page["next"], "at_revision": page["revision"]}
        self._note(self.notes.lists, (start_s, self._now(), keys))

    # -- watchers ----------------------------------------------------------------------------------

    def _watch(self, seed: str, number: int) -> None:
        rng, revision = random.Random(seed), 1
        seen = self.notes.changes[number]
        try:
            while self._watched_to is None or revision <= self._watched_to:
                query = {"prefix": "", "from_revision": revision}
                try:
                    page = self._ask(
                        self._any(rng), "kv_changes", "watched", query=query, timeout_s=rng.choice((1.0, 3.0))
                    )
                except _SILENT:
                    self._pause.wait(0.05)  # all may be down: do not spin
                    continue
                seen += [
                    Change(
                        each["revision"],
                        each["type"],
                        each["key"],
                        each.get("value"),
                        each.get("version", 0),
                        each.get("created_revision", 0),
                    )
                    for each in page["changes"]
                ]
                revision = page["next_revision"]
        except Exception as error:
            self._broken(f"a watcher failed at revision {revision}: {error!r}")

    # -- locks -------------------------------------------------------------------------------------

    def _worker(self, rng: random.Random, client: str) -> None:
        """Take a lock, write with its fence for a while, then release it, or forget that it has an end."""
        lock = rng.choice(LOCKS)
        hold = self._acquire(rng, client, lock)
        if hold is None:
            return
        until_s = self._now() + rng.choice((0.5, 1.5, _TTL_S + 1.0))
        while self._now() < until_s and not self._stop.is_set():
            self._write_fenced(rng, client, hold)
            self._stop.wait(rng.random() * 0.3)
        if rng.random() < 0.6:
            hold.released_s = self._now()
            body = {"token": hold.token}
            try:
                self._ask(self._any(rng), "lock_release", "lock release", body, whose=lock)
            except _SILENT:
                return
            hold.free_s = self._now()
            self._write_fenced(rng, client, hold)

    def _acquire(self, rng: random.Random, client: str, lock: str) -> Hold | None:
        body = {"holder": f"{rng.getrandbits(128):032x}", "owner": client, "ttl_s": _TTL_S, "wait_s": 1}
        began_s = self._now()
        while not self._stop.is_set():
            asked_s = self._now()
            try:
                answer = self._ask(self._any(rng), "lock_acquire", "lock acquire", body, whose=lock)
            except _SILENT:
                self._stop.wait(0.05)
                continue
            if not answer["acquired"]:
                return None
            # Under one holder a repetition keeps the lock: it may have been given since the first attempt.
            hold = Hold(lock, answer["token"], began_s, self._now(), asked_s + _TTL_S)
            self._note(self.notes.holds, hold)
            return hold
        return None

    def _write_fenced(self, rng: random.Random, client: str, hold: Hold) -> None:
        key, value = f"fenced/{hold.lock}", f"{rng.getrandbits(64):016x}"
        write = Fenced(hold.lock, hold.token, value, self._now())
        body = {"key": key, "value": value, "request_id": value, "fence": f"{hold.lock}={hold.token}"}
        try:
            write.revision = self._ask(self._any(rng), "kv_put", "fenced write", body)["revision"]
            write.outcome = "ok"
        except FenceLost:
            write.outcome = "refused"
        except _NOT_DONE:
            return
        except (OutcomeUnknown, StorageError):
            pass
        write.end_s = self._now()
        self._note(self.notes.fenced, write)
