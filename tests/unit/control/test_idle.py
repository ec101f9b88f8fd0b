"""Connections between calls: kept in a block, and given up whenever something could be wrong with them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cyoloctl import Client
from cyoloctl.control import idle
from cyoloctl.errors import OutcomeUnknown
from tests.cli.harness import counter
from tests.support.cluster import wait_until
from tests.support.scripted import Ask, ask_fixture

__all__ = ["ask_fixture"]


class Keeping:
    """A node that leaves connections open.  requests: for each, the number of its connection, and its head.

    closes_after: requests after which it closes a connection without a word.  says_close: it says so before.
    hangs: answers wait for it.
    """

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self.requests: list[tuple[int, str]] = []
        self.open: set[int] = set()
        self.closes_after = 1000
        self.says_close = False
        self.hangs: threading.Event | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.open.add(number)
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()
            number += 1

    def _serve(self, connection: socket.socket, number: int) -> None:
        data = json.dumps({"schema_version": 1, **counter("c", 1)}).encode()
        with connection, connection.makefile("rb") as reader:
            for _ in range(self.closes_after):
                head = ""
                while (line := reader.readline().decode()) not in ("\r\n", ""):
                    head += line
                if not head:
                    break
                length = head.lower().partition("content-length: ")[2].split("\r\n")[0]
                reader.read(int(length or 0))
                self.requests.append((number, head))
                if self.hangs is not None:
                    self.hangs.wait(30)
                close = "Connection: close\r\n" if self.says_close else ""
                answer = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{close}"
                with contextlib.suppress(BrokenPipeError):
                    connection.sendall(f"{answer}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        self.open.discard(number)

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.requests]


@pytest.fixture
def node() -> Iterator[Keeping]:
    with tempfile.TemporaryDirectory(prefix="ctl") as directory:
        made = Keeping(Path(directory, "control.sock"))
        yield made
        made.close()


def thrice(client: Any) -> Any:
    """Three increments, one after the other."""
    first = client.counters.incr("c")
    if isinstance(first, dict):
        return [first, client.counters.incr("c"), client.counters.incr("c")]

    async def rest() -> list[Any]:
        return [await first, await client.counters.incr("c"), await client.counters.incr("c")]

    return rest()


def test_calls_of_a_block_share_a_connection_which_its_end_closes(node: Keeping, ask: Ask) -> None:
    ask(thrice, node.url)
    assert node.numbers == [0, 0, 0]
    wait_until("the connection closed", lambda: node.open == set())


def test_without_a_block_each_call_has_its_own(node: Keeping) -> None:
    client = Client([node.url])
    client.counters.incr("c")
    client.counters.incr("c")
    assert node.numbers == [0, 1]
    assert all("Connection: close" in head for _, head in node.requests)


def test_sibling_with_another_timeout_shares_it(node: Keeping) -> None:
    with Client([node.url]) as client:
        client.counters.incr("c")
        client.within(2.0).counters.incr("c")
    assert node.numbers == [0, 0]


def test_connection_that_the_node_closed_meanwhile_is_replaced(node: Keeping) -> None:
    node.closes_after = 1
    with Client([node.url], retry=False) as client:
        client.counters.incr("c")
        wait_until("closed by the node", lambda: node.open == set())
        client.counters.incr("c")
    assert node.numbers == [0, 1]


def test_connection_that_the_node_is_about_to_close_is_not_kept(node: Keeping, ask: Ask) -> None:
    node.says_close = True
    ask(thrice, node.url)
    assert node.numbers == [0, 1, 2]


def test_connection_that_lay_for_long_is_replaced(node: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client([node.url]) as client:
        client.counters.incr("c")
        monkeypatch.setattr(idle, "_LONGEST_S", 0.0)
        client.counters.incr("c")
    assert node.numbers == [0, 1]


def test_process_that_was_forked_has_connections_of_its_own(
    node: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client([node.url]) as client:
        client.counters.incr("c")
        monkeypatch.setattr(idle.os, "getpid", os.getppid)
        client.counters.incr("c")
        client.counters.incr("c")
    assert node.numbers == [0, 1, 1]


def test_write_that_cannot_be_repeated_has_a_connection_of_its_own(node: Keeping) -> None:
    with Client([node.url]) as client:
        client.counters.incr("c")
        client.call("lock_release", "job", {"token": 1})
        client.counters.incr("c")
    assert node.numbers == [0, 1, 0]


def test_answer_that_came_too_late_is_not_taken_for_that_to_the_next_call(node: Keeping) -> None:
    with Client([node.url], timeout_s=0.3, retry=False) as client:
        client.counters.incr("c")
        node.hangs = threading.Event()
        with pytest.raises(OutcomeUnknown):
            client.counters.incr("c")
        node.hangs.set()
        client.within(30.0).counters.incr("c")
    assert node.numbers == [0, 0, 1]
