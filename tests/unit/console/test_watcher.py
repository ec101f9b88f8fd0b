"""Looking again and again, at scripted answers over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from cyoloctl.console.history import POINT_S
from cyoloctl.console.watcher import Watcher
from cyoloctl.control.client import AsyncClient
from cyoloctl.control.survey import Survey
from cyoloctl.errors import AccessDenied, NotFound, Unavailable, Unreachable
from cyoloctl.metrics.counts import Histogram, Requests
from cyoloctl.metrics.families import NODE
from cyoloctl.metrics.text import page
from tests.cli.harness import Endpoint, counter, member, status

STATUS, METRICS = ("GET", "/v1/status"), ("GET", "/metrics")
KEYS, COUNTERS = ("GET", "/v1/keys/status"), ("GET", "/v1/counters")
LOCKS, WAITING = ("GET", "/v1/locks"), ("GET", "/v1/rendezvous")
LISTS = (KEYS, COUNTERS, LOCKS, WAITING)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Node:
    """A node with scripted answers, which counts what it is asked."""

    def __init__(self, directory: Path) -> None:
        self.commits, self.requests = Histogram(), Requests()
        self.status: Any = {**status(), "problems": []}
        self.waiting: Any = {"rendezvous": [{"kind": "mfa"}], "next": None}
        answers = {
            STATUS: lambda body: self.status,
            METRICS: lambda body: self.page(),
            KEYS: self.counted("/v1/keys/status", {"agreed": True, "problems": [], "keys": []}),
            COUNTERS: self.counted("/v1/counters", {"counters": [counter("c", 1)], "next": None}),
            LOCKS: self.counted("/v1/locks", {"locks": [], "next": None}),
            WAITING: lambda body: self.wait(),
        }
        self.endpoint = Endpoint(directory, answers)

    def counted(self, route: str, answer: dict[str, Any]) -> Any:
        def reply(body: dict[str, Any]) -> dict[str, Any]:
            self.requests.observe(("GET", route, "read"), 200, 0.001)
            return answer

        return reply

    def wait(self) -> Any:
        self.requests.observe(("GET", "/v1/rendezvous", "read"), 200, 0.001)
        return self.waiting

    def page(self) -> str:
        return page(
            NODE,
            {
                "node_info": {("a", "cyolo", "1", "disk"): 1},
                "commit_duration_seconds": self.commits,
                "journal_sync_duration_seconds": Histogram(),
                "api_requests": self.requests.counts(),
            },
        )

    def asked(self, path: str) -> list[str]:
        return [body["query"] for _, asked, body in self.endpoint.requests if asked == path]


@pytest.fixture
def node() -> Iterator[Node]:
    with TemporaryDirectory(prefix="cyolo") as base:
        found = Node(Path(base))
        yield found
        found.endpoint.close()


def watcher(node: Node, clock: Clock) -> Watcher:
    survey = Survey(
        [node.endpoint.url],
        lambda urls, credentials: AsyncClient(list(urls), timeout_s=20, retry=False),
        None,
        clock,
    )
    return Watcher(survey, clock=clock, wall=clock)


async def test_first_look_that_fails_is_told_at_once(node: Node) -> None:
    node.status = AccessDenied("not you")
    with pytest.raises(AccessDenied):
        await watcher(node, Clock()).begin()


async def test_point_is_what_happened_since_the_one_before(node: Node) -> None:
    clock = Clock()
    it = watcher(node, clock)
    await it.begin()
    for _ in range(2):
        for _ in range(20):
            node.commits.observe(0.0007)
        clock.now += POINT_S / 2
        await it.look()
    [point] = it.document()["history"]["points"]
    assert point[:4] == (1000.0 + POINT_S, "led", 8.0, 0.0)


async def test_lists_are_asked_while_a_page_is_open_and_are_no_reads(node: Node) -> None:
    clock = Clock()
    it = watcher(node, clock)
    await it.begin()
    await it.look()
    assert node.asked("/v1/counters") == []  # nobody looks
    for _ in range(6):
        it.document()
        clock.now += POINT_S / 2
        await it.look()
    shown = it.document()
    assert [each["name"] for each in shown["counters"]] == ["c"]
    assert shown["waiting"]["kinds"] == [{"kind": "mfa", "count": 2}]  # of pending and of claimed ones
    assert all("consistency=stale" in query for path in LISTS for query in node.asked(path[1]))
    assert [point[3] for point in shown["history"]["points"]] == [0.0, 0.0, 0.0]
    asked = len(node.asked("/v1/counters"))
    clock.now += 60  # the page was closed
    await it.look()
    assert len(node.asked("/v1/counters")) == asked


async def test_what_credentials_may_not_see_is_asked_once(node: Node) -> None:
    node.waiting = AccessDenied("for gateways")
    clock = Clock()
    it = watcher(node, clock)
    await it.begin()
    for _ in range(3):
        it.document()
        await it.look()
    assert len(node.asked("/v1/rendezvous")) == 1
    assert it.document()["waiting"] == {"kinds": None, "more": False, "allowed": False}
    assert it.document()["counters"] != []


async def test_silence_is_shown_with_its_reason_since_when_and_ends(node: Node) -> None:
    clock = Clock()
    it = watcher(node, clock)
    await it.begin()
    before, node.status = node.status, Unavailable("not now")
    clock.now += POINT_S
    await it.look()
    clock.now += POINT_S
    await it.look()
    shown = it.document()
    assert (shown["stale"], shown["headline"]["since_unix_s"]) == (True, 1000.0 + POINT_S)
    assert "not now" in shown["problems"][0]["message"]
    assert [point[1] for point in shown["history"]["points"]] == ["silent", "silent"]
    node.status = before
    clock.now += POINT_S
    await it.look()
    assert it.document()["headline"]["level"] == "good"


async def test_time_without_a_leader_counts_from_its_first_look_and_a_new_one_is_marked(node: Node) -> None:
    clock = Clock()
    it = watcher(node, clock)
    await it.begin()
    for _ in range(2):
        clock.now += POINT_S
        node.status = {**status(leader=None), "problems": []}
        await it.look()
    assert it.document()["headline"]["since_unix_s"] == 1000.0 + POINT_S
    clock.now += POINT_S
    node.status = {**status(member("b", role="leader"), leader="b", term=4), "problems": []}
    await it.look()
    shown = it.document()
    assert shown["headline"]["since_unix_s"] is None
    assert [(mark["leader"], mark["term"]) for mark in shown["history"]["marks"]] == [("b", 4)]
    assert [point[1] for point in shown["history"]["points"]] == ["leaderless", "leaderless", "led"]


async def test_node_of_an_earlier_release_is_shown_without_figures(node: Node) -> None:
    node.endpoint.answers[METRICS] = NotFound("no such path")
    clock = Clock()
    it = watcher(node, clock)
    await it.begin()
    clock.now += POINT_S
    await it.look()
    shown = it.document()
    assert (shown["counts"], shown["authorities"]) == (None, [])
    assert shown["history"]["points"] == [(1000.0 + POINT_S, "led", None, None, None, None, None)]


async def test_node_that_is_gone_between_status_and_lists_ends_nothing(node: Node) -> None:
    it = watcher(node, Clock())
    await it.begin()
    it.document()
    node.endpoint.answers[KEYS] = Unreachable("gone")
    await it.look()
    assert it.document()["keys"] is None
