"""Common ground of the commands: the common options, numbers, confirmation, files.

``@command(...)`` appends the common options to a leaf's own and hands the
function an Invocation instead.  Flags beat environment beats default.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from cyoloctl.cli import output
from cyoloctl.cli.parameters import Option, Parameter, parameters_of
from cyoloctl.errors import (
    Conflict,
    CyoloctlError,
    InternalError,
    Interrupted,
    InvalidInput,
    OutcomeUnknown,
    StorageError,
    UsageError,
)
from cyoloctl.paths import (
    check_data_dir,
    exists_error,
    file_error,
    find_node,
    write_private,
)
from cyoloctl.process import was_closed

if TYPE_CHECKING:
    from pathlib import Path

    from cyoloctl.control.client import AsyncClient, Client
    from cyoloctl.paths import FoundNode

__all__ = [
    "INT64_MAX",
    "INT64_MIN",
    "Invocation",
    "Leaf",
    "RequestIdOption",
    "StaleOption",
    "check_stdin",
    "command",
    "common_parameters",
    "confirm",
    "duration_text",
    "listed",
    "parse_choice",
    "parse_command",
    "parse_duration_s",
    "parse_int64",
    "parse_seconds",
    "parse_seeds",
    "read_input",
    "read_secret",
    "secret_file",
    "store_private",
]

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1
_SECRET_LIMIT_BYTES = 64 * 1024

_TIMEOUT_MIN_S = 0.1
_TIMEOUT_MAX_S = 300.0
_MAX_SEED = 2**63

OutputOption = Annotated[
    str | None,
    Option(
        "-o",
        "--output",
        metavar="table|json|yaml",
        help="Output format. [env: CYOLOCTL_OUTPUT; default: table]",
    ),
]
DataDirOption = Annotated[
    str | None,
    Option(
        "-d",
        "--data-dir",
        metavar="DIR",
        help="Data directory of the node. "
        "[env: CYOLOCTL_DATA_DIR; default: /var/lib/cyoloctl for root, else $XDG_DATA_HOME/cyoloctl]",
    ),
]
EndpointOption = Annotated[
    list[str] | None,
    Option(
        "-e",
        "--endpoint",
        metavar="URL",
        help="Node to ask: unix:///PATH/control.sock or https://HOST:PORT; repeat to give several, tried "
        "in turn. "
        "[env: CYOLOCTL_ENDPOINT, comma separated; default: the socket in the data directory]",
    ),
]
CredentialsOption = Annotated[
    str | None,
    Option(
        "--credentials",
        metavar="FILE",
        help="Credentials file for https endpoints. "
        "[env: CYOLOCTL_CREDENTIALS; default: operator.yaml in the data directory]",
    ),
]


StaleOption = Annotated[
    bool,
    Option("--stale", help="Read the node's own state: fast, perhaps outdated, and without a leader."),
]
RequestIdOption = Annotated[
    str | None,
    Option(
        "--request-id",
        metavar="ID",
        help="Id under which the write is applied once, however often it is sent. "
        "1 to 128 printable characters. [default: a random one]",
    ),
]


def _timeout_option(default_s: float | None) -> Any:
    default = "as the command says" if default_s is None else f"{default_s:g}s"
    return Annotated[
        str | None,
        Option(
            "--timeout",
            metavar="DURATION",
            help=f"Time limit, {_TIMEOUT_MIN_S:g}s to {_TIMEOUT_MAX_S:g}s. "
            f"[env: CYOLOCTL_TIMEOUT; default: {default}]",
        ),
    ]


def common_parameters() -> list[Parameter]:
    """The options that may also stand before a sub-command."""
    options = {
        "output_": OutputOption,
        "data_dir_": DataDirOption,
        "endpoint_": EndpointOption,
        "credentials_": CredentialsOption,
        "timeout_": _timeout_option(None),
    }
    return [Parameter(name, annotated) for name, annotated in options.items()]


class Invocation:
    """The common options of one command, resolved.

    mode: table, json or yaml.  data_dir: absolute.  data_dir_given: by flag or environment.
    endpoints: tried in turn; empty only for a command that does not connect.  timeout_s: 0.1 to 300.
    from_data_dir: the endpoint or the credentials are those in the data directory; own_socket: the
    endpoint is.  sent: the request ids of the writes that were sent, in order.
    """

    def __init__(
        self,
        *,
        mode: str,
        found: FoundNode,
        data_dir_given: bool,
        timeout_s: float,
    ) -> None:
        self.mode = mode
        self.data_dir_given = data_dir_given
        self.endpoints = found.endpoints
        self.timeout_s = timeout_s
        self.from_data_dir = found.from_data_dir
        self.own_socket = found.own_socket
        self.sent: list[str] = []
        self._directory = found.data_dir
        self._credentials = found.credentials

    @property
    def data_dir(self) -> Path:
        """The data directory."""
        from pathlib import Path

        return Path(self._directory)

    @property
    def credentials(self) -> Path | None:
        """The credentials file that was named, or is in the data directory and wanted."""
        from pathlib import Path

        return None if self._credentials is None else Path(self._credentials)

    def client(self, endpoints: Sequence[str] = (), *, timeout_s: float | None = None) -> Client:
        """A client of the endpoints, all of them unless some are given; nothing is sent yet.

        Raises ConfigError for a data directory, needed for it, that this user may not use.
        """
        from cyoloctl.control.client import Client

        return Client(
            list(endpoints or self.endpoints),
            timeout_s=self.timeout_s if timeout_s is None else timeout_s,
            retry=False,
            on_write=self.sent.append,
            credentials=self._credentials,
            data_dir=self._own_dir(),
        )

    def loop_client(
        self, endpoints: Sequence[str], credentials: Path | None = None, *, timeout_s: float | None = None
    ) -> AsyncClient:
        """A client of the endpoints for an event loop, which keeps no request ids; otherwise as client().

        credentials: in place of those that were given.
        """
        from cyoloctl.control.client import AsyncClient

        return AsyncClient(
            list(endpoints),
            timeout_s=self.timeout_s if timeout_s is None else timeout_s,
            retry=False,
            credentials=credentials or self._credentials,
            data_dir=self._own_dir(),
        )

    def credentials_for_members(self) -> Path | None:
        """Credentials for members that no endpoint names; None where there are none."""
        if self.credentials is not None or not self.own_socket:
            return self.credentials
        own = self.data_dir / "operator.yaml"
        return own if own.exists() else None

    def _own_dir(self) -> str | None:
        """The data directory, where it says what to ask.  Raises ConfigError."""
        if self.from_data_dir:
            check_data_dir(self._directory)
        # Also for operator.yaml in it, which is not there: what another directory has is not meant.
        return self._directory if self.own_socket or self._lacks_credentials() else None

    def _lacks_credentials(self) -> bool:
        return self._credentials is None and any(url.startswith("https:") for url in self.endpoints)

    def read(
        self, operation: str, name: str = "", query: Mapping[str, Any] | None = None, *, stale: bool
    ) -> dict[str, Any]:
        """The answer to a read; with stale what the asked node has, which a human is told."""
        asked = {**(query or {}), **({"consistency": "stale"} if stale else {})}
        document = self.client().call(operation, name, query=asked)
        if stale and document.get("next") is None:  # once for all pages
            self.stale()
        return document

    def announced(self, request_id: str | None) -> str:
        """The request id of a write whose answer is worth more than the write: told before it is sent.

        What ends this process, or what it prints to, then costs nobody the answer.
        """
        if request_id is not None:
            return request_id
        from cyoloctl.control.client import new_request_id

        made = new_request_id()
        self.hint(f"should the result get lost, the same command with --request-id {made} gives it again")
        return made

    def stale(self) -> None:
        """Tell a human that what was read may be outdated."""
        self.hint("stale: what the asked node knows, without asking a majority")

    def _again(self) -> str:
        """Advice on how to have the result again; empty where nothing was written to the cluster."""
        if not self.sent:
            return ""
        return f"the same command with --request-id {self.sent[-1]} gives the result again"

    def ended(self, error: BaseException) -> BaseException:
        """The error to end with: of a write, it names the request id under which it is safe to repeat."""
        again = self._again()
        if isinstance(error, output.OutputClosed) and again:
            output.note(f"the result was not read to its end: {again}")
        if isinstance(error, output.OutputFailed):
            error = StorageError(
                f"the command was carried out, but {error}, then {again or 'run the command again'}"
            )
        elif isinstance(error, KeyboardInterrupt) and again:
            error = Interrupted(f"interrupted; {again}, if it was carried out, and else carries it out")
        elif again and not isinstance(error, CyoloctlError):
            error.add_note(f"{again}, if it was carried out, and else carries it out")
        elif isinstance(error, OutcomeUnknown) and again and self.sent[-1] not in error.message:
            error = OutcomeUnknown(f"{error.message}; {again}")
        if isinstance(error, CyoloctlError) and self.sent:
            error.request_id = self.sent[-1]
        return error

    def value(self, document: Mapping[str, Any], bare: str, *, stream: bool = False) -> None:
        """Write the bare value in table mode, the document otherwise."""
        if self.mode == "table":
            output.write(bare + "\n")
        else:
            output.structured(document, self.mode, stream=stream)

    def fields(self, document: Mapping[str, Any], rows: Sequence[tuple[str, object]]) -> None:
        """Write ``name  value`` lines in table mode, the document otherwise."""
        if self.mode == "table":
            output.write(output.fields(rows))
        else:
            output.structured(document, self.mode)

    def hint(self, text: str) -> None:
        """A line for the human on stderr; scripts that asked for json or yaml do not get it."""
        if self.mode == "table":
            output.note(text)


def _choose(flag: str | None, option: str, variable: str) -> tuple[str | None, str]:
    """The flag's value, else the variable's (an empty one counts as none), and where it is from."""
    return (flag, option) if flag is not None else (os.environ.get(variable) or None, variable)


def _mode(flag: str | None) -> str:
    mode, source = _choose(flag, "--output", "CYOLOCTL_OUTPUT")
    if mode is None:
        return "table"
    return parse_choice(mode, source, output.MODES)


def _timeout_s(flag: str | None, default_s: float) -> float:
    text, source = _choose(flag, "--timeout", "CYOLOCTL_TIMEOUT")
    if text is None:
        return default_s
    return parse_seconds(text, source, minimum_s=_TIMEOUT_MIN_S, maximum_s=_TIMEOUT_MAX_S)


def _invocation(
    options: Mapping[str, Any], *, connects: bool, default_timeout_s: float, environment_data_dir: bool
) -> Invocation:
    mode = _mode(options.get("output_"))
    dir_flag: str | os.PathLike[str] | None = options.get("data_dir_")
    found = find_node(
        options.get("endpoint_") or (),
        dir_flag,
        options.get("credentials_"),
        os.environ,
        connects=connects,
        from_environment=environment_data_dir,
    )
    if not connects and environment_data_dir and "data_dir_" in options:
        check_data_dir(found.data_dir)
    return Invocation(
        mode=mode,
        found=found,
        data_dir_given=dir_flag is not None
        or (environment_data_dir and bool(os.environ.get("CYOLOCTL_DATA_DIR"))),
        timeout_s=_timeout_s(options.get("timeout_"), default_timeout_s),
    )


class Leaf:
    """A command: a function (invocation, own options...), called with a value for each of its parameters.

    common: the common options that it takes, by their names.  The rest: see `command`.
    """

    def __init__(
        self,
        function: Callable[..., int | None],
        common: Mapping[str, Any],
        *,
        connects: bool,
        default_timeout_s: float,
        environment_data_dir: bool,
    ) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        self._common = common
        self._connects = connects
        self._default_timeout_s = default_timeout_s
        self._environment_data_dir = environment_data_dir

    def parameters(self) -> list[Parameter]:
        """Its own parameters, then the common options."""
        common = [Parameter(name, annotated) for name, annotated in self._common.items()]
        return [*parameters_of(self.function), *common]

    def __call__(self, **values: Any) -> int | None:
        """Run it: its exit status, None for 0.  Raises what `boundary` has a status for."""
        options = {name: values.pop(name) for name in self._common}
        invocation = _invocation(
            options,
            connects=self._connects,
            default_timeout_s=self._default_timeout_s,
            environment_data_dir=self._environment_data_dir,
        )
        try:
            status = self.function(invocation, **values)
            if invocation.sent and was_closed("stdout"):
                raise output.OutputFailed("stdout is closed: open it to see the result")
        except BrokenPipeError as error:
            # typer takes any broken pipe for a closed stdout and would hide this one.
            raise InternalError(f"a connection broke in an unforeseen place: {error!r}") from error
        except (Exception, KeyboardInterrupt) as error:
            ended = invocation.ended(error)
            if ended is error:
                raise
            raise ended from None
        return status


def command(
    *,
    connects: bool = True,
    data_dir: bool = True,
    own_data_dir: Any = None,
    timeout_s: float | None = 5.0,
) -> Callable[[Callable[..., int | None]], Leaf]:
    """Make a function (invocation, own options...) into a leaf command.  It may return an exit status.

    connects: takes -e and --credentials.  data_dir: takes -d.
    own_data_dir: an annotation in its place, for a command whose directory is
    not a node's: the environment then does not count.  timeout_s: default of
    --timeout in seconds; None: it has no meaning here.
    """
    common: dict[str, Any] = {"output_": OutputOption}
    if data_dir:
        common["data_dir_"] = own_data_dir or DataDirOption
    if connects:
        common["endpoint_"] = EndpointOption
        common["credentials_"] = CredentialsOption
    if timeout_s is not None:
        common["timeout_"] = _timeout_option(timeout_s)
    return lambda function: Leaf(
        function,
        common,
        connects=connects,
        default_timeout_s=timeout_s or 5.0,
        environment_data_dir=own_data_dir is None,
    )


def parse_int64(text: str, what: str, minimum: int = INT64_MIN, maximum: int = INT64_MAX) -> int:
    """A decimal integer, of signed 64 bits if nothing else is said.  Raises InvalidInput."""
    if re.fullmatch(r"[+-]?[0-9]{1,30}", text, re.ASCII) and minimum <= int(text) <= maximum:
        return int(text)
    raise InvalidInput(f"{what} is {text[:80]!r}: use a whole number from {minimum} to {maximum}")


def parse_seeds(text: str) -> range:
    """The seeds of A:B, A to B-1.  Raises InvalidInput."""
    match = re.fullmatch(r"([0-9]{1,19}):([0-9]{1,19})", text, re.ASCII)
    if match is None or not int(match[1]) < int(match[2]) <= _MAX_SEED:
        raise InvalidInput(f"--seeds is {text[:80]!r}: use A:B with A below B, for A to B-1")
    return range(int(match[1]), int(match[2]))


def parse_command(text: str, option: str) -> list[str]:
    """The words of a command that runs without a shell.  Raises InvalidInput."""
    import shlex

    try:
        words = shlex.split(text)
    except ValueError as error:  # a quote that is not closed, or a backslash at the end
        why = str(error).lower()
        raise InvalidInput(f"{option} is {text[:80]!r}: {why}; write the command as for a shell") from None
    if not words:
        raise InvalidInput(f"{option} is empty: name a command, or leave it out")
    return words


def parse_choice(text: str, option: str, allowed: Sequence[str]) -> str:
    """One of the words that an option takes.  Raises UsageError."""
    if text not in allowed:
        raise UsageError(f"{option} is {text[:80]!r}: use {', '.join(allowed[:-1])} or {allowed[-1]}")
    return text


_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration_text(seconds: float) -> str:
    """A duration as the options take it, in the largest unit of which it is a whole number."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS_S[unit] == 0:
            return f"{seconds / _UNITS_S[unit]:g}{unit}"
    return f"{seconds:g}s"


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|[smhd]?)", text, re.ASCII)
    return float(match[1]) * _UNITS_S[match[2]] if match else -1.0


def parse_seconds(text: str, what: str, *, minimum_s: float, maximum_s: float) -> float:
    """``0.5``, ``500ms``, ``90s``, ``15m``, ``1.5h`` or ``7d`` in seconds; a bare number is seconds.

    Raises InvalidInput outside the range.
    """
    seconds = _seconds(text)
    if not minimum_s <= seconds <= maximum_s:
        raise InvalidInput(
            f"{what} is {text[:80]!r}: use a number with ms, s, m, h or d, "
            f"from {duration_text(minimum_s)} to {duration_text(maximum_s)}"
        )
    return seconds


def parse_duration_s(text: str, what: str, *, minimum_s: int, maximum_s: int) -> int:
    """As parse_seconds(), in whole seconds.  Raises InvalidInput for a fraction too."""
    seconds = round(parse_seconds(text, what, minimum_s=minimum_s, maximum_s=maximum_s), 6)
    if seconds != int(seconds):
        raise InvalidInput(f"{what} is {text[:80]!r}: use whole seconds")
    return int(seconds)


def listed(name: str, found: Sequence[Mapping[str, Any]], stale: bool) -> dict[str, Any]:
    """The document of a list that came in pages; says so when it is stale."""
    return {"schema_version": 1, name: found, **({"stale": True} if stale else {})}


def confirm(yes: bool, question: str) -> None:
    """Return when the user agreed.

    Raises UsageError without --yes and without a terminal, Conflict when the answer is no.
    """
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty() or sys.stderr is None or not sys.stderr.isatty():
        raise UsageError("this destroys something and there is no terminal to ask on: add --yes to go ahead")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Conflict("not confirmed; nothing was changed")


def check_stdin(what: str) -> None:
    """Raise InvalidInput when stdin is closed, though something is to be read from it."""
    if sys.stdin is None or was_closed("stdin"):
        raise InvalidInput(f"cannot read the {what}, because stdin is closed: use a pipe, or name a file")


def read_input(path: str | os.PathLike[str], what: str, limit_bytes: int) -> bytes:
    """What is in a file, or comes on stdin for ``-``; one byte more than the limit at most.

    Raises InvalidInput when stdin is closed, and what file_error gives.
    """
    if path != "-":
        try:
            with open(path, "rb") as file:
                return file.read(limit_bytes + 1)
        except OSError as error:
            raise file_error(path, error, f"read the {what} from") from None
    check_stdin(what)
    try:
        return sys.stdin.buffer.read(limit_bytes + 1)
    except OSError as error:
        raise file_error("stdin", error, f"read the {what} from") from None


def read_secret(path: str, what: str) -> str:
    """The text of a secret from a file or ``-`` (stdin), without surrounding white space.

    Raises InvalidInput when it is missing, empty, not text or over 64 KiB.
    """
    data = read_input(path, what, _SECRET_LIMIT_BYTES)
    where, remedy = ("on stdin", "pipe it in") if path == "-" else (f"in {path}", "check the file")
    if len(data) > _SECRET_LIMIT_BYTES:
        raise InvalidInput(f"the {what} {where} is longer than {_SECRET_LIMIT_BYTES} bytes: {remedy}")
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise InvalidInput(f"there is no {what} {where}: {remedy}")
    return text


@contextmanager
def secret_file(path: Path, what: str) -> Iterator[Callable[[str | bytes], None]]:
    """A new file of mode 0600, and the function that writes its contents, to the disk.

    The file comes before the secret is asked for: one that could not be
    stored would be lost.  It goes again when the block fails.

    Raises AlreadyExists rather than write into a file whose mode and readers
    are not ours, and what file_error gives.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise exists_error(path, what) from None
    except OSError as error:
        raise file_error(path, error, "create") from None

    def write(data: str | bytes) -> None:
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(descriptor)
        except OSError as error:
            raise file_error(path, error, "write") from None

    try:
        yield write
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def store_private(path: Path, text: str, *, exclusive: bool = True) -> None:
    """write_private for a file that the user named: the status of a mistake is that of file_error."""
    if path.is_dir():
        raise exists_error(path)
    try:
        write_private(path, text.encode(), exclusive=exclusive)
    except StorageError as error:
        if isinstance(error.__cause__, OSError):
            raise file_error(path, error.__cause__, "write") from None
        raise
