"""Certificates and keys: what is read from them, and that nothing else is."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization

from cyoloctl.errors import InvalidInput
from cyoloctl.pki.ca import issue_certificate
from cyoloctl.pki.requests import make_request
from cyoloctl.pki.x509 import certificate_expires_at, public_key_sha256
from tests.support.pki import NOW, Cluster


def test_public_key_sha256_is_the_same_in_key_request_and_certificate(
    cluster: Cluster,
) -> None:
    request = make_request("n1")
    certificate = issue_certificate(
        cluster.ca, cluster.key, request.request_pem, cluster.identity("n1", "node"), now=NOW
    )
    private = serialization.load_pem_private_key(request.node_key_pem.encode(), None)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert (
        public_key_sha256(request.request_pem)
        == public_key_sha256(certificate)
        == public_key_sha256(public.decode())
    )
    assert public_key_sha256(certificate) != public_key_sha256(cluster.ca)


@pytest.mark.parametrize(
    "text", ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "\u00e9"]
)
def test_certificate_helpers_of_other_texts_raise_invalid_input(text: str) -> None:
    with pytest.raises(InvalidInput):
        certificate_expires_at(text)
    with pytest.raises(InvalidInput):
        public_key_sha256(text)
