"""The console, put together and run in the foreground."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Callable

from cyoloctl.console.guard import Door
from cyoloctl.console.server import ConsoleServer
from cyoloctl.console.watcher import Watcher
from cyoloctl.control.survey import Survey
from cyoloctl.errors import ConfigError, Conflict, CyoloctlError

__all__ = ["bind", "serve"]

_SECRET_BYTES = 24


def bind(host: str, port: int) -> socket.socket:
    """A listening socket on a loopback address; port 0: any free one.

    Raises Conflict where another process has the port, ConfigError.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise _cannot_listen(error, host, port) from None
    return listening


def _cannot_listen(error: OSError, host: str, port: int) -> CyoloctlError:
    shown = _place(host, port)
    if error.errno == errno.EADDRINUSE:
        return Conflict(f"another process listens on {shown}: use --listen with a free port, or with port 0")
    return ConfigError(f"cannot listen on {shown}: {error.strerror or error}; use --listen 127.0.0.1:0")


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def serve(
    listening: socket.socket, survey: Survey, *, first: Callable[[str], None], next_: Callable[[str], None]
) -> None:
    """Serve until cancelled.

    first: told the link once the page is there; next_: told another one whenever a link was used.
    Raises CyoloctlError where no node answers the first look, and what first raises.
    """
    watcher = Watcher(survey)
    await watcher.begin()
    host, port, *_ = listening.getsockname()
    door = Door(lambda: secrets.token_urlsafe(_SECRET_BYTES))

    def link() -> str:
        return f"http://{_place(host, port)}{door.link}"

    server = ConsoleServer(door, watcher.document, lambda: next_(link()))
    server.start(listening)
    try:
        first(link())
        await watcher.run()
    finally:
        await server.close()
