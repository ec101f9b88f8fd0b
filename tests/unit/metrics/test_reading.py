"""Reading a node's metrics again, from pages that the program wrote."""

from __future__ import annotations

import pytest

from cyoloctl.errors import InvalidInput
from cyoloctl.metrics.counts import Histogram, Requests
from cyoloctl.metrics.families import NODE, Figures
from cyoloctl.metrics.reading import Scrape, doing, quantile
from cyoloctl.metrics.text import page


@pytest.mark.parametrize(
    ("share", "buckets", "expected"),
    [
        (0.5, [], None),
        (0.5, [(1.0, 0.0), (float("inf"), 0.0)], None),
        (0.5, [(1.0, 10.0), (float("inf"), 10.0)], 0.5),
        (0.99, [(1.0, 50.0), (2.0, 100.0), (float("inf"), 100.0)], 1.98),
        (0.5, [(1.0, 50.0), (2.0, 100.0), (float("inf"), 100.0)], 1.0),
        (0.99, [(1.0, 1.0), (2.0, 1.0), (float("inf"), 10.0)], 2.0),  # past the last bound
        (0.99, [(1.0, 0.0), (2.0, 0.0), (4.0, 8.0), (float("inf"), 8.0)], 3.98),
    ],
)
def test_quantile_is_prometheuss(
    share: float, buckets: list[tuple[float, float]], expected: float | None
) -> None:
    assert quantile(share, buckets) == (None if expected is None else pytest.approx(expected))


def figures(commits: Histogram, requests: Requests) -> Figures:
    return {
        "node_info": {("n1", "c", "1", "disk"): 1},
        "commit_duration_seconds": commits,
        "journal_sync_duration_seconds": Histogram(),
        "api_requests": requests.counts(),
    }


def test_what_a_node_did_is_the_difference_of_two_pages() -> None:
    commits, requests = Histogram(), Requests()
    read, write = ("GET", "/v1/kv/get", "read"), ("POST", "/v1/kv/put", "write")
    for seconds in (5.0, 5.0, 5.0):  # before: it must not count
        commits.observe(seconds)
    requests.observe(read, 200, 0.1)
    before = Scrape(page(NODE, figures(commits, requests)))
    for _ in range(20):
        commits.observe(0.0007)
        requests.observe(read, 200, 0.1)
        requests.observe(write, 200, 0.1)
        requests.observe(("GET", "/metrics", "read"), 200, 0.1)
        requests.observe(("GET", "/v1/status", "read"), 200, 0.1)
    after = Scrape(page(NODE, figures(commits, requests)))
    did = doing(before, after, 4.0)
    assert (did.writes_per_s, did.reads_per_s) == (5.0, 5.0)
    assert did.commit_p50_ms == pytest.approx(0.75)
    assert did.commit_p99_ms == pytest.approx(0.995)
    assert did.sync_p99_ms is None
    assert after.label("cyoloctl_node_info", "name") == "n1"
    assert after.label("cyoloctl_nothing", "name") is None


def test_node_that_began_anew_did_all_that_it_tells() -> None:
    commits = Histogram()
    for _ in range(10):
        commits.observe(0.001)
    before = Scrape(page(NODE, figures(commits, Requests())) + "\nprocess_start_time_seconds 7\n")
    del commits.counts[:]
    commits.counts.extend([0] * (len(commits.bounds) + 1))
    commits.observe(0.001)
    after = Scrape(page(NODE, figures(commits, Requests())))
    assert doing(before, after, 1.0).writes_per_s == 1


@pytest.mark.parametrize("text", ["{", "a{b} 1", "<html>", "a x"])
def test_page_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="the metrics cannot be read"):
        Scrape(text)
