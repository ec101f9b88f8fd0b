"""``cyoloctl batch``: many operations, one per line."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from cyoloctl.cli import output
from cyoloctl.cli.invocation import Invocation, Leaf, RequestIdOption, check_stdin, command
from cyoloctl.cli.parameters import Argument, Option
from cyoloctl.control.batch import MAX_LINE_BYTES, MAX_OPERATIONS, fitting, is_settled, read_line, send
from cyoloctl.control.blocking import run as run_steps
from cyoloctl.errors import (
    CyoloctlError,
    Interrupted,
    NotFound,
    StorageError,
    UsageError,
    VersionMismatch,
    error_from_code,
)
from cyoloctl.paths import file_error, quoted
from cyoloctl.text import compact_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from queue import Queue

    _Decode = Callable[[bytes], dict[str, Any] | None] | None

__all__ = ["COMMANDS"]

_READ_BYTES = 65536
# With more lines than this, what reads and writes JSON faster is worth the time that loading it takes.
_MANY = 1024
# Pieces of the input that wait: a node has always something to do, and memory has a bound.
_WAITING = 8


@command()
def batch(
    invocation: Invocation,
    file: Annotated[
        str,
        Argument(metavar="[FILE|-]", help="Operations, one JSON object per line; - is stdin."),
    ] = "-",
    request_id: RequestIdOption = None,
    from_: Annotated[
        str | None,
        Option(
            "--from",
            metavar="ID",
            help="Begin with the line of this id: goes on with the run that --request-id names.",
        ),
    ] = None,
    stop_on_error: Annotated[
        bool, Option("--stop-on-error", help="Stop after the first line that is refused; slower.")
    ] = False,
) -> None:
    """Carry out operations, one JSON object per line, in order; print one JSON result per line.

    A line is {"id","op"} with the arguments of that operation of the API,
    "name" among them where its path has one. Each id is applied once in a run,
    which --request-id names. The exit status is the highest among the results.
    A line that is unavailable or unknown past --timeout is the last; stderr
    says how to go on.
    """
    if from_ is not None and request_id is None:
        raise UsageError("--from goes on with a run: add its --request-id, which was shown when it ended")
    from cyoloctl.control.client import new_request_id

    run = _Run(invocation, file, request_id or new_request_id(), stop_on_error=stop_on_error)
    try:
        for lines in _requests(file, from_):
            run.carry_out(lines)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {run.again()}") from None
    except output.OutputClosed:
        output.note(
            f"the results were not read to their end: {run.again()}; "
            "take an earlier id where results are missing"
        )
        raise
    except output.OutputFailed as error:
        raise StorageError(f"{error}; {run.again()}") from None
    finally:
        run.close()
        invocation.sent.clear()  # what is said of them is said above
    run.end()


_encode = compact_encoder(sort_keys=False)


@cache
def _fast_encoder() -> Callable[[object], str]:
    """What gives the same as `_encode`, faster."""
    from cyoloctl.fastjson import compact_bytes

    def encode(value: object) -> str:
        data = compact_bytes(value)
        return _encode(value) if b"\x7f" in data else data.decode("ascii")

    return encode


class _Line(NamedTuple):
    """A line of the input with the operation in it, or the result of one that holds none."""

    text: bytes
    given: dict[str, Any]

    @property
    def is_operation(self) -> bool:
        """Whether a node is asked."""
        return "op" in self.given


class _Run:
    """A run, and what became of its lines so far."""

    def __init__(self, invocation: Invocation, file: str, name: str, *, stop_on_error: bool) -> None:
        self._mode, self._sent = invocation.mode, invocation.sent
        self._file, self._name = file, name
        self._stop_on_error = stop_on_error
        self._client = invocation.client()
        self._kept = self._client.caller.keep_connections()
        self._count = self._failed = 0
        self._worst: CyoloctlError | None = None
        self._at: object = None
        self._encode = _encode

    def carry_out(self, lines: Sequence[_Line]) -> None:
        """Have these lines carried out, and print a result for each.

        Raises what ends the run: also the error of a line after which no other is tried.
        """
        operations = [line.given for line in lines if line.is_operation]
        results = iter(self._ask(operations) if operations else ())
        answered: list[dict[str, Any]] = []
        error: CyoloctlError | None = None
        for line in lines:
            result = next(results, None) if line.is_operation else line.given
            if result is None:
                break  # the one before it is the last
            answered.append(result)
            error = self._counted(result)
            if error is not None and self._stop_on_error:
                break
        self._write(answered)
        self._at = next((each["id"] for each in reversed(answered) if each["id"] is not None), self._at)
        if error is not None and (self._stop_on_error or not is_settled(error)):
            raise self._of_the_worst(f"{error.message}; no line after it was tried: {self.again()}")

    def _ask(self, operations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        self._at = operations[0]["id"]
        steps = send(self._client.caller, operations, self._name, stop_on_error=self._stop_on_error)
        try:
            return run_steps(steps)
        except NotFound:  # the path: a batch names nothing else
            raise VersionMismatch(
                "the node still runs an earlier release, which knows no batches: upgrade it"
            ) from None
        finally:
            self._sent.clear()

    def _counted(self, result: dict[str, Any]) -> CyoloctlError | None:
        """The error in a result, which counts for the exit status."""
        self._count += 1
        if result["ok"]:
            return None
        self._failed += 1
        error = error_from_code(result["error"]["code"], result["error"]["message"])
        if self._worst is None or error.exit_status > self._worst.exit_status:
            self._worst = error
        return error

    def _write(self, results: Sequence[dict[str, Any]]) -> None:
        if self._count > _MANY:
            self._encode = _fast_encoder()
        encode = self._encode
        lines = [{"schema_version": 1, **result} for result in results]
        if self._mode == "yaml":
            output.write("".join([output.render(line, "yaml", stream=True) for line in lines]))
        else:
            output.write("".join([f"{encode(line)}\n" for line in lines]))

    def close(self) -> None:
        """Close the connections."""
        self._kept.close()

    def end(self) -> None:
        """After the last line.  Raises the error with the highest exit status."""
        if self._worst is not None:
            raise self._of_the_worst(
                f"{self._failed} of {self._count} lines failed: the result of each says why"
            )

    def _of_the_worst(self, message: str) -> CyoloctlError:
        assert self._worst is not None
        return type(self._worst)(message)

    def again(self) -> str:
        """Advice on how to go on."""
        if self._at is None:
            return "no line was sent"
        which = "the same lines again to " if self._file == "-" else ""
        options = f"--request-id {quoted(self._name)} --from {quoted(str(self._at))}"
        return (
            f"{which}`cyoloctl batch {quoted(self._file)} {options}` goes on from there, and applies "
            "nothing twice"
        )


# --- the input ------------------------------------------------------------------------------------


def _requests(file: str, first: str | None) -> Iterator[list[_Line]]:
    """The lines of the input, by the request: what is there, and no more than one takes."""
    from collections import deque
    from queue import Empty, Queue
    from threading import Thread

    pieces: Queue[list[_Line] | CyoloctlError | None] = Queue(_WAITING)
    source = _open(file)
    # A daemon: it may wait for input that never comes while the command ends.
    Thread(target=_read, args=(source, file, pieces), daemon=True).start()
    waiting: deque[_Line] = deque()
    ended = False
    while not ended or waiting:
        try:
            piece = pieces.get(block=not waiting) if not ended else None
        except Empty:
            piece = []
        if isinstance(piece, CyoloctlError):
            raise piece
        ended = ended or piece is None
        for line in piece or ():
            if first is not None and str(line.given.get("id")) != first:
                continue
            first = None
            waiting.append(line)
        if waiting and (ended or not piece or len(waiting) >= MAX_OPERATIONS):
            yield [waiting.popleft() for _ in range(fitting(line.text for line in waiting))]
    if first is not None:
        raise NotFound(f"no line has the id {first[:128]!r}: nothing was sent")


def _open(file: str) -> int:
    if file == "-":
        check_stdin("operations")
        return 0
    try:
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise file_error(file, error, "read the operations from") from None


def _read(source: int, file: str, pieces: Queue[list[_Line] | CyoloctlError | None]) -> None:
    """Read to the end, in a thread of its own: lines as they come, then None or an error."""
    rest, number, skips = b"", 0, False
    decode: _Decode = None
    try:
        while data := os.read(source, _READ_BYTES):
            *texts, rest = (rest + data).split(b"\n")
            if skips and texts:
                texts, skips = texts[1:], False  # the end of a line that was too long
                number += 1
            found = []
            if number > _MANY:
                from cyoloctl.fastjson import decode_flat_object

                decode = decode_flat_object
            for text in texts:
                number += 1
                found += _line(text, number, decode)
            if skips or len(rest) > MAX_LINE_BYTES:
                found += [] if skips else _line(rest, number + 1)
                rest, skips = b"", True
            if found:
                pieces.put(found)
        if rest and not skips:
            pieces.put(_line(rest, number + 1))
        pieces.put(None)
    except OSError as error:
        pieces.put(file_error("stdin" if file == "-" else file, error, "read the operations from"))


def _line(text: bytes, number: int, decode: _Decode = None) -> list[_Line]:
    """A line, unless it is blank."""
    return [_Line(text, read_line(text, number, decode))] if text.strip() else []


COMMANDS: dict[str, Leaf] = {"batch": batch}
