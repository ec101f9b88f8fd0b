"""The manual in one file, in a browser: readable on a phone, nothing refused, nothing fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.webdriver import browser
from tools import manual

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("width", [390, 800, 1440])
def test_manual_fits_the_screen_and_breaks_no_policy(width: int, tmp_path: Path) -> None:
    page = tmp_path / "manual.html"
    page.write_text(manual.document(), "utf-8")
    with browser(tmp_path / "profile", width=width) as shown:
        shown.open(page.as_uri())
        assert shown.title.endswith(": the manual")
        assert shown.run("return document.documentElement.scrollWidth") == width
        broken = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert shown.run(broken) == 0
        dangling = "[...document.links].filter(a => !document.getElementById(a.hash.slice(1))).length"
        assert shown.run(f"return {dangling}") == 0
        # Commands are read without scrolling sideways; tables of output keep their columns.
        cut = "[...document.querySelectorAll('pre.wrapped')].filter(p => p.scrollWidth > p.clientWidth)"
        assert shown.run(f"return {cut}.map(p => p.textContent.slice(0, 80))") == []
        assert shown.run("return performance.getEntriesByType('resource').length") == 0
        assert shown.console() == []
