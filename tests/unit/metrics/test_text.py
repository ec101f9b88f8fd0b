"""The text of metrics, as Prometheus's own parser reads it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cyoloctl.metrics.counts import Histogram
from cyoloctl.metrics.families import GATEWAY, NODE, Family, Figures, by
from cyoloctl.metrics.text import page

FAMILIES = (
    Family("full", "gauge", "How full it is."),
    Family("asked", "counter", "Questions.", ("who",)),
    Family("took_seconds", "histogram", "Time.", ("who",)),
)


def samples(figures: Figures) -> dict[tuple[str, ...], float]:
    """name and label values -> value, without those of the process."""
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels, reverse=True))): sample.value
        for family in text_string_to_metric_families(page(FAMILIES, figures))
        for sample in family.samples
        if not sample.name.startswith("process_")
    }


def test_gauges_counters_and_histograms_are_read_as_what_they_are() -> None:
    took = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.5, 0.5, 7.0):
        took.observe(seconds)
    assert samples({"full": True, "asked": by({"b": 2, "a": 1}), "took_seconds": {("a",): took}}) == {
        ("cyoloctl_full",): 1,
        ("cyoloctl_asked_total", "a"): 1,
        ("cyoloctl_asked_total", "b"): 2,
        ("cyoloctl_took_seconds_bucket", "a", "0.1"): 1,
        ("cyoloctl_took_seconds_bucket", "a", "1.0"): 3,
        ("cyoloctl_took_seconds_bucket", "a", "+Inf"): 4,
        ("cyoloctl_took_seconds_count", "a"): 4,
        ("cyoloctl_took_seconds_sum", "a"): pytest.approx(8.05),
    }


def test_figure_that_is_not_known_is_left_out_and_one_without_a_family_is_a_bug() -> None:
    assert samples({"full": None}) == {}
    with pytest.raises(KeyError, match="fuller"):
        page(FAMILIES, {"fuller": 1})


def test_label_from_outside_cannot_leave_its_quotes() -> None:
    hostile = 'a"} 1\ncyoloctl_full 7\n#\\'
    assert samples({"asked": by({hostile: 1})}) == {("cyoloctl_asked_total", hostile): 1}


def test_process_is_on_every_page() -> None:
    assert "process_resident_memory_bytes " in page((), {})


def test_names_are_unique_and_as_prometheus_wants_them() -> None:
    names = [family.shown_name for family in (*NODE, *GATEWAY)]
    assert len(set(names)) == len(names)
    for family in (*NODE, *GATEWAY):
        assert re.fullmatch(r"cyoloctl_[a-z0-9]+(_[a-z0-9]+)*", family.shown_name)
        assert family.help.endswith(".")
        assert family.kind != "histogram" or family.name.endswith("_seconds")
        assert {label for label in family.labels if not re.fullmatch("[a-z][a-z0-9]*", label)} == set()
        assert not {"le", "by", "on"} & set(family.labels), "a word of PromQL's own"


def test_node_does_not_load_the_library_before_somebody_scrapes() -> None:
    program = (
        "import sys, cyoloctl.node.run, cyoloctl.gateway.server\n"
        "print([name for name in ('prometheus_client', 'cyoloctl.metrics.text') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
