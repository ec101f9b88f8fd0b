"""Identities: names of certificates, one to one, and nothing that only resembles one."""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl.errors import InvalidInput
from cyoloctl.model import NodeName
from cyoloctl.pki.identity import Identity, parse_cluster_id, parse_identity
from tests.support.pki import ID


def test_identity_and_its_dns_name_are_one_to_one() -> None:
    identity = Identity(NodeName("n-1"), "viewer", parse_cluster_id(ID))
    assert str(identity) == f"n-1.viewer.{ID}.cyoloctl"
    assert parse_identity(str(identity)) == identity


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"n1.root.{ID}.cyoloctl",
        f"n1.node.{ID}.cyoloctl.",
        f"n1.node.{ID}.cyoloctl\n",
        f"n1.node.{ID}x.cyoloctl",
        f"n1.node.{ID.upper()}.cyoloctl",
        f"N1.node.{ID}.cyoloctl",
        f"*.node.{ID}.cyoloctl",
        f"a.n1.node.{ID}.cyoloctl",
        f"n1.node.{ID}.cyoloctl.evil.example",
        f".node.{ID}.cyoloctl",
        f"{'n' * 64}.node.{ID}.cyoloctl",
    ],
)
def test_parse_identity_of_anything_else_is_none(text: str) -> None:
    assert parse_identity(text) is None


@pytest.mark.parametrize(
    ("name", "role", "cluster_id"), [("N", "node", ID), ("n", "root", ID), ("n", "node", "1")]
)
def test_identity_of_invalid_parts_raises_invalid_input(name: Any, role: Any, cluster_id: Any) -> None:
    with pytest.raises(InvalidInput):
        Identity(name, role, cluster_id)
