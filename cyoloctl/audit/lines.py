"""A line of the audit log: its fields, its one written form, and the hash that joins it to the line before.

A line is a JSON object.  `body` is its canonical JSON without ``hash`` and
``previous``; its hash is the SHA-256 of::

    cyoloctl audit v1\\nPREVIOUS\\nBODY

PREVIOUS is the hash of the line before in the same chain, 64 zeros before the
first.  docs/audit.md shows how anybody checks that.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Literal, NamedTuple, get_args

from cyoloctl.text import Json, canonical_json, parse_canonical_json, rfc3339

__all__ = [
    "CHAINS",
    "FIRST",
    "MAX_LINE_BYTES",
    "BrokenLine",
    "Chain",
    "Common",
    "Context",
    "End",
    "Verifier",
    "clipped",
    "common_of",
    "hash_of",
    "line_of",
    "quoted",
    "second_text",
]

Chain = Literal["trust", "data"]
CHAINS: tuple[Chain, ...] = get_args(Chain)

FIRST = 64 * "0"
"""Stands for the hash of the line before the first one."""

MAX_SUBJECT_LENGTH = 128
MAX_LINE_BYTES = 8192
"""More than any line has: six bytes for each character of the longest fields."""

Context = tuple[str, str, str, str, str, str]
"""Who, role, credential, address, node, operation."""

Common = tuple[Context, str]
"""What many lines have in common: the context, and the body but for the rest (see `common_of`)."""

_FIELDS = {
    "address": str,
    "chain": str,
    "credential": str,
    "epoch": int,
    "hash": str,
    "index": int,
    "node": str,
    "operation": str,
    "outcome": str,
    "previous": str,
    "request_id": str,
    "role": str,
    "sequence": int,
    "subject": str,
    "time": str,
    "who": str,
}


_HASH = re.compile("[0-9a-f]{64}")


def hash_of(previous: str, body: str) -> str:
    """The hash of a line, in hexadecimal.  previous: that of the line before.  body: see the module."""
    return sha256(f"cyoloctl audit v1\n{previous}\n{body}".encode("ascii")).hexdigest()


def common_of(chain: Chain, context: Context) -> Common:
    """What lines of a context have in common.

    Their body is for ``%``, with epoch, index, outcome, request id as JSON, sequence number, subject as
    JSON, time up to the second, and milliseconds.
    """
    who, role, credential, address, node, operation = (
        canonical_json(each).replace("%", "%%") for each in context
    )
    body = (
        f'{{"address":{address},"chain":"{chain}","credential":{credential},"epoch":%d,"index":%d,'
        f'"node":{node},"operation":{operation},"outcome":"%s","request_id":%s,"role":{role},'
        f'"sequence":%d,"subject":%s,"time":"%s.%03dZ","who":{who}}}'
    )
    return context, body


def clipped(text: str) -> str:
    """A subject, or as much of it as a line holds."""
    return text if len(text) <= MAX_SUBJECT_LENGTH else f"{text[: MAX_SUBJECT_LENGTH - 3]}..."


@lru_cache(maxsize=64)
def second_text(unix_s: int) -> str:
    """A moment in RFC 3339, up to the second; what is later than the year 9999 reads as its last second."""
    return rfc3339(unix_s)[:-1]


class BrokenLine(ValueError):
    """A line is not as it was written, or does not follow the one before."""


class End(NamedTuple):
    """How far a chain was read.  first, last: sequence numbers.  before: the hash before the first line."""

    first: int
    last: int
    before: str
    hash: str


class Verifier:
    """Checks the lines of both chains, in the order of each.  ends: how far each was read."""

    def __init__(self) -> None:
        self.ends: dict[Chain, End] = {}

    def add(self, text: str) -> Json:
        """A line's JSON; it is checked, and the next of its chain has to follow it.  Raises BrokenLine."""
        try:
            line = parse_canonical_json(text)
        except (ValueError, RecursionError):
            raise BrokenLine("it is not one line of an export") from None
        if type(line) is not dict or {key: type(value) for key, value in line.items()} != _FIELDS:
            raise BrokenLine("it has not the fields of a line of the audit log")
        self.follow(line)
        return line

    def follow(self, line: Json) -> None:
        """As `add`, for a line that was parsed."""
        chain = line["chain"]
        if chain not in CHAINS:
            raise BrokenLine("its chain is neither trust nor data")
        sequence, previous, own = line["sequence"], line["previous"], line["hash"]
        if _HASH.fullmatch(previous) is None:
            raise BrokenLine(f"it was changed: {chain} line {sequence} does not say what it follows")
        body = canonical_json({k: v for k, v in line.items() if k not in ("hash", "previous")})
        if hash_of(previous, body) != own:
            raise BrokenLine(f"it was changed: {chain} line {sequence} does not have its hash")
        end = self.ends.get(chain)
        if end is None:
            if sequence < 1 or (sequence == 1) != (previous == FIRST):
                raise BrokenLine(f"{chain} line {sequence} cannot begin the chain")
            self.ends[chain] = End(sequence, sequence, previous, own)
            return
        if sequence != end.last + 1:
            raise BrokenLine(f"{chain} line {sequence} follows line {end.last}: lines are missing or moved")
        if previous != end.hash:
            raise BrokenLine(f"{chain} line {sequence} does not follow the line {end.last} that is here")
        self.ends[chain] = end._replace(last=sequence, hash=own)


def line_of(chain: Chain, sequence: int, common: Common, rest: tuple[Any, ...], previous: str) -> Json:
    """A line as JSON.  rest: epoch, index, outcome, request id, subject, time in Unix milliseconds."""
    who, role, credential, address, node, operation = common[0]
    epoch, index, outcome, request_id, subject, unix_ms = rest
    second, ms = divmod(unix_ms, 1000)
    body = common[1] % (
        epoch,
        index,
        outcome,
        quoted(request_id),
        sequence,
        quoted(subject),
        second_text(second),
        ms,
    )
    return {
        "chain": chain,
        "sequence": sequence,
        "time": f"{second_text(second)}.{ms:03d}Z",
        "who": who,
        "role": role,
        "credential": credential,
        "address": address,
        "node": node,
        "operation": operation,
        "subject": subject,
        "outcome": outcome,
        "request_id": request_id,
        "index": index,
        "epoch": epoch,
        "previous": previous,
        "hash": hash_of(previous, body),
    }
