"""Valid inputs, damaged: what neither random bytes nor a decoder's own encoder would give."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

__all__ = ["MAX_BYTES", "TOKENS", "mutate"]

MAX_BYTES = 64 * 1024
"""The longest input."""

_NUMBERS = (
    0,
    1,
    2,
    127,
    255,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**53 + 1,
    2**62,
    2**63 - 1,
    2**63,
    2**64,
)

TOKENS: tuple[bytes, ...] = (
    *(b"%d" % number for number in _NUMBERS),
    b"-1",
    b"-0",
    b"1e999",
    b"-1.5",
    b"1.0",
    b"9" * 400,
    b"9" * 5000,
    b"NaN",
    b"-Infinity",
    b"null",
    b"true",
    b"false",
    b"{}",
    b"[]",
    b'""',
    b'"\\ud800"',
    b'"\\u0000\\u001b[2J\\n"',
    '"\u00e9\U0001f600\u202e"'.encode(),
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\x00",
    b"\r\n",
    b" ",
    b",",
    b'{"a":' * 300,
    b"[" * 2000,
    b"[" * 20000,
    b"&a *a <<: !!python/object:os.system ",
    b"cyolojoin2.",
    b"-----BEGIN CERTIFICATE-----\n",
)
"""Things to insert: numbers at limits, JSON that is none or too deep, odd text, foreign syntax."""

# A JSON or decimal atom.
_ATOM = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?|true|false|null')

_Operation = Callable[[bytearray, Random, Sequence[bytes]], None]


def _span(data: bytearray, rng: Random, longest: int) -> slice:
    start = rng.randrange(len(data) + 1)
    return slice(start, min(len(data), start + rng.randint(0, longest)))


def _flip_bit(data: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _put_bytes(data: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    data[_span(data, rng, 4)] = rng.randbytes(rng.randint(1, 4))


def _truncate(data: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _cut_out(data: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    del data[_span(data, rng, rng.choice((1, 8, 200)))]


def _repeat(data: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    span = _span(data, rng, rng.choice((1, 8, 200)))
    data[span] = data[span] * rng.choice((2, 3, 50, 1000))


def _insert_token(data: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    data[_span(data, rng, 3)] = rng.choice(TOKENS)


def _change_atom(data: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    atoms = list(_ATOM.finditer(data))
    if not atoms:
        return
    span = slice(*rng.choice(atoms).span())
    new = bytes(data[slice(*rng.choice(atoms).span())]) if rng.random() < 0.3 else rng.choice(TOKENS)
    if rng.random() < 0.2 and re.fullmatch(rb"-?[0-9]{1,20}", data[span]):
        new = b"%d" % (int(data[span]) + rng.choice((-2, -1, 1, 2)))
    data[span] = new


def _put_length(data: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    size = rng.choice((1, 2, 4, 8))
    at = rng.randrange(len(data) + 1)
    data[at : at + size] = (rng.choice(_NUMBERS) % 256**size).to_bytes(size, "big")


def _splice(data: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    other = rng.choice(others)
    start = rng.randrange(len(other) + 1)
    data[_span(data, rng, 200)] = other[start : start + rng.randint(0, 400)]


_OPERATIONS: tuple[_Operation, ...] = (
    _flip_bit,
    _put_bytes,
    _truncate,
    _cut_out,
    _repeat,
    _insert_token,
    _change_atom,
    _change_atom,
    _put_length,
    _splice,
)


def mutate(seeds: Sequence[bytes], rng: Random) -> bytes:
    """One of the seeds after one to six changes, at most 64 KiB."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice(_OPERATIONS)(data, rng, seeds)
        del data[MAX_BYTES:]
    return bytes(data)
