"""The judge of certificates, against a thief who holds the CA key and signs anything."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.credentials import admission
from cyoloctl.credentials.admission import Admission
from cyoloctl.errors import AccessDenied, NoLeader, Unavailable
from cyoloctl.pki.founding import new_cluster
from cyoloctl.state import ClusterState
from tests.support.thief import Forged, Forger

ID = "c" * 32
KEY = "A" * 43 + "="


class Tls:
    """The TLS object of a finished handshake."""

    def __init__(self, shown: Forged | None) -> None:
        self._der = None if shown is None else shown.der

    def getpeercert(self, binary_form: bool) -> bytes | None:
        assert binary_form
        return self._der


class Net:
    """The engine, as far as the judge needs it."""

    def __init__(self) -> None:
        self.connected: dict[str, Any] = {}
        self.judges: dict[str, Admission] = {}
        self.asked: list[tuple[str, str]] = []
        self.live: dict[str, Tls] = {}
        self.ended: list[tuple[str, str]] = []
        self.leader = True

    def peers(self) -> dict[str, Any]:
        return self.connected

    async def call(self, name: str, body: bytes, *, timeout_s: float) -> bytes:
        asked = json.loads(body)
        assert asked["operation"] == "vouch"
        self.asked.append((name, asked["arguments"]["name"]))
        judge = self.judges.get(name)
        if judge is None:
            raise NoLeader("not connected")
        return json.dumps({"value": {"vouched": judge.vouches(**asked["arguments"])}}).encode()

    async def read_barrier(self, *, timeout_s: float) -> int:
        if not self.leader:
            raise NoLeader("no leader")
        return 1

    def recheck(self, judge: Callable[[Any], str], /) -> Iterable[tuple[str, str]]:
        refused = []
        for name, tls in self.live.items():
            try:
                judge(tls)
            except AccessDenied as error:
                refused.append((name, error.message))
        return refused

    def disconnect(self, name: str, reason: str = "removed") -> None:
        self.ended.append((name, reason))
        self.live.pop(name, None)


class World:
    """One node's judge over a state that the test writes."""

    def __init__(self, directory: Path, forger: Forger, *, caught_up: bool = True) -> None:
        self.directory, self.forger = directory, forger
        self.whole = ClusterState()
        self.net = Net()
        self.now_ms = time.time_ns() // 1_000_000
        self.index = 0
        self.judge = self.restart(caught_up=caught_up)

    def restart(self, *, caught_up: bool) -> Admission:
        self.judge = Admission(
            name="n1",
            cluster_id=ID,
            members=self.whole.members,
            credentials=self.whole.credentials,
            engine=self.net,
            now_ms=lambda: self.now_ms,
            pki_dir=self.directory,
        )
        if caught_up:
            self.judge._caught_up.set()
        return self.judge

    def apply(self, machine: str, operation: str, **arguments: Any) -> dict[str, Any]:
        self.index += 1
        return self.whole._machines[machine].apply(operation, arguments, self.index, self.now_ms)

    def member(self, name: str, shown: Forged | None = None, *, role: str = "voter") -> Forged:
        shown = shown or self.forger.certificate(name, "node")
        arguments = {
            "name": name,
            "address": "h:1",
            "role": role,
            "sealing_key": KEY,
            "raft_id": name,
            "certificate_expires_at": None,
        }
        self.apply("members", "put", **arguments)
        member = self.whole.members.get(name)
        assert member is not None
        self.whole.members._members[name] = _with_key(member, shown.key_hash)
        return shown

    def credentials(self, name: str, role: str = "operator", **changes: Any) -> Forged:
        shown = self.forger.certificate(name, role)
        arguments = {
            "name": name,
            "role": role,
            "key_hash": shown.key_hash,
            "ttl_ms": 3_600_000,
            "latest_unix_ms": 2**52,
            "created_by": "",
        }
        self.apply("credentials", "create", **(arguments | changes))
        return shown

    def caller(self, shown: Forged | None) -> tuple[str, str] | None:
        return self.judge.caller(Tls(shown))

    def why_caller(self, shown: Forged) -> str:
        with pytest.raises(AccessDenied) as caught:
            self.judge.authenticate_caller(Tls(shown))
        return caught.value.message

    def why_peer(self, shown: Forged | None) -> str:
        assert self.judge.peer(Tls(shown)) is None
        with pytest.raises(AccessDenied) as caught:
            self.judge.authenticate_peer(Tls(shown))
        return caught.value.message


def _with_key(member: Any, key_hash: str | None) -> Any:
    from dataclasses import replace

    return replace(member, key_hash=key_hash)


@pytest.fixture(scope="module")
def forger(tmp_path_factory: pytest.TempPathFactory) -> Forger:
    directory = tmp_path_factory.mktemp("stolen")
    new_cluster(directory, name="n1", cluster="demo", now=datetime.now(UTC), cluster_id=ID)
    return Forger(directory / "pki")


@pytest.fixture
async def world(tmp_path: Path, forger: Forger) -> World:
    return World(tmp_path, forger)


# --- callers -------------------------------------------------------------------------------------


async def test_caller_in_the_register_has_the_role_of_the_register(world: World) -> None:
    operator = world.credentials("ann")
    viewer = world.credentials("eve", "viewer")
    assert world.caller(operator) == ("ann", "operator")
    assert world.caller(viewer) == ("eve", "viewer")
    # The same key, certified once more by the thief as something better.
    better = world.forger.certificate("eve", "operator", key_pem=viewer.key_pem)
    assert world.caller(better) == ("eve", "viewer")
    assert world.caller(None) is None


async def test_caller_with_a_forged_certificate_is_nobody(world: World) -> None:
    operator = world.credentials("ann")
    forged = world.forger.certificate("ann", "operator")
    assert "not in the register" in world.why_caller(forged)
    assert "`cyoloctl credentials create`" in world.why_caller(forged)
    renamed = world.forger.certificate("bob", "operator", key_pem=operator.key_pem)
    assert world.caller(renamed) is None


@pytest.mark.parametrize("sans", [2])
async def test_caller_with_two_names_or_of_another_cluster_is_nobody(
    world: World, tmp_path: Path, sans: int
) -> None:
    operator = world.credentials("ann")
    two = world.forger.certificate("ann", "operator", key_pem=operator.key_pem, sans=sans)
    assert "does not name" in world.why_caller(two)
    new_cluster(tmp_path / "x", name="n1", cluster="x", now=datetime.now(UTC), cluster_id="d" * 32)
    other = Forger(tmp_path / "x" / "pki").certificate("ann", "operator", key_pem=operator.key_pem)
    assert "does not name" in world.why_caller(other)


async def test_caller_with_a_nodes_certificate_is_nobody(world: World) -> None:
    assert "not for the api" in world.why_caller(world.member("n2"))


async def test_caller_that_was_revoked_or_replaced_is_nobody(world: World) -> None:
    operator = world.credentials("ann")
    world.apply(
        "credentials", "renew", name="ann", from_key_hash=None, key_hash="a" * 64, ttl_ms=None,
        latest_unix_ms=2**52,
    )  # fmt: skip
    assert "was replaced" in world.why_caller(operator)
    other = world.credentials("bob")
    world.apply("credentials", "revoke", name="bob")
    assert "were revoked at" in world.why_caller(other)


async def test_caller_past_the_earlier_end_by_cluster_time_is_nobody(world: World) -> None:
    operator = world.credentials("ann")
    world.now_ms += 3_599_000
    assert world.caller(operator) == ("ann", "operator")
    world.now_ms += 1_000
    message = world.why_caller(operator)
    assert "the cluster's time is" in message
    assert "`cyoloctl credentials renew ann --out FILE`" in message


async def test_caller_past_the_end_of_the_certificate_itself_is_nobody(world: World) -> None:
    expired = world.forger.certificate("bob", "operator", days=-1)
    world.credentials("bob", key_hash=expired.key_hash)
    assert "ended at" in world.why_caller(expired)
    world.now_ms -= 3 * 86_400_000  # the cluster's time counts, and no wall clock
    assert world.caller(expired) == ("bob", "operator")


async def test_caller_of_a_node_that_is_not_up_to_date_is_told_to_try_again(
    tmp_path: Path, forger: Forger
) -> None:
    world = World(tmp_path, forger, caught_up=False)
    operator = world.credentials("ann")
    with pytest.raises(Unavailable):
        world.judge.authenticate_caller(Tls(operator))
    assert world.caller(operator) is None
    task = asyncio.create_task(world.judge.run())
    assert await world.judge.wait_caught_up(5.0)
    assert world.caller(operator) == ("ann", "operator")
    task.cancel()


# --- peers ---------------------------------------------------------------------------------------


async def test_peer_with_the_members_key_is_named(world: World) -> None:
    assert world.judge.peer(Tls(world.member("n2"))) == "n2"


async def test_peer_with_another_key_than_the_members_is_refused(world: World) -> None:
    world.member("n2")
    assert "somebody else" in world.why_peer(world.forger.certificate("n2", "node"))


async def test_peer_of_an_older_release_is_believed_by_name_until_it_announced(world: World) -> None:
    world.member("n2")
    member = world.whole.members.get("n2")
    world.whole.members._members["n2"] = _with_key(member, None)
    assert world.judge.peer(Tls(world.forger.certificate("n2", "node"))) == "n2"


async def test_peer_without_a_nodes_certificate_is_refused(world: World) -> None:
    assert "not a node's" in world.why_peer(world.credentials("ann"))
    assert "is needed" in world.why_peer(None)


async def test_peer_that_was_removed_is_refused_with_any_key(world: World) -> None:
    shown = world.member("n2")
    world.apply("members", "remove", name="n2")
    for each in (shown, world.forger.certificate("n2", "node")):
        assert "was removed" in world.why_peer(each)
        assert world.judge.authenticate_peer(Tls(each), removed_too=True) == "n2"


async def test_peer_whose_certificate_ended_is_refused_with_clock_and_command(world: World) -> None:
    shown = world.member("n2", world.forger.certificate("n2", "node", days=-1))
    message = world.why_peer(shown)
    assert "the cluster's time is" in message
    assert "`cyoloctl node renew`" in message
    world.now_ms -= 3 * 86_400_000
    assert world.judge.peer(Tls(shown)) == "n2"


async def test_peer_is_believed_on_the_cas_word_until_a_new_node_is_up_to_date(
    tmp_path: Path, forger: Forger
) -> None:
    world = World(tmp_path, forger, caught_up=False)
    shown = forger.certificate("n2", "node")
    assert world.judge.peer(Tls(shown)) == "n2"
    world.judge._caught_up.set()
    assert "no member" in world.why_peer(shown)


async def run_for(judge: Admission, condition: Callable[[], bool]) -> None:
    task = asyncio.create_task(judge.run())
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)
    task.cancel()


async def test_node_that_starts_judges_by_what_it_knew_when_it_ran_last(world: World) -> None:
    known, removed, new = world.member("n2"), world.member("n3"), world.forger.certificate("n4", "node")
    world.apply("members", "remove", name="n3")
    await run_for(world.judge, (world.directory / "members.json").exists)
    world.whole = ClusterState()  # a start with an empty state
    judge = world.restart(caught_up=False)
    assert judge.peer(Tls(known)) == "n2"
    assert "somebody else" in world.why_peer(world.forger.certificate("n2", "node"))
    assert judge.is_removed("n3")
    assert "was removed" in world.why_peer(removed)
    with pytest.raises(AccessDenied):  # the session could not know it by the state
        judge.authenticate_peer(Tls(removed), removed_too=True)
    assert "no member" in world.why_peer(new)


@pytest.mark.parametrize("text", ["", "{}", '{"members":[],"removed":1}', "\xff", '{"members":{"n2":{}}}'])
async def test_damaged_memory_of_members_counts_as_none(world: World, text: str) -> None:
    (world.directory / "members.json").write_bytes(text.encode("latin-1"))
    world.whole = ClusterState()
    world.restart(caught_up=False)
    assert world.judge.peer(Tls(world.forger.certificate("n2", "node"))) == "n2"


# --- nodes that this one has not applied yet -----------------------------------------------------


async def vouching(world: World, tmp_path: Path, *, role: str = "voter") -> tuple[World, Forged]:
    """A second node n2, connected, whose state holds a member n4 that the first one does not know."""
    shown = world.member("n2", role=role)
    ahead = World(tmp_path / "ahead", world.forger)
    ahead.member("n2", shown)
    world.net.connected = {"n2": object()}
    world.net.judges = {"n2": ahead.judge}
    return ahead, ahead.member("n4")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_unknown_peer_is_admitted_once_a_voter_vouches_for_it(world: World, tmp_path: Path) -> None:
    _, shown = await vouching(world, tmp_path)
    assert world.judge.peer(Tls(shown)) is None
    await until(lambda: world.judge.peer(Tls(shown)) == "n4")
    # The same name with another key is not what was vouched for.
    assert world.judge.peer(Tls(world.forger.certificate("n4", "node"))) is None


async def test_unknown_peer_is_not_admitted_on_the_word_of_a_learner(world: World, tmp_path: Path) -> None:
    _, shown = await vouching(world, tmp_path, role="learner")
    assert world.judge.peer(Tls(shown)) is None
    await until(lambda: not world.judge._tasks)
    assert world.net.asked == []
    assert world.judge.peer(Tls(shown)) is None


async def test_unknown_peer_that_nobody_knows_stays_out(world: World, tmp_path: Path) -> None:
    await vouching(world, tmp_path)
    ghost = world.forger.certificate("ghost", "node")
    assert "no member" in world.why_peer(ghost)
    await until(lambda: not world.judge._tasks)
    assert world.net.asked == [("n2", "ghost")]
    assert world.judge.peer(Tls(ghost)) is None


async def test_word_of_a_voter_ends_when_the_state_here_knows_the_name(world: World, tmp_path: Path) -> None:
    _, shown = await vouching(world, tmp_path)
    world.judge.peer(Tls(shown))
    await until(lambda: world.judge.peer(Tls(shown)) == "n4")
    world.member("n4")  # with another key: this node has caught up, and n4 is somebody else
    assert world.judge.peer(Tls(shown)) is None


async def test_word_of_a_voter_runs_out_unless_it_is_renewed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_VOUCHED_S", 0.3)
    monkeypatch.setattr(admission, "_ASK_AGAIN_S", 0.0)
    monkeypatch.setattr(admission, "_DOUBT_S", 0.1)
    ahead, shown = await vouching(world, tmp_path)
    world.judge.peer(Tls(shown))
    await until(lambda: world.judge.peer(Tls(shown)) == "n4")
    world.net.connected["n4"] = object()
    world.net.live["n4"] = Tls(shown)
    loop = asyncio.get_running_loop()
    end = loop.time() + 1.0
    while loop.time() < end:  # three times as long as one word holds
        world.judge.sweep()
        await asyncio.sleep(0.02)
    assert world.net.ended == []
    ahead.apply("members", "remove", name="n4")
    async with asyncio.timeout(5):
        while not world.net.ended:
            world.judge.sweep()
            await asyncio.sleep(0.02)
    assert [name for name, _ in world.net.ended] == ["n4"]


async def test_word_of_a_voter_does_not_last_beyond_its_seconds_without_a_sweep_either(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_VOUCHED_S", 0.3)
    monkeypatch.setattr(admission, "_ASK_AGAIN_S", 0.0)
    _, shown = await vouching(world, tmp_path)
    world.judge.peer(Tls(shown))
    await until(lambda: world.judge.peer(Tls(shown)) == "n4")
    world.net.judges = {}
    await until(lambda: world.judge.peer(Tls(shown)) is None)


async def test_node_vouches_for_the_keys_of_its_own_members_only_and_once_it_is_up_to_date(
    world: World,
) -> None:
    shown = world.member("n4")
    assert world.judge.vouches("n4", shown.key_hash)
    assert not world.judge.vouches("n4", "e" * 64)
    assert not world.judge.vouches("n5", shown.key_hash)
    assert not world.restart(caught_up=False).vouches("n4", shown.key_hash)
    world.restart(caught_up=True)
    world.apply("members", "remove", name="n4")
    assert not world.judge.vouches("n4", shown.key_hash)


async def test_certificate_of_a_ca_that_was_exchanged_counts_for_nobody(world: World) -> None:
    operator, node = world.credentials("ann"), world.member("n2")
    world.judge._is_trusted = lambda der: der == operator.der
    assert "has exchanged" in world.why_peer(node)
    assert world.caller(operator) == ("ann", "operator")
    world.judge._is_trusted = lambda der: der == node.der
    assert "has exchanged" in world.why_caller(operator)
    assert world.judge.peer(Tls(node)) == "n2"


async def test_strangers_cost_a_bounded_number_of_questions(world: World, tmp_path: Path) -> None:
    await vouching(world, tmp_path)
    for number in range(300):
        world.judge._query_about(f"g{number}", f"{number:064x}")
    assert len(world.judge._tasks) == admission._MAX_STRANGERS
    await until(lambda: not world.judge._tasks)


# --- connections that live -----------------------------------------------------------------------


async def test_sweep_ends_the_sessions_of_whoever_does_not_count_any_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("n2", "n3", "n4"):
        world.net.live[name] = Tls(world.member(name, world.forger.certificate(name, "node", days=1)))
    world.judge.sweep()
    assert world.net.ended == []
    world.apply("members", "remove", name="n2")
    world.judge.sweep()
    assert world.net.ended == []  # for a moment: it may wait for the answer to its own removal
    monkeypatch.setattr(admission, "_DOUBT_S", 0.0)
    world.judge.sweep()
    assert world.net.ended == [("n2", "removed")]
    world.now_ms += 2 * 86_400_000
    called = []
    world.judge.recheck_callers = lambda: called.append(1)
    world.judge.sweep()
    assert [name for name, _ in world.net.ended] == ["n2", "n3", "n4"]
    assert "ended at" in world.net.ended[1][1]
    assert called == [1]


async def test_sweeps_go_on_after_one_that_failed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_SWEEP_S", 0.01)
    calls = []

    def fail() -> None:
        calls.append(1)
        raise RuntimeError("a bug")

    world.judge.recheck_callers = fail
    await run_for(world.judge, lambda: len(calls) >= 3)


def _grant(world: World, name: str, shown: Forged) -> None:
    world.apply(
        "members",
        "grant",
        name=name,
        learner=False,
        request_sha256="a" * 64,
        key_hash=shown.key_hash,
        sealing_key=KEY,
        ttl_s=60,
    )


def test_peer_whose_request_was_granted_comes_in_with_that_key_until_the_expiry(
    tmp_path: Path, forger: Forger
) -> None:
    world = World(tmp_path, forger)
    world.member("n1")
    granted, thief = forger.certificate("n4", "node"), forger.certificate("n4", "node")
    _grant(world, "n4", granted)
    with asyncio.Runner() as runner:
        assert runner.run(_peer(world, granted)) == "n4"
        assert world.judge.vouches("n4", granted.key_hash)
        assert runner.run(_peer(world, thief)) is None
        assert not world.judge.vouches("n4", thief.key_hash)
        world.now_ms += 60_000
        assert runner.run(_peer(world, granted)) is None
        assert not world.judge.vouches("n4", granted.key_hash)


async def _peer(world: World, shown: Forged) -> str | None:
    return world.judge.peer(Tls(shown))
