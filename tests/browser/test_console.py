"""The console's page in a real browser: of hostile answers, and of real nodes that die."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from cyoloctl.metrics.families import NODE, by
from cyoloctl.metrics.text import page
from tests.browser.webdriver import TAB, Browser, browser, require_chromium
from tests.cli.harness import Endpoint, counter, member, status
from tests.support.cluster import Cluster, Node, Writers, wait_until
from tests.support.consoles import Console, console

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
XSS = "<img src=x onerror=document.title='owned'>"
SCREENS = ((390, 844), (800, 900), (1440, 900))


@pytest.fixture(scope="module")
def formed(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Three voters, stopped."""
    require_chromium()  # before the work
    with Cluster(tmp_path_factory.mktemp("formed")) as cluster:
        cluster.form(3)
        cluster.stop_all()
    return cluster


@pytest.fixture
def cluster(formed: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """The same for one test, running."""
    (tmp_path / "nodes").mkdir()
    with formed.copy_to(tmp_path / "nodes") as copy:
        copy.start_all()
        copy.wait_healthy()
        yield copy


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path / "profile", width=1280, height=1000) as found:
        yield found


def says(shown: Browser, *texts: str) -> None:
    """Wait until the page has these texts."""
    wait_until(f"a page with {texts}", lambda: all(text in shown.text() for text in texts))


def look(shown: Browser, name: str, height: int, *, dark: bool, points: int = 0, width: int = 1280) -> None:
    """A picture for the documentation, when `make screenshots` asks for it: of charts with some points."""
    if not os.environ.get("SCREENSHOTS"):
        return
    script = "return document.querySelectorAll('.plot .line')[0]?.getAttribute('d').split('L').length ?? 0"
    wait_until("charts with a history", lambda: shown.run(script) >= points, timeout_s=600)
    shown.run("document.activeElement.blur()")
    shown.emulate(width, height, dark=dark)
    path = ROOT / "docs" / "images" / f"{name}.png"
    wait_until("a page that is drawn", lambda: shown.run("return document.fonts.status") == "loaded")
    shown.screenshot(path)
    assert path.stat().st_size < 96 * 1024


def overflows(shown: Browser) -> int:
    return int(
        shown.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    )


def hostile() -> dict[tuple[str, str], Any]:
    """Answers in which every text that a node may say is a script or a very long word."""
    key = {
        "key_id": XSS,
        "state": "primary",
        "created_at": "2026-01-01T00:00:00Z",
        "promoted_at": None,
        "retired_at": None,
        "missing": [XSS],
    }
    lock = {
        "name": XSS,
        "owner": "w" * 500,
        "acquired_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-01-01T00:00:00Z",
    }
    told = {
        **status(
            member("a", role="leader", address=XSS, version=XSS),
            member(XSS, version="v" * 400),
            member("c", reachable=False, uptime_s=None, address="x" * 300),
            name=XSS,
        ),
        "problems": [{"code": "x", "member": XSS, "message": XSS + "m" * 400, "command": XSS}],
        "links": [{"members": ["a", XSS], "linked": False, "dialled_by": XSS}],
    }
    figures = {
        "node_info": {("a", "c", "1", "disk"): 1},
        "state_entries": by({"counters": 40, "keys": 3}),
        "ca_certificate_expires_timestamp_seconds": by({XSS: 2e9}),
    }
    return {
        ("GET", "/v1/status"): told,
        ("GET", "/metrics"): page(NODE, figures),
        ("GET", "/v1/keys/status"): {"agreed": False, "problems": [XSS], "keys": [key]},
        ("GET", "/v1/counters"): {"counters": [counter(XSS, 2**63 - 1)], "next": None},
        ("GET", "/v1/locks"): {"locks": [lock], "next": None},
        ("GET", "/v1/rendezvous"): {"rendezvous": [{"kind": XSS}], "next": None},
    }


def test_whatever_nodes_say_is_text_on_every_screen(shown: Browser, tmp_path: Path) -> None:
    with TemporaryDirectory(prefix="cyolo") as base:
        endpoint = Endpoint(Path(base), hostile())
        try:
            with console(tmp_path, "-e", endpoint.url) as running:
                shown.open(running.link())
                says(shown, XSS, "and 39 more", "9,223,372,036,854,775,807")
                assert shown.text().count(XSS) >= 10
                assert shown.run("return document.querySelectorAll('main img, main script').length") == 0
                assert "owned" not in shown.title.replace(XSS, "")
                for width, height in SCREENS:
                    shown.emulate(width, height)
                    assert overflows(shown) <= 0, width
                # Not even our own script could make HTML of a text.
                refused = (
                    "try { document.body.innerHTML = '<b>x</b>'; return 'made' } catch (e) { return e.name }"
                )
                assert shown.run(refused) == "TypeError"
                assert [line for line in shown.console() if "TrustedHTML" not in line] == []
        finally:
            endpoint.close()


def fill(node: Node) -> None:
    """Something of everything that the page counts and lists."""
    for arguments in (
        ["counter", "incr", "visits", "--by", "7"],
        ["counter", "incr", "orders", "--by", "48213"],
        ["kv", "put", "site/name", "Berlin"],
        ["rendezvous", "start", "--kind", "mfa"],
        ["rendezvous", "start", "--kind", "door"],
        ["token", "revoke", "--sub", "mallory"],
    ):
        assert node.cli(*arguments).returncode == 0, arguments
    node.client().call("lock_acquire", "nightly-backup", {"holder": "1" * 32, "owner": "n1", "ttl_s": 600})


@contextmanager
def readers(cluster: Cluster) -> Iterator[None]:
    """Somebody who reads, for the pictures."""
    if not os.environ.get("SCREENSHOTS"):
        yield
        return
    asks = [word for each in cluster.running() for word in ("-e", each.endpoint)]
    command = ["bench", "--op", "get", "--rate", "25", "--clients", "2", "--seconds", "1h", *asks]
    process = subprocess.Popen([sys.executable, "-m", "cyoloctl", *command], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def healthy(running: Console, shown: Browser) -> None:
    shown.open(running.link())
    says(shown, "All 3 members are well", "tolerates 1 failure", "The last hour", "visits")


def test_page_of_real_nodes_follows_what_happens_to_them(
    cluster: Cluster, shown: Browser, tmp_path: Path
) -> None:
    fill(cluster["n1"])
    asks = [word for each in cluster.running() for word in ("-e", f"https://{each.name}@{each.address}")]
    with console(tmp_path, "--credentials", str(cluster.credentials()), *asks) as running:
        with Writers(cluster), readers(cluster):
            healthy(running, shown)
            look(shown, "console", 880, dark=False, points=24, width=1000)
            # What a screen reader says, and what keys reach.
            assert (shown.role("#state"), shown.label("#members table")) == ("status", "Members")
            heads = shown.texts("#members thead th")
            assert heads[:4] == ["Name", "State", "Address", "Version"]
            assert shown.role("#members tbody th") == "rowheader"
            assert shown.label(".plot").startswith("Writes per second: now ")
            shown.keys(TAB)
            assert shown.run("return document.activeElement.classList.contains('plot')")
            # Local times, and UTC in the tip.
            assert str(shown.attribute("#seen time", "title")).endswith(" UTC")
            for width, height in SCREENS:
                shown.emulate(width, height, dark=width == 800)
                assert overflows(shown) <= 0, width
            shown.emulate(390, 844)
            assert shown.role("#members tbody td") == "cell"
            shown.emulate(1280, 1000)
            leader = cluster.wait_leader()
            cluster[leader].kill()
            says(shown, "2 of 3 members well", f"{leader} is not connected", "cyoloctl member show")
            look(shown, "console-away", 760, dark=True, points=30, width=900)
        cluster[next(each.name for each in cluster.running())].kill()
        says(shown, "No leader", "2 must agree before anything is written")
        for each in cluster.running():
            each.kill()
        says(shown, "No node answers", "Everything below is from before")
        assert "owned" not in shown.title
        assert shown.console() == []
        assert running.end() == 0
        says(shown, "The console does not answer since")
        assert shown.title.startswith("\u2715 No node answers")


def test_link_is_good_for_one_browser_and_the_page_needs_no_network(
    cluster: Cluster, shown: Browser, tmp_path: Path
) -> None:
    with console(tmp_path, "-d", str(cluster["n1"].directory)) as running:
        link = running.link()
        shown.open(link)
        says(shown, "All 3 members are well")
        # Everything came from the console itself.
        script = "return performance.getEntriesByType('resource').map(each => each.name)"
        home = shown.url
        assert {name.startswith(home) for name in shown.run(script)} == {True}
        [cookie] = shown.cookies().values()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (
            True,
            "Strict",
            home.partition("//")[2][home.partition("//")[2].index("/") :],
        )
        assert shown.run("return document.cookie") == ""
        with browser(tmp_path / "second", width=800) as other:
            other.open(link)
            assert "opens by the link" in other.run("return document.body.textContent")
            other.open(home)
            assert "opens by the link" in other.run("return document.body.textContent")
            other.open(running.link())
            says(other, "All 3 members are well")
        assert shown.console() == []
