"""Every problem that `status --check` fails for, from the real status of a node with real state.

The engine is real and not started.  What peers say, and what the replica knows
of them, is put over it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cyoloctl import __version__
from cyoloctl.audit.chain import MAX_LINES
from cyoloctl.audit.lines import common_of
from cyoloctl.keys.keyring import new_key
from cyoloctl.keys.wrapping import wrap
from cyoloctl.members.facts import CODES
from cyoloctl.members.problems import DISK_LOW_BYTES
from cyoloctl.members.standing import AWAY_S, BEHIND_S
from cyoloctl.model import Address, NodeName, Stamp
from cyoloctl.node.config import Config
from cyoloctl.node.service import Service
from cyoloctl.paths import disk_space
from cyoloctl.pki.files import PKI_DIRECTORY
from cyoloctl.pki.founding import new_cluster
from cyoloctl.pki.tls import TlsIdentity
from cyoloctl.raft import (
    COPY,
    DISK_FAILED,
    LEFT_BEHIND,
    NO_MEMORY,
    OLDER,
    ClusterClock,
    Engine,
    Journal,
    MemoryStore,
    PeerIdentity,
    PeerInfo,
    Refusal,
    ReplicaStatus,
    SnapshotStore,
    Trouble,
)
from cyoloctl.replicated.levels import Release
from cyoloctl.snapshots.policy import SnapshotPolicy
from cyoloctl.state import ClusterState
from tests.docs.reading import ROOT, pages
from tests.docs.test_commands import complaint
from tests.fuzz.worlds import MemoryFiles
from tests.support.cluster import free_port

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
DAY_MS = 86_400_000
FAR = "2028-09-01T00:00:00Z"


class _Engine:
    """A real engine, with peers."""

    def __init__(self, engine: Engine) -> None:
        self._real = engine
        voters = ("n1", "n2", "n3")
        self.known = ReplicaStatus("n1", "leader", 1, "n1", 1, 50, 50, 50, 1, voters, (), (), voters[1:], {})
        self.told = {name: _peer(name) for name in ("n2", "n3")}
        self.refused: list[Refusal] = []
        self.kept_out: dict[str, str] = {}
        self.away: dict[str, str] = {}
        self.said: dict[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def status(self) -> ReplicaStatus:
        return self.known

    def leader(self) -> str | None:
        return self.known.leader

    def is_leader(self) -> bool:
        return False  # nothing is written here

    def voter_names(self) -> frozenset[str]:
        return frozenset(self.known.voters)

    def peers(self) -> dict[str, PeerInfo]:
        return self.told

    def refusals(self) -> list[Refusal]:
        return self.refused

    def kept_out_by(self) -> dict[str, str]:
        return self.kept_out

    def absences(self) -> dict[str, str]:
        return self.away

    def farewells(self) -> dict[str, str]:
        return self.said


def _peer(name: str) -> PeerInfo:
    said = {
        "role": "follower",
        "leader": "n1",
        "term": 1,
        "commit_index": 50,
        "applied_index": 50,
        "disk_free_bytes": 2**40,
        "disk_total_bytes": 2**42,
        "disk_reserve_bytes": 2**26,
        "disk_days_left": None,
    }
    links = frozenset({"n1", "n2", "n3"} - {name})
    return PeerInfo(f"{name}:1", "1", info=said, links=links, pongs=9)


class World:
    """Node n1 of three, whose clocks and disks are fine; it leads."""

    def __init__(self, where: Path) -> None:
        async def nobody(*_: object) -> Any:
            raise OSError("nobody is dialled here")

        files = new_cluster(where, name="n1", cluster="demo", now=NOW)
        self.files, self.pki = files, where / PKI_DIRECTORY
        self.seconds = 100.0
        self.state = ClusterState()
        identity = files.identity
        real = Engine(
            PeerIdentity("n1", "n1", str(identity.cluster_id), "boot", "n1:1", "1"),
            journal=Journal(MemoryStore(), clock=lambda: 0.0),
            snapshots=SnapshotStore(MemoryFiles()),
            machine=self.state,
            clock=ClusterClock("n1", wall_unix_ms=self._wall_ms, monotonic=lambda: self.seconds),
            identify=str,
            connect=nobody,
            describe=dict,
            on_call=nobody,
            membership_view=None,  # type: ignore[arg-type]  # it is not asked before the engine starts
        )
        real.clock.applied(Stamp(0, NOW_MS, 0))
        self.engine = _Engine(real)
        for name in ("n2", "n3"):
            real.clock.measured(name, NOW_MS, 0.0)
        config = Config(
            name=NodeName("n1"),
            cluster_id=identity.cluster_id,
            cluster=NodeName("demo"),
            listen=Address("127.0.0.1", 1),
            advertise=Address("127.0.0.1", 1),
        )
        self.service = Service(
            config,
            files,
            self.pki,
            self.engine,  # type: ignore[arg-type]
            self.state,
            tls=TlsIdentity(self.pki),
            raft_id="n1",
            request_stop=lambda: None,
            reload=dict,
        )
        self.service.member_status._clock = lambda: self.seconds
        self.service._proposer._caught_up = True
        for name in ("n1", "n2", "n3"):
            self.member(name)

    def _wall_ms(self) -> int:
        return NOW_MS + int((self.seconds - 100) * 1000)

    def member(self, name: str, expires_at: str = FAR) -> None:
        given = {"name": name, "address": f"{name}:1", "role": "voter", "raft_id": name}
        more = {"sealing_key": self.files.sealing_key, "certificate_expires_at": expires_at}
        self.state.members.apply("put", {**given, **more}, 1, 0)

    def says(self, name: str, **facts: object) -> None:
        self.engine.told[name].info |= facts

    def problems(self) -> list[dict[str, Any]]:
        return [dict(found) for found in self.service.member_status.status()["problems"]]

    def codes(self) -> set[tuple[str, str | None]]:
        return {(found["code"], found["member"]) for found in self.problems()}

    def healthy(self) -> bool:
        return self.service.member_status.status()["cluster"]["healthy"]

    def lasting(self, seconds: float) -> None:
        """Time passes in which peers ask how this node is, once per second."""
        for _ in range(int(seconds) + 1):
            self.service.member_status.describe()
            self.seconds += 1.0
            for name in ("n2", "n3"):
                self.engine.clock.measured(name, self._wall_ms(), 0.0)


def _member_away(world: World) -> None:
    del world.engine.told["n2"]
    world.engine.away["n2"] = "n2:1: connection refused"


def _link(world: World) -> None:
    for name, other in (("n2", "n3"), ("n3", "n2")):
        world.engine.told[name].links -= {other}


def _not_following(world: World) -> None:
    world.says("n3", role="candidate", leader=None)
    world.lasting(BEHIND_S)


def _lagging(world: World) -> None:
    world.says("n3", applied_index=12)
    world.lasting(BEHIND_S)


def _disk_full(world: World) -> None:
    world.says("n3", disk_free_bytes=2**26 - 1)


def _disk_filling(world: World) -> None:
    world.says("n3", disk_free_bytes=4 * 2**26 - 1)


def _refused(reason: str) -> Callable[[World], None]:
    def refuse(world: World) -> None:
        world.engine.refused.append(Refusal("n2", reason, "n2:1", 0.0))

    return refuse


def _kept_out(world: World) -> None:
    world.engine.kept_out["n2"] = COPY


def _history_replaced(world: World) -> None:
    world.engine.kept_out["n2"] = LEFT_BEHIND


def _vote_lost(world: World) -> None:
    changed = {"voters": ("n1", "n2~a", "n3"), "connected": ("n2~b", "n3")}
    world.engine.known = replace(world.engine.known, **changed)


def _trouble(code: str) -> Callable[[World], None]:
    def trouble(world: World) -> None:
        world.engine.known = replace(world.engine.known, troubles=(Trouble(code, "n2", "of two minds"),))

    return trouble


def _clock(world: World) -> None:
    world.engine.clock.measured("n3", NOW_MS + 9 * DAY_MS, 0.0)


def _time_ahead(world: World) -> None:
    world.engine.clock.applied(Stamp(0, NOW_MS + DAY_MS, 0))


def _key_lacking(world: World) -> None:
    """The ring holds a key; n1 has opened it, n2 and n3 have not."""
    key = new_key(world.service.keys._cluster_id)
    wrapped = {"n1": wrap(key, node="n1", sealing_key=world.files.sealing_key)}
    keys, announcement = world.state.keys, world.service.keys._announcement
    announced = {name: getattr(announcement, name) for name in announcement.__slots__}
    keys.apply("announce", {"name": "n1", **announced}, 1, NOW_MS)
    made = {"key_id": key.key_id_hex, "cluster_id": key.cluster_id, "fingerprint": key.fingerprint}
    keys.apply("generate", {**made, "wrapped": wrapped}, 2, NOW_MS)
    keys.apply("confirm", {"name": "n1", "keys": {key.key_id_hex: key.fingerprint}}, 3, NOW_MS)
    assert world.service.keys.ring().primary == world.service.keys.ring().get(key.key_id)


def _certificate(expires_at: str) -> Callable[[World], None]:
    return lambda world: world.member("n2", expires_at)


async def _certificate_renewal_failed(world: World) -> None:
    """Its certificate is in its last third, and no node that holds the key of the CA is connected."""
    (world.pki / "ca.key").unlink()
    world.engine.clock.applied(Stamp(0, NOW_MS + 800 * DAY_MS, 0))
    world.engine.told.clear()
    for _ in range(6):
        world.service.certificates._retry_at = 0.0
        await world.service.certificates.maintain()


async def _ca_exchange_failed(world: World) -> None:
    """The register has begun an exchange whose new CA nobody of the old one vouches for."""
    other = new_cluster(world.pki.parent / "other", name="n1", cluster="demo", now=NOW)
    given = {"ca_pem": other.ca_pem, "old_ca_pem": world.files.ca_pem, "voucher": "AAAA"}
    world.state.authorities.apply("begin", {**given, "keys": {}, "overlap_ms": DAY_MS}, 1, NOW_MS)
    await world.service.certificates.maintain()


def _ca_rotation_due(world: World) -> None:
    world.state.members.apply("remove", {"name": "n3"}, 2, NOW_MS)


def _credentials_expiring(world: World) -> None:
    made = {"role": "viewer", "ttl_ms": DAY_MS, "latest_unix_ms": NOW_MS + 99 * DAY_MS, "created_by": ""}
    world.state.credentials.apply("create", {"name": "ann", "key_hash": "a" * 64, **made}, 1, NOW_MS)
    world.engine.clock.applied(Stamp(0, NOW_MS + DAY_MS * 9 // 10, 0))


async def _snapshot_failed(world: World) -> None:
    world.service.schedule.policy = SnapshotPolicy(3600, 1, "/nonexistent/backup")
    await world.service.schedule.step()


def _kv_quota(world: World) -> None:
    world.state.kv.size = world.state.kv.quota * 9 // 10


def _audit_not_exported(world: World) -> None:
    lines = world.state.audit.chain("trust")
    row = (common_of("trust", ("ann", "operator", "", "", "n1", "keys.generate")), 1, 1, "done", "r", "", 0)
    for _ in range(MAX_LINES * 9 // 10):
        lines.append(row)


def _disk_slow(world: World) -> None:
    world.engine.told["n3"].info["slow_sync_ms"] = 2300.0


def _read_only(world: World) -> None:
    world.engine.told["n3"].info["disk_read_only"] = True


def _no_memory(world: World) -> None:
    _member_away(world)
    world.engine.said["n2"] = NO_MEMORY


def _certificate_refused(world: World) -> None:
    _member_away(world)
    world.engine.away["n2"] = "n2:1: TLS: its certificate is not accepted here: unable to get local issuer"


async def _address(world: World) -> None:
    """The members were told that this node is where nothing listens."""
    given = {"name": "n1", "address": f"127.0.0.1:{free_port()}"}
    world.state.members.apply("set_address", given, 2, NOW_MS)
    await world.service.own_address.look()


def _level_behind(world: World) -> None:
    world.state.levels.own = Release("9.0.0", 2)
    for name in ("n1", "n2", "n3"):
        world.state.levels.apply("announce", {"name": name, "level": 2}, 3, NOW_MS)
    for peer in world.engine.told.values():
        peer.level = 2


CASES: dict[str, tuple[Callable[[World], Any], str | None]] = {
    "member_away": (_member_away, "n2"),
    "link": (_link, "n2"),
    "address": (_address, "n1"),
    "not_following": (_not_following, "n3"),
    "lagging": (_lagging, "n3"),
    "disk_filling": (_disk_filling, "n3"),
    "disk_full": (_disk_full, "n3"),
    "disk_slow": (_disk_slow, "n3"),
    "disk_failed": (_read_only, "n3"),
    "memory": (_no_memory, "n2"),
    "copy": (_refused(COPY), "n2"),
    "older_disk": (_refused(OLDER), "n2"),
    "kept_out": (_kept_out, "n1"),
    "left_behind": (_refused(LEFT_BEHIND), "n2"),
    "history_replaced": (_history_replaced, "n1"),
    "vote_lost": (_vote_lost, "n2"),
    "snapshot_refused": (_trouble("snapshot_refused"), "n2"),
    "snapshot_unusable": (_trouble("snapshot_unusable"), "n1"),
    "log_differs": (_trouble("log_differs"), "n2"),
    "clock": (_clock, "n3"),
    "time_ahead": (_time_ahead, None),
    "key_lacking": (_key_lacking, "n2"),
    "certificate_refused": (_certificate_refused, "n2"),
    "certificate_expiring": (_certificate("2026-06-20T00:00:00Z"), "n2"),
    "certificate_expired": (_certificate("2026-05-31T00:00:00Z"), "n2"),
    "certificate_renewal_failed": (_certificate_renewal_failed, "n1"),
    "ca_exchange_failed": (_ca_exchange_failed, "n1"),
    "ca_rotation_due": (_ca_rotation_due, None),
    "credentials_expiring": (_credentials_expiring, None),
    "level_behind": (_level_behind, None),
    "kv_quota": (_kv_quota, "n1"),
    "audit_not_exported": (_audit_not_exported, "n1"),
    "snapshot_failed": (_snapshot_failed, "n1"),
}
"""Code -> how the state becomes so, and the member that it concerns."""

UNHEALTHY = {"member_away", "memory", "certificate_refused", "link", "not_following", "lagging", "vote_lost"}
"""What takes the cluster's own word away; the rest needs a hand, and everything works."""


def test_table_of_codes_is_what_something_produces_and_what_the_page_says() -> None:
    assert CASES.keys() == CODES.keys()
    # Where a code is written out; others are a replica's, or come from a table of reasons.
    calls = re.compile(r"\bproblem\(\s*\"([a-z_]+)\"(?: if [^,]+ else \"([a-z_]+)\")?")
    written = {
        code
        for source in (ROOT / "cyoloctl").rglob("*.py")
        for found in calls.findall(source.read_text("utf-8"))
        for code in found
        if code
    }
    assert len(written) > 10
    assert written <= CODES.keys()
    section = pages()["docs/operating.md"].partition("## Look at it")[2].partition("\n## ")[0]
    assert dict(re.findall(r"(?m)^\| `([a-z_]+)` \| ([^|]+) \|", section)) == CODES


async def test_three_members_in_order_are_no_problem(tmp_path: Path) -> None:
    world = World(tmp_path / "n1")
    world.lasting(BEHIND_S)
    assert world.problems() == []
    assert world.healthy()
    space = disk_space(tmp_path)
    assert space is not None
    told = world.service.member_status.describe()
    assert told["disk_free_bytes"] == pytest.approx(space.free_bytes, abs=2**30)
    assert told["disk_total_bytes"] == space.total_bytes


async def test_one_look_at_the_members_asks_the_disk_and_the_certificates_once(tmp_path: Path) -> None:
    world = World(tmp_path / "n1")
    status, asked = world.service.member_status, Counter[str]()

    def counted(what: str, facts: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        def ask() -> dict[str, Any]:
            asked[what] += 1
            return facts()

        return ask

    status._disk = counted("disk", status._disk)
    status._certificates = counted("certificates", status._certificates)
    for look in (status.problems, status.status, status.describe, status.standing):
        asked.clear()
        look()
        assert asked == {"disk": 1, "certificates": 1}


async def test_address_shown_is_where_a_member_says_it_is_now_or_what_an_operator_set(tmp_path: Path) -> None:
    world = World(tmp_path / "n1")

    def shown() -> dict[str, str]:
        rows = world.service.member_status.status()["members"]
        return {row["name"]: row["address"] for row in rows}

    # The log says n1:1 of this node, which moved, and could tell nobody yet.
    assert shown() == {"n1": "127.0.0.1:1", "n2": "n2:1", "n3": "n3:1"}
    world.engine.told["n2"].address = "moved:2"
    world.engine.told["n3"].address = "no address"
    assert shown() == {"n1": "127.0.0.1:1", "n2": "moved:2", "n3": "n3:1"}
    world.state.members.apply("set_address", {"name": "n2", "address": "nat:2"}, 2, NOW_MS)
    assert shown()["n2"] == "nat:2"
    del world.engine.told["n2"]
    assert shown()["n2"] == "nat:2"


@pytest.mark.parametrize("code", CASES)
async def test_problem_is_found_with_its_member_and_a_command_that_exists(code: str, tmp_path: Path) -> None:
    world = World(tmp_path / "n1")
    assert world.codes() == set()
    arrange, member = CASES[code]
    done = arrange(world)
    if done is not None:
        await done
    assert (code, member) in world.codes()
    # What the log tells of.
    assert world.service.member_status.problems() == world.problems()
    assert world.healthy() == (code not in UNHEALTHY and "n2" in world.engine.told)
    for found in world.problems():
        command = found["command"]
        if not command.startswith("date "):  # the clock of a machine is set by its own command
            assert command.startswith("cyoloctl ")
            assert complaint(command) is None
        assert found["message"]


@pytest.mark.parametrize(("code", "behind"), [("snapshot_refused", "n2"), ("snapshot_unusable", "n1")])
async def test_snapshot_between_two_releases_costs_no_member_its_place(
    code: str, behind: str, tmp_path: Path
) -> None:
    world = World(tmp_path / "n1")
    _trouble(code)(world)
    (found,) = world.problems()
    assert found["command"] == f"cyoloctl member remove {behind}"
    world.says("n2", version="9.0.0")
    (found,) = world.problems()
    assert found["command"] == f"cyoloctl member show {behind}"
    assert found["message"].endswith(
        f"; n1 runs release {__version__}, n2 9.0.0: run the same release on both"
    )


async def test_cluster_of_two_releases_needs_no_hand_before_every_member_understands_more(
    tmp_path: Path,
) -> None:
    world = World(tmp_path / "n1")
    _level_behind(world)
    world.state.levels.apply("announce", {"name": "n3", "level": 1}, 4, NOW_MS)
    assert world.codes() == set()
    status = world.service.member_status.status()
    assert status["cluster"]["level"] == 1
    assert [row["level"] for row in status["members"]] == [2, 2, 1]


async def test_member_away_is_told_with_the_reason(tmp_path: Path) -> None:
    world = World(tmp_path / "n1")
    _member_away(world)
    world.engine.told["n3"].links -= {"n2"}  # nobody reaches it
    world.lasting(AWAY_S)
    (found,) = world.problems()
    assert found["message"] == (
        "n2 is not connected to n1 (n2:1: connection refused): start it, or check the network between them"
    )


async def test_file_system_that_takes_no_writes_is_a_failed_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "n1")
    found = os.statvfs(tmp_path)
    read_only = os.statvfs_result([*found[:8], found.f_flag | os.ST_RDONLY, found.f_namemax])
    monkeypatch.setattr(os, "statvfs", lambda path: read_only)
    assert ("disk_failed", "n1") in world.codes()


async def test_connected_member_that_is_silent_is_told_of_at_once(tmp_path: Path) -> None:
    world = World(tmp_path / "n1")
    world.engine.told["n2"].silent = True
    assert world.codes() == {("member_away", "n2")}
    (found,) = world.problems()
    assert "link between them is cut" in found["message"]


async def test_member_that_said_what_stopped_it_is_away_for_that(tmp_path: Path) -> None:
    world = World(tmp_path / "n1")
    _member_away(world)
    world.engine.said["n2"] = DISK_FAILED
    assert world.codes() == {("member_away", "n2"), ("disk_failed", "n2")}


async def test_member_that_another_one_reaches_is_not_away_but_without_a_link(tmp_path: Path) -> None:
    """From one end of the missing link: n3 says that it reaches n2."""
    world = World(tmp_path / "n1")
    _member_away(world)
    assert world.codes() == {("member_away", "n2")}  # n3 may not have noticed yet that n2 is gone
    world.lasting(AWAY_S)
    (found,) = world.problems()
    assert (found["code"], found["member"]) == ("link", "n1")
    assert found["message"].startswith("n1 and n2 do not reach each other, though n3 reaches both")


async def test_member_that_is_behind_for_a_moment_is_no_problem(tmp_path: Path) -> None:
    """A burst of writes: each report is a second old, and what it says was all there was then."""
    world = World(tmp_path / "n1")
    for index in range(1000, 60_000, 1000):
        world.engine.known = replace(world.engine.known, commit_index=index, applied_index=index)
        world.says("n2", applied_index=index - 1500, commit_index=index - 1500)
        world.says("n3", applied_index=index - 900, commit_index=index - 900, leader=None)
        assert world.codes() == set()
        world.lasting(1.0)
        world.says("n3", leader="n1")
        world.lasting(1.0)


async def test_this_nodes_own_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "n1")
    facts = {"disk_free_bytes": 5 * 2**20, "disk_total_bytes": 2**40, "disk_reserve_bytes": 2**26}
    monkeypatch.setattr(world.service.member_status, "_disk", lambda: facts)
    (found,) = world.problems()
    assert (found["code"], found["member"]) == ("disk_full", "n1")
    assert "the disk of n1 has 5 MiB left, and below 64 MiB it takes no new writes" in found["message"]


async def test_disk_that_will_be_full_within_days_is_told_whatever_is_left(tmp_path: Path) -> None:
    world = World(tmp_path / "n1")
    world.says("n3", disk_days_left=7.1)
    assert world.problems() == []
    world.says("n3", disk_free_bytes=2**35, disk_days_left=6.9)
    (found,) = world.problems()
    assert (found["code"], found["member"]) == ("disk_filling", "n3")
    assert "has 32768 MiB left, enough for 6.9 days at the present rate" in found["message"]
    row = world.service.member_status.status()["members"][2]
    assert row["disk"] == {
        "free_bytes": 2**35,
        "total_bytes": 2**42,
        "reserve_bytes": 2**26,
        "days_left": 6.9,
    }


async def test_member_of_an_earlier_release_is_warned_of_by_its_free_space_alone(tmp_path: Path) -> None:
    world = World(tmp_path / "n1")
    world.engine.told["n3"].info.pop("disk_total_bytes")
    world.says("n3", disk_free_bytes=DISK_LOW_BYTES)
    assert world.problems() == []
    world.says("n3", disk_free_bytes=DISK_LOW_BYTES - 1)
    assert world.codes() == {("disk_filling", "n3")}
    assert world.service.member_status.status()["members"][2]["disk"] is None
