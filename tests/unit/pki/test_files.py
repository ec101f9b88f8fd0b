"""The pki directory: private files that belong together, and what is said where they do not."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from cyoloctl.errors import AlreadyExists, ConfigError
from cyoloctl.pki import files
from cyoloctl.pki.ca import make_credentials
from cyoloctl.pki.files import check_private_files, read_operator, remove_file, write_credentials
from cyoloctl.pki.x509 import public_key_sha256
from tests.support.authorities import renew_own
from tests.support.pki import ID, NOW, OTHER_ID, Cluster, make_cluster


def test_credentials_of_a_viewer_written_exclusively_are_private(cluster: Cluster, tmp_path: Path) -> None:
    bundle = make_credentials(cluster.ca, cluster.key, name="grafana", role="viewer", now=NOW, days=30)
    path = tmp_path / "viewer.yaml"
    write_credentials(path, bundle, exclusive=True)
    assert json.loads(path.read_text()) == bundle
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(AlreadyExists):
        write_credentials(path, bundle, exclusive=True)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o700 | 0o001])
@pytest.mark.parametrize(
    "file", ["pki/node.key", "pki/sealing.key", "pki/ca.key", "pki/operator.key", "operator.yaml"]
)
def test_check_private_files_of_an_open_key_gives_the_command_that_closes_it(
    fresh: Cluster, file: str, mode: int
) -> None:
    path = fresh.directory / file
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)
    assert caught.value.exit_status == 78
    command = caught.value.message.split("`")[1]
    assert command == f"chmod 600 {path}"
    subprocess.run(command, shell=True, check=True)
    check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)


@pytest.mark.parametrize("file", ["node.key", "sealing.key", "ca.key", "node.crt", "ca.crt"])
def test_check_private_files_of_a_symbolic_link_is_refused(fresh: Cluster, tmp_path: Path, file: str) -> None:
    path = fresh.pki_dir / file
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="symbolic link"):
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)


@pytest.mark.parametrize("file", ["node.key", "ca.crt"])
def test_check_private_files_of_a_pipe_does_not_wait(fresh: Cluster, file: str) -> None:
    path = fresh.pki_dir / file
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="is not a file"):
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be two users")
def test_check_private_files_of_a_key_of_another_user_is_refused(fresh: Cluster) -> None:
    os.chown(fresh.pki_dir / "node.key", 12345, 12345)
    with pytest.raises(ConfigError, match="chown 0"):
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)


def test_check_private_files_command_quotes_the_path(tmp_path: Path) -> None:
    spoiled = make_cluster(tmp_path / "it's; here", ID)
    spoiled.pki_dir.chmod(0o770)
    with pytest.raises(ConfigError) as caught:
        check_private_files(spoiled.pki_dir, name="n1", cluster_id=ID)
    subprocess.run(caught.value.message.split("`")[1], shell=True, check=True)
    assert stat.S_IMODE(spoiled.pki_dir.stat().st_mode) == 0o700


@pytest.mark.parametrize("content", [b"", b"\xff", b"x" * 70000])
@pytest.mark.parametrize("file", ["node.key", "sealing.key", "ca.key", "ca.crt", "node.crt"])
def test_check_private_files_of_a_damaged_file_names_it(fresh: Cluster, file: str, content: bytes) -> None:
    (fresh.pki_dir / file).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)
    assert str(fresh.pki_dir / file) in caught.value.message


@pytest.mark.parametrize("file", ["node.key", "sealing.key", "ca.crt", "node.crt"])
def test_check_private_files_of_a_missing_file_names_it(fresh: Cluster, file: str) -> None:
    (fresh.pki_dir / file).unlink()
    with pytest.raises(ConfigError) as caught:
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)
    assert f"cannot read {fresh.pki_dir / file}" in caught.value.message


def test_check_private_files_of_a_missing_directory_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*/none: No such file"):
        check_private_files(tmp_path / "none", name="n1", cluster_id=ID)


@pytest.mark.parametrize("file", ["node.key", "node.crt", "ca.crt", "ca.key"])
def test_check_private_files_with_a_file_of_another_cluster_raises_config_error(
    fresh: Cluster, other: Cluster, file: str
) -> None:
    (fresh.pki_dir / file).write_bytes((other.pki_dir / file).read_bytes())
    with pytest.raises(ConfigError, match="restore the right"):
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)


@pytest.mark.parametrize(("name", "cluster_id"), [("n2", ID), ("n1", OTHER_ID)])
def test_check_private_files_of_another_name_or_cluster_raises_config_error(
    cluster: Cluster, name: str, cluster_id: str
) -> None:
    with pytest.raises(ConfigError, match=r"node\.yaml"):
        check_private_files(cluster.pki_dir, name=name, cluster_id=cluster_id)


@pytest.mark.parametrize(("days", "part"), [(826, "cyoloctl node renew"), (-2, "set the clock")])
def test_check_private_files_of_a_certificate_outside_its_dates_says_what_to_do(
    cluster: Cluster, days: int, part: str
) -> None:
    with pytest.raises(ConfigError, match=part):
        check_private_files(cluster.pki_dir, name="n1", cluster_id=ID, now=NOW + timedelta(days=days))


def test_renew_node_certificate_moves_the_end_and_keeps_the_key(fresh: Cluster) -> None:
    before = check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)
    later = NOW + timedelta(days=800)
    end = renew_own(fresh.pki_dir, later)
    after = check_private_files(fresh.pki_dir, name="n1", cluster_id=ID, now=later)
    assert after.certificate_expires_at == end > before.certificate_expires_at
    assert public_key_sha256(after.certificate_pem) == public_key_sha256(before.certificate_pem)


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_check_private_files_in_a_directory_that_others_may_change_is_refused(
    fresh: Cluster, mode: int
) -> None:
    fresh.pki_dir.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 700"):
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)


def test_check_private_files_owned_by_none_of_those_who_may_is_refused(
    fresh: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_owners_of_keys", lambda _path: (54_321,))
    with pytest.raises(ConfigError, match="who can change it"):
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)


def test_check_private_files_of_a_certificate_for_another_key_is_refused(fresh: Cluster) -> None:
    (fresh.pki_dir / "node.crt").write_text(fresh.certified("n1")[0])
    with pytest.raises(ConfigError, match="does not match"):
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)


def test_check_private_files_with_a_second_ca_of_another_cluster_is_refused(
    fresh: Cluster, other: Cluster
) -> None:
    (fresh.pki_dir / "ca.crt").write_text(fresh.ca + other.ca)
    with pytest.raises(ConfigError, match="another cluster"):
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)


def test_removed_file_is_gone_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.key").touch()
    synced: list[bool] = []

    def sync(descriptor: int) -> None:
        assert os.path.samefile(f"/proc/self/fd/{descriptor}", tmp_path)
        synced.append((tmp_path / "ca.key").exists())

    monkeypatch.setattr(os, "fsync", sync)
    remove_file(tmp_path / "ca.key")
    assert synced == [False]


def test_read_operator_takes_an_operators_certificate_only(fresh: Cluster) -> None:
    found = read_operator(fresh.pki_dir)
    assert found is not None
    for role in ("viewer", "gateway", "node"):
        (fresh.pki_dir / "operator.crt").write_text(fresh.certified("ada", role)[0])
        with pytest.raises(ConfigError, match="names no operator"):
            read_operator(fresh.pki_dir)
