"""Certificates and keys: what is read from them, and that nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cyoloctl.errors import InvalidInput
from cyoloctl.pki.ca import create_ca, issue_certificate
from cyoloctl.pki.requests import make_request
from cyoloctl.pki.x509 import (
    ca_cluster_id,
    certificate_expires_at,
    certificate_problem,
    load_authorities,
    load_certificate,
    load_public_key,
    public_key_sha256,
)
from tests.support.pki import ID, NOW, OTHER_ID, Cluster, forge


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


def _self_signed(cluster: Cluster, *changes: x509.ExtensionType) -> str:
    """The cluster's CA with extensions changed, signed by its own key again."""
    good = x509.load_pem_x509_certificate(cluster.ca.encode())
    key = serialization.load_pem_private_key(cluster.key.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    changed = {change.oid: change for change in changes}
    builder = x509.CertificateBuilder(
        good.issuer, good.subject, good.public_key(), 7, good.not_valid_before_utc, good.not_valid_after_utc
    )
    for extension in good.extensions:
        builder = builder.add_extension(changed.get(extension.oid, extension.value), extension.critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def test_ca_of_a_cluster_is_what_create_ca_makes_and_nothing_else(cluster: Cluster) -> None:
    own, both = f"{ID}.cyoloctl", f"{OTHER_ID}.cyoloctl"
    assert ca_cluster_id(_self_signed(cluster)) == ID
    stranger_pem, stranger_key = create_ca(ID, "demo", NOW)
    for pem in (
        forge(replace(cluster, ca=stranger_pem, key=stranger_key), cluster.ca, x509.OCSPNoCheck()),
        cluster.certified("n1")[0],
        _self_signed(cluster, x509.BasicConstraints(ca=True, path_length=None)),
        _self_signed(cluster, x509.BasicConstraints(ca=True, path_length=1)),
        _self_signed(cluster, x509.NameConstraints([x509.DNSName(own), x509.DNSName(both)], None)),
        _self_signed(cluster, x509.NameConstraints([x509.DNSName("cyoloctl")], None)),
        _self_signed(cluster, x509.NameConstraints(None, [x509.DNSName(own)])),
        _self_signed(cluster, x509.KeyUsage(*[True, *[False] * 8])),
    ):
        with pytest.raises(InvalidInput, match="not the CA of a cyoloctl cluster"):
            ca_cluster_id(pem)


def test_certificate_is_a_nodes_only_with_signature_name_purpose_and_key(
    cluster: Cluster, other: Cluster
) -> None:
    identity, ca = cluster.identity("n2", "node"), load_certificate(cluster.ca)
    good, _ = cluster.certified("n2")
    assert certificate_problem(load_certificate(good), ca, identity) is None
    again, key = create_ca(ID, "demo", NOW)
    two = x509.SubjectAlternativeName([x509.DNSName(str(identity)), x509.DNSName("n3")])
    for pem in (
        other.certified("n2")[0],
        replace(cluster, ca=again, key=key).certified("n2")[0],  # a second CA of the same name and id
        cluster.certified("n3")[0],
        cluster.certified("n2", "operator")[0],
        forge(cluster, good, two),
        forge(cluster, good, x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH])),
    ):
        assert certificate_problem(load_certificate(pem), ca, identity) is not None


def test_authorities_are_certificates_one_after_another_and_nothing_else(cluster: Cluster) -> None:
    assert len(load_authorities(cluster.ca)) == 1
    for text in ("", cluster.ca + "\n", "x" + cluster.ca, cluster.ca * 2, cluster.ca + "more"):
        with pytest.raises(InvalidInput):
            load_authorities(text)


def test_key_on_another_curve_is_no_key_of_ours() -> None:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(InvalidInput, match="P-256"):
        load_public_key(pem.decode())
