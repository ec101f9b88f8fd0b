"""The last hour: what is added up, what is left out, and that it is bounded."""

from __future__ import annotations

import pytest

from cyoloctl.console.history import (
    KEEP_S,
    MOST_MARKS,
    MOST_POINTS,
    POINT_S,
    Between,
    Figures,
    History,
    figures,
)
from cyoloctl.metrics.counts import Histogram, Requests
from cyoloctl.metrics.families import NODE
from cyoloctl.metrics.reading import Scrape
from cyoloctl.metrics.text import page

READ = ("GET", "/v1/kv/get", "read")


def told(commits: int, commit_s: float, reads: int, sync_s: float) -> Scrape:
    """Metrics of a node that has done so much."""
    histogram, syncs, requests = Histogram(), Histogram(), Requests()
    for _ in range(commits):
        histogram.observe(commit_s)
        syncs.observe(sync_s)
    for _ in range(reads):
        requests.observe(READ, 200, 0.001)
    return Scrape(
        page(
            NODE,
            {
                "commit_duration_seconds": histogram,
                "journal_sync_duration_seconds": syncs,
                "api_requests": requests.counts(),
            },
        )
    )


NOTHING = told(0, 0.001, 0, 0.001)


def test_rates_add_up_commits_are_one_histogram_and_the_slowest_sync_counts() -> None:
    fast = Between(NOTHING, told(95, 0.0007, 40, 0.002), 5.0, 0)
    slow = Between(NOTHING, told(5, 0.2, 10, 0.04), 5.0, 0)
    found = figures([fast, slow])
    assert (found.writes_per_s, found.reads_per_s) == (20.0, 10.0)
    assert found.commit_p50_ms is not None
    assert found.commit_p50_ms < 1  # though half of the nodes are slow
    assert found.commit_p99_ms is not None
    assert 100 < found.commit_p99_ms <= 250
    assert found.sync_p99_ms is not None
    assert 25 < found.sync_p99_ms <= 50


def test_what_the_console_asked_itself_is_no_read() -> None:
    after = told(0, 0.001, 40, 0.001)
    assert figures([Between(NOTHING, after, 5.0, 15)]).reads_per_s == 5.0
    assert figures([Between(NOTHING, after, 5.0, 60)]).reads_per_s == 0.0


def test_nothing_measured_is_not_zero() -> None:
    assert figures([]) == Figures(None, None, None, None, None)
    idle = figures([Between(NOTHING, NOTHING, 5.0, 0)])
    assert idle == Figures(0.0, 0.0, None, None, None)


def test_history_is_bounded_in_number_and_in_time() -> None:
    history = History(0.0)
    for number in range(MOST_POINTS + 100):
        history.add(number * POINT_S, "led", Figures(float(number), None, None, None, None))
        history.led_by(number * POINT_S, f"n{number % 2}", number)
    now = (MOST_POINTS + 99) * POINT_S
    points = list(history.points(now))
    assert len(points) == MOST_POINTS
    assert points[-1] == (now, "led", MOST_POINTS + 99.0, None, None, None, None)
    assert len(list(history.marks(now))) == MOST_MARKS
    assert list(history.points(now + KEEP_S + 1)) == []
    assert list(history.marks(now + KEEP_S + 1)) == []
    assert [point[0] for point in history.points(now + KEEP_S - POINT_S)] == [now - POINT_S, now]


@pytest.mark.parametrize(
    ("seen", "marked"),
    [
        ([("n1", 1), ("n1", 1)], []),
        ([("n1", 1), (None, 1), ("n1", 1)], []),
        ([("n1", 1), (None, 2), ("n2", 2)], ["n2"]),
        ([("n1", 1), ("n1", 3)], ["n1"]),
        ([(None, 1), ("n1", 1)], []),
    ],
)
def test_change_of_leader_is_marked_and_the_first_one_is_none(
    seen: list[tuple[str | None, int]], marked: list[str]
) -> None:
    history = History(0.0)
    for at, (leader, term) in enumerate(seen):
        history.led_by(float(at), leader, term)
    assert [mark["leader"] for mark in history.marks(10.0)] == marked
