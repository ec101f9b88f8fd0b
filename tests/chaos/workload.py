"""Clients: threads that increment and read through every node.

Patient clients repeat each increment under its request id, through another node
each time, until it is answered; their counters must end at the number of their
distinct ids ("exactly once, end to end").  Hasty clients often give up, and leave
writes of unknown outcome behind.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping

from cyoloctl.control.client import Client
from cyoloctl.errors import CyoloctlError, InternalError, NotFound, Unavailable, Unreachable
from tests.chaos.history import History, Record

__all__ = ["LAST", "Clients", "read"]

LAST = "last"
"""The client of the reads after the load has ended."""

_HASTY_SIZES = (1, 1, 1, 2, 5)
_REPEATED = 0.05
"""The share of answered increments that a patient client sends once more: the first result must return."""


def _send(
    record: Record, history: History, name: str, endpoint: str, timeout_s: float, *, stale: bool = False
) -> str:
    """Send once through one node: ok, refused or unknown; the value goes into the record."""
    client = Client([endpoint], credentials=None, timeout_s=timeout_s, retry=False)
    value = 0
    try:
        if record.by:
            value = client.counters.incr(record.counter, record.by, request_id=record.request_id)["value"]
        else:
            value = client.counters.get(record.counter, stale=stale)["value"]
    except NotFound:
        # Never incremented is 0; but an increment cannot miss its counter.
        if record.by:
            history.anomaly(f"increment of {record.counter} through {name}: not found")
    except (Unavailable, Unreachable) as error:
        record.sends.append((name, error.code))
        return "refused"
    except CyoloctlError as error:
        record.sends.append((name, error.code))
        if isinstance(error, InternalError):
            history.anomaly(f"{name} answered {record.request_id}: internal error: {error.message}")
        return "unknown"
    record.sends.append((name, "ok"))
    record.end_s = history.now()
    record.value = value
    record.outcome = "ok"
    return "ok"


def read(
    history: History,
    client: str,
    counter: str,
    name: str,
    endpoint: str,
    timeout_s: float,
    *,
    stale: bool = False,
) -> int | None:
    """One linearizable read through one node; None without an answer.

    stale: ask for what the node has, which the check must then find out.
    """
    record = history.open(client, counter, 0, "-")
    if _send(record, history, name, endpoint, timeout_s, stale=stale) != "ok":
        record.refuse(history.now())  # a read has no effect, whatever became of it
    return record.value


class Clients:
    """Starts and ends the threads.

    endpoints: node name -> endpoint.  rate: operations a second of all clients together, at most.
    stale: read without confirmation, to see that the check finds it.
    """

    def __init__(
        self,
        history: History,
        endpoints: Mapping[str, str],
        *,
        count: int,
        rate: float,
        seed: int,
        stale: bool = False,
    ) -> None:
        self.exact = ["exact-0", "exact-1"]
        self.loose = ["loose-0", "loose-1", "loose-2", "loose-3"]
        self.errors: list[BaseException] = []
        self._history = history
        self._endpoints = dict(endpoints)
        self._pause_s = count / rate
        self._stale = stale
        self._stop = threading.Event()
        self._abandon = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number, random.Random(f"{seed}/{number}")), daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self, timeout_s: float) -> bool:
        """No new operations; patient clients finish theirs.  False when one was not answered in time."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout_s / len(self._threads))
        answered = not any(thread.is_alive() for thread in self._threads)
        self._abandon.set()
        for thread in self._threads:
            thread.join(10.0)
        return answered

    def _run(self, number: int, rng: random.Random) -> None:
        patient = number % 2 == 0
        client = f"{'patient' if patient else 'hasty'}-{number}"
        turn = 0
        try:
            while not self._stop.wait(rng.random() * 2 * self._pause_s):
                turn += 1
                name = rng.choice(list(self._endpoints))
                if rng.random() < 0.4:
                    counter = rng.choice(self.exact + self.loose)
                    timeout_s = rng.choice([0.5, 2.0])
                    endpoint = self._endpoints[name]
                    read(self._history, client, counter, name, endpoint, timeout_s, stale=self._stale)
                elif patient:
                    self._exactly_once(client, rng, f"{client}-{turn}-{rng.getrandbits(32):08x}")
                else:
                    self._once_or_so(client, rng, f"{client}-{turn}-{rng.getrandbits(32):08x}")
        except BaseException as error:
            self.errors.append(error)
            raise

    def _exactly_once(self, client: str, rng: random.Random, request_id: str) -> None:
        record = self._history.open(client, rng.choice(self.exact), 1, request_id)
        while not self._abandon.is_set():
            name = rng.choice(list(self._endpoints))
            if _send(record, self._history, name, self._endpoints[name], rng.choice([0.3, 2.0])) == "ok":
                break
            self._abandon.wait(0.02 + rng.random() * 0.1)
        else:
            record.outcome = "unknown"
            return
        if rng.random() < _REPEATED:
            again = Record(client, record.counter, 1, request_id, 0.0)
            name = rng.choice(list(self._endpoints))
            answer = _send(again, self._history, name, self._endpoints[name], 2.0)
            if answer == "ok" and again.value != record.value:
                self._history.anomaly(
                    f"{request_id} on {record.counter} was answered {record.value} "
                    f"and, sent again through {name}, {again.value}"
                )

    def _once_or_so(self, client: str, rng: random.Random, request_id: str) -> None:
        record = self._history.open(client, rng.choice(self.loose), rng.choice(_HASTY_SIZES), request_id)
        doubtful = False
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            name = rng.choice(list(self._endpoints))
            answer = _send(record, self._history, name, self._endpoints[name], rng.choice([0.2, 0.5, 2.0]))
            if answer == "ok":
                return
            doubtful = doubtful or answer == "unknown"
        # Refused now says nothing about the time that it was sent before.
        if doubtful:
            record.outcome = "unknown"
        else:
            record.refuse(self._history.now())
