"""What a data directory and a machine give: each finding from facts on both sides of its mark."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cyoloctl.doctor.cluster import find_all
from cyoloctl.doctor.facts import Quota, Snapshots, Syncs
from cyoloctl.doctor.findings import CODES, of_problem, with_directory
from cyoloctl.members.facts import CODES as PROBLEMS
from cyoloctl.members.facts import problem
from cyoloctl.paths import DiskSpace
from tests.docs.reading import pages
from tests.docs.test_commands import complaint
from tests.support.findings import NOW_MS, facts, file, found, severities

DOWN = {"status": None, "keys": None, "pki": None, "credentials": None, "error": "no such file"}


def test_facts_in_which_all_is_well_give_nothing_but_ok() -> None:
    findings = find_all(facts(), warn_days=None)
    assert {one["severity"] for one in findings} == {"ok"}
    assert {one["code"] for one in findings} | {
        # These are only ever wrong.
        *("no_quorum", "no_leader", "no_failure_tolerated", "slow_fsync", "not_answered")
    } == CODES.keys()


def test_codes_are_what_the_page_says() -> None:
    section = pages()["docs/operating.md"].partition("## Doctor")[2].partition("\n## ")[0]
    assert dict(re.findall(r"(?m)^\| `([a-z_]+)` \| ([^|]+) \|", section)) == CODES
    assert not CODES.keys() & PROBLEMS.keys()


#: Code, what is changed in directory, machine and hosts, and how grave it is then.
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("node", {"answers": {**DOWN, "unreachable": True}, "machine": {"pid": None}}, "error"),
    ("node", {"answers": {**DOWN, "unreachable": True}}, "error"),
    ("node", {"answers": DOWN}, "error"),
    ("config", {"directory": {"name": None, "config_error": "line 3: wrong"}}, "error"),
    ("pki", {"directory": {"pki_problem": "node.crt cannot be used"}}, "error"),
    ("permissions", {"directory": {"files": (file("/srv/n1/pki/node.key", 0o640),)}}, "error"),
    ("permissions", {"directory": {"files": (file("/x.crt", 0o664, secrecy="public"),)}}, "error"),
    ("permissions", {"directory": {"files": (file("/srv/n1/node.log", 0o644, secrecy="own"),)}}, "warning"),
    ("permissions", {"directory": {"files": (file("/d", 0o770, kind="directory", secrecy="own"),)}}, "error"),
    ("permissions", {"directory": {"files": (file("/srv/n1/raft.db", 0o600, owner=0),)}}, "warning"),
    ("disk_sync", {"directory": {"syncs": None, "sync_error": "no space left on device"}}, "error"),
    ("disk_sync", {"directory": {"syncs": Syncs(32, 25.0, 30.0)}}, "info"),
    ("disk_sync", {"directory": {"syncs": Syncs(32, 100.0, 130.0)}}, "warning"),
    ("disk_sync", {"directory": {"syncs": Syncs(3, 1000.0, 1300.0)}}, "error"),
    ("disk_filling", {"directory": {"space": DiskSpace(4 * 2**26 - 1, 2**37)}}, "warning"),
    ("disk_full", {"directory": {"space": DiskSpace(2**26 - 1, 2**37)}}, "error"),
    ("snapshot", {"directory": {"snapshots": None}}, "info"),
    ("snapshot", {"directory": {"snapshots": Snapshots(3600, "/backup", None)}}, "warning"),
    ("snapshot", {"directory": {"snapshots": Snapshots(3600, "/backup", None, "not there")}}, "warning"),
    ("snapshot", {"directory": {"snapshots": Snapshots(3600, "/b", NOW_MS - 7_200_001)}}, "warning"),
    ("machine_clock", {"machine": {"now_unix_ms": 1_500_000_000_000}}, "error"),
    ("machine_clock", {"machine": {"now_unix_ms": NOW_MS - 3_600_000 - 60_001}}, "warning"),
    ("files", {"machine": {"files_limit": 1000, "files_used": None}}, "warning"),
    ("files", {"machine": {"files_limit": 1024, "files_used": 820}}, "warning"),
    ("machine_memory", {"machine": {"memory": Quota(1000, 800)}}, "warning"),
    ("machine_memory", {"machine": {"killed": 1}}, "warning"),
    ("machine_memory", {"machine": {"available_bytes": 2**26 - 1}}, "warning"),
    ("swap", {"machine": {"swapped_bytes": 2**24}}, "warning"),
    ("tasks", {"machine": {"tasks": Quota(1000, 800)}}, "warning"),
    ("names", {"hosts": {"n2.example": None, "n3.example": "not known"}}, "warning"),
]


@pytest.mark.parametrize(("code", "changes", "severity"), CASES)
def test_fact_that_is_wrong_is_found_with_a_command(
    code: str, changes: dict[str, Any], severity: str
) -> None:
    (one,) = found(facts(**changes), code)
    assert one["severity"] == severity
    assert one["member"] == (None if code == "config" else "n1")
    command = one["command"]
    if command is not None and command.startswith("cyoloctl "):
        assert complaint(command) is None
    assert command is not None or severity in ("info", "error")


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        (
            "permissions",
            {"directory": {"files": (file("/srv/n1", 0o755, kind="directory", secrecy="public"),)}},
        ),
        ("permissions", {"directory": {"files": (file("/srv/n1/node.key", 0o600),)}}),
        ("disk_sync", {"directory": {"syncs": Syncs(32, 24.9, 2000.0)}}),
        ("disk_space", {"directory": {"space": DiskSpace(4 * 2**26, 2**37)}}),
        ("snapshot", {"directory": {"snapshots": Snapshots(3600, "/b", NOW_MS - 7_200_000)}}),
        ("machine_clock", {"machine": {"now_unix_ms": NOW_MS - 3_600_000 - 60_000}}),
        ("files", {"machine": {"files_limit": 1024, "files_used": 819}}),
        ("files", {"machine": {"files_limit": 1024, "files_used": None}}),
        ("machine_memory", {"machine": {"memory": Quota(1000, 799), "available_bytes": 2**26}}),
        ("machine_memory", {"machine": {"memory": None}}),
        ("swap", {"machine": {"swapped_bytes": 2**24 - 1}}),
        ("tasks", {"machine": {"tasks": Quota(1000, 799)}}),
        ("names", {"hosts": {}}),
    ],
)
def test_fact_just_below_its_mark_is_ok(code: str, changes: dict[str, Any]) -> None:
    assert severities(facts(**changes), code) == ["ok"]


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("files", {"machine": {"files_limit": None}}),
        ("tasks", {"machine": {"tasks": None}}),
        ("swap", {"machine": {"swapped_bytes": None}}),
        ("disk_space", {"directory": {"space": None}}),
        ("disk_sync", {"directory": {"syncs": None}}),
        ("machine_memory", {"machine": {"available_bytes": None, "memory": None}}),
    ],
)
def test_what_is_not_known_is_no_finding(code: str, changes: dict[str, Any]) -> None:
    assert found(facts(**changes), code) == []


def test_file_that_cannot_be_read_is_looked_at_whole_by_the_command() -> None:
    (one,) = found(facts(directory={"name": None, "config_error": "line 3: wrong"}), "config")
    assert one["command"] == "cyoloctl config check -d /srv/n1"


def test_permission_that_keeps_keys_from_being_used_is_told_once() -> None:
    wrong = file("/srv/n1/pki/node.key", 0o644)
    says = "/srv/n1/pki/node.key is open to other users (mode 0644): run `chmod 600 /srv/n1/pki/node.key`"
    given = facts(directory={"files": (wrong,), "pki_problem": says})
    assert found(given, "pki") == []
    (one,) = found(given, "permissions")
    assert (one["cause"], one["command"]) == (says.partition(": run")[0], "chmod 600 /srv/n1/pki/node.key")


def test_node_that_is_down_is_told_with_how_to_start_it_and_a_silent_one_with_its_process() -> None:
    down = facts(answers={**DOWN, "unreachable": True}, machine={"pid": None}, directory={"path": "/a b"})
    (one,) = found(down, "node")
    assert one["cause"] == "no node runs in '/a b'"
    assert one["command"] == "cyoloctl node start -d '/a b' --background"
    (one,) = found(facts(answers={**DOWN, "unreachable": True}), "node")
    assert one["cause"] == "process 4711 holds the journal in /srv/n1 and does not answer: no such file"
    (one,) = found(facts(answers=DOWN, machine={"pid": None}), "node")
    assert one["cause"] == "the node does not answer: no such file"


@pytest.mark.parametrize(
    ("code", "severity"),
    [("member_away", "error"), ("disk_full", "error"), ("credentials_expiring", "warning")],
)
def test_problem_of_status_is_a_finding_in_the_same_words(code: str, severity: str) -> None:
    given = problem(code, "n2", "its own words", "cyoloctl member show n2")
    assert of_problem(given) == {
        "severity": severity, "code": code, "member": "n2", "cause": "its own words",
        "command": "cyoloctl member show n2",
    }  # fmt: skip


def test_every_problem_of_status_needs_attention() -> None:
    for code in PROBLEMS:
        assert of_problem(problem(code, None, "x", None))["severity"] in ("warning", "error")


def test_user_who_may_look_at_nothing_is_told_that_alone_and_as_whom_to_run_it() -> None:
    closed = {"name": None, "files": (), "closed_to": 1001, "owner_name": "cyoloctl", "snapshots": None}
    closed |= {"config_error": "cannot read /srv/n1/node.yaml", "certificate_ends": None, "ca_ends": None}
    given = facts(directory=closed, answers={**DOWN, "unreachable": True}, machine={"pid": None})
    (one,) = [each for each in find_all(given, warn_days=None) if each["severity"] != "ok"]
    assert (one["severity"], one["code"], one["member"]) == ("error", "permissions", None)
    assert "run this as cyoloctl, or as root" in one["cause"]
    assert one["command"] == "sudo -u cyoloctl cyoloctl doctor -d /srv/n1"
    (one,) = found(facts(directory={**closed, "owner": 0, "owner_name": "root"}), "permissions")
    assert one["cause"].endswith("run this as root")
    nameless = facts(directory={**closed, "owner_name": None})
    (one,) = found(nameless, "permissions")
    assert one["command"] == "sudo -u '#1000' cyoloctl doctor -d /srv/n1"


def test_policy_that_was_just_set_has_no_snapshot_and_is_no_warning_for_one_period() -> None:
    def told(age_ms: int) -> str:
        changed = file("/srv/n1/node.yaml", 0o600, secrecy="own", changed_unix_ms=NOW_MS - age_ms)
        given = {"snapshots": Snapshots(3600, "/backup", None), "files": (changed,)}
        (severity,) = severities(facts(directory=given), "snapshot")
        return severity

    assert [told(age) for age in (0, 3_599_999, 3_600_000)] == ["info", "info", "warning"]
    assert told(-1) == "warning"  # of the future: a clock was wrong


@pytest.mark.parametrize(("code", "changes", "severity"), CASES)
def test_command_names_the_directory_where_no_other_way_leads_to_it(
    code: str, changes: dict[str, Any], severity: str
) -> None:
    for one in find_all(facts(**changes), warn_days=None, name_directory=True):
        command = one["command"]
        if command is not None and command.startswith("cyoloctl "):
            assert command.count(" -d /srv/n1") == 1
            assert complaint(command) is None


def test_directory_of_another_member_or_a_named_endpoint_is_left_to_the_reader() -> None:
    renew = "cyoloctl node renew -d DIR --request FILE"
    own, other = facts().directory, "n2"
    wrong = of_problem(problem("certificate_expired", "n1", "ended", renew))
    assert with_directory(wrong, own)["command"] == "cyoloctl node renew -d /srv/n1 --request FILE"
    wrong = of_problem(problem("certificate_expired", other, "ended", renew))
    assert with_directory(wrong, own)["command"] == renew
    elsewhere = "cyoloctl status -e https://n2@HOST:PORT"
    wrong = of_problem(problem("history_replaced", "n1", "stop it", elsewhere))
    assert with_directory(wrong, own)["command"] == elsewhere
