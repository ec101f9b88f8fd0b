"""Bodies that are wrong and callers that may not, over the unix socket and over TLS."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, assert_refused, run
from tests.support.connections import http_exchange, tls_connect, unix_connect

pytestmark = pytest.mark.cluster

Connect = Callable[[], socket.socket]


@pytest.fixture(params=["unix", "tls"])
def connect(request: pytest.FixtureRequest, shared: Cluster) -> Connect:
    """Connections of an operator to n2."""
    node = shared["n2"]
    if request.param == "unix":
        return lambda: unix_connect(node)
    keys = shared["n1"].directory / "pki"
    certificate = (keys / "operator.crt", keys / "operator.key")
    return lambda: tls_connect(node.port, alpn=["http/1.1"], certificate=certificate)


@pytest.fixture(autouse=True)
def _node_goes_on(shared: Cluster) -> Iterator[None]:
    """After each test the node serves, has the same members, and has logged no bug."""
    node = shared["n2"]
    before = node.log_size()
    value = node.client().counters.incr("goes-on", 1)["value"]
    yield
    assert node.running()
    assert node.client().counters.incr("goes-on", 1)["value"] == value + 1
    assert [row["name"] for row in node.client().member_list()["members"]] == ["n1", "n2", "n3"]
    bugs = [e for e in node.log_events(before) if e["level"] in ("error", "critical")]
    assert not bugs


_INCREMENT = "/v1/counters/api/increment"


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "word"),
    [
        (_INCREMENT, b"not json", 400, "invalid_input", "JSON"),
        (_INCREMENT, b"\xff\xfe", 400, "invalid_input", "UTF-8"),
        (_INCREMENT, b"[1]", 400, "invalid_input", "object"),
        (_INCREMENT, b"[" * 2000, 400, "invalid_input", "deep"),
        (_INCREMENT, b'{"by":NaN}', 400, "invalid_input", "NaN"),
        (_INCREMENT, b'{"by":1,"by":2}', 400, "invalid_input", "twice"),
        (_INCREMENT, b'{"by":"1"}', 400, "invalid_input", "'by'"),
        (_INCREMENT, b'{"by":1.5}', 400, "invalid_input", "'by'"),
        (_INCREMENT, b'{"by":true}', 400, "invalid_input", "'by'"),
        (_INCREMENT, b'{"by":9223372036854775808}', 400, "invalid_input", "'by'"),
        (_INCREMENT, b'{"by":' + b"9" * 5000 + b"}", 400, "invalid_input", ""),
        (_INCREMENT, b'{"by":1,"request_id":"two words"}', 400, "invalid_input", "'request_id'"),
        (_INCREMENT, b'{"by":1,"request_id":""}', 400, "invalid_input", "'request_id'"),
        (_INCREMENT, json.dumps({"request_id": "r" * 129}).encode(), 400, "invalid_input", "'request_id'"),
        (_INCREMENT, b'{"bye":1}', 400, "invalid_input", "'bye'"),
        (_INCREMENT, b'{"by":1}' + b" " * (1 << 13), 413, "body_too_large", "8192"),
        ("/v1/join", b" " * 16385, 413, "body_too_large", "16384"),
        (_INCREMENT + "?timeout_s=0", b"{}", 400, "invalid_input", "'timeout_s'"),
        (_INCREMENT + "?timeout=1", b"{}", 400, "invalid_input", "'timeout'"),
        ("/v1/counters/Not%20A%20Name/increment", b"{}", 400, "invalid_input", "name"),
        ("/v1/members/invitations", b'{"name":"x","ttl_s":59}', 400, "invalid_input", "'ttl_s'"),
        ("/v1/members/invitations", b'{"learner":true}', 400, "invalid_input", "'name'"),
        ("/v1/members/n1/remove", b'{"force":1}', 400, "invalid_input", "'force'"),
        ("/v1/members/nobody/remove", b"{}", 404, "not_found", "nobody"),
        ("/v1/members/transfer-leadership", b'{"to":7}', 400, "invalid_input", "'to'"),
        ("/v1/join", b'{"name":"x"}', 400, "invalid_input", "required"),
        ("/v1/node/stop", b'{"now":true}', 400, "invalid_input", "'now'"),
        ("/v1/nothing", b"{}", 404, "not_found", "/v1/"),
        ("/", b"{}", 404, "not_found", ""),
        ("/v1/../v1/status", b"{}", 404, "not_found", ""),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else str(value)[:40],
)
def test_api_post_of_a_wrong_body_is_refused_and_changes_nothing(
    connect: Connect, path: str, body: bytes, status: int, code: str, word: str
) -> None:
    answered, answer = http_exchange(connect(), "POST", path, body)
    assert (answered, answer["error"]["code"]) == (status, code), answer
    assert answer["schema_version"] == 1
    assert word in answer["error"]["message"]
    missing, _ = http_exchange(connect(), "GET", "/v1/counters/api")
    assert missing == 404


def test_api_get_with_a_wrong_query_is_refused(connect: Connect) -> None:
    for query in ("consistency=eventual", "limit=0", "limit=1001", "limit=x", "after=NOT", "limit=1&limit=2"):
        status, answer = http_exchange(connect(), "GET", f"/v1/counters?{query}")
        assert (status, answer["error"]["code"]) == (400, "invalid_input"), query


def test_api_wrong_method_is_refused(connect: Connect) -> None:
    status, answer = http_exchange(connect(), "DELETE", "/v1/counters/api")
    assert (status, answer["error"]["code"]) == (405, "invalid_input")


def test_api_body_announced_larger_than_allowed_is_refused_before_it_is_read(connect: Connect) -> None:
    connection = connect()
    head = f"POST {_INCREMENT} HTTP/1.1\r\nHost: x\r\nContent-Length: 4294967296\r\n\r\n"
    connection.sendall(head.encode())
    with connection, connection.makefile("rb") as reader:
        assert b" 413 " in reader.readline()


def _files(cluster: Cluster, bundle: dict[str, Any]) -> tuple[Path, Path]:
    certificate, key = cluster.base / "role.crt", cluster.base / "role.key"
    certificate.write_text(bundle["certificate_pem"])
    key.write_text(bundle["key_pem"])
    return certificate, key


def test_viewer_certificate_reads_and_may_not_write(shared: Cluster) -> None:
    viewer = shared.viewer()
    node = shared["n3"]
    remote = ("-e", f"https://{node.address}", "--credentials", viewer)
    shared["n1"].client().counters.incr("seen", 5)
    assert run("counter", "get", "seen", *remote).stdout == "5\n"
    assert run("member", "list", *remote).returncode == 0
    assert run("status", *remote).returncode == 0
    for refused in (
        ["counter", "incr", "seen"],
        ["counter", "reset", "seen", "--yes"],
        ["member", "invite", "--name", "x"],
        ["member", "remove", "n1", "--yes"],
        ["member", "transfer-leadership"],
        ["node", "stop"],
    ):
        assert_refused(run(*refused, *remote), 77, "viewer")
    assert run("counter", "get", "seen", *remote).stdout == "5\n"
    assert node.running()

    # The role comes before the body: a viewer's garbage is not even parsed.
    certificate = _files(shared, json.loads(viewer.read_text()))
    connection = tls_connect(node.port, alpn=["http/1.1"], certificate=certificate)
    status, answer = http_exchange(connection, "POST", "/v1/counters/seen/increment", b"not json")
    assert (status, answer["error"]["code"]) == (403, "access_denied")


def test_operator_credentials_write_through_any_node(shared: Cluster) -> None:
    for value, node in enumerate(shared.nodes.values(), 1):
        remote = ("-e", f"https://{node.address}", "--credentials", shared.credentials())
        result = run("counter", "incr", "remote", *remote)
        assert (result.returncode, result.stdout) == (0, f"{value}\n"), result.stderr


def test_api_without_certificate_gives_health_and_nothing_else(shared: Cluster) -> None:
    port = shared["n2"].port
    status, answer = http_exchange(tls_connect(port, alpn=["http/1.1"]), "GET", "/v1/health")
    assert (status, answer["name"]) == (200, "n2")
    for method, path in [
        ("GET", "/v1/status"),
        ("GET", "/v1/members"),
        ("GET", "/v1/counters"),
        ("GET", "/v1/counters/api/watch"),
        ("POST", _INCREMENT),
        ("POST", "/v1/members/invitations"),
        ("POST", "/v1/node/stop"),
    ]:
        status, answer = http_exchange(tls_connect(port, alpn=["http/1.1"]), method, path, b"{}")
        assert (status, answer["error"]["code"]) == (403, "access_denied"), path


def test_command_with_credentials_of_another_cluster_is_refused(shared: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert run("cluster", "init", "-d", other, "--name", "n1", "--listen", "127.0.0.1:1").returncode == 0
    result = run("status", "-e", f"https://{shared['n2'].address}", "--credentials", other / "operator.yaml")
    assert_refused(result, 77, "another cluster")


def test_command_with_unusable_credentials_names_the_file(shared: Cluster, tmp_path: Path) -> None:
    remote = ["-e", f"https://{shared['n2'].address}", "--credentials"]
    missing = tmp_path / "missing.yaml"
    assert_refused(run("status", *remote, missing), 78, str(missing))
    garbage = tmp_path / "garbage.yaml"
    garbage.write_text("garbage")
    garbage.chmod(0o600)
    assert_refused(run("status", *remote, garbage), 78, str(garbage))
    open_to_all = tmp_path / "open.yaml"
    open_to_all.write_bytes(shared.viewer().read_bytes())
    open_to_all.chmod(0o644)
    assert_refused(run("status", *remote, open_to_all), 78, f"chmod 600 {open_to_all}")


def test_command_without_a_running_node_is_unreachable_and_says_how_to_start_it(
    shared: Cluster, tmp_path: Path
) -> None:
    result = run("counter", "incr", "-d", tmp_path)
    assert_refused(result, 69, str(tmp_path), "holds no node")
    stopped = shared["n1"].directory.parent / "made-and-never-started"
    made = run("cluster", "init", "-d", stopped, "--name", "m1", "--listen", "127.0.0.1:1")
    assert made.returncode == 0, made.stderr
    assert_refused(run("counter", "incr", "-d", stopped), 69, f"cyoloctl node start -d {stopped}")
