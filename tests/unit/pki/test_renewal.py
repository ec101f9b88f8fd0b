"""Renewal of certificates: when it is due, by the node itself, and by file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cyoloctl.errors import ConfigError, Conflict, InvalidInput
from cyoloctl.model import NodeName
from cyoloctl.pki import renewal
from cyoloctl.pki.ca import Authority, issue_certificate, issue_for_node
from cyoloctl.pki.files import (
    read_node_public_key,
)
from cyoloctl.pki.identity import Identity
from cyoloctl.pki.x509 import certificate_dates, public_key_sha256
from tests.support.authorities import DAY_MS, ID, N1, NOW, NOW_MS, certificate, node, only, usable

# -- when ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [1, 3, 825])
def test_certificate_is_renewed_at_two_thirds_of_its_life(tmp_path: Path, days: int) -> None:
    life = renewal.life_of(certificate(node(tmp_path / "a", days)))
    assert life == (NOW_MS, NOW_MS + days * DAY_MS)
    assert life.days == days
    assert life.renew_unix_ms == NOW_MS + days * DAY_MS * 2 // 3


def test_warning_comes_thirty_days_before_the_end_or_after_the_renewal_of_a_short_life() -> None:
    assert renewal.warn_before_s(825) == 30 * 86_400
    assert renewal.warn_before_s(1) < 86_400 / 3


@pytest.mark.parametrize("year", [1970, 2019, 2200, 2500])
def test_certificate_has_not_ended_by_a_clock_that_was_never_set(tmp_path: Path, year: int) -> None:
    pem = certificate(node(tmp_path / "a"))
    assert not renewal.has_ended(pem, datetime(year, 1, 1, tzinfo=UTC))
    assert renewal.has_ended(pem, datetime(2199, 1, 1, tzinfo=UTC))
    assert not renewal.has_ended(pem, NOW)
    with pytest.raises(ConfigError, match="set it"):
        renewal.offline_now(datetime(year, 1, 1, tzinfo=UTC))


def test_time_may_come_when_every_connected_certificate_lasts_beyond_it() -> None:
    members = [("n1", "2026-06-02T00:00:00Z"), ("n2", None), ("n3", "2026-06-01T00:00:00Z"), ("n4", "x")]
    assert renewal.ready(members, NOW_MS) == ["n2", "n3", "n4"]
    assert renewal.ready(members[:1], NOW_MS + DAY_MS - 1) == []
    assert renewal.ready(members[:1], NOW_MS + DAY_MS) == ["n1"]
    assert renewal.ready([], NOW_MS) == []


# -- renewal ------------------------------------------------------------------------------------


def test_renewed_certificate_is_for_the_same_key_and_may_outlive_its_ca(tmp_path: Path) -> None:
    pki_dir = node(tmp_path / "a")
    before = public_key_sha256(certificate(pki_dir))
    far_ms = NOW_MS + 20 * 365 * DAY_MS
    new = renewal.renew_own(pki_dir, only(pki_dir), N1, now_unix_ms=far_ms, days=7)
    assert certificate(pki_dir) == new
    assert public_key_sha256(new) == before
    assert renewal.life_of(new) == (far_ms, far_ms + 7 * DAY_MS)
    usable(pki_dir)


def test_certificate_that_was_issued_for_another_node_key_or_ca_is_not_stored(tmp_path: Path) -> None:
    pki_dir, other_dir = node(tmp_path / "a"), node(tmp_path / "b")
    before = certificate(pki_dir)
    mine, other = only(pki_dir), only(other_dir)
    key = read_node_public_key(pki_dir)

    def issued(by: Authority, public: str, name: str) -> str:
        identity = Identity(NodeName(name), "node", ID)
        return issue_for_node(by, public, identity, now_unix_ms=NOW_MS, days=1)

    for pem, why in (
        (issued(other, key, "n1"), "another CA"),
        (issued(mine, read_node_public_key(other_dir), "n1"), "another key"),
        (issued(mine, key, "n2"), "another name"),
        (
            issue_certificate(
                mine.ca_pem, mine.key_pem, key, Identity(NodeName("n1"), "viewer", ID), now=NOW
            ),
            "name",
        ),
        ("nothing", "not a certificate"),
    ):
        with pytest.raises(InvalidInput, match=why):
            renewal.store_certificate(pki_dir, pem, N1)
    assert certificate(pki_dir) == before
    renewal.store_certificate(pki_dir, issued(mine, key, "n1"), N1)
    assert certificate(pki_dir) != before


def test_renewal_file_for_another_node_cluster_or_ca_is_refused(tmp_path: Path) -> None:
    pki_dir, other_dir = node(tmp_path / "a"), node(tmp_path / "b")
    mine = only(pki_dir)
    key = read_node_public_key(pki_dir)
    pem = issue_for_node(mine, key, N1, now_unix_ms=NOW_MS, days=1)
    good = renewal.encode_renewal(pem, cluster_id=ID, name="n1", ca_pem=mine.ca_pem)
    assert renewal.decode_renewal(good, pki_dir, N1) == pem
    for value, error, why in (
        ({}, InvalidInput, "member grant"),
        (good | {"kind": "other"}, InvalidInput, "member grant"),
        (good | {"certificate_pem": 1}, InvalidInput, "member grant"),
        (good | {"cluster_id": "f" * 32}, Conflict, "another cluster"),
        (good | {"name": "n2"}, InvalidInput, "not for n1"),
        (good | {"ca_sha256": only(other_dir).sha256}, Conflict, "new name"),
    ):
        with pytest.raises(error, match=why):
            renewal.decode_renewal(value, pki_dir, N1)


def test_dates_of_a_certificate_that_was_issued_in_1970_are_its_own(tmp_path: Path) -> None:
    pki_dir = node(tmp_path / "a")
    new = renewal.renew_own(pki_dir, only(pki_dir), N1, now_unix_ms=1_000 * DAY_MS, days=2)
    start, end = certificate_dates(new)
    assert end - start == timedelta(days=3)
    usable(pki_dir)
