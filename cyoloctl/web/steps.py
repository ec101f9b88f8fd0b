"""Calls of the API, written once: a client that blocks and a client in an event loop run the same steps.

Sans-io.  An operation is a generator that yields what it needs done (`Step`) and is sent what came of it,
or has the failure thrown into it.  `control.blocking` and `control.looped` are all that there is of
either client.

`operation` and `iteration` make such a generator a method of a `Group`: on a client that blocks it returns
the result, on one in a loop an awaitable of it.  The subjects' `client.py` hold the groups.

Every command imports this module, so it imports little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from cyoloctl.errors import AuthorizationPending, Conflict, CyoloctlError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
    from typing import Self

__all__ = [
    "Background",
    "Blocking",
    "Caller",
    "Connect",
    "Group",
    "InLoop",
    "Item",
    "Items",
    "Pause",
    "Receive",
    "Runner",
    "Send",
    "Step",
    "Steps",
    "Stream",
    "Turns",
    "Until",
    "Wire",
    "consistency",
    "iteration",
    "operation",
]

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Connect:
    """Gives a Wire to an endpoint, or raises what `endpoints.Endpoint.connect` does."""

    __slots__ = ("deadline", "endpoint")

    def __init__(self, endpoint: Any, deadline: Until) -> None:
        self.endpoint = endpoint
        self.deadline = deadline


class Send:
    """Sends all of the data.  Raises OSError: then its last byte was not taken."""

    __slots__ = ("data", "deadline", "wire")

    def __init__(self, wire: Any, data: bytes, deadline: Until) -> None:
        self.wire = wire
        self.data = data
        self.deadline = deadline


class Receive:
    """Gives some bytes, none at the end.  Raises OSError, TimeoutError."""

    __slots__ = ("deadline", "wire")

    def __init__(self, wire: Any, deadline: Until) -> None:
        self.wire = wire
        self.deadline = deadline


class Pause:
    """Lets so many seconds pass."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Item(Generic[T_co]):
    """Something found, for whoever iterates."""

    __slots__ = ("value",)

    def __init__(self, value: T_co) -> None:
        self.value = value


if TYPE_CHECKING:  # what is for types only would cost every command a millisecond
    Step = Connect | Send | Receive | Pause
    Steps = Generator[Step, Any, T]
    """What ends in a T."""
    Items = Generator[Step | Item[T], Any, None]
    """What finds one T after the other."""

    class Until(Protocol):
        """A deadline."""

        def left(self) -> float:
            """Seconds left, never negative."""

    class Wire(Protocol):
        """A connection, as whoever runs the steps made it."""

        def close(self) -> None:
            """Close.  Idempotent."""

        def fileno(self) -> int:
            """Its descriptor."""

    class Runner(Protocol):
        """Runs steps: blocking, or in an event loop."""

        in_loop: bool

        def run(self, steps: Steps[Any]) -> Any:
            """The result, or an awaitable of it."""

        def iterate(self, items: Items[Any]) -> Any:
            """An iterator of what is found, or an asynchronous one."""

        def background(self, steps: Steps[None], on_end: Callable[[], None]) -> Background:
            """Run steps beside what else is done.  on_end: called when they ended and were not stopped."""

    class Background(Protocol):
        """Steps that run beside what else is done."""

        def stop(self) -> None:
            """Do no further steps; what was sent already may still be answered.  Idempotent."""

    class Stream(Protocol):
        """An answer of many lines, open until it is closed.  Use it as a context manager."""

        def next(self) -> Steps[dict[str, Any]]:
            """The next object.  Raises Unavailable where the stream ended, and what it says."""

        def __enter__(self) -> Self:
            """Itself."""

        def __exit__(self, *_: object) -> None:
            """Close."""

    class Caller(Protocol):
        """What the groups need of a client.

        timeout_s: of a call, with all its attempts.  size: number of endpoints.
        """

        @property
        def timeout_s(self) -> float:
            """Seconds."""

        @property
        def size(self) -> int:
            """Number of endpoints."""

        def call(
            self,
            operation: str,
            name: str = "",
            body: Mapping[str, Any] | None = None,
            query: Mapping[str, Any] | None = None,
            *,
            repeatable: bool = False,
            timeout_s: float | None = None,
            at: int | None = None,
        ) -> Steps[Any]:
            """The answer to an operation of the API.

            repeatable: sending it twice does no harm.  timeout_s: other than the client's.
            at: one attempt, at the endpoint of that number.
            """

        def stream(self, operation: str, name: str) -> Steps[Stream]:
            """The answer to an operation that answers with many lines, from the first endpoint that does."""


class Turns:
    """The endpoints of a client in turn: the one that answered last first."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._first = 0

    def __len__(self) -> int:
        return self._caller.size

    def ask(
        self,
        operation: str,
        name: str = "",
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        *,
        timeout_s: float,
    ) -> Steps[Any]:
        """One attempt at one endpoint of what does no harm twice.

        After a failure it is another one's turn.
        """
        at = self._first
        try:
            return (
                yield from self._caller.call(
                    operation, name, body, query, repeatable=True, timeout_s=timeout_s, at=at
                )
            )
        except (Conflict, AuthorizationPending):
            raise
        except CyoloctlError:
            if self._first == at:
                self._first = (at + 1) % self._caller.size
            raise


def consistency(stale: bool) -> dict[str, str]:
    """The query of a read: linearizable, or with stale what the asked node has."""
    return {"consistency": "stale"} if stale else {}


class Blocking:
    """Of a client whose methods return when they are done."""


class InLoop:
    """Of a client whose methods are awaited."""


M = TypeVar("M")


class Group(Generic[M]):
    """Some operations of a client; of M, Blocking or InLoop, it depends how they are run."""

    def __init__(self, caller: Caller, runner: Runner) -> None:
        self._caller = caller
        self._runner = runner


class operation(Generic[P, T]):
    """Makes a generator of steps a method that runs them."""

    def __init__(self, method: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        self.__wrapped__ = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, group: None, owner: Any = None) -> Self: ...
    @overload
    def __get__(self, group: Group[Blocking], owner: Any = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, group: Group[InLoop], owner: Any = None) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __get__(self, group: Any, owner: Any = None) -> Any:
        method = self.__wrapped__
        if group is None:
            return self

        def run(*arguments: P.args, **options: P.kwargs) -> Any:
            return group._runner.run(method(group, *arguments, **options))

        return _named_like(method, run)


class iteration(Generic[P, T]):
    """Makes a generator of steps and items a method that iterates over the items.

    Nothing is asked before the first item is.  Whoever stops early closes what was given.
    """

    def __init__(self, method: Callable[Concatenate[Any, P], Items[T]]) -> None:
        self.__wrapped__ = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, group: None, owner: Any = None) -> Self: ...
    @overload
    def __get__(self, group: Group[Blocking], owner: Any = None) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, group: Group[InLoop], owner: Any = None) -> Callable[P, AsyncIterator[T]]: ...

    def __get__(self, group: Any, owner: Any = None) -> Any:
        method = self.__wrapped__
        if group is None:
            return self

        def iterate(*arguments: P.args, **options: P.kwargs) -> Any:
            return group._runner.iterate(method(group, *arguments, **options))

        return _named_like(method, iterate)


def _named_like(method: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    function.__doc__ = method.__doc__
    function.__name__ = method.__name__
    function.__qualname__ = method.__qualname__
    return function
