"""What leaves a line, and what the line tells: every operation of every machine was thought about."""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl.audit import what
from cyoloctl.audit.what import NO_LINE, entry_of
from cyoloctl.state import ClusterState


def test_every_operation_of_every_machine_leaves_a_line_or_has_a_reason_for_none() -> None:
    every = {
        f"{name}.{operation}"
        for name, machine in ClusterState()._machines.items()
        for operation in machine.operations()
    }
    parts = (what._TRUST.keys(), what._DATA.keys(), NO_LINE.keys())
    assert set().union(*parts) == every
    assert sum(map(len, parts)) == len(every)


@pytest.mark.parametrize("role", ["node", "none", "browser", "viewer", "gateway", "operator"])
def test_trust_has_a_line_whoever_asked_and_data_only_of_operators(role: str) -> None:
    trust, data = entry_of("members", "remove", role), entry_of("kv", "put", role)
    assert trust is not None
    assert trust[0] == "trust"
    assert (data is not None) == (role == "operator")
    assert entry_of("kv", "expire", role) is entry_of("none", "none", role) is None


@pytest.mark.parametrize(
    ("operation", "given", "subject"),
    [
        ("kv.put", {"key": "a/b", "value": "c2VjcmV0"}, "a/b"),
        ("kv.put_sealed", {"key": "a", "blob": "AAAA", "digest": "0"}, "a"),
        ("kv.txn", {"then": [{"key": "a", "value": "s"}, {"key": "b"}], "otherwise": [{"key": "a"}]}, "a, b"),
        ("machines.apply", {"machine": "hits", "operation": "add", "arguments": {"x": "s"}}, "hits add"),
        ("rendezvous.deny", {"id": "0" * 32, "by": "s"}, "sha256:84e0c0eafaa95a34"),
        ("sessions.revoke_sub", {"sub": "alice"}, "alice"),
        ("keys.import", {"keys": [{"key_id": "fc000001", "wrapped": "s"}, {"key_id": "fc000002"}]}, None),
        ("members.issue_invitation", {"name": "n2", "public_key": "s"}, "n2"),
    ],
)
def test_subject_is_a_name_and_never_a_value(
    operation: str, given: dict[str, Any], subject: str | None
) -> None:
    found = entry_of(*operation.split("."), "operator")
    assert found is not None
    assert found[1](given) == (subject or "fc000001, fc000002")


@pytest.mark.parametrize(
    "value", [None, 1, True, [], [1], {}, {"key": 1}, [{"key": 1}], "\ud800", "x" * 9999]
)
def test_subject_of_any_json_is_short_text(value: Any) -> None:
    for name in (*what._TRUST, *what._DATA):
        subject = {**what._TRUST, **what._DATA}[name]
        for given in (
            {},
            dict.fromkeys(
                ("name", "key", "key_id", "keys", "then", "otherwise", "machine", "id", "sub", "sid", "host"),
                value,
            ),
        ):
            found = subject(given)
            assert type(found) is str
            assert len(found.encode()) <= 3 * 128
