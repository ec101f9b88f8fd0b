"""Renewing certificates and exchanging CAs: the rules, and the files after every step."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import ConfigError, Conflict, InvalidInput, StorageError
from cyoloctl.model import ClusterId, NodeName
from cyoloctl.paths import write_private
from cyoloctl.pki import exchange, renewal
from cyoloctl.pki.ca import Authority, issue_certificate, issue_for_node
from cyoloctl.pki.files import (
    NodeFiles,
    check_private_files,
    read_authorities,
    read_node_public_key,
    remove_file,
)
from cyoloctl.pki.founding import new_cluster
from cyoloctl.pki.identity import Identity
from cyoloctl.pki.tls import TlsIdentity
from cyoloctl.pki.x509 import certificate_dates, public_key_sha256

ID = ClusterId("0123456789abcdef0123456789abcdef")
NOW = datetime(2026, 6, 1, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
DAY_MS = 86_400_000
N1 = Identity(NodeName("n1"), "node", ID)


def node(where: Path, days: int = 825) -> Path:
    new_cluster(where, name="n1", cluster="c", now=NOW, cluster_id=ID, days=days)
    return where / "pki"


def only(pki_dir: Path) -> Authority:
    (found,) = exchange.held(pki_dir).values()
    return found


def certificate(pki_dir: Path) -> str:
    return (pki_dir / "node.crt").read_text()


def usable(pki_dir: Path) -> NodeFiles:
    """The files, as a node that starts checks them."""
    TlsIdentity(pki_dir)
    exchange.held(pki_dir)
    return check_private_files(pki_dir, name="n1", cluster_id=ID)


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


# -- the exchange of a CA -----------------------------------------------------------------------


def test_new_ca_is_trusted_only_when_the_old_one_vouches_for_it(tmp_path: Path) -> None:
    pki_dir, other_dir = node(tmp_path / "a"), node(tmp_path / "b")
    old = only(pki_dir)
    new, voucher = exchange.new_authority(old, ID, "c", NOW_MS)
    exchange.check_voucher(new.ca_pem, voucher, [old.ca_pem], ID)
    stranger, forged = exchange.new_authority(only(other_dir), ID, "c", NOW_MS)
    foreign, _ = exchange.new_authority(old, "f" * 32, "c", NOW_MS)
    for pem, signature in (
        (stranger.ca_pem, forged),
        (stranger.ca_pem, voucher),
        (new.ca_pem, forged),
        (new.ca_pem, "x"),
        (foreign.ca_pem, voucher),
    ):
        with pytest.raises(InvalidInput, match="not vouched for"):
            exchange.check_voucher(pem, signature, [old.ca_pem], ID)


def test_new_cas_key_opens_only_at_the_node_that_it_was_sealed_to(tmp_path: Path) -> None:
    pki_dir, other_dir = node(tmp_path / "a"), node(tmp_path / "b")
    new, _ = exchange.new_authority(only(pki_dir), ID, "c", NOW_MS)
    sealing_key = usable(pki_dir).sealing_key
    sealed = exchange.seal_key(new, ID, "n1", sealing_key)
    assert exchange.open_key(pki_dir, sealed, ID, "n1", new.ca_pem) == new
    for directory, name, ca_pem in (
        (other_dir, "n1", new.ca_pem),
        (pki_dir, "n2", new.ca_pem),
        (pki_dir, "n1", only(pki_dir).ca_pem),
    ):
        with pytest.raises(InvalidInput):
            exchange.open_key(directory, sealed, ID, name, ca_pem)
    lie = exchange.seal_key(Authority(new.ca_pem, only(other_dir).key_pem), ID, "n1", sealing_key)
    with pytest.raises(InvalidInput, match="not the CA's key"):
        exchange.open_key(pki_dir, lie, ID, "n1", new.ca_pem)


class Crash(Exception):
    """The process ends here."""


@pytest.mark.parametrize("step", range(12))
def test_exchange_that_ends_at_any_write_leaves_files_that_fit_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    pki_dir = node(tmp_path / "a")
    old = only(pki_dir)
    new, _ = exchange.new_authority(old, ID, "c", NOW_MS)
    left = [step]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == -1:
                raise Crash
            return real(*arguments, **options)

        return run

    for module in (exchange, renewal):
        monkeypatch.setattr(module, "write_private", counted(write_private))
    monkeypatch.setattr(exchange, "remove_file", counted(remove_file))

    def follow() -> None:
        """As a node does it, from whatever is there."""
        files = usable(pki_dir)
        if files.authorities != (new.ca_pem,):
            exchange.trust(pki_dir, [old.ca_pem, new.ca_pem])
            if new.sha256 not in exchange.held(pki_dir):
                exchange.store_next_key(pki_dir, new)
            if usable(pki_dir).ca_pem != new.ca_pem:
                renewal.renew_own(pki_dir, new, N1, now_unix_ms=NOW_MS, days=3)
        exchange.close_exchange(pki_dir, new.ca_pem)

    try:
        follow()
    except Crash:
        left[0] = 1000
        usable(pki_dir)
        follow()
    files = usable(pki_dir)
    assert files.authorities == (new.ca_pem,)
    assert files.ca_pem == new.ca_pem
    assert exchange.held(pki_dir) == {new.sha256: new}
    assert not exchange.exchanging(pki_dir)


def test_exchange_that_is_abandoned_leaves_the_old_ca_alone(tmp_path: Path) -> None:
    pki_dir = node(tmp_path / "a")
    old = only(pki_dir)
    new, _ = exchange.new_authority(old, ID, "c", NOW_MS)
    exchange.trust(pki_dir, [old.ca_pem, new.ca_pem])
    exchange.store_next_key(pki_dir, new)
    exchange.close_exchange(pki_dir, old.ca_pem)
    assert usable(pki_dir).authorities == (old.ca_pem,)
    assert exchange.held(pki_dir) == {old.sha256: old}
    assert not exchange.trust(pki_dir, [old.ca_pem])


def test_node_without_the_new_key_keeps_no_key_of_the_old_ca(tmp_path: Path) -> None:
    pki_dir = node(tmp_path / "a")
    new, _ = exchange.new_authority(only(pki_dir), ID, "c", NOW_MS)
    exchange.trust(pki_dir, [only(pki_dir).ca_pem, new.ca_pem])
    pem = issue_for_node(new, read_node_public_key(pki_dir), N1, now_unix_ms=NOW_MS, days=1)
    renewal.store_certificate(pki_dir, pem, N1)
    exchange.close_exchange(pki_dir, new.ca_pem)
    assert exchange.held(pki_dir) == {}
    assert not usable(pki_dir).has_ca_key


def test_key_that_cannot_be_removed_is_a_storage_error(tmp_path: Path) -> None:
    pki_dir = node(tmp_path / "a")
    os.mkdir(pki_dir / "ca-next.key")
    with pytest.raises((StorageError, ConfigError)):
        exchange.close_exchange(pki_dir, only_ca(pki_dir))


def only_ca(pki_dir: Path) -> str:
    (found,) = read_authorities(pki_dir)
    return found


def test_dates_of_a_certificate_that_was_issued_in_1970_are_its_own(tmp_path: Path) -> None:
    pki_dir = node(tmp_path / "a")
    new = renewal.renew_own(pki_dir, only(pki_dir), N1, now_unix_ms=1_000 * DAY_MS, days=2)
    start, end = certificate_dates(new)
    assert end - start == timedelta(days=3)
    usable(pki_dir)
