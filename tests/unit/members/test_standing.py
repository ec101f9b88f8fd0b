"""Missing links, as every node reports its own."""

from __future__ import annotations

import pytest

from cyoloctl.members.standing import (
    AWAY_S,
    BEHIND_S,
    Standing,
    failures_tolerated,
    link_rows,
    missing_links,
)


def _links(**links: str) -> dict[str, set[str]]:
    """Each member that reports, with the names that it has links with."""
    return {name: set(said.split()) for name, said in links.items()}


@pytest.mark.parametrize(
    ("links", "missing"),
    [
        (_links(n1="n2 n3", n2="n1 n3", n3="n1 n2"), []),
        (_links(n1="n2 n3", n2="n1", n3="n1"), [("n2", "n3")]),
        (_links(n1="n2 n3", n2="n1", n3="n1 n2"), []),  # one of the two heard of it sooner
        (_links(n1="n2 n3", n2="n1"), [("n2", "n3")]),  # n3 does not report
        (_links(n1="n2", n2="n1 n3"), [("n1", "n3")]),  # asked at one end of the missing link
        (_links(n1="n2", n2="n1"), []),  # nobody reaches n3: it is away
        (_links(n1="n2", n2="n1 n3 n4"), [("n1", "n3"), ("n1", "n4")]),  # of n3 and n4 nothing is known
        (_links(n1="n2 n3 n4", n2="n1 n4", n3="n1 n2", n4="n1 n3"), []),
        (_links(n1="n2 ghost", n2="n1"), []),
        (_links(n1="l1 l2", l1="n1", l2="n1"), []),  # learners need no link
        (_links(n1="l1 n2", l1="n1", n2="n1"), [("l1", "n2")]),
        (_links(n1=""), []),
    ],
)
def test_missing_links_are_pairs_that_run_and_say_nothing_of_each_other(
    links: dict[str, set[str]], missing: list[tuple[str, str]]
) -> None:
    members = ["n1", "n2", "n3", "n4", "l1", "l2"]
    assert missing_links(links, ["n1", "n2", "n3", "n4"], members) == missing


@pytest.mark.parametrize(
    ("links", "dialled", "linked", "by"),
    [
        (_links(n1="n2", n2="n1"), _links(n1="n2", n2=""), True, "n1"),
        (_links(n1="n2", n2="n1"), _links(n1="", n2="n1"), True, "n2"),
        (_links(n1="n2"), _links(n1=""), True, None),  # n2 has not said yet that it dialled
        (_links(n1="n2", n2=""), _links(n1="n2"), True, "n1"),  # one of the two heard of it sooner
        (_links(n1="", n2=""), _links(n1="n2"), False, None),  # it has ended since
        (_links(n3="n1 n2"), _links(n3="n1 n2"), None, None),  # neither says
    ],
)
def test_link_rows_say_of_each_pair_who_dialled(
    links: dict[str, set[str]], dialled: dict[str, set[str]], linked: bool | None, by: str | None
) -> None:
    assert link_rows(links, dialled, ["n1", "n2"]) == [
        {"members": ["n1", "n2"], "linked": linked, "dialled_by": by}
    ]


def test_what_one_end_alone_tells_counts_once_it_has_lasted() -> None:
    standing, pair = Standing(), ("n1", "n2")
    for now, apart in ((0.0, [pair]), (AWAY_S - 0.1, []), (AWAY_S, [pair]), (AWAY_S + 1, [pair])):
        standing.observe(now, applied={}, committed=1, astray=[], apart=apart)
        assert standing.apart(now, at_once=[]) == []
        assert standing.apart(now, at_once=[pair]) == list(apart)
    assert standing.apart(2 * AWAY_S, at_once=[]) == [pair]


def test_member_lags_from_the_moment_since_which_it_owes_an_entry() -> None:
    standing = Standing()
    for second in range(10):
        # n2 is always 50 behind and goes on; n3 stands still.
        applied = {"n2": 100 * second + 50, "n3": 100}
        standing.observe(float(second), applied=applied, committed=100 * second + 100, astray=[], apart=[])
        assert standing.lagging(float(second)) == (["n3"] if second >= 1 + BEHIND_S else [])


@pytest.mark.parametrize(
    ("up", "apart", "quorum", "tolerated"),
    [
        ("n1 n2 n3", "", 2, 1),
        ("n1 n2", "", 2, 0),
        ("n1", "", 2, 0),
        ("n1 n2 n3", "n2-n3", 2, 0),  # all is well until n1 fails
        ("n1 n2 n3", "n1-n2 n2-n3", 2, 0),
        ("n1 n2 n3 n4 n5", "n2-n3", 3, 2),  # whoever is left beside these two reaches both
        ("n1 n2 n3 n4 n5", "n1-n2 n3-n4", 3, 2),
        ("n1 n2 n3 n4 n5", "n1-n2 n1-n3 n2-n3", 3, 1),
    ],
)
def test_failures_tolerated_are_those_after_which_somebody_reaches_a_quorum(
    up: str, apart: str, quorum: int, tolerated: int
) -> None:
    pairs = [tuple(pair.split("-")) for pair in apart.split()]
    assert failures_tolerated(up.split(), pairs, quorum) == tolerated  # type: ignore[arg-type]
