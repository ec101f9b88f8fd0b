"""The register of credentials with real nodes: who counts, who no longer does, and what thieves get."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.control import table
from cyoloctl.control.client import Client
from cyoloctl.errors import AccessDenied, CyoloctlError
from cyoloctl.web import schema
from tests.support.cluster import (
    Cluster,
    assert_refused,
    run,
    wait_until,
)
from tests.support.connections import Peer, cluster_id_of
from tests.support.thief import Forger

pytestmark = pytest.mark.cluster

ENDS_WITHIN_S = 6.0  # two seconds are promised; the rest is for a busy machine


def remote(cluster: Cluster, credentials: Path, name: str = "n2") -> tuple[str, ...]:
    return ("-e", f"https://{cluster[name].address}", "--credentials", str(credentials))


def client(cluster: Cluster, credentials: Path, name: str = "n2", timeout_s: float = 20.0) -> Client:
    return Client(
        [f"https://{cluster[name].address}"], credentials=credentials, timeout_s=timeout_s, retry=False
    )


def rows(cluster: Cluster) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in cluster["n1"].json("credentials", "list")["credentials"]}


# --- the founder's ---------------------------------------------------------------------------------


def test_founders_operator_is_an_entry_like_any_other(shared: Cluster) -> None:
    listed = rows(shared)
    assert set(listed["admin"]) == {
        "name", "role", "key_hash", "created_at", "created_by", "expires_at", "revoked_at",
    }  # fmt: skip
    assert (listed["admin"]["role"], listed["admin"]["created_by"]) == ("operator", "cluster init")
    for name in ("n1", "n2", "n3"):
        assert (listed[name]["role"], listed[name]["revoked_at"]) == ("node", None)
        assert len(listed[name]["key_hash"]) == 64
    assert run("counter", "incr", "founder", *remote(shared, shared.credentials())).returncode == 0


def test_operator_file_counts_from_the_moment_the_first_node_is_ready(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        node = cluster.init("n1")
        result = run("counter", "incr", "first", *remote(cluster, cluster.credentials(), "n1"))
        assert result.returncode == 0, result.stderr
        assert node.json("credentials", "show", "admin")["role"] == "operator"


# --- commands --------------------------------------------------------------------------------------


def test_created_credentials_do_what_their_role_may_on_every_node(shared: Cluster, tmp_path: Path) -> None:
    made = {}
    for role in ("viewer", "gateway", "operator"):
        out = tmp_path / f"{role}.yaml"
        created = shared["n1"].cli(
            "credentials", "create", "--role", role, "--name", f"the-{role}", "--ttl", "1h", "--out", out
        )
        assert created.returncode == 0, created.stderr
        assert out.stat().st_mode & 0o777 == 0o600
        made[role] = out
    for name in ("n1", "n2", "n3"):
        for role, out in made.items():
            where = remote(shared, out, name)
            assert run("counter", "list", *where).returncode == 0
            assert run("token", "mint", "--sub", "a", *where).returncode == (77 if role == "viewer" else 0)
            assert run("counter", "incr", "roles", *where).returncode == (0 if role == "operator" else 77)
    assert (
        run("status", "-e", f"https://n3@{shared['n3'].address}", "--credentials", made["viewer"]).returncode
        == 0
    )
    wrong = run("status", "-e", f"https://n1@{shared['n3'].address}", "--credentials", made["viewer"])
    assert_refused(wrong, 77, "n3 answers there, not n1")
    told = [e for e in shared["n1"].log_events() if e["logger"] == "cyoloctl.security"]
    assert [
        (e["event"], e["by"], e["credentials"], e["role"]) for e in told if e["event"] == "credentials create"
    ][-3:] == [("credentials create", "unix socket", f"the-{role}", role) for role in made]
    entry = rows(shared)["the-gateway"]
    assert (entry["role"], entry["created_by"]) == ("gateway", "unix socket")
    assert json.loads(made["viewer"].read_text())["members"].keys() == {"n1", "n2", "n3"}


def test_every_route_lets_in_exactly_the_roles_of_the_table(shared: Cluster) -> None:
    """With real certificates: what is refused is 403, what is allowed is anything else."""
    files = {role: shared.made(f"all-{role}", role) for role in ("viewer", "gateway", "operator")}
    for role, path in files.items():
        api = client(shared, path, timeout_s=2.0)
        for route in table.routes():
            if route.stream or route.operation in ("stop", "transfer_leadership", "member_remove"):
                continue
            allowed = schema.role_allows(role, route.role)
            if allowed and role != "viewer":
                continue  # what they may do is tried elsewhere; here it would change the cluster
            try:
                _bare(api, route)
                refused = False
            except CyoloctlError as error:
                refused = isinstance(error, AccessDenied)
            assert refused is not allowed, (role, route)


def _bare(api: Client, route: schema.Route[Any]) -> None:
    """The route with an empty body, past the client's own checks."""
    saved = route.check_body
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema.Route, "check_body", lambda self, given: dict(given))
        patch.setattr(schema.Route, "check_name", lambda self, name: name)
        api.call(
            route.operation, "abc" if route.has_name else "", {} if route.body else None, repeatable=True
        )
    assert route.check_body == saved


def test_create_repeated_conflicts_unless_it_is_the_same_request(shared: Cluster, tmp_path: Path) -> None:
    key, asked = tmp_path / "bob.key", tmp_path / "bob.request"
    made = run(
        *("credentials", "request", "--name", "bob", "--role", "viewer", "--key-out", key, "--out", asked)
    )
    assert made.returncode == 0, made.stderr
    assert "PRIVATE" not in asked.read_text()
    first = shared["n2"].cli(
        "credentials", "create", "--request", asked, "--out", tmp_path / "bob.yaml", "-o", "json"
    )
    assert first.returncode == 0, first.stderr
    assert "PRIVATE" not in (tmp_path / "bob.yaml").read_text()
    again = shared["n3"].cli(
        "credentials", "create", "--request", asked, "--out", tmp_path / "2.yaml", "-o", "json"
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(first.stdout)["key_hash"] == json.loads(again.stdout)["key_hash"]
    assert json.loads(first.stdout)["expires_at"] == json.loads(again.stdout)["expires_at"]
    assert run("status", *remote(shared, tmp_path / "bob.yaml")).returncode == 0
    other = ("credentials", "create", "--role", "viewer", "--name", "bob", "--out", tmp_path / "3.yaml")
    assert_refused(shared["n1"].cli(*other), 4, "already")
    assert not (tmp_path / "3.yaml").exists()
    member = ("credentials", "create", "--role", "viewer", "--name", "n2", "--out", tmp_path / "4.yaml")
    assert_refused(shared["n1"].cli(*member), 4, "member n2")
    for command in (("revoke", "unheard-of", "--yes"), ("show", "unheard-of")):
        assert_refused(shared["n1"].cli("credentials", *command), 3, "unheard-of", "credentials list")
    assert shared["n1"].cli("credentials", "revoke", "bob").returncode == 2  # no terminal, no --yes


def test_holder_renews_over_the_network_and_keeps_the_key(shared: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "carol.yaml"
    created = shared["n1"].cli(
        "credentials", "create", "--role", "viewer", "--name", "carol", "--ttl", "1h", "--out", path
    )
    assert created.returncode == 0, created.stderr
    before = json.loads(path.read_text())
    renewed = run("credentials", "renew", "--ttl", "825d", "--credentials", path, "--out", path, "-o", "json")
    assert renewed.returncode == 0, renewed.stderr
    after = json.loads(path.read_text())
    assert after["key_pem"] == before["key_pem"]
    assert after["certificate_pem"] != before["certificate_pem"]
    # For no longer than an operator granted.
    ends = time.mktime(time.strptime(json.loads(renewed.stdout)["expires_at"], "%Y-%m-%dT%H:%M:%SZ"))
    assert ends - time.mktime(time.gmtime()) < 3700
    assert run("status", *remote(shared, path)).returncode == 0
    old = tmp_path / "old.yaml"
    old.write_text(path.read_text())
    old.chmod(0o600)
    fresh = run("credentials", "renew", "--new-key", "--credentials", path, "--out", path)
    assert fresh.returncode == 0, fresh.stderr
    assert run("status", *remote(shared, path)).returncode == 0
    wait_until("the old key refused", lambda: run("status", *remote(shared, old)).returncode == 77)
    # An operator renews for a longer time, on any node.
    given = shared["n3"].cli("credentials", "renew", "carol", "--ttl", "2d", "--out", tmp_path / "c.yaml")
    assert given.returncode == 0, given.stderr
    assert run("status", *remote(shared, tmp_path / "c.yaml")).returncode == 0


def test_group_of_the_machine_has_a_socket_with_the_role_of_a_gateway(tmp_path: Path) -> None:
    group = grp.getgrgid(os.getgid())
    with Cluster(tmp_path) as cluster:
        node = cluster.init("n1")
        node.terminate()
        started = node.cli("node", "start", "--background", "--socket-group", group.gr_name)
        assert started.returncode == 0, started.stderr
        try:
            for path, mode in ((node.directory, 0o710), (node.directory / "gateway.sock", 0o660)):
                found = path.stat()
                assert (found.st_gid, found.st_mode & 0o777) == (group.gr_gid, mode)
            assert (node.directory / "control.sock").stat().st_mode & 0o777 == 0o600
            socket = ("-e", f"unix://{node.directory}/gateway.sock")
            assert run("status", *socket).returncode == 0
            assert run("token", "mint", "--sub", "a", *socket).returncode == 0
            assert_refused(run("counter", "incr", "x", *socket), 77, "needs the role operator", "gateway")
            assert_refused(run("credentials", "renew", "admin", "--out", tmp_path / "x", *socket), 77)
        finally:
            node.cli("node", "stop")
        refused = node.cli("node", "start", "--background", "--socket-group", "no-such-group")
        assert_refused(refused, 78, "no group of this machine", "groupadd")


def test_lagging_node_admits_a_leader_that_joined_while_it_was_away(stopped: Cluster) -> None:
    """Its own state does not know the leader, and only the leader can tell: a voter vouches."""
    cluster = stopped
    cluster.start_all()
    cluster.wait_healthy()
    wait_until("n1 remembers", lambda: "n3" in (cluster["n1"].directory / "pki/members.json").read_text())
    cluster["n1"].terminate()
    cluster.join("n4", through="n2")

    def votes() -> bool:
        rows = cluster["n2"].client().status()["members"]
        return any(row["name"] == "n4" and row["role"] != "learner" for row in rows)

    wait_until("n4 votes", votes)
    wait_until(
        "n4 leads",
        lambda: cluster["n2"].client(10.0).transfer_leadership("n4")["leader"] == "n4",
    )
    cluster["n1"].start()
    cluster.wait_settled(voters=4)
    assert cluster["n1"].client().counters.incr("after", 1)["value"] == 1


# --- connections end with what they rest on --------------------------------------------------------


def test_revoked_operators_watch_and_wait_end_within_seconds(shared: Cluster, tmp_path: Path) -> None:
    path = shared.made("mallory", "operator")
    started = client(shared, path).call("rendezvous_start", body={"kind": "mfa", "ttl_s": 300})
    shared["n2"].client().counters.incr("watched", 1)
    ended: dict[str, tuple[float, CyoloctlError]] = {}
    watching = threading.Event()

    def watch() -> None:
        try:
            for _ in client(shared, path).counters.watch("watched"):
                watching.set()
        except CyoloctlError as error:
            ended["watch"] = time.monotonic(), error

    def wait() -> None:
        body = {"id": started["id"], "request_id": "r" * 32}
        try:
            client(shared, path, timeout_s=120.0).call("rendezvous_wait", body=body)
        except CyoloctlError as error:
            ended["wait"] = time.monotonic(), error

    threads = [threading.Thread(target=watch), threading.Thread(target=wait)]
    for thread in threads:
        thread.start()
    assert watching.wait(60)
    revoked = shared["n1"].cli("credentials", "revoke", "mallory", "--yes")
    assert revoked.returncode == 0, revoked.stderr
    at = time.monotonic()
    for thread in threads:
        thread.join(60)
    assert ended.keys() == {"watch", "wait"}
    for what, (when, error) in ended.items():
        assert when - at < ENDS_WITHIN_S, what
        assert isinstance(error, AccessDenied), (what, error)
        assert "were revoked" in error.message
    for name in ("n1", "n2", "n3"):
        assert_refused(run("status", *remote(shared, path, name)), 77, "were revoked", "credentials create")
    assert rows(shared)["mallory"]["revoked_at"] is not None


@pytest.mark.slow
def test_open_watch_ends_with_the_end_of_the_credentials(shared: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    created = shared["n1"].cli(
        "credentials", "create", "--role", "viewer", "--name", "short", "--ttl", "60s", "--out", path
    )
    assert created.returncode == 0, created.stderr
    shared["n1"].client().counters.incr("watched", 1)
    begun = time.monotonic()
    with pytest.raises(
        AccessDenied, match=r"short ended at .* the cluster's time is .*credentials renew short"
    ):
        for _ in client(shared, path).counters.watch("watched"):
            pass
    assert time.monotonic() - begun < 60 + ENDS_WITHIN_S


# --- thieves ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def robbed(formed: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Path]]:
    """Three voters of which n3 was removed after somebody copied its whole directory."""
    base = tmp_path_factory.mktemp("robbed")
    with formed.copy_to(base) as cluster:
        cluster.start_all()
        cluster.wait_healthy()
        loot = base / "loot"
        subprocess.run(["cp", "-r", str(cluster["n3"].directory), str(loot)], check=True)
        cluster["n3"].terminate()
        del cluster.nodes["n3"]
        removed = cluster["n1"].cli("member", "remove", "n3", "--yes", "--timeout", "30")
        assert removed.returncode == 0, removed.stderr
        assert cluster["n1"].cli("key", "rotate").returncode == 0
        yield cluster, loot


@pytest.mark.parametrize("role", ["operator", "gateway", "viewer", "node"])
def test_stolen_ca_key_of_a_removed_voter_makes_nobody(
    robbed: tuple[Cluster, Path], tmp_path: Path, role: str
) -> None:
    cluster, loot = robbed
    forger = Forger(loot / "pki")
    for name in ("admin", "n1", "thief"):
        path = forger.credentials(tmp_path / f"{name}.yaml", name, role)
        for node in ("n1", "n2"):
            where = remote(cluster, path, node)
            for command in (
                ("status",),
                ("token", "mint", "--sub", "a"),
                ("member", "invite", "--name", "x"),
                ("credentials", "create", "--role", "operator", "--name", "x", "--out", str(tmp_path / "x")),
            ):
                result = run(*command, *where)
                assert result.returncode == 77, (name, node, command, result.stderr)
    assert rows(cluster).keys() == {"admin", "n1", "n2"}


def test_stolen_ca_key_of_a_removed_voter_makes_no_node(robbed: tuple[Cluster, Path], tmp_path: Path) -> None:
    cluster, loot = robbed
    forger = Forger(loot / "pki")
    for name in ("ghost", "n2", "n3"):
        forged = forger.certificate(name, "node").write(tmp_path / name)
        for _ in range(3):  # n2 is asked the first time, and vouches for nobody
            with Peer(cluster["n1"], (forged.certificate, forged.key)) as peer:
                with contextlib.suppress(OSError):
                    peer.hello(name, cluster_id_of(cluster["n1"]))
                assert {message["type"] for message in peer.wait_closed()} <= {"goodbye"}, name
    keys = loot / "pki"
    with Peer(cluster["n1"], (keys / "node.crt", keys / "node.key")) as peer:
        with contextlib.suppress(OSError):
            peer.hello("n3", cluster_id_of(cluster["n1"]))
        assert [message["reason"] for message in peer.wait_closed()] == ["removed"]
    assert [row["name"] for row in cluster["n1"].client().member_list()["members"]] == ["n1", "n2"]


def test_node_key_is_no_credentials(robbed: tuple[Cluster, Path], tmp_path: Path) -> None:
    cluster, _ = robbed
    keys = cluster["n2"].directory / "pki"
    forger = Forger(keys)
    path = tmp_path / "node.yaml"
    path.touch(0o600)
    path.write_text(
        json.dumps(
            {
                "schema_version": 1,
                "role": "node",
                "name": "n2",
                "cluster_id": forger.cluster_id,
                "ca_pem": forger.ca_pem,
                "certificate_pem": (keys / "node.crt").read_text(),
                "key_pem": (keys / "node.key").read_text(),
            }
        )
    )
    result = run("status", *remote(cluster, path, "n1"))
    assert_refused(result, 77, "not for the api", "credentials create")
