"""The key ring across nodes: who holds what, how it changes hands, and what is refused."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, Node, assert_refused, wait_until
from tests.support.tokens import assert_rejected, call, inspect, mint, refresh, rejected, update, wait_keys

pytestmark = pytest.mark.cluster

PASSPHRASE = "correct horse battery staple"


def _keys(node: Node) -> dict[str, dict[str, object]]:
    return {row["key_id"]: row for row in node.client().call("key_list")["keys"]}


def _state(node: Node, key_id: str) -> object:
    return _keys(node)[key_id]["state"]


# --- what is shown ------------------------------------------------------------------------------


def test_key_status_shows_fingerprints_and_holders_and_agrees(shared: Cluster) -> None:
    primary = wait_keys(shared)
    seen = [node.json("key", "status") for node in shared.nodes.values()]
    assert seen[0] == seen[1] == seen[2]
    status = seen[0]
    assert list(status) == [
        *("schema_version", "agreed", "primary", "problems", "members", "keys", "sealed_values"),
    ]
    assert (status["agreed"], status["primary"], status["problems"]) == (True, primary, [])
    fingerprints = {member["keys"][primary] for member in status["members"]}
    assert fingerprints == {_keys(shared["n1"])[primary]["fingerprint"]}
    row = next(row for row in status["keys"] if row["key_id"] == primary)
    assert list(row) == [
        "key_id", "state", "cluster_id", "fingerprint", "created_at", "promoted_at", "retired_at",
        "holders", "missing", "compromised_by",
    ]  # fmt: skip
    assert (row["holders"], row["missing"], row["compromised_by"]) == (["n1", "n2", "n3"], [], [])
    shown = shared["n2"].cli("key", "status")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert primary in shown.stdout
    assert str(row["fingerprint"]) in shown.stdout


def test_rotate_and_generate_with_a_request_id_apply_once(shared: Cluster) -> None:
    before = wait_keys(shared)
    rotated = [node.cli("key", "rotate", "--request-id", "rotate-once") for node in shared.nodes.values()]
    assert [result.returncode for result in rotated] == [0, 0, 0]
    assert len({result.stdout for result in rotated}) == 1
    assert wait_keys(shared) == rotated[0].stdout.strip() != before
    assert _state(shared["n1"], before) == "enabled"
    made = {node.cli("key", "generate", "--request-id", "made").stdout for node in shared.nodes.values()}
    key_id = made.pop().strip()
    assert not made
    assert _state(shared["n2"], key_id) == "pending"
    # Made, and held by all when the command answers: it may be promoted at once.
    another = shared["n2"].json("key", "generate")
    assert (another["holders"], another["missing"]) == (["n1", "n2", "n3"], [])
    assert shared["n2"].cli("key", "destroy", another["key_id"], "--force", "--yes").returncode == 0
    # A rotation takes the key that waits already.
    assert shared["n3"].cli("key", "rotate").stdout.strip() == key_id


def test_primary_key_cannot_be_disabled_or_destroyed_and_a_retired_one_not_early(shared: Cluster) -> None:
    old = wait_keys(shared)
    node = shared["n2"]
    token = mint(node)
    for arguments in (("disable", old), ("disable", old, "--force"), ("destroy", old, "--force", "--yes")):
        assert_refused(node.cli("key", *arguments), 4, "primary")
    assert_refused(node.cli("key", "destroy", old), 2, "--yes")
    call(node, "key_rotate", timeout_s=30)
    for arguments in (("disable", old), ("destroy", old, "--yes")):
        assert_refused(node.cli("key", *arguments), 4, "may live until", "--force")
    nodes = list(shared.nodes.values())
    assert inspect(nodes[0], token)["key_id"] == old
    # Disabled: refused, and good again when enabled.
    assert node.cli("key", "disable", old, "--force").stdout.strip() == old
    wait_until("the key disabled", lambda: _state(nodes[0], old) == "disabled")
    assert_rejected(nodes, token)
    assert_refused(node.cli("key", "promote", old), 4, "disabled")
    assert node.cli("key", "enable", old).returncode == 0
    for other in nodes:
        assert inspect(other, token)["key_id"] == old
    # Destroyed: permanently.
    assert node.cli("key", "destroy", old, "--force", "--yes").returncode == 0
    assert_rejected(nodes, token)
    for command in ("enable", "promote"):
        assert_refused(node.cli("key", command, old), 4, "destroyed")
    assert node.cli("key", "destroy", old, "--yes").returncode == 0
    wait_keys(shared)
    assert_refused(node.cli("key", "promote", "fc000000"), 3, "no key")


def test_rewrap_seals_every_key_anew_and_everybody_holds_them_again(shared: Cluster) -> None:
    wait_keys(shared)
    token = mint(shared["n1"])
    before = _keys(shared["n1"]).keys()
    shown = shared["n2"].json("key", "rewrap")["keys"]
    live = [key for key in shown if key["state"] != "destroyed"]
    # Whoever is connected has opened its new blob when the command answers.
    assert [(key["holders"], key["missing"]) for key in live] == [(["n1", "n2", "n3"], [])] * len(live)
    wait_keys(shared)
    assert _keys(shared["n3"]).keys() == before
    for node in shared.nodes.values():
        assert inspect(node, token)["sub"] == "zoe"


def test_policy_is_shown_and_set_within_its_limits(shared: Cluster) -> None:
    node = shared["n1"]
    shown = node.json("key", "policy")
    assert shown == {"schema_version": 1, "rotate_every_s": None, "keep_s": 604_800}
    assert node.json("key", "policy", "--rotate-every", "24h")["rotate_every_s"] == 86_400
    assert node.json("key", "policy", "--keep", "14d") == {
        "schema_version": 1, "rotate_every_s": 86_400, "keep_s": 14 * 86_400,
    }  # fmt: skip
    assert_refused(node.cli("key", "policy", "--rotate-every", "59m"), 65, "--rotate-every")
    assert_refused(node.cli("key", "policy", "--rotate-every", "1h", "--keep", "366d"), 65, "keys")
    short = node.cli("key", "policy", "--rotate-every", "never", "--keep", "7h")
    assert short.returncode == 0
    assert "--max-age 7h" in short.stderr  # tokens of the default age of 8 h are refused from now on
    assert_refused(node.cli("token", "mint", "--sub", "zoe"), 65, "25200 s")
    assert node.cli("token", "mint", "--sub", "zoe", "--max-age", "7h").returncode == 0
    assert node.cli("key", "policy", "--keep", "8h").stderr == ""
    assert node.json("key", "policy", "--keep", "7d") == shown


# --- members come and go ------------------------------------------------------------------------


def test_member_that_joins_gets_the_ring_by_itself_and_one_that_is_removed_loses_it(
    stopped: Cluster,
) -> None:
    """Also from the journal, once it is compacted; `key status` warns until the keys are replaced."""
    for node in stopped.nodes.values():
        node.compacting(40)
    stopped.start_all()
    stopped.wait_healthy()
    wait_keys(stopped)
    token = mint(stopped["n1"])
    joined = stopped.join("n4", through="n2")
    joined.compacting(40)
    wait_until("the new member opening a token", lambda: inspect(joined, token)["sub"] == "zoe")
    key_id = wait_keys(stopped)
    assert inspect(stopped["n1"], mint(joined))["key_id"] == key_id
    blobs = _blobs(stopped["n1"], "n4")
    assert blobs, "the wrapped key is not where it is looked for"
    assert stopped["n1"].cli("member", "remove", "n4", "--yes").returncode == 0
    assert joined.wait_exit() == 4
    del stopped.nodes["n4"]
    warned = stopped["n2"].cli("key", "status")
    assert warned.returncode == 0, warned.stderr
    assert f"n4 was removed and knew {key_id}" in warned.stderr
    assert "key rotate" in warned.stderr
    assert stopped["n3"].json("key", "list")["keys"][0]["compromised_by"] == ["n4"]
    # Compaction frees pages of the file, later entries overwrite them: long ones take more of them.
    deadline = time.monotonic() + 90  # each node compacts when its own log is long enough
    while left := [node.name for node in stopped.nodes.values() if blobs & _blobs(node, "n4")]:
        assert time.monotonic() < deadline, f"the journals of {left} still hold the blobs"
        for _ in range(120):
            stopped.client().counters.incr("default", 1, request_id=secrets.token_hex(64))
    assert stopped["n1"].cli("key", "rotate").returncode == 0
    assert stopped["n1"].cli("key", "destroy", key_id, "--force", "--yes").returncode == 0
    assert stopped["n2"].cli("key", "status").stderr == ""
    assert_rejected(stopped.nodes.values(), token)


def _blobs(node: Node, name: str) -> set[bytes]:
    """Blobs sealed to a member in the files of a node: 80 bytes in base64, after its name."""
    found: set[bytes] = set()
    for path in [*node.directory.glob("raft.db*"), *node.directory.glob("snapshot*")]:
        data = path.read_bytes() if path.is_file() else b""
        found.update(re.findall(rb'"%b\\?":\\?"([A-Za-z0-9+/]{107}=)' % name.encode(), data))
    return found


def test_rotation_waits_for_a_member_that_is_down_and_the_repetition_finishes_it(cluster: Cluster) -> None:
    old = wait_keys(cluster)
    node, down = cluster[cluster.wait_leader()], cluster.followers()[0]
    cluster[down].kill()
    refused = node.cli("key", "rotate", "--timeout", "2")
    assert_refused(refused, 75, down, "pending", "repeat")
    pending = [key_id for key_id, row in _keys(node).items() if row["state"] == "pending"]
    assert len(pending) == 1
    assert inspect(node, mint(node))["key_id"] == old
    assert_refused(node.cli("key", "promote", pending[0]), 4, down)
    lacking = node.cli("key", "status")
    assert lacking.returncode == 4
    assert f"{down} cannot open {pending[0]}" in lacking.stderr
    cluster[down].start()
    assert node.cli("key", "rotate").stdout.strip() == pending[0]
    assert wait_keys(cluster) == pending[0]
    assert inspect(cluster[down], mint(cluster[down]))["key_id"] == pending[0]


def test_rotation_after_a_removal_never_ends_at_a_key_that_the_removed_member_knew(cluster: Cluster) -> None:
    wait_keys(cluster)
    leader = cluster[cluster.wait_leader()]
    gone = cluster.followers()[0]
    known = leader.cli("key", "generate").stdout.strip()
    wait_keys(cluster)
    assert leader.cli("member", "remove", gone, "--yes").returncode == 0
    cluster[gone].wait_exit()
    del cluster.nodes[gone]
    assert _keys(leader)[known]["compromised_by"] == [gone]
    rotated = leader.cli("key", "rotate")
    assert rotated.returncode == 0, rotated.stderr
    assert rotated.stdout.strip() != known
    assert _keys(leader)[rotated.stdout.strip()]["compromised_by"] == []
    assert _state(leader, known) == "pending"
    # It was never used: it may go at once.
    assert leader.cli("key", "destroy", known, "--yes").returncode == 0


# --- time ---------------------------------------------------------------------------------------


def test_policy_rotates_by_the_leaders_clock_and_destroys_what_has_served_its_time(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        node = cluster.new_node("n1")
        node.step_clock(0)
        made = node.cli("cluster", "init", "--name", "n1", "--listen", node.address)
        assert made.returncode == 0, made.stderr
        node.start()
        first = wait_keys(cluster)
        assert node.cli("key", "policy", "--rotate-every", "1h", "--keep", "2h").returncode == 0

        def rotated(before: str) -> str:
            return wait_until("a rotation", lambda: new if (new := wait_keys(cluster)) != before else "")

        node.step_clock(3_700)
        second = rotated(first)
        token = mint(node, max_age_s=7_200, ttl_s=7_200)
        assert inspect(node, token)["key_id"] == second
        node.step_clock(7_400)
        third = rotated(second)
        assert _state(node, second) == "enabled"
        assert refresh(node, token)["key_id"] == third
        # A key's last token can be good until two hours after its rotation, and a minute for clocks.
        node.step_clock(7_400 + 7_300)
        wait_until("the second key destroyed", lambda: _state(node, second) == "destroyed")
        assert rejected(node, "token_inspect", token=token)
        # Of the first one tokens of seven days were allowed while it was primary.
        assert _state(node, first) == "enabled"


# --- to another network -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of one node with another id and CA."""
    with Cluster(tmp_path_factory.mktemp("other")) as cluster:
        cluster.init("b1", "--cluster", "other")
        wait_keys(cluster)
        yield cluster


def test_ring_under_a_passphrase_is_adopted_by_another_cluster_when_asked_to(
    shared: Cluster, other: Cluster, tmp_path: Path
) -> None:
    wait_keys(shared)
    here, there = shared["n2"], other["b1"]
    token = mint(here, claims={"mfa": True})
    assert rejected(there, "token_inspect", token=token)
    ring, passphrase = tmp_path / "ring", tmp_path / "passphrase"
    passphrase.write_text(PASSPHRASE + "\n")
    assert here.cli("key", "export", "--passphrase-file", passphrase, "--out", ring).returncode == 0
    again = here.cli("key", "export", "--passphrase-file", passphrase, "--out", ring)
    assert_refused(again, 4, "exists")
    assert_refused(here.cli("key", "export", "--passphrase-file", "-", stdin="short"), 65, "12 characters")
    wrong = there.cli("key", "import", ring, "--passphrase-file", "-", "--adopt", stdin="incorrect horse")
    assert_refused(wrong, 77, "passphrase")
    assert_refused(there.cli("key", "import", ring, "--passphrase-file", passphrase), 4, "--adopt")
    assert rejected(there, "token_inspect", token=token)
    primary = wait_keys(other)
    adopted = there.cli("key", "import", ring, "--passphrase-file", passphrase, "--adopt", "-o", "json")
    assert adopted.returncode == 0, adopted.stderr
    states = {row["key_id"]: row["state"] for row in json.loads(adopted.stdout)["keys"]}
    assert list(states.values()).count("primary") == 1
    assert states[primary] == "primary"
    live = [row for row in json.loads(adopted.stdout)["keys"] if row["state"] != "destroyed"]
    assert [row["holders"] for row in live] == [["b1"]] * len(live)
    wait_keys(other)
    assert inspect(there, token)["claims"] == {"mfa": True}
    # What is made of it there is the other cluster's own; the older copy is refused there, not here.
    after = update(there, token, set={"mfa": False})
    assert after["key_id"] == primary
    assert_rejected([there], token)
    assert rejected(here, "token_inspect", token=after["token"])
    assert inspect(here, token)["claims"] == {"mfa": True}
    # Importing it once more changes nothing.
    repeated = there.cli("key", "import", ring, "--passphrase-file", passphrase, "--adopt", "-o", "json")
    assert {row["key_id"]: row["state"] for row in json.loads(repeated.stdout)["keys"]} == states


def test_ring_sealed_to_a_node_needs_both_fingerprints_and_opens_nowhere_else(
    shared: Cluster, other: Cluster, tmp_path: Path
) -> None:
    wait_keys(shared)
    here, there = shared["n1"], other["b1"]
    token = mint(here, "sealed")
    identity, ring = tmp_path / "identity", tmp_path / "ring"
    shown = there.cli("key", "identity")
    identity.write_text(shown.stdout)
    to_ca = there.json("key", "identity")["ca_sha256"]
    assert to_ca in shown.stderr
    from_ca = here.json("key", "identity")["ca_sha256"]
    export = ("key", "export", "--to-node", identity, "--out", ring)
    assert_refused(here.cli(*export), 77, "--to-ca", to_ca)
    assert_refused(here.cli(*export, "--to-ca", from_ca), 77, to_ca)
    assert not ring.exists()
    done = here.cli(*export, "--to-ca", to_ca)
    assert (done.returncode, done.stdout.split()[:2]) == (0, ["file", str(ring)])
    assert_refused(there.cli("key", "import", ring, "--adopt"), 77, "--from-ca", from_ca)
    assert_refused(there.cli("key", "import", ring, "--adopt", "--from-ca", to_ca), 77, from_ca)
    assert_refused(there.cli("key", "import", ring, "--from-ca", from_ca), 4, "--adopt")
    assert_refused(here.cli("key", "import", ring), 77)
    assert_refused(shared["n2"].cli("key", "import", ring, "--adopt", "--from-ca", from_ca), 77)
    assert there.cli("key", "import", ring, "--adopt", "--from-ca", from_ca).returncode == 0
    assert inspect(there, token)["sub"] == "sealed"
    # Within a cluster no fingerprint is needed: the CA is its own.
    mine = tmp_path / "mine"
    mine.write_text(shared["n3"].cli("key", "identity").stdout)
    assert here.cli("key", "export", "--to-node", mine, "--out", tmp_path / "own").returncode == 0
    assert shared["n3"].cli("key", "import", tmp_path / "own").returncode == 0
    wait_keys(shared)


@pytest.mark.parametrize(
    "arguments",
    [
        ("export",),
        ("export", "--passphrase-file", "-", "--to-node", "x"),
        ("export", "--passphrase-file", "-", "--to-ca", "a" * 64),
        ("import", "x", "--passphrase-file", "-", "--from-ca", "a" * 64),
    ],
)
def test_key_options_that_would_be_ignored_are_a_usage_error(
    shared: Cluster, arguments: tuple[str, ...]
) -> None:
    assert_refused(shared["n1"].cli("key", *arguments), 2)


def test_import_of_what_is_no_ring_is_invalid_input(shared: Cluster, tmp_path: Path) -> None:
    ring = tmp_path / "ring"
    ring.write_bytes(b"\xff" * 100)
    assert_refused(shared["n1"].cli("key", "import", ring), 65, "key ring")
    assert_refused(shared["n1"].cli("key", "import", tmp_path / "absent"), 65, "absent")
    assert_refused(shared["n1"].cli("key", "export", "--to-node", ring), 65, "identity")


def test_new_cluster_mints_at_once(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        node = cluster.init("n1")
        minted = node.cli("token", "mint", "--sub", "zoe")
        assert minted.returncode == 0, minted.stderr
        assert inspect(node, minted.stdout.strip())["sub"] == "zoe"
