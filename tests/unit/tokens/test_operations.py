"""Marks of the pages that the token service reads and writes besides tokens."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyoloctl.errors import InvalidInput, Unavailable
from cyoloctl.tokens.machine import Revocation
from cyoloctl.tokens.operations import TokenOperations, _mark, _next


@given(st.sampled_from(["sid", "sub"]), st.text(max_size=40))
def test_mark_of_a_page_leads_back_to_its_last_entry(kind: str, value: str) -> None:
    last = Revocation(kind, value, None, 0, 0)  # type: ignore[arg-type]  # drawn from the two
    assert _mark(_next(last)) == (kind, value)


@pytest.mark.parametrize("value", ["a", "ab", "abc"])
def test_mark_has_one_spelling(value: str) -> None:
    mark = _next(Revocation("sub", value, None, 0, 0))
    others = {mark + "=", mark + " ", f"\n{mark}", mark[:3] + "." + mark[3:], mark + "\u00e9"}
    others |= {
        mark[:-1] + last for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    }
    for other in others - {mark}:
        with contextlib.suppress(InvalidInput):
            assert _mark(other) != ("sub", value)


async def test_session_is_not_refused_while_the_time_is_not_known() -> None:
    async def at_once(**_: Any) -> None:
        return None

    now_ms = 0
    service = cast(
        "TokenOperations",
        SimpleNamespace(
            _proposer=SimpleNamespace(caught_up=at_once, in_time=at_once, now_ms=lambda: now_ms),
            _keys=SimpleNamespace(wait_whole=at_once),
        ),
    )
    with pytest.raises(Unavailable, match="time"):
        await TokenOperations._ensure_fresh(service, False, 1.0)
    now_ms = 1_767_225_600_000
    await TokenOperations._ensure_fresh(service, False, 1.0)
