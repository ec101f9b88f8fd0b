"""Real nodes whose wall clocks lie: what the cluster promised before must hold while they do, and after.

`Promises` is everything with an end that a cluster hands out: sessions, request ids, rendezvous, join tokens,
retired keys.  Every scenario makes them, moves clocks (libfaketime), and asks every node for all of them.
"""

from __future__ import annotations

import calendar
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import CyoloctlError, NotFound
from tests.support.cluster import Cluster, Node, NotYet, Writers, assert_refused, run, wait_until
from tests.support.tokens import assert_rejected, call, inspect, mint, wait_keys

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

MINUTE_S, DAY_S = 60, 86_400
YEARS_3_S = 3 * 365 * DAY_S
NEAR_S = 30.0
"""How exactly a clock's error must be shown: a loaded machine reads one clock after another."""


def to_1970() -> int:
    """The offset of a clock with a dead battery: it began to count again an hour ago."""
    return 3600 - int(time.time())


def to_year(year: int) -> int:
    """The offset of a clock that shows the first of March of a year."""
    return calendar.timegm((year, 3, 1, 0, 0, 0)) - int(time.time())


def cluster_time_s(node: Node) -> float:
    """Cluster time in Unix seconds, as a node's status shows it."""
    text = str(node.client().status()["cluster"]["time"])
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def check(node: Node) -> tuple[int, list[dict[str, Any]]]:
    """`status --check`: its exit status, and its problems."""
    done = node.cli("status", "--check", "-o", "json")
    assert done.stdout, done.stderr
    return done.returncode, list(json.loads(done.stdout)["problems"])


def clocks_named(node: Node) -> set[str]:
    """The members whose clocks `status --check` complains about; it exits 4 when there is any."""
    status, problems = check(node)
    named = {str(row["member"]) for row in problems if row["code"] == "clock"}
    assert status == 4 or not named, f"exit status {status} with {problems}"
    return named


def wait_clock_named(node: Node, *names: str) -> None:
    """Until the named machines, and no others, are said to have a clock that is off."""
    wanted = set(names)

    def named() -> bool:
        seen = clocks_named(node)
        if seen != wanted:
            raise NotYet(seen)
        return True

    wait_until(f"{node.name} naming the clocks of {sorted(wanted) or 'nobody'}", named)


def wait_skew(through: Node, name: str, offset_s: int) -> None:
    """Until a node shows that a member's clock is off by this."""

    def shown() -> bool:
        rows = {row["name"]: row for row in through.client().status()["members"]}
        skew_ms = rows[name]["clock_skew_ms"]
        if skew_ms is None or abs(skew_ms / 1000 - offset_s) > NEAR_S:
            raise NotYet(f"{name}: {skew_ms} ms")
        return True

    wait_until(f"{through.name} measuring {name}'s clock as {offset_s:+d} s", shown)


def step(cluster: Cluster, name: str, offset_s: int) -> None:
    """Step a running node's clock, and wait until another one has measured it."""
    cluster[name].step_clock(offset_s)
    other = next(node for node in cluster.running() if node.name != name)
    wait_skew(other, name, offset_s)


def settle(cluster: Cluster) -> None:
    """All clocks right again, and nobody complains."""
    for node in cluster.nodes.values():
        node.step_clock(0)
        if not node.running():
            node.start()
    cluster.wait_settled(voters=len(cluster.nodes))
    for node in cluster.nodes.values():
        wait_until(f"{node.name} without a problem", lambda node=node: check(node) == (0, []))  # type: ignore[misc]


@dataclass
class Promises:
    """Everything with an end that a cluster handed out while its clocks were right."""

    cluster: Cluster
    token: str
    retired: str
    under_retired: str
    rendezvous: str
    request_id: str
    invited: str
    join_token: str = field(repr=False)
    checks: int = 0

    @classmethod
    def made(cls, cluster: Cluster, invited: str = "n9") -> Promises:
        """Through the first running node.  Rendezvous live 10 minutes, invitations 15, a session 2 days."""
        node = cluster.running()[0]
        wait_keys(cluster)
        policy = node.cli("key", "policy", "--rotate-every", "24h", "--keep", "7d")
        assert policy.returncode == 0, policy.stderr
        under_retired = mint(node, ttl_s=2 * DAY_S, max_age_s=2 * DAY_S)
        retired = str(inspect(node, under_retired)["key_id"])
        call(node, "key_rotate", timeout_s=30)
        wait_keys(cluster)
        token = mint(node)
        assert node.client().counters.incr("once", 1, request_id="job-1")["value"] == 1
        begun = call(node, "rendezvous_start", kind="mfa", ttl_s=600)
        join_token = str(node.client(10.0).member_invite(invited, ttl_s=900)["token"])
        return cls(cluster, token, retired, under_retired, begun["id"], "job-1", invited, join_token)

    def hold(self) -> None:
        """Each of the five, on every running node; the failure names all that were broken."""
        self.checks += 1
        nodes = self.cluster.running()
        each = (
            self.sessions_hold,
            self.request_ids_hold,
            self.rendezvous_hold,
            self.invitations_hold,
            self.keys_hold,
        )
        broken = {}
        for holds in each:
            try:
                holds(nodes)
            except (AssertionError, CyoloctlError) as error:
                broken[holds.__name__] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        assert not broken, f"broken: {json.dumps(broken, indent=1)}"

    def sessions_hold(self, nodes: list[Node]) -> None:
        """Old sessions open everywhere; a new one of each node opens on each."""
        fresh = {node.name: mint(node) for node in nodes}
        for node in nodes:
            assert inspect(node, self.token)["gen"] == 1
            for minter, token in fresh.items():
                assert inspect(node, token)["gen"] == 1, f"minted by {minter}, shown to {node.name}"

    def request_ids_hold(self, nodes: list[Node]) -> None:
        """The request that was applied before applies no second time, through whomever it is repeated."""
        for node in nodes:
            again = node.client().counters.incr("once", 1, request_id=self.request_id)
            assert again["value"] == 1, f"{self.request_id} applied again through {node.name}"
        assert nodes[0].client().counters.get("once")["value"] == 1

    def rendezvous_hold(self, nodes: list[Node]) -> None:
        """The open one is pending; new ones are begun, approved and redeemed once, on three nodes."""
        for node in nodes:
            assert node.client().call("rendezvous_show", self.rendezvous)["state"] == "pending"
        for number, node in enumerate(nodes):
            begun = call(node, "rendezvous_start", kind="mfa", ttl_s=60)
            call(nodes[(number + 1) % len(nodes)], "rendezvous_approve", id=begun["id"])
            last = nodes[(number + 2) % len(nodes)]
            redeemed = call(last, "rendezvous_wait", id=begun["id"], request_id="a" * 16)
            assert redeemed["state"] == "consumed"
            with pytest.raises(CyoloctlError):
                call(last, "rendezvous_wait", id=begun["id"], request_id="b" * 16)

    def invitations_hold(self, nodes: list[Node]) -> None:
        """Every node still invites; the open invitation is redeemed in `redeem`."""
        for node in nodes:
            name = f"guest-{self.checks}-{node.name}"
            assert node.client(10.0).member_invite(name, ttl_s=60)["token"]

    def keys_hold(self, nodes: list[Node]) -> None:
        """The key that was just retired opens what it sealed; nothing rotated by itself."""
        for node in nodes:
            keys = {row["key_id"]: row["state"] for row in node.client().call("key_list")["keys"]}
            assert keys[self.retired] == "enabled", f"{node.name}: {keys}"
            assert len(keys) == 2, f"{node.name}: {keys}"
            assert inspect(node, self.under_retired)["key_id"] == self.retired

    def redeem(self) -> Node:
        """The join token that was made before the clocks went wrong admits its node."""
        node = self.cluster.new_node(self.invited)
        arguments = ("--name", node.name, "--listen", node.address, "--token-file", "-")
        joined = node.cli("node", "join", *arguments, stdin=self.join_token)
        assert joined.returncode == 0, joined.stderr
        node.start()
        self.cluster.wait_settled(voters=len(self.cluster.nodes))
        return node


@dataclass
class World:
    """Three voters whose clocks can be moved, and what they promised."""

    cluster: Cluster
    promises: Promises
    began_s: float = field(default_factory=time.time)

    def time_is_right(self) -> None:
        """Cluster time is real time: nobody's clock moved it."""
        for node in self.cluster.running():
            assert abs(cluster_time_s(node) - time.time()) < NEAR_S, node.name
            # None: no majority's clocks are known.
            assert (node.client().status()["cluster"]["time_ahead_s"] or 0) < NEAR_S


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Used by one test after the other, and left with all clocks right."""
    with Cluster(tmp_path_factory.mktemp("time"), clocks=True) as cluster:
        yield World(cluster.form(3), Promises.made(cluster))


# --- one of three is wrong ----------------------------------------------------------------------


def test_clock_of_a_follower_9_days_ahead_at_its_start_moves_nothing_and_is_named(world: World) -> None:
    cluster = world.cluster
    name = cluster.followers()[0]
    assert cluster[name].terminate() == 0
    cluster[name].step_clock(9 * DAY_S)
    cluster[name].start()
    cluster.wait_leader()
    other = next(node for node in cluster.running() if node.name != name)
    wait_skew(other, name, 9 * DAY_S)
    cluster[name].client().counters.incr("more", 1)
    world.promises.hold()
    world.time_is_right()
    for node in cluster.nodes.values():
        wait_clock_named(node, name)
    row = next(row for row in check(other)[1] if row["code"] == "clock")
    assert name in row["message"]
    assert row["command"]
    # As the README of many a site says: set the clock, restart.
    assert cluster[name].terminate() == 0
    settle(cluster)
    world.promises.hold()


@pytest.mark.parametrize("who", ["follower", "leader"])
def test_clock_that_steps_under_writes_moves_nothing_and_is_named(world: World, who: str) -> None:
    cluster = world.cluster
    leader = cluster.wait_leader()
    name = leader if who == "leader" else cluster.followers()[-1]
    witness = next(node for node in cluster.running() if node.name != name)
    with Writers(cluster, counter=f"steps-{who}", threads=2) as writers:
        for offset_s in (20 * MINUTE_S, 400 * DAY_S, to_1970(), -400 * DAY_S):
            step(cluster, name, offset_s)
            writers.wait_more(50)
            world.promises.hold()
            world.time_is_right()
            wait_clock_named(witness, name)
        writers.finish()
    writers.assert_exact(witness.client().counters.get(f"steps-{who}")["value"])
    settle(cluster)


def test_clocks_of_two_of_three_while_one_is_down_agree_on_the_earlier_and_forget_nothing(
    world: World,
) -> None:
    cluster = world.cluster
    down, wrong = cluster.followers()
    cluster[down].kill()
    for offset_s in (9 * DAY_S, to_1970()):
        step(cluster, wrong, offset_s)
        cluster[wrong].client().counters.incr("more", 1)
        world.promises.hold()
        world.time_is_right()
    # The one with the wrong clock leads, with nobody else to ask but the right one.
    leader = next(node for node in cluster.running() if node.name != wrong)
    leader.client(10.0).transfer_leadership(wrong)
    wait_until("the wrong clock leading", lambda: cluster.wait_leader() == wrong)
    world.promises.hold()
    world.time_is_right()
    settle(cluster)
    world.promises.hold()


def test_clocks_of_all_three_in_1970_at_a_restart_go_on_from_what_the_journal_knows(world: World) -> None:
    cluster = world.cluster
    before_s = cluster_time_s(cluster["n1"])
    cluster.stop_all()
    for node in cluster.nodes.values():
        node.step_clock(to_1970())
    cluster.start_all()
    cluster.wait_settled(voters=3)
    for node in cluster.nodes.values():
        assert before_s - 1 <= cluster_time_s(node) <= time.time() + 1
        wait_clock_named(node, "n1", "n2", "n3")
    world.promises.hold()
    after_s = cluster_time_s(cluster["n1"])
    wait_until("time going on", lambda: cluster_time_s(cluster["n1"]) >= after_s + 2)
    settle(cluster)
    world.promises.hold()
    world.time_is_right()


def test_join_token_of_before_all_that_admits_its_node(world: World) -> None:
    """The last of the tests on this cluster."""
    world.promises.redeem()
    assert len(world.cluster.running()) == 4
    world.promises.hold()


# --- a majority is wrong ------------------------------------------------------------------------


def test_time_of_a_wrong_majority_is_taken_up_and_set_time_to_members_mends_it(
    stopped: Cluster,
) -> None:
    cluster = stopped
    for node in cluster.nodes.values():
        node.step_clock(0)
    cluster.start_all()
    cluster.wait_settled(voters=3)
    wait_keys(cluster)
    one = cluster["n1"]
    assert one.cli("key", "policy", "--keep", "60d").returncode == 0
    long = mint(one, ttl_s=30 * DAY_S, max_age_s=30 * DAY_S)
    short = mint(one)
    for name in ("n2", "n3"):
        cluster[name].step_clock(9 * DAY_S)
    wait_until("the majority's time", lambda: cluster_time_s(one) - time.time() > 9 * DAY_S - NEAR_S)
    wait_clock_named(one, "n1")
    assert inspect(one, long)["gen"] == 1
    assert_rejected([one], short)
    later = mint(one, ttl_s=10 * DAY_S, max_age_s=10 * DAY_S)
    # Their clocks are set right: cluster time does not go back by itself, and goes on.
    for name in ("n2", "n3"):
        cluster[name].step_clock(0)
    wait_until(
        "time being ahead of the clocks",
        lambda: abs(one.client().status()["cluster"]["time_ahead_s"] - 9 * DAY_S) < NEAR_S,
    )
    for node in cluster.nodes.values():
        assert check(node)[0] == 4
        assert inspect(node, later)["gen"] == inspect(node, long)["gen"] == 1
        assert inspect(node, mint(node))["gen"] == 1
    ahead_s = cluster_time_s(one)
    dry = one.cli("cluster", "set-time", "--to-members", "--dry-run", "-o", "json")
    assert dry.returncode == 0, dry.stderr
    assert json.loads(dry.stdout)["schema_version"] == 1
    assert cluster_time_s(one) >= ahead_s
    assert_refused(one.cli("cluster", "set-time", "--to-members"), 2, "--yes")
    done = one.cli("cluster", "set-time", "--to-members", "--yes")
    assert done.returncode == 0, done.stderr
    for node in cluster.nodes.values():
        wait_until(
            f"{node.name} at the members' time",
            lambda node=node: abs(cluster_time_s(node) - time.time()) < NEAR_S,  # type: ignore[misc]
        )
    settle(cluster)
    for node in cluster.nodes.values():
        assert inspect(node, long)["gen"] == 1
        assert inspect(node, mint(node))["gen"] == 1
    # What was set is kept in the state: a restart goes on from there.
    cluster.stop_all()
    cluster.start_all()
    cluster.wait_settled(voters=3)
    for node in cluster.nodes.values():
        assert abs(cluster_time_s(node) - time.time()) < NEAR_S
        assert inspect(node, mint(node))["gen"] == 1


# --- two voters ---------------------------------------------------------------------------------


def test_clocks_of_two_voters_that_disagree_end_nothing_early_go_on_and_are_both_named(
    tmp_path: Path,
) -> None:
    with Cluster(tmp_path, clocks=True) as cluster:
        one, two = cluster.form(2).nodes.values()
        promises = Promises.made(cluster)
        for offset_s, named in ((9 * DAY_S, {"n1", "n2"}), (-9 * DAY_S, {"n1", "n2"}), (to_1970(), {"n2"})):
            two.step_clock(offset_s)
            wait_until("the clock being named", lambda named=named: clocks_named(one) >= named)  # type: ignore[misc]
            promises.hold()
            for node in (one, two):
                assert abs(cluster_time_s(node) - time.time()) < NEAR_S
            if named == {"n1", "n2"}:
                continue
            # What only counts goes on with no clock but one: ten seconds are over in ten, more or less.
            began = time.monotonic()
            begun = call(two, "rendezvous_start", kind="mfa", ttl_s=10)
            wait_until(
                "ten seconds being over",
                lambda id=begun["id"]: one.client().call("rendezvous_show", id)["state"] == "expired",  # type: ignore[misc]
            )
            assert 9.0 < time.monotonic() - began < 25.0
        settle(cluster)
        promises.hold()
        promises.redeem()


# --- nodes that come with a wrong clock ---------------------------------------------------------


def _join_with_clock(cluster: Cluster, name: str, offset_s: int, through: str) -> Node:
    token = cluster.invite(name, through=through)
    node = cluster.new_node(name)
    node.step_clock(offset_s)
    arguments = ("--name", name, "--listen", node.address, "--token-file", "-")
    joined = node.cli("node", "join", *arguments, stdin=token, **node.env)
    assert joined.returncode == 0, joined.stderr
    node.start()
    cluster.wait_settled(voters=len(cluster.nodes))
    return node


def test_nodes_of_1970_and_of_in_three_years_join_vote_lead_and_serve_through_tls(tmp_path: Path) -> None:
    with Cluster(tmp_path, clocks=True) as cluster:
        one = cluster.init("n1")
        promises = Promises.made(cluster)
        past = _join_with_clock(cluster, "n2", to_1970(), "n1")
        future = _join_with_clock(cluster, "n3", YEARS_3_S, "n2")
        wait_keys(cluster)
        promises.hold()
        wait_clock_named(one, "n2", "n3")
        for leader in (past, future, one):
            wait_until("a leader to ask", cluster.wait_leader)
            if cluster.wait_leader() != leader.name:
                cluster.client(timeout_s=10.0).transfer_leadership(leader.name)
            wait_until(f"{leader.name} leading", lambda leader=leader: cluster.wait_leader() == leader.name)  # type: ignore[misc]
            promises.hold()
            for server in {past.name, future.name} & {leader.name}:
                # The control API over TLS, from a machine whose clock is right.
                remote = ("-e", f"https://{cluster[server].address}", "--credentials", cluster.credentials())
                assert run("status", *remote).returncode == 0
                minted = run("token", "mint", "--sub", "zoe", *remote)
                assert minted.returncode == 0, minted.stderr
                assert inspect(one, minted.stdout.strip())["sub"] == "zoe"
            assert abs(cluster_time_s(one) - time.time()) < NEAR_S
        # A machine set to the wrong year, admitted through a leader that is in another wrong one.
        if cluster.wait_leader() != "n2":
            cluster.client(timeout_s=10.0).transfer_leadership("n2")
        late = _join_with_clock(cluster, "n4", 400 * DAY_S, "n2")
        rows = {row["name"]: row for row in one.client().status()["members"]}
        for name in ("n2", "n3", "n4"):
            ends_s = datetime.fromisoformat(rows[name]["certificate_expires_at"]).timestamp()
            assert 0 < ends_s - time.time() < 826 * DAY_S, f"{name}: {rows[name]['certificate_expires_at']}"
        # Two of four in the right order of things: none of the wrong ones alone.
        one.kill()
        wait_until("a leader without n1", lambda: cluster.wait_leader() in {"n2", "n3", "n4"})
        promises.hold()
        one.start()
        cluster.wait_settled(voters=4)
        for node in (past, future, late):
            node.step_clock(0)
        settle(cluster)
        promises.hold()
        promises.redeem()


# --- no time at all -----------------------------------------------------------------------------


@pytest.mark.parametrize("year", [1970, 2019, 2201])
def test_cluster_init_on_a_machine_without_the_time_is_refused_with_the_command_that_sets_it(
    tmp_path: Path, year: int
) -> None:
    node = Cluster(tmp_path).new_node("n1")
    node.step_clock(to_1970() if year == 1970 else to_year(year))
    refused = node.cli("cluster", "init", "--name", "n1", "--listen", node.address, **node.env)
    assert_refused(refused, 78, "clock", "date -s")
    assert not (node.directory / "node.yaml").exists()


# --- a night off -----------------------------------------------------------------------------------


def test_what_is_made_right_after_a_cold_start_lives_as_long_as_it_says(stopped: Cluster) -> None:
    cluster = stopped
    cluster.start_all()
    cluster.wait_settled(voters=3)
    wait_keys(cluster)
    cluster.stop_all()
    for node in cluster.nodes.values():
        node.step_clock(12 * 3600)
    cluster.start_all()
    # At once, with nobody waiting for the time: it begins where it stopped, half a day ago.
    token = mint(cluster["n1"])
    begun = call(cluster["n2"], "rendezvous_start", kind="mfa")
    then_s = time.time() + 12 * 3600
    wait_until("the new time", lambda: abs(cluster_time_s(cluster["n3"]) - then_s) < NEAR_S)
    for node in cluster.nodes.values():
        assert inspect(node, token)["gen"] == 1
        assert node.client().call("rendezvous_show", begun["id"])["state"] == "pending"


# --- three years in a box -----------------------------------------------------------------------


def test_three_nodes_that_lay_in_a_box_for_three_years_start_renew_and_serve(stopped: Cluster) -> None:
    cluster = stopped
    cluster.start_all()
    cluster.wait_settled(voters=3)
    promises = Promises.made(cluster)
    lasting = promises.under_retired
    assert cluster["n1"].client().counters.incr("kept", 7)["value"] == 7
    cluster.stop_all()
    for node in cluster.nodes.values():
        node.step_clock(YEARS_3_S)
    cluster.start_all()
    cluster.wait_settled(voters=3, timeout_s=60.0)
    then_s = time.time() + YEARS_3_S
    for node in cluster.nodes.values():
        wait_until(
            f"{node.name} at the new time",
            lambda node=node: abs(cluster_time_s(node) - then_s) < 3 * NEAR_S,  # type: ignore[misc]
            60.0,
        )

    def renewed() -> bool:
        rows = cluster["n1"].client().status()["members"]
        ends = {row["name"]: row["certificate_expires_at"] for row in rows}
        if any(datetime.fromisoformat(text).timestamp() < then_s + 30 * DAY_S for text in ends.values()):
            raise NotYet(ends)
        return True

    wait_until("every certificate renewed", renewed, 90.0)
    wait_keys(cluster)
    for node in cluster.nodes.values():
        assert node.client().counters.get("kept")["value"] == 7
        # What had to end has ended, and everything works.
        assert_rejected([node], promises.token, lasting)
        assert inspect(node, mint(node))["gen"] == 1
        with pytest.raises(NotFound, match="ended long ago"):
            node.client().call("rendezvous_show", promises.rendezvous)
