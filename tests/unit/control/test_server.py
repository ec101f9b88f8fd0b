"""The server on a real unix socket and real TLS connections, with bad and good callers.

More than 700 lines, because every section needs the same server on real sockets and its scripted node.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import ssl
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from cyoloctl import errors
from cyoloctl.caller import Caller
from cyoloctl.control import connection as connection_module
from cyoloctl.control import openapi, table
from cyoloctl.control import server as server_module
from cyoloctl.control.server import ControlServer, ServerLimits, build_server
from cyoloctl.errors import AccessDenied, Conflict, NoLeader, StorageError, Unavailable
from cyoloctl.web import schema
from tests.support.service import Authority, MemoryService, identify

LOGGER = logging.getLogger("test.control")
INCREMENT = "/v1/counters/default/increment"
GOOD_JOIN = {
    "name": "n2",
    "public_key": "B" * 42 + "E=",
    "signature": "A" * 86 + "==",
    "request_pem": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    "sealing_key": "A" * 43 + "=",
    "address": "[::1]:4000",
    "ca_sha256": "c" * 64,
}
WAIT = json.dumps({"id": "0" * 32, "redemption": "r" * 16}).encode()


class Handover(asyncio.Protocol):
    """Stand-in of the node's listener: accept with TLS, then hand over the connection."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        protocol = self._server.protocol_factory()
        assert isinstance(transport, asyncio.Transport)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short, for a socket's path is limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ctl") as name:
        yield Path(name)


@pytest.fixture
async def service() -> MemoryService:
    return MemoryService()


@pytest.fixture
async def server(service: MemoryService, directory: Path) -> AsyncIterator[ControlServer]:
    built = build_server(service, logger=LOGGER, identify=identify)
    await built.start_unix(directory / "control.sock")
    yield built
    await built.close()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def tls_port(server: ControlServer, authority: Authority, directory: Path) -> AsyncIterator[int]:
    listener = await asyncio.get_running_loop().create_server(
        lambda: Handover(server), "127.0.0.1", 0, ssl=authority.server_context(directory)
    )
    yield listener.sockets[0].getsockname()[1]
    listener.close()


class Answer:
    """A parsed response."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        assert self.json["schema_version"] == 1
        assert set(self.json) == {"schema_version", "error"}
        assert set(self.json["error"]) == {"code", "message"}
        return self.status, self.json["error"]["code"]


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
        first, *lines = head.strip().split("\r\n")
        headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
    return Answer(int(first.split(" ")[1]), headers, body)


@contextlib.asynccontextmanager
async def connected(
    directory: Path,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(str(directory / "control.sock"))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def send(directory: Path, data: bytes) -> Answer:
    async with connected(directory) as (reader, writer):
        writer.write(data)
        return await read_answer(reader)


def request(method: str, target: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


# --- answers ------------------------------------------------------------------------------------


async def test_increment_over_the_socket_is_applied_and_answered(
    server: ControlServer, service: MemoryService, directory: Path
) -> None:
    answer = await send(
        directory, request("POST", f"{INCREMENT}?timeout_s=2.5", b'{"by":5,"request_id":"r1"}')
    )
    assert answer.status == 200
    assert answer.json == {
        "schema_version": 1, "name": "default", "value": 5, "value_string": "5",
        "index": 1, "epoch": 1, "request_id": "r1",
    }  # fmt: skip
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert service.calls == [
        ("counter_add", {"name": "default", "by": 5, "request_id": "r1", "timeout_s": 2.5})
    ]


async def test_decrement_of_the_whole_range_reaches_the_service_signed(
    server: ControlServer, service: MemoryService, directory: Path
) -> None:
    answer = await send(directory, request("POST", "/v1/counters/x/decrement", b'{"by":9223372036854775808}'))
    assert answer.json["value_string"] == "-9223372036854775808"


@pytest.mark.parametrize(
    ("method", "target", "body", "call"),
    [
        ("GET", "/v1/status", b"", ("status", {"timeout_s": 5.0})),
        ("GET", "/v1/members", b"", ("member_list", {"timeout_s": 5.0})),
        ("GET", "/v1/members/n1", b"", ("member_show", {"name": "n1", "timeout_s": 5.0})),
        (
            "POST", "/v1/members/invitations", b'{"name":"n4"}',
            (
                "member_invite",
                {
                    "name": "n4", "learner": False, "witness": False, "ttl_s": 3600,
                    "request_id": None, "timeout_s": 5.0,
                },
            ),
        ),
        (
            "POST", "/v1/members/n2/remove", b'{"dry_run":true}',
            (
                "member_remove",
                {"name": "n2", "force": False, "dry_run": True, "request_id": None, "timeout_s": 5.0},
            ),
        ),
        (
            "POST", "/v1/members/transfer-leadership", b"",
            ("transfer_leadership", {"to": None, "dry_run": False, "timeout_s": 5.0}),
        ),
        ("POST", "/v1/node/stop", b"{}", ("stop", {"force": False, "timeout_s": 5.0})),
        (
            "GET", "/v1/counters?after=a&limit=2&consistency=stale", b"",
            ("counter_list", {"after": "a", "limit": 2, "consistency": "stale", "timeout_s": 5.0}),
        ),
    ],
)  # fmt: skip
async def test_route_calls_the_service_with_defaults(
    server: ControlServer,
    service: MemoryService,
    directory: Path,
    method: str,
    target: str,
    body: bytes,
    call: tuple[str, dict[str, Any]],
) -> None:
    answer = await send(directory, request(method, target, body))
    assert answer.status == 200
    assert answer.json["schema_version"] == 1
    assert service.calls == [call]


async def test_openapi_is_served_as_checked_in(server: ControlServer, directory: Path) -> None:
    answer = await send(directory, request("GET", "/v1/openapi.json"))
    assert answer.json == openapi.openapi()


async def test_metrics_are_text_and_their_errors_json(
    server: ControlServer, service: MemoryService, directory: Path
) -> None:
    answer = await send(directory, request("GET", "/metrics"))
    assert (answer.status, answer.body.decode()) == (200, "# HELP caf\u00e9 x\n")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert (await send(directory, request("GET", "/v1/health"))).headers["content-type"] == "application/json"
    service.fail = Unavailable("not now")
    answer = await send(directory, request("GET", "/metrics"))
    assert answer.error == (503, "unavailable")
    assert answer.headers["content-type"] == "application/json"


async def test_requests_are_counted_by_route_and_status_and_no_path_of_a_stranger_is_a_label(
    server: ControlServer, directory: Path
) -> None:
    for method, path in (
        *(("POST", INCREMENT), ("POST", INCREMENT), ("GET", "/v1/counters/nope"), ("GET", "/v1/status")),
        *(("GET", "/v1/made-up"), ("DELETE", "/v1/status"), ("POST", "/v1/counters/A/increment")),
    ):
        await send(directory, request(method, path, b"{}" if method == "POST" else b""))
    figures = server.figures()
    assert figures["api_requests"] == {
        ("GET", "/v1/counters/{name}", "read", "404"): 1,
        ("GET", "/v1/status", "read", "200"): 1,
        ("POST", "/v1/counters/{name}/increment", "write", "200"): 2,
        ("POST", "/v1/counters/{name}/increment", "write", "400"): 1,
        ("other", "other", "other", "404"): 1,
        ("other", "other", "other", "405"): 1,
    }
    durations = cast("dict[tuple[str, ...], Any]", figures["api_request_duration_seconds"])
    counted = durations["POST", "/v1/counters/{name}/increment", "write"]
    assert sum(counted.counts) == 3
    assert 0 < counted.sum_s < 60


async def test_watch_is_counted_while_it_is_open_and_its_length_is_no_time_to_answer(
    server: ControlServer, service: MemoryService, directory: Path
) -> None:
    async with connected(directory) as (reader, writer):
        await send(directory, request("POST", INCREMENT, b"{}"))
        writer.write(request("GET", "/v1/counters/default/watch"))
        await reader.readuntil(b"\r\n\r\n")
        assert server.figures()["api_open_watches"] == 1
        assert server.figures()["api_connections"] == {("network",): 0, ("socket",): 1}
    async with asyncio.timeout(10):
        await service.watch_ended.wait()
        while server.figures()["api_open_watches"]:
            await asyncio.sleep(0.01)
    figures = server.figures()
    watch = ("GET", "/v1/counters/{name}/watch", "read")
    assert cast("dict[tuple[str, ...], float]", figures["api_requests"])[*watch, "200"] == 1
    assert watch not in cast("dict[tuple[str, ...], Any]", figures["api_request_duration_seconds"])


async def test_connection_is_kept_for_pipelined_requests_and_refusals(
    server: ControlServer, directory: Path
) -> None:
    async with connected(directory) as (reader, writer):
        writer.write(request("POST", INCREMENT, b"{}") + request("POST", INCREMENT, b"nope"))
        writer.write(request("GET", "/v1/nope") + request("POST", INCREMENT, b"{}"))
        statuses = [(await read_answer(reader)).status for _ in range(4)]
    assert statuses == [200, 400, 404, 200]


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (request("POST", INCREMENT, b"not json"), (400, "invalid_input")),
        (request("POST", INCREMENT, b'{"by":true}'), (400, "invalid_input")),
        (request("POST", INCREMENT, b'{"by":1,"other":2}'), (400, "invalid_input")),
        (request("POST", INCREMENT, b"\x1f\x8b", "Content-Encoding: gzip"), (400, "invalid_input")),
        (request("POST", f"{INCREMENT}?timeout_s=nan", b"{}"), (400, "invalid_input")),
        (request("GET", "/v1/status", b"{}"), (400, "invalid_input")),
        (request("GET", INCREMENT), (405, "invalid_input")),
        (request("DELETE", "/v1/status"), (405, "invalid_input")),
        (request("POST", "/v1/status", b"{}"), (405, "invalid_input")),
        (request("GET", "/"), (404, "not_found")),
        (request("GET", "/v1/../../etc/passwd"), (404, "not_found")),
        (request("GET", "/v1/counters/.."), (400, "invalid_input")),
        (request("GET", "/v1/counters/%2e%2e"), (400, "invalid_input")),
        (request("GET", "/v1/counters/A"), (400, "invalid_input")),
        (request("GET", f"/v1/counters/{'a' * 64}"), (400, "invalid_input")),
        (request("GET", "/v1/counters/nope"), (404, "not_found")),
        (request("POST", INCREMENT, b"{}", "Origin: https://evil.example"), (403, "access_denied")),
        (request("POST", INCREMENT, b"", "Content-Length: 1048577"), (413, "body_too_large")),
        (request("POST", INCREMENT, b"", "Content-Length: 99999999999999999"), (413, "body_too_large")),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", (400, "invalid_input")),
        (b"GET / HTTP/9.9\r\n\r\n", (400, "invalid_input")),
        (b"GET /v1/status HTTP/1.1\r\nbad header\x00: x\r\n\r\n", (400, "invalid_input")),
        (request("GET", "/v1/status", b"", "X: " + "y" * 20000), (400, "invalid_input")),
        (request("POST", INCREMENT, b"", "Content-Length: -1"), (400, "invalid_input")),
        (request("POST", INCREMENT, b"{}", "Transfer-Encoding: chunked"), (400, "invalid_input")),
    ],
)
async def test_bad_request_is_refused_in_the_error_shape(
    server: ControlServer,
    service: MemoryService,
    directory: Path,
    caplog: pytest.LogCaptureFixture,
    data: bytes,
    expected: tuple[int, str],
) -> None:
    answer = await send(directory, data)
    assert answer.error == expected
    assert service.values == {}
    # Anybody can send garbage: it must not fill the log.
    assert caplog.records == []
    # And the server goes on.
    assert (await send(directory, request("GET", "/v1/health"))).status == 200


async def test_wrong_method_names_the_allowed_ones(server: ControlServer, directory: Path) -> None:
    answer = await send(directory, request("PUT", "/v1/members/invitations"))
    assert (answer.status, answer.headers["allow"]) == (405, "GET, POST")


async def test_wrong_method_is_answered_as_the_document_says(server: ControlServer, directory: Path) -> None:
    for template, operations in openapi.openapi()["paths"].items():
        path = template.replace("{name}", "x")
        # What no operation of the path takes, and the other one of GET and POST.
        for method in {"DELETE", "OPTIONS", "PATCH", "GET", "POST"} - {name.upper() for name in operations}:
            answer = await send(directory, request(method, path))
            for operation in operations.values():
                allow = operation["responses"]["405"]["headers"]["Allow"]["schema"]["const"]
                if method in allow.split(", "):  # the path of another template is the same
                    assert answer.status != 405
                else:
                    assert answer.error == (405, "invalid_input"), (method, path)
                    assert answer.headers["allow"] == allow


async def test_name_in_a_path_may_be_quoted_and_is_checked_after_that(
    server: ControlServer, service: MemoryService, directory: Path
) -> None:
    answer = await send(directory, request("POST", "/v1/counters/%61%2Db/increment", b"{}"))
    assert (answer.status, answer.json["name"]) == (200, "a-b")
    for wrong in ("a%2Fb", "%", "%zz", "%2e%2e", "a%00", "%FF", "a%252Db", "a%0Ab", "%41", "a%2Db%3F"):
        answer = await send(directory, request("POST", f"/v1/counters/{wrong}/increment", b"{}"))
        assert answer.error == (400, "invalid_input"), wrong
    assert list(service.values) == ["a-b"]


@pytest.mark.parametrize("code", ["WDJB-MJHT", "wdjb-mjht", "wdjbmjht", "WDJB%2DMJHT"])
async def test_rendezvous_is_found_by_its_code_as_it_was_shown(
    server: ControlServer, service: MemoryService, directory: Path, code: str
) -> None:
    assert (await send(directory, request("GET", f"/v1/rendezvous/{code}"))).status == 200
    ((operation, arguments),) = service.calls
    assert (operation, arguments["names"]) == ("rendezvous.show", (code.replace("%2D", "-"),))


async def test_head_gets_no_body(server: ControlServer, directory: Path) -> None:
    async with connected(directory) as (reader, writer):
        writer.write(request("HEAD", "/v1/status"))
        data = await reader.read()
    assert data.startswith(b"HTTP/1.1 405 ")
    assert data.endswith(b"\r\n\r\n")


async def test_chunked_body_without_length_is_cut_at_the_largest_of_its_route(
    server: ControlServer, service: MemoryService, directory: Path
) -> None:
    async with connected(directory) as (reader, writer):
        writer.write(request("POST", INCREMENT, b"", "Transfer-Encoding: chunked"))
        chunk = b"%x\r\n%b\r\n" % (65536, b" " * 65536)
        writer.write(chunk)
        answer = await read_answer(reader)
    assert answer.error == (413, "body_too_large")
    assert service.calls == []


async def test_chunked_body_in_pieces_is_read(server: ControlServer, directory: Path) -> None:
    async with connected(directory) as (reader, writer):
        writer.write(request("POST", INCREMENT, b"", "Transfer-Encoding: chunked", "Expect: 100-continue"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        for piece in (b'2\r\n{"\r\n', b'6\r\nby":7}\r\n', b"0\r\n\r\n"):
            writer.write(piece)
        assert (await read_answer(reader)).json["value"] == 7


async def test_body_of_a_route_without_one_is_refused_unread(server: ControlServer, directory: Path) -> None:
    answer = await send(directory, request("GET", "/v1/health", b"", "Content-Length: 5"))
    assert answer.error == (400, "invalid_input")


async def test_half_sent_bodies_of_strangers_are_bounded_by_address_and_leave_room_for_others(
    server: ControlServer, tls_port: int, authority: Authority, directory: Path
) -> None:
    head = request("POST", "/v1/join", b"", "Content-Length: 16384") + b"{"
    writers = []

    async def begin(role: str | None) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", tls_port, ssl=client_context(authority, directory, role)
        )
        writers.append(writer)
        writer.write(head)
        return reader

    crowd = [await begin(None) for _ in range(server_module._STRANGER_BYTES // 4 // 16384 + 1)]
    assert (await read_answer(crowd[-1])).error == (503, "overloaded")
    # An operator is no stranger.
    writers[-1].close()
    known = await begin("operator")
    writers[-1].write(b" " * 16383)
    assert (await read_answer(known)).status == 400
    for writer in writers:
        writer.close()


async def test_joins_of_strangers_at_once_are_bounded(
    server: ControlServer, service: MemoryService, tls_port: int, authority: Authority, directory: Path
) -> None:
    service.hang = True
    body = json.dumps(GOOD_JOIN).encode()
    writers = []
    answers = []
    for _ in range(server_module._STRANGER_CALLS // 4 + 1):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", tls_port, ssl=client_context(authority, directory, None)
        )
        writers.append(writer)
        writer.write(request("POST", "/v1/join", body))
        answers.append(reader)
    refused = [asyncio.ensure_future(read_answer(reader)) for reader in answers]
    done, _ = await asyncio.wait(refused, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result().error for task in done] == [(503, "overloaded")]
    service.release.set()
    for task in refused:
        assert (await task).status in (200, 503)
    for writer in writers:
        writer.close()


async def test_slow_body_is_cut_off(
    server: ControlServer, service: MemoryService, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_BODY_S", 0.05)
    answer = await send(directory, request("POST", INCREMENT, b"", "Content-Length: 10") + b'{"b')
    assert answer.error == (400, "invalid_input")
    assert "did not arrive" in answer.json["error"]["message"]
    assert service.calls == []


async def test_slow_head_is_cut_off(
    server: ControlServer, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "_IDLE_S", 0.05)
    async with connected(directory) as (reader, writer):
        writer.write(b"GET /v1/status HTTP/1.1\r\nHost: ")
        async with asyncio.timeout(5):
            assert await reader.read() == b""


async def test_client_that_leaves_in_its_body_applies_nothing(
    server: ControlServer, service: MemoryService, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(directory) as (_, writer):
        writer.write(request("POST", INCREMENT, b"", "Content-Length: 10") + b'{"by":1}')
        await writer.drain()
    assert (await send(directory, request("GET", "/v1/health"))).status == 200
    assert service.calls == []
    assert caplog.records == []


# --- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", errors.error_classes(), ids=lambda cls: cls.__name__)
async def test_service_error_becomes_its_code_and_status(
    server: ControlServer, service: MemoryService, directory: Path, cls: type[errors.CyoloctlError]
) -> None:
    service.fail = cls("why")
    answer = await send(directory, request("POST", INCREMENT, b"{}"))
    assert answer.error == (cls.http_status, cls.api_code or cls.code)
    assert answer.json["error"]["message"] == "why"


@pytest.mark.parametrize("failure", [RuntimeError("s3cret"), TimeoutError("s3cret"), KeyError("s3cret")])
async def test_unexpected_failure_is_internal_with_an_id_that_the_log_has(
    server: ControlServer,
    service: MemoryService,
    directory: Path,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
) -> None:
    service.fail = failure
    answer = await send(directory, request("POST", INCREMENT, b'{"request_id":"b0dy"}'))
    assert answer.error == (500, "internal")
    assert "s3cret" not in answer.body.decode()
    assert "Traceback" not in answer.body.decode()
    (record,) = caplog.records
    assert record.args is not None
    assert str(record.args[0]) in answer.json["error"]["message"]  # type: ignore[index]  # a tuple
    assert "b0dy" not in caplog.text


async def test_access_line_is_debug_only_and_has_no_body_or_query(
    server: ControlServer, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger=LOGGER.name)
    await send(directory, request("POST", f"{INCREMENT}?timeout_s=4", b'{"request_id":"b0dy"}'))
    (record,) = [record for record in caplog.records if record.name == LOGGER.name]
    assert record.levelno == logging.DEBUG
    assert "path=/v1/counters/default/increment status=200 caller=unix socket" in record.getMessage()
    assert "b0dy" not in caplog.text


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [("POST", INCREMENT, (504, "outcome_unknown")), ("GET", "/v1/status", (503, "timeout"))],
)
async def test_service_that_hangs_is_given_up_after_the_guard(
    server: ControlServer,
    service: MemoryService,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    target: str,
    expected: tuple[int, str],
) -> None:
    monkeypatch.setattr(server_module, "_GUARD_S", 0.02)
    service.hang = True
    answer = await send(directory, request(method, f"{target}?timeout_s=0.1"))
    assert answer.error == expected


# --- roles --------------------------------------------------------------------------------------


def client_context(
    authority: Authority, directory: Path, role: str | None, name: str = "caller"
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=authority.ca_pem)
    if role is not None:
        certificate, key = authority.issue(name, role)
        path = directory / f"{role}.pem"
        path.write_text(certificate + key)
        context.load_cert_chain(path)
    return context


@pytest.mark.parametrize("role", [None, "viewer", "gateway", "operator", "node", "stranger"])
async def test_roles_over_tls_follow_the_table(
    server: ControlServer, tls_port: int, authority: Authority, directory: Path, role: str | None
) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", tls_port, ssl=client_context(authority, directory, role)
    )
    for route in table.routes():
        if route.stream:
            continue
        writer.write(request(route.method, route.template.replace("{name}", "abc")))
        answer = await read_answer(reader)
        allowed = schema.role_allows(role, route.role)
        assert (answer.status == 403) is not allowed, route
        if not allowed:
            assert answer.error == (403, "access_denied")
            assert answer.headers.get("connection") != "close"
    writer.close()


async def test_call_is_on_behalf_of_the_credentials_the_address_and_the_user_of_the_socket(
    server: ControlServer, service: MemoryService, tls_port: int, authority: Authority, directory: Path
) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", tls_port, ssl=client_context(authority, directory, "operator")
    )
    writer.write(request("POST", INCREMENT, b"{}"))
    await read_answer(reader)
    writer.close()
    assert service.callers == [Caller("client", "caller", "operator", "c" * 32, "127.0.0.1")]
    await send(directory, request("POST", INCREMENT, b"{}"))
    assert service.callers[1:] == [
        Caller("client", "unix socket", "operator", f"uid:{os.getuid()}", "socket")
    ]


async def test_stranger_that_joins_has_an_address(
    server: ControlServer, service: MemoryService, tls_port: int, authority: Authority, directory: Path
) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", tls_port, ssl=client_context(authority, directory, None)
    )
    writer.write(request("POST", "/v1/join", json.dumps(GOOD_JOIN).encode()))
    await read_answer(reader)
    writer.close()
    assert service.callers == [Caller("client", "nobody", "", "", "127.0.0.1")]


@pytest.mark.parametrize(("role", "status"), [("gateway", 403), ("operator", 200)])
async def test_reason_of_a_rejected_token_is_told_to_operators_only(
    server: ControlServer, tls_port: int, authority: Authority, directory: Path, role: str, status: int
) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", tls_port, ssl=client_context(authority, directory, role)
    )
    writer.write(request("POST", "/v1/tokens/inspect", b'{"token":"x","explain":true}'))
    assert (await read_answer(reader)).status == status
    writer.write(request("POST", "/v1/tokens/inspect", b'{"token":"x"}'))
    assert (await read_answer(reader)).status == 200
    writer.close()


async def test_denied_caller_cannot_make_the_server_read_a_body(
    server: ControlServer, service: MemoryService, tls_port: int, authority: Authority, directory: Path
) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", tls_port, ssl=client_context(authority, directory, "viewer")
    )
    # Answered although the body never comes.
    writer.write(request("POST", INCREMENT, b"", "Content-Length: 1000"))
    answer = await read_answer(reader)
    assert answer.error == (403, "access_denied")
    assert answer.headers["connection"] == "close"
    assert service.calls == []
    writer.close()


class Register:
    """An identify that forgets a caller, and says why."""

    def __init__(self) -> None:
        self.revoked: set[str] = set()
        self.ready = True

    def __call__(self, ssl_object: Any) -> tuple[str, str, str] | None:
        found = identify(ssl_object)
        if not self.ready:
            raise Unavailable("this node is not up to date")
        if found is not None and found[0] in self.revoked:
            raise AccessDenied("the credentials caller were revoked")
        return found


@pytest.fixture
def register() -> Register:
    return Register()


@pytest.fixture
async def judged(
    service: MemoryService, authority: Authority, directory: Path, register: Register
) -> AsyncIterator[tuple[ControlServer, tuple[str, int]]]:
    async def wait_ready(timeout_s: float) -> None:
        await asyncio.sleep(0)
        register.ready = True

    server = build_server(service, logger=LOGGER, identify=register, wait_ready=wait_ready)
    listener = await asyncio.get_running_loop().create_server(
        lambda: Handover(server), "127.0.0.1", 0, ssl=authority.server_context(directory)
    )
    yield server, listener.sockets[0].getsockname()
    listener.close()
    await server.close()


async def opened(
    judged: tuple[ControlServer, tuple[str, int]],
    authority: Authority,
    directory: Path,
    role: str = "operator",
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*judged[1], ssl=client_context(authority, directory, role))


async def test_revoked_caller_loses_an_idle_connection(
    judged: tuple[ControlServer, tuple[str, int]], authority: Authority, directory: Path, register: Register
) -> None:
    reader, writer = await opened(judged, authority, directory)
    writer.write(request("POST", INCREMENT, b"{}"))
    assert (await read_answer(reader)).status == 200
    judged[0].recheck()
    writer.write(request("POST", INCREMENT, b"{}"))
    assert (await read_answer(reader)).status == 200
    register.revoked.add("caller")
    judged[0].recheck()
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_revoked_caller_is_refused_with_the_reason_on_a_new_connection(
    judged: tuple[ControlServer, tuple[str, int]], authority: Authority, directory: Path, register: Register
) -> None:
    register.revoked.add("caller")
    reader, writer = await opened(judged, authority, directory)
    writer.write(request("GET", "/v1/status"))
    answer = await read_answer(reader)
    assert answer.error == (403, "access_denied")
    assert "were revoked" in json.loads(answer.body)["error"]["message"]
    writer.close()


async def test_running_read_and_write_of_a_revoked_caller_end_with_what_is_known(
    judged: tuple[ControlServer, tuple[str, int]],
    authority: Authority,
    directory: Path,
    register: Register,
    service: MemoryService,
) -> None:
    service.hang = True
    running = []
    for method, path, body in (
        ("GET", "/v1/status?timeout_s=60", b""),
        ("POST", INCREMENT + "?timeout_s=60", b"{}"),
        ("POST", "/v1/rendezvous/wait?timeout_s=60", WAIT),
    ):
        reader, writer = await opened(judged, authority, directory)
        service.entered.clear()
        writer.write(request(method, path, body))
        async with asyncio.timeout(5):
            await service.entered.wait()
        running.append((reader, writer))
    judged[0].recheck()
    register.revoked.add("caller")
    judged[0].recheck()
    answers = [await read_answer(reader) for reader, _ in running]
    assert [answer.error for answer in answers] == [
        (403, "access_denied"), (504, "outcome_unknown"), (403, "access_denied"),
    ]  # fmt: skip
    for reader, writer in running:
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_watch_of_a_revoked_caller_ends_with_the_reason(
    judged: tuple[ControlServer, tuple[str, int]],
    authority: Authority,
    directory: Path,
    register: Register,
    service: MemoryService,
) -> None:
    service.values["default"] = 1
    reader, writer = await opened(judged, authority, directory, "viewer")
    writer.write(request("GET", "/v1/counters/default/watch"))
    await reader.readuntil(b"\r\n\r\n")
    assert json.loads(await read_chunk(reader))["value"] == 1
    register.revoked.add("caller")
    judged[0].recheck()
    assert "were revoked" in json.loads(await read_chunk(reader))["error"]["message"]
    async with asyncio.timeout(5):
        assert await reader.read() == b"0\r\n\r\n"
    writer.close()


async def test_body_of_a_caller_revoked_while_it_arrives_is_not_acted_on(
    judged: tuple[ControlServer, tuple[str, int]],
    authority: Authority,
    directory: Path,
    register: Register,
    service: MemoryService,
) -> None:
    reader, writer = await opened(judged, authority, directory)
    whole = request("POST", INCREMENT, b'{"by":1}')
    writer.write(whole[:-3])
    await writer.drain()
    connection = cast("Any", None)
    async with asyncio.timeout(5):
        while connection is None or not connection.busy:
            await asyncio.sleep(0.01)
            connection = next(iter(judged[0].connections), None)
    register.revoked.add("caller")
    judged[0].recheck()
    writer.write(whole[-3:])
    assert (await read_answer(reader)).error == (403, "access_denied")
    assert service.calls == []
    writer.close()


async def test_what_a_revoked_caller_asked_behind_an_answer_that_is_not_read_is_not_answered(
    judged: tuple[ControlServer, tuple[str, int]], authority: Authority, directory: Path, register: Register
) -> None:
    reader, writer = await opened(judged, authority, directory)
    many = 40  # of answers of 650 KB
    writer.write(request("GET", "/v1/openapi.json") * many)
    async with asyncio.timeout(30):
        await read_answer(reader)
        connection = next(iter(judged[0].connections))
        while connection._drained is None:
            await asyncio.sleep(0.01)
        register.revoked.add("caller")
        judged[0].recheck()
        answered = 1
        while not reader.at_eof():
            try:
                await read_answer(reader)
            except asyncio.IncompleteReadError:  # TLS waits a second for what is under way
                break
            answered += 1
    assert answered < many
    writer.close()


async def test_caller_of_a_node_that_cannot_tell_yet_is_answered_once_it_can(
    judged: tuple[ControlServer, tuple[str, int]], authority: Authority, directory: Path, register: Register
) -> None:
    register.ready = False
    reader, writer = await opened(judged, authority, directory)
    writer.write(request("GET", "/v1/status"))
    assert (await read_answer(reader)).status == 200
    writer.close()


# --- watch --------------------------------------------------------------------------------------


async def read_chunk(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(5):
        size = int(await reader.readline(), 16)
        return (await reader.readexactly(size + 2))[:-2]


async def test_watch_gives_the_present_value_then_changes_and_ends_with_the_client(
    server: ControlServer, service: MemoryService, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await send(directory, request("POST", INCREMENT, b"{}"))
    async with connected(directory) as (reader, writer):
        writer.write(request("GET", "/v1/counters/default/watch"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"200" in head
        assert b"application/x-ndjson" in head
        assert json.loads(await read_chunk(reader))["value"] == 1
        await send(directory, request("POST", INCREMENT, b"{}"))
        line = await read_chunk(reader)
        assert json.loads(line) == {
            "schema_version": 1, "name": "default", "value": 2, "value_string": "2", "index": 2,
            "epoch": 1,
        }  # fmt: skip
        assert line.endswith(b"\n")
        assert service.watchers == 1
    async with asyncio.timeout(10):
        while service.watchers:
            await asyncio.sleep(0.01)
    assert caplog.records == []


async def test_watch_sends_blank_lines_while_nothing_happens(
    server: ControlServer, service: MemoryService, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert schema.KEEPALIVE_LINE_S <= 10
    monkeypatch.setattr(schema, "KEEPALIVE_LINE_S", 0.02)
    service.values["default"] = 1
    async with connected(directory) as (reader, writer):
        writer.write(request("GET", "/v1/counters/default/watch"))
        await reader.readuntil(b"\r\n\r\n")
        assert [await read_chunk(reader) for _ in range(3)][1:] == [b"\n", b"\n"]


async def test_watch_of_an_unknown_counter_is_a_plain_error(server: ControlServer, directory: Path) -> None:
    answer = await send(directory, request("GET", "/v1/counters/nope/watch"))
    assert answer.error == (404, "not_found")


async def test_watch_failure_in_the_stream_is_its_last_line(
    server: ControlServer, service: MemoryService, directory: Path
) -> None:
    service.values["default"] = 1
    async with connected(directory) as (reader, writer):
        writer.write(request("GET", "/v1/counters/default/watch"))
        await reader.readuntil(b"\r\n\r\n")
        await read_chunk(reader)
        service.fail = NoLeader("gone")
        async with service.changed:
            service.changed.notify_all()
        assert json.loads(await read_chunk(reader))["error"] == {"code": "no_leader", "message": "gone"}
        assert await read_chunk(reader) == b""


async def test_watch_that_hangs_before_its_first_line_times_out(
    server: ControlServer, service: MemoryService, directory: Path
) -> None:
    service.hang = True
    answer = await send(directory, request("GET", "/v1/counters/default/watch?timeout_s=0.1"))
    assert answer.error == (503, "timeout")
    assert service.watchers == 0


async def _watching(
    stack: contextlib.AsyncExitStack, directory: Path
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await stack.enter_async_context(connected(directory))
    writer.write(request("GET", "/v1/counters/default/watch"))
    return reader, writer


async def test_watches_and_long_polls_of_one_caller_are_bounded_and_its_other_requests_are_not(
    service: MemoryService, authority: Authority, directory: Path
) -> None:
    service.values["default"] = 1
    limits = ServerLimits(held=3, held_each=2)
    built = build_server(service, logger=LOGGER, identify=identify, limits=limits)
    await built.start_unix(directory / "control.sock")
    listener = await asyncio.get_running_loop().create_server(
        lambda: Handover(built), "127.0.0.1", 0, ssl=authority.server_context(directory)
    )
    port = listener.sockets[0].getsockname()[1]

    async with contextlib.AsyncExitStack() as stack:

        async def open_as(role: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=client_context(authority, directory, role, role)
            )
            stack.callback(writer.close)
            return reader, writer

        async def watch(role: str) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await open_as(role)
            writer.write(request("GET", "/v1/counters/default/watch"))
            async with asyncio.timeout(10):
                status = int((await reader.readline()).split()[1])
            return status, reader, writer

        first = await watch("viewer")
        assert [first[0], (await watch("viewer"))[0]] == [200, 200]
        status, reader, _ = await watch("viewer")
        assert status == 503
        text = (await reader.readuntil(b"}}")).decode()
        assert '"overloaded"' in text
        assert "end some" in text
        assert (await watch("operator"))[0] == 200
        assert (await watch("operator"))[0] == 503  # in all
        _, writer = await open_as("viewer")
        writer.write(request("GET", "/v1/counters/default"))
        # The control socket has a share of its own, and whoever leaves makes room.
        local = [await _watching(stack, directory) for _ in range(3)]
        for mine, _ in local:
            assert (await mine.readline()).startswith(b"HTTP/1.1 200 ")
        first[2].close()
        async with asyncio.timeout(10):
            while (await watch("viewer"))[0] != 200:
                await asyncio.sleep(0.01)
    listener.close()
    await built.close()


async def test_long_poll_whose_client_leaves_gives_its_place_back_at_once(
    server: ControlServer, service: MemoryService, directory: Path
) -> None:
    service.hang = True
    async with connected(directory) as (_, writer):
        writer.write(request("GET", "/v1/kv/changes?prefix=a&timeout_s=60"))
        await _until(lambda: server.figures()["api_open_watches"] == 1)
    await _until(lambda: server.figures()["api_open_watches"] == 0)


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


async def test_connections_of_one_caller_are_bounded_and_of_the_next_are_not(
    service: MemoryService, authority: Authority, directory: Path
) -> None:
    limits = ServerLimits(connections=3, connections_each=2)
    built = build_server(service, logger=LOGGER, identify=identify, limits=limits)
    listener = await asyncio.get_running_loop().create_server(
        lambda: Handover(built), "127.0.0.1", 0, ssl=authority.server_context(directory)
    )
    port = listener.sockets[0].getsockname()[1]
    writers = []

    async def ask(role: str) -> bool:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context(authority, directory, role, role)
        )
        writers.append(writer)
        with contextlib.suppress(ConnectionError):
            writer.write(request("GET", "/v1/health"))
            async with asyncio.timeout(10):
                return (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        return False

    assert [await ask("viewer") for _ in range(3)] == [True, True, False]
    assert await ask("operator")
    assert not await ask("operator")
    writers[0].close()
    async with asyncio.timeout(10):
        while not await ask("viewer"):
            await asyncio.sleep(0.01)
    for writer in writers:
        writer.close()
    listener.close()
    await built.close()


# --- the socket, and the end ----------------------------------------------------------------------


async def test_socket_is_private_and_removed_at_the_end(service: MemoryService, directory: Path) -> None:
    path = directory / "s"
    server = build_server(service, logger=LOGGER)
    previous = os.umask(0)
    try:
        await server.start_unix(path)
        assert os.umask(0) == 0
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await server.close()
    assert not path.exists()
    await server.close()


async def test_socket_of_a_dead_process_is_replaced(service: MemoryService, directory: Path) -> None:
    path = directory / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    server = build_server(service, logger=LOGGER)
    await server.start_unix(path)
    assert (await send(directory, request("GET", "/v1/health"))).status == 200
    await server.close()


async def test_socket_of_a_live_process_is_a_conflict_and_stays(
    server: ControlServer, service: MemoryService, directory: Path
) -> None:
    second = build_server(service, logger=LOGGER)
    with pytest.raises(Conflict, match="stop it first"):
        await second.start_unix(directory / "control.sock")
    await second.close()
    assert (await send(directory, request("GET", "/v1/health"))).status == 200


async def test_socket_path_that_is_a_file_is_a_conflict(service: MemoryService, directory: Path) -> None:
    path = directory / "file"
    path.write_text("precious")
    server = build_server(service, logger=LOGGER)
    with pytest.raises(Conflict, match="not a socket"):
        await server.start_unix(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["no/such/dir/s", "x" * 120])
async def test_socket_that_cannot_be_made_is_a_storage_error(
    service: MemoryService, directory: Path, name: str
) -> None:
    server = build_server(service, logger=LOGGER)
    with pytest.raises(StorageError, match="cannot make the control socket"):
        await server.start_unix(directory / name)


async def test_close_lets_a_running_request_finish(
    server: ControlServer, service: MemoryService, directory: Path
) -> None:
    service.hang = True
    async with connected(directory) as (reader, writer), connected(directory) as (idle, _):
        writer.write(request("POST", INCREMENT, b"{}"))
        await service.entered.wait()
        closing = asyncio.create_task(server.close())
        # Idle connections end at once, and nobody new gets in.
        async with asyncio.timeout(1):
            assert await idle.read() == b""
        with pytest.raises((ConnectionError, FileNotFoundError)):
            await send(directory, request("GET", "/v1/health"))
        service.release.set()
        assert (await read_answer(reader)).json["value"] == 1
        async with asyncio.timeout(1):
            await closing


async def test_close_ends_watches_with_a_last_line_and_hung_requests_by_force(
    server: ControlServer, service: MemoryService, directory: Path
) -> None:
    service.values["default"] = 1
    async with connected(directory) as (watch, watcher), connected(directory) as (hung, writer):
        watcher.write(request("GET", "/v1/counters/default/watch"))
        await watch.readuntil(b"\r\n\r\n")
        await read_chunk(watch)
        service.hang = True
        service.entered.clear()
        writer.write(request("POST", INCREMENT, b"{}"))
        await service.entered.wait()
        async with asyncio.timeout(3):
            await server.close(timeout_s=0.05)
        assert json.loads(await read_chunk(watch))["error"]["code"] == "unavailable"
        assert await hung.read() == b""
