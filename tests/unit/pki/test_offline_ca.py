"""A CA that is kept offline: its file, and the certificates that are made with it."""

from __future__ import annotations

import stat
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from cyoloctl.errors import AlreadyExists, ConfigError, InvalidInput
from cyoloctl.model import ClusterId, NodeName
from cyoloctl.pki.ca import Authority, create_ca
from cyoloctl.pki.identity import AccessRole, Identity
from cyoloctl.pki.offline_ca import check_issued, issue, read_ca_file, write_ca_file
from cyoloctl.pki.requests import make_credential_request, make_request
from tests.support.pki import ID, NOW

NOW_MS = int(NOW.timestamp() * 1000)
N4 = Identity(NodeName("n4"), "node", ClusterId(ID))


@pytest.fixture(scope="module")
def ca() -> Authority:
    return Authority(*create_ca(ClusterId(ID), "c", NOW))


def test_file_holds_the_ca_and_its_key_for_its_owner_alone(ca: Authority, tmp_path: Path) -> None:
    path = tmp_path / "stick.pem"
    write_ca_file(path, ca)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_ca_file(path) == ca
    (tmp_path / "link").symlink_to(path)
    assert read_ca_file(tmp_path / "link") == ca
    with pytest.raises(AlreadyExists):
        write_ca_file(path, ca)


def test_file_that_cannot_be_used_is_refused(ca: Authority, tmp_path: Path) -> None:
    path = tmp_path / "stick.pem"
    with pytest.raises(InvalidInput, match=r"cannot read .*stick\.pem"):
        read_ca_file(path)
    write_ca_file(path, ca)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"chmod 600 .*stick\.pem"):
        read_ca_file(path)
    for name, text in (
        ("certificate", ca.ca_pem),
        ("key", ca.key_pem),
        ("other", ca.ca_pem + create_ca(ClusterId(ID), "c", NOW)[1]),
        ("text", "no PEM"),
    ):
        wrong = tmp_path / name
        wrong.write_text(text)
        wrong.chmod(0o600)
        with pytest.raises(ConfigError, match="is not the file of an offline CA"):
            read_ca_file(wrong)
    with pytest.raises(InvalidInput, match="nowhere"):
        write_ca_file(tmp_path / "nowhere" / "stick.pem", ca)


def test_certificate_counts_only_for_its_key_name_role_and_ca(ca: Authority) -> None:
    request = make_request("n4", ClusterId(ID)).request_pem
    made = issue(ca, request, N4, now=NOW, days=825)
    check_issued(made, [ca.ca_pem], N4, request, NOW_MS)
    other = Authority(*create_ca(ClusterId(ID), "c", NOW))
    another_key = make_request("n4", ClusterId(ID)).request_pem
    for arguments, problem in (
        ((made, [other.ca_pem], N4, request), "another CA"),
        ((made, [ca.ca_pem], N4, another_key), "another key"),
        ((made, [ca.ca_pem], replace(N4, name=NodeName("n5")), request), "another name"),
        ((made, [ca.ca_pem], replace(N4, role="operator"), request), "another name"),
    ):
        with pytest.raises(InvalidInput, match=problem):
            check_issued(*arguments, NOW_MS)


@pytest.mark.parametrize("role", ["operator", "gateway", "viewer"])
def test_certificate_of_credentials_is_for_their_role(ca: Authority, role: AccessRole) -> None:
    request, _ = make_credential_request("ann", role)
    ann = Identity(NodeName("ann"), role, ClusterId(ID))
    made = issue(ca, request, ann, now=NOW, days=1)
    check_issued(made, [ca.ca_pem], ann, request, NOW_MS)
    with pytest.raises(InvalidInput, match="another name"):
        check_issued(made, [ca.ca_pem], replace(ann, role="node"), request, NOW_MS)


@pytest.mark.parametrize("off", [timedelta(days=-900), timedelta(days=9)])
def test_certificate_of_a_machine_with_a_wrong_clock_is_refused(ca: Authority, off: timedelta) -> None:
    request = make_request("n4", ClusterId(ID)).request_pem
    made = issue(ca, request, N4, now=NOW + off, days=825)
    with pytest.raises(InvalidInput, match="set the clock of the machine with the CA's file"):
        check_issued(made, [ca.ca_pem], N4, request, NOW_MS)
