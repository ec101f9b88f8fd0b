"""Lines to many watchers: shared, merged, and for a bounded share of the time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cyoloctl.control import watches as watching
from cyoloctl.control.watches import Watcher, Watches
from cyoloctl.errors import CyoloctlError, InternalError


class Source:
    """A counter whose changes are merged, as a node's."""

    def __init__(self) -> None:
        self.index = 1
        self.readers = 0
        self._changed: set[asyncio.Event] = set()

    async def watch(self, name: str) -> AsyncIterator[dict[str, Any]]:
        event = asyncio.Event()
        event.set()
        self._changed.add(event)
        self.readers += 1
        try:
            while True:
                await event.wait()
                event.clear()
                yield {"schema_version": 1, "name": name, "value": self.index, "index": self.index}
        finally:
            self.readers -= 1
            self._changed.discard(event)

    def change(self) -> None:
        self.index += 1
        for event in self._changed:
            event.set()


class Sink(asyncio.Transport):
    """Takes bytes; costs cost_s for each write, and takes none while `full`."""

    def __init__(self, cost_s: float = 0.0) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.cost_s = cost_s
        self.full = False
        self.aborted = False

    def write(self, data: Any) -> None:
        assert not self.full
        self.written.append(data)
        until = time.perf_counter() + self.cost_s
        while time.perf_counter() < until:
            pass

    def get_write_buffer_size(self) -> int:
        return 1 << 20 if self.full else 0

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def indexes(self) -> list[int]:
        return [json.loads(line)["index"] for line in self.written if line != b"\n"]


def _no_bug(what: str, error: BaseException) -> CyoloctlError:
    raise AssertionError(what) from error


def _join(watches: Watches, sink: Sink, *, index: int = 1, name: str = "x", chunked: bool = False) -> Watcher:
    watcher = Watcher(sink, chunked=chunked, index=index)
    watches.join(name, watcher)
    return watcher


async def _until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


async def test_watchers_of_one_counter_share_one_reader_and_one_line() -> None:
    source = Source()
    watches = Watches(source.watch, _no_bug)
    sinks = [Sink() for _ in range(200)]
    watchers = [_join(watches, sink) for sink in sinks]
    await _until(lambda: source.readers == 1)
    source.change()
    await _until(lambda: all(sink.indexes() == [2] for sink in sinks))
    assert len({id(sink.written[0]) for sink in sinks}) == 1
    for watcher in watchers:
        await watches.leave("x", watcher)
    assert source.readers == 0


async def test_watcher_that_comes_later_is_told_nothing_older_and_misses_nothing_newer() -> None:
    source = Source()
    watches = Watches(source.watch, _no_bug)
    old = Sink(0.02)  # so slow that the next line waits
    _join(watches, old)
    source.change()
    await _until(old.indexes)
    source.change()
    await asyncio.sleep(0.03)  # it is read and waits for its turn
    source.change()
    new = Sink()
    _join(watches, new, index=source.index)
    source.change()
    await _until(lambda: new.indexes() and old.indexes()[-1] == 5)
    assert new.indexes() == [5]
    assert old.indexes() == sorted(set(old.indexes()))


@pytest.mark.alone
async def test_lines_take_at_most_a_tenth_of_the_time() -> None:
    source = Source()
    watches = Watches(source.watch, _no_bug)
    sinks = [[Sink(0.0005) for _ in range(20)] for _ in range(2)]
    for number, group in enumerate(sinks):
        for sink in group:
            _join(watches, sink, name=f"c{number}")

    def served() -> bool:
        return all(len(sink.written) >= 3 for group in sinks for sink in group)

    started = time.perf_counter()
    passed = 0.0
    while passed < 1.5 or (passed < 30 and not served()):  # a busy machine takes longer
        source.change()
        await asyncio.sleep(0.001)
        passed = time.perf_counter() - started
    spent = sum(len(sink.written) for group in sinks for sink in group) * 0.0005
    assert spent < 0.12 * passed + 0.02
    assert served()
    # Merged, and the last change arrives.
    await _until(lambda: all(s.indexes()[-1] == source.index for group in sinks for s in group))


async def test_watcher_that_does_not_read_gets_the_newest_line_when_it_does_and_ends_at_last(
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(watching, "_STUCK_S", 0.05)
    source = Source()
    watches = Watches(source.watch, _no_bug)
    slow, dead = Sink(), Sink()
    _join(watches, slow)
    watcher = _join(watches, dead)
    dead.full = True
    source.change()
    await _until(lambda: slow.indexes() == [2])

    def goes_on() -> bool:
        source.change()
        return watcher.done.done()

    await _until(goes_on)
    assert watcher.done.result() is None
    assert dead.aborted
    assert dead.written == []


async def test_bug_in_the_source_ends_the_watchers_with_an_incident() -> None:
    async def broken(name: str) -> AsyncIterator[dict[str, Any]]:
        yield {"value": 1, "index": 1}
        raise ZeroDivisionError

    watches = Watches(broken, lambda what, error: InternalError(f"incident {type(error).__name__}"))
    watcher = _join(watches, Sink(), index=1)
    last = await asyncio.wait_for(watcher.done, 10)
    assert last is not None
    assert "incident ZeroDivisionError" in json.loads(last)["error"]["message"]
    await watches.leave("x", watcher)
