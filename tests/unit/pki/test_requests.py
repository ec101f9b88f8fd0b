"""Certificate requests: what they ask, for whom, and that they survive a crash."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from cyoloctl.errors import ConfigError, InvalidInput, VersionMismatch
from cyoloctl.model import Address, NodeName
from cyoloctl.pki.requests import (
    NodeRequest,
    check_credential_request,
    check_request,
    csr_sha256,
    decode_request,
    encode_request,
    make_credential_request,
    make_request,
    prepare_request,
    sign_request,
)
from tests.support.pki import ID, OTHER_ID


@pytest.mark.parametrize("cluster_id", [None, ID])
def test_check_request_of_what_make_request_made_passes(cluster_id: str | None) -> None:
    request = make_request("n2", cluster_id)
    check_request(request.request_pem, "n2", request.sealing_key, ID)


def test_check_request_for_another_name_key_or_cluster_raises_invalid_input() -> None:
    request, stranger = make_request("n2", ID), make_request("n2", ID)
    for name, sealing_key, cluster_id, part in [
        ("n3", request.sealing_key, ID, "not for 'n3'"),
        ("n2", stranger.sealing_key, ID, "sealing key is another"),
        ("n2", request.sealing_key, OTHER_ID, "another cluster"),
    ]:
        with pytest.raises(InvalidInput, match=part):
            check_request(request.request_pem, name, sealing_key, cluster_id)


def _forged(request_pem: str) -> str:
    """The same request with one bit of its signature, at the end of the DER, flipped."""
    der = bytearray(x509.load_pem_x509_csr(request_pem.encode()).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    body = base64.b64encode(der).decode()
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{lines}\n-----END CERTIFICATE REQUEST-----\n"


def test_check_request_signed_by_another_key_raises_invalid_input() -> None:
    request = make_request("n2")
    with pytest.raises(InvalidInput, match="signature is wrong"):
        check_request(_forged(request.request_pem), "n2", request.sealing_key, None)


def test_credential_request_signed_by_another_key_or_for_another_is_refused() -> None:
    request, _ = make_credential_request("ada", "viewer")
    check_credential_request(request, "ada", "viewer")
    with pytest.raises(InvalidInput, match="signature is wrong"):
        check_credential_request(_forged(request), "ada", "viewer")
    for name, role in (("ada", "operator"), ("eve", "viewer")):
        with pytest.raises(InvalidInput, match=f"not for {role} {name}"):
            check_credential_request(request, name, role)


@pytest.mark.parametrize("file", ["node.key", "sealing.key"])
def test_prepare_request_with_a_key_that_others_may_read_is_refused(tmp_path: Path, file: str) -> None:
    prepare_request(tmp_path, "n2")
    (tmp_path / file).chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        prepare_request(tmp_path, "n2")


def test_prepare_request_whose_key_was_replaced_is_made_again(tmp_path: Path) -> None:
    first = prepare_request(tmp_path, "n2")
    (tmp_path / "node.key").write_text(make_request("n2").node_key_pem)
    second = prepare_request(tmp_path, "n2")
    assert second.request_pem != first.request_pem
    assert (tmp_path / "node.csr").read_text() == second.request_pem


@pytest.mark.parametrize(
    "make_key", [ed25519.Ed25519PrivateKey.generate, lambda: ec.generate_private_key(ec.SECP384R1())]
)
def test_check_request_for_a_key_of_another_kind_raises_invalid_input(make_key: Callable[[], Any]) -> None:
    request = make_request("n2")
    good = x509.load_pem_x509_csr(request.request_pem.encode())
    key = make_key()
    builder = x509.CertificateSigningRequestBuilder().subject_name(good.subject)
    for extension in good.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    text = builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(InvalidInput, match="P-256"):
        check_request(text, "n2", request.sealing_key, None)


def test_check_request_without_a_sealing_key_raises_invalid_input() -> None:
    request = make_request("n2")
    subject = x509.load_pem_x509_csr(request.request_pem.encode()).subject
    bare = x509.CertificateSigningRequestBuilder().subject_name(subject)
    text = bare.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    with pytest.raises(InvalidInput, match="damaged"):
        check_request(text.public_bytes(serialization.Encoding.PEM).decode(), "n2", request.sealing_key, None)


def test_prepare_request_twice_gives_the_same_request_and_keys(tmp_path: Path) -> None:
    first = prepare_request(tmp_path / "pki", "n2", ID)
    assert prepare_request(tmp_path / "pki", "n2", ID) == first
    assert csr_sha256(first.request_pem) == csr_sha256((tmp_path / "pki" / "node.csr").read_text())
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "pki").iterdir()} == {0o600}
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700


@pytest.mark.parametrize("lost", ["node.csr", "sealing.key", "node.key"])
def test_prepare_request_after_a_crash_keeps_the_keys_that_are_there(tmp_path: Path, lost: str) -> None:
    prepare_request(tmp_path, "n2", ID)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    (tmp_path / lost).unlink()
    again = prepare_request(tmp_path, "n2", ID)
    check_request(again.request_pem, "n2", again.sealing_key, ID)
    for key in {"node.key", "sealing.key"} - {lost}:
        assert (tmp_path / key).read_text() == before[key]


def test_prepare_request_for_another_cluster_makes_another_request_for_the_same_key(tmp_path: Path) -> None:
    first = prepare_request(tmp_path, "n2", ID)
    second = prepare_request(tmp_path, "n2", OTHER_ID)
    assert second.request_pem != first.request_pem
    assert second.node_key_pem == first.node_key_pem


def test_pending_request_repr_shows_no_private_key() -> None:
    request = make_request("n2")
    assert "PRIVATE" not in repr(request)


def test_decode_request_of_an_encoded_one_is_the_same() -> None:
    pending = make_request("n2")
    request = NodeRequest(NodeName("n2"), Address("10.0.0.2", 7700), pending.request_pem, pending.sealing_key)
    text = encode_request(request)
    assert decode_request(text) == request
    assert "PRIVATE" not in text
    with pytest.raises(VersionMismatch, match="upgrade"):
        decode_request(text.replace('"schema_version": 1', '"schema_version": 2, "more": 1'))
    for wrong in [
        "",
        "[]",
        "{}",
        text[:-3],
        text.replace('"n2"', '"n3"'),
        text.replace('"n2"', "2"),
        "[" * 9999,
    ]:
        with pytest.raises(InvalidInput):
            decode_request(wrong)
    with pytest.raises(InvalidInput):
        decode_request(text.replace('"name"', '"name": "n2", "name"'))


def test_signed_request_is_read_back_and_holds_nothing_else_than_what_was_signed() -> None:
    signed = sign_request(make_request("n2"), Address("10.0.0.2", 7700))
    text = encode_request(signed)
    assert decode_request(text) == signed
    assert signed.signature is not None
    other = sign_request(make_request("n2"), Address("10.0.0.2", 7700))
    for changed in (
        replace(signed, address=Address("10.0.0.9", 7700)),
        replace(signed, signature=other.signature),
        replace(signed, signature="A" * 96),
        replace(signed, signature=""),
        replace(other, signature=signed.signature),
    ):
        with pytest.raises(InvalidInput, match="signature is wrong"):
            decode_request(encode_request(changed))
    spelt = json.loads(text) | {"address": "10.0.0.2:07700"}
    with pytest.raises(InvalidInput):
        decode_request(json.dumps(spelt))


def test_request_without_a_signature_is_one_for_another_certificate() -> None:
    pending = make_request("n2", ID)
    renewal = NodeRequest(NodeName("n2"), Address("h", 1), pending.request_pem, pending.sealing_key)
    assert decode_request(encode_request(renewal)).signature is None
    assert "signature" not in json.loads(encode_request(renewal)), "earlier releases read it"
