"""Two full nodes and a small third box that votes without keys, on real nodes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, Node, assert_refused, wait_until

pytestmark = pytest.mark.cluster

_GOES_ON_S = 30.0
"""Far above what an election takes on a busy machine, far below what an operator would need."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """n1, n2 and the witness w, formed and stopped: never started again, only copied."""
    with Cluster(tmp_path_factory.mktemp("site")) as cluster:
        cluster.init("n1")
        cluster["n1"].client(10.0).counters.incr("default", 1)
        cluster.join("n2", through="n1")
        cluster.wait_settled(voters=2)
        cluster.join("w", through="n1", witness=True)
        cluster.wait_settled(voters=3)
        wait_until("every key held", lambda: cluster["n1"].json("key", "status")["agreed"])
        cluster.stop_all()
    return cluster


@pytest.fixture
def running(site: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """A running copy of the site."""
    with site.copy_to(tmp_path) as cluster:
        cluster.start_all()
        cluster.wait_settled(voters=3)
        yield cluster


def _leads(cluster: Cluster, name: str) -> None:
    """Let a node lead that is no witness."""
    cluster.client(*(each for each in ("n1", "n2") if each in cluster.nodes)).transfer_leadership(name)
    wait_until(f"{name} leads", lambda: cluster.wait_leader(1.0) == name)


def _write(cluster: Cluster, *through: str, by: int = 1) -> float:
    """Seconds until a write is taken through any of these nodes."""
    began = time.monotonic()
    client = cluster.client(*through, timeout_s=2.0)
    request_id = f"write-{began}"
    wait_until("a write", lambda: client.counters.incr("default", by, request_id=request_id), _GOES_ON_S)
    return time.monotonic() - began


def test_site_with_a_witness_survives_the_death_of_either_full_node(running: Cluster) -> None:
    for victim, other in (("n1", "n2"), ("n2", "n1")):
        _leads(running, victim)
        before = running[other].client().counters.get("default")["value"]
        running[victim].kill()
        assert _write(running, other) < _GOES_ON_S
        assert running[other].client().counters.get("default")["value"] == before + 1
        wait_until(f"{other} leads", lambda other=other: running.wait_leader(1.0) == other)  # type: ignore[misc]
        minted = running[other].cli("token", "mint", "--sub", "u")
        assert minted.returncode == 0, minted.stderr
        running[victim].start()
        running.wait_settled(voters=3)


def test_witness_that_alone_has_the_last_entry_leads_until_the_other_node_has_it(running: Cluster) -> None:
    running["n2"].kill()
    _write(running, "n1", by=5)
    running["n1"].kill()  # what was acknowledged is on its disk, and on the witness's
    running["n2"].start()
    _write(running, "n2", by=2)
    wait_until("n2 leads", lambda: running.wait_leader(1.0) == "n2")
    assert running["n2"].client().counters.get("default")["value"] == 8
    led = [
        e for e in running["w"].log_events() if e["event"] == "raft state changed" and e["role"] == "leader"
    ]
    assert led, "nobody else could lead at first"
    assert running["w"].client().member_show("w")["role"] == "witness"
    running["n1"].start()
    running.wait_settled(voters=3)


def test_witness_keeps_sealed_values_and_opens_none(running: Cluster) -> None:
    node, witness = running["n1"], running["w"]
    both = ("-e", witness.endpoint, "-e", node.endpoint)
    assert node.cli("kv", "put", "s", "-", "--sealed", stdin="secret").returncode == 0
    for command in (("kv", "get", "s"), ("kv", "put", "s", "x", "--sealed"), ("kv", "list", "-o", "json")):
        assert_refused(witness.cli(*command), 75, "w is a witness: it holds no token keys")
    assert witness.cli("kv", "get", "s", *both).stdout == "secret"
    assert witness.cli("kv", "list", "--keys-only").stdout == "s\n"
    assert witness.cli("kv", "put", "clear", "x").returncode == 0
    assert witness.cli("kv", "get", "clear").stdout == "x"


def test_witness_is_shown_as_one_and_is_given_nothing_that_it_does_not_need(
    running: Cluster, tmp_path: Path
) -> None:
    node, witness = running["n1"], running["w"]
    _leads(running, "n1")
    rows = {row["name"]: (row["role"], row["witness"]) for row in witness.json("member", "list")["members"]}
    assert rows == {"n1": ("leader", False), "n2": ("follower", False), "w": ("witness", True)}
    cluster = node.json("status")["cluster"]
    assert (cluster["voters"], cluster["witnesses"], cluster["failure_tolerance"]) == (3, 1, 1)
    assert {row["name"]: row["role"] for row in node.json("pki", "status")["members"]}["w"] == "witness"

    # Counters work through it, keys and tokens are for others: a client that names two nodes goes on there.
    assert _write(running, "w") < _GOES_ON_S
    token = node.cli("token", "mint", "--sub", "u").stdout.strip()
    for command in (
        ("token", "mint", "--sub", "u"), ("token", "inspect", token), ("key", "rotate"), ("key", "generate"),
        ("key", "rewrap"),
    ):  # fmt: skip
        assert_refused(witness.cli(*command), 75, "w is a witness: it holds no token keys; ask n1 or n2")
    both = ("-e", witness.endpoint, "-e", node.endpoint)
    assert witness.cli("token", "inspect", token, *both).returncode == 0

    for command in (("promote", "w"), ("demote", "w")):
        assert_refused(node.cli("member", *command), 4, "w is a witness", "cyoloctl member remove w")
    for dry_run in ((), ("--dry-run",)):
        refused = node.cli("member", "transfer-leadership", "--to", "w", *dry_run)
        assert_refused(refused, 4, "w is a witness, which leads only while no other voter can")
    assert_refused(node.cli("member", "set-host", "w", "w.example.com"), 4, "w is a witness")
    both_roles = ("member", "invite", "--name", "x", "--learner", "--witness")
    assert_refused(node.cli(*both_roles), 2, "--learner and --witness exclude each other")
    preview = node.json("member", "demote", "n2", "--dry-run")
    assert (preview["before"]["can_lead"], preview["after"]["can_lead"]) == (2, 1)
    assert (preview["before"]["voters"], preview["after"]["quorum"]) == (3, 2)

    # Rotations of both kinds of key end without it.
    rotated = node.cli("key", "rotate", "-o", "json")
    assert rotated.returncode == 0, rotated.stderr
    assert json.loads(rotated.stdout)["missing"] == []
    assert node.json("key", "status")["agreed"]
    assert node.cli("pki", "rotate-ca", "--overlap", "0s", "--yes").returncode == 0
    wait_until("the CA exchanged", lambda: node.json("pki", "status")["rotation"] is None)
    # Each node sees to its own files, after that.
    wait_until("n1 has put the old key away", lambda: _ca_keys(node) == ["ca.key"])
    running.stop_all()
    _hold_no_key(running)

    # Its disk is not one to go on from alone.
    assert_refused(witness.cli("cluster", "recover", "--dry-run"), 4, "w is a witness")

    # Configured by hand: the file says so at once.
    config = witness.directory / "node.yaml"
    config.write_text(config.read_text() + "gateway: {listen: '127.0.0.1:1'}\n")
    assert_refused(witness.cli("node", "start"), 78, "a witness has no gateway: remove 'gateway'")


def _ca_keys(node: Node) -> list[str]:
    return sorted(path.name for path in (node.directory / "pki").glob("ca*.key"))


def _hold_no_key(cluster: Cluster) -> None:
    """What the disks say, read without the program: nothing is sealed to the witness, nor lies open on it."""
    assert _ca_keys(cluster["n1"]) == ["ca.key"]
    assert not _ca_keys(cluster["w"])
    assert {path.name for path in (cluster["w"].directory / "pki").glob("*.key")} == {
        "node.key", "sealing.key",
    }  # fmt: skip
    found: set[str] = set()
    for name in ("raft.db", "raft.db-wal", "snapshot"):
        path = cluster["w"].directory / name
        data = path.read_bytes() if path.exists() else b""
        for sealed in re.findall(rb'"(?:keys|wrapped)":\{("[^{}\[\]]*")\}', data):
            found |= {key.decode() for key in re.findall(rb'"([a-z0-9]+)":"', sealed)}
    assert {"n1", "n2"} <= found, "the pattern no longer finds what is sealed"
    assert "w" not in found


def test_last_voter_that_can_lead_stays_and_a_witness_that_is_removed_knew_nothing(running: Cluster) -> None:
    node = running["n1"]
    _leads(running, "n1")
    running["n2"].terminate()
    removed = node.json("member", "remove", "n2", "--yes")
    assert (removed["before"]["can_lead"], removed["after"]["can_lead"]) == (2, 1)
    for command in (("remove", "n1", "--yes"), ("remove", "n1", "--force", "--yes"), ("demote", "n1")):
        refused = node.cli("member", *command)
        assert_refused(refused, 4, "n1 is the only voter that is no witness (w would be left)")
    due = {each["message"] for each in node.json("status")["problems"] if each["code"] == "ca_rotation_due"}
    gone = node.json("member", "remove", "w", "--yes")
    assert (gone["after"]["voters"], gone["after"]["can_lead"]) == (1, 1)
    after = node.json("status")["problems"]
    assert {each["message"] for each in after if each["code"] == "ca_rotation_due"} == due
    assert not any("w was removed" in each["message"] for each in after)


def test_witness_is_granted_by_file_and_has_no_gateway_however_its_files_are_changed(
    site: Cluster, tmp_path: Path
) -> None:
    with site.copy_to(tmp_path / "copy") as cluster:
        cluster.start_all("n1", "n2")
        cluster.wait_leader()
        node, box = cluster["n1"], cluster.new_node("box")
        request, grant = tmp_path / "request", tmp_path / "grant"
        asked = ("node", "request", "--name", "box", "--listen", box.address)
        assert box.cli(*asked, "--out", request).returncode == 0
        granted = node.json("member", "grant", "--request", request, "--witness", "--out", grant)
        assert (granted["witness"], granted["learner"]) == (True, False)
        [waiting] = node.json("member", "invitations")["invitations"]
        assert (waiting["name"], waiting["witness"]) == ("box", True)
        accepted = box.json("node", "accept", "--grant", grant)
        assert (accepted["witness"], box.json("node", "info")["witness"]) == (True, True)
        config = box.directory / "node.yaml"
        told = config.read_text()
        assert "\nwitness: true\n" in told
        box.start()
        wait_until("box votes", lambda: node.client().member_show("box")["role"] == "witness")
        box.terminate()
        # Whoever takes the line away is told by the cluster.
        gateway = f"gateway: {{listen: '{cluster.new_node('spare').address}'}}\n"
        del cluster.nodes["spare"]
        config.write_text(told.replace("\nwitness: true\n", "\n") + gateway)
        box.launch()
        assert box.wait_exit() == 78
        assert "the cluster admitted box as a witness, which has no gateway" in box.log_tail()
