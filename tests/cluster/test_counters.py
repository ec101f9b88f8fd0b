"""Counters at their edges, watched, and without a quorum."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from cyoloctl.errors import NotFound, OutcomeUnknown, Unavailable
from tests.support.cluster import Cluster, Node, assert_refused, environment, run, wait_until

pytestmark = pytest.mark.cluster

_MAX, _MIN = 2**63 - 1, -(2**63)


class _Watch:
    """`cyoloctl counter watch` as a process, read line by line."""

    def __init__(self, node: Node, name: str) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "cyoloctl",
                "counter",
                "watch",
                name,
                "-d",
                str(node.directory),
                "-o",
                "json",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self.seen: list[dict[str, object]] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen.append(json.loads(line))

    def values(self) -> list[object]:
        return [line["value"] for line in self.seen]

    def finish(self) -> tuple[int, str]:
        assert self.process.stderr is not None
        status = self.process.wait(60)
        self._thread.join(60)
        return status, self.process.stderr.read()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._thread.join(60)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def _watching(node: Node, name: str) -> Iterator[_Watch]:
    watch = _Watch(node, name)
    try:
        yield watch
    finally:
        watch.close()


def test_watch_sees_changes_made_through_another_node_and_ends_cleanly_on_sigint(shared: Cluster) -> None:
    shared["n1"].client().counters.incr("watched", 10)
    with _watching(shared["n2"], "watched") as watch:
        wait_until("the present value", lambda: watch.values() == [10])
        for value in (11, 12, 13):
            shared["n3"].client().counters.incr("watched", 1)
            wait_until(f"{value} seen", lambda v=value: watch.values()[-1] == v)  # type: ignore[misc]
        assert list(watch.seen[-1]) == ["schema_version", "name", "value", "value_string", "index", "epoch"]
        indexes = [line["index"] for line in watch.seen]
        assert indexes == sorted(indexes)  # type: ignore[type-var]
        watch.process.send_signal(signal.SIGINT)
        status, message = watch.finish()
    assert status == 130
    assert "Traceback" not in message
    assert shared["n2"].client().counters.get("watched")["value"] == 13


def test_watch_and_get_of_a_counter_that_nobody_made_are_not_found(shared: Cluster) -> None:
    client = shared["n2"].client()
    for read in (client.counters.get, lambda name: next(client.counters.watch(name))):
        with pytest.raises(NotFound, match="there is no counter 'unmade'"):
            read("unmade")
    assert_refused(shared["n3"].cli("counter", "watch", "unmade"), 3, "counter incr unmade")
    shared["n1"].client().counters.incr("unmade", 1)
    # Made on another node a moment ago: it is there, whatever this one has applied.
    assert next(client.counters.watch("unmade"))["value"] == 1


def test_watch_goes_on_across_a_change_of_leader(shared: Cluster) -> None:
    shared["n1"].client().counters.incr("watched-on", 1)
    with _watching(shared["n2"], "watched-on") as watch:
        wait_until("the present value", lambda: watch.values() == [1])
        shared["n1"].client(10.0).transfer_leadership(None)
        shared["n3"].client(10.0).counters.incr("watched-on", 1)
        wait_until("the change after it", lambda: watch.values()[-1] == 2)


def test_watch_of_a_node_that_stops_ends_with_unavailable(cluster: Cluster) -> None:
    cluster["n1"].client().counters.incr("default", 1)
    with _watching(cluster["n2"], "default") as watch:
        wait_until("the present value", lambda: watch.values() == [1])
        assert cluster["n2"].terminate() == 0
        status, message = watch.finish()
    assert status == 75, message
    assert json.loads(message)["error"]["code"] == "unavailable"
    assert "watch" in message


def test_counter_overflow_is_refused_and_leaves_the_value(shared: Cluster) -> None:
    node = shared["n2"]
    for name, limit, step in (("high", _MAX, 1), ("low", _MIN, -1)):
        assert node.client().counters.incr(name, limit)["value_string"] == str(limit)
        word = "incr" if step > 0 else "decr"
        assert_refused(node.cli("counter", word, name), 65, "64-bit")
        result = node.cli("counter", word, name, "-o", "json")
        assert result.returncode == 65
        for other in shared.nodes.values():
            assert other.json("counter", "get", name)["value_string"] == str(limit)
        assert node.client().counters.incr(name, -step)["value"] == limit - step


@pytest.mark.parametrize("by", ["0", "1.5", "x", "", str(2**63), "1e3", "٣"])
def test_increment_by_what_is_no_number_is_refused(shared: Cluster, by: str) -> None:
    assert_refused(shared["n1"].cli("counter", "incr", "numbers", "--by", by), 65, "by")
    assert_refused(shared["n1"].cli("counter", "get", "numbers"), 3)


def test_get_of_an_unknown_counter_is_not_found(shared: Cluster) -> None:
    for node in shared.nodes.values():
        assert_refused(node.cli("counter", "get", "unknown"), 3, "unknown", "counter incr")
        assert_refused(node.cli("counter", "get", "unknown", "--stale"), 3, "unknown")


@pytest.mark.parametrize("name", ["Upper", "a_b", "-a", "a" * 64, "ä"])
def test_counter_with_a_wrong_name_is_refused(shared: Cluster, name: str) -> None:
    assert_refused(
        run("counter", "incr", "-d", shared["n1"].directory, "--", name), 65, "counter", "not valid"
    )


def test_request_id_used_for_another_write_is_refused_or_answers_the_first(shared: Cluster) -> None:
    client = shared["n1"].client()
    first = client.counters.incr("ids", 1, request_id="same")
    again = client.counters.incr("ids", 1, request_id="same")
    assert again == first
    assert client.counters.get("ids")["value"] == 1


# --- without a quorum ----------------------------------------------------------------------------


def _kill_others(cluster: Cluster, keep: str) -> None:
    for name in cluster.nodes:
        if name != keep:
            cluster[name].kill()


def test_follower_without_quorum_answers_75_and_only_stale_reads(
    cluster: Cluster,
) -> None:
    cluster["n1"].client().counters.incr("default", 7)
    keep = cluster.followers()[0]
    cluster.wait_settled(voters=3)
    _kill_others(cluster, keep)
    node = cluster[keep]
    wait_until("no leader", lambda: node.client().status()["cluster"]["leader"] is None)
    began = time.monotonic()
    assert_refused(node.cli("counter", "get", "--timeout", "1", CYOLOCTL_TIMEOUT="40"), 75, "leader")
    assert time.monotonic() - began < 30.0, "the timeout of 1 s does not hold"
    assert node.cli("counter", "get", "--stale").stdout == "7\n"
    assert_refused(node.cli("counter", "incr", "--timeout", "1", "--request-id", "never"), 75, "majority")
    assert_refused(node.cli("member", "list", "--timeout", "1"), 75)
    assert_refused(node.cli("member", "invite", "--name", "x", "--timeout", "1"), 75)
    status = node.cli("status", "-o", "json")
    assert status.returncode == 75
    document = json.loads(status.stdout)
    assert (document["cluster"]["leader"], document["cluster"]["healthy"]) == (None, False)
    assert document["cluster"]["failure_tolerance"] == 0
    assert [row["reachable"] for row in document["members"]].count(True) == 1
    # 75 said: not applied.  It never is, also when the others are back.
    cluster.start_all(*(name for name in cluster.nodes if name != keep))
    cluster.wait_settled(voters=3)
    assert cluster.client().counters.get("default")["value"] == 7
    assert cluster.client().counters.incr("default", 1, request_id="never")["value"] == 8


def test_leader_that_lost_its_quorum_tells_the_truth_about_each_write(cluster: Cluster) -> None:
    """75 must mean never applied; 80 may be either, and the same id then settles it."""
    leader = cluster.wait_leader()
    cluster[leader].client().counters.incr("default", 1, request_id="before")
    _kill_others(cluster, leader)
    client = cluster[leader].client(0.4)
    answers: dict[str, str] = {}

    def one_more() -> bool:
        request_id = f"cut-{len(answers)}"
        try:
            client.counters.incr("default", 1, request_id=request_id)
            answers[request_id] = "applied"
        except OutcomeUnknown:
            answers[request_id] = "unknown"
        except Unavailable:
            answers[request_id] = "not applied"
        return list(answers.values())[-3:] == ["not applied"] * 3

    wait_until("three writes in a row certainly not applied", one_more)
    assert "applied" not in answers.values(), "acknowledged without a majority"
    # The first ones may be unknown: one of them, or the leader's own note of who is away, is in its log.
    cluster.start_all(*(name for name in cluster.nodes if name != leader))
    cluster.wait_settled(voters=3)
    value = cluster.client().counters.get("default")["value"]
    unknown = [request_id for request_id, answer in answers.items() if answer == "unknown"]
    assert 1 <= value <= 1 + len(unknown), "a write that was certainly not applied was applied"
    for request_id in unknown:
        cluster.client().counters.incr("default", 1, request_id=request_id)
    assert cluster.client().counters.get("default")["value"] == 1 + len(unknown)


def test_paused_leader_does_not_serve_old_values_when_it_wakes(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    others = [cluster[name] for name in cluster.followers()]
    others[0].client().counters.incr("default", 1)
    os.kill(cluster[leader].pid, signal.SIGSTOP)
    try:
        wait_until(
            "another leader", lambda: others[0].client().status()["cluster"]["leader"] not in (None, leader)
        )
        assert others[1].client().counters.incr("default", 1)["value"] == 2
    finally:
        os.kill(cluster[leader].pid, signal.SIGCONT)
    # Its first answer already: linearizable or none at all.
    read = wait_until("a read on the old leader", lambda: cluster[leader].client(2.0).counters.get("default"))
    assert read["value"] == 2
    cluster.wait_settled(voters=3)
