"""Real nginx and haproxy, as `route export` makes them, before three real nodes that die, hang and return."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from cyoloctl.routing.hrw import order
from cyoloctl.tokens.format import MAX_TOKEN_CHARACTERS
from tests.support.cluster import Cluster, Node, environment, free_port, wait_until
from tests.support.gateways import HOST, Page, Visitor, add_gateways, begin, session, wait_gateways
from tests.support.proxies import NAMES, Kind, host_of, proxy_process, require

pytestmark = pytest.mark.cluster

KINDS = pytest.mark.parametrize("kind", ["nginx", "haproxy"])
NEXT = order(host_of("n1"), ["n2", "n3"])[0]


@dataclass(frozen=True)
class Nodes:
    cluster: Cluster
    ports: dict[str, int]

    def handled(self, route: str) -> dict[str, int]:
        """Number of requests of a route that each living node answered, as its own gateway counts them."""
        found = {}
        for name in ("n2", "n3"):
            page = Visitor(self.ports[name], HOST).get("/metrics")
            assert page.status == 200
            counts = [
                line.split()[-1]
                for line in page.body.splitlines()
                if line.startswith(f'cyoloctl_gateway_requests_total{{route="{route}",')
            ]
            found[name] = sum(int(float(count)) for count in counts)
        return found

    def received_by(self, name: str) -> int:
        """The most bytes that wait on one connection to a gateway for its node to read them."""
        port = f":{self.ports[name]:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        waiting = [int(row[4].split(":")[1], 16) for row in rows if row[1].endswith(port) and row[3] == "01"]
        return max(waiting, default=0)

    @contextlib.contextmanager
    def whole_again(self) -> Iterator[None]:
        """Whatever became of n1 inside, it serves afterwards."""
        node = self.cluster["n1"]
        try:
            yield
        finally:
            if node.running():
                os.kill(node.pid, signal.SIGCONT)
            else:
                node.end()
                node.start()
            self.cluster.wait_healthy()
            wait_gateways(self.cluster, self.ports)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with Cluster(tmp_path_factory.mktemp("nodes")) as formed:
        formed.form(3)
        formed.stop_all()
        ports = add_gateways(formed, allowed_hosts=(), metrics_clients=("127.0.0.1",))
        formed.start_all()
        formed.wait_healthy()
        wait_gateways(formed, ports)
        for name in NAMES:
            formed["n1"].json("member", "set-host", name, host_of(name))
        formed["n1"].json("route", "share", HOST)
        yield Nodes(formed, ports)


@dataclass(frozen=True)
class Proxy:
    port: int
    file: Path
    program: str
    arguments: tuple[str, ...]  # of `route export`, for `route watch`
    process: subprocess.Popen[bytes]

    def visitor(self, host: str, *, token: str | None = None) -> Visitor:
        return Visitor(self.port, f"{host}:{self.port}", {"cyolo-sid": token} if token else {})


def beside(kind: Kind, own: Path, file: Path) -> Path:
    """A configuration of an operator's own, as nobody may have it, with a fragment beside it."""
    if kind == "haproxy":
        whole = own / "whole.cfg"
        whole.write_text("global\n    maxconn 1000\n\n" + file.read_text())
        return whole
    file.write_text(file.read_text().replace("/var/log/nginx/", f"{own}/"))
    temporary = "".join(
        f"{k}_temp_path {own}/{k};" for k in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    whole = own / "whole.conf"
    whole.write_text(
        f"pid {own}/pid; error_log {own}/error.log; events {{}}\nhttp {{ {temporary} include {file}; }}\n"
    )
    return whole


@contextlib.contextmanager
def proxy(kind: Kind, nodes: Nodes, *options: str) -> Iterator[Proxy]:
    """The proxy as nobody with the file of `route export`."""
    program, port = require(kind), free_port()
    own = Path(tempfile.mkdtemp(prefix="cyoloctl-proxy-"))
    process: subprocess.Popen[bytes] | None = None
    try:
        file = own / f"{kind}.conf"
        run_dir = () if "--fragment" in options else ("--run-dir", str(own))
        arguments = ("--format", kind, "--listen", f"127.0.0.1:{port}", *run_dir, *options)
        made = nodes.cluster["n2"].cli("route", "export", *arguments)
        assert made.returncode == 0, made.stderr
        file.write_text(made.stdout)
        whole = beside(kind, own, file) if "--fragment" in options else file
        command, user = proxy_process(kind, program, own, whole)
        if kind == "haproxy":
            command.insert(1, "-W")  # a master process, which can be told to read the file again
        with (own / "output").open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, **user)

        def listens() -> bool:
            assert process is not None
            assert process.poll() is None, (own / "output").read_text()
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True

        wait_until(f"{kind} listens", listens)
        yield Proxy(port, file, program, arguments, process)
    finally:
        if process is not None:
            process.terminate()
            process.wait(60)
        shutil.rmtree(own)


def timed(ask: Callable[[], Page]) -> tuple[Page, float]:
    started = time.monotonic()
    return ask(), time.monotonic() - started


@KINDS
def test_pin_of_a_killed_node_is_served_by_its_one_next_node_and_returns_home(
    kind: Kind, nodes: Nodes
) -> None:
    token = session(nodes.cluster["n2"])
    with proxy(kind, nodes) as front:
        visitor = front.visitor(host_of("n1"), token=token)
        assert visitor.get("/rendezvous").headers["cyolo-node"] == "n1"
        with nodes.whole_again():
            nodes.cluster["n1"].kill()
            page = visitor.post("/session/refresh", b"")  # never delivered to n1
            assert (page.status, page.headers["cyolo-node"]) == (204, NEXT)
            assert visitor.cookies["cyolo-sid"] not in ("", token)
            pages = [visitor.get("/rendezvous") for _ in range(4)]
            assert {(page.status, page.headers["cyolo-node"]) for page in pages} == {(200, NEXT)}
        wait_until("the pin is home", lambda: visitor.get("/rendezvous").headers["cyolo-node"] == "n1")


@KINDS
def test_cookie_of_a_killed_node_is_served_by_another_and_set_anew(kind: Kind, nodes: Nodes) -> None:
    with proxy(kind, nodes) as front, nodes.whole_again():
        visitor = front.visitor(HOST)
        visitor.cookies["cyolo-node"] = "n1"
        page = visitor.get("/healthz")
        assert (page.status, page.headers["cyolo-node"], page.headers["Set-Cookie"]) == (200, "n1", None)
        nodes.cluster["n1"].kill()
        page = visitor.get("/healthz")
        assert page.status == 200
        assert page.headers["cyolo-node"] in ("n2", "n3")
        assert visitor.cookies["cyolo-node"] == page.headers["cyolo-node"]


@KINDS
def test_hung_node_loses_its_gets_to_the_next_in_time_and_no_post(kind: Kind, nodes: Nodes) -> None:
    token = session(nodes.cluster["n2"])
    route = "/session/refresh"
    with proxy(kind, nodes) as front, nodes.whole_again(), ThreadPoolExecutor(2) as pool:
        before = nodes.handled(route)
        os.kill(nodes.cluster["n1"].pid, signal.SIGSTOP)
        # Both at once: after the first failure the proxy leaves n1 alone for a while.
        posting = pool.submit(front.visitor(host_of("n1"), token=token).post, route, b"")
        getting = pool.submit(timed, lambda: front.visitor(host_of("n1"), token=token).get("/rendezvous"))
        page, elapsed_s = getting.result()
        assert (page.status, page.headers["cyolo-node"]) == (200, NEXT)
        assert 5 < elapsed_s < 10
        assert posting.result().status == 504
        assert nodes.handled(route) == before


@KINDS
def test_strict_pin_of_a_killed_node_answers_503(kind: Kind, nodes: Nodes) -> None:
    with proxy(kind, nodes, "--pin", "strict") as front, nodes.whole_again():
        visitor = front.visitor(host_of("n1"))
        assert visitor.get("/healthz").headers["cyolo-node"] == "n1"
        nodes.cluster["n1"].kill()
        page = visitor.get("/healthz")
        assert (page.status, page.headers["cyolo-node"]) == (503, None)
        assert front.visitor(host_of("n2")).get("/healthz").headers["cyolo-node"] == "n2"


@KINDS
def test_approval_that_a_node_received_before_its_death_is_sent_to_nobody_and_succeeds_once_when_repeated(
    kind: Kind, nodes: Nodes
) -> None:
    cluster, route = nodes.cluster, "/rendezvous/approve"
    started = begin(cluster["n1"])
    with proxy(kind, nodes) as front, nodes.whole_again(), ThreadPoolExecutor(1) as pool:
        visitor = front.visitor(host_of("n1"), token=session(cluster["n2"]))
        fields = {"form": visitor.enter(started["user_code"]).form}
        before = nodes.handled(route)
        os.kill(cluster["n1"].pid, signal.SIGSTOP)
        # Longer than any check of the proxy's own.
        posting = pool.submit(lambda: visitor.post(route, fields, X_Padding="a" * 3000))
        wait_until("n1 has it", lambda: nodes.received_by("n1") > 3000)
        cluster["n1"].kill()
        assert posting.result().status == 502
        assert nodes.handled(route) == before
        cluster.wait_leader()
        shown = cluster["n2"].json("rendezvous", "show", started["user_code"])
        assert shown["state"] in ("pending", "claimed")
        page = visitor.post(route, fields)
        assert (page.status, page.headers["cyolo-node"]) == (200, NEXT)
        assert nodes.handled(route) == {**before, NEXT: before[NEXT] + 1}
        redeemed = cluster["n3"].json("rendezvous", "wait", started["id"])
        assert (redeemed["state"], redeemed["approved_by"]) == ("consumed", "alice@example.com")
        assert cluster["n2"].cli("rendezvous", "wait", started["id"]).returncode == 4


@KINDS
def test_host_set_while_watch_runs_is_served_by_the_running_proxy(kind: Kind, nodes: Nodes) -> None:
    node = nodes.cluster["n3"]
    with proxy(kind, nodes) as front, contextlib.ExitStack() as stack:
        assert front.visitor("new.example.com").get("/healthz").status == 421
        reload_ = f"{front.program} -e stderr -c {front.file} -s reload"
        if kind == "haproxy":
            reload_ = f"kill -USR2 {front.process.pid}"
        output = front.file.parent / "watch"
        errors = stack.enter_context(output.open("wb"))
        watch = subprocess.Popen(
            [
                *(sys.executable, "-m", "cyoloctl", "route", "watch", *front.arguments),
                *("--out", front.file, "--exec", reload_, "--interval", "1s", "-d", node.directory),
            ],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            env=environment(PATH=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"),
        )
        stack.callback(watch.wait)
        stack.callback(watch.kill)
        stack.callback(node.json, "member", "set-host", "n3", host_of("n3"))
        # The second is set when the watch surely runs.
        before = host_of("n3")
        for host in ("new.example.com", "newer.example.com"):
            node.json("member", "set-host", "n3", host)

            def follows(old: str = before, new: str = host) -> bool:
                assert watch.poll() is None, output.read_text()
                page = front.visitor(new).get("/healthz")
                served = (page.status, page.headers["cyolo-node"]) == (200, "n3")
                return served and front.visitor(old).get("/healthz").status == 421

            wait_until(f"{host} is served", follows)
            before = host
        assert front.process.poll() is None
        assert front.visitor(host_of("n1")).get("/healthz").headers["cyolo-node"] == "n1"


def tokens_of_all_sizes(node: Node) -> dict[int, str]:
    """Tokens by their length, the longest that the format allows too."""
    bare = len(node.json("token", "mint", "--sub", "m", "--claim", "p=")["token"])
    most = (MAX_TOKEN_CHARACTERS - bare) * 3 // 4
    paddings = [*range(0, most, 150), *range(most - 8, most + 1)]
    items = [{"sub": "m", "claims": {"p": "x" * size}, "ttl_s": 900, "max_age_s": 3600} for size in paddings]
    body = {"operation": "mint", "items": items, "cookie_name": "cyolo-sid", "audience": ""}
    return {
        len(made["token"]): made["token"] for made in node.client().call("token_batch", "", body)["results"]
    }


@KINDS
@pytest.mark.parametrize("options", [(), ("--fragment",)], ids=["whole", "fragment"])
def test_session_of_every_size_is_refreshed_and_takes_no_node_away(
    kind: Kind, options: tuple[str, ...], nodes: Nodes
) -> None:
    tokens = tokens_of_all_sizes(nodes.cluster["n1"])
    assert max(tokens) > MAX_TOKEN_CHARACTERS - 4
    with proxy(kind, nodes, *options) as front:
        seen = set()
        for number, token in enumerate(tokens.values()):
            for host in (host_of("n1"), HOST):
                # A name of its own, and a page's cookies beside it.
                visitor = front.visitor(host, token=token)
                if host == HOST:
                    visitor.cookies["cyolo-node"] = NAMES[number % 3]
                page = visitor.post("/session/refresh", b"")
                assert (page.status, len(visitor.cookies["cyolo-sid"])) == (204, len(token))
                seen.add((host, page.headers["cyolo-node"]))
        assert seen == {(host_of("n1"), "n1"), *((HOST, name) for name in NAMES)}
        longest = front.visitor(HOST, token=tokens[max(tokens)])
        longest.cookies |= {f"other-{n}": "y" * 200 for n in range(15)}
        assert longest.get("/rendezvous").text.startswith("Enter the code")
        longest.cookies["more"] = "y" * 2000
        assert longest.get("/rendezvous").status == 431
        for name in NAMES:
            assert front.visitor(host_of(name)).get("/rendezvous").headers["cyolo-node"] == name
