"""Structured logs: one event per line, as text or JSON, on stderr.

An event is a message of fixed words and named fields (``extra=``).  Secrets
are never passed to a logger; field names that suggest one are masked all the
same.  What strangers can cause fills no disk: one line per second for each kind,
with a count, and files that are rotated by size.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

from cyoloctl.errors import ConfigError

__all__ = [
    "LOG_FILES",
    "MAX_LOG_BYTES",
    "JsonFormatter",
    "LogHandler",
    "TextFormatter",
    "change",
    "configure",
    "open_log",
    "reopen",
    "report_suppressed",
]

_log = logging.getLogger("cyoloctl.node")

MAX_LOG_BYTES = 16 * 2**20
LOG_FILES = 4
"""The one that is written to and the older ones."""

_BURST = 20

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_MASKED = ("secret", "token", "password", "passphrase", "private", "cookie")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    found = {}
    for name, value in vars(record).items():
        if name in _STANDARD or name.startswith("_") or value is None:
            continue
        found[name] = "(hidden)" if any(word in name.lower() for word in _MASKED) else value
    return found


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _frames(record: logging.LogRecord) -> str | None:
    """Type, text and origin of an exception, for its log line."""
    if not record.exc_info or record.exc_info[0] is None:
        return None
    frames = traceback.extract_tb(record.exc_info[2])
    places = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
    return f"{record.exc_info[0].__name__}: {record.exc_info[1]} at {places}"


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (RFC 3339 UTC), level, logger, event, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        event.update(_fields(record))
        frames = _frames(record)
        if frames is not None:
            event["exception"] = frames
        return json.dumps(event, default=str)


class TextFormatter(logging.Formatter):
    """``TIME LEVEL event key=value ...``; a value with spaces or control characters is quoted as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [_time(record), f"{record.levelname.lower():<8}", _one_line(record.getMessage())]
        fields = _fields(record)
        frames = _frames(record)
        if frames is not None:
            fields["exception"] = frames
        parts.extend(f"{name}={_shown(value)}" for name, value in fields.items())
        return " ".join(parts)


def _one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if isinstance(value, str) and (not text.isprintable() or " " in text or '"' in text or not text):
        return json.dumps(text)
    return str(text)


class _Seldom:
    """At most one line per second of each kind of event; the next one tells how many there were.

    Bounded are events that say so (``extra={"_seldom": True}``) because somebody
    without an identity can cause them, and every other warning or error that
    comes more often than `_BURST` times per second.  A kind is its logger and its
    fixed words, never what a caller said.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Kind: since when, how many lines, how many kept back, the last of those.
        self._kinds: dict[tuple[str, str], tuple[float, int, int, logging.LogRecord | None]] = {}

    def passes(self, record: logging.LogRecord) -> bool:
        """Whether to write it now; puts the number of those kept back before it into the record."""
        seldom = getattr(record, "_seldom", False)
        if not seldom and record.levelno < logging.WARNING:
            return True
        kind = (record.name, str(record.msg))
        now = self._clock()
        since, lines, kept, _ = self._kinds.get(kind, (float("-inf"), 0, 0, None))
        if now - since >= 1.0:
            if kept:
                record.suppressed = kept
            self._kinds[kind] = (now, 1, 0, None)
            return True
        if not seldom and lines < _BURST:
            self._kinds[kind] = (since, lines + 1, kept, None)
            return True
        self._kinds[kind] = (since, lines, kept + 1, record)
        return False

    def due(self) -> list[logging.LogRecord]:
        """The last line of each kind that was kept back for a second, with the number of the others."""
        now = self._clock()
        found = []
        for kind, (since, _, kept, record) in list(self._kinds.items()):
            if now - since < 1.0:
                continue
            if record is None:
                del self._kinds[kind]
                continue
            if kept > 1:
                record.suppressed = kept - 1
            self._kinds[kind] = (now, 1, 0, None)
            found.append(record)
        return found


def open_log(path: str) -> int:
    """A descriptor that appends to a node's log file, made 0600 where there is none.

    One of another user, which root once left there, is moved out of the way.
    A symbolic link is not followed: whoever made it would choose where the
    node writes.  Raises ConfigError for that and for what is no file, OSError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        # A pipe without a reader would hold us up without O_NONBLOCK.
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o600)
    except PermissionError:
        found = os.lstat(path)
        if found.st_uid == os.geteuid() or not stat.S_ISREG(found.st_mode):
            raise
        _shift(path)
        descriptor = os.open(path, flags | os.O_EXCL, 0o600)
    except OSError:
        if os.path.islink(path):
            raise ConfigError(
                f"{path} is a symbolic link, which the node does not follow: remove it; to have the log "
                "elsewhere, run the node in the foreground and let a supervisor collect its stderr"
            ) from None
        if os.path.lexists(path) and not os.path.isfile(path):
            raise _no_file(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _no_file(path)
    os.set_blocking(descriptor, True)
    return descriptor


def _no_file(path: str) -> ConfigError:
    return ConfigError(f"{path} is not a file, so the node cannot write its log there: move it away")


def _shift(path: str) -> None:
    """Make room for a new file: PATH becomes PATH.1, that PATH.2 and so on.  Raises OSError."""
    for number in range(LOG_FILES - 1, 0, -1):
        older = path if number == 1 else f"{path}.{number - 1}"
        with contextlib.suppress(FileNotFoundError):
            os.replace(older, f"{path}.{number}")


class LogHandler(logging.Handler):
    """Writes lines to a descriptor; with a path, to a file that it rotates by size itself."""

    def __init__(
        self,
        formatter: logging.Formatter,
        *,
        stream: TextIO | None = None,
        path: str | None = None,
        max_bytes: int = MAX_LOG_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """stream: where to, default stderr.

        path: what stdout and stderr are redirected to.  Once it has max_bytes it
        becomes PATH.1, that PATH.2 and so on, `LOG_FILES` files in all; stdout and
        stderr follow, so that what the interpreter says at its end is in the new one.
        """
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream
        self._path = path
        self._max_bytes = max_bytes
        self._seldom = _Seldom(clock)
        self._size = 0
        self._retry_at = float("-inf")
        self._clock = clock
        if path is not None:
            self._size = os.fstat(2).st_size

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._seldom.passes(record):
                self._write(record)
        except Exception:
            self.handleError(record)

    def report_suppressed(self) -> None:
        """Write what was kept back for a second; to be called now and then."""
        with self.lock or contextlib.nullcontext():
            for record in self._seldom.due():
                try:
                    self._write(record)
                except Exception:
                    self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """A log that cannot be written (a full disk, a closed pipe) must not disturb what it tells of."""

    def reopen(self) -> None:
        """Go on in a new file when somebody moved the old one away.  Raises ConfigError, OSError."""
        if self._path is not None:
            with self.lock or contextlib.nullcontext():
                self._redirect()

    def _write(self, record: logging.LogRecord) -> None:
        line = self.format(record) + "\n"
        if self._path is None:
            stream = self._stream or sys.stderr
            stream.write(line)
            stream.flush()
            return
        data = line.encode(errors="backslashreplace")
        if self._size and self._size + len(data) > self._max_bytes and self._clock() >= self._retry_at:
            try:
                self._size = os.fstat(
                    2
                ).st_size  # somebody else may have emptied it (logrotate, copytruncate)
                if self._size + len(data) > self._max_bytes:
                    _shift(self._path)
                    self._redirect()
            except (OSError, ConfigError):
                self._retry_at = self._clock() + 60.0  # the old file takes the lines meanwhile
        self._size += len(data)
        while data:
            data = data[os.write(2, data) :]

    def _redirect(self) -> None:
        descriptor = open_log(str(self._path))
        try:
            self._size = os.fstat(descriptor).st_size
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
        finally:
            os.close(descriptor)


def configure(log_format: str, level: str, stream: TextIO | None = None, path: str | None = None) -> None:
    """Send all logs of the process to stream (default stderr) as ``text`` or ``json``.

    path: the file that stderr goes to and that is to be rotated, see `LogHandler`.
    """
    handler = LogHandler(_formatter(log_format), stream=stream, path=path)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("cyoloctl").setLevel(level.upper())
    warnings.showwarning = _log_warning


def change(log_format: str, level: str) -> None:
    """Use another format and level from the next line on; nothing where `configure` was not called."""
    for handler in _handlers():
        handler.setFormatter(_formatter(log_format))
        logging.getLogger("cyoloctl").setLevel(level.upper())


def _formatter(log_format: str) -> logging.Formatter:
    return JsonFormatter() if log_format == "json" else TextFormatter()


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of Python, where they are shown at all: a line of the log like any other."""
    text = f"{filename}:{lineno}: {category.__name__}: {message}"
    _log.warning("a warning of Python", extra={"text": text})


def _handlers() -> list[LogHandler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, LogHandler)]


def reopen() -> None:
    """Reopen the log file, when the log goes to one that is rotated; on failure it goes on in the old one."""
    for handler in _handlers():
        try:
            handler.reopen()
        except (OSError, ConfigError) as error:
            _log.error("the log goes on where it was", extra={"reason": str(error)})


def report_suppressed() -> None:
    """Write the lines that were kept back for a second."""
    for handler in _handlers():
        handler.report_suppressed()
