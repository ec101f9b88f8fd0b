"""When peers together convince a process, and when they do not."""

from __future__ import annotations

import pytest

from cyoloctl.raft.witnesses import WINDOW_S, Witnesses


@pytest.mark.parametrize(
    ("judges", "needed"),
    [(("a",), 1), (("a", "me"), None), (("a", "b", "me"), 2), (("a", "b", "c", "me"), 3)],
)
def test_verdict_needs_more_than_half_of_the_judges_with_this_process_among_them(
    judges: tuple[str, ...], needed: int | None
) -> None:
    witnesses = Witnesses()
    for number, peer in enumerate(("x", "y", "z")):
        witnesses.heard(peer, "removed", number)
    assert witnesses.verdict(judges, 5.0) is None
    for number, peer in enumerate([judge for judge in judges if judge != "me"], start=1):
        witnesses.heard(peer, "removed", 5.0)
        witnesses.heard(peer, "removed", 5.0)
        assert witnesses.verdict(judges, 5.0) == (
            "removed" if needed is not None and number >= needed else None
        )


def test_word_that_is_too_old_does_not_count() -> None:
    witnesses = Witnesses()
    witnesses.heard("a", "removed", 0.0)
    witnesses.heard("b", "removed", WINDOW_S + 0.1)
    assert witnesses.verdict(("a", "b", "me"), WINDOW_S + 0.1) is None
    assert witnesses.said(WINDOW_S + 0.1) == {"b": "removed"}
    witnesses.heard("a", "removed", WINDOW_S + 0.2)
    assert witnesses.verdict(("a", "b", "me"), WINDOW_S + 0.2) == "removed"


@pytest.mark.parametrize(
    ("one", "other", "most"), [("copy", "removed", "removed"), ("removed", "copy", "copy")]
)
def test_verdict_gives_the_reason_of_most(one: str, other: str, most: str) -> None:
    witnesses = Witnesses()
    for peer, reason in (("a", one), ("b", other), ("c", other)):
        witnesses.heard(peer, reason, 1.0)
    assert witnesses.verdict(("a", "b", "c", "me"), 1.0) == most


def test_verdict_stands_when_all_judges_say_so() -> None:
    witnesses = Witnesses()
    for peer in ("a", "b", "c"):
        witnesses.heard(peer, "removed", 1.0)
    assert witnesses.verdict(("a", "b", "c"), 1.0) == "removed"
