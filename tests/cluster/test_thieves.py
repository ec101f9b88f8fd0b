"""Worth of each stolen thing: the rows of the table in docs/security.md, played by a thief.

The thief is `tests.support.thief.py`, which imports nothing of ours.  Each test takes a copy of somebody's
files, lets the operator do what the documentation says, and tries everything that the files were good for.
Before that, where it can, it shows that the same attack works while the thing is still good: otherwise a
mistake of the thief would pass for a defence.
"""

from __future__ import annotations

import json
import os
import resource
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import NotFound
from tests.support.cluster import (
    Cluster,
    Node,
    assert_refused,
    wait_until,
)
from tests.support.connections import cluster_id_of
from tests.support.thief import (
    Credentials,
    Loot,
    PeerPort,
    Trap,
    credentials_of_file,
    exchange,
    request_for,
    steal,
)
from tests.support.tokens import wait_keys

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

DAY_S = 86_400

READS = (("GET", "/v1/status", None), ("GET", "/v1/members", None), ("GET", "/v1/keys/status", None))
WRITES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("POST", "/v1/tokens/mint", {"sub": "mallory"}),
    ("POST", "/v1/members/invitations", {"name": "trojan"}),
    ("POST", "/v1/keys/export", {"passphrase": "correct horse battery staple"}),
    ("POST", "/v1/counters/stolen/increment", {"by": 1}),
)


def assert_nobody(who: Credentials, nodes: list[Node]) -> None:
    """Nobody on the API of any of these nodes: not one read, not one write."""
    for node in nodes:
        for method, path, body in (*READS, *WRITES):
            answer = who.ask(node.port, method, path, body)
            assert answer.shut_out, f"{method} {path} on {node.name}: {answer}"


def assert_no_peer(who: Credentials, nodes: list[Node], name: str, cluster_id: str, **claims: Any) -> None:
    """No peer of any of these nodes: heard by none, and a command handed in is applied by none."""
    for node in nodes:
        assert not _is_peer(who, node, name, cluster_id, **claims), f"{node.name} takes it for {name}"
        try:
            peer = PeerPort(node.port, who)
        except OSError:
            continue
        with peer:
            peer.hello(name, cluster_id, **claims)
            peer.forward("counter", "add", {"name": "handed-in", "by": 1})
            peer.forward("members", "invite", _invitation())
            list(peer.heard())
    for node in nodes:
        with pytest.raises(NotFound):
            node.client().counters.get("handed-in")
        assert name not in {row["name"] for row in node.client().status()["members"]}


def _is_peer(who: Credentials, node: Node, name: str, cluster_id: str, **claims: Any) -> bool:
    """Whether a node treats this as the peer that it says to be: a ping has its pong."""
    try:
        peer = PeerPort(node.port, who)
    except OSError:
        return False
    with peer:
        peer.hello(name, cluster_id, **claims)
        return peer.is_answered()


def _invitation() -> dict[str, Any]:
    return {"name": "trojan", "learner": False, "secret_sha256": "0" * 64, "expires_unix_ms": 2**52}


def assert_serving(cluster: Cluster) -> None:
    """Every node runs and takes a write."""
    for node in cluster.nodes.values():
        if node.running():
            before = node.client().counters.incr("alive", 1)["value"]
            assert node.client().counters.incr("alive", 1)["value"] == before + 1


def listed(node: Node) -> dict[str, dict[str, Any]]:
    """`credentials list`, by name."""
    return {row["name"]: row for row in node.json("credentials", "list")["credentials"]}


def make_credentials(node: Node, name: str, role: str, where: Path, *options: str) -> Credentials:
    """`credentials create`, as PEM files for the thief."""
    file = where / f"{name}.yaml"
    made = node.cli("credentials", "create", "--role", role, "--name", name, "--out", file, *options)
    assert made.returncode == 0, made.stderr
    return credentials_of_file(file, where)


@dataclass
class House:
    """Two voters and a learner that run, and copies of what was stolen before the documented procedure.

    n3 was a voter: removed, keys rotated, its old keys destroyed.  n5 was a learner: removed.
    """

    cluster: Cluster
    voter: Loot
    learner: Loot
    removed_voter: Loot
    removed_learner: Loot

    @property
    def running(self) -> list[Node]:
        return self.cluster.running()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    base = tmp_path_factory.mktemp("house")
    with Cluster(base) as cluster:
        cluster.form(3)
        for name in ("n4", "n5"):
            cluster.join(name, through="n1", learner=True)
        cluster.wait_settled(voters=3)
        wait_keys(cluster)
        loot = {name: steal(node.directory, base / f"loot-{name}") for name, node in cluster.nodes.items()}
        one = cluster["n1"]
        # While they are members, what they show is good: the thief speaks the language.
        stolen = one.client().call("key_status")["primary"]
        cluster["n2"].kill()
        leader = wait_until("a leader without n2", lambda: cluster[cluster.wait_leader()])
        with PeerPort(leader.port, loot["n2"].node) as peer:
            peer.hello("n2", loot["n2"].cluster_id)
            assert peer.is_answered(), "the thief does not speak the peers' protocol"
            peer.forward("counter", "add", {"name": "as-a-member", "by": 1})
            wait_until(
                "a member's command being applied",
                lambda: leader.client().counters.get("as-a-member")["value"] == 1,
            )
        cluster["n2"].start()
        cluster.wait_settled(voters=3)
        for name in ("n3", "n5"):
            removed = one.cli("member", "remove", name, "--yes")
            assert removed.returncode == 0, removed.stderr
            cluster[name].wait_exit()
            del cluster.nodes[name]
        assert one.cli("key", "rotate").returncode == 0
        wait_keys(cluster)
        assert one.cli("key", "destroy", stolen, "--force", "--yes").returncode == 0
        yield House(cluster, loot["n2"], loot["n4"], loot["n3"], loot["n5"])


# --- a disk ---------------------------------------------------------------------------------------


def test_ca_key_of_a_removed_voter_makes_no_operator_and_no_node(house: House) -> None:
    for name, role in (("admin", "operator"), ("mallory", "operator"), ("web", "gateway"), ("w", "viewer")):
        assert_nobody(house.removed_voter.forge(name, role), house.running)
    # The same key in the hands of whoever copied it from a voter that is there still.
    assert_nobody(house.voter.forge("mallory", "operator"), house.running)
    cluster_id = house.removed_voter.cluster_id
    assert cluster_id == cluster_id_of(house.cluster["n1"])
    for name in ("ghost", "n1", "n2", "n3", "n4"):
        # As a new name, and as members whose names it knows: the key is not theirs.
        forged = house.removed_voter.forge(name, "node")
        assert_nobody(forged, house.running)
        others = [node for node in house.running if node.name != name]
        with_pongs = {node.name for node in others if _is_peer(forged, node, name, cluster_id)}
        assert not with_pongs, f"{with_pongs} take the forged {name} for a peer"
    assert_no_peer(house.removed_voter.forge("ghost", "node"), house.running, "ghost", cluster_id)
    assert "trojan" not in house.cluster["n1"].cli("member", "invitations").stdout
    assert_serving(house.cluster)


def test_removed_voters_own_key_is_nothing_on_the_api_and_at_the_peer_port(house: House) -> None:
    assert_nobody(house.removed_voter.node, house.running)
    cluster_id = house.removed_voter.cluster_id
    assert_no_peer(house.removed_voter.node, house.running, "n3", cluster_id)
    assert_no_peer(house.removed_voter.node, house.running, "n3", cluster_id, raft_id="n3~other")
    assert_serving(house.cluster)


def test_node_key_of_a_learner_or_voter_is_nobody_on_the_api(house: House) -> None:
    assert_nobody(house.learner.node, house.running)
    assert_nobody(house.voter.node, house.running)


def test_learners_key_at_the_peer_port_changes_neither_trust_nor_membership(house: House) -> None:
    house.cluster["n4"].kill()
    try:
        with PeerPort(house.cluster["n1"].port, house.learner.node) as peer:
            peer.hello("n4", house.learner.cluster_id)
            peer.forward("members", "invite", _invitation())
            peer.forward("members", "put", {"name": "trojan", "address": "127.0.0.1:1"})
            peer.forward("credentials", "create", {"name": "trojan", "role": "operator"})
            peer.call("remove", {"name": "n2", "force": True, "dry_run": False})
            # It is a peer all the same, unless it was thrown out for that.
            peer.is_answered()
    finally:
        house.cluster["n4"].start()
    one = house.cluster["n1"]
    assert {row["name"] for row in one.client().status()["members"]} == {"n1", "n2", "n4"}
    assert "trojan" not in one.cli("member", "invitations").stdout
    assert "trojan" not in listed(one)
    assert_serving(house.cluster)


def test_goodbye_of_one_peer_ends_no_other_node(house: House) -> None:
    for loot, name in ((house.voter, "n2"), (house.learner, "n4")):
        for target in (node for node in house.running if node.name != name):
            for said_hello in (False, True):
                with PeerPort(target.port, loot.node) as peer:
                    if said_hello:
                        peer.hello(name, loot.cluster_id)
                    peer.send({"type": "goodbye", "reason": "removed"})
                    list(peer.heard())
            assert target.running(), target.log_tail()
    assert {node.name for node in house.running} == {"n1", "n2", "n4"}
    house.cluster.wait_settled(voters=2)
    assert_serving(house.cluster)


# --- a place in the network -----------------------------------------------------------------------


def test_whoever_sits_at_a_members_old_address_admits_only_the_rightful_joiner(tmp_path: Path) -> None:
    """With a removed learner's files, and with a forged certificate of the very member that one dials."""
    with Cluster(tmp_path) as cluster:
        cluster.form(2)
        cluster.join("n5", through="n1", learner=True)
        cluster.wait_settled(voters=2)
        loot = steal(cluster["n5"].directory, tmp_path / "loot")
        voter = steal(cluster["n2"].directory, tmp_path / "loot-n2")
        one = cluster["n1"]
        assert one.cli("member", "remove", "n5", "--yes").returncode == 0
        cluster["n5"].wait_exit()
        del cluster.nodes["n5"]
        token = cluster.invite("n6", through="n1")
        joiner = cluster.new_node("n6")
        arguments = ("--name", "n6", "--listen", joiner.address, "--token-file", "-")
        caught = []
        for shown, is_n1 in ((loot.node, False), (voter.forge("n1", "node"), True)):
            one.kill()
            with Trap(one.port, shown, cluster["n2"].port) as trap:
                joined = joiner.cli("node", "join", *arguments, "--timeout", "3", stdin=token)
                assert joined.returncode != 0
                assert trap.connections, "the joiner did not dial the old address"
            caught += trap.bodies
            assert is_n1 or not trap.bodies, "the joiner answers to a name that it did not ask for"
            one.start()
            cluster.wait_settled(voters=2)
        assert caught, "the forged n1 was told nothing: then there is nothing to try"
        # What the joiner said, with the thief's keys in it; then once more as it is, but for another address.
        for text in caught:
            said = json.loads(text)
            request_pem, sealing_key = request_for("n6")
            own = {**said, "request_pem": request_pem, "sealing_key": sealing_key}
            for body in (own, {**said, "address": "127.0.0.1:1"}):
                for node in (one, cluster["n2"]):
                    answer = loot.node.ask(node.port, "POST", "/v1/join", body)
                    assert answer.status != 200, f"{node.name} admits the thief: {sorted(answer.body)}"
        assert "n6" not in {row["name"] for row in one.client().status()["members"]}
        joined = joiner.cli("node", "join", *arguments, stdin=token)
        assert joined.returncode == 0, joined.stderr
        joiner.start()
        cluster.wait_settled(voters=3)


def test_removed_member_of_a_cluster_in_memory_stays_removed_under_every_raft_id(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        one = cluster.init("n1", "--storage", "memory")
        for number in (2, 3):
            cluster.join(f"n{number}", through="n1")
            cluster.wait_settled(voters=number)
        cluster.join("n4", through="n1", learner=True)
        cluster.wait_settled(voters=3)
        loot = {name: steal(cluster[name].directory, tmp_path / f"loot-{name}") for name in ("n3", "n4")}
        for name in loot:
            removed = one.cli("member", "remove", name, "--yes")
            assert removed.returncode == 0, removed.stderr
            cluster[name].wait_exit()
            del cluster.nodes[name]
        nodes = [one, cluster["n2"]]
        for name, files in loot.items():
            for raft_id in (name, f"{name}~other", f"{name}~{os.urandom(4).hex()}"):
                assert_no_peer(files.node, nodes, name, files.cluster_id, raft_id=raft_id)
            assert_nobody(files.node, nodes)
        assert "trojan" not in one.cli("member", "invitations").stdout
        assert_serving(cluster)


# --- credentials ----------------------------------------------------------------------------------


def test_revoked_credentials_are_nobody_and_a_removed_founders_are_listed_and_revoked(
    tmp_path: Path,
) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.form(2)
        one, two = cluster["n1"], cluster["n2"]
        loot = steal(one.directory, tmp_path / "loot")
        founder = loot.operator()
        assert founder.ask(two.port, "GET", "/v1/status").status == 200
        second = make_credentials(two, "zoe", "operator", tmp_path)
        watcher = make_credentials(two, "watcher", "viewer", tmp_path)
        assert second.ask(two.port, "POST", "/v1/counters/x/increment", {"by": 1}).status == 200
        assert watcher.ask(two.port, "GET", "/v1/status").status == 200
        assert watcher.ask(two.port, "POST", "/v1/tokens/mint", {"sub": "m"}).shut_out
        rows = listed(two)
        assert {rows[name]["role"] for name in ("zoe", "watcher")} == {"operator", "viewer"}
        name = next(row["name"] for row in rows.values() if row["name"] not in ("zoe", "watcher"))
        assert (rows[name]["role"], rows[name]["revoked_at"]) == ("operator", None)
        # A connection that is open already ends with what it rests on.
        with founder.connect(two.port) as kept:
            assert exchange(kept, "GET", "/v1/status").status == 200
            assert_refused(two.cli("credentials", "revoke", name), 2, "--yes")
            revoked = two.cli("credentials", "revoke", name, "--yes")
            assert revoked.returncode == 0, revoked.stderr
            _wait_ended(kept)
        assert_nobody(founder, [one, two])
        assert listed(two)[name]["revoked_at"] is not None
        assert second.ask(one.port, "GET", "/v1/status").status == 200
        # The whole directory of the founder, its CA key included, makes no new one.
        assert_nobody(loot.forge(name, "operator"), [one, two])


def test_revoked_gateway_and_viewer_are_nobody_and_were_no_more_than_their_role(house: House) -> None:
    one, where = house.cluster["n1"], house.cluster.base
    gateway = make_credentials(one, "web", "gateway", where)
    viewer = make_credentials(one, "screen", "viewer", where)
    mint_it, *operators_alone = WRITES
    assert gateway.ask(one.port, *mint_it).status == 200
    assert viewer.ask(one.port, "GET", "/v1/status").status == 200
    assert viewer.ask(one.port, *mint_it).shut_out
    for who in (gateway, viewer):
        for request in operators_alone:
            assert who.ask(one.port, *request).shut_out
    for name in ("web", "screen"):
        assert one.cli("credentials", "revoke", name, "--yes").returncode == 0
    assert_nobody(gateway, house.running)
    assert_nobody(viewer, house.running)


def test_old_key_of_renewed_credentials_is_nobody(house: House) -> None:
    one, where = house.cluster["n1"], house.cluster.base
    old = make_credentials(one, "bob", "operator", where)
    assert old.ask(one.port, "GET", "/v1/status").status == 200
    file = where / "bob-again.yaml"
    renewed = one.cli("credentials", "renew", "bob", "--new-key", "--out", file)
    assert renewed.returncode == 0, renewed.stderr
    assert credentials_of_file(file, where).ask(one.port, "GET", "/v1/status").status == 200
    assert_nobody(old, house.running)


def _wait_ended(connection: ssl.SSLSocket, timeout_s: float = 30.0) -> None:
    """Until requests on an open connection are refused, or it is closed."""

    def ended() -> bool:
        try:
            return exchange(connection, "GET", "/v1/status").shut_out
        except OSError:
            return True

    wait_until("the open connection being worth nothing", ended, timeout_s)


def test_expired_certificate_on_a_kept_connection_is_nobody(tmp_path: Path) -> None:
    with Cluster(tmp_path, clocks=True) as cluster:
        one = cluster.init("n1")
        short = make_credentials(one, "short", "operator", tmp_path, "--ttl", "1d")
        with short.connect(one.port) as kept:
            assert exchange(kept, "GET", "/v1/status").status == 200
            one.step_clock(2 * DAY_S)
            _wait_ended(kept, 60.0)
        wait_until("new connections being refused", lambda: short.ask(one.port, "GET", "/v1/status").shut_out)
        assert cluster.client().counters.incr("alive", 1)["value"] == 1


_WATCHES = 2_000
_WRITES = 60
_WRITES_S = 6.0


def test_viewer_with_2000_watches_takes_the_writers_nothing(house: House) -> None:
    one = house.cluster["n1"]
    viewer = make_credentials(one, "many", "viewer", one.directory.parent)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * _WATCHES + 1000), hard))
    client = one.client()
    client.counters.incr("watched", 1)
    held: list[ssl.SSLSocket] = []

    def watch(_: int) -> bool:
        """Whether the node takes one more watch."""
        try:
            connection = viewer.connect(one.port)
            held.append(connection)
            connection.sendall(b"GET /v1/counters/watched/watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return connection.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    try:
        with ThreadPoolExecutor(32) as threads:
            taken = sum(threads.map(watch, range(_WATCHES)))
        began = time.monotonic()
        for _ in range(_WRITES):
            client.counters.incr("watched", 1)
        took_s = time.monotonic() - began
        # The operator's own watch starts, whatever a viewer holds.
        assert next(client.counters.watch("watched"))["value"] == _WRITES + 1
    finally:
        for connection in held:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert took_s < _WRITES_S, f"{_WRITES} writes took {took_s:.1f} s beside {taken} watches"
    assert 0 < taken < _WATCHES, "one viewer may watch without a limit"
