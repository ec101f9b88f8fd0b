"""Names for completions: a key press asks the node, within a tenth of a second, and never complains.

``cyoloctl __names WHAT WORDS...``: the names, one per line; WORDS are those of the command
line that is completed, for its -d and -e.  It imports next to nothing: what costs a start of
the command line otherwise would be felt here.  Only control sockets are asked; what a node
does not tell in time is not offered.  A slow machine may allow more: CYOLOCTL_COMPLETION_TIMEOUT,
in seconds.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

__all__ = ["SOURCES", "main"]

_LIMIT_S = 0.08
_MAX_BYTES = 1 << 20

#: By what is named: the list of the API, its field, and the field of the name in each of its objects.
SOURCES: dict[str, tuple[str, str, str]] = {
    "member": ("/v1/members", "members", "name"),
    "invitation": ("/v1/invitations", "invitations", "name"),
    "counter": ("/v1/counters?limit=1000", "counters", "name"),
    "lock": ("/v1/locks?limit=1000", "locks", "name"),
    "kv": ("/v1/kv/list?limit=1000&values=without", "entries", "key"),
    "machine": ("/v1/machines", "machines", "name"),
    "key": ("/v1/keys", "keys", "key_id"),
    "credentials": ("/v1/credentials", "credentials", "name"),
}


def main(words: Sequence[str]) -> int:
    """Print the names.  Always 0, and never more than the names."""
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(0))
    with suppress(Exception):  # whatever it is: a completion that complains is worse than none
        signal.setitimer(signal.ITIMER_REAL, float(os.environ.get("CYOLOCTL_COMPLETION_TIMEOUT") or _LIMIT_S))
        found = _names(words[0], words[1:])
        sys.stdout.write("".join(f"{name}\n" for name in found))
        sys.stdout.flush()
    return 0


def _names(what: str, words: Sequence[str]) -> list[str]:
    path, field, name = SOURCES[what]
    stale = f"{path}{'&' if '?' in path else '?'}consistency=stale"
    rows = _ask(_socket(words), stale)[field]
    return [str(row[name]) for row in rows if row.get("role") != "node"]


def _given(words: Sequence[str], *options: str) -> str | None:
    """The last value of an option among the words, which end where the cursor is."""
    found = None
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in options and equals:
            found = value
        elif word in options and place + 1 < len(words):
            found = words[place + 2] if words[place + 1] == "=" else words[place + 1]
    return found


def _socket(words: Sequence[str]) -> str:
    """The path of the control socket that the command would ask.  Raises ValueError for another endpoint."""
    from cyoloctl.paths import control_socket_path, default_data_dir

    directory = _given(words, "-d", "--data-dir")
    endpoint = _given(words, "-e", "--endpoint")
    if endpoint is None and directory is None:
        endpoint = os.environ.get("CYOLOCTL_ENDPOINT", "").partition(",")[0].strip() or None
    if endpoint is not None:
        if not endpoint.startswith("unix://"):
            raise ValueError("only control sockets are asked")
        return endpoint.removeprefix("unix://")
    directory = directory or os.environ.get("CYOLOCTL_DATA_DIR")
    chosen = directory and os.path.expanduser(directory)
    return str(
        control_socket_path(os.path.abspath(chosen or default_data_dir(os.environ, os.geteuid() == 0)))
    )


def _ask(path: str, target: str) -> dict[str, Any]:
    """The JSON object that the node answers with."""
    import json

    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while len(data) < _MAX_BYTES and (piece := connection.recv(65536)):
            data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError("it did not tell")
    answer: dict[str, Any] = json.loads(body)
    return answer
