"""Grants: accepted whole by the node that asked, and refused in all other cases."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from cyoloctl.errors import ConfigError, Conflict, InvalidInput, VersionMismatch
from cyoloctl.model import Address
from cyoloctl.pki import grants
from cyoloctl.pki.ca import create_ca, issue_certificate
from cyoloctl.pki.files import check_private_files, read_authorities, read_ca
from cyoloctl.pki.grants import accept_grant, decode_grant
from cyoloctl.pki.requests import make_request, prepare_request
from cyoloctl.pki.seal import open_sealed, seal
from cyoloctl.pki.x509 import certificate_sha256
from tests.support.pki import ID, NOW, OTHER_ID, Cluster, answer, forge, join


def test_accept_grant_of_a_voter_makes_a_node_that_can_admit_others(cluster: Cluster, tmp_path: Path) -> None:
    granted = join(cluster, tmp_path / "n2", "n2")
    assert (granted.cluster_id, granted.cluster, granted.name) == (ID, "demo", "n2")
    assert (granted.learner, granted.has_ca_key, granted.storage) == (False, True, "disk")
    assert granted.peers == {"n1": Address("10.0.0.1", 7700)}
    files = check_private_files(tmp_path / "n2", name="n2", cluster_id=ID, now=NOW)
    assert files.has_ca_key
    assert files.certificate_expires_at == granted.certificate_expires_at
    assert read_ca(tmp_path / "n2") == (cluster.ca, cluster.key)
    second = replace(cluster, directory=tmp_path, ca=cluster.ca, key=read_ca(tmp_path / "n2")[1])
    assert join(second, tmp_path / "n3", "n3").has_ca_key


def test_accept_grant_of_a_learner_or_with_an_offline_ca_brings_no_ca_key(
    cluster: Cluster, tmp_path: Path
) -> None:
    assert not join(cluster, tmp_path / "n2", "n2", learner=True).has_ca_key
    asked = prepare_request(tmp_path / "w", "w")
    witness = answer(cluster, asked, witness=True)
    assert (witness["witness"], witness["ca_key_sealed"]) == (True, None)
    accepted = accept_grant(tmp_path / "w", witness, name="w")
    assert (accepted.witness, accepted.learner, accepted.has_ca_key) == (True, False, False)
    with pytest.raises(ConfigError, match="cannot issue certificates"):
        read_ca(tmp_path / "n2")
    pending = prepare_request(tmp_path / "n3", "n3")
    value = answer(cluster, pending, hand_over_ca_key=False)
    assert value["ca_key_sealed"] is None
    assert not accept_grant(tmp_path / "n3", value, name="n3").has_ca_key
    assert not check_private_files(tmp_path / "n3", name="n3", cluster_id=ID).has_ca_key


def test_accept_grant_twice_is_the_same(cluster: Cluster, tmp_path: Path) -> None:
    pending = prepare_request(tmp_path, "n2")
    value = answer(cluster, pending)
    first = accept_grant(tmp_path, value, name="n2")
    assert accept_grant(tmp_path, value, name="n2") == first


def test_grant_seals_the_ca_key_so_that_another_node_cannot_open_it(cluster: Cluster) -> None:
    pending, stranger = make_request("n2"), make_request("n2")
    value = answer(cluster, pending)
    assert "PRIVATE" not in json.dumps(value)
    info = b"\0".join([b"cyoloctl ca-key 1", ID.encode(), b"n2"])
    opened = open_sealed(pending.sealing_key_pem, value["ca_key_sealed"], info)
    assert opened.decode() == cluster.key
    with pytest.raises(InvalidInput, match="not sealed for this node"):
        open_sealed(stranger.sealing_key_pem, value["ca_key_sealed"], info)
    for other_info in (info.replace(b"n2", b"n3"), info.replace(ID.encode(), OTHER_ID.encode())):
        with pytest.raises(InvalidInput, match="not sealed for this node"):
            open_sealed(pending.sealing_key_pem, value["ca_key_sealed"], other_info)


def test_grant_for_a_sealing_key_that_the_request_did_not_sign_is_refused(cluster: Cluster) -> None:
    pending, thief = make_request("n2"), make_request("n2")
    with pytest.raises(InvalidInput, match="sealing key is another"):
        answer(cluster, pending, sealing_key=thief.sealing_key)


def test_grant_for_another_name_or_cluster_than_requested_is_refused(cluster: Cluster) -> None:
    with pytest.raises(InvalidInput, match="not for 'n3'"):
        answer(cluster, make_request("n2"), name="n3")
    with pytest.raises(InvalidInput, match="another cluster"):
        answer(cluster, make_request("n2", OTHER_ID))


@pytest.mark.parametrize("key", ["absent", "null"])
@pytest.mark.parametrize(
    "field",
    [
        "cluster_id",
        "cluster",
        "name",
        "learner",
        "certificate_pem",
        "ca_pem",
        "storage",
        "peers",
        "schema_version",
    ],
)
def test_accept_grant_without_a_field_writes_nothing(
    cluster: Cluster, tmp_path: Path, field: str, key: str
) -> None:
    pending = prepare_request(tmp_path, "n2")
    value = answer(cluster, pending) | {field: None}
    if key == "absent":
        del value[field]
    with pytest.raises(InvalidInput):
        accept_grant(tmp_path, value, name="n2")
    assert sorted(os.listdir(tmp_path)) == ["node.csr", "node.key", "sealing.key"]


def test_accept_grant_of_a_wrong_grant_writes_nothing(
    cluster: Cluster, other: Cluster, tmp_path: Path
) -> None:
    pending = prepare_request(tmp_path, "n2")
    good = answer(cluster, pending)
    foreign = answer(other, pending)
    info = b"\0".join([b"cyoloctl ca-key 1", ID.encode(), b"n2"])
    viewer = issue_certificate(
        cluster.ca, cluster.key, pending.request_pem, cluster.identity("n2", "viewer"), now=NOW
    )
    client_only = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    wrong: list[tuple[Any, str]] = [
        (None, "not a grant"),
        ([], "not a grant"),
        (good | {"more": 1}, "not a grant"),
        (good | {"learner": 0}, "not a grant"),
        (good | {"schema_version": True}, "not a grant"),
        (good | {"storage": 1}, "not a grant"),
        (good | {"storage": "tape"}, "neither disk nor memory"),
        (good | {"peers": {"N1": "a:1"}}, "not valid"),
        (good | {"peers": {"n1": "nowhere"}}, "HOST:PORT"),
        (good | {"name": "n3"}, "not for 'n2'"),
        (good | {"cluster_id": OTHER_ID}, "another cluster"),
        (foreign, "another cluster"),
        (foreign | {"cluster_id": ID}, "another cluster"),
        (good | {"ca_pem": foreign["ca_pem"]}, "another cluster"),
        (good | {"ca_pem": good["certificate_pem"]}, "not the CA of"),
        (good | {"ca_pem": good["ca_pem"] + good["ca_pem"]}, "not the CA of"),
        (good | {"ca_pem": good["ca_pem"] + foreign["ca_pem"]}, "another cluster"),
        (good | {"certificate_pem": foreign["certificate_pem"]}, "another CA"),
        (good | {"certificate_pem": good["ca_pem"]}, "no purpose or no name|another name"),
        (good | {"certificate_pem": "x"}, "not a certificate"),
        (good | {"certificate_pem": viewer}, "another name"),
        (good | {"certificate_pem": forge(cluster, good["certificate_pem"], client_only)}, "not a node's"),
        (
            good | {"certificate_pem": answer(cluster, make_request("n2"))["certificate_pem"]},
            "another key",
        ),
        (
            good | {"certificate_pem": answer(cluster, make_request("n3"))["certificate_pem"]},
            "another name",
        ),
        (good | {"ca_key_sealed": answer(cluster, make_request("n2"))["ca_key_sealed"]}, "not sealed"),
        (good | {"ca_key_sealed": "AAAA"}, "not sealed"),
        (
            good | {"ca_key_sealed": seal(pending.sealing_key, other.key.encode(), info)},
            "does not belong",
        ),
        (good | {"ca_key_sealed": seal(pending.sealing_key, b"\xff", info)}, "does not belong"),
        (good | {"learner": True}, "learner gets no CA key"),
        (good | {"witness": True}, "witness gets no CA key"),
        (good | {"witness": False}, "not a grant"),
    ]
    for value, part in wrong:
        with pytest.raises(InvalidInput, match=part):
            accept_grant(tmp_path, value, name="n2", cluster_id=ID, ca_sha256=certificate_sha256(cluster.ca))
    with pytest.raises(VersionMismatch):
        accept_grant(tmp_path, good | {"schema_version": 2}, name="n2")
    assert sorted(os.listdir(tmp_path)) == ["node.csr", "node.key", "sealing.key"]


def test_accept_grant_trusts_no_authority_that_the_token_does_not_name(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Whoever answers a joiner may be a member whose key was stolen: it must not bring a CA of its own."""
    rogue = create_ca(ID, "demo", NOW)
    pinned = certificate_sha256(cluster.ca)
    pending = prepare_request(tmp_path, "n2", ID)
    good = answer(cluster, pending)
    identity = cluster.identity("n2", "node")
    forged = issue_certificate(*rogue, pending.request_pem, identity, now=NOW)
    for ca_pem in (rogue[0], cluster.ca + rogue[0], rogue[0] + cluster.ca):
        with pytest.raises(InvalidInput):
            accept_grant(
                tmp_path,
                good | {"ca_pem": ca_pem, "certificate_pem": forged, "ca_key_sealed": None},
                name="n2",
                cluster_id=ID,
                ca_sha256=pinned,
            )
    assert sorted(os.listdir(tmp_path)) == ["node.csr", "node.key", "sealing.key"]
    accept_grant(
        tmp_path, good | {"ca_pem": cluster.ca + rogue[0]}, name="n2", cluster_id=ID, ca_sha256=pinned
    )
    assert read_authorities(tmp_path) == (cluster.ca,)


def test_accept_grant_while_the_ca_is_exchanged_trusts_both_that_the_token_names(
    cluster: Cluster, tmp_path: Path
) -> None:
    newer = create_ca(ID, "demo", NOW)
    pinned = ",".join(certificate_sha256(pem) for pem in (cluster.ca, newer[0]))
    good = answer(cluster, prepare_request(tmp_path, "n2", ID))
    accept_grant(
        tmp_path, good | {"ca_pem": cluster.ca + newer[0]}, name="n2", cluster_id=ID, ca_sha256=pinned
    )
    assert read_authorities(tmp_path) == (cluster.ca, newer[0])


def test_accept_grant_of_another_cluster_into_a_node_raises_conflict(
    cluster: Cluster, other: Cluster, tmp_path: Path
) -> None:
    join(cluster, tmp_path, "n2")
    value = answer(other, make_request("n2"))
    with pytest.raises(Conflict, match="empty data directory"):
        accept_grant(tmp_path, value, name="n2")


def test_decode_grant_of_a_grant_is_the_object(cluster: Cluster) -> None:
    value = answer(cluster, make_request("n2"))
    assert decode_grant(json.dumps(value)) == value
    for wrong in ["", "[]", '{"a":1,"a":2}', "\ud800"]:
        with pytest.raises(InvalidInput):
            decode_grant(wrong)


def test_accept_grant_of_another_cluster_than_the_token_names_is_refused(
    other: Cluster, tmp_path: Path
) -> None:
    pending = prepare_request(tmp_path, "n2")
    with pytest.raises(InvalidInput, match="another cluster"):
        accept_grant(tmp_path, answer(other, pending), name="n2", cluster_id=ID)
    assert sorted(os.listdir(tmp_path)) == ["node.csr", "node.key", "sealing.key"]


@pytest.mark.parametrize("writes", range(3))
def test_accept_grant_that_ends_at_any_write_never_leaves_a_certificate_without_its_ca(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    pending = prepare_request(tmp_path, "n2")
    value = answer(cluster, pending)
    done: list[str] = []
    write = grants.write_node_file

    def dying(path: Path, data: bytes) -> None:
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(path.name)
        write(path, data)

    monkeypatch.setattr(grants, "write_node_file", dying)
    with pytest.raises(KeyboardInterrupt):
        accept_grant(tmp_path, value, name="n2")
    assert not (tmp_path / "node.crt").exists()
    monkeypatch.undo()
    assert accept_grant(tmp_path, value, name="n2").has_ca_key
