"""Looking up names beside a name server that does not answer, or answers late."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cyoloctl.web.lookup import Host

HERE = (socket.AF_INET, ("127.0.0.1", 7))


class NameServer:
    """getaddrinfo(3) with a name server that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers = threading.Event()
        self.answers.set()
        self.error: OSError | None = None
        self._real = socket.getaddrinfo

    def getaddrinfo(self, host: str, port: int, **options: Any) -> Any:
        if options.get("flags") == socket.AI_NUMERICHOST:
            return self._real(host, port, **options)
        self.asked.append(host)
        self.answers.wait(60)
        if self.error is not None:
            raise self.error
        return self._real("127.0.0.1", port, **options)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    made = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    yield made
    made.answers.set()


def test_address_takes_no_look_up(server: NameServer) -> None:
    assert Host("127.0.0.1", 7).places(0.0) == [HERE]
    assert Host("::1", 7).places(0.0) == [(socket.AF_INET6, ("::1", 7, 0, 0))]
    assert server.asked == []


def test_look_up_without_an_answer_takes_the_time_that_it_is_given(server: NameServer) -> None:
    server.answers.clear()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"n2\.example"):
        Host("n2.example", 7).places(0.1)
    assert time.monotonic() - began < 5.0


def test_look_up_that_hangs_is_waited_for_again_and_not_begun_again(server: NameServer) -> None:
    server.answers.clear()
    host = Host("n2.example", 7)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            host.places(0.01)
    assert server.asked == ["n2.example"], "one thread for each host, however often it is dialled"
    server.answers.set()
    assert host.places(10.0) == [HERE]
    assert host.places(10.0) == [HERE]
    assert server.asked == ["n2.example"] * 2, "an answer is used once"


@pytest.mark.parametrize("how", ["silent", "failing"])
def test_last_good_address_is_kept_while_no_name_server_answers(server: NameServer, how: str) -> None:
    host = Host("n2.example", 7)
    (place,) = host.places(10.0)
    if how == "silent":
        server.answers.clear()
    else:
        server.error = socket.gaierror(socket.EAI_AGAIN, "temporary failure")
        with pytest.raises(socket.gaierror):
            host.places(10.0)  # nobody ever answered there
    host.worked(place)
    assert host.places(0.1) == [place]


def test_name_that_is_none_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match="not a host name"):
        Host("a..b", 7).places(10.0)


def test_patience_with_a_good_address_is_short(server: NameServer) -> None:
    host = Host("n2.example", 7)
    assert host.patience_s(10.0) == 10.0
    host.worked(HERE)
    assert host.patience_s(10.0) == 1.0
    assert host.patience_s(0.5) == 0.25
