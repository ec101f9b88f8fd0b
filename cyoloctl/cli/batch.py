"""``cyoloctl batch``: many operations, one per line."""

from __future__ import annotations

import os
import select
import time
from collections import deque
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from cyoloctl.cli import output
from cyoloctl.cli.invocation import Invocation, Leaf, RequestIdOption, check_stdin, command
from cyoloctl.cli.parameters import Argument, Option
from cyoloctl.control.batch import (
    MAX_LINE_BYTES,
    MAX_OPERATIONS,
    MAX_REQUEST_BYTES,
    fitting,
    is_settled,
    read_line,
    send,
)
from cyoloctl.control.blocking import OverlappingRunner
from cyoloctl.control.http1 import Json
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
    from collections.abc import Callable, Iterable, Sequence

    _Decode = Callable[[bytes], dict[str, Any] | None] | None

__all__ = ["COMMANDS"]

_READ_BYTES = 65536
# With more lines than this, what reads and writes JSON faster is worth the time that loading it takes.
_MANY = 1024


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
        lines = _Input(file, from_)
        while some := lines.next(before_wait=run.show):
            run.carry_out(some, read_ahead=lines.read_ahead)
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


def _fast_json() -> Json:
    """What writes requests and reads their answers faster."""
    from cyoloctl.fastjson import compact_bytes, decode_rows

    return Json(compact_bytes, decode_rows)


class _Line(NamedTuple):
    """A line of the input with the operation in it, or the result of one that holds none."""

    text: bytes
    given: dict[str, Any]

    @property
    def is_operation(self) -> bool:
        """Whether a node is asked."""
        return "op" in self.given


class _Run:
    """A run, and what became of its lines so far.

    The results of a request are shown while the next one is on its way.  That one leaves when they are
    known, so no line is carried out before one in front of it, whatever becomes of it.
    """

    def __init__(self, invocation: Invocation, file: str, name: str, *, stop_on_error: bool) -> None:
        self._mode, self._sent = invocation.mode, invocation.sent
        self._file, self._name = file, name
        self._stop_on_error = stop_on_error
        self._client = invocation.client()
        self._kept = self._client.caller.keep_connections()
        self._count = self._failed = 0
        self._worst: CyoloctlError | None = None
        self._answered: list[dict[str, Any]] = []  # and not yet shown
        self._showing_s = 0.0
        self._at: object = None
        self._encode = _encode

    def carry_out(self, lines: Sequence[_Line], *, read_ahead: Callable[[], None]) -> None:
        """Have these lines carried out.  Their results are shown by the next call, or by `show`.

        read_ahead: called while a node works.
        Raises what ends the run: also the error of a line after which no other is tried.
        """
        operations = [line.given for line in lines if line.is_operation]
        results = iter(self._ask(operations, read_ahead) if operations else ())
        self.show()
        error: CyoloctlError | None = None
        for line in lines:
            result = next(results, None) if line.is_operation else line.given
            if result is None:
                break  # the one before it is the last
            self._answered.append(result)
            error = self._counted(result)
            if error is not None and self._stop_on_error:
                break
        if error is not None and (self._stop_on_error or not is_settled(error)):
            self.show()
            raise self._of_the_worst(f"{error.message}; no line after it was tried: {self.again()}")

    def _ask(
        self, operations: Sequence[dict[str, Any]], read_ahead: Callable[[], None]
    ) -> list[dict[str, Any]]:
        def meanwhile() -> None:
            self.show()
            self._at = operations[0]["id"]
            read_ahead()

        steps = send(
            self._client.caller,
            operations,
            self._name,
            stop_on_error=self._stop_on_error,
            clock=lambda: time.monotonic() - self._showing_s,
        )
        try:
            return OverlappingRunner(meanwhile).run(steps)
        except NotFound:  # the path: a batch names nothing else
            raise VersionMismatch(
                "the node still runs an earlier release, which knows no batches: upgrade it"
            ) from None
        finally:
            self._sent.clear()

    def show(self) -> None:
        """Print the results that were not printed yet."""
        answered, self._answered = self._answered, []
        if not answered:
            return
        self._at = next((each["id"] for each in answered if each["id"] is not None), self._at)
        began = time.monotonic()
        self._write(answered)
        self._showing_s += time.monotonic() - began
        self._at = next((each["id"] for each in reversed(answered) if each["id"] is not None), self._at)

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
        if self._count > _MANY and self._encode is _encode:
            self._encode = _fast_encoder()
            self._client.caller.json = _fast_json()
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


class _Input:
    """The lines of a file or of stdin, by the request.

    first: the id of the line with which to begin; None: the first one.
    """

    def __init__(self, file: str, first: str | None) -> None:
        self._file, self._first = file, first
        self._source = _open(file)
        self._poll = select.poll()
        self._poll.register(self._source, select.POLLIN)
        self._rest, self._number, self._skips = b"", 0, False
        self._decode: _Decode = None
        self._waiting: deque[_Line] = deque()
        self._waiting_bytes = 0
        self._ended = False
        self._error: CyoloctlError | None = None

    def next(self, *, before_wait: Callable[[], None]) -> list[_Line]:
        """The lines that are there, no more than one request takes; none: there are no more.

        before_wait: called before it waits for a line, and before it raises or ends.
        """
        self.read_ahead()
        if not self._waiting:
            before_wait()
        while not self._waiting and not self._ended:
            self._poll.poll()
            self.read_ahead()
        if self._waiting:
            some = [self._waiting.popleft() for _ in range(fitting(line.text for line in self._waiting))]
            self._waiting_bytes -= sum(len(line.text) for line in some)
            return some
        if self._error is not None:
            raise self._error
        if self._first is not None:
            raise NotFound(f"no line has the id {self._first[:128]!r}: nothing was sent")
        return []

    def read_ahead(self) -> None:
        """Read what is there, up to a whole request.  Waits for nothing."""
        while (
            not self._ended
            and len(self._waiting) < MAX_OPERATIONS
            and self._waiting_bytes < MAX_REQUEST_BYTES
            and self._poll.poll(0)
        ):
            try:
                data = os.read(self._source, _READ_BYTES)
            except OSError as error:
                which = "stdin" if self._file == "-" else self._file
                self._error = file_error(which, error, "read the operations from")
                self._ended = True
            else:
                self._ended = not data
                self._add(self._lines(data) if data else self._last())

    def _lines(self, data: bytes) -> Iterable[_Line]:
        """The lines that end in the next bytes of the input."""
        *texts, self._rest = (self._rest + data).split(b"\n")
        if self._skips and texts:
            texts, self._skips = texts[1:], False  # the end of a line that was too long
            self._number += 1
        if self._number > _MANY and self._decode is None:
            from cyoloctl.fastjson import decode_flat_object

            self._decode = decode_flat_object
        found: list[_Line] = []
        for text in texts:
            self._number += 1
            found += _line(text, self._number, self._decode)
        if self._skips or len(self._rest) > MAX_LINE_BYTES:
            found += [] if self._skips else _line(self._rest, self._number + 1)
            self._rest, self._skips = b"", True
        return found

    def _last(self) -> Iterable[_Line]:
        """The line at the end of the input that nothing ends."""
        return _line(self._rest, self._number + 1) if self._rest and not self._skips else []

    def _add(self, lines: Iterable[_Line]) -> None:
        for line in lines:
            if self._first is not None and str(line.given.get("id")) != self._first:
                continue
            self._first = None
            self._waiting.append(line)
            self._waiting_bytes += len(line.text)


def _open(file: str) -> int:
    if file == "-":
        check_stdin("operations")
        return 0
    try:
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise file_error(file, error, "read the operations from") from None


def _line(text: bytes, number: int, decode: _Decode = None) -> list[_Line]:
    """A line, unless it is blank."""
    return [_Line(text, read_line(text, number, decode))] if text.strip() else []


COMMANDS: dict[str, Leaf] = {"batch": batch}
