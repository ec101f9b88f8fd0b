"""A node's control socket with scripted answers, and the command as a process.

What the commands do with answers is tested here against exact bytes on a real
socket; that nodes give these answers is tested where nodes are.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cyoloctl.errors import CyoloctlError
from cyoloctl.metrics.api import METRICS_TYPE

Answer = dict[str, Any] | str | CyoloctlError | Callable[[dict[str, Any]], dict[str, Any] | str]

LIMIT_S = 60.0


def run(
    *arguments: str, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "cyoloctl", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env={**os.environ, **(env or {})},
        check=False,
    )


def processes_of(directory: Path) -> list[int]:
    """Processes whose command line names the directory, this one excepted."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.startswith(os.fsencode(directory)) for word in words):
                found.append(int(entry.name))
    return found


class Endpoint:
    """A control socket in a thread.

    answers: (method, path without query) -> object, text of metrics, error, function of the
    body, or a list of objects, which is streamed as NDJSON, one chunk an object.
    keeps: whether a connection stays open for another request.
    """

    def __init__(self, directory: Path, answers: dict[tuple[str, str], Any]) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/control.sock"
        self.answers = answers
        self.keeps = False
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / "control.sock"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and wait for the thread."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        (self.directory / "control.sock").unlink(missing_ok=True)
        self._thread.join(LIMIT_S)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as reader:
                try:
                    while (first := reader.readline()) != b"":
                        self._answer(connection, reader, first)
                        if not self.keeps:
                            break
                except OSError:
                    continue  # the command went away: some tests want that

    def _answer(self, connection: socket.socket, reader: Any, first: bytes) -> None:
        method, target, _ = first.decode().split()
        length = 0
        while (line := reader.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            if name.lower() == "content-length":
                length = int(value)
        body = json.loads(reader.read(length)) if length else {}
        path, _, query = target.partition("?")
        self.requests.append((method, path, body | {"query": query}))
        answer = self.answers[method, path]
        if callable(answer):
            answer = answer(body)
        if isinstance(answer, list):
            head = (
                "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            connection.sendall(head.encode())
            for item in answer:
                data = json.dumps({"schema_version": 1, **item}).encode() + b"\n"
                connection.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            connection.sendall(b"0\r\n\r\n")
            return
        status, kind = 200, "application/json"
        if isinstance(answer, CyoloctlError):
            status = answer.http_status
            answer = {"error": {"code": answer.code, "message": answer.message}}
        if isinstance(answer, str):
            data, kind = answer.encode(), METRICS_TYPE
        else:
            data = json.dumps({"schema_version": 1, **answer}).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
        head += "\r\n" if self.keeps else "Connection: close\r\n\r\n"
        connection.sendall(head.encode() + data)


def counter(name: str, value: int, index: int = 7) -> dict[str, Any]:
    """A counter as the API gives it."""
    return {"name": name, "value": value, "value_string": str(value), "index": index, "request_id": "r"}


def member(name: str, **changes: Any) -> dict[str, Any]:
    """A member as the API gives it."""
    return {
        "name": name,
        "role": "follower",
        "address": f"{name}.example:7000",
        "reachable": True,
        "term": 3,
        "commit_index": 41,
        "applied_index": 41,
        "lag": 0,
        "uptime_s": 93784,
        "version": "0.1.0",
        "storage": "disk",
        "fsync_p99_ms": 1.5,
        "certificate_expires_at": "2999-01-01T00:00:00Z",
        "clock_skew_ms": 2,
        **changes,
    }


def status(*members: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A status as the API gives it."""
    cluster = {
        "name": "cyolo",
        "id": "0123456789abcdef0123456789abcdef",
        "leader": "a",
        "term": 3,
        "voters": 3,
        "learners": 0,
        "quorum": 2,
        "failure_tolerance": 1,
        "healthy": True,
        "commit_index": 41,
        "storage": "disk",
        **changes,
    }
    listed = list(members) or [member("a", role="leader"), member("b"), member("c")]
    return {"schema_version": 1, "cluster": cluster, "members": listed}
