"""The CA: what it issues, to whom, and for how long."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from cyoloctl.errors import ConfigError, InvalidInput
from cyoloctl.pki.ca import Authority, create_ca
from cyoloctl.pki.identity import AccessRole
from cyoloctl.pki.x509 import certificate_expires_at
from tests.support.pki import ID, NOW, OTHER_ID, Cluster


def test_issue_of_each_role_verifies_with_openssl_in_strict_mode(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(cluster.ca)
    roles: list[tuple[AccessRole, str, bool]] = [
        ("node", "sslserver", True),
        ("node", "sslclient", True),
        ("operator", "sslclient", True),
        ("operator", "sslserver", False),
        ("viewer", "sslclient", True),
        ("viewer", "sslserver", False),
    ]
    for role, purpose, good in roles:
        (tmp_path / "leaf.pem").write_text(cluster.certified("n1", role)[0])
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.pem", "leaf.pem"]
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (found.returncode == 0) is good, (role, purpose, found.stderr)


def test_issue_starts_a_day_early_and_ends_after_the_days(cluster: Cluster) -> None:
    now = NOW + timedelta(days=10)
    certificate = x509.load_pem_x509_certificate(cluster.certified("n1", now=now, days=825)[0].encode())
    second = now.replace(microsecond=0)
    assert certificate.not_valid_before_utc == second - timedelta(days=1)
    assert certificate.not_valid_after_utc == second + timedelta(days=825)


def test_issue_near_the_end_of_the_ca_ends_with_it(cluster: Cluster) -> None:
    certificate, _ = cluster.certified("n1", now=NOW + timedelta(days=3600), days=825)
    assert certificate_expires_at(certificate) == certificate_expires_at(cluster.ca)
    assert certificate_expires_at(cluster.ca).tzinfo is UTC


@pytest.mark.parametrize("days", [-2, 3650])
def test_issue_outside_the_life_of_the_ca_raises_config_error(cluster: Cluster, days: int) -> None:
    with pytest.raises(ConfigError, match="set the clock"):
        cluster.certified("n1", now=NOW + timedelta(days=days))


@pytest.mark.parametrize("days", [0, -1, 826])
def test_issue_for_too_many_or_few_days_raises_invalid_input(cluster: Cluster, days: int) -> None:
    with pytest.raises(InvalidInput, match="use 1 to 825"):
        cluster.certified("n1", days=days)


def test_issue_for_another_cluster_or_with_another_key_raises_config_error(
    cluster: Cluster, other: Cluster
) -> None:
    with pytest.raises(ConfigError, match="of another cluster"):
        replace(cluster, id=OTHER_ID).certified("n1")
    with pytest.raises(ConfigError, match="does not belong"):
        replace(cluster, key=other.key).certified("n1")
    leaf, leaf_key = cluster.certified("n1")
    with pytest.raises(ConfigError, match="not the CA"):
        replace(cluster, ca=leaf, key=leaf_key).certified("n2")


def test_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        create_ca(ID, "demo", datetime(2026, 1, 1))


def test_ca_is_bound_to_its_cluster_and_makes_no_further_ca(cluster: Cluster) -> None:
    extensions = x509.load_pem_x509_certificate(cluster.ca.encode()).extensions
    limits = extensions.get_extension_for_class(x509.NameConstraints)
    assert limits.value == x509.NameConstraints([x509.DNSName(f"{ID}.cyoloctl")], None)
    assert limits.critical
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.value == x509.BasicConstraints(ca=True, path_length=0)
    assert basic.critical
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (True, False)


@pytest.mark.parametrize("role", ["node", "operator", "gateway", "viewer"])
def test_certificate_is_no_ca_and_serves_only_for_nodes(cluster: Cluster, role: AccessRole) -> None:
    extensions = x509.load_pem_x509_certificate(cluster.certified("n1", role)[0].encode()).extensions
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.value == x509.BasicConstraints(ca=False, path_length=None)
    assert basic.critical
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (False, False, True)
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert (ExtendedKeyUsageOID.SERVER_AUTH in purposes) is (role == "node")
    assert ExtendedKeyUsageOID.CLIENT_AUTH in purposes


def test_authority_repr_shows_no_private_key(cluster: Cluster) -> None:
    assert "PRIVATE" not in repr(Authority(cluster.ca, cluster.key))
