"""The exchange of a CA: who vouches for the new one, and the files after every step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import ConfigError, InvalidInput, StorageError
from cyoloctl.paths import write_node_file
from cyoloctl.pki import exchange, renewal
from cyoloctl.pki.ca import Authority, issue_for_node
from cyoloctl.pki.files import (
    read_authorities,
    read_node_public_key,
    remove_file,
)
from cyoloctl.pki.statements import sign_statement
from tests.support.authorities import ID, N1, NOW_MS, node, only, usable


def test_new_ca_is_trusted_only_when_the_old_one_vouches_for_it(tmp_path: Path) -> None:
    pki_dir, other_dir = node(tmp_path / "a"), node(tmp_path / "b")
    old = only(pki_dir)
    new, voucher = exchange.new_authority(old, ID, "c", NOW_MS)
    exchange.check_voucher(new.ca_pem, voucher, [old.ca_pem], ID)
    stranger, forged = exchange.new_authority(only(other_dir), ID, "c", NOW_MS)
    foreign, _ = exchange.new_authority(old, "f" * 32, "c", NOW_MS)
    vouched = sign_statement(old.key_pem, exchange._voucher(ID, foreign.ca_pem))
    for pem, signature in (
        (stranger.ca_pem, forged),
        (stranger.ca_pem, voucher),
        (new.ca_pem, forged),
        (new.ca_pem, "x"),
        (foreign.ca_pem, voucher),
        (foreign.ca_pem, vouched),
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
        monkeypatch.setattr(module, "write_node_file", counted(write_node_file))
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


@pytest.mark.parametrize("step", range(4))
def test_exchange_whose_end_is_interrupted_keeps_the_new_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The log has dropped the sealed key by then: what is in the directory is all there is."""
    pki_dir = node(tmp_path / "a")
    new, _ = exchange.new_authority(only(pki_dir), ID, "c", NOW_MS)
    exchange.trust(pki_dir, [only(pki_dir).ca_pem, new.ca_pem])
    exchange.store_next_key(pki_dir, new)
    renewal.renew_own(pki_dir, new, N1, now_unix_ms=NOW_MS, days=3)
    done: list[object] = []
    write, remove = exchange.write_node_file, exchange.remove_file

    def dying(*arguments: Any) -> None:
        if len(done) == step:
            raise Crash
        done.append(arguments[0])
        (write if len(arguments) > 1 else remove)(*arguments)

    monkeypatch.setattr(exchange, "write_node_file", dying)
    monkeypatch.setattr(exchange, "remove_file", dying)
    with contextlib.suppress(Crash):
        exchange.close_exchange(pki_dir, new.ca_pem)
    monkeypatch.undo()
    exchange.close_exchange(pki_dir, new.ca_pem)
    assert exchange.held(pki_dir) == {new.sha256: new}


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
