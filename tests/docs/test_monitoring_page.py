"""docs/monitoring.md names every metric, as the program describes it, and no other."""

from __future__ import annotations

import re

import pytest

from cyoloctl.metrics.families import GATEWAY, NODE
from cyoloctl.metrics.text import page
from tests.docs.reading import pages, spans

PAGE = "docs/monitoring.md"


def test_tables_are_what_the_program_says() -> None:
    rows = re.findall(r"^\| `(cyoloctl_\w+)` \| (.*?) ?\| (.*) \|$", pages()[PAGE], re.MULTILINE)
    assert rows == [
        (family.shown_name, ", ".join(f"`{label}`" for label in family.labels), family.help)
        for family in (*NODE, *GATEWAY)
    ]


def test_metrics_of_the_process_are_all_named() -> None:
    named = {span.text for span in spans(PAGE) if span.text.startswith("process_")}
    assert named == set(re.findall(r"^(process_\w+) ", page((), {}), re.MULTILINE))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(cyoloctl_\w+)`", pages()[PAGE]))))
def test_metric_that_the_text_names_exists(name: str) -> None:
    assert name in {family.shown_name for family in (*NODE, *GATEWAY)}
