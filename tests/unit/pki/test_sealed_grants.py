"""Grants by file: good for one request, in the hands of the node that made it, and whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import AccessDenied, Conflict, InvalidInput, VersionMismatch
from cyoloctl.pki.grants import accept_grant
from cyoloctl.pki.requests import PendingRequest, make_request, prepare_request
from cyoloctl.pki.sealed_grants import (
    SealedGrant,
    decode_sealed_grant,
    encode_sealed_grant,
    open_grant,
    seal_grant,
)
from tests.support.pki import ID, OTHER_ID, Cluster, answer, make_cluster

EXPIRY = 1_800_000_000


def sealed(cluster: Cluster, pending: PendingRequest, **changes: Any) -> SealedGrant:
    return seal_grant(
        {**answer(cluster, pending, hand_over_ca_key=False), **changes},
        request_pem=pending.request_pem,
        sealing_key=pending.sealing_key,
        expires_unix_s=EXPIRY,
    )


def test_sealed_grant_is_read_back_and_accepted_by_the_node_that_asked(
    cluster: Cluster, tmp_path: Path
) -> None:
    pending = prepare_request(tmp_path, "n2")
    text = encode_sealed_grant(sealed(cluster, pending))
    grant = decode_sealed_grant(text)
    assert (grant.cluster_id, grant.name, grant.expires_unix_s) == (ID, "n2", EXPIRY)
    inner = open_grant(tmp_path, grant, name="n2", request_pem=pending.request_pem)
    accepted = accept_grant(tmp_path, inner, name="n2", cluster_id=ID, ca_sha256=grant.ca_sha256)
    assert (accepted.name, accepted.has_ca_key) == ("n2", False)
    for secret in ("10.0.0.1", "CERTIFICATE", "PRIVATE"):
        assert secret not in text, "where the members are is for the requester"


def test_sealed_grant_for_another_request_is_denied(cluster: Cluster, tmp_path: Path) -> None:
    pending = prepare_request(tmp_path, "n2")
    stranger = make_request("n2")
    theirs = sealed(cluster, stranger)
    with pytest.raises(AccessDenied, match="another request"):
        open_grant(tmp_path, theirs, name="n2", request_pem=pending.request_pem)
    other_name = make_request("n3")
    with pytest.raises(AccessDenied, match="of n3"):
        open_grant(tmp_path, sealed(cluster, other_name), name="n2", request_pem=pending.request_pem)
    # Whoever says that it is for this request has sealed it to another key all the same.
    renamed = replace(theirs, request_sha256=sealed(cluster, pending).request_sha256)
    with pytest.raises(InvalidInput, match="not sealed for this node"):
        open_grant(tmp_path, renamed, name="n2", request_pem=pending.request_pem)


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster_id": OTHER_ID},
        {"ca_sha256": "0" * 64},
        {"expires_unix_s": EXPIRY + 1},
    ],
)
def test_sealed_grant_that_was_changed_does_not_open(
    cluster: Cluster, tmp_path: Path, changes: dict[str, Any]
) -> None:
    pending = prepare_request(tmp_path, "n2")
    value = json.loads(encode_sealed_grant(sealed(cluster, pending)))
    changed = decode_sealed_grant(json.dumps(value | changes))
    with pytest.raises(InvalidInput, match="damaged"):
        open_grant(tmp_path, changed, name="n2", request_pem=pending.request_pem)


def test_sealed_grant_of_another_cluster_is_refused_where_one_is_trusted_already(
    cluster: Cluster, tmp_path: Path
) -> None:
    pki_dir = tmp_path / "pki"
    pending = prepare_request(pki_dir, "n2")
    first = open_grant(pki_dir, sealed(cluster, pending), name="n2", request_pem=pending.request_pem)
    accept_grant(pki_dir, first, name="n2")
    other = make_cluster(tmp_path / "other", OTHER_ID)
    grant = sealed(other, pending)
    inner = open_grant(pki_dir, grant, name="n2", request_pem=pending.request_pem)
    with pytest.raises(Conflict, match="another cluster"):
        accept_grant(pki_dir, inner, name="n2", cluster_id=OTHER_ID, ca_sha256=grant.ca_sha256)


def test_decode_sealed_grant_of_anything_else_is_invalid_input(cluster: Cluster) -> None:
    value = json.loads(encode_sealed_grant(sealed(cluster, make_request("n2"))))
    for wrong in (
        {"kind": "other"},
        {"ca_sha256": "x"},
        {"request_sha256": "A" * 64},
        {"expires_unix_s": 0},
        {"expires_unix_s": True},
        {"cluster_id": "x"},
        {"name": "N2"},
        {"sealed": None},
        {"more": 1},
    ):
        with pytest.raises(InvalidInput):
            decode_sealed_grant(json.dumps(value | wrong))
    with pytest.raises(InvalidInput, match="node renew --grant"):
        decode_sealed_grant(json.dumps({"schema_version": 1, "kind": "cyoloctl certificate"}))
    with pytest.raises(VersionMismatch):
        decode_sealed_grant(json.dumps(value | {"schema_version": 2}))
    with pytest.raises(InvalidInput):
        decode_sealed_grant(json.dumps(value)[:-20])
