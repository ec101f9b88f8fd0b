"""Strangers at a node's port: impostors, other clusters, bytes that mean nothing."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.raft.messages import MAX_FRAME_BYTES
from tests.support.cluster import (
    Cluster,
    Enrolled,
    Node,
    assert_refused,
    rss_kib,
    run,
    wait_until,
)
from tests.support.connections import Peer, cluster_id_of, tls_connect

pytestmark = pytest.mark.cluster

_RAFT = "cyoloctl-raft/3"


@pytest.fixture(autouse=True)
def _cluster_goes_on(shared: Cluster) -> Iterator[None]:
    """After each test: the same leader and term, everybody connected, writes go on, no bug in a log."""
    before = shared["n1"].client().status()["cluster"]
    logged = {name: node.log_size() for name, node in shared.nodes.items()}
    value = shared["n2"].client().counters.incr("strangers", 1)["value"]
    yield
    assert shared["n2"].client().counters.incr("strangers", 1)["value"] == value + 1
    after = shared["n1"].client().status()["cluster"]
    assert (after["leader"], after["term"], after["voters"]) == (before["leader"], before["term"], 3)
    for node in shared.running():
        wait_until(f"{node.name} has its voters", lambda node=node: _voters_up(node))  # type: ignore[misc]
    for name, node in shared.nodes.items():
        bugs = [e for e in node.log_events(logged[name]) if e["level"] in ("error", "critical")]
        assert not bugs


def _voters_up(node: Node) -> bool:
    rows = node.client(2.0).status()["members"]
    return [row["name"] for row in rows if row["role"] != "learner" and row["reachable"]] == [
        "n1",
        "n2",
        "n3",
    ]


@pytest.fixture(scope="module")
def stranger(shared: Cluster) -> Iterator[Enrolled]:
    """A member that is not running, so that a test can be it."""
    enrolled = shared.enrol("stranger")
    yield enrolled
    shared["n1"].client(10.0).member_remove(enrolled.name)
    shared.wait_healthy()


def _refusals(cluster: Cluster, name: str) -> list[str]:
    """The last reasons for which a node refused a peer; the latest may come a second late."""
    since = max(0, cluster[name].log_size() - 20_000)
    return [str(e.get("reason")) for e in cluster[name].log_events(since) if e["event"] == "peer refused"]


def _wait_refusal(cluster: Cluster, name: str, *words: str) -> None:
    """Until the log tells of a refusal with these words."""
    wait_until(
        f"a refusal with {words}",
        lambda: any(all(word in reason for word in words) for reason in _refusals(cluster, name)),
    )


# --- impostors -----------------------------------------------------------------------------------


def test_peer_that_claims_another_name_than_its_certificate_is_refused(
    shared: Cluster, stranger: Enrolled
) -> None:
    cluster_id = cluster_id_of(shared["n1"])
    with Peer(shared["n2"], stranger.keys) as peer:
        peer.hello("n3", cluster_id)
        assert [m["type"] for m in peer.wait_closed()] == ["hello"]
    _wait_refusal(shared, "n2", "'n3'", f"'{stranger.name}'")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"raft_id": "n3"}, "raft id"),
        ({"cluster_id": "0" * 32}, "another cluster"),
        ({"version": 4}, "protocol version 4"),
    ],
)
def test_peer_with_a_wrong_hello_is_refused(
    shared: Cluster, stranger: Enrolled, changes: dict[str, object], reason: str
) -> None:
    with Peer(shared["n2"], stranger.keys) as peer:
        peer.hello(stranger.name, **{"cluster_id": cluster_id_of(shared["n1"]), **changes})  # type: ignore[arg-type]
        assert {m["type"] for m in peer.wait_closed()} <= {"hello", "goodbye"}
    _wait_refusal(shared, "n2", reason)


def test_peer_with_the_nodes_own_certificate_is_refused(shared: Cluster) -> None:
    keys = shared["n2"].directory / "pki"
    with Peer(shared["n2"], (keys / "node.crt", keys / "node.key")) as peer:
        peer.hello("n2", cluster_id_of(shared["n1"]))
        assert [m["type"] for m in peer.wait_closed()] == ["hello"]
    _wait_refusal(shared, "n2", "own name")


def test_peer_with_an_operator_certificate_is_refused(shared: Cluster) -> None:
    keys = shared["n1"].directory / "pki"
    with Peer(shared["n2"], (keys / "operator.crt", keys / "operator.key")) as peer:
        assert [m["type"] for m in peer.wait_closed()] == ["goodbye"]
    _wait_refusal(shared, "n2", "is not a node's")


def test_node_started_with_another_name_in_its_configuration_is_refused(stopped: Cluster) -> None:
    path = stopped["n3"].directory / "node.yaml"
    text = path.read_text()
    path.write_text(re.sub(r"(?m)^name: .*$", "name: n4", text))
    assert_refused(stopped["n3"].start_refused(), 78, "node.crt", "node.yaml")


def test_node_started_with_another_nodes_identity_is_refused_by_its_own_journal(stopped: Cluster) -> None:
    # Name and keys of n2, consistently: the journal still says whose votes these are.
    n2, n3 = stopped["n2"].directory, stopped["n3"].directory
    for file in ("node.crt", "node.key", "sealing.key"):
        (n3 / "pki" / file).write_bytes((n2 / "pki" / file).read_bytes())
    text = (n3 / "node.yaml").read_text()
    (n3 / "node.yaml").write_text(re.sub(r"(?m)^name: .*$", "name: n2", text))
    assert_refused(stopped["n3"].start_refused(), 78, "raft.db", "'n3'", "'n2'")


def test_node_of_another_cluster_pointed_at_us_is_refused_and_goes_on_alone(
    shared: Cluster, tmp_path: Path
) -> None:
    with Cluster(tmp_path, log_level="debug") as other:
        node = other.new_node("x1")
        made = node.cli("cluster", "init", "--name", "x1", "--listen", node.address)
        assert made.returncode == 0
        path = node.directory / "node.yaml"
        text = path.read_text()
        assert "peers: {}" in text
        path.write_text(text.replace("peers: {}", f'peers:\n  n2: "{shared["n2"].address}"'))
        node.start()
        wait_until(
            "an attempt to dial us",
            lambda: [e for e in node.log_events() if e["event"] == "cannot dial" and e["peer"] == "n2"],
        )
        assert node.client().counters.incr("default", 1)["value"] == 1
        assert [row["name"] for row in node.client().member_list()["members"]] == ["x1"]
        assert "x1" not in [row["name"] for row in shared["n2"].client().member_list()["members"]]


# --- bytes ---------------------------------------------------------------------------------------


def _answer(connection: socket.socket) -> bytes:
    """Bytes of the node until it closes; TimeoutError when it does not."""
    found = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := connection.recv(65536):
            found += data
    return found


def test_plain_http_on_the_port_is_refused(shared: Cluster) -> None:
    with socket.create_connection(("127.0.0.1", shared["n2"].port), timeout=10) as connection:
        connection.sendall(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/1.1 200" not in _answer(connection)


@pytest.mark.parametrize("alpn", [[], ["h2"], ["http/1.1"], ["cyoloctl-raft/3"]], ids=str)
def test_garbage_over_tls_is_refused(shared: Cluster, alpn: list[str]) -> None:
    try:
        connection = tls_connect(shared["n2"].port, alpn=alpn)
    except ssl.SSLError:
        return  # refused in the handshake already
    with connection:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            connection.sendall(b"\x16\x03\x01\x00\x00garbage\r\n\r\n" * 10)
        answer = _answer(connection)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("alpn", [[_RAFT], ["http/1.1"]], ids=str)
def test_certificate_of_another_ca_is_refused_in_the_handshake(
    shared: Cluster, tmp_path: Path, alpn: list[str]
) -> None:
    other = tmp_path / "other"
    assert run("cluster", "init", "-d", other, "--name", "n1", "--listen", "127.0.0.1:1").returncode == 0
    certificate = (other / "pki" / "node.crt", other / "pki" / "node.key")
    # TLS 1.3: the client's handshake ends before the server has judged its certificate.
    answer = b""
    with (
        contextlib.suppress(ssl.SSLError, ConnectionError),
        tls_connect(shared["n2"].port, alpn=alpn, certificate=certificate) as connection,
    ):
        connection.sendall(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = _answer(connection)
    assert answer == b""


def test_peer_protocol_without_a_certificate_is_refused(shared: Cluster) -> None:
    with tls_connect(shared["n2"].port, alpn=[_RAFT]) as connection:
        assert _answer(connection) == b""
    _wait_refusal(shared, "n2", "no node certificate")


def _after_hello(shared: Cluster, stranger: Enrolled) -> Peer:
    """A link that the node takes for that of a node of the cluster."""
    peer = Peer(shared["n2"], stranger.keys)
    peer.hello(stranger.name, cluster_id_of(shared["n1"]))
    peer.wait_message("hello")
    return peer


def test_peer_that_never_says_hello_is_closed(shared: Cluster, stranger: Enrolled) -> None:
    with Peer(shared["n2"], stranger.keys) as peer:
        peer.connection.sendall(b"\x00\x00")
        assert [m["type"] for m in peer.wait_closed()] == ["hello"]
    _wait_refusal(shared, "n2", "no hello in time")


_HEADER = b'{"type":"ping","sent_ms":1,"wall_unix_ms":1}'


def _frame(header: bytes, tail: bytes = b"") -> bytes:
    return struct.pack(">II", 4 + len(header) + len(tail), len(header)) + header + tail


_FRAMES = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "length-4-gib": b"\xff\xff\xff\xff",
    "length-just-over": struct.pack(">I", MAX_FRAME_BYTES + 1),
    "length-zero": b"\x00\x00\x00\x00",
    "garbage": bytes(range(255, 0, -1)) * 8,
    "not-json": _frame(b"garbage"),
    "not-an-object": _frame(b"[]"),
    "deep": _frame(b"[" * 100_000),
    "unknown-type": _frame(b'{"type":"pickle"}'),
    "unknown-field": _frame(b'{"type":"goodbye","reason":"x","more":1}'),
    "missing-field": _frame(b'{"type":"ping"}'),
    "negative": _frame(_HEADER.replace(b'"sent_ms":1', b'"sent_ms":-1')),
    "tail-left-over": _frame(_HEADER, b"more"),
    "header-longer-than-frame": struct.pack(">II", 8, 1000) + b"1234",
}


@pytest.mark.parametrize("frame", _FRAMES)
def test_node_certificate_with_malformed_frames_instead_of_hello_is_refused(
    shared: Cluster, stranger: Enrolled, frame: str
) -> None:
    with Peer(shared["n2"], stranger.keys) as peer:
        peer.connection.sendall(_FRAMES[frame])
        assert [m["type"] for m in peer.wait_closed()] == ["hello"]


_LATER = {
    **_FRAMES,
    "entries-without-command": _frame(
        b'{"type":"append_entries","term":1,"leader_commit":1,"prev_log_index":1,"prev_log_term":0,'
        b'"entries":[[0,2,1]]}'
    ),
    "entry-longer-than-frame": _frame(
        b'{"type":"append_entries","term":1,"leader_commit":1,"prev_log_index":1,"prev_log_term":0,'
        b'"entries":[[99,2,1]]}', b"x"
    ),
    "forward-longer-than-frame": _frame(b'{"type":"forward","id":1,"commands":[99]}', b"x"),
}  # fmt: skip


@pytest.mark.parametrize("frame", _LATER)
def test_node_certificate_with_malformed_frames_after_hello_is_refused(
    shared: Cluster, stranger: Enrolled, frame: str
) -> None:
    with _after_hello(shared, stranger) as peer:
        peer.connection.sendall(_LATER[frame])
        peer.wait_closed()
    _wait_refusal(shared, "n2", "protocol error")


def test_node_certificate_with_well_formed_nonsense_harms_nothing(
    shared: Cluster, stranger: Enrolled
) -> None:
    """A member of the cluster is trusted to speak for itself, not to break the node by senseless values."""
    nonsense = [
        {
            "type": "forward",
            "id": 1,
            "commands": [b"", b"\x01", b"\x01{", b"\x09garbage", b"\x01[]", b"\xff" * 500],
        },
        {"type": "call", "id": 1, "body": b"garbage"},
        {"type": "call", "id": 2, "body": b"[" * 100_000},
        {"type": "call", "id": 3, "body": b'{"operation":["x"],"arguments":{},"timeout_s":"nan"}'},
        {"type": "call", "id": 4, "body": b'{"operation":"remove","arguments":{"name":7},"timeout_s":1}'},
        {"type": "reply", "id": 1, "body": b"x"},
        {"type": "forward_result", "id": 99, "results": [b"x"], "error": None},
        {"type": "read_index_result", "id": 99, "index": 2**62},
        {"type": "read_confirmed", "seq": 2**62, "term": 1},
        {"type": "append_response", "term": 1, "next_index": 2**62, "reset": False, "success": True},
        {"type": "vote_response", "term": 1},
        {"type": "pre_vote_response", "term": 1, "granted": True},
        {
            "type": "pong",
            "sent_ms": 0,
            "wall_unix_ms": 2**62,
            "info": {"commit_index": "x", "applied_index": None},
        },
        {"type": "heartbeat", "term": 0},
        {"type": "snapshot_ack", "term": 1, "digest": "x", "offset": 2**62},
    ]
    for name in shared.nodes:
        with Peer(shared[name], stranger.keys) as peer:
            peer.hello(stranger.name, cluster_id_of(shared["n1"]))
            peer.wait_message("hello")
            for message in nonsense:
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    peer.send(message)
            with contextlib.suppress(
                AssertionError, ConnectionError, ssl.SSLError
            ):  # closed is an answer, too
                peer.send({"type": "ping", "sent_ms": 77})
                peer.wait_message("pong")
        assert shared[name].client().counters.get("strangers")["value"] > 0


def test_idle_connections_leave_the_node_serving_within_bounded_memory(shared: Cluster) -> None:
    node = shared["n2"]
    before = rss_kib(node.pid)
    keys = shared["n1"].directory / "pki"
    operator = (keys / "operator.crt", keys / "operator.key")
    with contextlib.ExitStack() as held:
        for _ in range(100):
            held.enter_context(socket.create_connection(("127.0.0.1", node.port), timeout=10))
        for _ in range(100):
            held.enter_context(tls_connect(node.port, alpn=["http/1.1"], certificate=operator))
        assert node.client().counters.incr("idle", 1)["value"] >= 1
        result = run(
            "counter", "get", "idle", "-e", f"https://{node.address}", "--credentials", shared.credentials()
        )
        assert result.returncode == 0, result.stderr
        grown = rss_kib(node.pid) - before
    assert grown < 128 * 1024, f"200 idle connections cost {grown} KiB"


def test_a_length_of_4_gib_costs_no_memory(shared: Cluster, stranger: Enrolled) -> None:
    node = shared["n2"]
    before = rss_kib(node.pid)
    for _ in range(20):
        with _after_hello(shared, stranger) as peer:
            peer.connection.sendall(b"\xff\xff\xff\xf0" + bytes(4096))
            peer.wait_closed()
    assert rss_kib(node.pid) - before < 32 * 1024


def test_port_probe_that_closes_at_once_is_nothing(shared: Cluster) -> None:
    for _ in range(20):
        socket.create_connection(("127.0.0.1", shared["n2"].port), timeout=10).close()


# --- many ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _idle_strangers(cluster: Cluster, count: int) -> Iterator[None]:
    """So many TLS connections without a certificate to each node, each opened again when it is ended."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "strangers.py"
        program.write_text(_STRANGERS)
        ports = ",".join(str(node.port) for node in cluster.nodes.values())
        with subprocess.Popen(
            [sys.executable, "-I", str(program), ports, str(count)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            try:
                assert process.stdout.readline() == b"all were there\n"
                yield
            finally:
                process.kill()


# A process of its own: three thousand sockets are more than a test may have.
_STRANGERS = """
import asyncio, contextlib, resource, ssl, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.set_alpn_protocols(["http/1.1"])
left = {}
async def one(port):
    first = True
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            finally:
                if first:
                    first = False
                    left[port] -= 1
                    if not any(left.values()):
                        print("all were there", flush=True)
            await reader.read()
            writer.close()
        await asyncio.sleep(1.0)
async def main():
    ports = [int(port) for port in sys.argv[1].split(",")]
    left.update((port, int(sys.argv[2])) for port in ports)
    await asyncio.gather(*(one(port) for port in ports for _ in range(int(sys.argv[2]))))
asyncio.run(main())
"""


def test_a_thousand_idle_strangers_at_each_node_leave_room_for_everything_else(stopped: Cluster) -> None:
    for node in stopped.nodes.values():
        node.descriptors = 1024
        node.compacting(200)
    stopped.start_all()
    stopped.wait_healthy()
    with _idle_strangers(stopped, 1010):
        # The control sockets answer, the cluster writes and saves snapshots, an operator gets in.
        for round_ in range(3):
            for node in stopped.nodes.values():
                client = node.client(10.0)
                for _ in range(100):
                    client.counters.incr("strangers", 1)
                assert client.counters.get("strangers")["value"] >= 100 * (round_ + 1)
        for node in stopped.nodes.values():
            assert len(list(Path(f"/proc/{node.pid}/fd").iterdir())) < 1024 - 64
            # From the very address of a thousand that knock each second: sooner or later.
            wait_until(
                "an operator being let in",
                lambda node=node: (  # type: ignore[misc]
                    run(
                        *("counter", "get", "strangers", "-e", f"https://{node.address}"),
                        *("--credentials", stopped.credentials()),
                    ).returncode
                    == 0
                ),
            )
            wait_until(
                "a snapshot",
                lambda node=node: any(e["event"] == "compacted the log" for e in node.log_events()),
            )
        # A member that went away finds its way back in.
        stopped["n3"].kill()
        stopped["n3"].start()
        stopped.wait_healthy()
    for node in stopped.nodes.values():
        assert node.running()
        assert not [e for e in node.log_events() if e["level"] in ("error", "critical")]
        assert node.log_size() < 2_000_000


def test_half_sent_bodies_of_strangers_cost_little_memory(shared: Cluster) -> None:
    node = shared["n2"]
    before = rss_kib(node.pid)
    head = b"POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 16384\r\n\r\n"
    too_long = head.replace(b"16384", b"1048576")
    with contextlib.ExitStack() as held:
        for number in range(300):
            with contextlib.suppress(OSError):
                connection = held.enter_context(tls_connect(node.port, alpn=["http/1.1"]))
                # Everything but the last byte; what is too long is refused before it is sent.
                connection.sendall(head + b" " * 16383 if number % 2 else too_long)
        grown = rss_kib(node.pid) - before
        assert node.client().counters.incr("bodies", 1)["value"] >= 1
    assert grown < 96 * 1024, f"300 half-sent bodies cost {grown} KiB"


def test_body_that_is_too_long_for_its_route_is_refused_before_it_is_sent(shared: Cluster) -> None:
    with tls_connect(shared["n2"].port, alpn=["http/1.1"]) as connection:
        connection.sendall(b"POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_strangers_that_come_again_and_again_fill_no_log(shared: Cluster) -> None:
    """Eight of them wrote 31 GB per day."""
    node = shared["n2"]
    before = node.log_size()
    started = time.monotonic()
    stop = threading.Event()
    refused = [0]

    def hammer() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), tls_connect(node.port, alpn=[_RAFT]) as connection:
                _answer(connection)
            refused[0] += 1

    threads = [threading.Thread(target=hammer) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        wait_until("a few hundred refusals", lambda: refused[0] > 300)
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    passed = time.monotonic() - started

    def lines(event: str) -> list[dict[str, Any]]:
        return [e for e in node.log_events(before) if e["event"] == event]

    wait_until(
        "their number",
        # After their handshake, or before it where too many came at once.
        lambda: sum(e.get("suppressed", 0) for e in lines("peer refused") + lines("stranger refused")) > 200,
    )
    for event in ("peer refused", "stranger refused", "handshake failed"):
        assert len(lines(event)) <= passed + 4
    assert node.client().counters.incr("hammered", 1)["value"] >= 1


def test_stranger_that_dribbles_its_request_is_ended_and_an_operator_is_not(shared: Cluster) -> None:
    node = shared["n2"]
    keys = shared["n1"].directory / "pki"
    operator = (keys / "operator.crt", keys / "operator.key")
    started = time.monotonic()
    with (
        tls_connect(node.port, alpn=["http/1.1"], timeout_s=30) as stranger,
        tls_connect(node.port, alpn=["http/1.1"], certificate=operator, timeout_s=30) as known,
    ):
        for connection in (stranger, known):
            connection.sendall(b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX-")
        assert _answer(stranger) == b""
        assert time.monotonic() - started < 25  # 5 s for the handshake, 5 s for the head
        known.sendall(b"End: 1\r\n\r\n")
        assert known.recv(65536).startswith(b"HTTP/1.1 200 ")
