"""Every decoder against bytes that nobody should send."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import TOKENS
from tests.fuzz.targets import TARGETS, Target

_FAST, _SLOW = 200, 60

targets = pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])


@targets
def test_contract_is_in_the_documentation(target: Target) -> None:
    text = (Path(__file__).parents[2] / "docs" / "correctness.md").read_text()
    assert f"| `{target.name}` | {target.contract} |" in text


@targets
def test_valid_input_is_taken(target: Target) -> None:
    """Otherwise the fuzzers would stop at the first byte."""
    taken = [target.check(seed) for seed in target.seeds]
    assert any(taken)


@targets
def test_limits_and_foreign_syntax_keep_the_contract(target: Target) -> None:
    for token in (b"", *TOKENS):
        target.check(token)


@targets
def test_any_bytes_keep_the_contract(target: Target) -> None:
    @settings(max_examples=_SLOW if target.slow else _FAST, suppress_health_check=list(HealthCheck))
    @given(raw=st.binary(max_size=200), number=st.integers(0, 2**64 - 1))
    def check(raw: bytes, number: int) -> None:
        target.check(raw)
        damaged = target.mutate(Random(number))
        note(f"target.mutate(Random({number})) is {len(damaged)} bytes: {damaged[:300]!r}")
        target.check(damaged)

    check()
