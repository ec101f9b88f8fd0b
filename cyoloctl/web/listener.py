"""An accept loop of our own, so that strangers are bounded before their TLS handshake.

asyncio's servers accept anyone who comes, up to the process's descriptors, and only
then ask a protocol.  Here every connection first gets a place among the strangers
(`strangers.Visitors`), or ends; works the same on asyncio's loop and on uvloop.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

from cyoloctl.beat import until_beat
from cyoloctl.web.strangers import Visit, Visitors, source_of

__all__ = ["Accept", "Guest", "Listener", "raise_descriptor_limit"]

_log = logging.getLogger("cyoloctl.listener")

_PER_TURN = 32
_SWEEP_S = 0.5
_MAX_DESCRIPTORS = 65_536
# Descriptors or memory for one more socket are missing: they come back when somebody leaves.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0
_SHED = 16


def raise_descriptor_limit() -> int:
    """Raise the soft RLIMIT_NOFILE to the hard one, at most 65,536; returns the soft limit in force."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    wanted = _MAX_DESCRIPTORS if hard == infinite else min(hard, _MAX_DESCRIPTORS)
    if soft != infinite and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):
            _log.warning("the limit of open files stays as it is", extra={"limit": soft})
    return _MAX_DESCRIPTORS if soft == infinite else min(soft, _MAX_DESCRIPTORS)


class Guest:
    """One accepted connection, as its protocol tells the listener about it."""

    __slots__ = ("_listener", "_visit")

    def __init__(self, listener: Listener, visit: Visit) -> None:
        self._listener = listener
        self._visit = visit

    def identified(self) -> None:
        """The caller is known: it no longer counts, and no stranger's limit holds.  Idempotent."""
        self._listener.visitors.identified(self._visit)

    def unidentified(self) -> None:
        """The caller is a stranger again.  Idempotent."""
        self._listener.visitors.unidentified(self._visit, self._listener.loop.time())
        self._listener._watch()

    def asked(self) -> None:
        """A request's whole head is there."""
        if self._visit.stranger:
            self._listener.visitors.asked(self._visit, self._listener.loop.time())

    def answered(self) -> None:
        """The answer was sent."""
        if self._visit.stranger:
            self._listener.visitors.answered(self._visit, self._listener.loop.time())

    def left(self) -> None:
        """The connection is closed.  Idempotent."""
        self._listener.visitors.left(self._visit)

    @property
    def stranger(self) -> bool:
        """Whether nobody vouches for the caller."""
        return self._visit.stranger

    @property
    def source(self) -> str:
        """The source that the caller's address counts as."""
        return self._visit.source


Accept = Callable[[Guest], asyncio.Protocol]
"""Makes the protocol of one connection whose handshake is done; it must call `Guest.left` at its end."""


class Listener:
    """Accepts on one socket.  `start`, then `close`; belongs to the running loop."""

    def __init__(
        self,
        listening: socket.socket,
        accept: Accept,
        visitors: Visitors,
        *,
        name: str,
        tls: Callable[[], ssl.SSLContext] | None,
        is_known: Callable[[str], bool] = lambda _address: False,
        shutdown_s: float = 1.0,
    ) -> None:
        """listening: a listening socket, the listener's from now on.

        name: what the log calls it.  tls: the context for a new connection,
        asked each time, so that renewed certificates hold at once; None: plain.
        is_known: whether an address (without port) is that of a caller who
        does not count as a stranger, such as a trusted proxy.
        """
        self.visitors = visitors
        self.loop = asyncio.get_running_loop()
        self._listening = listening
        self._accept_protocol = accept
        self._name = name
        self._tls = tls
        self._is_known = is_known
        self._shutdown_s = shutdown_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause_s = 0.0
        self._resume: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._open = False

    def start(self) -> None:
        """Begin to accept."""
        self._open = True
        self._listening.setblocking(False)
        self.loop.add_reader(self._listening.fileno(), self._accept)

    def close(self) -> None:
        """Stop accepting; handshakes that run end, connections stay.  Idempotent."""
        if not self._open:
            return
        self._open = False
        self.loop.remove_reader(self._listening.fileno())
        self._listening.close()
        for timer in (self._resume, self._sweep):
            if timer is not None:
                timer.cancel()
        for task in list(self._tasks):
            task.cancel()

    @property
    def is_watching(self) -> bool:
        """Whether the loop will wake to look at strangers."""
        return self._sweep is not None

    # Inside.

    def _accept(self) -> None:
        for _ in range(_PER_TURN):
            try:
                connection, address = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._back_off(error)
                    return
                continue  # the caller was gone before it was accepted (accept(2))
            self._pause_s = 0.0
            self._admit(connection, str(address[0]) if isinstance(address, tuple) else "")

    def _back_off(self, error: OSError) -> None:
        """Out of descriptors: end strangers, and accept again a little later."""
        self._pause_s = min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, 2 * self._pause_s))
        self.loop.remove_reader(self._listening.fileno())
        self._resume = self.loop.call_later(self._pause_s, self._go_on)
        _log.warning(
            "accepting pauses",
            extra={"listener": self._name, "reason": error.strerror, "strangers": len(self.visitors)},
        )
        for visit in self.visitors.shed(_SHED):
            visit.end()

    def _go_on(self) -> None:
        if self._open:
            self.loop.add_reader(self._listening.fileno(), self._accept)

    def _admit(self, connection: socket.socket, address: str) -> None:
        now = self.loop.time()
        if self._is_known(address):
            visit: Visit | None = Visit(source_of(address), now, now, stranger=False)
        else:
            visit, gone = self.visitors.admit(source_of(address), now)
            for other in gone:
                other.end()
                _refused(self._name, other.source, "the oldest makes room for a new one")
        if visit is None:
            connection.close()
            _refused(self._name, source_of(address), "too many strangers")
            return
        self._watch()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self.loop.create_task(self._serve(connection, visit))

        def end() -> None:
            task.cancel()

        visit.end = end
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket, visit: Visit) -> None:
        guest = Guest(self, visit)
        made: list[asyncio.Protocol] = []

        def protocol() -> asyncio.Protocol:
            made.append(self._accept_protocol(guest))
            return made[0]

        limits: dict[str, Any] = {}
        try:
            if self._tls is not None:
                limits = {
                    "ssl": self._tls(),
                    "ssl_handshake_timeout": self.visitors.limits.handshake_s,
                    "ssl_shutdown_timeout": self._shutdown_s,
                }
            transport, _ = await self.loop.connect_accepted_socket(protocol, connection, **limits)
        except BaseException as error:
            # Both loops close their transport then; a socket of which they made none yet is ours.
            self.visitors.left(visit)
            connection.close()
            if not isinstance(error, (OSError, ssl.SSLError, asyncio.CancelledError)):
                raise
            if isinstance(error, asyncio.CancelledError):
                return
            reason = getattr(error, "reason", None) or error.strerror or str(error) or type(error).__name__
            _log.info(
                "handshake failed",
                extra={"listener": self._name, "source": visit.source, "reason": reason, "_seldom": True},
            )
            return
        visit.end = transport.abort
        if visit.stranger and not visit.busy:
            self.visitors.begun(visit, self.loop.time())

    def _end_expired(self) -> None:
        for visit in self.visitors.expired(self.loop.time()):
            visit.end()
            _refused(self._name, visit.source, "too slow")
        self._sweep = None
        self._watch()

    def _watch(self) -> None:
        """Look at the strangers soon, as long as there are any: without them nothing wakes the loop."""
        if self._sweep is None and self._open and len(self.visitors):
            self._sweep = self.loop.call_later(until_beat(self.loop.time(), _SWEEP_S), self._end_expired)


def _refused(listener: str, source: str, reason: str) -> None:
    _log.info(
        "stranger refused",
        extra={"listener": listener, "source": source, "reason": reason, "_seldom": True},
    )
