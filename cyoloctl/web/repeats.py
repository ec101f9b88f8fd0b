"""Requests whose head is, byte for byte, that of the one before on their connection: it is not parsed again.

Clients that keep a connection send the same head again and again, and reading
it is an eighth of what a node does for a write beside replicating it.  What is the same is read the same way:
nothing is taken here that the parser has not taken before in these bytes.
"""

from __future__ import annotations

from cyoloctl.web.request import Headers, Origin, Request

__all__ = ["Repeat"]


class Repeat:
    """A request that came alone and whole, to know the next one by."""

    __slots__ = ("_head", "_headers", "_length", "_method", "_target")

    def __init__(self, head: bytes, length: int, method: str, target: str, headers: Headers) -> None:
        """length: of head and body."""
        self._head = head
        self._length = length
        self._method = method
        self._target = target
        self._headers = headers

    @classmethod
    def of(cls, data: bytes, request: Request) -> Repeat | None:
        """data: nothing but this request, from its first byte to its last.  None where that cannot be told
        from its head, or where no other follows.
        """
        end = data.find(b"\r\n\r\n") + 4
        whole = end + (request.content_length or 0) == len(data)
        if not whole or not request.is_1_1 or not request.keep_alive or request.headers.get("Expect"):
            return None
        return cls(data[:end], len(data), request.method, request.target, request.headers)

    def next(self, data: bytes, connection: Origin) -> Request | None:
        """The request that these bytes are, where only its body differs; None for anything else."""
        head = self._head
        if len(data) != self._length or not data.startswith(head):
            return None
        request = Request(connection, self._method, self._target, self._headers, is_1_1=True, keep_alive=True)
        if len(data) > len(head):
            request.arrived(data[len(head) :])
        request.end()
        return request
