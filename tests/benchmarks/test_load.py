"""What the load generator takes of an answer in the protocol of NATS."""

from __future__ import annotations

import pytest

from benchmarks.load import messages

STREAM = (
    b'INFO {"server_id":"x"}\r\n'
    b"PING\r\n"
    b'MSG _INBOX.1 1 10\r\n{"seq":12}\r\n'
    b"HMSG _INBOX.1 1 30 35\r\nNATS/1.0\r\nNats-Sequence: 4\r\n\r\nvalue\r\n"
    b"PONG\r\n"
)


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_messages_are_the_same_wherever_the_bytes_are_split(cut: int) -> None:
    first, pings, rest = messages(STREAM[:cut])
    second, more, rest = messages(rest + STREAM[cut:])
    assert first + second == [b'{"seq":12}', b"value"]
    assert pings + more == 1
    assert rest == b""


def test_messages_of_an_error_raise() -> None:
    with pytest.raises(ValueError, match="Authorization Violation"):
        messages(b"-ERR 'Authorization Violation'\r\n")
