"""The client against real servers: ours, dead ones, hanging ones and things that are not a node.

More than 700 lines, because one client meets every kind of server here, with the same helpers.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cyoloctl import errors
from cyoloctl.control import calls, tls_endpoints
from cyoloctl.control.client import Client, join_cluster
from cyoloctl.errors import (
    AccessDenied,
    ClientTimeout,
    ConfigError,
    CounterOverflow,
    InvalidInput,
    InvitationRejected,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    Unavailable,
    Unreachable,
    UsageError,
    VersionMismatch,
)
from cyoloctl.web import encoding, schema
from tests.support.live import Live, refusing, running
from tests.support.service import GOOD_SIGNATURE, Authority

call = asyncio.to_thread


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short, for a socket's path is limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ctl") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def live(authority: Authority, directory: Path) -> AsyncIterator[Live]:
    async with running(authority, directory) as node:
        yield node


class Script:
    """A socket that reads a request and does as told: what is not, or not quite, a node."""

    def __init__(self, listener: socket.socket, endpoint: str, reply: bytes | None, hold: bool) -> None:
        self.endpoint = endpoint
        self.requests: list[bytes] = []
        self._listener = listener
        self._reply = reply
        self._hold = hold or reply is None
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(data.partition(b"\r\n\r\n")[2] or b"null") for data in self.requests]

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                data = b""
                while b"\r\n\r\n" not in data and (received := connection.recv(65536)):
                    data += received
                head, _, body = data.partition(b"\r\n\r\n")
                length = int(
                    (head + b"\r\n").lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0
                )
                while len(body) < length and (received := connection.recv(65536)):
                    body += received
                self.requests.append(head + b"\r\n\r\n" + body)
                with contextlib.suppress(OSError):
                    connection.sendall(self._reply or b"")
                if self._hold:
                    self._released.wait(10)

    def close(self) -> None:
        self._released.set()
        # Closing alone does not wake accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def script(directory: Path) -> Iterator[Callable[..., Script]]:
    """script(reply): a listening Script.  None: hang.  hold: answer, and do not close."""
    made: list[Script] = []

    def make(reply: bytes | None, hold: bool = False) -> Script:
        path = directory / f"script{len(made)}.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        made.append(Script(listener, f"unix://{path}", reply, hold))
        return made[-1]

    yield make
    for item in made:
        item.close()


def http(body: bytes, status: str = "200 OK", kind: str = "application/json") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def unix(*endpoints: str, timeout_s: float = 5.0) -> Client:
    return Client(list(endpoints), credentials=None, timeout_s=timeout_s, retry=False)


def dead(directory: Path) -> str:
    return f"unix://{directory}/dead.sock"


# --- calls --------------------------------------------------------------------------------------


async def test_every_method_reaches_its_service_method(live: Live) -> None:
    client = unix(live.unix)
    assert (await call(client.health))["ready"] is True
    assert (await call(client.status))["cluster"] == {"name": "test"}
    assert await call(client.metrics) == "# HELP caf\u00e9 x\n"
    assert (await call(client.member_list))["members"] == []
    assert (await call(client.member_show, "a"))["name"] == "a"
    assert (await call(client.member_invite, "b", learner=True, ttl_s=60))["learner"] is True
    assert (await call(client.member_invite, "c", witness=True))["witness"] is True
    assert (await call(client.member_invitations))["invitations"] == []
    assert (await call(client.member_uninvite, "b"))["uninvited"] is True
    assert (await call(client.member_remove, "b", dry_run=True))["removed"] is False
    assert (await call(client.transfer_leadership, "b"))["leader"] == "b"
    assert (await call(client.transfer_leadership))["leader"] is None
    assert (await call(client.counters.incr, "c", 5, request_id="r"))["value"] == 5
    assert (await call(client.counters.incr, "c", 5, request_id="r"))["value"] == 5
    assert (await call(client.counters.incr, "c", -7))["value"] == -2
    assert (await call(client.counters.get, "c"))["value_string"] == "-2"
    assert (await call(client.counters.get, "c", stale=True))["value"] == -2
    assert (await call(client.counters.page, after="a", limit=1))["next"] is None
    assert (await call(client.counters.reset, "c"))["value"] == 0
    assert (await call(client.call, "openapi"))["openapi"].startswith("3.")
    assert (await call(client.stop))["stopping"] is True
    called = [operation for operation, _ in live.service.calls]
    assert called == [
        "status", "metrics", "member_list", "member_show", "member_invite", "member_invite",
        "member_invitations",
            "member_uninvite",
        "member_remove", "transfer_leadership", "transfer_leadership",
        "counter_add", "counter_add", "counter_add",
        "counter_get", "counter_get", "counter_list", "counter_reset", "stop",
    ]  # fmt: skip
    modes = [arguments.get("consistency") for _, arguments in live.service.calls[14:17]]
    assert modes == ["linearizable", "stale", "linearizable"]
    # The node gives up before the client does, so that its answer arrives.
    assert all(a["timeout_s"] < 5 for _, a in live.service.calls if "timeout_s" in a)


async def test_write_without_request_id_gets_a_fresh_one_each(live: Live) -> None:
    client = unix(live.unix)
    await call(client.counters.incr, "c", 1)
    await call(client.counters.incr, "c", 1)
    ids = [arguments["request_id"] for _, arguments in live.service.calls]
    assert len(set(ids)) == 2
    assert all(len(text) == 32 and set(text) <= set("0123456789abcdef") for text in ids)


@pytest.mark.parametrize("by", [2**63 - 1, -(2**63)])
async def test_whole_signed_range_can_be_added(live: Live, by: int) -> None:
    assert (await call(unix(live.unix).counters.incr, "c", by))["value"] == by
    with pytest.raises(CounterOverflow):
        await call(unix(live.unix).counters.incr, "c", 1 if by > 0 else -1)


async def test_error_of_the_node_is_raised_as_itself(live: Live) -> None:
    for cls in errors.error_classes():
        live.service.fail = cls("exactly this")
        with pytest.raises(errors.CyoloctlError) as caught:
            await call(unix(live.unix).status)
        assert type(caught.value) is cls
        assert "exactly this" in caught.value.message


def test_arguments_that_the_node_would_refuse_send_nothing(directory: Path) -> None:
    client = unix(dead(directory))
    actions: list[Callable[[], Any]] = [
        lambda: client.counters.get("../status"),
        lambda: client.counters.incr("c", 0),
        lambda: client.counters.incr("c", True),
        lambda: client.counters.incr("c", 2**63),
        lambda: client.counters.incr("c", 1, request_id="a b"),
        lambda: client.counters.page(limit=0),
        lambda: client.counters.page(after="A"),
        lambda: client.member_invite("n", ttl_s=5),
        lambda: next(client.counters.watch("A B")),
    ]
    for action in actions:
        with pytest.raises(InvalidInput):
            action()


@pytest.mark.parametrize(
    "endpoint", ["", "http://a:1", "unix://", "unix:/x", "https://a", "https://a:0", "https://a:1/x", "a:1", "unix://\0"]
)  # fmt: skip
def test_endpoint_of_another_form_is_a_usage_error(endpoint: str) -> None:
    with pytest.raises(UsageError):
        unix(endpoint)


def test_usage_no_endpoint_no_credentials_or_bad_timeout_is_refused() -> None:
    with pytest.raises(UsageError, match="no endpoint"):
        unix()
    with pytest.raises(UsageError, match="--credentials"):
        unix("https://localhost:1")
    for timeout_s in (0.0, -1.0, 301.0, float("nan")):
        with pytest.raises(UsageError, match="timeout"):
            unix("unix:///x", timeout_s=timeout_s)


async def test_client_finds_the_node_by_directory_or_environment(
    live: Live, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await call(Client(data_dir=directory).counters.incr, "c"))["value"] == 1
    monkeypatch.setenv("CYOLOCTL_DATA_DIR", str(directory))
    assert (await call(Client().counters.incr, "c"))["value"] == 2
    monkeypatch.setenv("CYOLOCTL_DATA_DIR", "/nowhere")
    monkeypatch.setenv("CYOLOCTL_ENDPOINT", live.unix)
    assert (await call(Client().counters.incr, "c"))["value"] == 3
    assert (await call(Client(data_dir=str(directory)).counters.incr, "c"))["value"] == 4


# --- failover -----------------------------------------------------------------------------------


def test_all_dead_is_unreachable_naming_each_endpoint_and_the_remedy(directory: Path) -> None:
    stale = directory / "stale.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(stale))
    (directory / "node.yaml").write_text("")
    with pytest.raises(Unreachable) as caught:
        unix(dead(directory), f"unix://{stale}", f"unix://{'x' * 200}").counters.incr("c", 1)
    message = caught.value.message
    assert f"{dead(directory)}: no such socket" in message
    assert f"unix://{stale}: connection refused" in message
    assert "too long" in message
    assert f"cyoloctl node start -d {directory}" in message


async def test_dead_endpoint_then_live_one_answers(live: Live, directory: Path) -> None:
    assert (await call(unix(dead(directory), live.unix).counters.incr, "c", 1))["value"] == 1
    assert (await call(unix(dead(directory), live.unix).member_invite, "n"))["name"] == "n"
    assert (
        next(
            await call(
                lambda: iter([next(unix(dead(directory), live.unix).counters.watch("c", patience_s=0))])
            )
        )["value"]
        == 1
    )


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"HTTP",
        http(b"<html>bad gateway", "502 Bad Gateway", "text/html"),
        http(b'{"schema_version":1,"error":{"code":"outcome_unknown","message":"m"}}', "504 Gateway Timeout"),
    ],
    ids=["closed", "cut-body", "cut-chunk", "cut-head", "cut-line", "proxy", "unknown"],
)
async def test_lost_answer_is_retried_on_the_next_endpoint_with_the_same_request_id(
    live: Live, script: Callable[..., Script], reply: bytes
) -> None:
    first = script(reply)
    result = await call(unix(first.endpoint, live.unix).counters.incr, "c", 1)
    assert [body["request_id"] for body in first.bodies] == [result["request_id"]]
    assert live.service.calls[0][1]["request_id"] == result["request_id"]


@pytest.mark.alone
async def test_hanging_endpoint_leaves_time_for_the_next(live: Live, script: Callable[..., Script]) -> None:
    first = script(None)
    started = time.monotonic()
    assert (await call(unix(first.endpoint, live.unix, timeout_s=0.6).counters.incr, "c", 1))["value"] == 1
    assert time.monotonic() - started < 0.6
    assert (await call(unix(first.endpoint, live.unix, timeout_s=0.6).counters.get, "c"))["value"] == 1


def test_lost_answer_without_another_endpoint_is_outcome_unknown_with_the_id(
    script: Callable[..., Script],
) -> None:
    only = script(b"")
    with pytest.raises(OutcomeUnknown) as caught:
        unix(only.endpoint).counters.incr("c", 1)
    (body,) = only.bodies
    assert f"--request-id {body['request_id']}" in caught.value.message


def test_hang_is_outcome_unknown_for_a_write_and_timeout_for_a_read(script: Callable[..., Script]) -> None:
    only = script(None)
    started = time.monotonic()
    with pytest.raises(OutcomeUnknown, match="in time"):
        unix(only.endpoint, timeout_s=0.2).counters.incr("c", 1)
    assert time.monotonic() - started < 10


def test_hang_of_a_read_is_a_timeout(script: Callable[..., Script]) -> None:
    with pytest.raises(ClientTimeout):
        unix(script(None).endpoint, timeout_s=0.2).counters.get("c")


async def test_write_without_request_id_is_not_repeated_elsewhere(
    live: Live, script: Callable[..., Script]
) -> None:
    first = script(b"")
    with pytest.raises(OutcomeUnknown, match="before you retry"):
        await call(unix(first.endpoint, live.unix).call, "pki_grant", "", {"request": "x"})
    assert live.service.calls == []


async def test_write_whose_answer_was_lost_is_repeated_elsewhere_under_its_request_id(
    live: Live, script: Callable[..., Script]
) -> None:
    told: list[str] = []
    first = script(b"")
    client = Client(
        [first.endpoint, live.unix], credentials=None, timeout_s=5.0, retry=False, on_write=told.append
    )
    assert (await call(client.member_invite, "n"))["name"] == "n"
    assert (await call(client.member_remove, "n"))["removed"] is True
    assert [body["request_id"] for body in first.bodies] == told
    assert [arguments["request_id"] for _, arguments in live.service.calls] == told


async def test_stop_never_reaches_a_second_endpoint(live: Live, directory: Path) -> None:
    with pytest.raises(Unreachable):
        await call(unix(dead(directory), live.unix).stop)
    assert live.service.calls == []


async def test_unavailable_node_hands_over_to_the_next(
    live: Live, authority: Authority, directory: Path
) -> None:
    async with running(authority, directory, "other.sock") as other:
        other.service.fail = NoLeader("no leader here")
        assert (await call(unix(other.unix, live.unix).member_invite, "n"))["name"] == "n"
        with pytest.raises(NoLeader, match="no leader here"):
            await call(unix(other.unix, dead(directory)).counters.incr, "c", 1)


async def test_unavailable_after_a_lost_answer_stays_unknown(
    live: Live, script: Callable[..., Script]
) -> None:
    live.service.fail = NoLeader("no leader")
    with pytest.raises(OutcomeUnknown):
        await call(unix(script(b"").endpoint, live.unix).counters.incr, "c", 1)


async def test_refusal_of_the_same_request_id_settles_a_lost_answer(
    live: Live, script: Callable[..., Script]
) -> None:
    live.service.fail = CounterOverflow("would overflow")
    with pytest.raises(CounterOverflow):
        await call(unix(script(b"").endpoint, live.unix).counters.incr, "c", 1)


# --- what is not a node -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        b"\x00\xff\x00\xffgarbage without an end",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"220 mail ESMTP\r\n" * 5000,
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        http(b"<html>hello</html>", kind="text/html"),
        http(b"not json"),
        http(b"[1]"),
        http(b"{}"),
        http(b'{"schema_version":true}'),
        http(b'{"schema_version":1}', "302 Found"),
        http(b"\xff"),
        http(b"[" * 200_000),
    ],
)
def test_something_that_is_not_a_node_is_a_clear_version_mismatch(
    script: Callable[..., Script], reply: bytes
) -> None:
    other = script(reply)
    with pytest.raises(VersionMismatch, match="not a cyoloctl node") as caught:
        unix(other.endpoint, timeout_s=2).counters.incr("c", 1)
    assert other.endpoint in caught.value.message


def test_newer_schema_is_a_version_mismatch_naming_both(script: Callable[..., Script]) -> None:
    with pytest.raises(VersionMismatch, match="schema version 2, this release speaks 1"):
        unix(script(http(b'{"schema_version":2}')).endpoint).status()


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 8388609\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n7fffffff\r\n", b"\r\n"],
    ids=["length", "chunk", "endless"],
)
def test_answer_past_eight_mebibytes_is_refused(script: Callable[..., Script], head: bytes) -> None:
    reply = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        + head
        + b" " * (encoding.MAX_RESPONSE_BYTES + 1)
    )
    with pytest.raises(VersionMismatch, match="larger than"):
        unix(script(reply).endpoint).status()


def test_terminal_codes_in_an_error_do_not_reach_the_user(script: Callable[..., Script]) -> None:
    reply = http(
        b'{"schema_version":1,"error":{"code":"not_found","message":"a\\u001b[2Jb"}}', "404 Not Found"
    )
    with pytest.raises(NotFound) as caught:
        unix(script(reply).endpoint).status()
    assert caught.value.message == "a [2Jb"


# --- TLS ----------------------------------------------------------------------------------------


def secure(live: Live | str, credentials: Path, timeout_s: float = 5.0) -> Client:
    endpoint = live if isinstance(live, str) else live.https
    return Client([endpoint], credentials=credentials, timeout_s=timeout_s, retry=False)


async def test_operator_over_tls_may_write_and_watch(
    live: Live, authority: Authority, directory: Path
) -> None:
    client = secure(live, authority.credentials(directory))
    assert (await call(client.counters.incr, "c", 3))["value"] == 3
    assert (await call(lambda: next(client.counters.watch("c", patience_s=0))))["value"] == 3


async def test_viewer_over_tls_may_read_only(live: Live, authority: Authority, directory: Path) -> None:
    client = secure(live, authority.credentials(directory, "viewer"))
    assert (await call(client.status))["schema_version"] == 1
    with pytest.raises(
        AccessDenied, match="needs the role operator, the credentials somebody have the role viewer"
    ):
        await call(client.counters.incr, "c", 1)


async def test_credentials_of_another_cluster_are_access_denied(live: Live, directory: Path) -> None:
    other = Authority("1" * 32)
    with pytest.raises(AccessDenied, match="another cluster, or the credentials do"):
        await call(secure(live, other.credentials(directory)).counters.incr, "c", 1)
    assert live.service.calls == []


def test_alert_that_refuses_our_certificate_is_access_denied(authority: Authority, directory: Path) -> None:
    with (
        refusing(authority, directory) as endpoint,
        pytest.raises(AccessDenied, match="refuses our certificate"),
    ):
        secure(endpoint, authority.credentials(directory)).counters.incr("c")


@pytest.mark.parametrize(
    ("role", "days", "says"),
    [
        ("operator", 30, "does not name a node"),
        ("node", -1, r"certificate of node a ended at .* clock of this machine says .*`cyoloctl node renew`"),
    ],
)
async def test_server_that_is_no_valid_node_gets_nothing(
    authority: Authority, directory: Path, role: str, days: int, says: str
) -> None:
    context = authority.server_context(directory, role=role, days=days)
    async with running(authority, directory, context=context) as node:
        with pytest.raises(AccessDenied, match=says):
            await call(secure(node, authority.credentials(directory)).counters.incr, "c", 1)
        assert node.service.calls == []


async def test_name_with_an_address_that_swallows_everything_is_reached_at_the_next_in_time(
    live: Live, authority: Authority, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, port = socket.getaddrinfo, int(live.https.rpartition(":")[2])
    with contextlib.ExitStack() as opened:
        full = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())

        def getaddrinfo(host: str, *rest: Any, **options: Any) -> Any:
            if host != "a.example":
                return real(host, *rest, **options)
            if options.get("flags") == socket.AI_NUMERICHOST:
                raise socket.gaierror(socket.EAI_NONAME, "not numeric")
            places = (full.getsockname(), ("127.0.0.1", port))
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", where) for where in places]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        endpoint = f"https://a.example:{port}"
        client = Client([endpoint], credentials=authority.credentials(directory), timeout_s=3.0, retry=False)
        assert (await call(client.status))["schema_version"] == 1


async def test_endpoint_with_a_name_reaches_exactly_that_node(
    live: Live, authority: Authority, directory: Path
) -> None:
    credentials = authority.credentials(directory)
    good = live.https.replace("https://", "https://a@")
    assert (await call(secure(good, credentials).counters.incr, "c", 1))["value"] == 1
    with pytest.raises(AccessDenied, match="a answers there, not b: nothing was sent"):
        await call(secure(live.https.replace("https://", "https://b@"), credentials).status)
    for text in ("https://B@127.0.0.1:1", "https://@127.0.0.1:1", "https://a@b@127.0.0.1:1"):
        with pytest.raises(UsageError, match="NAME@HOST:PORT"):
            secure(text, credentials)


async def test_node_that_the_credentials_do_not_list_gets_nothing(
    live: Live, authority: Authority, directory: Path
) -> None:
    """A learner's or a removed node's certificate is as good as any to the CA."""
    path = authority.credentials(directory)
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"members": {"b": "127.0.0.1:1", "c": "127.0.0.1:2"}}))
    with pytest.raises(AccessDenied, match=r"not among the members in credentials file .* renew"):
        await call(secure(live, path).counters.incr, "c", 1)
    assert live.service.calls == []
    assert tls_endpoints.member_endpoints(path) == ["https://b@127.0.0.1:1", "https://c@127.0.0.1:2"]
    path.write_text(json.dumps(document | {"members": {"a": "127.0.0.1:1"}}))
    assert (await call(secure(live, path).counters.incr, "c", 1))["value"] == 1


async def test_credentials_made_on_request_use_the_key_beside_them(
    live: Live, authority: Authority, directory: Path
) -> None:
    path = authority.credentials(directory)
    document = json.loads(path.read_text())
    key = directory / "mine.key"
    key.touch(0o600)
    key.write_text(document.pop("key_pem"))
    path.write_text(json.dumps(document | {"key_file": "mine.key"}))
    assert (await call(secure(live, path).counters.incr, "c", 1))["value"] == 1
    key.chmod(0o640)
    with pytest.raises(ConfigError, match=r"run `chmod 600 "):
        secure(live, path)
    key.unlink()
    with pytest.raises(ConfigError, match="put both into one directory"):
        secure(live, path)
    path.write_text(json.dumps(document | {"key_file": 7}))
    with pytest.raises(ConfigError, match="damaged"):
        secure(live, path)


def test_plain_http_at_an_https_endpoint_is_unreachable(authority: Authority, directory: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    with listener, pytest.raises(Unreachable, match="does not speak TLS"):
        secure(f"https://127.0.0.1:{listener.getsockname()[1]}", authority.credentials(directory)).status()
    thread.join()


def test_silent_tcp_endpoint_times_out_as_unreachable(authority: Authority, directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(Unreachable, match="timed out"):
            secure(endpoint, authority.credentials(directory), timeout_s=0.2).counters.incr("c", 1)


def test_credentials_open_to_others_or_damaged_are_refused(authority: Authority, directory: Path) -> None:
    path = authority.credentials(directory)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        secure("https://127.0.0.1:1", path)
    path.chmod(0o600)
    good = json.loads(path.read_text())
    for text in ("", "{", "[]", json.dumps({**good, "key_pem": 5}), json.dumps({"schema_version": 1})):
        path.write_text(text)
        with pytest.raises(ConfigError, match="damaged"):
            secure("https://127.0.0.1:1", path)
    path.write_text(json.dumps({**good, "schema_version": 2}))
    with pytest.raises(VersionMismatch):
        secure("https://127.0.0.1:1", path)
    path.write_text(json.dumps({**good, "key_pem": "not a key"}))
    with pytest.raises(ConfigError, match="cannot be used"):
        secure("https://127.0.0.1:1", path).status()
    with pytest.raises(ConfigError, match="no such file"):
        secure("https://127.0.0.1:1", directory / "none")


def test_trust_hides_its_key(authority: Authority, directory: Path) -> None:
    trust = tls_endpoints.read_credentials(authority.credentials(directory))
    assert "hidden" in repr(trust)
    assert "PRIVATE" not in repr(trust)


# --- join ---------------------------------------------------------------------------------------

JOIN = {
    "name": "n2",
    "public_key": "B" * 42 + "E=",
    "signature": GOOD_SIGNATURE,
    "request_pem": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    "sealing_key": "A" * 43 + "=",
    "address": "10.0.0.2:4000",
    "ca_sha256": "c" * 64,
}


def _sha256(pem: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def _address(node: Live) -> str:
    return node.https.removeprefix("https://")


async def _join(node: Live, authority: Authority, **changes: Any) -> dict[str, Any]:
    """A member "a" at the node's address is asked; it has that name."""
    given: dict[str, Any] = {
        "members": [("a", _address(node))],
        "ca_sha256": _sha256(authority.ca_pem),
        "cluster_id": authority.cluster_id,
        "body": JOIN,
        "timeout_s": 5.0,
        **changes,
    }
    result: dict[str, Any] = await call(lambda: join_cluster(**given))
    return result


async def test_join_without_a_certificate_is_granted(live: Live, authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = f"127.0.0.1:{closed.getsockname()[1]}"
    result = await _join(live, authority, members=[("b", gone), ("a", _address(live))])
    assert result["grant"] == {"name": "n2"}


async def test_join_with_a_wrong_signature_is_rejected(live: Live, authority: Authority) -> None:
    with pytest.raises(InvitationRejected):
        await _join(live, authority, body={**JOIN, "signature": "B" * 85 + "A=="})


@pytest.mark.parametrize("wrong", ["ca", "cluster", "name"])
async def test_join_where_another_answers_sends_nothing(live: Live, authority: Authority, wrong: str) -> None:
    changes: dict[str, Any] = {
        "ca": {"ca_sha256": _sha256(Authority().ca_pem)},
        "cluster": {"cluster_id": "2" * 32},
        "name": {"members": [("b", _address(live))]},
    }[wrong]
    with pytest.raises(
        AccessDenied, match="a answers there, not b" if wrong == "name" else "another cluster"
    ):
        await _join(live, authority, **changes)
    assert [operation for operation, _ in live.service.calls] == ["ca"]


async def test_join_picks_its_ca_among_several_and_from_any_answer_that_is_none(
    live: Live, authority: Authority
) -> None:
    live.service.ca_certificates = [Authority().ca_pem, authority.ca_pem]
    assert (await _join(live, authority))["grant"] == {"name": "n2"}
    for nonsense in (
        ["x"],
        [5, None, {}],
        ["-----BEGIN CERTIFICATE-----\n\u00e9\n-----END CERTIFICATE-----\n"],
    ):
        live.service.ca_certificates = nonsense
        with pytest.raises(AccessDenied, match="member invite"):
            await _join(live, authority)


async def test_join_tries_the_next_member_when_the_first_answers_with_nonsense(
    live: Live, authority: Authority, directory: Path
) -> None:
    async with running(authority, directory, "second.sock") as other:
        other.service.ca_certificates = []
        members = [("a", _address(other)), ("a", _address(live))]
        assert (await _join(live, authority, members=members))["grant"] == {"name": "n2"}


async def test_join_of_a_member_whose_certificate_is_out_of_date_is_granted(
    authority: Authority, directory: Path
) -> None:
    """Dates are judged by nobody here: the machine that joins may have any clock."""
    context = authority.server_context(directory, days=-1)
    async with running(authority, directory, context=context) as node:
        assert (await _join(node, authority))["grant"] == {"name": "n2"}


# --- watch --------------------------------------------------------------------------------------


async def test_watch_follows_changes_and_leaves_the_node_clean(live: Live) -> None:
    client = unix(live.unix)
    await call(client.counters.incr, "c", 1)
    watch = client.counters.watch("c", patience_s=0)
    assert (await call(next, watch))["value"] == 1
    await call(client.counters.incr, "c", 1)
    assert (await call(next, watch))["value"] == 2
    watch.close()  # type: ignore[attr-defined]  # a generator
    async with asyncio.timeout(5):
        await live.service.watch_ended.wait()


async def test_watch_unknown_counter_is_not_found(live: Live) -> None:
    with pytest.raises(NotFound):
        await call(next, unix(live.unix).counters.watch("nope"))


async def test_watch_error_in_the_stream_is_raised(live: Live) -> None:
    live.service.values["c"] = 1
    watch = unix(live.unix).counters.watch("c", patience_s=0)
    await call(next, watch)
    live.service.fail = NoLeader("lost it")
    async with live.service.changed:
        live.service.changed.notify_all()
    with pytest.raises(NoLeader, match="lost it"):
        await call(next, watch)


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_watch_lines_split_over_chunks_and_blank_lines_are_read(script: Callable[..., Script]) -> None:
    parts = [b'{"schema_version":1,"val', b'ue":1}\n\n\n{"schema_version":1,"value":2}\n']
    reply = STREAM + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    watch = unix(script(reply).endpoint).counters.watch("c", patience_s=0)
    assert [next(watch)["value"], next(watch)["value"]] == [1, 2]
    with pytest.raises(Unavailable, match="watch again"):
        next(watch)


def test_watch_silent_node_is_given_up(
    script: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert calls._WATCH_SILENCE_S > 2 * schema.KEEPALIVE_LINE_S
    monkeypatch.setattr(calls, "_WATCH_SILENCE_S", 0.05)
    first = script(STREAM + b"1\r\n\n\r\n", hold=True)
    watch = unix(first.endpoint).counters.watch("c", patience_s=0)
    with pytest.raises(Unavailable, match=r"no answer in time.*watch again"):
        next(watch)
