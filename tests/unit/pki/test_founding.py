"""The directory of a cluster's first node: whole or not there."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from cyoloctl.errors import AlreadyExists, InvalidInput
from cyoloctl.pki.ca import make_credentials
from cyoloctl.pki.files import check_private_files
from cyoloctl.pki.founding import new_cluster
from cyoloctl.pki.offline_ca import read_ca_file
from cyoloctl.pki.seal import open_sealed, seal
from cyoloctl.pki.tls import server_context
from tests.support.pki import ID, NOW, Cluster, client_context, handshake, identity_of


def test_new_cluster_writes_private_files_that_belong_together(fresh: Cluster) -> None:
    names = {
        "ca.crt",
        "ca.key",
        "node.crt",
        "node.key",
        "node.csr",
        "sealing.key",
        "operator.crt",
        "operator.key",
    }
    assert set(os.listdir(fresh.pki_dir)) == names
    assert set(os.listdir(fresh.directory)) == {"pki", "operator.yaml"}
    assert stat.S_IMODE(fresh.pki_dir.stat().st_mode) == 0o700
    for path in [*fresh.pki_dir.iterdir(), fresh.directory / "operator.yaml"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    files = check_private_files(fresh.pki_dir, name="n1", cluster_id=ID, now=NOW)
    assert files.identity == fresh.identity("n1", "node")
    assert files.has_ca_key
    sealed = seal(files.sealing_key, b"plain", b"")
    assert open_sealed((fresh.pki_dir / "sealing.key").read_text(), sealed, b"") == b"plain"


def test_new_cluster_operator_file_is_json_that_opens_a_connection(fresh: Cluster, tmp_path: Path) -> None:
    bundle = json.loads((fresh.directory / "operator.yaml").read_text())
    assert bundle.keys() == {
        "schema_version", "role", "name", "cluster_id", "ca_pem", "certificate_pem", "key_pem",
    }  # fmt: skip
    assert (bundle["schema_version"], bundle["role"], bundle["cluster_id"]) == (1, "operator", ID)
    context = client_context(bundle["ca_pem"], (bundle["certificate_pem"], bundle["key_pem"]), tmp_path)
    _, server = handshake(context, server_context(fresh.pki_dir))
    assert identity_of(server) == fresh.identity(bundle["name"], "operator")


def test_new_cluster_over_a_node_raises_already_exists_and_changes_nothing(fresh: Cluster) -> None:
    before = {path: path.read_bytes() for path in fresh.directory.rglob("*") if path.is_file()}
    with pytest.raises(AlreadyExists, match="another data directory"):
        new_cluster(fresh.directory, name="n1", cluster="demo", now=NOW)
    assert {path: path.read_bytes() for path in fresh.directory.rglob("*") if path.is_file()} == before


def test_new_cluster_with_an_offline_ca_keeps_its_key_out_of_the_node(tmp_path: Path) -> None:
    offline = tmp_path / "offline-ca.pem"
    files = new_cluster(tmp_path / "n1", name="n1", cluster="demo", now=NOW, offline_ca=offline)
    assert not files.has_ca_key
    directory = tmp_path / "n1" / "pki"
    assert not (directory / "ca.key").exists()
    assert stat.S_IMODE(offline.stat().st_mode) == 0o600
    authority = read_ca_file(offline)
    assert authority.ca_pem == (directory / "ca.crt").read_text()
    make_credentials(authority.ca_pem, authority.key_pem, name="who", role="viewer", now=NOW)


def test_new_cluster_that_fails_leaves_no_directory(tmp_path: Path) -> None:
    (tmp_path / "offline-ca.pem").write_text("mine")
    with pytest.raises(AlreadyExists):
        new_cluster(
            tmp_path / "n1", name="n1", cluster="demo", now=NOW, offline_ca=tmp_path / "offline-ca.pem"
        )
    with pytest.raises(InvalidInput):
        new_cluster(tmp_path / "n1", name="N1", cluster="demo", now=NOW)
    assert os.listdir(tmp_path / "n1") == []
    assert (tmp_path / "offline-ca.pem").read_text() == "mine"
