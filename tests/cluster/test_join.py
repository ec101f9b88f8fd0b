"""Admission: join tokens that are right once, and everything that is wrong with others."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cyoloctl.errors import InvalidInput
from cyoloctl.model import NodeName
from cyoloctl.pki import join_token
from cyoloctl.pki.ca import MAX_CERTIFICATE_DAYS
from cyoloctl.pki.requests import make_request
from cyoloctl.pki.seal import open_sealed
from cyoloctl.pki.x509 import certificate_expires_at
from tests.support.cluster import (
    Cluster,
    Node,
    assert_refused,
    free_port,
    run,
    wait_until,
)
from tests.support.connections import http_exchange, tls_connect
from tests.support.joining import join_body, sign_body

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One running node that invites and admits."""
    with Cluster(tmp_path_factory.mktemp("ours")) as cluster:
        cluster.init("n1")
        yield cluster


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Another cluster's only node, running."""
    with Cluster(tmp_path_factory.mktemp("theirs")) as cluster:
        cluster.init("n1")
        yield cluster


@pytest.fixture
def went_on(ours: Cluster) -> Iterator[None]:
    """After the test the admitting node runs, and its members are the same."""
    before = [row["name"] for row in ours["n1"].client().member_list()["members"]]
    yield
    assert ours["n1"].running()
    assert [row["name"] for row in ours["n1"].client().member_list()["members"]] == before
    ours["n1"].client().counters.incr("default", 1)


def _join(directory: Path, name: str, token: str) -> Any:
    """`node join`; again while the node has been asked too often for nodes that nobody invited."""

    def joined() -> Any:
        done = run(
            "node", "join", "-d", directory, "--name", name, "--listen", f"127.0.0.1:{free_port()}",
            "--token-file", "-", stdin=token,
        )  # fmt: skip
        return None if done.returncode == 75 else done

    return wait_until("an answer to the joiner", joined)


def _ask(node: Node, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The node's answer to a join of anybody, as in _join."""

    def answered() -> Any:
        connection = tls_connect(node.port, alpn=["http/1.1"])
        answer = http_exchange(connection, "POST", "/v1/join", json.dumps(body).encode())
        return None if answer[0] == 503 else answer

    answer: tuple[int, dict[str, Any]] = wait_until("an answer to a join", answered)
    return answer


def _assert_not_joined(directory: Path, result: Any, status: int, *words: str) -> None:
    assert_refused(result, status, *words)
    assert not directory.exists(), "a refused join leaves nothing"


@pytest.mark.usefixtures("went_on")
def test_join_with_the_secret_of_another_cluster_is_rejected(
    ours: Cluster, theirs: Cluster, tmp_path: Path
) -> None:
    foreign = join_token.decode_token(theirs.invite("n2"))
    good = join_token.decode_token(ours.invite("n2"))
    mixed = join_token.encode_token(dataclasses.replace(good, secret=foreign.secret))
    _assert_not_joined(tmp_path / "n2", _join(tmp_path / "n2", "n2", mixed), 77, "rejected", "member invite")


@pytest.mark.usefixtures("went_on")
def test_join_at_an_address_that_nobody_can_dial_or_that_is_a_members_leaves_the_token_good(
    ours: Cluster, tmp_path: Path
) -> None:
    token, directory = ours.invite("n2"), tmp_path / "n2"
    join = ("node", "join", "-d", directory, "--name", "n2", "--token-file", "-")
    for listen in ("0:7001", "[::0]:7001", "[::ffff:0.0.0.0]:7001"):
        _assert_not_joined(directory, run(*join, "--listen", listen, stdin=token), 65, "--advertise")
    taken = run(*join, "--listen", "0.0:7001", "--advertise", ours["n1"].address, stdin=token)
    _assert_not_joined(directory, taken, 4, ours["n1"].address, "member remove n1")
    assert [each["state"] for each in ours["n1"].json("member", "invitations")["invitations"]] == ["open"]
    assert ours["n1"].cli("member", "uninvite", "n2").returncode == 0


@pytest.mark.usefixtures("went_on")
def test_join_that_trusts_another_cluster_shows_us_no_secret(
    ours: Cluster, theirs: Cluster, tmp_path: Path
) -> None:
    foreign = join_token.decode_token(theirs.invite("n2"))
    good = join_token.decode_token(ours.invite("n2"))
    pointed = join_token.encode_token(dataclasses.replace(foreign, secret=good.secret, members=good.members))
    # Our secret under their CA.
    _assert_not_joined(tmp_path / "n2", _join(tmp_path / "n2", "n2", pointed), 77, "another cluster")
    honest = (
        ours["n1"]
        .client()
        .call("join", body=join_body(good.secret, "n2", good.cluster_id, good.ca_sha256), repeatable=True)
    )
    assert honest["name"] == "n2"
    ours["n1"].client(30.0).member_remove("n2")


@pytest.mark.usefixtures("went_on")
def test_join_with_a_token_of_another_name_is_rejected_and_leaves_the_token_good(
    ours: Cluster, tmp_path: Path
) -> None:
    token = ours.invite("right")
    _assert_not_joined(tmp_path / "wrong", _join(tmp_path / "wrong", "wrong", token), 77, "right", "wrong")
    decoded = join_token.decode_token(token)
    assert (
        _ask(ours["n1"], join_body(decoded.secret, "wrong", decoded.cluster_id, decoded.ca_sha256))[0] == 403
    )
    assert _join(tmp_path / "right", "right", token).returncode == 0
    ours["n1"].client(30.0).member_remove("right")


@pytest.mark.usefixtures("went_on")
def test_join_with_a_used_token_is_rejected(ours: Cluster, tmp_path: Path) -> None:
    token = ours.invite("once")
    assert _join(tmp_path / "first", "once", token).returncode == 0
    _assert_not_joined(tmp_path / "second", _join(tmp_path / "second", "once", token), 77, "rejected")
    ours["n1"].client(30.0).member_remove("once")


@pytest.mark.usefixtures("went_on")
def test_join_repeated_with_the_same_request_gets_the_same_admission(ours: Cluster) -> None:
    token = join_token.decode_token(ours.invite("again"))
    body = join_body(token.secret, "again", token.cluster_id, token.ca_sha256)
    first, second = (
        ours["n1"].client().call("join", body=body, repeatable=True),
        ours["n1"].client().call("join", body=body, repeatable=True),
    )
    assert first["name"] == second["name"] == "again"
    ours["n1"].client(30.0).member_remove("again")


def test_join_with_an_expired_token_is_rejected(tmp_path: Path) -> None:
    with Cluster(tmp_path / "cluster") as cluster:
        (tmp_path / "cluster").mkdir()
        node = cluster.new_node("n1")
        node.step_clock(0)
        made = node.cli("cluster", "init", "--name", "n1", "--listen", node.address)
        assert made.returncode == 0, made.stderr
        node.start()
        token = cluster.invite("late", ttl_s=60)
        assert _states(node) == {"late": "open"}
        node.step_clock(180)  # the cluster's only clock
        wait_until("the cluster's time past the expiry", lambda: _states(node) == {"late": "expired"})
        _assert_not_joined(
            tmp_path / "late", _join(tmp_path / "late", "late", token), 77, "rejected", "expired"
        )
        assert [row["name"] for row in node.client().member_list()["members"]] == ["n1"]
        # A new invitation counts from the cluster's present time, and works.
        assert _join(tmp_path / "late", "late", cluster.invite("late", ttl_s=3600)).returncode == 0


def _states(node: Node) -> dict[str, str]:
    """The state of each invitation, by name."""
    return {each["name"]: each["state"] for each in node.client().member_invitations()["invitations"]}


def test_join_refusals_by_the_cluster_are_one_message_for_every_reason(ours: Cluster) -> None:
    node = ours["n1"]
    used = join_token.decode_token(ours.invite("msg-used"))
    node.client().call(
        "join", body=join_body(used.secret, "msg-used", used.cluster_id, used.ca_sha256), repeatable=True
    )
    other = join_token.decode_token(ours.invite("msg-other"))
    good = join_body(other.secret, "msg-other", used.cluster_id, used.ca_sha256)
    bodies = [
        join_body(join_token.new_secret(), "msg-new", used.cluster_id),  # unknown
        join_body(join_token.new_secret(), "msg-other", used.cluster_id),  # of another secret
        {**good, "address": "127.0.0.1:2"},  # altered
        join_body(used.secret, "msg-used", used.cluster_id, used.ca_sha256),  # used, by other keys
        join_body(other.secret, "msg-new", used.cluster_id, used.ca_sha256),  # of another name
    ]
    answers = [_ask(node, body) for body in bodies]
    assert answers[0][0] == 403
    assert answers[0][1]["error"]["code"] == "invitation_rejected"
    assert all(answer == answers[0] for answer in answers)
    node.client(30.0).member_remove("msg-used")


@pytest.mark.usefixtures("went_on")
@pytest.mark.parametrize(
    "text",
    ["garbage", "cyolojoin2.", "cyolojoin2.e30", "cyolojoin2." + "A" * 4000, "cyolojoin1.e30", "\x00\x01"],
)
def test_join_with_a_garbage_token_is_refused_as_malformed(ours: Cluster, tmp_path: Path, text: str) -> None:
    _assert_not_joined(tmp_path / "n2", _join(tmp_path / "n2", "n2", text), 65, "token", "member invite")


@pytest.mark.usefixtures("went_on")
def test_join_with_a_truncated_token_is_refused_without_showing_it(ours: Cluster, tmp_path: Path) -> None:
    token = ours.invite("cut")
    result = _join(tmp_path / "cut", "cut", token[:-5])
    _assert_not_joined(tmp_path / "cut", result, 65)
    assert token[20:60] not in result.stderr
    assert join_token.decode_token(token).secret not in result.stderr


def test_join_with_an_empty_or_missing_token_file_is_refused_and_names_it(tmp_path: Path) -> None:
    empty = tmp_path / "empty.token"
    empty.write_text("\n")
    options = ["node", "join", "-d", tmp_path / "n2", "--name", "n2", "--listen", "127.0.0.1:1"]
    _assert_not_joined(tmp_path / "n2", run(*options, "--token-file", empty), 65, str(empty))
    missing = tmp_path / "missing.token"
    _assert_not_joined(tmp_path / "n2", run(*options, "--token-file", missing), 65, str(missing))


def test_join_when_nobody_answers_says_unreachable_and_the_token_works_later(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.init("n1")
        token = cluster.invite("n2")
        cluster["n1"].kill()
        directory = tmp_path / "n2"
        _assert_not_joined(directory, _join(directory, "n2", token), 69, cluster["n1"].address)
        cluster["n1"].start()
        assert _join(directory, "n2", token).returncode == 0


@pytest.mark.usefixtures("went_on")
def test_invite_of_a_taken_name_is_refused(ours: Cluster) -> None:
    assert_refused(ours["n1"].cli("member", "invite", "--name", "n1"), 4, "n1", "another name")


@pytest.mark.usefixtures("went_on")
def test_invite_of_a_removed_name_is_refused(ours: Cluster, tmp_path: Path) -> None:
    token = ours.invite("gone")
    assert _join(tmp_path / "first", "gone", token).returncode == 0
    assert ours["n1"].cli("member", "remove", "gone", "--yes").returncode == 0
    assert_refused(ours["n1"].cli("member", "invite", "--name", "gone"), 4, "gone", "never reused")
    # A token from before the removal is worth nothing now.
    _assert_not_joined(tmp_path / "second", _join(tmp_path / "second", "gone", token), 77, "rejected")


@pytest.mark.usefixtures("went_on")
@pytest.mark.parametrize(
    ("options", "status", "word"),
    [
        (["--name", "Upper"], 65, "Upper"),
        (["--name", "a" * 64], 65, "63"),
        (["--name", "n2", "--ttl", "59s"], 65, "--ttl"),
        (["--name", "n2", "--ttl", "8d"], 65, "--ttl"),
        (["--name", "n2", "--ttl", "soon"], 65, "--ttl"),
        ([], 2, "--name"),
    ],
)
def test_invite_with_wrong_options_is_refused(
    ours: Cluster, options: list[str], status: int, word: str
) -> None:
    assert_refused(ours["n1"].cli("member", "invite", *options), status, word)


def test_invite_to_a_file_keeps_it_private_and_never_overwrites(ours: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "token"
    result = ours["n1"].cli("member", "invite", "--name", "filed", "--out", path)
    assert result.returncode == 0
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert path.read_text().strip() not in result.stdout + result.stderr
    before = path.read_text()
    assert_refused(ours["n1"].cli("member", "invite", "--name", "filed", "--out", path), 4, str(path))
    assert path.read_text() == before


def test_join_into_a_used_directory_is_refused_before_the_token_is_spent(
    ours: Cluster, tmp_path: Path
) -> None:
    token = ours.invite("spare")
    used: Node = ours["n1"]
    result = _join(used.directory, "spare", token)
    assert_refused(result, 4, str(used.directory), "already holds a node")
    assert used.running()
    assert _join(tmp_path / "spare", "spare", token).returncode == 0
    used.client(30.0).member_remove("spare")
    wait_until(
        "the spare gone", lambda: "spare" not in [r["name"] for r in used.client().member_list()["members"]]
    )


@pytest.mark.usefixtures("went_on")
def test_second_invitation_for_a_name_makes_the_first_worthless(ours: Cluster, tmp_path: Path) -> None:
    lost, new = tmp_path / "lost", tmp_path / "new"
    node = ours["n1"]
    assert node.cli("member", "invite", "--name", "twice", "--ttl", "7d", "--out", lost).returncode == 0
    second = node.cli("member", "invite", "--name", "twice", "--out", new)
    assert second.returncode == 0
    assert "older invitation for twice" in second.stderr
    refused = _join(tmp_path / "thief", "twice", lost.read_text())
    _assert_not_joined(tmp_path / "thief", refused, 77, "rejected")
    assert _join(tmp_path / "twice", "twice", new.read_text()).returncode == 0
    node.client(30.0).member_remove("twice")


@pytest.mark.usefixtures("went_on")
def test_uninvite_makes_the_token_worthless_and_is_listed(ours: Cluster, tmp_path: Path) -> None:
    node = ours["n1"]
    token = ours.invite("unwanted")
    assert _states(node)["unwanted"] == "open"
    listed = node.cli("member", "invitations", "-o", "json")
    assert join_token.decode_token(token).secret not in listed.stdout
    assert {"unwanted"} <= {row["name"] for row in json.loads(listed.stdout)["invitations"]}
    assert node.cli("member", "uninvite", "unwanted").returncode == 0
    assert "unwanted" not in _states(node)
    _assert_not_joined(tmp_path / "n", _join(tmp_path / "n", "unwanted", token), 77, "rejected")
    assert_refused(node.cli("member", "uninvite", "unwanted"), 3, "unwanted", "member invitations")


@pytest.mark.usefixtures("went_on")
def test_uninvite_of_a_node_that_has_joined_is_refused_and_names_the_command(
    ours: Cluster, tmp_path: Path
) -> None:
    node = ours["n1"]
    assert _join(tmp_path / "in", "in", ours.invite("in")).returncode == 0
    assert _states(node)["in"] == "used"
    assert_refused(node.cli("member", "uninvite", "in"), 4, "member remove in")
    node.client(30.0).member_remove("in")
    assert "in" not in _states(node)


@pytest.mark.usefixtures("went_on")
def test_join_where_a_member_of_another_name_answers_is_refused(ours: Cluster, tmp_path: Path) -> None:
    good = join_token.decode_token(ours.invite("named"))
    renamed = dataclasses.replace(good, members=((NodeName("n7"), good.members[0][1]),))
    result = _join(tmp_path / "named", "named", join_token.encode_token(renamed))
    _assert_not_joined(tmp_path / "named", result, 77, "n1 answers there, not n7")
    # Another member that the token names is asked next.
    both = dataclasses.replace(good, members=((NodeName("n7"), good.members[0][1]), *good.members))
    assert _join(tmp_path / "named", "named", join_token.encode_token(both)).returncode == 0
    ours["n1"].client(30.0).member_remove("named")


@pytest.mark.usefixtures("went_on")
def test_join_overheard_admits_nobody_else_and_passed_on_it_admits_the_joiner(ours: Cluster) -> None:
    """The worst case: whoever listens is a member, so that the joiner sends everything to it."""
    node = ours["n1"]
    token = join_token.decode_token(ours.invite("heard"))
    heard = join_body(token.secret, "heard", token.cluster_id, token.ca_sha256)
    assert token.secret not in json.dumps(heard)
    own = make_request("heard", token.cluster_id)
    stolen = {**heard, "request_pem": own.request_pem, "sealing_key": own.sealing_key}
    for forged in (
        stolen,
        sign_body(Ed25519PrivateKey.generate(), stolen, token.cluster_id),
        {**heard, "address": "127.0.0.1:6"},
    ):
        assert _ask(node, forged)[1]["error"]["code"] == "invitation_rejected"
    status, grant = _ask(node, heard)
    assert status == 200
    with pytest.raises(InvalidInput):
        open_sealed(own.sealing_key_pem, grant["ca_key_sealed"], b"")
    assert _ask(node, stolen)[0] == 403
    node.client(30.0).member_remove("heard")
    assert _ask(node, heard)[0] == 403


@pytest.mark.usefixtures("went_on")
def test_join_without_an_invitation_writes_nothing_and_is_bounded(ours: Cluster) -> None:
    node = ours["n1"]
    stranger = json.dumps(join_body(join_token.new_secret(), "stranger", "f" * 32)).encode()
    seen: list[int] = []

    def wrote_its_first_entries() -> bool:
        seen.append(node.client().status()["cluster"]["commit_index"])
        return len(seen) > 20 and len(set(seen[-20:])) == 1

    wait_until("a node that writes nothing of its own any longer", wrote_its_first_entries)
    index = seen[-1]
    since = node.log_size()
    answers = [
        http_exchange(tls_connect(node.port, alpn=["http/1.1"]), "POST", "/v1/join", stranger)[0]
        for _ in range(60)
    ]
    assert set(answers) == {403, 503}
    told = [event for event in node.log_events(since) if event["event"] == "join refused"]
    assert len(told) <= answers.count(403) < 40
    assert node.client().status()["cluster"]["commit_index"] == index


@pytest.mark.usefixtures("went_on")
@pytest.mark.parametrize("offset_s", [400 * 86_400, -56 * 365 * 86_400], ids=["+400d", "1970"])
def test_join_with_a_wrong_clock_is_admitted_and_spoils_nothing(ours: Cluster, offset_s: int) -> None:
    name = "fast" if offset_s > 0 else "slow"
    joiner = ours.new_node(name)
    try:
        joiner.step_clock(offset_s)
        joined = joiner.cli(
            "node", "join", "--name", name, "--listen", joiner.address, "--token-file", "-",
            stdin=ours.invite(name, through="n1"),
        )  # fmt: skip
        assert joined.returncode == 0, joined.stderr
        # By the cluster's time, not by that of the joiner.
        end = certificate_expires_at((joiner.directory / "pki" / "node.crt").read_text())
        assert abs((end - datetime.now(UTC)).days - MAX_CERTIFICATE_DAYS) <= 1
        joiner.start()
        ours.wait_settled(voters=2)
        assert ours["n1"].cli("token", "mint", "--sub", "alice").returncode == 0
        token = join_token.decode_token(ours.invite("nobody", through=name))
        assert abs(token.expires_unix_s - time.time() - 3600) < 60
        ours["n1"].client(30.0).member_remove(name)
    finally:
        joiner.end()
        del ours.nodes[name]


def test_join_through_a_learner_is_admitted_by_a_voter(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.init("n1")
        learner = cluster.join("n2", learner=True)
        wait_until("the learner's state", lambda: len(learner.client().member_list()["members"]) == 2)
        token = join_token.decode_token(cluster.invite("n3", through="n1"))
        only = tuple(each for each in token.members if each[0] == "n2")
        assert len(only) == 1
        through = join_token.encode_token(dataclasses.replace(token, members=only))
        assert _join(tmp_path / "n3", "n3", through).returncode == 0
        assert (tmp_path / "n3" / "pki" / "ca.key").exists()
        assert not (learner.directory / "pki" / "ca.key").exists()


def test_node_that_was_removed_before_its_first_start_ends_with_4_and_says_so(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.form(2)
        joiner = cluster.new_node("n3")
        joined = joiner.cli(
            "node", "join", "--name", "n3", "--listen", joiner.address, "--token-file", "-",
            stdin=cluster.invite("n3"),
        )  # fmt: skip
        assert joined.returncode == 0, joined.stderr
        cluster["n1"].client(30.0).member_remove("n3")
        assert_refused(joiner.start_refused(), 4, "n3", "removed", "new name")
