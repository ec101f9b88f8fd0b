"""Percentiles and bars of latencies, against all of them sorted."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import pytest

from cyoloctl.bench.latencies import Latencies

PERCENTS = (0.1, 50, 90, 99, 99.9, 99.99, 100)


def of(*seconds: float) -> Latencies:
    latencies = Latencies()
    for each in seconds:
        latencies.add(each)
    return latencies


def whole_us(seconds: float) -> float:
    return round(seconds * 1_000_000) / 1000


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 2, 9, 1000, 20_000])
def test_percentile_is_one_of_the_latencies_rounded_up_by_less_than_a_thousandth(
    seed: int, count: int
) -> None:
    random = Random(seed)
    seconds = [random.lognormvariate(-6, 2) for _ in range(count)]
    latencies = of(*seconds)
    ordered = sorted(map(whole_us, seconds))
    for percent in PERCENTS:
        exact = ordered[math.ceil(round(percent * count / 100, 9)) - 1]
        found = latencies.percentile_ms(percent)
        assert found is not None
        assert exact <= found <= exact * 1.001
        assert found <= ordered[-1]


def test_percentile_of_a_thousand_leaves_one_above_99_9_percent() -> None:
    latencies = of(*(0.001 for _ in range(999)), 1.0)
    assert latencies.percentile_ms(99.9) == 1.0
    assert latencies.percentile_ms(99.91) == 1000.0
    assert latencies.max_ms == 1000.0


def test_no_latency_has_no_percentile_and_no_bar() -> None:
    assert (of().percentile_ms(50), of().max_ms, of().bars(), of().count) == (None, None, [], 0)


def test_longest_is_exact_and_nothing_is_above_it() -> None:
    latencies = of(1.2345678)
    assert latencies.max_ms == latencies.percentile_ms(50) == latencies.percentile_ms(100) == 1234.568


def test_negative_latency_counts_as_none() -> None:
    assert of(-1e-9, -5).percentile_ms(100) == 0


def test_memory_does_not_grow_with_the_number_of_latencies() -> None:
    random = Random(1)
    latencies = of(*(random.uniform(0.0001, 10) for _ in range(100_000)))
    assert len(latencies._counts) < 16_000  # 1,024 for each doubling, of which there are 17


@pytest.mark.parametrize("seed", range(20))
def test_bars_hold_every_latency_once_and_are_few(seed: int) -> None:
    random = Random(seed)
    seconds = [random.lognormvariate(-6, random.choice([0.05, 0.5, 3])) for _ in range(500)]
    bars = of(*seconds).bars()
    ends = [bar.up_to_ms for bar in bars]
    assert sum(bar.count for bar in bars) == len(seconds)
    assert 1 <= len(bars) <= 16
    assert all(before < after for before, after in pairwise(ends))
    assert bars[0].count > 0 < bars[-1].count
    for before, bar in pairwise(bars):
        within = sum(before.up_to_ms < whole_us(each) <= bar.up_to_ms for each in seconds)
        on_the_edge = sum(
            min(abs(whole_us(each) / end - 1) for end in (before.up_to_ms, bar.up_to_ms)) < 0.001
            for each in seconds
        )
        assert abs(bar.count - within) <= on_the_edge


@pytest.mark.parametrize(
    ("seconds", "ends"),
    [
        ([0.0], [0.001]),
        ([0.001], [1.0]),
        ([0.0011, 0.0012], [1.25]),
        ([0.0011, 0.0031], [1.25, 1.6, 2.0, 2.5, 3.15]),
        ([0.0009, 0.09], [1.0, 1.6, 2.5, 4.0, 6.3, 10.0, 16.0, 25.0, 40.0, 63.0, 100.0]),
        ([0.0001, 9], [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000]),
        ([0.0, 3000], [0.001, 0.01, 0.1, 1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000]),
    ],
)
def test_bars_are_as_fine_as_their_number_allows(seconds: list[float], ends: list[float]) -> None:
    assert [bar.up_to_ms for bar in of(*seconds).bars()] == ends
