"""Admission, over real machines and real certificates, without a network."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cyoloctl.errors import (
    ConfigError,
    Conflict,
    InvalidInput,
    InvitationRejected,
    NoLeader,
    NotFound,
    Overloaded,
    Unavailable,
)
from cyoloctl.members.joining import Allowance, JoinOperations
from cyoloctl.model import Address, ClusterId, NodeName, Stamp
from cyoloctl.node.config import Config
from cyoloctl.pki import join_token
from cyoloctl.pki.ca import MAX_CERTIFICATE_DAYS, Authority, CertificateIssuer
from cyoloctl.pki.files import NodeFiles, read_ca
from cyoloctl.pki.founding import new_cluster
from cyoloctl.pki.requests import make_request
from cyoloctl.pki.x509 import certificate_sha256, private_to_pem, public_key_sha256
from cyoloctl.replicated.command import decode_result_with_index, encode_command
from cyoloctl.state import ClusterState
from cyoloctl.text import Json
from tests.support.joining import join_body, sign_body, token_key

ID = "0123456789abcdef0123456789abcdef"
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Files:
    """One pki directory for all tests of the module."""

    directory: Path
    node: NodeFiles


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    directory = tmp_path_factory.mktemp("n1")
    node = new_cluster(directory, name="n1", cluster="demo", now=NOW, cluster_id=ID)
    return Files(directory / "pki", node)


class Cluster:
    """The log of a cluster: what is applied is applied everywhere, unless a node is behind."""

    def __init__(self) -> None:
        self.machine = ClusterState()
        self.now_ms = int(NOW.timestamp() * 1000)
        self.index = 0
        self.barriers = 0

    async def apply(
        self, machine: str, operation: str, arguments: Json, *, request_id: str | None, timeout_s: float
    ) -> tuple[int, Json, str]:
        self.index += 1
        command = encode_command(
            machine,
            operation,
            arguments,
            request_id=request_id or f"r{self.index}",
            kind="node" if request_id is None else "client",
        )
        self.machine.advance(Stamp(0, self.now_ms, self.index))
        index, value = decode_result_with_index(self.machine.apply(self.index, command))
        return index, value, ""

    async def in_time(self, *, timeout_s: float) -> None:
        """This cluster's time never steps by itself."""

    async def fresh(self, *, stale: bool = False, timeout_s: float) -> None:
        self.barriers += 1


class Node:
    """A node's joining service.  asked: what it passed on."""

    def __init__(self, files: Files, cluster: Cluster, name: str = "n1", *, ca_key: bool = True) -> None:
        self.files = files
        self.cluster = cluster
        self.asked: list[tuple[str, str]] = []
        self.answers: dict[str, Any] = {}
        self.clock = 0.0
        self.keys = [private_to_pem(ec.generate_private_key(ec.SECP256R1()))]
        self.later: list[Callable[[], Any]] = []
        self.status = SimpleNamespace(leader="n1", voters=("n1", "n3~5"))
        self.peers: dict[str, Any] = {"n1": None, "n3": None}
        config = Config(
            name=NodeName(name),
            cluster_id=ClusterId(ID),
            cluster=NodeName("demo"),
            listen=Address("127.0.0.1", 1),
            advertise=Address("10.0.0.1", 7700),
        )
        proposer: Any = SimpleNamespace(
            engine=SimpleNamespace(
                status=lambda: self.status, peers=lambda: self.peers, wait_changed=self._wait_changed
            ),
            apply=cluster.apply,
            fresh=cluster.fresh,
            in_time=cluster.in_time,
            now_ms=lambda: cluster.now_ms,
        )
        self.service = JoinOperations(
            proposer,
            config,
            cluster.machine.members,
            files=lambda: files.node,
            issuer=lambda: self._issuer(files, ca_key),
            addresses=lambda: {m.name: m.address for m in cluster.machine.members.members()},
            ask=self._ask,
            secrets=lambda what: [join_token.secret_of(key, what) for key in self.keys],
            clock=lambda: self.clock,
        )

    async def _wait_changed(self, timeout_s: float) -> None:
        """A moment passes; in it happens what a test has put off."""
        await asyncio.sleep(0.001)
        for happens in self.later:
            await happens()
        self.later.clear()

    def _issuer(self, files: Files, ca_key: bool) -> Any:
        if not ca_key:
            raise ConfigError("this node holds no CA key")
        authority = Authority(*read_ca(files.directory))
        return CertificateIssuer(authority, "", MAX_CERTIFICATE_DAYS)

    async def _ask(self, name: str, operation: str, arguments: Json, timeout_s: float) -> Json:
        self.asked.append((name, operation))
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        found: Json = await answer.service.join(arguments, passed_on=True, timeout_s=timeout_s)
        return found

    def invite(self, name: str = "n2", **options: Any) -> join_token.JoinToken:
        given = {"role": "voter", "ttl_s": 3600, "request_id": None, "timeout_s": 1.0, **options}
        made = asyncio.run(self.service.invite(name, **given))
        return join_token.decode_token(made["token"])

    def body(self, secret: str, name: str, **changes: Any) -> Json:
        """Request of a joiner that was told of this cluster's CA."""
        given = {"ca_sha256": certificate_sha256(self.files.node.ca_pem), **changes}
        return join_body(secret, name, ID, **given)

    def join(self, body: Json, *, passed_on: bool = False) -> Json:
        return asyncio.run(self.service.join(body, passed_on=passed_on, timeout_s=1.0))

    def invitations(self) -> list[Json]:
        found: list[Json] = asyncio.run(self.service.invitations(consistency="linearizable", timeout_s=1.0))[
            "invitations"
        ]
        return found


async def found(node: Node) -> None:
    """The first node records itself."""
    founder = {
        "name": "n1",
        "address": "10.0.0.1:7700",
        "sealing_key": node.files.node.sealing_key,
        "raft_id": "n1",
        "certificate_expires_at": None,
        "key_hash": public_key_sha256(node.files.node.certificate_pem),
    }
    await node.cluster.apply("members", "announce", founder, request_id=None, timeout_s=1.0)


@pytest.fixture
def node(files: Files) -> Node:
    made = Node(files, Cluster())
    asyncio.run(found(made))
    return made


def test_invite_before_the_founder_is_a_member_waits_for_it(files: Files) -> None:
    """It may record itself only while nobody else is there: a guest that came first would shut it out."""
    node = Node(files, Cluster())
    with pytest.raises(Unavailable, match="try again"):
        node.invite(timeout_s=0.05)
    assert node.cluster.machine.members.invitations() == []
    node.later.append(lambda: found(node))
    token = node.invite()
    node.join(node.body(token.secret, "n2"))
    assert [member.name for member in node.cluster.machine.members.members()] == ["n1", "n2"]


def test_invite_names_members_with_addresses_and_the_digest_of_the_ca(node: Node, files: Files) -> None:
    token = node.invite()
    assert token.members == (("n1", Address("10.0.0.1", 7700)),)
    assert token.ca_sha256 == certificate_sha256(files.node.ca_pem)
    assert token.expires_unix_s == node.cluster.now_ms // 1000 + 3600
    known = node.cluster.machine.members.invitation("n2")
    assert known is not None
    assert known.public_key == join_token.public_key(token.secret, ID, "n2")
    assert token.secret.encode() not in b"".join(node.cluster.machine.begin_snapshot()())


def test_invite_under_the_same_request_id_gives_the_same_token_for_as_long(node: Node) -> None:
    first = node.invite(request_id="job-1")
    node.cluster.now_ms += 60_000
    before = node.cluster.machine.members.invitations()
    again = node.invite(request_id="job-1")
    assert (again.secret, again.expires_unix_s) == (first.secret, first.expires_unix_s)
    assert node.cluster.machine.members.invitations() == before
    snapshot = b"".join(node.cluster.machine.begin_snapshot()())
    assert first.secret.encode() not in snapshot
    assert b"job-1" not in snapshot  # nor what gives the secret to a thief of the key
    node.join(node.body(again.secret, "n2"))
    assert node.invite(request_id="job-1").secret == first.secret  # its own word, though it admits nobody now
    assert node.invite("n4", request_id="job-2").secret != first.secret


def test_invite_under_the_request_id_of_another_name_role_or_lifetime_is_refused(node: Node) -> None:
    node.invite(request_id="job-1")
    for other in ({"name": "n4"}, {"role": "learner"}, {"role": "witness"}, {"ttl_s": 60}):
        with pytest.raises(Conflict, match="request id"):
            node.invite(**{"name": "n2", "request_id": "job-1", **other})


def test_invite_is_repeated_by_whoever_holds_the_key_under_which_it_was_made(
    node: Node, files: Files
) -> None:
    first = node.invite(request_id="job-1")
    other = Node(files, node.cluster)
    with pytest.raises(Conflict, match="new request id"):
        other.invite(request_id="job-1")
    other.keys = [other.keys[0], node.keys[0]]  # after an exchange of the CA it holds both
    assert other.invite(request_id="job-1").secret == first.secret


def test_join_with_its_token_gets_a_certificate_by_the_clusters_time(node: Node) -> None:
    node.cluster.now_ms += 400 * 86_400_000  # this machine's clock says otherwise
    token = node.invite()
    grant = node.join(node.body(token.secret, "n2"))
    certificate = x509.load_pem_x509_certificate(grant["certificate_pem"].encode())
    assert 0 <= node.cluster.now_ms / 1000 - certificate.not_valid_before_utc.timestamp() <= 2 * 86_400
    member = node.cluster.machine.members.get("n2")
    assert member is not None
    assert member.key_hash == public_key_sha256(grant["certificate_pem"])
    assert node.cluster.barriers == 0


def test_join_again_before_the_first_start_gets_the_answer_without_a_log_entry(node: Node) -> None:
    token = node.invite()
    body = node.body(token.secret, "n2")
    node.join(body)
    before = node.cluster.index
    node.cluster.now_ms += 4_000_000  # expired since
    assert node.join(body)["name"] == "n2"
    assert node.cluster.index == before


@pytest.mark.parametrize("address", ["10.0.0.1:7700", "[::ffff:10.0.0.1]:7700"])
def test_join_at_the_address_of_another_member_is_refused_and_leaves_the_token_good(
    node: Node, address: str
) -> None:
    token = node.invite()
    before = node.cluster.index
    with pytest.raises(Conflict, match=r"address of member n1.*member remove n1"):
        node.join(node.body(token.secret, "n2", address=address))
    assert node.cluster.index == before
    body = node.body(token.secret, "n2", address="10.0.0.2:7700")
    assert node.join(body)["name"] == "n2"
    assert node.join(body)["name"] == "n2", "its own address is no other member's"


def _captured(node: Node) -> Json:
    """Request of a rightful joiner, intercepted before anybody else saw it."""
    return node.body(node.invite().secret, "n2")


def _forgeries() -> dict[str, Callable[[Json], Json]]:
    """Forgeries of an intercepted request, made with the thief's own keys and the standard library."""
    own = make_request("n2", ID)  # a request that names the joiner, for other keys
    mine = Ed25519PrivateKey.generate()
    return {
        "own request": lambda body: {
            **body,
            "request_pem": own.request_pem,
            "sealing_key": own.sealing_key,
        },
        "own sealing key": lambda body: {**body, "sealing_key": own.sealing_key},
        "own address": lambda body: {**body, "address": "10.6.6.6:7700"},
        "own name": lambda body: {**body, "name": "n7"},
        "own signature": lambda body: sign_body(
            mine, {**body, "request_pem": own.request_pem, "sealing_key": own.sealing_key}, ID
        ),
        "own signature, their key": lambda body: {
            **sign_body(mine, {**body, "request_pem": own.request_pem, "sealing_key": own.sealing_key}, ID),
            "public_key": body["public_key"],
        },
        "of another cluster": lambda body: sign_body(token_key("s" * 43, "n2", "f" * 32), body, "f" * 32),
    }


@pytest.mark.parametrize("how", _forgeries())
def test_join_of_an_altered_request_admits_nobody_and_leaves_the_token_good(node: Node, how: str) -> None:
    body = _captured(node)
    before = node.cluster.index
    with pytest.raises(InvitationRejected):
        node.join(_forgeries()[how](body))
    assert node.cluster.index == before
    assert [m.name for m in node.cluster.machine.members.members()] == ["n1"]
    assert node.join(body)["name"] == "n2"


def test_join_passed_on_by_somebody_admits_the_rightful_joiner_and_shows_nobody_the_ca_key(
    node: Node,
) -> None:
    body = _captured(node)
    grant = node.join(body)
    certificate = x509.load_pem_x509_certificate(grant["certificate_pem"].encode())
    request = x509.load_pem_x509_csr(body["request_pem"].encode())
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert certificate.public_key().public_bytes(*spki) == request.public_key().public_bytes(*spki)
    assert b"PRIVATE" not in base64.b64decode(grant["ca_key_sealed"])


def test_join_refused_is_one_message_whatever_the_reason_and_the_log_has_it(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    lost, kept = node.invite("n2"), node.invite("n2")
    late = node.invite("late", ttl_s=60)
    used = node.invite("used")
    node.join(node.body(used.secret, "used"))
    node.cluster.now_ms += 61_000
    bodies = {
        "other key": node.body(lost.secret, "n2"),
        "unknown": node.body(kept.secret, "n9"),
        "expired": node.body(late.secret, "late"),
        "used": node.body(used.secret, "used"),
        "forged": {**node.body(kept.secret, "n2"), "signature": "A" * 86 + "=="},
    }
    messages = set()
    for body in bodies.values():
        with pytest.raises(InvitationRejected) as caught:
            node.join(body)
        messages.add(caught.value.message)
    assert len(messages) == 1
    assert [record.__dict__["reason"] for record in caplog.records] == list(bodies)
    assert node.join(node.body(kept.secret, "n2"))["name"] == "n2"


def test_join_of_a_removed_member_is_rejected_and_the_log_says_why(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    body = _captured(node)
    node.join(body)
    asyncio.run(node.cluster.apply("members", "remove", {"name": "n2"}, request_id=None, timeout_s=1.0))
    with pytest.raises(InvitationRejected):
        node.join(body)
    assert [record.__dict__["reason"] for record in caplog.records] == ["removed"]


def test_join_without_an_invitation_reaches_the_cluster_a_few_times_a_second(node: Node) -> None:
    stranger = node.body(join_token.new_secret(), "n2")
    token = node.invite("n3")

    def flood(seconds: float) -> int:
        refused = 0
        for _ in range(200):
            node.clock += seconds / 200
            with pytest.raises((InvitationRejected, Overloaded)) as caught:
                node.join(stranger)
            refused += isinstance(caught.value, InvitationRejected)
        return refused

    before = node.cluster.index
    assert flood(10.0) <= 5 + 2 * 10
    assert node.cluster.barriers <= 25
    assert node.cluster.index == before
    # Who has an invitation is not kept waiting by it.
    assert node.join(node.body(token.secret, "n3"))["name"] == "n3"


def test_join_of_a_request_that_is_wrong_but_signed_is_invalid_and_leaves_the_token_good(node: Node) -> None:
    token = node.invite()
    other = make_request("n5", ID)
    wrong = node.body(token.secret, "n2", request_pem=other.request_pem, sealing_key=other.sealing_key)
    with pytest.raises(InvalidInput):
        node.join(wrong)
    with pytest.raises(InvalidInput):
        node.join({**wrong, "request_pem": "-----BEGIN CERTIFICATE REQUEST-----\n"})
    assert node.join(node.body(token.secret, "n2"))["name"] == "n2"


def test_join_at_a_node_without_the_ca_key_is_passed_on_until_a_holder_admits_it(
    node: Node, files: Files
) -> None:
    learner = Node(files, node.cluster, "n9", ca_key=False)
    learner.answers = {"n1": ConfigError("no CA key here"), "n3": node}
    token = node.invite()
    body = node.body(token.secret, "n2")
    assert learner.join(body)["ca_key_sealed"] is not None
    assert learner.asked == [("n1", "join"), ("n3", "join")]
    learner.answers = {"n1": NoLeader("none"), "n3": ConfigError("no CA key here")}
    with pytest.raises(ConfigError):
        learner.join(body)
    learner.status = SimpleNamespace(leader=None, voters=())
    with pytest.raises(ConfigError, match="another voter"):
        learner.join(body)
    with pytest.raises(ConfigError):
        learner.join(body, passed_on=True)


def test_join_passed_on_is_judged_again_by_who_issues_the_certificate(node: Node) -> None:
    """A learner's key may pass on anything: what is not signed by the token's holder is refused there."""
    body = _captured(node)
    for how, forge in _forgeries().items():
        node.clock += 10.0
        with pytest.raises(InvitationRejected):
            node.join(forge(body), passed_on=True)
        assert node.cluster.machine.members.get("n2") is None, how


def test_join_with_a_token_of_another_ca_is_refused_before_the_invitation_is_used(node: Node) -> None:
    """The CA was exchanged since: the joiner could not accept what it would get."""
    token = node.invite()
    before = node.cluster.index
    with pytest.raises(Conflict, match="member invite --name n2"):
        node.join(node.body(token.secret, "n2", ca_sha256="d" * 64))
    with pytest.raises(InvitationRejected):
        node.join({**node.body(token.secret, "n2"), "ca_sha256": "d" * 64})
    node.clock += 10.0
    assert node.cluster.index == before
    assert node.join(node.body(token.secret, "n2"))["name"] == "n2"


def test_join_again_and_again_by_the_holder_of_a_token_is_bounded(node: Node) -> None:
    body = node.body(node.invite().secret, "n2")
    for _ in range(20):
        node.join(body)
    with pytest.raises(Overloaded):
        node.join(body)
    node.clock += 1.0
    assert node.join(body)["name"] == "n2"


def test_invitations_tell_their_state_and_no_secret(node: Node) -> None:
    node.join(node.body(node.invite("used").secret, "used"))
    node.invite("late", ttl_s=60)
    node.cluster.now_ms += 61_000
    token = node.invite("new", role="learner")
    old = {
        "name": "old",
        "learner": False,
        "secret_sha256": "a" * 64,
        "expires_unix_ms": node.cluster.now_ms + 5_000,
    }
    asyncio.run(node.cluster.apply("members", "invite", old, request_id=None, timeout_s=1.0))
    rows = node.invitations()
    assert [(row["name"], row["learner"], row["state"]) for row in rows] == [
        ("new", True, "open"),
        ("old", False, "outdated"),
        ("used", False, "used"),
    ]
    assert [row["created_at"] is None for row in rows] == [False, True, False]
    assert token.secret not in str(rows)
    node.cluster.now_ms += 3_600_001
    assert [row["state"] for row in node.invitations()] == ["expired", "expired", "used"]


def test_uninvite_makes_the_token_worthless(node: Node) -> None:
    token = node.invite()
    done = asyncio.run(node.service.uninvite("n2", request_id=None, timeout_s=1.0))
    assert done == {"name": "n2", "uninvited": True}
    with pytest.raises(InvitationRejected):
        node.join(node.body(token.secret, "n2"))
    with pytest.raises(NotFound):
        asyncio.run(node.service.uninvite("n2", request_id=None, timeout_s=1.0))


def test_allowance_gives_its_burst_and_then_its_rate() -> None:
    now = [0.0]
    allowance = Allowance(2.0, 3, lambda: now[0])
    assert [allowance.take() for _ in range(4)] == [True, True, True, False]
    now[0] = 0.5
    assert [allowance.take() for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert [allowance.take() for _ in range(4)] == [True, True, True, False]
