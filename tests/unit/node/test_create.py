"""Making a node's files: whole or not at all, and what a joiner tells whom.

Where an impostor answers it is the standard library and nothing of ours; its
certificate is a real one of the cluster, of a removed learner.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import (
    AccessDenied,
    AlreadyExists,
    ConfigError,
    Conflict,
    InvitationRejected,
    OutcomeUnknown,
    StorageError,
)
from cyoloctl.model import ClusterId, NodeName, parse_address
from cyoloctl.node import create
from cyoloctl.pki import join_token
from cyoloctl.pki.ca import create_ca, issue_certificate
from cyoloctl.pki.files import read_ca
from cyoloctl.pki.founding import new_cluster
from cyoloctl.pki.grants import make_grant
from cyoloctl.pki.identity import Identity
from cyoloctl.pki.requests import csr_sha256, make_request
from cyoloctl.pki.x509 import certificate_sha256

ID = "0123456789abcdef0123456789abcdef"


class Impostor:
    """A TLS server that tells anybody the cluster's CA, which is public, and notes all that it is sent."""

    def __init__(self, certificate: Path, key: Path, ca_pem: str) -> None:
        self.heard: list[bytes] = []
        self._ca = json.dumps({"schema_version": 1, "cluster_id": ID, "certificates": [ca_pem]}).encode()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._context.set_alpn_protocols(["http/1.1"])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            plain.settimeout(10)
            with contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as tls:
                asked = tls.recv(65536)
                self.heard.append(asked)
                if asked.startswith(b"GET /v1/ca"):
                    head = f"Content-Type: application/json\r\nContent-Length: {len(self._ca)}\r\n\r\n"
                    tls.sendall(b"HTTP/1.1 200 OK\r\n" + head.encode() + self._ca)


@pytest.fixture
def ca(tmp_path: Path) -> tuple[str, str]:
    new_cluster(tmp_path / "n1", name="n1", cluster="demo", now=datetime.now(UTC), cluster_id=ID)
    return read_ca(tmp_path / "n1" / "pki")


@pytest.fixture
def learner(ca: tuple[str, str], tmp_path: Path) -> Iterator[Impostor]:
    """Holds what is left of the learner n9, which was removed since; it is at the address of n1."""
    pending = make_request("n9", ID)
    identity = Identity(NodeName("n9"), "node", ClusterId(ID))
    certificate, key = tmp_path / "n9.crt", tmp_path / "n9.key"
    certificate.write_text(issue_certificate(*ca, pending.request_pem, identity, now=datetime.now(UTC)))
    key.write_text(pending.node_key_pem)
    impostor = Impostor(certificate, key, ca[0])
    yield impostor
    impostor.close()


def test_join_at_an_address_that_a_removed_learner_took_tells_it_nothing(
    ca: tuple[str, str], learner: Impostor, tmp_path: Path
) -> None:
    token = join_token.JoinToken(
        cluster_id=ClusterId(ID),
        cluster=NodeName("demo"),
        ca_sha256=certificate_sha256(ca[0]),
        name=NodeName("n4"),
        learner=False,
        secret=join_token.new_secret(),
        expires_unix_s=1_900_000_000,
        members=((NodeName("n1"), parse_address(learner.address)),),
    )
    with pytest.raises(AccessDenied, match="n9 answers there, not n1"):
        create.join(tmp_path / "n4", "n4", "127.0.0.1:1", None, join_token.encode_token(token), 5.0)
    assert not (tmp_path / "n4").exists()
    asked = [heard.split(b" HTTP/", 1)[0] for heard in learner.heard if heard]
    assert len(asked) == 1
    assert asked[0].startswith(b"GET /v1/ca?")
    heard = b"".join(learner.heard)
    for what in (token.secret, "n4", join_token.public_key(token.secret, ID, "n4"), "REQUEST"):
        assert what.encode() not in heard


def _token(ca: tuple[str, str], **changes: Any) -> str:
    fields: dict[str, Any] = {
        "cluster_id": ClusterId(ID),
        "cluster": NodeName("demo"),
        "ca_sha256": certificate_sha256(ca[0]),
        "name": NodeName("n4"),
        "learner": False,
        "secret": join_token.new_secret(),
        "expires_unix_s": 1_900_000_000,
        "members": ((NodeName("n1"), parse_address("127.0.0.1:1")),),
    }
    return join_token.encode_token(join_token.JoinToken(**{**fields, **changes}))


def _join(directory: Path, token: str) -> dict[str, Any]:
    return create.join(directory, "n4", "127.0.0.1:2", None, token, 5.0)


class Members:
    """What the cluster answers to a join, over the network."""

    def __init__(self, ca: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.ca = ca
        self.error: Exception | None = None
        self.asked: list[dict[str, Any]] = []
        monkeypatch.setattr(create, "join_cluster", self._join_cluster)

    def _join_cluster(self, *arguments: Any) -> Any:
        body = arguments[3]
        self.asked.append(body)
        if self.error is not None:
            raise self.error
        return make_grant(
            ca_cert_pem=self.ca[0],
            ca_key_pem=self.ca[1],
            request_pem=body["request_pem"],
            sealing_key=body["sealing_key"],
            name=body["name"],
            cluster="demo",
            learner=False,
            storage="disk",
            peers={"n1": parse_address("127.0.0.1:1")},
            now=datetime.now(UTC),
        )


@pytest.fixture
def members(ca: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Members:
    return Members(ca, monkeypatch)


def test_join_that_is_refused_leaves_nothing(members: Members, tmp_path: Path) -> None:
    members.error = InvitationRejected("it is used up")
    with pytest.raises(InvitationRejected):
        _join(tmp_path / "n4", _token(members.ca))
    assert not (tmp_path / "n4").exists()


def test_join_of_unknown_outcome_goes_on_with_the_same_keys(members: Members, tmp_path: Path) -> None:
    members.error = OutcomeUnknown("nobody knows")
    token = _token(members.ca)
    with pytest.raises(OutcomeUnknown):
        _join(tmp_path / "n4", token)
    members.error = None
    made = _join(tmp_path / "n4", token)
    assert made["name"] == "n4"
    assert members.asked[0]["request_pem"] == members.asked[1]["request_pem"]
    assert members.asked[0]["sealing_key"] == members.asked[1]["sealing_key"]


def test_join_with_anothers_token_or_in_anothers_directory_spends_no_token(
    members: Members, tmp_path: Path
) -> None:
    with pytest.raises(InvitationRejected, match="is for 'n5', not 'n4'"):
        _join(tmp_path / "n4", _token(members.ca, name=NodeName("n5")))
    (tmp_path / "n4" / "pki").mkdir(parents=True, mode=0o700)
    (tmp_path / "n4" / "pki" / "ca.crt").write_text(create_ca("f" * 32, "other", datetime.now(UTC))[0])
    with pytest.raises(Conflict, match="of another cluster"):
        _join(tmp_path / "n4", _token(members.ca))
    assert members.asked == []


def test_join_sends_everything_but_the_secret_and_signs_it(members: Members, tmp_path: Path) -> None:
    token = _token(members.ca)
    _join(tmp_path / "n4", token)
    (body,) = members.asked
    secret = join_token.decode_token(token).secret
    assert secret not in json.dumps(body)
    request = join_token.JoinRequest(
        cluster_id=ID,
        name="n4",
        request_sha256=csr_sha256(body["request_pem"]),
        address="127.0.0.1:2",
        sealing_key=body["sealing_key"],
        ca_sha256=certificate_sha256(members.ca[0]),
    )
    assert body["public_key"] == join_token.public_key(secret, ID, "n4")
    assert join_token.signed_by(body["public_key"], body["signature"], request)


def test_new_cluster_that_cannot_be_written_whole_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(create, "dump_config", full)
    for offline_ca in (None, tmp_path / "ca.pem"):
        with pytest.raises(StorageError):
            create.init_cluster(
                tmp_path / "n1", "n1", "127.0.0.1:1", None, "demo", "disk", offline_ca=offline_ca
            )
    assert [path for path in tmp_path.iterdir() if path.name != "n1" or any(path.iterdir())] == []


def test_new_cluster_in_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n1").mkdir()
    (tmp_path / "n1").chmod(0o770)
    with pytest.raises(ConfigError, match="others can write"):
        create.init_cluster(tmp_path / "n1", "n1", "127.0.0.1:1", None, "demo", "disk")
    assert list((tmp_path / "n1").iterdir()) == []


@pytest.mark.parametrize("left", ["node.yaml", "pki", "operator.yaml", "raft.db", "snapshot"])
def test_new_cluster_over_what_is_left_of_a_node_is_refused(tmp_path: Path, left: str) -> None:
    (tmp_path / "n1").mkdir(mode=0o700)
    (tmp_path / "n1" / left).touch()
    with pytest.raises(AlreadyExists, match=left):
        create.init_cluster(tmp_path / "n1", "n1", "127.0.0.1:1", None, "demo", "disk")
    assert [path.name for path in (tmp_path / "n1").iterdir()] == [left]


def test_join_as_a_witness_with_a_gateway_is_refused_before_the_token_is_spent(
    members: Members, tmp_path: Path
) -> None:
    arguments = ("127.0.0.1:2", None, _token(members.ca, witness=True), 5.0)
    with pytest.raises(ConfigError, match="which has no gateway: repeat `cyoloctl node join` without"):
        create.join(tmp_path / "n4", "n4", *arguments, gateway="127.0.0.1:3")
    assert members.asked == []
    assert not (tmp_path / "n4").exists()
