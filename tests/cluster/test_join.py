"""Who is let in: join tokens that are right once, and everything that is wrong with others."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cyoloctl import pki
from cyoloctl.errors import InvitationRejected
from cyoloctl.machines import encode_command
from tests.support.cluster import (
    Cluster,
    Node,
    Peer,
    assert_refused,
    cluster_id_of,
    free_port,
    http_exchange,
    issue_node,
    run,
    tls_connect,
    wait_until,
)

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
    ours["n1"].client().counter_add("default", 1)


def _join(directory: Path, name: str, token: str) -> Any:
    return run(
        "node", "join", "-d", directory, "--name", name, "--listen", f"127.0.0.1:{free_port()}",
        "--token-file", "-", stdin=token,
    )  # fmt: skip


def _assert_not_joined(directory: Path, result: Any, status: int, *words: str) -> None:
    assert_refused(result, status, *words)
    assert not directory.exists(), "a refused join leaves nothing"


@pytest.mark.usefixtures("went_on")
def test_join_with_the_secret_of_another_cluster_is_rejected(
    ours: Cluster, theirs: Cluster, tmp_path: Path
) -> None:
    foreign = pki.decode_token(theirs.invite("n2"))
    good = pki.decode_token(ours.invite("n2"))
    mixed = pki.encode_token(dataclasses.replace(good, secret=foreign.secret))
    _assert_not_joined(tmp_path / "n2", _join(tmp_path / "n2", "n2", mixed), 77, "rejected", "member invite")


@pytest.mark.usefixtures("went_on")
def test_join_that_trusts_another_cluster_shows_us_no_secret(
    ours: Cluster, theirs: Cluster, tmp_path: Path
) -> None:
    foreign = pki.decode_token(theirs.invite("n2"))
    good = pki.decode_token(ours.invite("n2"))
    pointed = pki.encode_token(dataclasses.replace(foreign, secret=good.secret, addresses=good.addresses))
    # Our secret under their CA: had it been sent, it would be used up.
    _assert_not_joined(tmp_path / "n2", _join(tmp_path / "n2", "n2", pointed), 77, "another cluster")
    honest = ours["n1"].client().join(**_request(good.secret, "n2", good.cluster_id))
    assert honest["name"] == "n2"
    ours["n1"].client(30.0).member_remove("n2")


def _request(secret: str, name: str, cluster_id: str, **changes: Any) -> dict[str, Any]:
    pending = pki.make_request(name, cluster_id)
    body = {
        "name": name,
        "secret": secret,
        "request_pem": pending.request_pem,
        "sealing_key": pending.sealing_key,
        "address": "127.0.0.1:1",
    }
    return {**body, **changes}


@pytest.mark.usefixtures("went_on")
def test_join_with_a_token_of_another_name_is_rejected_and_leaves_the_token_good(
    ours: Cluster, tmp_path: Path
) -> None:
    token = ours.invite("right")
    _assert_not_joined(tmp_path / "wrong", _join(tmp_path / "wrong", "wrong", token), 77, "right", "wrong")
    decoded = pki.decode_token(token)
    with pytest.raises(InvitationRejected):
        ours["n1"].client().join(**_request(decoded.secret, "wrong", decoded.cluster_id))
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
    token = pki.decode_token(ours.invite("again"))
    body = _request(token.secret, "again", token.cluster_id)
    first, second = ours["n1"].client().join(**body), ours["n1"].client().join(**body)
    assert first["name"] == second["name"] == "again"
    ours["n1"].client(30.0).member_remove("again")


def test_join_with_an_expired_token_is_rejected(tmp_path: Path) -> None:
    with Cluster(tmp_path / "cluster") as cluster:
        (tmp_path / "cluster").mkdir()
        node = cluster.init("n1")
        token = cluster.invite("late", ttl_s=60)
        # The cluster's time is the highest that a proposer stamped: one whose clock is 61 s ahead
        # makes the token expire now.
        certificate = issue_node(node, "ahead", tmp_path / "keys")
        future = time.time_ns() // 1_000_000 + 61_000
        command = encode_command(
            "counter", "add", {"name": "clock", "by": 1},
            request_id="ahead", automatic=False, time_unix_ms=future,
        )  # fmt: skip
        with Peer(node, certificate) as peer:
            peer.hello("ahead", cluster_id_of(node))
            peer.wait_message("hello")
            peer.send({"type": "forward", "id": 1, "commands": [command]})
            assert peer.wait_message("forward_result")["error"] is None
        assert node.client().counter_get("clock")["value"] == 1
        _assert_not_joined(
            tmp_path / "late", _join(tmp_path / "late", "late", token), 77, "rejected", "expired"
        )
        assert [row["name"] for row in node.client().member_list()["members"]] == ["n1"]
        # A new invitation counts from the cluster's present time, and works.
        assert _join(tmp_path / "late", "late", cluster.invite("late", ttl_s=3600)).returncode == 0


def test_join_refusals_by_the_cluster_are_one_message_for_every_reason(ours: Cluster) -> None:
    node = ours["n1"]
    used = pki.decode_token(ours.invite("msg-used"))
    node.client().join(**_request(used.secret, "msg-used", used.cluster_id))
    other = pki.decode_token(ours.invite("msg-other"))
    bodies = [
        _request(pki.new_secret(), "msg-new", used.cluster_id),  # unknown
        _request(used.secret, "msg-used", used.cluster_id),  # used, by other keys
        _request(other.secret, "msg-new", used.cluster_id),  # of another name
    ]
    answers = []
    for body in bodies:
        connection = tls_connect(node.port, alpn=["http/1.1"])
        answers.append(http_exchange(connection, "POST", "/v1/join", json.dumps(body).encode()))
    assert answers[0][0] == 403
    assert answers[0][1]["error"]["code"] == "invitation_rejected"
    assert answers[1] == answers[0]
    assert answers[2] == answers[0]
    node.client(30.0).member_remove("msg-used")


@pytest.mark.usefixtures("went_on")
@pytest.mark.parametrize(
    "text",
    ["garbage", "cyolojoin1.", "cyolojoin1.e30", "cyolojoin1." + "A" * 4000, "cyolojoin2.e30", "\x00\x01"],
)
def test_join_with_a_garbage_token_is_refused_as_malformed(ours: Cluster, tmp_path: Path, text: str) -> None:
    _assert_not_joined(tmp_path / "n2", _join(tmp_path / "n2", "n2", text), 65, "token", "member invite")


@pytest.mark.usefixtures("went_on")
def test_join_with_a_truncated_token_is_refused_without_showing_it(ours: Cluster, tmp_path: Path) -> None:
    token = ours.invite("cut")
    result = _join(tmp_path / "cut", "cut", token[:-5])
    _assert_not_joined(tmp_path / "cut", result, 65)
    assert token[20:60] not in result.stderr
    assert pki.decode_token(token).secret not in result.stderr


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
    held = ours.invite("gone")
    assert _join(tmp_path / "first", "gone", token).returncode == 0
    assert ours["n1"].cli("member", "remove", "gone", "--yes").returncode == 0
    assert_refused(ours["n1"].cli("member", "invite", "--name", "gone"), 4, "gone", "never reused")
    # A token from before the removal is worth nothing any more.
    _assert_not_joined(tmp_path / "second", _join(tmp_path / "second", "gone", held), 77, "rejected")


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
