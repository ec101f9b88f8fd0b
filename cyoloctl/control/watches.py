"""Many watchers of few counters: one line for all of them, in a bounded share of the time.

A counter that is watched has one *channel*, whose task reads its changes and
writes each, encoded once, to all its watchers.  How long that took is measured;
nine times as long passes before the next line of any channel, so that watchers
cost a node at most a tenth of its time however many there are.  Changes that
come faster are merged, and whoever does not read misses lines, not the newest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from cyoloctl.errors import CyoloctlError, Unavailable
from cyoloctl.web import schema
from cyoloctl.web.encoding import encode_error, encode_object

__all__ = ["Watcher", "Watches"]

# Of the time that a line took to write: how long until the next.
_PAUSE_FACTOR = 9.0
# However long it took (others' work in between counts as well), and however short.
_LONGEST_PAUSE_S = 2.0
_CHANNEL_PAUSE_S = 0.01
# Watchers that are written to before requests get their turn.
_SLICE = 64
# A watcher with this many unread bytes gets no further lines, and ends when it reads nothing for this long.
_UNREAD_BYTES = 64 * 1024
_STUCK_S = 30.0

_Json = dict[str, Any]


class Watcher:
    """One stream of lines to a transport.  index: that of the value it has seen."""

    __slots__ = ("_chunked", "_stuck_at", "_transport", "done", "index")

    def __init__(self, transport: asyncio.Transport, *, chunked: bool, index: int) -> None:
        self._transport = transport
        self._chunked = chunked
        self._stuck_at: float | None = None
        self.index = index
        #: What to say last; None: nothing, for nobody reads.
        self.done: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    def frame(self, line: bytes) -> bytes:
        """A line as it is sent."""
        return b"%x\r\n%b\r\n" % (len(line), line) if self._chunked else line

    def last(self, line: bytes | None) -> bytes:
        """The end of the stream, after one more line."""
        said = b"" if line is None else self.frame(line)
        return said + b"0\r\n\r\n" if self._chunked else said

    def write(self, plain: bytes, chunk: bytes, now: float) -> None:
        """Send a line, given in both forms, unless too much is unread."""
        transport = self._transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > _UNREAD_BYTES:
            if self._stuck_at is None:
                self._stuck_at = now
            elif now - self._stuck_at > _STUCK_S:
                self.finish(None)
                transport.abort()
            return
        self._stuck_at = None
        transport.write(chunk if self._chunked else plain)

    def finish(self, line: bytes | None) -> None:
        """End the stream.  Idempotent."""
        if not self.done.done():
            self.done.set_result(line)


class _Channel:
    __slots__ = ("name", "task", "watchers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.watchers: dict[Watcher, None] = {}
        self.task: asyncio.Task[None]


class Watches:
    """All watches of a node; belongs to the running loop."""

    def __init__(
        self,
        subscribe: Callable[[str], AsyncIterator[_Json]],
        internal_error: Callable[[str, BaseException], CyoloctlError],
    ) -> None:
        """subscribe: the present value of a counter, then its changes; closed in the end.

        internal_error: logs a bug and gives the error that names the line.
        """
        self._loop = asyncio.get_running_loop()
        self._subscribe = subscribe
        self._internal_error = internal_error
        self._channels: dict[str, _Channel] = {}
        self._turn = asyncio.Lock()
        self._free_at = 0.0

    def join(self, name: str, watcher: Watcher) -> None:
        """Send the watcher what comes after its index, until it leaves."""
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel(name)
            channel.task = self._loop.create_task(self._run(channel))
        channel.watchers[watcher] = None

    async def leave(self, name: str, watcher: Watcher) -> None:
        """Stop sending to the watcher.  Idempotent."""
        channel = self._channels.get(name)
        if channel is None or watcher not in channel.watchers:
            return
        del channel.watchers[watcher]
        if not channel.watchers:
            del self._channels[name]
            channel.task.cancel()
            await asyncio.wait((channel.task,))

    async def _run(self, channel: _Channel) -> None:
        items = self._subscribe(channel.name)
        error: CyoloctlError
        upcoming: asyncio.Future[_Json] | None = None
        try:
            while True:
                upcoming = upcoming or asyncio.ensure_future(next_of(items))
                await asyncio.wait((upcoming,), timeout=schema.KEEPALIVE_LINE_S)
                async with self._turn:
                    waited = self._free_at - self._loop.time()
                    if waited > 0:
                        await asyncio.sleep(waited)
                    value = None
                    if upcoming.done():
                        value, upcoming = upcoming.result(), None
                        if waited > 0:
                            # What changed meanwhile is there at once, and newer.
                            upcoming = asyncio.ensure_future(next_of(items))
                            await asyncio.sleep(0)
                            if upcoming.done():
                                value, upcoming = upcoming.result(), None
                    await self._broadcast(channel, value)
                await asyncio.sleep(_CHANNEL_PAUSE_S)
        except StopAsyncIteration:
            error = Unavailable("the watch ended: watch again")
        except CyoloctlError as refusal:
            error = refusal
        except Exception as failure:
            error = self._internal_error("watch", failure)
        finally:
            if upcoming is not None:
                if not upcoming.done():
                    upcoming.cancel()
                    await asyncio.wait((upcoming,))
                if not upcoming.cancelled():
                    upcoming.exception()  # looked at, or asyncio complains about a failure nobody saw
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()
        if self._channels.get(channel.name) is channel:
            del self._channels[channel.name]
        line = encode_error(error) + b"\n"
        for watcher in channel.watchers:
            watcher.finish(line)

    async def _broadcast(self, channel: _Channel, value: _Json | None) -> None:
        """Write a value to all who have not seen it, or a blank line (None) to all."""
        now = started = self._loop.time()
        line = b"\n" if value is None else encode_object(value) + b"\n"
        chunk = b"%x\r\n%b\r\n" % (len(line), line)
        index = 0 if value is None else int(value["index"])
        for number, watcher in enumerate(list(channel.watchers), 1):
            if value is None or index > watcher.index:
                watcher.index = max(watcher.index, index)
                watcher.write(line, chunk, now)
            if number % _SLICE == 0:
                await asyncio.sleep(0)
                now = self._loop.time()
        # uvloop writes at the end of a turn of its loop.
        await asyncio.sleep(0)
        now = self._loop.time()
        self._free_at = now + min(_PAUSE_FACTOR * (now - started), _LONGEST_PAUSE_S)


async def next_of(items: AsyncIterator[_Json]) -> _Json:
    """The next item, as a coroutine: a task needs one, and anext() gives only an awaitable."""
    return await anext(items)
