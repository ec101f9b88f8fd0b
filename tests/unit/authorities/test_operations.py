"""Warnings of a node: certificates, credentials and CAs that come to their end."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cyoloctl.authorities.operations import AuthorityOperations
from cyoloctl.authorities.renewal import CertificateRenewal
from cyoloctl.errors import ConfigError
from cyoloctl.model import LocalNode
from cyoloctl.pki import renewal
from cyoloctl.pki.founding import new_cluster
from cyoloctl.pki.tls import TlsIdentity
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.state import ClusterState

ID = "0123456789abcdef0123456789abcdef"
NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY_MS = 86_400_000
NOW_MS = int(NOW.timestamp() * 1000)
END = "2028-09-03T00:00:00Z"  # 825 days later
END_MS = NOW_MS + 825 * DAY_MS


class World:
    """One node with real files and machines, and a time that the test sets; no engine runs."""

    def __init__(self, where: Path) -> None:
        files = new_cluster(where, name="n1", cluster="c", now=NOW, cluster_id=ID)
        pki_dir = where / "pki"
        self.machine = ClusterState()
        self.now_ms = NOW_MS
        self.told: dict[str, Any] = {}
        self.leader = "n2"
        engine = SimpleNamespace(
            leader=lambda: self.leader,
            peers=lambda: {"n2": SimpleNamespace(info=self.told)},
            recheck=lambda judge: [],
        )
        node = cast(
            LocalNode,
            SimpleNamespace(name="n1", cluster_id=ID, cluster="c", storage="disk", offline_ca=False),
        )
        proposer = cast(Proposer, SimpleNamespace(engine=engine, now_ms=lambda: self.now_ms))
        machine = self.machine

        async def ask(name: str, operation: str, arguments: Any, timeout_s: float) -> Any:
            raise AssertionError

        self.certificates = CertificateRenewal(
            proposer,
            node,
            machine.members,
            machine.authorities,
            clock=machine.clock,
            files=files,
            pki_dir=pki_dir,
            tls=TlsIdentity(pki_dir),
            ask=ask,
        )
        self.operations = AuthorityOperations(
            proposer,
            node,
            machine.members,
            machine.authorities,
            credentials=machine.credentials,
            certificates=self.certificates,
            ask=ask,
        )

    def member(self, name: str, expires_at: str | None, role: str = "voter") -> None:
        given = {"name": name, "address": "h:1", "role": role, "sealing_key": "A" * 43 + "=", "raft_id": name}
        self.machine.members.apply("put", {**given, "certificate_expires_at": expires_at}, 1, 0)

    def codes(self, at_ms: int) -> list[tuple[str, str | None]]:
        self.now_ms = at_ms
        return [(problem["code"], problem["member"]) for problem in self.operations.problems()]


def test_certificate_is_warned_of_from_thirty_days_before_its_end(tmp_path: Path) -> None:
    world = World(tmp_path / "a")
    world.member("n1", None)
    world.member("n2", END)
    assert world.codes(END_MS - 31 * DAY_MS) == []
    soon = [("certificate_expiring", "n1"), ("certificate_expiring", "n2")]
    assert world.codes(END_MS - 29 * DAY_MS) == soon
    assert world.codes(END_MS) == [("certificate_expired", "n1"), ("certificate_expired", "n2")]
    assert all("cyoloctl " in problem["command"] for problem in world.operations.problems())


def test_credentials_are_warned_of_before_their_end_and_not_after_they_were_revoked(tmp_path: Path) -> None:
    world = World(tmp_path / "a")
    made = {"role": "viewer", "ttl_ms": 90 * DAY_MS, "latest_unix_ms": END_MS, "created_by": ""}
    for name, key_hash in (("ann", "a" * 64), ("bob", "b" * 64)):
        arguments = {"name": name, "key_hash": key_hash, **made}
        world.machine.credentials.apply("create", arguments, 1, NOW_MS)
    world.machine.credentials.apply("revoke", {"name": "bob"}, 2, NOW_MS)
    assert world.codes(NOW_MS + 50 * DAY_MS) == []
    assert world.codes(NOW_MS + 70 * DAY_MS) == [("credentials_expiring", None)]
    assert world.operations.problems()[0]["command"].startswith("cyoloctl credentials renew ann")
    assert world.codes(NOW_MS + 91 * DAY_MS) == []


def test_ca_is_to_be_exchanged_after_a_voter_was_removed_and_a_year_before_its_end(tmp_path: Path) -> None:
    world = World(tmp_path / "a")
    world.member("n3", END)
    world.member("l1", END, role="learner")
    world.machine.authorities.apply("exempt", {"name": "l1"}, 1, 0)
    world.machine.members.apply("remove", {"name": "l1"}, 1, 0)
    assert world.codes(NOW_MS) == []
    world.machine.members.apply("remove", {"name": "n3"}, 1, 0)
    assert world.codes(NOW_MS) == [("ca_rotation_due", None)]
    assert "n3 was removed" in world.operations.problems()[0]["message"]
    late = World(tmp_path / "b")
    assert late.codes(NOW_MS + 3_284 * DAY_MS) == []
    assert late.codes(NOW_MS + 3_286 * DAY_MS) == [("ca_rotation_due", None)]


@pytest.mark.parametrize("told", [None, "soon", True, -1, 10**15])
def test_time_that_a_leader_is_about_to_step_to_counts_only_where_it_is_a_time(
    tmp_path: Path, told: object
) -> None:
    world = World(tmp_path / "a")
    world.told["pending_unix_ms"] = told
    assert world.certificates.validity_ms() == NOW_MS
    world.told["pending_unix_ms"] = END_MS
    assert world.certificates.validity_ms() == END_MS
    world.leader = "n3"  # n2 does not lead: its word counts for nothing
    assert world.certificates.validity_ms() == NOW_MS


def test_time_may_not_come_while_a_connected_member_has_not_announced_its_renewal(tmp_path: Path) -> None:
    world = World(tmp_path / "a")
    world.member("n1", END)
    world.member("n2", "2026-07-01T00:00:00Z")
    world.member("n3", None)  # away
    assert world.certificates.ready(NOW_MS)
    assert not world.certificates.ready(NOW_MS + 30 * DAY_MS)
    world.member("n2", END)
    assert world.certificates.ready(NOW_MS + 30 * DAY_MS)
    assert not world.certificates.ready(END_MS)


def test_certificate_that_ended_by_the_journals_time_is_renewed_at_the_start_with_a_ca_key_and_else_refused(
    tmp_path: Path,
) -> None:
    world = World(tmp_path / "a")
    world.now_ms = END_MS
    world.certificates.start()
    life = renewal.life_of(world.certificates.files.certificate_pem)
    assert life == (END_MS, END_MS + 825 * DAY_MS)
    bare = World(tmp_path / "b")
    (tmp_path / "b" / "pki" / "ca.key").unlink()
    bare.certificates.reload()
    bare.certificates.start()
    bare.now_ms = END_MS
    with pytest.raises(ConfigError, match=r"node\.crt ended at .*cyoloctl member grant"):
        bare.certificates.start()
