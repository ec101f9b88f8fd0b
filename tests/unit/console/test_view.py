"""What the page is given to show."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cyoloctl.console.history import History
from cyoloctl.console.view import LISTED, Lists, View, document
from cyoloctl.metrics.families import NODE, Figures, by
from cyoloctl.metrics.reading import Scrape
from cyoloctl.metrics.text import page
from tests.cli.harness import counter, member, status

NOW = 1_800_000_000.0
AWAY = {"code": "member_away", "member": "c", "message": "c is away", "command": "cyoloctl member show c"}
CLOCK = {"code": "time_ahead", "member": None, "message": "time is ahead", "command": "cyoloctl status"}


def scrape(**figures: Any) -> Scrape:
    given: Figures = figures
    return Scrape(page(NODE, given))


def view(shown: dict[str, Any], problems: list[dict[str, Any]] | None = None, **changes: Any) -> View:
    return View(
        **{
            "now_unix_s": NOW,
            "status": {**shown, "problems": problems or []},
            "best": "a",
            "scrape": None,
            "seen_unix_s": NOW,
            "nodes": frozenset({"a"}),
            "history": History(NOW - 60),
            **changes,
        }
    )


def headline(*arguments: Any, **changes: Any) -> tuple[str, str, str]:
    found = document(view(*arguments, **changes))["headline"]
    return found["level"], found["text"], found["more"]


def without_c(**changes: Any) -> dict[str, Any]:
    gone = member("c", reachable=False, uptime_s=None)
    return status(member("a", role="leader"), member("b"), gone, healthy=False, **changes)


def test_headline_of_a_cluster_that_is_well() -> None:
    assert headline(status()) == (
        "good",
        "All 3 members are well",
        "a leads, and the cluster tolerates 1 failure",
    )
    alone = status(member("a", role="leader"), voters=1, quorum=1, failure_tolerance=0)
    assert headline(alone) == (
        "good",
        "The one member is well",
        "a leads, and the cluster tolerates no failure",
    )


def test_headline_while_a_member_is_away_says_what_may_still_fail() -> None:
    assert headline(without_c(failure_tolerance=0), [AWAY]) == (
        "warn",
        "2 of 3 members well",
        "a leads, and the cluster tolerates no further failure",
    )
    five = headline(without_c(voters=5, quorum=3, failure_tolerance=1), [AWAY])
    assert five[2] == "a leads, and the cluster tolerates 1 more failure"


def test_headline_of_a_problem_that_is_no_members() -> None:
    level, text, _ = headline(status(), [CLOCK])
    assert (level, text) == ("warn", "All 3 members are well, and something needs attention")


def test_headline_without_a_leader_says_since_when_and_who_is_reached() -> None:
    shown = document(view(without_c(leader=None), [AWAY], leaderless_unix_s=NOW - 12))["headline"]
    assert (shown["level"], shown["text"], shown["since_unix_s"]) == ("bad", "No leader", NOW - 12)
    assert shown["more"].startswith("a reaches 2 of 3 voters, itself included; 2 must agree")


def test_no_answer_is_told_first_and_the_rest_is_called_older() -> None:
    shown = document(view(status(), [CLOCK], failure="no node could be reached", failing_unix_s=NOW - 5))
    assert (shown["headline"]["level"], shown["headline"]["text"]) == ("bad", "No node answers")
    assert shown["stale"] is True
    assert [each["message"] for each in shown["problems"]] == ["no node could be reached", "time is ahead"]
    assert document(view(status()))["stale"] is False


def test_problems_come_with_their_commands_and_warnings_of_members_after_them() -> None:
    slow = status(member("a", role="leader", fsync_p99_ms=400.0), member("b"), member("c"))
    shown = document(view(slow, [AWAY]))["problems"]
    assert shown[0] == {
        "member": "c",
        "message": "c is away",
        "command": "cyoloctl member show c",
        "grave": True,
    }
    assert [(each["grave"], each["command"]) for each in shown[1:]] == [(False, None)]
    assert "slow disk" in shown[1]["message"]


def test_member_is_well_unless_it_is_away_or_a_problem_names_it() -> None:
    shown = document(view(without_c(), [{**AWAY, "member": "b"}], silent={"b": "refused"}))["members"]
    assert {each["name"]: each["well"] for each in shown} == {"a": True, "b": False, "c": False}
    assert {each["name"]: each["silent_because"] for each in shown} == {"a": None, "b": "refused", "c": None}


@pytest.mark.parametrize(
    ("ends", "days"),
    [("2027-01-16T08:00:00Z", 1.0), ("2027-01-14T08:00:00Z", -1.0), (None, None), ("x", None)],
)
def test_certificates_end_by_the_clusters_time(ends: str | None, days: float | None) -> None:
    time = "2027-01-15T08:00:00Z"
    shown = status(member("a", role="leader", certificate_expires_at=ends), time=time)
    authority = scrape(ca_certificate_expires_timestamp_seconds=by({"ab" * 32: NOW + 86_400}))
    # A console whose own clock is a year ahead shows the same.
    found = document(view(shown, now_unix_s=NOW + 365 * 86_400, scrape=authority))
    assert found["members"][0]["certificate_days"] == days
    assert [each["days"] for each in found["authorities"]] == [1.0]


def test_counts_are_those_of_the_metrics_and_none_for_an_earlier_release() -> None:
    entries = by({"revocations": 3, "counters": 40, "locks": 1})
    told = scrape(
        state_entries=entries,
        rendezvous=by({"pending": 2, "claimed": 1, "approved": 9}),
        kv_bytes=512,
        kv_quota_bytes=2048,
    )
    assert document(view(status(), scrape=told))["counts"] == {
        "revocations": 3,
        "counters": 40,
        "locks": 1,
        "waiting": 3,
        "kv_bytes": 512,
        "kv_quota_bytes": 2048,
    }
    assert document(view(status()))["counts"] is None


def test_lists_are_bounded_and_hold_no_secret_of_what_waits() -> None:
    waits = [
        {
            "kind": "mfa",
            "id": "f" * 32,
            "data": {"amount": "12"},
            "user_code": "WDJB-MJHT",
            "initiator": "zoe",
        }
    ] * 2
    key = {
        "key_id": "fc01aabb",
        "state": "primary",
        "created_at": "2026-01-01T00:00:00Z",
        "promoted_at": None,
        "retired_at": None,
        "missing": [],
        "fingerprint": "f1f2",
    }
    lists = Lists(
        keys={"agreed": True, "problems": [], "keys": [key], "members": ["never"]},
        counters=[counter(f"c{n}", n) for n in range(LISTED + 5)],
        waiting=waits,
        more_waiting=True,
    )
    shown = document(view(status(), lists=lists))
    assert len(shown["counters"]) == LISTED
    assert shown["counters"][1] == {"name": "c1", "value_string": "1"}
    assert shown["waiting"] == {"kinds": [{"kind": "mfa", "count": 2}], "more": True, "allowed": True}
    text = json.dumps(shown)
    assert not any(word in text for word in ("f" * 32, "WDJB", "amount", "zoe", "f1f2", "never"))


def test_credentials_that_may_not_see_who_waits_are_told_so() -> None:
    shown = document(view(status(), lists=Lists(may_not=frozenset({"rendezvous_list"}))))["waiting"]
    assert (shown["kinds"], shown["allowed"]) == (None, False)
