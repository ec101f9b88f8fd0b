"""Findings from what a node says of its cluster."""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl.doctor.cluster import find_all
from cyoloctl.doctor.facts import Facts
from cyoloctl.members.facts import problem
from cyoloctl.paths import DiskSpace
from cyoloctl.text import rfc3339
from tests.support.findings import DAY_S, NOW_MS, facts, found, member, severities, status


def saying(*members: dict[str, Any], **changes: Any) -> Facts:
    """Facts with this status."""
    return facts(answers={"status": status(*members, **changes)})


def in_days(days: float) -> str:
    return rfc3339(NOW_MS / 1000 + days * DAY_S)


CREDENTIALS: dict[str, Any] = {
    "name": "gate",
    "role": "gateway",
    "created_at": in_days(-300),
    "expires_at": None,
    "revoked_at": None,
}


def test_problems_of_status_come_first_in_their_words_and_are_not_told_twice() -> None:
    space = problem(
        "disk_filling", "n1", "the disk of n1 has 12 MiB left, enough for 0.5 days", "cyoloctl status"
    )
    away = problem("member_away", "n3", "n3 is not connected to n1", "cyoloctl member show n3")
    answers = {"status": status(problems=[space, away])}
    given = facts(answers=answers, directory={"space": DiskSpace(2**25, 2**37)})
    findings = find_all(given, warn_days=None)
    assert [(one["severity"], one["code"], one["member"]) for one in findings[:2]] == [
        ("error", "member_away", "n3"),
        ("warning", "disk_filling", "n1"),
    ]
    assert findings[1]["cause"] == space["message"]
    assert found(given, "disk_full") == found(given, "problems") == []


def test_two_problems_with_one_code_are_both_told() -> None:
    due = [problem("ca_rotation_due", None, text, "cyoloctl pki rotate-ca") for text in ("one", "other")]
    assert [one["cause"] for one in found(saying(problems=due), "ca_rotation_due")] == ["one", "other"]


@pytest.mark.parametrize(
    ("code", "given", "severity"),
    [
        ("no_leader", saying(leader=None), "error"),
        ("no_quorum", saying(member("n1"), member("n2", reachable=False), quorum=2), "error"),
        ("no_failure_tolerated", saying(failure_tolerance=0), "warning"),
        ("slow_fsync", saying(member("n1", fsync_p99_ms=101)), "warning"),
        ("clock_skew", saying(member("n1", clock_skew_ms=1001.0)), "info"),
        ("clock_skew", saying(member("n1", clock_skew_ms=-1001.0)), "info"),
        ("clock_skew", saying(member("n1", clock_skew_ms=1000.0)), "ok"),
        ("release", saying(member("n1", version="1.2.2")), "warning"),
        ("release", saying(member("n1"), member("n2", version="1.2.4")), "info"),
        ("not_answered", facts(answers={"pki": None, "refused": {"pki_status": "no leader"}}), "info"),
        ("keys", facts(answers={"keys": {"agreed": False, "problems": ["n2 cannot open fc"]}}), "warning"),
    ],
)  # fmt: skip
def test_word_of_the_node_is_found(code: str, given: Facts, severity: str) -> None:
    (one,) = found(given, code)
    assert one["severity"] == severity
    assert one["command"] is not None or severity == "ok"


def test_clock_that_is_a_problem_of_status_is_told_there_alone() -> None:
    assert found(saying(member("n1", clock_skew_ms=60_001.0)), "clock_skew") == []
    assert severities(saying(member("n1", clock_skew_ms=60_000.0)), "clock_skew") == ["info"]
    assert found(saying(member("n1", clock_skew_ms=None)), "clock_skew") == []


def linked(linked: bool | None, *problems: Any, **changes: Any) -> Facts:
    given = status(member("n1", role="leader"), member("n2", **changes), problems=list(problems))
    given["links"][0]["linked"] = linked
    return facts(answers={"status": given})


def test_pair_without_a_link_is_told_unless_a_problem_of_status_tells_it() -> None:
    assert severities(linked(True), "links") == ["ok"]
    assert severities(linked(False), "links") == ["info"]
    assert severities(linked(None), "links") == ["info"]
    told = problem("link", "n2", "n1 and n2 do not reach each other", None)
    assert found(linked(False, told), "links") == []
    # Whoever is away has no links, which says nothing more.
    assert found(linked(False, reachable=False), "links") == []


def test_keys_that_a_problem_of_status_tells_of_are_not_told_again() -> None:
    lacking = problem("key_lacking", "n2", "n2 cannot open the token key fc", "cyoloctl key status")
    for texts, expected in (
        (["n2 cannot open fc"], []),
        (["n2 cannot open fc", "no key is primary"], ["warning"]),
    ):
        answers = {"status": status(problems=[lacking]), "keys": {"agreed": False, "problems": texts}}
        assert severities(facts(answers=answers), "keys") == expected


@pytest.mark.parametrize(
    ("days", "code", "severity"),
    [
        (31, "certificate", "ok"),
        (29, "certificate_expiring", "warning"),
        (-1, "certificate_expired", "error"),
    ],
)
def test_certificate_is_told_of_within_the_days_that_were_asked_for(
    days: int, code: str, severity: str
) -> None:
    given = saying(member("n1", certificate_expires_at=in_days(days)))
    (one,) = [each for each in find_all(given, warn_days=None) if each["code"].startswith("certificate")]
    assert (one["code"], one["severity"], one["member"]) == (code, severity, "n1")


def test_certificate_that_status_names_and_nobody_asked_for_is_for_information() -> None:
    told = problem("certificate_expiring", "n1", "it ends in 20 days", "cyoloctl node renew")
    given = saying(member("n1", certificate_expires_at=in_days(20)), problems=[told])
    assert severities(given, "certificate_expiring") == ["warning"]
    assert severities(given, "certificate_expiring", warn_days=21) == ["warning"]
    assert severities(given, "certificate_expiring", warn_days=7) == ["info"]
    assert found(given, "certificate", warn_days=7) == []


def test_certificate_and_ca_of_a_node_that_is_down_are_judged_by_this_machine() -> None:
    down = {"status": None, "pki": None, "error": "down", "unreachable": True}
    given = facts(answers=down, directory={"certificate_ends": in_days(3), "ca_ends": in_days(364)})
    assert severities(given, "certificate_expiring") == ["warning"]
    assert severities(given, "ca_rotation_due") == ["warning"]
    later = facts(answers=down, directory={"ca_ends": in_days(366)})
    assert severities(later, "ca") == ["ok"]
    assert severities(later, "ca_rotation_due", warn_days=400) == ["warning"]


def test_ca_that_status_says_is_due_is_told_once() -> None:
    end = in_days(100)
    told = problem(
        "ca_rotation_due", None, f"the CA must be exchanged: the CA ends at {end}", "cyoloctl pki rotate-ca"
    )
    given = facts(answers={"status": status(problems=[told]), "pki": {"authorities": [{"not_after": end}]}})
    assert len(found(given, "ca_rotation_due")) == 1
    assert found(given, "ca") == []


@pytest.mark.parametrize("part", ["pki", "directory"])
def test_certificate_of_a_short_life_is_told_of_in_its_last_third_or_as_asked(part: str) -> None:
    def told(days: float, warn_days: int | None = None) -> list[str]:
        answers: dict[str, Any] = {"status": status(member("n1", certificate_expires_at=in_days(days)))}
        answers["pki"] = {"authorities": [], "certificate_days": 10} if part == "pki" else None
        given = facts(answers=answers, directory={"certificate_days": 10})
        return severities(given, "certificate_expiring", warn_days=warn_days)

    assert (told(3.1), told(2.9)) == ([], ["warning"])
    assert (told(9, 10), told(9, 8)) == (["warning"], [])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"expires_at": in_days(29)}, "warning"),
        ({"expires_at": in_days(31)}, "ok"),
        # Of three days, half of which are left.
        ({"created_at": in_days(-1.5), "expires_at": in_days(1.5)}, "ok"),
        ({"created_at": in_days(-2.5), "expires_at": in_days(0.5)}, "warning"),
    ],
)
def test_credentials_are_told_of_before_they_end(changes: dict[str, Any], expected: str) -> None:
    entry = {**CREDENTIALS, **changes}
    given = facts(answers={"credentials": {"credentials": [entry]}})
    code = "credentials_expiring" if expected == "warning" else "credentials"
    assert severities(given, code) == [expected]


@pytest.mark.parametrize(
    "changes",
    [{"revoked_at": in_days(-1)}, {"expires_at": in_days(-1)}, {"role": "node"}, {"expires_at": None}],
)
def test_credentials_that_do_not_count_are_no_finding(changes: dict[str, Any]) -> None:
    entry = {**CREDENTIALS, "expires_at": in_days(3), **changes}
    given = facts(answers={"credentials": {"credentials": [entry]}})
    assert found(given, "credentials") == found(given, "credentials_expiring") == []


def test_credentials_that_status_tells_of_are_told_once() -> None:
    entry = {**CREDENTIALS, "expires_at": in_days(3)}
    told = problem("credentials_expiring", None, "they end", "cyoloctl credentials renew gate --out FILE")
    answers = {"status": status(problems=[told]), "credentials": {"credentials": [entry]}}
    assert len(found(facts(answers=answers), "credentials_expiring")) == 1
    assert found(facts(answers=answers), "credentials") == []


def test_days_left_of_a_disk_are_those_that_the_running_node_has_watched() -> None:
    disk = {"free_bytes": 2**36, "total_bytes": 2**37, "reserve_bytes": 2**26, "days_left": 12.5}
    (one,) = found(saying(member("n1", disk=disk)), "disk_space")
    assert one["cause"].endswith("left, enough for 12.5 days at the present rate")
    (one,) = found(saying(member("n1", disk={**disk, "days_left": 6.9})), "disk_filling")
    assert one["severity"] == "warning"
    (one,) = found(saying(member("n1", disk=None)), "disk_space")
    assert "days" not in one["cause"]


def test_findings_are_sorted_by_gravity() -> None:
    given = facts(
        answers={"status": status(leader=None)},
        directory={"snapshots": None},
        machine={"swapped_bytes": 2**30},
    )
    ranks = [one["severity"] for one in find_all(given, warn_days=None)]
    assert ranks == sorted(ranks, key=["error", "warning", "info", "ok"].index)
    assert set(ranks) == {"error", "warning", "info", "ok"}


def test_ca_that_is_kept_offline_is_not_said_to_be_exchanged_by_a_member() -> None:
    given = {"ca_ends": in_days(100), "offline_ca": True}
    (one,) = found(facts(directory=given, answers={"pki": None}), "ca_rotation_due")
    assert one["command"] == "cyoloctl snapshot save FILE"
    assert "cluster init --offline-ca" in one["cause"]
    assert "rotate-ca" not in one["cause"]
