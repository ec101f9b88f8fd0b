"""Endpoints of nodes: the control socket, and what a text names.

Most commands go over the control socket: what TLS needs is in `tls_endpoints`,
and imported for an address.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from cyoloctl.control.http1 import NotSent, why
from cyoloctl.errors import AccessDenied, InvalidInput, UsageError
from cyoloctl.web.encoding import clean_text
from cyoloctl.web.schema import check_name

if TYPE_CHECKING:
    from typing import TypeAlias

    from cyoloctl.control.tls_endpoints import TlsEndpoint, Trust
    from cyoloctl.web.steps import Until

    Endpoint: TypeAlias = "UnixEndpoint | TlsEndpoint"

__all__ = ["Endpoint", "UnixEndpoint", "parse_endpoint"]


class UnixEndpoint:
    """A control socket in the file system.

    data_dir: the data directory that it was found by, None for one that was named.
    """

    def __init__(self, text: str, path: str, data_dir: str | None = None) -> None:
        self.text = text
        self.path = path
        self._data_dir = data_dir

    def hint(self) -> str:
        from cyoloctl.paths import quoted

        # The socket of a directory with a long path is elsewhere, under a name that leads back to nothing.
        directory = self._data_dir or os.path.dirname(os.path.abspath(self.path))
        if os.path.lexists(os.path.join(directory, "node.yaml")):
            return f"start the node with: cyoloctl node start -d {quoted(directory)} --background"
        if self._data_dir is None:
            return "check the path of the socket, and that the node runs"
        return (
            f"{directory} holds no node: name the data directory of one (--data-dir), or a node "
            "elsewhere (--endpoint)"
        )

    def connect(self, deadline: Until) -> socket.socket:
        """A connected socket.  Raises NotSent, AccessDenied."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(deadline.left(), 0.001))
            sock.connect(self.path)
        except (OSError, ValueError) as error:
            sock.close()
            raise self.failure(error) from None
        return sock

    def failure(self, error: OSError | ValueError) -> NotSent | AccessDenied:
        """The meaning of a failure to connect."""
        if isinstance(error, PermissionError):
            return AccessDenied(
                f"{self.text}: permission denied; run as the user that runs the node, "
                "or use an https endpoint and credentials (--credentials FILE)"
            )
        if isinstance(error, FileNotFoundError):
            return NotSent("no such socket: the node is not running")
        if isinstance(error, ConnectionRefusedError):
            return NotSent("connection refused: the node is not running")
        return NotSent(why(error))


def parse_endpoint(text: str, trust: Trust | None, data_dir: str | None = None) -> Endpoint:
    """The endpoint that a text names.  data_dir: where a socket's path is from.  Raises UsageError."""
    if text.startswith("unix://") and len(text) > len("unix://") and "\0" not in text:
        return UnixEndpoint(text, text[len("unix://") :], data_dir)
    if text.startswith("https://"):
        from cyoloctl.model import parse_address

        name, at, where = text[len("https://") :].rstrip("/").rpartition("@")
        try:
            if at:
                check_name(name, "node name")
            address = parse_address(where, "endpoint")
        except InvalidInput:
            address = None
        if address is not None:
            from cyoloctl.control.tls_endpoints import TlsEndpoint

            if trust is None:
                raise UsageError(
                    f"{text} needs a certificate: name a file of credentials (--credentials FILE)"
                )
            return TlsEndpoint(text, address.host, address.port, trust, name or None)
    raise UsageError(
        f"endpoint {clean_text(text, 200)!r} is not valid: use unix:///PATH/control.sock, https://HOST:PORT "
        "or https://NAME@HOST:PORT"
    )
