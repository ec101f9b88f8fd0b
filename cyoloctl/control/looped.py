"""Steps of the client, run in an event loop.

The sockets are the loop's, and TLS is OpenSSL on buffers in memory: whether the
last byte of a request left is known exactly, as with a socket that blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any, TypeVar

from cyoloctl.control.endpoints import UnixEndpoint
from cyoloctl.control.http1 import NotSent, why
from cyoloctl.web.steps import Connect, Item, Pause, Receive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from cyoloctl.control.endpoints import Endpoint
    from cyoloctl.control.tls_endpoints import TlsEndpoint
    from cyoloctl.web.steps import Background, Items, Step, Steps, Until

__all__ = ["LoopRunner"]

T = TypeVar("T")
_CHUNK_BYTES = 65536


class LoopRunner:
    """Runs steps in the running event loop."""

    in_loop = True

    async def run(self, steps: Steps[T]) -> T:
        """The result of steps.  Raises what they raise."""
        try:
            step = next(steps)
            while True:
                try:
                    result = await _perform(step)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            found: T = end.value
            return found

    async def iterate(self, items: Items[T]) -> AsyncIterator[T]:
        """What is found, one after the other.  Raises what the steps raise."""
        try:
            step = next(items)
            while True:
                try:
                    if isinstance(step, Item):
                        yield step.value
                        result = None
                    else:
                        result = await _perform(step)
                except GeneratorExit:
                    raise
                except BaseException as error:
                    step = items.throw(error)
                else:
                    step = items.send(result)
        except StopIteration:
            return
        finally:
            items.close()

    def background(self, steps: Steps[None], on_end: Callable[[], None]) -> Background:
        """Run steps in a task of the running loop."""
        return _Background(asyncio.get_running_loop().create_task(self.run(steps)), on_end)


class _Background:
    def __init__(self, task: asyncio.Task[None], on_end: Callable[[], None]) -> None:
        self._task = task
        self._on_end = on_end
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._on_end()

    def stop(self) -> None:
        """Cancel what runs."""
        self._task.cancel()


async def _perform(step: Step) -> Any:
    if isinstance(step, Pause):
        return await asyncio.sleep(step.seconds)
    if isinstance(step, Connect):
        return await _connect(step.endpoint, step.deadline)
    async with asyncio.timeout(step.deadline.left()):
        if isinstance(step, Receive):
            return await step.wire.receive()
        return await step.wire.send(step.data)


class _Wire:
    """A socket of the loop."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Close.  Idempotent."""
        self._sock.close()

    def fileno(self) -> int:
        """Its descriptor."""
        return self._sock.fileno()

    async def send(self, data: bytes) -> None:
        """Send all of it.  Raises OSError."""
        await self._loop.sock_sendall(self._sock, data)

    async def receive(self) -> bytes:
        """Some bytes, none at the end.  Raises OSError."""
        return await self._loop.sock_recv(self._sock, _CHUNK_BYTES)


class _TlsWire(_Wire):
    """TLS over a socket of the loop."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(sock)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out)

    async def handshake(self) -> None:
        """Raises OSError, of which ssl.SSLError is one."""
        await self._until_done(self._tls.do_handshake)

    def certificate(self) -> dict[str, Any]:
        """What the other side showed."""
        return dict(self._tls.getpeercert() or {})

    async def send(self, data: bytes) -> None:
        await self._until_done(lambda: self._tls.write(data))

    async def receive(self) -> bytes:
        try:
            return await self._until_done(lambda: self._tls.read(_CHUNK_BYTES))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    async def _until_done(self, act: Callable[[], T]) -> T:
        while True:
            try:
                result = act()
            except ssl.SSLWantReadError:
                await self._flush()
                received = await super().receive()
                if received:
                    self._in.write(received)
                else:
                    self._in.write_eof()
                continue
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    await self._flush()  # why we refuse the other side
                raise
            await self._flush()
            return result

    async def _flush(self) -> None:
        if self._out.pending:
            await super().send(self._out.read())


async def _connect(endpoint: Endpoint, deadline: Until) -> _Wire:
    """What `endpoint.connect` does, in the loop.  Raises what it does."""
    loop = asyncio.get_running_loop()
    if not isinstance(endpoint, UnixEndpoint):
        return await _connect_tls(endpoint, deadline)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(deadline.left()):
            await loop.sock_connect(sock, endpoint.path)
    except (OSError, ValueError) as error:
        sock.close()
        raise endpoint.failure(error) from None
    except BaseException:
        sock.close()
        raise
    return _Wire(sock)


async def _connect_tls(endpoint: TlsEndpoint, deadline: Until) -> _Wire:
    context = endpoint.trust.context()
    sock = await _connected(endpoint, deadline)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire = _TlsWire(sock, context)
        async with asyncio.timeout(deadline.left()):
            await wire.handshake()
    except OSError as error:
        sock.close()
        raise endpoint.handshake_failure(error) from None
    except BaseException:
        sock.close()
        raise
    try:
        endpoint.check(wire.certificate())
    except BaseException:
        sock.close()
        raise
    return wire


async def _connected(endpoint: TlsEndpoint, deadline: Until) -> socket.socket:
    """A TCP connection to the first of the host's places that takes one.  Raises NotSent."""
    loop = asyncio.get_running_loop()
    host = endpoint.look_up()
    if host.begin() is None:
        places = endpoint.places(deadline)  # an address: there is nothing to wait for
    else:
        places = await asyncio.to_thread(endpoint.places, deadline)
    problem = "the name has no address"
    for position, (family, where) in enumerate(places):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            # A place that swallows everything must leave time for the next one.
            async with asyncio.timeout(deadline.left() / (len(places) - position)):
                await loop.sock_connect(sock, where)
        except OSError as error:
            sock.close()
            problem = why(error)
            continue
        except BaseException:
            sock.close()
            raise
        host.worked((family, where))
        return sock
    raise NotSent(problem)
