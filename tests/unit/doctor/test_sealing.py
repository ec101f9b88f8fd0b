"""Sealed support bundles: opened by the node that they are for, and by nothing else."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import x25519

from cyoloctl.doctor.sealing import MAX_SEALED_BYTES, open_bundle, seal_bundle
from cyoloctl.errors import AccessDenied, InvalidInput, VersionMismatch
from cyoloctl.keys.wrapping import NodeIdentity, sign_sealing_key
from cyoloctl.node import create
from cyoloctl.node.config import load_config
from cyoloctl.pki.files import read_authorities, read_node_certificate, read_node_keys
from cyoloctl.pki.seal import load_sealing_key, sealing_key_text
from cyoloctl.pki.x509 import private_to_pem

DATA = bytes(range(256)) * 40


class Recipient(NamedTuple):
    """A node that may open a bundle."""

    identity: NodeIdentity
    key_pem: str

    def open(self, sealed: bytes) -> bytes:
        to = self.identity
        return open_bundle(sealed, name=to.name, cluster_id=to.cluster_id, sealing_key_pem=self.key_pem)


def recipient(directory: Path, name: str) -> Recipient:
    create.init_cluster(directory, name, "127.0.0.1:1", None, "cyolo", "disk")
    config, pki = load_config(directory / "node.yaml"), directory / "pki"
    node_key_pem, sealing_key_pem = read_node_keys(pki)
    sealing_key = sealing_key_text(load_sealing_key(sealing_key_pem))
    cluster_id = str(config.cluster_id)
    signature = sign_sealing_key(
        cluster_id=cluster_id, name=name, sealing_key=sealing_key, node_key_pem=node_key_pem
    )
    (ca_pem,) = read_authorities(pki)
    certificate = read_node_certificate(pki)
    return Recipient(
        NodeIdentity(name, cluster_id, certificate, sealing_key, signature, ca_pem), sealing_key_pem
    )


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Recipient:
    return recipient(tmp_path_factory.mktemp("ours") / "n1", "n1")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Recipient:
    return recipient(tmp_path_factory.mktemp("other") / "n2", "n2")


def test_bundle_is_opened_by_its_node_alone(ours: Recipient, other: Recipient) -> None:
    sealed = seal_bundle(DATA, ours.identity)
    assert DATA[:64] not in sealed
    assert ours.open(sealed) == DATA
    with pytest.raises(AccessDenied, match=r"is for node 'n1' of cluster .*, not for n2: open it there"):
        other.open(sealed)
    with pytest.raises(AccessDenied, match="was changed, or this node has another key now"):
        Recipient(ours.identity, other.key_pem).open(sealed)


def test_bundle_opens_under_the_name_that_it_was_sealed_to_and_no_other(
    ours: Recipient, other: Recipient
) -> None:
    sealed = seal_bundle(DATA, ours.identity)
    renamed = sealed.replace(b'"name":"n1"', b'"name":"n9"')
    assert renamed != sealed
    with pytest.raises(AccessDenied):
        ours.open(renamed)


def test_bundle_that_is_none_or_damaged_is_refused(ours: Recipient) -> None:
    sealed = seal_bundle(DATA, ours.identity)
    lines = sealed.split(b"\n")
    for wrong in (
        b"",
        b"\x1f\x8b\x08 a tar.gz",
        sealed[:-1],
        sealed + b"\n",
        sealed.replace(b"support-bundle 1 node", b"support-bundle 1 phrase", 1),
        sealed.replace(b"support-bundle 1 node", "support-bundle ² node".encode(), 1),
        sealed.replace(b"cyoloctl", b"cyolocti", 1),
        b"\n".join([lines[0], b"{}", lines[2], b""]),
        b"\n".join([lines[0], b"[" * 100_000, lines[2], b""]),
        sealed + bytes(MAX_SEALED_BYTES),
    ):
        with pytest.raises(InvalidInput, match="this is not a sealed support bundle"):
            ours.open(wrong)
    with pytest.raises(VersionMismatch):
        ours.open(sealed.replace(b"support-bundle 1", b"support-bundle 2", 1))
    for place in (0, len(lines[2]) // 2, len(lines[2]) - 1):
        flipped = bytearray(lines[2])
        flipped[place] = ord("A") if flipped[place] != ord("A") else ord("B")
        with pytest.raises(AccessDenied):
            ours.open(b"\n".join([lines[0], lines[1], bytes(flipped), b""]))


def test_identity_that_does_not_hold_is_refused_before_anything_is_sealed(ours: Recipient) -> None:
    from cyoloctl.keys.wrapping import decode_identity, encode_identity

    text = encode_identity(ours.identity)
    now = datetime.now(UTC)
    assert decode_identity(text, now=now) == ours.identity
    with pytest.raises(InvalidInput):
        decode_identity(text.replace('"name":"n1"', '"name":"n2"'), now=now)


def test_bundle_that_was_sealed_by_the_first_release_with_them_opens() -> None:
    path = Path(__file__).resolve().parents[2] / "vectors" / "support_bundle" / "sealed.json"
    vector = json.loads(path.read_text())
    opened = open_bundle(
        vector["sealed"].encode(),
        name=vector["name"],
        cluster_id=vector["cluster_id"],
        sealing_key_pem=private_to_pem(
            x25519.X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["sealing_key_hex"]))
        ),
    )
    assert opened == base64.b64decode(vector["opened_base64"])
