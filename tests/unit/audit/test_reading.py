"""The log read through a client: found, copied in pages while it is cut, acknowledged, verified."""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl.audit import reading
from cyoloctl.audit.chain import AuditLimits
from cyoloctl.audit.lines import Chain, Verifier
from cyoloctl.errors import AuditBroken, Conflict
from cyoloctl.text import Json
from tests.unit.audit.test_machine import World

Lines = list[Json]


class Cluster:
    """Answers as a node does.  spoil: changes a page on its way.  calls: what was asked."""

    def __init__(self, count: int, **limits: Any) -> None:
        self.world = World(**limits)
        self.calls: list[tuple[str, str, Any]] = []
        self.spoil: Any = lambda page: None
        for number in range(count):
            self.add(number)

    def add(self, number: int = 0) -> None:
        self.world.write("counter", "add", {"name": f"c{number % 3}", "by": 1})

    def call(self, operation: str, name: str = "", body: Any = None, *, query: Any = None) -> Json:
        self.calls.append((operation, name, body or query))
        chain: Chain = "trust" if name == "trust" else "data"
        lines = self.world.state.audit.chain(chain)
        if operation == "audit_acknowledge":
            self.world.write(
                "audit", "acknowledge", {"chain": name, "through": body["through"], "hash": body["hash"]}
            )
            return {"exported_through": lines.exported_through}
        limit = query["limit"]
        start = query.get("start") or max(1, lines.last - limit + 1)
        found = lines.page(start, limit)
        through = found[-1]["sequence"] if found else 0
        answer = {
            "chain": chain,
            "lines": found,
            "next": through + 1 if 0 < through < lines.last else None,
            "last": lines.last,
            "head": lines.head,
            "cut_through": lines.cut_through,
            "cut_hash": lines.cut_hash,
            "exported_through": lines.exported_through,
        }
        self.spoil(answer)
        return answer


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PAGE", 10)


def copy(
    cluster: Cluster, verifier: Verifier | None = None, start: int | None = None, chain: Chain = "data"
) -> tuple[reading.Copied, Lines]:
    verifier, found = verifier or Verifier(), list[Json]()

    def write(lines: Lines) -> None:
        for line in lines:
            verifier.follow(line)
        found.extend(lines)

    return reading.copy_chain(cluster, chain, write, verifier, start), found


def anything(line: Json) -> bool:
    return True


def numbers(lines: Lines) -> list[int]:
    return [line["sequence"] for line in lines]


def test_newest_lines_are_found_with_the_newest_last() -> None:
    cluster = Cluster(35)
    found = reading.find(cluster, ["trust", "data"], anything, start=None, most=15)
    assert numbers(found.lines) == list(range(21, 36))
    assert found.next is None
    wanted = reading.find(cluster, ["data"], lambda line: line["subject"] == "c0", start=None, most=4)
    assert numbers(wanted.lines) == [25, 28, 31, 34]


def test_lines_from_one_on_are_found_in_pages() -> None:
    cluster = Cluster(35)
    found = reading.find(cluster, ["data"], anything, start=5, most=12)
    assert (numbers(found.lines), found.next) == (list(range(5, 17)), 17)
    last = reading.find(cluster, ["data"], anything, start=30, most=12)
    assert (numbers(last.lines), last.next) == (list(range(30, 36)), None)
    assert reading.find(cluster, ["data"], anything, start=36, most=12).lines == []


def test_lines_before_a_time_are_not_looked_at() -> None:
    cluster = Cluster(35)
    assert reading.find(cluster, ["data"], anything, start=None, most=100, oldest="2024").lines == []
    assert len(cluster.calls) == 1
    assert len(reading.find(cluster, ["data"], anything, start=None, most=100, oldest="2023").lines) == 35


def test_copy_is_whole_and_the_next_one_goes_on() -> None:
    cluster, verifier = Cluster(35), Verifier()
    copied, found = copy(cluster, verifier)
    assert (copied.lines, numbers(found)) == (35, list(range(1, 36)))
    cluster.add()
    assert numbers(copy(cluster, verifier)[1]) == [36]
    assert copy(cluster, verifier)[1] == []


def test_copy_that_begins_later_begins_there() -> None:
    assert numbers(copy(Cluster(35), start=30)[1]) == list(range(30, 36))


SMALL = {"audit": AuditLimits(lines=40, bytes=10**6, block=8)}


def test_first_copy_begins_with_what_is_left() -> None:
    cluster = Cluster(100, **SMALL)
    assert numbers(copy(cluster)[1]) == list(
        range(cluster.world.state.audit.chain("data").cut_through + 1, 101)
    )


def test_copy_that_lines_were_cut_from_says_which() -> None:
    cluster, verifier = Cluster(20, **SMALL), Verifier()
    copy(cluster, verifier)
    for _ in range(60):
        cluster.add()
    cut = cluster.world.state.audit.chain("data").cut_through
    with pytest.raises(Conflict, match=f"lines 21 to {cut} were cut"):
        copy(cluster, verifier)
    with pytest.raises(Conflict, match=f"lines 2 to {cut} were cut"):
        copy(cluster, start=2)


def test_lines_that_are_cut_while_they_are_copied_are_told() -> None:
    cluster = Cluster(40, **SMALL)

    def busy(page: Json) -> None:
        for _ in range(40):
            cluster.add()

    cluster.spoil = busy
    with pytest.raises(Conflict, match="were cut before"):
        copy(cluster)


def test_copy_of_another_history_is_refused() -> None:
    verifier = Verifier()
    copy(Cluster(20), verifier)
    other = Cluster(0)
    for _ in range(25):
        other.world.write("counter", "add", {"name": "other", "by": 1})
    with pytest.raises(AuditBroken, match="written anew"):
        copy(other, verifier)
    with pytest.raises(AuditBroken, match="older state"):
        copy(Cluster(10), verifier)
    assert reading.lines_since(Cluster(22), verifier.ends, "data") == 2


def test_export_is_acknowledged_once_and_an_idle_cluster_gets_no_more_lines() -> None:
    cluster, verifier = Cluster(35), Verifier()
    for _ in range(4):
        copied, _ = copy(cluster, verifier)
        reading.acknowledge(cluster, [copied], None)
    assert [call[0] for call in cluster.calls].count("audit_acknowledge") == 1
    assert cluster.world.state.audit.chain("data").last == 36
    cluster.add()
    copied, _ = copy(cluster, verifier)
    reading.acknowledge(cluster, [copied], None)
    assert copied.exported_through == 37


def test_acknowledgements_of_both_chains_have_request_ids_of_their_own() -> None:
    cluster = Cluster(3)
    cluster.world.write("members", "uninvite", {"name": "n9"})
    trust, _ = copy(cluster, chain="trust")
    data, _ = copy(cluster)
    reading.acknowledge(cluster, [trust, data], "job")
    ids = [call[2]["request_id"] for call in cluster.calls if call[0] == "audit_acknowledge"]
    assert len(set(ids)) == 2


def test_log_of_a_node_is_verified_from_the_last_cut_to_its_head() -> None:
    cluster = Cluster(100, **SMALL)
    end = reading.verified_chain(cluster, "data")
    assert (end.last, end.hash) == (100, cluster.world.state.audit.chain("data").head)
    assert reading.verified_chain(cluster, "trust").last == 0


@pytest.mark.parametrize("field", ["head", "cut_hash", "line"])
def test_log_that_does_not_hold_together_is_broken(field: str) -> None:
    cluster = Cluster(30, **SMALL)

    def spoil(page: Json) -> None:
        if field == "line":
            page["lines"][3]["who"] = "eve"
        else:
            page[field] = "f" * 64

    cluster.spoil = spoil
    with pytest.raises(AuditBroken):
        reading.verified_chain(cluster, "data")
