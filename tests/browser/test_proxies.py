"""Real nginx and haproxy, with TLS, in front of three real nodes: the browser flow while a node is killed."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.test_rendezvous import certificate
from tests.browser.webdriver import browser, require_chromium
from tests.support.cluster import Cluster, free_port, wait_until
from tests.support.gateways import HOST, Visitor, add_gateways, begin, session, wait_gateways
from tests.support.proxies import NAMES, Kind, host_of, proxy_process, require

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

RULES = ["--host-resolver-rules=MAP *.example.com 127.0.0.1"]
KINDS = pytest.mark.parametrize("kind", ["nginx", "haproxy"])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("nodes")) as formed:
        formed.form(3)
        formed.stop_all()
        ports = add_gateways(formed, allowed_hosts=(), metrics_clients=("127.0.0.1",), begin=("mfa",))
        formed.start_all()
        formed.wait_healthy()
        wait_gateways(formed, ports)
        for name in NAMES:
            assert formed["n1"].cli("member", "set-host", name, host_of(name)).returncode == 0
        assert formed["n1"].cli("route", "share", HOST).returncode == 0
        yield formed


@contextlib.contextmanager
def proxy(kind: Kind, cluster: Cluster) -> Iterator[int]:
    """The proxy as nobody with the file of `route export`; its port."""
    program, port = require(kind), free_port()
    own = Path(tempfile.mkdtemp(prefix="cyoloctl-proxy-"))
    process: subprocess.Popen[bytes] | None = None
    try:
        chain, key = certificate(own)
        pem, file = own / "site.pem", own / f"{kind}.conf"
        pem.write_text(Path(chain).read_text() + Path(key).read_text())
        made = cluster["n2"].cli(
            *("route", "export", "--format", kind, "--listen", f"127.0.0.1:{port}"),
            *("--tls-certificate", pem, "--run-dir", own),
        )
        assert made.returncode == 0, made.stderr
        file.write_text(made.stdout)
        command, user = proxy_process(kind, program, own, file)
        with (own / "output").open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, **user)

        def listens() -> bool:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True

        wait_until(f"{kind} listens", listens)
        yield port
    finally:
        if process is not None:
            process.terminate()
            process.wait(10)
        shutil.rmtree(own)


@KINDS
def test_real_nodes_behind_a_proxy_have_pins_a_shared_host_and_no_other(kind: Kind, cluster: Cluster) -> None:
    with proxy(kind, cluster) as port:
        for name in NAMES:
            page = Visitor(port, f"{host_of(name)}:{port}", tls=True).get("/healthz")
            assert (page.status, page.headers["cyolo-node"]) == (200, name)
        visitor = Visitor(port, f"{HOST}:{port}", tls=True)
        seen = {visitor.get("/healthz").headers["cyolo-node"] for _ in range(6)}
        assert seen == {visitor.cookies["cyolo-node"]}
        assert Visitor(port, f"other.example.com:{port}", tls=True).get("/healthz").status == 421
        # Although the proxy itself, on this machine, may read them at the node.
        assert Visitor(port, f"{HOST}:{port}", tls=True).get("/metrics").status == 403


@KINDS
def test_flow_through_a_proxy_while_the_first_node_is_killed_completes_once(
    kind: Kind, cluster: Cluster, tmp_path: Path
) -> None:
    require_chromium()
    started = begin(cluster["n1"])
    token = session(cluster["n2"])
    try:
        with proxy(kind, cluster) as port, browser(tmp_path / "p", arguments=RULES) as shown:
            url = f"https://{host_of('n1')}:{port}"
            shown.open(f"{url}/healthz")
            shown.add_cookie("cyolo-sid", token)
            shown.open(f"{url}/rendezvous?user_code={started['user_code']}")
            shown.click("button")
            assert "Served by node n1" in shown.text()
            cluster["n1"].kill()
            shown.click("button:not(.no)")
            assert shown.title == "Approved"
            assert "Served by node n1" not in shown.text()
            redeemed = cluster["n3"].json("rendezvous", "wait", started["id"])
            assert (redeemed["state"], redeemed["approved_by"]) == ("consumed", "alice@example.com")
            assert cluster["n2"].cli("rendezvous", "wait", started["id"]).returncode == 4
            # The node is back, and so is its pin.
            cluster["n1"].start()
            visitor = Visitor(port, f"{host_of('n1')}:{port}", tls=True)
            wait_until("n1 is home", lambda: visitor.get("/healthz").headers["cyolo-node"] == "n1")
    finally:
        if not cluster["n1"].running():
            cluster["n1"].start()
        cluster.wait_healthy()


@KINDS
def test_flow_begun_through_a_proxy_and_approved_at_another_node_is_redeemed_while_n1_is_dead(
    kind: Kind, cluster: Cluster, tmp_path: Path
) -> None:
    require_chromium()
    try:
        with proxy(kind, cluster) as port, browser(tmp_path / "p", arguments=RULES) as shown:
            shown.open(f"https://{host_of('n1')}:{port}/begin")
            shown.click("button")
            assert "Served by node n1" in shown.text()
            code = shown.texts(".code")[0]
            approved = cluster["n2"].json("rendezvous", "approve", code, "--by", "bob")
            cluster["n1"].kill()
            wait_until("the page goes on", lambda: shown.title == "Approved: go on")
            shown.click("button")
            assert shown.title == "Approved"
            assert "Served by node n1" not in shown.text()
            assert cluster["n3"].cli("rendezvous", "wait", approved["id"]).returncode == 4
    finally:
        if not cluster["n1"].running():
            cluster["n1"].start()
        cluster.wait_healthy()
