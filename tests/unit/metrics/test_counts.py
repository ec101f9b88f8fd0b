"""Counting of requests and durations."""

from __future__ import annotations

import pytest

from cyoloctl.metrics.counts import REQUEST_BOUNDS_S, Histogram, Requests


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (1.0, 0), (1.001, 1), (2.0, 1), (2.1, 2), (1e9, 2)]
)
def test_duration_is_in_the_bucket_whose_upper_bound_it_does_not_pass(seconds: float, bucket: int) -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(seconds)
    assert [at for at, count in enumerate(histogram.counts) if count] == [bucket]
    assert histogram.sum_s == seconds


def test_requests_are_counted_by_route_and_status_with_one_histogram_per_route() -> None:
    requests = Requests()
    for labels, status, seconds in (
        (("GET", "/b"), 200, 0.002),
        (("GET", "/b"), 404, 0.004),
        (("GET", "/b"), 200, 9.0),
        (("GET", "/a"), 200, 0.5),
    ):
        requests.observe(labels, status, seconds)
    assert list(requests.counts().items()) == [
        (("GET", "/a", "200"), 1),
        (("GET", "/b", "200"), 2),
        (("GET", "/b", "404"), 1),
    ]
    found = requests.durations()
    assert list(found) == [("GET", "/a"), ("GET", "/b")]
    assert sum(found["GET", "/b"].counts) == 3
    assert found["GET", "/b"].counts[-1] == 1
    assert found["GET", "/b"].sum_s == pytest.approx(9.006)
    assert found["GET", "/b"].bounds == REQUEST_BOUNDS_S


def test_request_whose_time_says_nothing_is_counted_without_it() -> None:
    requests = Requests()
    requests.observe(("GET", "/watch"), 200, None)
    assert requests.counts() == {("GET", "/watch", "200"): 1}
    assert requests.durations() == {}
