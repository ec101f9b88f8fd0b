"""Statements that a node signs: whose they are, and until when they count."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from cryptography import x509

from cyoloctl.errors import InvalidInput
from cyoloctl.pki.statements import is_signed_by_ca, sign_statement, verify_statement
from tests.support.pki import ID, NOW, OTHER_ID, Cluster, forge


def _verify(
    cluster: Cluster,
    certified: tuple[str, str],
    *,
    statement: bytes = b"statement",
    signed: bytes = b"statement",
    cluster_id: str = ID,
    now: datetime = NOW,
) -> None:
    certificate, key = certified
    verify_statement(
        statement,
        sign_statement(key, signed),
        certificate,
        ca_pem=cluster.ca,
        name="n2",
        cluster_id=cluster_id,
        now=now,
    )


def test_statement_counts_from_that_node_of_that_cluster_alone(cluster: Cluster, other: Cluster) -> None:
    _verify(cluster, cluster.certified("n2"))
    with pytest.raises(InvalidInput, match="signature is wrong"):
        _verify(cluster, cluster.certified("n2"), signed=b"another")
    with pytest.raises(InvalidInput, match="signature is wrong"):
        _verify(cluster, (cluster.certified("n2")[0], cluster.certified("n2")[1]))
    with pytest.raises(InvalidInput, match="another CA"):
        _verify(cluster, other.certified("n2"))
    for certified in (cluster.certified("n3"), cluster.certified("n2", "operator")):
        with pytest.raises(InvalidInput, match="another name"):
            _verify(cluster, certified)
    with pytest.raises(InvalidInput, match="another name or cluster"):
        _verify(cluster, cluster.certified("n2"), cluster_id=OTHER_ID)


def test_statement_of_a_node_that_another_clusters_ca_made_up_does_not_count(
    cluster: Cluster, other: Cluster
) -> None:
    """Its key signs whatever its thief likes; its name constraint is another."""
    certificate, key = cluster.certified("n2")
    with pytest.raises(InvalidInput, match="its CA is of another cluster"):
        _verify(other, (forge(other, certificate, x509.OCSPNoCheck()), key))


def test_statement_of_an_ended_certificate_does_not_count(cluster: Cluster) -> None:
    certified = cluster.certified("n2", days=3)
    _verify(cluster, certified, now=NOW + timedelta(days=2))
    with pytest.raises(InvalidInput, match="its certificate ended at"):
        _verify(cluster, certified, now=NOW + timedelta(days=4))


def test_statement_of_a_certificate_that_begins_later_counts(cluster: Cluster) -> None:
    """It may have been issued while the time was wrong."""
    _verify(cluster, cluster.certified("n2"), now=NOW - timedelta(days=400))


@pytest.mark.parametrize("signature", ["", "x", "AAAA", "\u00e9"])
def test_what_is_no_signature_signs_nothing(cluster: Cluster, signature: str) -> None:
    assert not is_signed_by_ca(b"statement", signature, cluster.ca)
    assert is_signed_by_ca(b"statement", sign_statement(cluster.key, b"statement"), cluster.ca)
