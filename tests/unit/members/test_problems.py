"""Problems of clocks in `status`: whose is off, and advice that breaks no machine."""

from __future__ import annotations

from collections.abc import Mapping

from cyoloctl.members.problems import clock_problems

NOW = 1_790_000_000_000
DAY_MS = 86_400_000
SINCE_1970 = -float(NOW)


def found(
    skews: Mapping[str, float], ahead_ms: float | None = 0.0, voters: int = 3
) -> list[tuple[str, str | None, str]]:
    names = [f"n{number}" for number in range(1, voters + 1)]
    problems = clock_problems(NOW, skews, members=set(skews), voters=names, ahead_ms=ahead_ms)
    return [(item["code"], item["member"], item["message"]) for item in problems]


def test_clocks_that_agree_are_no_problem() -> None:
    assert found({"n1": 5.0, "n2": -900.0, "n3": 59_000.0}) == []


def test_clock_that_is_off_is_named_with_its_machine() -> None:
    ((code, member, message),) = found({"n1": 0.0, "n2": 0.0, "n3": 9.0 * DAY_MS})
    assert (code, member) == ("clock", "n3")
    assert message.startswith("the clock of n3 is 9 days ahead of cluster time: set it")


def test_clocks_of_a_majority_behind_cluster_time_are_not_told_to_be_set() -> None:
    """They may well be right, and cluster time wrong."""
    behind = -9.0 * DAY_MS
    problems = found({"n1": behind, "n2": behind + 2_000, "n3": 4.0 * DAY_MS}, ahead_ms=-behind)
    assert [(code, member) for code, member, _ in problems] == [
        ("clock", "n1"), ("clock", "n2"), ("clock", "n3"), ("time_ahead", None),
    ]  # fmt: skip
    assert all("set it" not in message and "like a majority's" in message for _, _, message in problems[:2])
    assert "set it" in problems[2][2]


def test_two_voters_that_disagree_are_both_named_unless_one_shows_no_time() -> None:
    assert [row[:2] for row in found({"n1": 0.0, "n2": 9.0 * DAY_MS}, voters=2)] == [
        ("clock", "n1"), ("clock", "n2"),
    ]  # fmt: skip
    ((_, member, message),) = found({"n1": 0.0, "n2": SINCE_1970}, ahead_ms=None, voters=2)
    assert member == "n2"
    assert "shows no time at all" in message


def test_clocks_of_all_machines_without_a_time_are_all_to_be_set() -> None:
    problems = found({"n1": SINCE_1970, "n2": SINCE_1970, "n3": SINCE_1970}, ahead_ms=None)
    assert [member for _, member, _ in problems] == ["n1", "n2", "n3"]
    assert all("shows no time at all" in message and "set it" in message for _, _, message in problems)
