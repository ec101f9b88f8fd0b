"""Values as callers write them: what the API's document says is taken, and nothing else."""

from __future__ import annotations

import re
from itertools import product
from types import SimpleNamespace
from typing import cast

import pytest

from cyoloctl.control import table
from cyoloctl.errors import InvalidInput
from cyoloctl.keys.operations import KeyOperations
from cyoloctl.kv.machine import KvMachine
from cyoloctl.kv.operations import KvOperations
from cyoloctl.replicated.proposer import Proposer

SPELT = [
    "".join(characters)
    for length in range(9)
    for characters in product("A/=" if length < 8 else "A=", repeat=length)
] + ["AAA", "AAAA\n", "A AAA", "AA-_", "AA==AA==", "\u00e9AAA", "\udc80AAA", "AAAA\0", "AAAAA===", "AAAA===="]


@pytest.fixture
def operations() -> KvOperations:
    nothing = SimpleNamespace()
    return KvOperations(cast(Proposer, nothing), KvMachine(), cast(KeyOperations, nothing), name="n1")


def takes(operations: KvOperations, text: str) -> bool:
    try:
        planned = operations.plan_put(
            key="k", value=None, value_base64=text, if_revision=None, ttl_s=None, fence=None, sealed=None
        )
    except InvalidInput:
        return False
    return planned is not None


def test_value_in_base64_is_taken_where_the_documents_pattern_matches_it(operations: KvOperations) -> None:
    pattern = table.path_for("kv_put")[0].body_fields["value_base64"].pattern
    assert pattern is not None
    matches = re.compile(pattern).fullmatch
    assert [text for text in SPELT if takes(operations, text)] == [text for text in SPELT if matches(text)]
