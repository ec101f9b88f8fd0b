"""The two routes that add to a counter, and the signed amount that they stand for."""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl.control.table import path_for
from cyoloctl.counters.api import route_to_add


class _Node:
    """A node whose counters note what is added."""

    def __init__(self) -> None:
        self.counters = self
        self.added: list[int] = []

    async def add(self, name: str, *, by: int, request_id: str | None, timeout_s: float) -> dict[str, Any]:
        self.added.append(by)
        return {}


@pytest.mark.parametrize(
    ("by", "operation", "amount"),
    [
        (1, "counter_increment", 1),
        (2**63 - 1, "counter_increment", 2**63 - 1),
        (-1, "counter_decrement", 1),
        (-(2**63), "counter_decrement", 2**63),
    ],
)
async def test_signed_amount_is_the_same_on_both_sides_of_the_api(
    by: int, operation: str, amount: int
) -> None:
    assert route_to_add(by) == (operation, amount)
    route, node = path_for(operation, "c")[0], _Node()
    assert route.handler is not None
    body = {"by": amount, "request_id": "r"}
    assert route.read_body(b'{"by":%d,"request_id":"r"}' % amount) == body
    await route.handler(node)("c", **body, timeout_s=1.0)
    assert node.added == [by]
