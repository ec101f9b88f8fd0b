"""Sessions across nodes: what was taken away does not come back, whatever happens to the cluster."""

from __future__ import annotations

import json
import threading
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import Conflict, CyoloctlError, TokenRejected, Unavailable, Unreachable
from tests.support.cluster import Cluster, Node, assert_refused, run, wait_until
from tests.support.tokens import assert_rejected, call, inspect, mint, refresh, rejected, update, wait_keys

pytestmark = pytest.mark.cluster

REJECTED_LINE = '{"schema_version":1,"valid":false,"code":"token_rejected"}'


@pytest.fixture
def nodes(shared: Cluster) -> list[Node]:
    """Three running nodes that hold the keys."""
    wait_keys(shared)
    return [shared["n1"], shared["n2"], shared["n3"]]


# --- one session on three nodes -----------------------------------------------------------------


def test_session_minted_here_opens_there_and_its_update_elsewhere_refuses_the_older_copy_on_all(
    nodes: list[Node],
) -> None:
    one, two, three = nodes
    minted = call(one, "token_mint", sub="zoë", claims={"groups": ["ops"], "mfa": True}, ttl_s=600)
    opened = inspect(two, minted["token"])
    assert opened == {name: value for name, value in minted.items() if name != "token"}
    assert list(opened) == [
        "schema_version", "valid", "sub", "sid", "gen", "issued_at", "expires_at", "max_expires_at",
        "key_id", "claims",
    ]  # fmt: skip
    assert (opened["gen"], opened["claims"]) == (1, {"groups": ["ops"], "mfa": True})
    after = update(three, minted["token"], set={"mfa": False}, unset=["groups"])
    assert (after["gen"], after["claims"], after["sid"]) == (2, {"mfa": False}, minted["sid"])
    assert after["max_expires_at"] == minted["max_expires_at"]
    assert_rejected(nodes, minted["token"])
    for node in nodes:
        # Without asking anybody, too, as soon as the update has reached this node.
        wait_until(
            f"{node.name} refusing by its own copy",
            lambda node=node: rejected(node, "token_inspect", token=minted["token"]),  # type: ignore[misc]
        )
        assert inspect(node, after["token"])["claims"] == {"mfa": False}


def test_update_with_keep_previous_lets_both_copies_live(nodes: list[Node]) -> None:
    token = mint(nodes[0])
    after = update(nodes[1], token, set={"page": 2}, keep_previous=True)
    assert after["gen"] == 2
    for node in nodes:
        assert inspect(node, token)["gen"] == 1
        assert inspect(node, after["token"])["claims"] == {"page": 2}


def test_concurrent_updates_of_one_token_have_one_winner(nodes: list[Node]) -> None:
    token = mint(nodes[0])
    won: list[str] = []
    lost: list[BaseException] = []
    begin = threading.Barrier(9)

    def change(number: int) -> None:
        begin.wait()
        try:
            won.append(update(nodes[number % 3], token, set={"by": number})["token"])
        except CyoloctlError as error:
            lost.append(error)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(won) == 1
    assert {type(error) for error in lost} == {TokenRejected}
    assert len(lost) == 8
    assert inspect(nodes[1], won[0])["gen"] == 2
    assert_rejected(nodes[:1], token)


def test_update_repeated_with_its_request_id_gives_a_good_token_once_only(nodes: list[Node]) -> None:
    token, other = mint(nodes[0]), mint(nodes[0])
    request = {"set": {"mfa": False}, "request_id": f"retry-{token[-12:]}"}
    first = update(nodes[0], token, **request)
    again = update(nodes[1], token, **request)
    assert (again["gen"], again["claims"], again["sid"]) == (2, {"mfa": False}, first["sid"])
    for made in (first, again):
        assert inspect(nodes[2], made["token"])["gen"] == 2
    with pytest.raises(Conflict, match="request id"):
        update(nodes[2], other, **request)
    assert inspect(nodes[2], other)["gen"] == 1
    # Once the session has gone on, the repetition gives nothing that would be refused.
    update(nodes[2], again["token"], set={"mfa": True})
    wait_until("the repetition refused", lambda: rejected(nodes[0], "token_update", token=token, **request))


# --- revocation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["token", "sid", "sub"])
def test_revoke_ends_a_session_and_its_copies_on_all_nodes(nodes: list[Node], by: str) -> None:
    token = mint(nodes[0], f"revoked by {by}")
    session = inspect(nodes[0], token)
    fresh = refresh(nodes[1], token, ttl_s=1800)
    later = update(nodes[1], token, set={"x": 1}, keep_previous=True)["token"]
    assert fresh["gen"] == 1
    value = token if by == "token" else session[by]
    answer = call(nodes[2], "token_revoke", **{by: value})
    assert set(answer) == {
        "schema_version", "kind", "value", "minimum_gen", "issued_before", "expires_at",
    }  # fmt: skip
    assert answer["kind"] == ("sub" if by == "sub" else "sid")
    assert_rejected(nodes, token, fresh["token"], later)
    assert call(nodes[0], "token_revoke", **{by: value})["value"] == answer["value"]
    listed = json.loads(nodes[1].cli("token", "revocations", "-o", "json").stdout)["revocations"]
    assert [row["value"] for row in listed].count(answer["value"]) == 1
    # Across a rotation: the copies are under the old key, and no refresh carries one over.
    old = session["key_id"]
    assert call(nodes[1], "key_rotate", timeout_s=30)["key_id"] != old
    assert_rejected(nodes, token, fresh["token"], later)


@pytest.mark.parametrize("by", ["token", "sid", "sub"])
def test_revoke_repeated_with_its_request_id_a_second_later_gives_the_first_result(
    nodes: list[Node], by: str
) -> None:
    token = mint(nodes[0], f"revoked once by {by}")
    value = token if by == "token" else inspect(nodes[0], token)[by]
    request = {by: value, "request_id": f"revoke-{token[-12:]}"}
    first = call(nodes[0], "token_revoke", **request)
    until = int(time.time()) + 1
    wait_until("another second", lambda: time.time() > until)
    later = mint(nodes[1], f"revoked once by {by}")
    assert call(nodes[1], "token_revoke", **request) == first
    # It did not apply again.
    assert inspect(nodes[2], later)["gen"] == 1
    with pytest.raises(Conflict, match="request id"):
        call(nodes[2], "token_revoke", sub="somebody else", request_id=request["request_id"])


def test_login_right_after_revoke_of_the_subject_is_a_good_session_everywhere(nodes: list[Node]) -> None:
    before = [mint(node, "logs in again") for node in nodes]
    call(nodes[0], "token_revoke", sub="logs in again")
    inspect(nodes[1], mint(nodes[0], "somebody else"))  # a majority's word: n2 knows the revocation
    for node in nodes[:2]:
        token = mint(node, "logs in again")
        for other in nodes:
            assert inspect(other, token)["sub"] == "logs in again"
    assert_rejected(nodes, *before)


def test_revoke_of_a_subject_in_another_normal_form_is_the_same_subject(nodes: list[Node]) -> None:
    token = mint(nodes[0], unicodedata.normalize("NFC", "André"))
    call(nodes[1], "token_revoke", sub=unicodedata.normalize("NFD", "André"))
    assert_rejected(nodes, token)


def test_revoke_refuses_what_is_ambiguous_or_no_token(nodes: list[Node]) -> None:
    node = nodes[0]
    assert_refused(node.cli("token", "revoke", "--sid", "A" * 22, "--sub", "zoe"), 2, "one of")
    assert_refused(node.cli("token", "revoke", "--sid", "short"), 65, "sid")
    assert_refused(node.cli("token", "revoke", "-", stdin="VAH8nonsense"), 77, "token rejected")


def test_refresh_moves_the_expiry_to_the_primary_key_and_never_past_the_end(nodes: list[Node]) -> None:
    token = mint(nodes[0], ttl_s=60, max_age_s=120)
    before = inspect(nodes[0], token)
    primary = call(nodes[1], "key_rotate", timeout_s=30)["key_id"]
    after = refresh(nodes[2], token, ttl_s=9000)
    assert after["key_id"] == primary != before["key_id"]
    assert after["expires_at"] == after["max_expires_at"] == before["max_expires_at"]
    assert (after["gen"], after["issued_at"]) == (1, before["issued_at"])
    for node in nodes:
        assert inspect(node, token)["sid"] == inspect(node, after["token"])["sid"]


# --- restarts, snapshots, lost quorum -----------------------------------------------------------


def _taken_away(cluster: Cluster) -> tuple[list[str], list[str]]:
    """Tokens that must be refused from now on, and tokens that are good."""
    one, two, three = (cluster[name] for name in ("n1", "n2", "n3"))
    old, of_sid, of_sub = mint(one, "kept"), mint(two, "by sid"), mint(three, "by sub")
    good = update(two, old, set={"mfa": False})["token"]
    call(one, "token_revoke", token=of_sid)
    call(two, "token_revoke", sub="by sub")
    return [old, of_sid, of_sub], [good]


def test_older_copies_stay_refused_when_all_nodes_were_killed_and_no_leader_is_heard_yet(
    cluster: Cluster,
) -> None:
    wait_keys(cluster)
    bad, good = _taken_away(cluster)
    for node in cluster.nodes.values():
        node.kill()
    first = cluster["n1"]
    first.start()
    for token in (*bad, *good):
        # Alone it cannot know how much of its own log is committed: it does not guess.
        with pytest.raises(Unavailable):
            call(first, "token_inspect", token=token, timeout_s=0.5)
        with pytest.raises(Unavailable):
            call(first, "token_refresh", token=token, timeout_s=0.5)
    assert first.cli("token", "inspect", "--timeout", "0.5", stdin=bad[0]).returncode == 75
    cluster["n2"].launch()
    cluster["n3"].launch()
    pending = {(name, token) for name in cluster.nodes for token in bad}

    def refused_everywhere() -> bool:
        for name, token in sorted(pending):
            try:
                call(cluster[name], "token_inspect", token=token, timeout_s=0.3)
            except TokenRejected:
                pending.discard((name, token))
            except (Unavailable, Unreachable):
                pass  # not applied, and never accepted
            else:
                raise AssertionError(f"{name} accepted a token whose privileges were taken away")
        return not pending

    wait_until("every node refusing", refused_everywhere)
    assert_rejected(cluster.nodes.values(), *bad)
    for node in cluster.nodes.values():
        assert inspect(node, good[0])["claims"] == {"mfa": False}


def test_older_copies_stay_refused_from_a_snapshot_and_on_a_learner_that_begins_with_it(
    stopped: Cluster,
) -> None:
    for node in stopped.nodes.values():
        node.compacting(40)
    stopped.start_all()
    stopped.wait_healthy()
    wait_keys(stopped)
    bad, good = _taken_away(stopped)
    for _ in range(150):
        stopped.client().counters.incr("default", 1)
    for node in stopped.nodes.values():
        wait_until(f"a snapshot of {node.name}", lambda n=node: (n.directory / "snapshot").exists())  # type: ignore[misc]
    for node in stopped.nodes.values():  # not before all have one: the last would get no further entries
        node.kill()
    stopped.start_all()
    stopped.wait_leader()
    learner = stopped.join("l1", learner=True)
    wait_keys(stopped)
    everyone = list(stopped.nodes.values())
    assert_rejected(everyone, *bad)
    for node in everyone:
        assert inspect(node, good[0])["gen"] == 2
    # And the learner makes and changes sessions as any other node.
    token = mint(learner, "through the learner")
    after = update(learner, token, set={"x": 1})["token"]
    assert_rejected(everyone, token)
    assert inspect(stopped["n1"], after)["claims"] == {"x": 1}


def test_without_a_quorum_a_node_answers_by_what_it_knows_unless_asked_for_the_quorum(
    cluster: Cluster,
) -> None:
    wait_keys(cluster)
    bad, good = _taken_away(cluster)
    for node in cluster.nodes.values():
        assert_rejected([node], *bad)  # every node has judged with a majority once
    node, *others = (cluster[name] for name in ("n1", "n2", "n3"))
    for other in others:
        other.kill()
    shown = node.cli("token", "inspect", "-o", "json", stdin=good[0])
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["claims"] == {"mfa": False}
    for token in bad:
        assert_refused(node.cli("token", "inspect", stdin=token), 77, "token rejected")
    assert_refused(node.cli("token", "inspect", "--require-quorum", "--timeout", "1", stdin=good[0]), 75)
    assert refresh(node, good[0], require_quorum=False)["gen"] == 2
    assert refresh(node, mint(node, "made without a quorum"), require_quorum=False)["gen"] == 1
    # What must be known everywhere cannot be done here: not applied, or nobody knows.
    assert node.cli("token", "update", "--timeout", "1", stdin=good[0]).returncode in (75, 80)
    assert node.cli("token", "revoke", "--sub", "x", "--timeout", "1").returncode in (75, 80)


def test_memory_cluster_carries_sessions_and_a_restarted_member_learns_what_is_refused(
    tmp_path: Path,
) -> None:
    with Cluster(tmp_path) as cluster:
        one = cluster.init("n1", "--storage", "memory")
        two = cluster.join("n2")
        cluster.join("n3")
        cluster.wait_settled(voters=3)
        wait_keys(cluster)
        token = mint(one)
        after = update(two, token, set={"x": 1})["token"]
        two.kill()
        two.start()
        wait_until("n2 with the keys", lambda: inspect(two, after)["gen"] == 2)
        assert_rejected([one, two], token)


# --- clocks -------------------------------------------------------------------------------------


def test_clock_set_back_makes_no_session_longer_and_ends_none(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        node = cluster.new_node("n1")
        node.step_clock(0)
        made = node.cli("cluster", "init", "--name", "n1", "--listen", node.address)
        assert made.returncode == 0, made.stderr
        node.start()
        wait_keys(cluster)
        token = mint(node)

        def told() -> bool:
            problems = node.client().status()["problems"]
            return any(found["code"] == "clock" and found["member"] == "n1" for found in problems)

        node.step_clock(-9 * 86_400)
        wait_until("the running node telling of its clock", told)
        issued = inspect(node, token)["issued_at"]
        assert node.client().status()["cluster"]["time"] >= issued
        assert inspect(node, mint(node))["issued_at"] >= issued
        checked = node.cli("status", "--check")
        assert checked.returncode == 4
        assert "clock of n1" in checked.stderr
        assert node.terminate() == 0
        node.start()
        wait_keys(cluster)
        assert inspect(node, token)["gen"] == 1
        assert inspect(node, mint(node))["issued_at"] >= issued


def test_revoke_of_a_subject_reaches_sessions_made_by_a_clock_that_is_ahead(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        one = cluster.init("n1")
        invitation = cluster.invite("n2")
        two = cluster.new_node("n2")
        joined = two.cli(
            "node", "join", "--name", "n2", "--listen", two.address, "--token-file", "-", stdin=invitation
        )
        assert joined.returncode == 0, joined.stderr
        two.step_clock(3)
        two.start()
        cluster.wait_settled(voters=2)
        wait_keys(cluster)
        token = mint(two)
        call(one, "token_revoke", sub="zoe")
        assert_rejected([one, two], token)
        for node in (one, two):
            assert inspect(one, mint(node))["sub"] == "zoe"


# --- the command line ---------------------------------------------------------------------------


def test_token_commands_print_the_bare_token_and_the_contracts_json(nodes: list[Node]) -> None:
    node = nodes[0]
    minted = node.cli("token", "mint", "--sub", "zoe", "--claim", "mfa=true", "--claim", "team=ops")
    assert minted.returncode == 0, minted.stderr
    token = minted.stdout.removesuffix("\n")
    assert token.startswith("VAH8")
    assert "\n" not in token
    shown = json.loads(node.cli("token", "inspect", "-o", "json", stdin=minted.stdout).stdout)
    assert list(shown) == [
        "schema_version", "valid", "sub", "sid", "gen", "issued_at", "expires_at", "max_expires_at",
        "key_id", "claims",
    ]  # fmt: skip
    assert (shown["valid"], shown["claims"]) == (True, {"mfa": True, "team": "ops"})
    assert json.loads(node.cli("token", "inspect", token, "-o", "json").stdout) == shown
    updated = nodes[1].cli("token", "update", "-", "--set", "mfa=false", "--unset", "team", stdin=token)
    assert updated.returncode == 0
    refreshed = nodes[2].cli("token", "refresh", stdin=updated.stdout)
    assert json.loads(node.cli("token", "inspect", "-o", "json", stdin=refreshed.stdout).stdout)[
        "claims"
    ] == {"mfa": False}
    revoked = node.cli("token", "revoke", "-", stdin=refreshed.stdout)
    assert revoked.stdout == shown["sid"] + "\n"


def _turned(token: str) -> str:
    """The token with its last character but ten replaced."""
    return token[:-10] + ("A" if token[-10] != "A" else "B") + token[-9:]


def test_every_rejected_token_has_one_message_and_status_77(nodes: list[Node]) -> None:
    node = nodes[0]
    token, dead = mint(node), mint(node, "dead")
    call(node, "token_revoke", token=dead)
    inputs = {
        "altered": _turned(token), "cut": token[:-4], "doubled": token + token, "empty": "",
        "padded": token + "=", "spaces": f" {token} ", "revoked": dead, "nul": token + "\0",
        "cyrillic": token.replace("A", "\u0410", 1), "latin": "\xed\xb3\xbf",
        "unknown key": "VAH8" + "AAAA" + token[8:], "two lines": f"{token}\n{token}\n",
        "10 MB": "A" * 10_000_000,
    }  # fmt: skip
    seen = {name: node.cli("token", "inspect", stdin=text) for name, text in inputs.items()}
    seen["other cookie"] = node.cli("token", "inspect", "--cookie-name", "other", stdin=token)
    seen["other audience"] = node.cli("token", "inspect", "--audience", "host-1", stdin=token)
    seen["two sessions"] = node.cli(
        "token", "inspect", "--cookie", stdin=f"Cookie: cyolo-sid={token}; cyolo-sid={mint(node)}"
    )
    seen["no cookie"] = node.cli("token", "inspect", "--cookie", stdin=f"other={token}")
    seen["refresh"] = node.cli("token", "refresh", stdin=_turned(token))
    named = ("--request-id", "mine")  # without one, the command first says how its result is had again
    seen["update"] = node.cli("token", "update", "--set", "x=1", *named, stdin=_turned(token))
    for name, result in seen.items():
        assert (result.returncode, result.stdout) == (77, ""), (name, result)
        assert result.stderr == "error: token rejected\n", (name, result.stderr)
    explained = node.cli("token", "inspect", "--explain", stdin=dead)
    assert_refused(explained, 77, "revoked")


def test_cookie_header_gives_the_cookie_that_opens_and_refuses_two_sessions(nodes: list[Node]) -> None:
    token = mint(nodes[0])
    header = f"Cookie: theme=dark; cyolo-sid={token}; lang=de"
    shown = nodes[1].cli("token", "inspect", "--cookie", "-o", "json", stdin=header)
    assert json.loads(shown.stdout)["sub"] == "zoe"
    assert call(nodes[1], "token_inspect", cookie=header.removeprefix("Cookie: "))["sub"] == "zoe"
    for cookie in (f"cyolo-sid={token}; cyolo-sid={mint(nodes[0])}", "cyolo-sid=x; cyolo-sid=y", "", "a=b"):
        assert rejected(nodes[1], "token_inspect", cookie=cookie)
        assert rejected(nodes[1], "token_update", cookie=cookie)
    newer = call(nodes[1], "token_update", cookie=f"cyolo-sid=x; cyolo-sid={token}", set={"a": 1})["token"]
    for cookie in (f"cyolo-sid={newer}; cyolo-sid={newer}", f"cyolo-sid={token}; cyolo-sid={newer}"):
        assert call(nodes[1], "token_inspect", cookie=cookie)["claims"] == {"a": 1}
    revoked = nodes[1].cli("token", "revoke", "--cookie", stdin=f"cyolo-sid=x; cyolo-sid={newer}")
    assert revoked.returncode == 0, revoked.stderr
    assert rejected(nodes[1], "token_inspect", cookie=f"cyolo-sid={newer}; cyolo-sid=x")


def test_set_cookie_of_a_host_prefixed_name_keeps_the_rules_of_the_prefix(nodes: list[Node]) -> None:
    made = nodes[0].cli(
        "token", "mint", "--sub", "zoe", "--ttl", "10m", "--cookie-name", "__Host-sid", "--set-cookie"
    )
    line = made.stdout.removesuffix("\n")
    assert line.startswith("Set-Cookie: __Host-sid=VAH8")
    assert line.endswith("; Path=/; Max-Age=600; HttpOnly; Secure; SameSite=Lax")
    assert "Domain" not in line
    value = line.partition("=")[2].partition(";")[0]
    assert inspect(nodes[1], value, cookie_name="__Host-sid")["sub"] == "zoe"
    assert rejected(nodes[1], "token_inspect", token=value)
    refreshed = nodes[2].cli(
        "token", "refresh", "--cookie-name", "__Host-sid", "--set-cookie", "--ttl", "20m", stdin=value
    )
    assert "; Max-Age=1200; " in refreshed.stdout


def test_inspect_without_a_key_shows_form_only_and_is_no_acceptance(nodes: list[Node]) -> None:
    token = mint(nodes[0])
    shown = run("token", "inspect", "--no-key", "-o", "json", stdin=token)
    assert shown.returncode == 77
    document = json.loads(shown.stdout)
    assert (document["valid"], document["verified"], document["version"]) == (False, False, 1)
    assert document["key_id"] == inspect(nodes[0], token)["key_id"]


def test_token_bodies_that_no_session_can_have_are_invalid_input(nodes: list[Node]) -> None:
    node = nodes[0]
    assert_refused(node.cli("token", "mint", "--sub", ""), 65, "sub")
    assert_refused(node.cli("token", "mint", "--sub", "a\nb"), 65, "sub")
    assert_refused(node.cli("token", "mint", "--sub", "a", "--claim", "x=[NaN]"), 65, "JSON")
    assert_refused(node.cli("token", "mint", "--sub", "a", "--claim", "x=[1e999]"), 65, "JSON")
    assert_refused(node.cli("token", "mint", "--sub", "a", "--claim", 'x={"a":1,"a":2}'), 65, "JSON")
    assert_refused(node.cli("token", "mint", "--sub", "a", "--claims-file", "-", stdin='{"a":NaN}'), 65)
    assert_refused(node.cli("token", "mint", "--sub", "a", "--ttl", "2h", "--max-age", "1h"), 65, "live")
    assert_refused(node.cli("token", "mint", "--sub", "a", "--max-age", "30d"), 65, "--keep")
    large = node.cli("token", "mint", "--sub", "a", "--claim", "x=" + "y" * 3000)
    assert_refused(large, 65, "bytes over")


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "--batch", "--explain"),
        ("inspect", "--batch", "--cookie"),
        ("inspect", "--batch", "VAH8"),
        ("inspect", "--no-key", "--require-quorum"),
        ("inspect", "--passphrase-file", "x"),
        ("inspect", "--keyring", "x"),
        ("inspect", "--keyring", "x", "--passphrase-file", "y", "--require-quorum"),
        ("inspect", "--keyring", "x", "--passphrase-file", "-"),
        ("mint", "--batch", "--sub", "a"),
        ("mint",),
        ("update", "--batch", "--set", "a=b"),
        ("update", "--keyring", "x", "--passphrase-file", "y"),
        ("update", "--keyring", "x", "--passphrase-file", "y", "--keep-previous", "--request-id", "a"),
        ("refresh", "--batch", "--set-cookie"),
    ],
)
def test_options_that_would_be_ignored_are_a_usage_error(arguments: tuple[str, ...]) -> None:
    assert_refused(run("token", *arguments), 2)


# --- batches ------------------------------------------------------------------------------------


def _batch(node: Node, operation: str, lines: list[str], *options: object) -> tuple[int, list[str], str]:
    done = node.cli("token", operation, "--batch", *options, stdin="".join(line + "\n" for line in lines))
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_batch_answers_good_and_bad_lines_in_their_places(nodes: list[Node]) -> None:
    tokens = [mint(nodes[0], f"user {number}") for number in range(3)]
    lines = [tokens[0], "nonsense", "", tokens[1], "{", "\u00e9", "VAH8" * 30_000, f" {tokens[1]}", tokens[2]]
    status, out, errors = _batch(nodes[1], "inspect", lines)
    assert status == 77
    assert len(out) == len(lines)
    good = [number for number, line in enumerate(out) if line != REJECTED_LINE]
    assert good == [0, 3, 8]
    assert [json.loads(out[number])["sub"] for number in good] == ["user 0", "user 1", "user 2"]
    assert errors == "error: 6 of the lines were refused: each says so in its place\n"
    assert _batch(nodes[1], "inspect", tokens)[0] == 0
    assert _batch(nodes[1], "inspect", []) == (0, [], "")


def test_batch_mints_and_refuses_wrong_items_in_place_and_says_why_on_stderr(nodes: list[Node]) -> None:
    wrong = [
        "{", "[]", "null", "", '{"sub":5}', '{"sub":[]}', '{"claims":{}}', '{"sub":"a","claims":[1]}',
        '{"sub":"a","ttl_s":"5"}', '{"sub":"a","max_age_s":{}}', '{"sub":"a","ttl_s":true}',
        '{"sub":"a","what":1}', '{"sub":"a","claims":{"x":NaN}}', '{"sub":"a","claims":{"x":1e999}}',
        '{"sub":"a","sub":"b"}', '{"sub":"a","claims":{"x":1.5}}', '{"sub":"a\\u0000"}',
        '{"sub":"a","claims":' + '{"a":' * 300 + "1" + "}" * 300 + "}", '{"sub":"' + "a" * 70_000 + '"}',
    ]  # fmt: skip
    good = ['{"sub":"zo\u00eb","claims":{"mfa":true},"ttl_s":60,"max_age_s":120}', '{"sub":"b"}']
    status, out, errors = _batch(nodes[0], "mint", [good[0], *wrong, good[1]])
    assert status == 77
    assert len(out) == len(wrong) + 2
    assert out[1:-1] == [REJECTED_LINE] * len(wrong)
    for number in range(2, len(wrong) + 2):
        assert f"item {number}: " in errors
    first = json.loads(out[0])
    assert (first["sub"], first["claims"]) == ("zo\u00eb", {"mfa": True})
    assert inspect(nodes[2], first["token"])["expires_at"] == first["expires_at"]
    assert inspect(nodes[1], json.loads(out[-1])["token"])["sub"] == "b"


def test_batch_of_updates_refuses_the_older_copies_and_lets_one_of_two_win(nodes: list[Node]) -> None:
    tokens = [mint(nodes[0], f"user {number}", claims={"mfa": True}) for number in range(3)]
    lines = [
        json.dumps({"token": tokens[0], "set": {"mfa": False}}),
        json.dumps({"token": tokens[1], "unset": ["mfa"]}),
        json.dumps({"token": tokens[1], "unset": ["mfa"]}),
        json.dumps({"token": "nonsense"}),
        json.dumps({"token": tokens[2], "set": [1]}),
        json.dumps({"token": tokens[2], "unset": [[]]}),
        json.dumps({"set": {}}),
    ]
    status, out, _ = _batch(nodes[1], "update", lines)
    assert status == 77
    results = [json.loads(line) for line in out]
    assert results[0]["claims"] == {"mfa": False}
    assert sorted(result["valid"] for result in results[1:3]) == [False, True]
    assert out[3:7] == [REJECTED_LINE] * 4
    assert_rejected(nodes[2:], tokens[0], tokens[1])
    assert inspect(nodes[2], tokens[2])["gen"] == 1


def test_batch_of_the_longest_tokens_fits_into_its_requests(nodes: list[Node]) -> None:
    item = json.dumps({"sub": "a", "claims": {"x": "\u00e9" * 1280, "y": [[]] * 20}}, ensure_ascii=False)
    status, minted, errors = _batch(nodes[0], "mint", [item] * 620)
    assert (status, len(minted)) == (0, 620), errors
    tokens = [json.loads(line)["token"] for line in minted]
    assert len(tokens[0]) > 3600
    status, out, errors = _batch(nodes[1], "inspect", tokens)
    assert (status, len(out)) == (0, 620), errors
    assert [json.loads(line)["sid"] for line in out] == [json.loads(line)["sid"] for line in minted]


def test_batch_with_a_refused_line_exits_77_also_when_another_is_unknown(cluster: Cluster) -> None:
    wait_keys(cluster)
    leader = cluster[cluster.wait_leader()]
    tokens = [mint(leader, f"user {number}") for number in range(2)]
    for name in cluster.followers():
        cluster[name].kill()
    lines = [json.dumps({"token": token}) for token in (*tokens, "nonsense")]
    status, out, errors = _batch(leader, "update", lines, "--timeout", "2")
    codes = [json.loads(line)["code"] for line in out]
    assert codes[2] == "token_rejected"
    assert set(codes[:2]) <= {"outcome_unknown", "no_leader"}
    assert status == 77, errors  # a refused line comes before an unknown outcome


# --- offline ------------------------------------------------------------------------------------


@pytest.fixture
def offline(nodes: list[Node], tmp_path: Path) -> Callable[..., Any]:
    """`cyoloctl token` with an exported ring and no node."""
    passphrase, ring = tmp_path / "passphrase", tmp_path / "ring"
    passphrase.write_text("correct horse battery st\u00e4ple\n")
    made = nodes[0].cli("key", "export", "--passphrase-file", passphrase, "--out", ring)
    assert made.returncode == 0, made.stderr
    assert ring.stat().st_mode & 0o077 == 0

    def token(*arguments: object, stdin: str = "") -> Any:
        return run(
            "token", *arguments, "--keyring", ring, "--passphrase-file", passphrase, stdin=stdin,
            CYOLOCTL_DATA_DIR=str(tmp_path / "nothing"),
        )  # fmt: skip

    return token


def test_exported_ring_mints_opens_and_changes_tokens_that_the_nodes_understand(
    nodes: list[Node], offline: Callable[..., Any], tmp_path: Path
) -> None:
    made = offline("mint", "--sub", "zoe", "--claim", "mfa=true")
    assert made.returncode == 0, made.stderr
    assert inspect(nodes[0], made.stdout.strip())["claims"] == {"mfa": True}
    token = mint(nodes[1], "ann", claims={"a": 1})
    shown = offline("inspect", "-o", "json", stdin=token)
    assert json.loads(shown.stdout) == inspect(nodes[1], token)
    fresh = offline("refresh", "--ttl", "1h", stdin=token).stdout.strip()
    assert inspect(nodes[2], fresh)["sub"] == "ann"
    changed = offline("update", "--keep-previous", "--set", "a=2", stdin=token).stdout.strip()
    assert inspect(nodes[2], changed)["claims"] == {"a": 2}
    batch = offline("mint", "--batch", stdin='{"sub":"a"}\nnonsense\n{"sub":[]}\n')
    assert batch.returncode == 77
    first, *others = batch.stdout.splitlines()
    assert inspect(nodes[0], json.loads(first)["token"])["sub"] == "a"
    assert others == [REJECTED_LINE] * 2
    online = _batch(nodes[0], "mint", ["nonsense", '{"sub":[]}'])[1]
    assert batch.stdout.splitlines()[1:] == online
    mixed = offline("inspect", "--batch", stdin=f"{token}\nnonsense\n")
    assert mixed.returncode == 77
    assert mixed.stdout.splitlines()[1] == REJECTED_LINE
    assert_refused(offline("inspect", stdin=_turned(token)), 77, "token rejected")
    assert_refused(offline("inspect", "--explain", stdin=_turned(token)), 77, "altered")
    wrong = tmp_path / "wrong"
    wrong.write_text("incorrect horse battery")
    refused = run("token", "inspect", "--keyring", tmp_path / "ring", "--passphrase-file", wrong, stdin=token)
    assert_refused(refused, 77, "passphrase")


# --- roles --------------------------------------------------------------------------------------


def test_viewer_may_list_revocations_and_keys_and_nothing_else(shared: Cluster, nodes: list[Node]) -> None:
    token = mint(nodes[0])
    endpoint = ("-e", f"https://{nodes[1].address}", "--credentials", shared.viewer())
    assert run("token", "revocations", *endpoint).returncode == 0
    assert run("key", "status", *endpoint).returncode == 0
    for arguments in (("token", "mint", "--sub", "a"), ("token", "inspect", token), ("key", "rotate")):
        assert_refused(run(*arguments, *endpoint), 77)
    operator = ("-e", f"https://{nodes[1].address}", "--credentials", shared.credentials())
    assert run("token", "inspect", token, *operator).returncode == 0
