"""Steps of the client, run one after the other by the thread that asks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from cyoloctl.web.steps import Connect, Item, Pause, Receive, Send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cyoloctl.web.steps import Background, Items, Step, Steps

__all__ = ["BlockingRunner", "OverlappingRunner", "run"]

T = TypeVar("T")

# A timeout of zero would make the socket one that does not wait at all.
_LEAST_S = 0.001


class _Stopped(Exception):
    pass


class _Background:
    def __init__(self, stop: Callable[[], None]) -> None:
        self.stop = stop


class BlockingRunner:
    """Runs steps on blocking sockets.  pause: how seconds pass."""

    in_loop = False

    def __init__(self, pause: Callable[[float], object] = time.sleep) -> None:
        self._pause = pause

    def run(self, steps: Steps[T]) -> T:
        """The result of steps.  Raises what they raise."""
        try:
            step = next(steps)
            while True:
                try:
                    result = self._perform(step)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            found: T = end.value
            return found

    def iterate(self, items: Items[T]) -> Iterator[T]:
        """What is found, one after the other.  Raises what the steps raise."""
        try:
            step = next(items)
            while True:
                try:
                    if isinstance(step, Item):
                        yield step.value
                        result = None
                    else:
                        result = self._perform(step)
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
        """Run steps in a thread that keeps no process from ending.  on_end: called in that thread."""
        import threading

        stopping = threading.Event()

        def pause(seconds: float) -> None:
            if stopping.wait(seconds):
                raise _Stopped

        def work() -> None:
            try:
                BlockingRunner(pause).run(steps)
            except _Stopped:
                return
            if not stopping.is_set():
                on_end()

        threading.Thread(target=work, name="cyoloctl", daemon=True).start()
        return _Background(stopping.set)

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Receive):
            step.wire.settimeout(max(step.deadline.left(), _LEAST_S))
            return step.wire.recv(65536)
        if isinstance(step, Send):
            step.wire.settimeout(max(step.deadline.left(), _LEAST_S))
            return step.wire.sendall(step.data)
        if isinstance(step, Connect):
            return step.endpoint.connect(step.deadline)
        assert isinstance(step, Pause)
        return self._pause(step.seconds)


class OverlappingRunner(BlockingRunner):
    """Does something else while a node works.

    meanwhile: called once, before the first step that is no Send: when the first request is on its way,
    or before a connection is made for it.  What it raises ends the steps.
    """

    def __init__(self, meanwhile: Callable[[], None], pause: Callable[[float], object] = time.sleep) -> None:
        super().__init__(pause)
        self._meanwhile: Callable[[], None] | None = meanwhile

    def _perform(self, step: Step) -> Any:
        if self._meanwhile is not None and not isinstance(step, Send):
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile()
        return super()._perform(step)


run = BlockingRunner().run
"""Runs steps, and sleeps for each pause."""
