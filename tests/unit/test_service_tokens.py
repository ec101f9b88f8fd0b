"""What the token service reads and writes besides tokens: the marks of its pages."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyoloctl.errors import InvalidInput
from cyoloctl.machines.sessions import Revocation
from cyoloctl.service._tokens import _mark, _next


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
