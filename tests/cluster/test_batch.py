"""Batches on real nodes: every line once, whoever dies, through whichever node, for whoever may."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.control.client import AsyncClient, Client
from tests.support.cluster import LIMIT_S, MACHINES, Cluster, Node, environment, wait_until

pytestmark = pytest.mark.cluster

Json = dict[str, Any]


def lines(*operations: Json) -> str:
    return "".join(json.dumps({"id": str(at), **each}) + "\n" for at, each in enumerate(operations))


def increments(count: int, name: str) -> str:
    return lines(*({"op": "counter_increment", "name": name} for _ in range(count)))


def results(text: str) -> list[Json]:
    return [json.loads(each) for each in text.splitlines()]


def start(
    node: Node, file: Path | str, out: Path, *options: str, stdin: int | None = None
) -> subprocess.Popen[bytes]:
    with out.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "cyoloctl", "batch", str(file), "-d", str(node.directory), *options],
            stdin=stdin, stdout=stream, stderr=subprocess.PIPE, env=environment(),
        )  # fmt: skip


@contextmanager
def without_end(text: str) -> Iterator[int]:
    """The end of a pipe from which these lines come, and then nothing, but no end."""
    reader, writer = os.pipe()

    def write() -> None:
        left = text.encode()
        with suppress(BrokenPipeError):
            while left:
                left = left[os.write(writer, left) :]

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield reader
    finally:
        os.close(reader)
        thread.join(LIMIT_S)
        os.close(writer)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    _, told = process.communicate(timeout=2 * LIMIT_S)
    return process.returncode, told.decode()


def values(found: Iterable[Json]) -> list[int]:
    return [each["value"] for each in found]


def count_of(out: Path) -> int:
    return out.read_bytes().count(b"\n")


def test_order_is_that_of_the_input_and_reads_see_what_stands_before_them(shared: Cluster) -> None:
    operations: list[Json] = []
    sealed = {0: False, 7: True}
    for number in range(40):
        operations += [
            {"op": "kv_put", "key": "order/a", "value": str(number), "sealed": sealed.get(number % 10)},
            {"op": "kv_get", "key": "order/a"},
        ]
    operations += [
        {"op": "kv_put", "key": "order/b", "value": "x", "ttl_s": 600},
        {"op": "kv_delete", "key": "order/a"},
        {"op": "kv_get", "key": "order/a"},
        {"op": "kv_txn", "then": [{"op": "put", "key": "order/c", "value": "y"}]},
        {"op": "kv_list", "prefix": "order/", "values": "without"},
        {"op": "counter_decrement", "name": "order", "by": 5},
        {"op": "counter_reset", "name": "order"},
        {"op": "counter_get", "name": "order"},
    ]
    for node in shared.nodes.values():
        done = node.cli("batch", stdin=lines(*operations))
        found = results(done.stdout)
        # A sealed key takes nothing in clear unless that is said, so two of ten puts are refused.
        assert done.returncode == 4, done.stderr
        assert [each["id"] for each in found] == [str(at) for at in range(len(operations))]
        kept = None
        for put, got in zip(found[:80:2], found[1:80:2], strict=True):
            kept = put["value"] if put["ok"] else kept
            assert got["value"] == kept
        *_, put, deleted, missing, changed, listed, less, reset, read = found
        assert put["expires_at"]
        assert deleted["ok"]
        assert missing["error"]["code"] == "not_found"
        assert changed["succeeded"]
        assert [each["key"] for each in listed["entries"]] == ["order/b", "order/c"]
        assert (less["value"], reset["value"], read["value"]) == (-5, 0, 0)


def test_every_line_is_applied_once_whoever_leads_dies_while_they_come(
    cluster: Cluster, tmp_path: Path
) -> None:
    count = 20_000
    file, out = tmp_path / "lines", tmp_path / "out"
    file.write_text(increments(count, "once"))
    leader = cluster.wait_leader()
    follower = cluster[cluster.followers()[0]]
    process = start(follower, file, out, "--timeout", "60", "--request-id", "once")
    wait_until("some lines", lambda: count_of(out) > 1000)
    cluster[leader].kill()
    status, told = ended(process)
    assert status == 0, told
    assert count_of(out) == count
    # Each one is answered with its own value: none was lost, doubled, or came out of its turn.
    assert values(results(out.read_text())) == list(range(1, count + 1))
    assert follower.client().counters.get("once")["value"] == count


def test_run_whose_node_dies_is_gone_on_with_at_another_and_nothing_is_applied_twice(
    cluster: Cluster, tmp_path: Path
) -> None:
    count = 15_000
    file, out, rest = tmp_path / "lines", tmp_path / "out", tmp_path / "rest"
    file.write_text(increments(count, "moved"))
    leader = cluster.wait_leader()
    process = start(cluster[leader], file, out, "--timeout", "2", "--request-id", "moved")
    wait_until("some lines", lambda: count_of(out) > 500)
    cluster[leader].kill()
    status, told = ended(process)
    assert status in (75, 69, 80), told
    *answered, last = results(out.read_text())
    assert not last["ok"]
    assert f"--request-id moved --from {last['id']}`" in told
    other = cluster[cluster.wait_leader()]
    status, told = ended(start(other, file, rest, "--request-id", "moved", "--from", last["id"]))
    assert status == 0, told
    assert values(answered) + values(results(rest.read_text())) == list(range(1, count + 1))
    assert other.client().counters.get("moved")["value"] == count


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_run_that_was_killed_is_gone_on_with_from_its_last_answer(
    shared: Cluster, tmp_path: Path, how: signal.Signals
) -> None:
    count, name = 5_000, f"killed-{how.value}"
    file, out, rest = tmp_path / "lines", tmp_path / "out", tmp_path / "rest"
    file.write_text(increments(count, name))
    node = shared["n1"]
    with without_end(file.read_text()) as stdin:
        process = start(node, "-", out, "--request-id", name, stdin=stdin)
        wait_until("some lines", lambda: count_of(out) > 500)
        process.send_signal(how)
        status, told = ended(process)
    assert status == (-how if how is signal.SIGKILL else 130), told
    whole = out.read_text()
    answered = results(whole[: whole.rindex("\n") + 1])  # of the last line a part may be there
    last = answered[-1]["id"]
    status, told = ended(start(node, file, rest, "--request-id", name, "--from", last))
    assert status == 0, told
    again = results(rest.read_text())
    assert again[0] == answered[-1]  # the same answer, to the last field
    assert values(answered[:-1]) + values(again) == list(range(1, count + 1))
    assert node.client().counters.get(name)["value"] == count


def test_same_run_again_is_answered_as_at_first_and_another_run_is_another(shared: Cluster) -> None:
    text = increments(300, "again")
    first = shared["n1"].cli("batch", "--request-id", "again-1", stdin=text)
    again = shared["n2"].cli("batch", "--request-id", "again-1", stdin=text)
    other = shared["n3"].cli("batch", "--request-id", "again-2", stdin=text)
    assert first.returncode == again.returncode == other.returncode == 0
    assert first.stdout == again.stdout
    assert values(results(other.stdout)) == list(range(301, 601))
    changed = text.replace('"counter_increment"', '"counter_decrement"', 1)
    refused = shared["n1"].cli("batch", "--request-id", "again-1", stdin=changed)
    assert refused.returncode == 4
    assert "request id" in results(refused.stdout)[0]["error"]["message"]


def test_each_line_needs_the_role_of_its_own_operation(shared: Cluster) -> None:
    leader = shared[shared.wait_leader()]
    leader.client().counters.incr("role", 3)
    text = lines(
        {"op": "counter_get", "name": "role"},
        {"op": "counter_increment", "name": "role"},
        {"op": "token_mint", "sub": "alice"},
        {"op": "batch", "operations": []},
        {"op": "stop"},
    )
    remote = ["-e", f"https://{leader.address}", "--credentials", shared.viewer()]
    done = leader.cli("batch", *remote, stdin=text)
    assert done.returncode == 77
    codes = [each.get("error", {}).get("code") for each in results(done.stdout)]
    assert codes == [None, "access_denied", "access_denied", "invalid_input", "invalid_input"]
    assert leader.client().counters.get("role")["value"] == 3
    assert leader.running()


def test_machines_of_ones_own_and_rendezvous_are_part_of_batches(stopped: Cluster) -> None:
    for node in stopped.nodes.values():
        node.give_machine("hits:Hits", MACHINES / "hits.py")
    stopped.start_all()
    stopped.wait_healthy()
    node = stopped["n1"]
    node.wait_machine()
    begun = node.client().call("rendezvous_start", body={"kind": "mfa"})
    text = lines(
        {"op": "machine_apply", "name": "hits", "operation": "add", "arguments": {"page": "/a", "by": 2}},
        {"op": "machine_query", "name": "hits", "query": "of", "arguments": {"page": "/a"}},
        {"op": "machine_apply", "name": "hits", "operation": "add", "arguments": {"page": "/a", "by": 0}},
        {"op": "rendezvous_approve", "rendezvous_id": begun["id"], "by": "ann"},
        {"op": "rendezvous_show", "name": begun["id"]},
    )
    done = node.cli("batch", stdin=text)
    assert done.returncode == 4
    added, asked, refused, approved, shown = results(done.stdout)
    assert (added["answer"], asked["answer"], refused["error"]["code"]) == (2, 2, "machine_refused")
    assert (approved["id"], shown["rendezvous_id"], shown["state"]) == ("3", begun["id"], "approved")


async def test_both_clients_take_any_number_of_operations(shared: Cluster) -> None:
    operations = [{"id": at, "op": "counter_increment", "name": "library"} for at in range(700)]
    endpoints = [node.endpoint for node in shared.nodes.values()]
    found = Client(endpoints).batch(operations, request_id="library")
    assert values(found) == list(range(1, 701))
    async with AsyncClient(endpoints) as client:
        assert await client.batch(operations, request_id="library") == found
        stopped = await client.batch(
            [{"id": 1, "op": "counter_get", "name": "none"}, *operations], stop_on_error=True
        )
    assert [each["error"]["code"] for each in stopped] == ["not_found"]
