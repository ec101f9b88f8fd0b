"""The written form of a line, and what follows what."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from cyoloctl.audit.lines import FIRST, BrokenLine, Verifier, common_of, hash_of, line_of, second_text
from cyoloctl.text import Json, canonical_json

ANN = ("ann", "operator", "c" * 32, "10.0.0.7", "n1", "kv.put")


def chain_of(count: int, subject: str = "a") -> list[Json]:
    """The first lines of a chain."""
    lines: list[Json] = []
    previous = FIRST
    for sequence in range(1, count + 1):
        rest = (1, sequence, "done", f"r{sequence}", subject, 1_700_000_000_123)
        lines.append(line_of("data", sequence, common_of("data", ANN), rest, previous))
        previous = lines[-1]["hash"]
    return lines


def verified(lines: list[Json]) -> Verifier:
    verifier = Verifier()
    for line in lines:
        verifier.add(canonical_json(line))
    return verifier


def test_hash_of_a_line_is_pinned() -> None:
    [line] = chain_of(1)
    assert line["time"] == "2023-11-14T22:13:20.123Z"
    assert line["hash"] == "069352b641a12f88ae7c6967862a9141cf6ff11dc372b0d130afbfacf6bf4e8a"


@pytest.mark.parametrize("text", ["a", "%", "%d", 'a"b\\', "é\n", "\U0001f600", "{}", ""])
def test_body_is_the_canonical_json_of_the_line_whatever_stands_in_it(text: str) -> None:
    context = (text, "operator", text, text, text, text)
    line = line_of("trust", 7, common_of("trust", context), (1, 2, "done", text or "r", text, 0), "f" * 64)
    rest = {key: value for key, value in line.items() if key not in ("hash", "previous")}
    body = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    assert line["hash"] == hash_of("f" * 64, body)
    assert line["hash"] == hashlib.sha256(f"cyoloctl audit v1\n{'f' * 64}\n{body}".encode()).hexdigest()


def test_lines_that_follow_are_verified() -> None:
    lines = chain_of(3)
    assert verified(lines).ends["data"] == (1, 3, FIRST, lines[-1]["hash"])
    assert verified(lines[1:]).ends["data"] == (2, 3, lines[0]["hash"], lines[-1]["hash"])


@pytest.mark.parametrize("field", ["who", "subject", "outcome", "time", "request_id", "index", "sequence"])
def test_any_field_that_was_changed_is_found(field: str) -> None:
    lines = chain_of(3)
    lines[1][field] = 9 if type(lines[1][field]) is int else "other"
    with pytest.raises(BrokenLine, match="changed"):
        verified(lines)


def test_line_with_a_new_hash_does_not_carry_those_after_it() -> None:
    lines = chain_of(3)
    forged = chain_of(3, "b")
    with pytest.raises(BrokenLine, match="does not follow"):
        verified([lines[0], {**forged[1]}, lines[2]])
    with pytest.raises(BrokenLine, match="missing or moved"):
        verified([lines[0], lines[2]])
    with pytest.raises(BrokenLine, match="missing or moved"):
        verified([lines[0], lines[0]])


def test_first_line_has_nothing_before_it() -> None:
    rest = (1, 1, "done", "r", "a", 0)
    for sequence, previous in ((1, "f" * 64), (2, FIRST), (0, FIRST)):
        with pytest.raises(BrokenLine, match="cannot begin"):
            verified([line_of("data", sequence, common_of("data", ANN), rest, previous)])


def test_text_that_is_no_line_is_refused() -> None:
    [line] = chain_of(1)
    other: Any
    for other in (
        *("", "x", "[]", "null", "{}", "[" * 10_000, json.dumps(line), canonical_json({**line, "more": 1})),
        canonical_json({**line, "index": "1"}),
        canonical_json({**line, "index": True}),
        canonical_json({key: value for key, value in line.items() if key != "who"}),
    ):
        with pytest.raises(BrokenLine):
            Verifier().add(other)
    with pytest.raises(BrokenLine, match="neither"):
        Verifier().add(canonical_json({**line, "chain": "other"}))
    for previous in ("\ud800", "", "0" * 63, "0" * 64 + "\n", "F" * 64):
        with pytest.raises(BrokenLine, match="does not say what it follows"):
            Verifier().add(canonical_json({**line, "previous": previous}))


def test_moments_after_the_year_9999_read_as_its_end() -> None:
    assert second_text(2**62) == "9999-12-31T23:59:59"
