"""Joining by file, as far as one machine goes: what is asked, what is accepted, what stays behind."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import (
    AccessDenied,
    AlreadyExists,
    ConfigError,
    CyoloctlError,
    InvalidInput,
    UsageError,
    VersionMismatch,
)
from cyoloctl.model import Address
from cyoloctl.node import by_file
from cyoloctl.node.config import load_config
from cyoloctl.pki.files import PKI_DIRECTORY
from cyoloctl.pki.grants import make_grant
from cyoloctl.pki.requests import decode_request
from cyoloctl.pki.sealed_grants import encode_sealed_grant, seal_grant
from cyoloctl.pki.x509 import public_key_sha256
from cyoloctl.replicated.levels import Release
from tests.support.pki import ID, NOW, OTHER_ID, Cluster, make_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    return make_cluster(tmp_path_factory.mktemp("n1"), ID)


def ask(base: Path, directory: str = "n4", name: str = "n4", **changes: Any) -> Path:
    """The request file of a new node in a directory."""
    out = base / f"{directory}.request"
    by_file.request(base / directory, name, "127.0.0.1:7004", changes.pop("advertise", None), out, **changes)
    return out


def grant(cluster: Cluster, request: Path, **changes: Any) -> str:
    asked = decode_request(request.read_text())
    made = make_grant(
        ca_cert_pem=cluster.ca,
        ca_key_pem=cluster.key,
        request_pem=asked.request_pem,
        sealing_key=asked.sealing_key,
        name=asked.name,
        cluster="demo",
        learner=False,
        storage="disk",
        peers={"n1": Address("10.0.0.1", 7700)},
        now=NOW,
        hand_over_ca_key=False,
    )
    sealed = seal_grant(
        {**made, **changes},
        request_pem=asked.request_pem,
        sealing_key=asked.sealing_key,
        expires_unix_s=1_800_000_000,
    )
    return encode_sealed_grant(sealed)


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def refused(directory: Path, text: str) -> CyoloctlError:
    before = files(directory)
    with pytest.raises(CyoloctlError) as caught:
        by_file.accept(directory, text)
    assert files(directory) == before, "a refusal changes nothing"
    return caught.value


def test_node_that_asked_and_was_granted_has_the_files_of_a_node(cluster: Cluster, tmp_path: Path) -> None:
    request = ask(tmp_path, advertise="n4.example.com:7004", gateway="127.0.0.1:8004")
    assert "PRIVATE" not in request.read_text(), "the keys never leave"
    text = grant(cluster, request)
    made = by_file.accept(tmp_path / "n4", text)
    assert (made["cluster"]["id"], made["name"], made["learner"]) == (ID, "n4", False)
    config = load_config(tmp_path / "n4" / "node.yaml")
    assert (str(config.listen), str(config.advertise)) == ("127.0.0.1:7004", "n4.example.com:7004")
    assert dict(config.peers) == {"n1": Address("10.0.0.1", 7700)}
    assert config.gateway is not None
    for path in (tmp_path / "n4" / PKI_DIRECTORY).iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not (tmp_path / "n4" / by_file.PENDING_NAME).exists()
    before = files(tmp_path / "n4")
    assert by_file.accept(tmp_path / "n4", text) == made, "the same grant again changes nothing"
    assert files(tmp_path / "n4") == before


def test_request_again_uses_the_same_keys_for_what_is_given_now(cluster: Cluster, tmp_path: Path) -> None:
    first = decode_request(ask(tmp_path).read_text())
    (tmp_path / "n4.request").unlink()
    second = decode_request(ask(tmp_path, name="n5", advertise="h:1").read_text())
    assert (second.name, str(second.address)) == ("n5", "h:1")
    assert public_key_sha256(first.request_pem) == public_key_sha256(second.request_pem)
    with pytest.raises(AlreadyExists):
        ask(tmp_path)
    assert by_file.accept(tmp_path / "n4", grant(cluster, _written(tmp_path, "n5")))["name"] == "n5"


def _written(base: Path, name: str) -> Path:
    (base / "n4.request").unlink()
    return ask(base, name=name)


def test_request_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CyoloctlError):
        by_file.request(tmp_path / "n4", "n4", "127.0.0.1:1", None, tmp_path / "none" / "x")
    with pytest.raises(InvalidInput, match="--advertise"):
        by_file.request(tmp_path / "n4", "n4", "0.0.0.0:1", None, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_grant_of_another_request_is_denied(cluster: Cluster, tmp_path: Path) -> None:
    ask(tmp_path)
    others = grant(cluster, ask(tmp_path, "other", "n4"))
    error = refused(tmp_path / "n4", others)
    assert isinstance(error, AccessDenied)
    assert error.exit_status == 77


def test_grant_that_was_changed_or_is_none_is_invalid_input(cluster: Cluster, tmp_path: Path) -> None:
    text = grant(cluster, ask(tmp_path))
    value = json.loads(text)
    flipped = ("B" if value["sealed"][40] != "B" else "C").join([value["sealed"][:40], value["sealed"][41:]])
    for wrong in (
        text[:-30],
        "",
        json.dumps(value | {"sealed": flipped}),
        json.dumps(value | {"ca_sha256": "0" * 64}),
        json.dumps(value | {"cluster_id": OTHER_ID}),
        json.dumps({"schema_version": 1, "kind": "cyoloctl certificate"}),
    ):
        assert isinstance(refused(tmp_path / "n4", wrong), InvalidInput), wrong
    # What is sealed is checked as any grant is: here its CA is another cluster's.
    other = make_cluster(tmp_path / "other", OTHER_ID)
    assert isinstance(
        refused(tmp_path / "n4", grant(cluster, tmp_path / "n4.request", ca_pem=other.ca)), InvalidInput
    )
    assert by_file.accept(tmp_path / "n4", text)["name"] == "n4", "the right one is accepted afterwards"


def test_accept_where_there_is_a_node_or_no_request_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    text = grant(cluster, ask(tmp_path))
    (tmp_path / "empty").mkdir(mode=0o700)
    error = refused(tmp_path / "empty", text)
    assert isinstance(error, ConfigError)
    assert "node request" in error.message
    assert isinstance(refused(cluster.directory, text), ConfigError)
    by_file.accept(tmp_path / "n4", text)
    other = make_cluster(tmp_path / "other", OTHER_ID)
    for theirs in (grant(other, tmp_path / "n4.request"), grant(cluster, ask(tmp_path, "n5", "n5"))):
        error = refused(tmp_path / "n4", theirs)
        assert isinstance(error, AlreadyExists)
        assert error.exit_status == 4
    with pytest.raises(AlreadyExists, match="already holds a node"):
        by_file.request(tmp_path / "n4", "n4", "127.0.0.1:1", None, tmp_path / "again")


def test_accept_that_was_interrupted_goes_on_with_the_same_grant(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = grant(cluster, ask(tmp_path))

    def killed(*_: object, **__: object) -> None:
        raise UsageError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(by_file, "write_config", killed)
        with pytest.raises(UsageError):
            by_file.accept(tmp_path / "n4", text)
    assert not (tmp_path / "n4" / "node.yaml").exists()
    assert by_file.accept(tmp_path / "n4", text)["name"] == "n4"
    # What was half made belongs to that cluster now.
    other = make_cluster(tmp_path / "other", OTHER_ID)
    assert refused(tmp_path / "n4", grant(other, tmp_path / "n4.request")).exit_status == 4


def test_damaged_pending_file_names_the_command(cluster: Cluster, tmp_path: Path) -> None:
    text = grant(cluster, ask(tmp_path))
    (tmp_path / "n4" / by_file.PENDING_NAME).write_text("{")
    error = refused(tmp_path / "n4", text)
    assert isinstance(error, ConfigError)
    assert "cyoloctl node request" in error.message


def test_grant_for_a_witness_makes_one_and_none_with_a_gateway(cluster: Cluster, tmp_path: Path) -> None:
    made = by_file.accept(tmp_path / "n4", grant(cluster, ask(tmp_path), witness=True))
    assert (made["witness"], made["learner"]) == (True, False)
    assert load_config(tmp_path / "n4" / "node.yaml").witness
    text = grant(cluster, ask(tmp_path, "n5", gateway="127.0.0.1:8004"), witness=True)
    error = refused(tmp_path / "n5", text)
    assert isinstance(error, ConfigError)
    assert "a witness, which has no gateway: repeat `cyoloctl node request` without" in error.message


def test_grant_of_a_cluster_above_this_releases_level_is_refused_and_works_after_an_upgrade(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = grant(cluster, ask(tmp_path), level=2)
    error = refused(tmp_path / "n4", text)
    assert isinstance(error, VersionMismatch)
    assert "the cluster is at level 2, and release" in error.message
    monkeypatch.setattr(by_file, "THIS", Release("9.0.0", 2))
    assert by_file.accept(tmp_path / "n4", text)["name"] == "n4"


def test_request_says_what_its_release_understands_once_that_is_more_than_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ask(tmp_path)
    assert "level" not in json.loads(request.read_text()), "earlier releases take no other field"
    assert decode_request(request.read_text()).level == 1
    monkeypatch.setattr(by_file, "THIS", Release("9.0.0", 2))
    assert decode_request(ask(tmp_path, "n5").read_text()).level == 2
