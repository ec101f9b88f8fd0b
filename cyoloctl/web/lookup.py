"""Looking up host names without being at the mercy of a name server that does not answer.

getaddrinfo(3) knows no time limit and cannot be cancelled.  Here it runs in a thread
of its own that nobody waits for longer than they want, and that keeps no process
from ending.  Each host has one such thread at most.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["GRACE_S", "Host", "Lookup", "Place"]

Place = tuple[socket.AddressFamily, Any]
"""Where to connect to: an address family, and its numeric socket address."""

GRACE_S = 1.0
"""How long a look-up may take before the last good address is used instead, where there is one."""

_FRESH_S = 10.0


def _look_up(host: str | bytes, port: int, flags: int = 0) -> list[Place]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, where) for family, _, _, _, where in found]


class Lookup:
    """One look-up, running from now on."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._notified: list[Callable[[], None]] = []
        self._found: list[Place] = []
        self._error: OSError | None = None
        self._finished_at = 0.0
        # A daemon: the interpreter does not wait for it at its end.
        threading.Thread(target=self._run, name="lookup", daemon=True).start()

    def _run(self) -> None:
        try:
            self._found = _look_up(self._host, self._port)
        except OSError as error:
            self._error = error
        except UnicodeError:
            self._error = OSError("not a host name")
        with self._lock:
            self._finished_at = time.monotonic()
            self._done.set()
        for notify in self._notified:
            notify()

    def is_outdated(self) -> bool:
        """Whether it ended so long ago that its answer is worth nothing."""
        return self._done.is_set() and time.monotonic() - self._finished_at > _FRESH_S

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; False when it did not come in time."""
        return self._done.wait(timeout_s)

    def notify(self, call: Callable[[], None]) -> None:
        """Call this at the end, in the look-up's thread; at once where it has ended."""
        with self._lock:
            if not self._done.is_set():
                self._notified.append(call)
                return
        call()

    def result(self) -> list[Place]:
        """The places, after the end.  Raises OSError."""
        if self._error is not None:
            raise self._error
        return self._found


class Host:
    """A host and port to connect to, with what is known of its addresses."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._lookup: Lookup | None = None
        self._good: Place | None = None
        self._numeric: list[Place] | None = None
        # Bytes are taken as they are.  For text Python loads its tables of Unicode, half a megabyte.
        address = host.encode() if host.isascii() else host
        with contextlib.suppress(OSError, UnicodeError):
            self._numeric = _look_up(address, port, socket.AI_NUMERICHOST)

    def begin(self) -> Lookup | None:
        """The look-up that runs, begun where there was none; None for an address, which takes none."""
        if self._numeric is not None:
            return None
        if self._lookup is None or self._lookup.is_outdated():
            self._lookup = Lookup(self._host, self._port)
        return self._lookup

    def patience_s(self, timeout_s: float) -> float:
        """How long to wait for the look-up, of the time that there is."""
        return timeout_s if self._good is None else min(timeout_s / 2, GRACE_S)

    def take(self, lookup: Lookup | None, *, ended: bool) -> list[Place]:
        """The places to try, in order, when a look-up has ended, or was waited for long enough.

        Raises OSError, TimeoutError where nothing is known.
        """
        if lookup is None:
            return self._numeric or []
        if not ended:
            if self._good is None:
                raise TimeoutError(f"the name {self._host} could not be looked up in time")
            return [self._good]
        if self._lookup is lookup:
            self._lookup = None
        try:
            return lookup.result()
        except OSError:
            if self._good is None:
                raise
            return [self._good]

    def places(self, timeout_s: float) -> list[Place]:
        """The places to try, in order.  Raises OSError, TimeoutError."""
        lookup = self.begin()
        ended = lookup is None or lookup.wait(self.patience_s(timeout_s))
        return self.take(lookup, ended=ended)

    def worked(self, place: Place) -> None:
        """The right one answered at this place: it is kept for times without a name server."""
        self._good = place
