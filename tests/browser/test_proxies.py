"""Real nginx and haproxy, with TLS, in front of three real nodes: the browser flow while a node is killed."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.browser.test_rendezvous import certificate
from tests.browser.webdriver import browser, require_chromium
from tests.support.cluster import Cluster, free_port, wait_until
from tests.support.gateways import HOST, Visitor, add_gateways, begin, session, wait_gateways
from tests.support.proxies import NAMES, Kind, host_of, proxy_process, require

pytestmark = pytest.mark.cluster

RULES = ["--host-resolver-rules=MAP *.example.com 127.0.0.1"]
KINDS = pytest.mark.parametrize("kind", ["nginx", "haproxy"])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("nodes")) as formed:
        formed.form(3)
        formed.stop_all()
        ports = add_gateways(
            formed,
            allowed_hosts=(),
            metrics_clients=("127.0.0.1",),
            begin=("mfa",),
            sign_in_url="/login?next={return}",
        )
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
            process.wait(60)
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
def test_links_to_pins_and_shared_host_lead_to_where_the_person_is_signed_in_in_two_tabs_from_elsewhere(
    kind: Kind, cluster: Cluster, tmp_path: Path
) -> None:
    require_chromium()
    started = [begin(cluster[name]) for name in ("n2", "n3")]
    assert {one["verification_uri"] for one in started} == {f"https://{HOST}/rendezvous"}
    name = "__Host-cyolo-sid"
    token = cluster["n1"].json("token", "mint", "--sub", "alice", "--cookie-name", name)["token"]
    with proxy(kind, cluster) as port, browser(tmp_path / "p", arguments=RULES) as shown:
        shared = f"https://{HOST}:{port}"
        links = [
            f"https://{host_of('n2')}:{port}/rendezvous?user_code={started[0]['user_code']}",
            f"{shared}/r/n3?user_code={started[1]['user_code']}",
        ]
        # Not signed in: the pin sends people to the shared host, whose sign-in link brings them back.
        shown.open(links[0])
        assert (shown.title, "Served by node n2" in shown.text()) == ("Sign in first", True)
        assert shown.url == f"{shared}/rendezvous?user_code={started[0]['user_code']}"
        sign_in = urlsplit(shown.attribute("a.button", "href") or "")
        assert (sign_in.netloc, sign_in.path) == (f"{HOST}:{port}", "/login")
        assert parse_qs(sign_in.query) == {"next": [shown.url]}
        # Signed in, while another host of the site sets junk for all of them.
        shown.add_cookie(name, token)
        shown.add_cookie("cyolo-sid", "junk", domain="example.com")
        # Two links in pages of other sites, in two tabs of a browser that has no form cookie yet.
        shown.open(f"{shared}/healthz")
        for cookie in [name for name in shown.cookies() if "form" in name]:
            shown.command("DELETE", f"/cookie/{cookie}")
        tabs = [
            shown.command("GET", "/window"),
            shown.command("POST", "/window/new", {"type": "tab"})["handle"],
        ]
        for tab, link in zip(tabs, links, strict=True):
            shown.command("POST", "/window", {"handle": tab})
            shown.open(f"data:text/html,<a href='{link}'>approve</a>")
            shown.click("a")
            assert shown.title == "Enter the code"
            assert shown.url.startswith(f"{shared}/rendezvous?")
        # Now even a good session of its own.
        mallory = session(cluster["n1"], "mallory")
        shown.add_cookie("cyolo-sid", mallory, domain="example.com", path="/rendezvous")
        for tab, one, node in zip(tabs, started, ("n3", "n3"), strict=True):
            shown.command("POST", "/window", {"handle": tab})
            assert shown.attribute("#user_code", "value") == one["user_code"]
            shown.click("button")
            assert f"Served by node {node}" in shown.text()
            assert "You answer as alice." in shown.text()
            shown.click("button:not(.no)")
            assert shown.title == "Approved"
            assert cluster["n1"].json("rendezvous", "show", one["id"])["claimed_by"] == "alice"


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
