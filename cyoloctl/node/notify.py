"""Telling the service manager how a node is: ready, reloading, stopping, alive (sd_notify(3)).

systemd, and what speaks its protocol, names a datagram socket in NOTIFY_SOCKET and reads lines of
NAME=VALUE from it.  Without that variable nothing here does anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping

__all__ = ["Supervisor", "take_supervisor"]

_log = logging.getLogger("cyoloctl.node")

_SEND_S = 1.0
"""How long a full queue of the manager's may hold the node up; the line is lost then."""
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Supervisor:
    """The service manager that started this node; or nobody, to whom nothing is told.

    A manager that cannot be told is a warning in the log, once, and never ends the node.
    """

    def __init__(
        self,
        address: str | None,
        *,
        watchdog_s: float | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """address: path of the socket, @NAME for one without a path.

        watchdog_s: time without a sign of life after which the manager ends the node; None: it waits for
        none.  monotonic_ns: the clock that the manager reads too, CLOCK_MONOTONIC.
        """
        self._address = address
        self._watchdog_s = watchdog_s
        self._monotonic_ns = monotonic_ns
        self._is_ready = False
        self._has_failed = False
        self._watchdog: asyncio.Task[None] | None = None

    @property
    def is_there(self) -> bool:
        """Whether somebody is told."""
        return self._address is not None

    def ready(self, status: str, progressed: Callable[[float], Awaitable[bool]]) -> None:
        """Say that the node serves, and from now on, when that is asked for, that it lives.

        status: one line for people.  progressed: makes the node take a step, and says whether it has been
        taken within so many seconds.
        """
        self._is_ready = True
        self._tell("READY=1", f"STATUS={status}")
        if self.is_there and self._watchdog_s is not None:
            self._watchdog = asyncio.get_running_loop().create_task(self._live(progressed, self._watchdog_s))

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Say that the configuration is read again, and at the end that the node serves.

        Says nothing before the node was ready.
        """
        if self._is_ready:
            self._tell("RELOADING=1", f"MONOTONIC_USEC={self._monotonic_ns() // 1000}")
        try:
            yield
        finally:
            if self._is_ready:
                self._tell("READY=1")

    def stopping(self) -> None:
        """Say that the node ends; no sign of life follows."""
        self._is_ready = False
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        self._tell("STOPPING=1", "STATUS=stopping")

    async def _live(self, progressed: Callable[[float], Awaitable[bool]], within_s: float) -> None:
        """Give a sign of life three times per limit, each after a step of the node, and none without one."""
        pause_s = within_s / 3
        while True:
            if await progressed(pause_s):
                self._tell("WATCHDOG=1")
            await asyncio.sleep(pause_s)

    def _tell(self, *lines: str) -> None:
        if self._address is None:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_SEND_S)
                sender.sendto("\n".join(lines).encode(), name)
        except OSError as error:
            if not self._has_failed:
                _log.warning(
                    "the service manager cannot be told",
                    extra={"socket": self._address, "error": str(error)},
                )
            self._has_failed = True


def take_supervisor(environ: MutableMapping[str, str], *, pid: int | None = None) -> Supervisor:
    """The manager that an environment names, which is taken out of it: children are not the service.

    A socket whose name begins with neither / nor @ counts as none, and so does a watchdog that waits for
    another process than pid (default: this one).
    """
    address, limit, whose = (environ.pop(name, "") for name in _VARIABLES)
    mine = whose in ("", str(os.getpid() if pid is None else pid))
    microseconds = int(limit) if mine and limit.isascii() and limit.isdecimal() else 0
    return Supervisor(
        address if address[:1] in ("/", "@") and len(address) > 1 else None,
        watchdog_s=microseconds / 1e6 if microseconds > 0 else None,
    )
