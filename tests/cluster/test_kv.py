"""Keys and values on real nodes: conditions, ends, fences, and watches that miss nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, assert_refused, environment, run, wait_until

pytestmark = pytest.mark.cluster


def test_bytes_go_in_on_one_node_and_come_out_on_another(shared: Cluster, tmp_path: Path) -> None:
    one, two = shared["n1"], shared["n2"]
    data = bytes(range(256)) * 1024
    (tmp_path / "value").write_bytes(data)
    written = one.json("kv", "put", "kv/é b", "--file", tmp_path / "value")
    got = subprocess.run(
        [sys.executable, "-m", "cyoloctl", "kv", "get", "kv/é b", "-d", str(two.directory)],
        capture_output=True,
        env=environment(),
        timeout=60,
        check=True,
    )
    assert got.stdout == data
    entry = two.json("kv", "get", "kv/é b")
    assert b64decode(entry["value_base64"]) == data
    assert "value" not in entry  # it is not UTF-8
    assert {name: written[name] for name in entry if name not in ("index", "epoch")} == {
        name: entry[name] for name in entry if name not in ("index", "epoch")
    }
    (tmp_path / "large").write_bytes(data + b"x")
    assert_refused(one.cli("kv", "put", "kv/large", "--file", tmp_path / "large"), 65, "262144")


def test_of_two_who_change_the_same_revision_one_is_refused_and_a_repetition_is_not(shared: Cluster) -> None:
    one, two = shared["n1"], shared["n2"]
    made = one.json("kv", "put", "kv/cas", "1", "--if-absent")["revision"]
    first = ("kv", "put", "kv/cas", "2", "--if-revision", made, "--request-id", "kv-cas")
    done = two.json(*first)
    assert_refused(
        one.cli("kv", "put", "kv/cas", "3", "--if-revision", made), 4, f"revision {done['revision']}"
    )
    assert_refused(one.cli("kv", "put", "kv/cas", "3", "--if-absent"), 4, "is there already")
    assert one.json(*first) == done
    assert_refused(one.cli("kv", "get", "kv/none"), 3, "no key")


def test_transaction_is_one_change_or_the_other(shared: Cluster, tmp_path: Path) -> None:
    node, file = shared["n3"], tmp_path / "change.json"
    node.json("kv", "put", "kv/from", "100")
    change = {
        "compare": [{"key": "kv/from", "target": "value", "value": "100"}],
        "then": [
            {"op": "put", "key": "kv/from", "value": "0"},
            {"op": "put", "key": "kv/to", "value": "100"},
        ],
        "otherwise": [{"op": "put", "key": "kv/failed", "value": "1"}],
    }
    file.write_text(json.dumps(change))
    done = node.json("kv", "txn", file)
    assert done["succeeded"] is True
    found = shared["n1"].json("kv", "list", "kv/")
    moved = {each["key"]: each for each in found["entries"]}
    assert moved["kv/from"]["revision"] == moved["kv/to"]["revision"] == done["revision"]
    again = node.cli("kv", "txn", file)
    assert (again.returncode, again.stdout.split()[:2]) == (4, ["not", "succeeded"])
    assert node.cli("kv", "get", "kv/failed").stdout == "1"
    file.write_text('{"then": [{"op": "put"}]}')
    assert_refused(node.cli("kv", "txn", file), 65, "then[0].key")


def test_key_with_an_end_goes_by_itself_and_a_watch_says_so(shared: Cluster) -> None:
    node = shared["n1"]
    made = node.json("kv", "put", "kv/ttl", "x", "--ttl", "1s")
    assert made["expires_at"] is not None
    wait_until("the key gone", lambda: node.cli("kv", "get", "kv/ttl", "--stale").returncode == 3)
    body = {"prefix": "kv/ttl", "from_revision": made["revision"]}
    page = shared["n2"].client().call("kv_changes", query=body)
    assert [change["type"] for change in page["changes"]] == ["put", "expire"]


def test_write_with_a_fence_needs_the_lock(shared: Cluster) -> None:
    one, two = shared["n1"], shared["n2"]
    put = f"{sys.executable} -m cyoloctl kv put kv/fenced mine -d {one.directory}"
    script = f'echo "$CYOLOCTL_LOCK=$CYOLOCTL_FENCE"; {put} --fence "$CYOLOCTL_LOCK=$CYOLOCTL_FENCE"'
    held = run("lock", "run", "kv-fence", "-d", one.directory, "--", "sh", "-c", script)
    assert held.returncode == 0, held.stderr
    fence = held.stdout.split()[0]
    assert two.cli("kv", "get", "kv/fenced").stdout == "mine"
    assert_refused(two.cli("kv", "put", "kv/fenced", "late", "--fence", fence), 4, "not held")
    assert two.cli("kv", "get", "kv/fenced").stdout == "mine"


def test_watch_misses_nothing_and_repeats_nothing_while_the_leader_is_killed(cluster: Cluster) -> None:
    endpoints = [option for name in ("n1", "n2", "n3") for option in ("-e", cluster[name].endpoint)]
    watch = subprocess.Popen(
        [sys.executable, "-m", "cyoloctl", "kv", "watch", "w/", "--from", "1", "-o", "json", *endpoints],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    try:
        expected: list[tuple[int, str]] = []

        def put(client: Any, number: int) -> None:
            body = {"key": f"w/{number % 5}", "value": str(number), "request_id": f"w{number}"}
            expected.append((client.call("kv_put", body=body)["revision"], str(number)))

        client = cluster.client()
        for number in range(40):
            put(client, number)
        leader = cluster.wait_leader()
        cluster[leader].kill()
        others = cluster.client(*(name for name in ("n1", "n2", "n3") if name != leader))
        for number in range(40, 80):
            put(others, number)
        cluster[leader].start()
        put(others, 80)
        assert watch.stdout is not None
        seen = [json.loads(watch.stdout.readline()) for _ in range(81)]
        assert [(line["revision"], line["value"]) for line in seen] == expected
        assert {line["type"] for line in seen} == {"put"}
    finally:
        watch.kill()
        watch.wait()
        if watch.stdout is not None:
            watch.stdout.close()
