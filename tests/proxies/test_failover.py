"""The exported files in real proxies: where requests go when nodes die, hang, refuse and come back.

The nodes take a second to be given up (response_timeout_s=1), so the bounds below are a few seconds.
"""

from __future__ import annotations

import pytest

from tests.support.proxies import NAMES, SHARED, Kind, host_of, silent_listener, site

KINDS = pytest.mark.parametrize("kind", ["nginx", "haproxy"])
PINS = pytest.mark.parametrize("name", NAMES)
# One attempt that gets no answer, one at the next node, and what a busy machine adds.
FALLOVER_S = 3.0
# haproxy waits a second before it tries the same node again; another one it asks at once.
AT_ONCE_S = 0.9


@KINDS
async def test_pins_each_go_to_their_node(kind: Kind) -> None:
    async with site(kind) as proxy:
        for name in NAMES:
            for host in (
                host_of(name),
                host_of(name).upper(),
                f"{host_of(name)}:{proxy.port}",
                f"{host_of(name)}.",
                f"{host_of(name)}.:{proxy.port}",
            ):
                assert (await proxy.ask(host)).node == name
        assert [node.count("GET") for node in proxy.nodes.values()] == [5, 5, 5]
        assert (await proxy.ask(f"{SHARED}.")).node is not None
        assert (await proxy.ask(f"{SHARED}..")).status in (400, 421)


@KINDS
async def test_request_at_a_node_says_who_asked_and_believes_no_client(kind: Kind) -> None:
    async with site(kind) as proxy:
        host = f"{host_of('n1')}:{proxy.port}"
        lie = "192.0.2.1"
        await proxy.ask(
            host,
            X_Forwarded_For=lie,
            X_Forwarded_Proto="https",
            X_Forwarded_Host=lie,
            Forwarded=f"for={lie}",
            Keep_Alive="max=7",
            TE="trailers",
            Upgrade="websocket",
        )
        [(_, _, headers)] = proxy.nodes["n1"].received
        assert lie not in "".join(headers.values())
        assert headers["host"] == headers["x-forwarded-host"] == host
        assert headers["x-forwarded-for"] == "127.0.0.1"
        assert headers["x-forwarded-proto"] == "http"
        assert headers["connection"] == "close"
        assert not headers.keys() & {"forwarded", "keep-alive", "te", "upgrade"}


@KINDS
async def test_shared_host_without_a_cookie_reaches_every_node_and_names_it(kind: Kind) -> None:
    async with site(kind) as proxy:
        seen: set[str] = set()

        async def all_seen() -> bool:
            answer = await proxy.ask(SHARED)
            assert answer.cookie == answer.node is not None
            assert {part.strip() for part in answer.headers["set-cookie"].lower().split(";")[1:]} == {
                "path=/",
                "httponly",
                "samesite=lax",
            }
            seen.add(answer.node)
            return seen == set(NAMES)

        await proxy.until("each node answered for the shared host", all_seen)


@KINDS
@PINS
async def test_shared_host_with_a_cookie_stays_at_its_node_and_sets_none(kind: Kind, name: str) -> None:
    async with site(kind) as proxy:
        for cookie in (f"cyolo-node={name}", f"a=b; cyolo-node={name}; c=d"):
            for method in ("GET", "POST", "GET"):
                answer = await proxy.ask(SHARED, method, Cookie=cookie)
                assert (answer.node, answer.new_cookie) == (name, False)


@KINDS
async def test_shared_host_with_a_cookie_of_nobody_gets_a_new_one(kind: Kind) -> None:
    async with site(kind) as proxy:
        for cookie in (
            "cyolo-node=n9",
            "cyolo-node=",
            "xcyolo-node=n1",
            "cyolo-node=n1x",
            "cyolo-node=../n1",
        ):
            answer = await proxy.ask(SHARED, Cookie=cookie)
            assert answer.cookie == answer.node is not None


@KINDS
async def test_shared_host_leaves_the_cookie_that_a_node_sets_itself(kind: Kind) -> None:
    async with site(kind) as proxy:
        for cookie in ("", "cyolo-node=n1", "cyolo-node=n2"):
            answer = await proxy.ask(SHARED, path="/to-n2", Cookie=cookie)
            assert answer.status == 200
            assert answer.cookies == ["cyolo-node=n2; Path=/"]


@KINDS
@pytest.mark.parametrize(
    ("in_front", "believed"), [("127.0.0.0/8", True), ("127.0.0.1", True), ("192.0.2.0/24", False)]
)
async def test_proxy_behind_what_ends_tls_believes_it_and_nobody_else(
    kind: Kind, in_front: str, believed: bool
) -> None:
    async with site(kind, tls_in_front=(in_front, "2001:db8::1")) as proxy:
        said = {"X_Forwarded_For": "198.51.100.7", "X_Forwarded_Host": "evil.example", "Forwarded": "for=x"}
        for scheme in ("https", "http", None):
            more = said if scheme is None else {**said, "X_Forwarded_Proto": scheme}
            answer = await proxy.ask(SHARED, **more)
            assert "; secure" in answer.headers["set-cookie"].lower()
            assert answer.node is not None
            [(_, _, headers)] = proxy.nodes[answer.node].received
            proxy.nodes[answer.node].received.clear()
            assert headers["x-forwarded-proto"] == ("https" if believed and scheme == "https" else "http")
            heard = headers["x-forwarded-for"].replace(" ", "")
            assert heard == ("198.51.100.7,127.0.0.1" if believed else "127.0.0.1")
            assert headers["x-forwarded-host"] == SHARED
            assert "forwarded" not in headers


async def test_header_that_nginx_finds_too_long_is_told_as_such() -> None:
    async with site("nginx") as proxy:
        answer = await proxy.ask(SHARED, Cookie="z=" + "y" * 8300)
        assert (answer.status, "delete those of this site" in answer.body) == (431, True)
        assert proxy.received("GET") == 0


@KINDS
async def test_shared_host_names_its_node_with_an_error_too(kind: Kind) -> None:
    async with site(kind) as proxy:
        answer = await proxy.ask(SHARED, path="/missing")
        assert (answer.status, answer.cookie) == (404, answer.node)


@KINDS
async def test_pin_ignores_the_cookie_and_sets_none(kind: Kind) -> None:
    async with site(kind) as proxy:
        answer = await proxy.ask(host_of("n1"), Cookie="cyolo-node=n2")
        assert (answer.node, answer.new_cookie) == ("n1", False)


@KINDS
async def test_metrics_are_refused_and_nobody_is_asked(kind: Kind) -> None:
    async with site(kind) as proxy:
        for host in (SHARED, host_of("n1")):
            answer = await proxy.ask(host, path="/metrics")
            assert (answer.status, answer.node) == (403, None)


@KINDS
async def test_unknown_host_gets_421_and_reaches_nobody(kind: Kind) -> None:
    async with site(kind) as proxy:
        for host in (
            "other.example.com",
            "app-1xexample.com",
            "app-1.example.com.evil.test",
            "evil.app-1.example.com",
            "127.0.0.1",
            "cyolo-pin-n1",
            None,  # HTTP/1.0 without a Host
        ):
            for method in ("GET", "POST"):
                assert (await proxy.ask(host, method)).status == 421
        assert proxy.received("GET") == proxy.received("POST") == 0


@KINDS
@PINS
async def test_get_of_a_pin_whose_node_is_killed_goes_to_the_one_next_node(kind: Kind, name: str) -> None:
    async with site(kind) as proxy:
        await proxy.nodes[name].stop()
        # From the first request on, which no check warned of.
        answers = [await proxy.ask(host_of(name)) for _ in range(12)]
        assert {(answer.status, answer.node) for answer in answers} == {(200, proxy.next_of(name))}
        assert max(answer.elapsed_s for answer in answers) < AT_ONCE_S


@KINDS
async def test_get_that_a_node_received_before_it_was_killed_goes_to_the_next(kind: Kind) -> None:
    async with site(kind) as proxy:
        proxy.nodes["n1"].behaviour = "die"
        answer = await proxy.ask(host_of("n1"))
        assert (answer.status, answer.node) == (200, proxy.next_of("n1"))
        assert proxy.nodes["n1"].count("GET") == 1


@KINDS
async def test_post_that_a_node_received_before_it_was_killed_is_not_sent_again(kind: Kind) -> None:
    async with site(kind) as proxy:
        proxy.nodes["n1"].behaviour = "die"
        answer = await proxy.ask(host_of("n1"), "POST")
        assert (answer.status, answer.node) == (502, None)
        assert [proxy.nodes["n1"].count("POST"), proxy.received("POST")] == [1, 1]


@KINDS
async def test_post_on_a_connection_used_before_is_answered_when_its_node_is_killed(kind: Kind) -> None:
    """A browser sends a request again, even a POST, when such a connection closes without a word (RFC 9110
    9.2.2 lets it; Chromium does), so the proxy must answer or not keep the connection."""
    async with site(kind) as proxy:
        reader, writer = await proxy.connect(host_of("n1"))
        first = await proxy.exchange(reader, writer, host_of("n1"))
        assert first.node == "n1"
        proxy.nodes["n1"].behaviour = "die"
        if first.headers.get("connection") == "close":
            assert await reader.read() == b""
            writer.close()
            reader, writer = await proxy.connect(host_of("n1"))
        answer = await proxy.exchange(reader, writer, host_of("n1"), "POST")
        writer.close()
        assert answer.status == 502
        assert proxy.received("POST") == 1


@KINDS
@PINS
async def test_post_that_no_node_received_goes_to_the_one_next_node(kind: Kind, name: str) -> None:
    async with site(kind) as proxy:
        await proxy.nodes[name].stop()
        for _ in range(3):
            answer = await proxy.ask(host_of(name), "POST")
            assert (answer.status, answer.node) == (200, proxy.next_of(name))
            assert answer.elapsed_s < AT_ONCE_S
        assert proxy.received("POST") == 3


@KINDS
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_request_to_a_host_without_power_goes_to_the_next(kind: Kind, method: str) -> None:
    async with site(kind) as proxy:
        node = proxy.nodes["n1"]
        await node.stop()
        with silent_listener(node.ip, node.port):
            answer = await proxy.ask(host_of("n1"), method)
        assert (answer.status, answer.node) == (200, proxy.next_of("n1"))
        assert answer.elapsed_s < FALLOVER_S
        assert proxy.received(method) == 1


@KINDS
async def test_get_of_a_pin_whose_node_hangs_goes_to_the_next_in_time(kind: Kind) -> None:
    async with site(kind) as proxy:
        proxy.nodes["n1"].behaviour = "hang"
        answer = await proxy.ask(host_of("n1"))
        assert (answer.status, answer.node) == (200, proxy.next_of("n1"))
        assert 0.9 < answer.elapsed_s < FALLOVER_S
        assert proxy.nodes["n1"].count("GET") == 1

        async def noticed() -> bool:
            return (await proxy.ask(host_of("n1"))).elapsed_s < 0.5

        await proxy.until("requests no longer wait for the hung node", noticed)


@KINDS
async def test_post_to_a_node_that_hangs_gets_504_and_is_not_sent_again(kind: Kind) -> None:
    async with site(kind) as proxy:
        proxy.nodes["n1"].behaviour = "hang"
        answer = await proxy.ask(host_of("n1"), "POST")
        assert (answer.status, answer.node) == (504, None)
        assert 0.9 < answer.elapsed_s < FALLOVER_S
        assert [proxy.nodes["n1"].count("POST"), proxy.received("POST")] == [1, 1]


@KINDS
async def test_get_when_every_node_hangs_gets_504_in_time(kind: Kind) -> None:
    async with site(kind) as proxy:
        for node in proxy.nodes.values():
            node.behaviour = "hang"
        answer = await proxy.ask(SHARED)
        assert answer.status == 504
        # nginx gives up after two of the three, haproxy after three attempts.
        assert answer.elapsed_s < (2.8 if kind == "nginx" else 3.8)


@KINDS
async def test_node_that_is_not_ready_passes_gets_on_and_answers_posts_once(kind: Kind) -> None:
    async with site(kind) as proxy:
        proxy.nodes["n1"].behaviour = "not ready"
        answer = await proxy.ask(host_of("n1"), "POST")
        assert (answer.status, answer.node, proxy.received("POST")) == (503, "n1", 1)
        answer = await proxy.ask(host_of("n1"))
        assert (answer.status, answer.node) == (200, proxy.next_of("n1"))


@KINDS
@pytest.mark.parametrize("end", ["killed", "hung"])
async def test_pin_whose_node_is_back_returns_home(kind: Kind, end: str) -> None:
    async with site(kind) as proxy:
        node = proxy.nodes["n1"]
        if end == "killed":
            await node.stop()
        else:
            node.behaviour = "hang"
        assert (await proxy.ask(host_of("n1"))).node == proxy.next_of("n1")
        if end == "killed":
            await node.start()
        else:
            node.behaviour = "answer"
        await proxy.until_home("n1")
        assert {(await proxy.ask(host_of("n1"))).node for _ in range(6)} == {"n1"}


@KINDS
@pytest.mark.parametrize("end", ["killed", "killed while it answers", "hung"])
async def test_cookie_of_a_dead_node_goes_elsewhere_and_is_set_anew(kind: Kind, end: str) -> None:
    async with site(kind) as proxy:
        if end == "killed":
            await proxy.nodes["n1"].stop()
        else:
            proxy.nodes["n1"].behaviour = "hang" if end == "hung" else "die"
        answer = await proxy.ask(SHARED, Cookie="cyolo-node=n1")
        assert answer.status == 200
        assert answer.cookie == answer.node in {"n2", "n3"}
        assert answer.elapsed_s < (AT_ONCE_S if end == "killed" else FALLOVER_S)
        again = await proxy.ask(SHARED, Cookie=f"cyolo-node={answer.cookie}")
        assert (again.node, again.new_cookie) == (answer.node, False)


@KINDS
async def test_cookie_of_a_dead_node_with_a_post_is_followed_as_safely(kind: Kind) -> None:
    async with site(kind) as proxy:
        proxy.nodes["n1"].behaviour = "die"
        assert (await proxy.ask(SHARED, "POST", Cookie="cyolo-node=n1")).status == 502
        assert proxy.received("POST") == 1
        answer = await proxy.ask(SHARED, "POST", Cookie="cyolo-node=n1")  # the port is closed by now
        assert (answer.status, answer.cookie) == (200, answer.node)
        assert proxy.received("POST") == 2


@KINDS
async def test_strict_pin_whose_node_is_killed_answers_503_and_nobody_takes_over(kind: Kind) -> None:
    async with site(kind, pin="strict") as proxy:
        assert (await proxy.ask(host_of("n1"))).node == "n1"
        proxy.nodes["n1"].received.clear()
        await proxy.nodes["n1"].stop()
        for method in ("GET", "POST") * 3:
            answer = await proxy.ask(host_of("n1"), method)
            assert (answer.status, answer.node) == (503, None)
            assert answer.elapsed_s < FALLOVER_S
        assert proxy.received("GET") == proxy.received("POST") == 0
        assert (await proxy.ask(host_of("n2"))).node == "n2"
        # The shared host is as soft as ever.
        answer = await proxy.ask(SHARED, Cookie="cyolo-node=n1")
        assert (answer.status, answer.cookie) == (200, answer.node)


@KINDS
async def test_strict_pin_whose_node_is_without_power_answers_503(kind: Kind) -> None:
    async with site(kind, pin="strict") as proxy:
        node = proxy.nodes["n1"]
        await node.stop()
        with silent_listener(node.ip, node.port):
            answer = await proxy.ask(host_of("n1"), "POST")
        assert answer.status == 503
        assert answer.elapsed_s < FALLOVER_S


@KINDS
async def test_strict_pin_whose_node_received_the_request_does_not_answer_503(kind: Kind) -> None:
    async with site(kind, pin="strict") as proxy:
        proxy.nodes["n1"].behaviour = "hang"
        for method in ("GET", "POST"):
            assert (await proxy.ask(host_of("n1"), method)).status == 504
            assert proxy.received(method) == 1
        proxy.nodes["n2"].behaviour = "die"
        assert (await proxy.ask(host_of("n2"), "POST")).status == 502
        assert proxy.received("POST") == 2


@KINDS
async def test_next_node_that_failed_once_is_asked_again_at_once(kind: Kind) -> None:
    """There is nobody behind it whom it would be better to ask."""
    async with site(kind) as proxy:
        await proxy.nodes["n1"].stop()
        following = proxy.nodes[proxy.next_of("n1")]
        following.behaviour = "die"
        assert (await proxy.ask(host_of("n1"), "POST")).status == 502
        await following.start()
        answer = await proxy.ask(host_of("n1"), "POST")
        assert (answer.status, answer.node) == (200, following.name)


@KINDS
async def test_no_node_left_answers_503_and_the_first_one_back_serves(kind: Kind) -> None:
    async with site(kind) as proxy:
        for node in proxy.nodes.values():
            await node.stop()
        for host in (host_of("n1"), SHARED):
            for method in ("GET", "POST", "GET"):
                assert (await proxy.ask(host, method)).status == 503
        await proxy.nodes["n2"].start()

        async def served() -> bool:
            return (await proxy.ask(SHARED)).node == "n2"

        await proxy.until("the shared host is served again", served)
        await proxy.until_home("n2")


async def test_haproxy_with_two_nodes_killed_goes_on_to_the_third() -> None:
    async with site("haproxy") as proxy:
        first, second, third = (backend.name for backend in proxy.table.resolve(host_of("n1")))
        await proxy.nodes[first].stop()
        await proxy.nodes[second].stop()

        async def third_serves() -> bool:
            return (await proxy.ask(host_of("n1"))).node == third

        await proxy.until("the third node answers", third_serves)
        assert {(await proxy.ask(host_of("n1"))).node for _ in range(6)} == {third}


@KINDS
async def test_proxy_writes_no_query_into_its_log_of_requests(kind: Kind) -> None:
    async with site(kind) as proxy:
        await proxy.ask(host_of("n1"), path="/rendezvous?user_code=WDJB-MJHT")
        file = proxy.directory / ("access.log" if kind == "nginx" else "output")

        async def logged() -> bool:
            return "/rendezvous" in file.read_text()

        await proxy.until("the request is in the log", logged)
        assert "WDJB" not in file.read_text()


async def test_nginx_with_two_backups_would_alternate_between_them() -> None:
    """Why the exported file has one next node; and that the tests above would notice."""
    async with site("nginx", edit=_with_second_backup) as proxy:
        await proxy.nodes["n1"].stop()
        assert {(await proxy.ask(host_of("n1"))).node for _ in range(12)} == {"n2", "n3"}


def _with_second_backup(text: str) -> str:
    nodes = [line for line in text.splitlines() if "max_fails=1" in line and "#" not in line]
    backups = "\n".join(line.split(" max_fails")[0] + " backup max_fails=0;" for line in nodes[1:])
    head, own, rest = text.partition("zone cyolo-pin-n1 64k;\n")
    server, _, rest = rest.partition("\n")
    return f"{head}{own}{server}\n{backups}\n{rest.partition(chr(10))[2]}"
