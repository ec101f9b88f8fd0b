"""Structured logs: one event a line, as text or JSON, on stderr.

An event is a message of fixed words and named fields (``extra=``).  Secrets
are never passed to a logger; field names that suggest one are masked all the
same.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

__all__ = ["JsonFormatter", "TextFormatter", "configure"]

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
    """Where an exception came from; its text is the message's business."""
    if not record.exc_info or record.exc_info[0] is None:
        return None
    frames = traceback.extract_tb(record.exc_info[2])
    places = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
    return f"{record.exc_info[0].__name__}: {record.exc_info[1]} at {places}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339 UTC), level, logger, event, then the fields."""

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


def configure(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Send all logs of the process to stream (default stderr) as ``text`` or ``json``."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("cyoloctl").setLevel(level.upper())
