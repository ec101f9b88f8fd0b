"""Host names of members over real nodes, and the files of real proxies that follow them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.control.client import Client
from cyoloctl.errors import CyoloctlError
from cyoloctl.routing.hrw import order
from tests.support.cluster import (
    Cluster,
    Node,
    assert_refused,
    environment,
    run,
    wait_until,
)
from tests.support.connections import http_exchange, unix_connect
from tests.support.gateways import add_gateways, wait_gateways
from tests.support.proxies import require

pytestmark = pytest.mark.cluster

NAMES = ["n1", "n2", "n3"]
KEYS = [f"session-{number}" for number in range(12)]
BACKEND = ["name", "host", "address", "url", "alive", "role"]


def with_gateways(cluster: Cluster) -> dict[str, int]:
    """Start a stopped cluster, each node with a gateway."""
    ports = add_gateways(cluster)
    cluster.start_all()
    cluster.wait_healthy()
    wait_gateways(cluster, ports)
    return ports


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, dict[str, int]]]:
    """Three running nodes with gateways, left as they were found."""
    with Cluster(tmp_path_factory.mktemp("routed")) as cluster:
        cluster.form(3)
        cluster.stop_all()
        yield cluster, with_gateways(cluster)


@pytest.fixture
def nodes(running: tuple[Cluster, dict[str, int]]) -> Iterator[list[Node]]:
    cluster, _ = running
    found = [cluster[name] for name in NAMES]
    yield found
    table = listed(found[0])
    for backend in table["backends"]:
        if backend["host"] is not None:
            set_host(found[0], backend["name"], None)
    for host in table["shared_hosts"]:
        share(found[0], host, shared=False)


def listed(node: Node) -> dict[str, Any]:
    return node.client(10.0).call("route_list")


def settled(node: Node) -> dict[str, Any]:
    """The table without the log index, which every command moves."""
    return {key: value for key, value in listed(node).items() if key != "index"}


def set_host(node: Node, name: str, host: str | None) -> None:
    node.client(10.0).call("member_set_host", name, {"host": host})


def share(node: Node, host: str, **body: Any) -> dict[str, Any]:
    return node.client(10.0).call("route_share", "", {"host": host, **body})


def raw(node: Node, path: str, body: object) -> tuple[int, str]:
    status, answer = http_exchange(unix_connect(node), "POST", path, json.dumps(body).encode())
    return status, answer["error"]["code"]


# --- hosts ---------------------------------------------------------------------------------------


def test_hosts_given_on_any_node_are_the_same_table_on_all(
    running: tuple[Cluster, dict[str, int]], nodes: list[Node]
) -> None:
    ports = running[1]
    for number, node in enumerate(nodes):
        name = NAMES[(number + 1) % 3]
        done = node.cli("member", "set-host", name, f"app-{name[1:]}.example.com")
        assert (done.returncode, done.stdout) == (0, f"app-{name[1:]}.example.com\n")
    assert nodes[0].cli("route", "share", "app.example.com").stdout == "app.example.com\n"
    for node in nodes:
        table = node.json("route", "list")
        assert list(table) == ["schema_version", "backends", "shared_hosts", "index", "epoch"]
        assert table["shared_hosts"] == ["app.example.com"]
        assert [list(backend) for backend in table["backends"]] == [BACKEND] * 3
        for backend in table["backends"]:
            assert backend["host"] == f"app-{backend['name'][1:]}.example.com"
            assert backend["address"] == f"127.0.0.1:{ports[backend['name']]}"
            assert backend["alive"] is True
        assert sorted(backend["role"] for backend in table["backends"]) == ["follower", "follower", "leader"]
        found = node.json("route", "resolve", "APP-2.example.com")
        rest = order("app-2.example.com", ["n1", "n3"])
        assert list(found) == ["schema_version", "host", "node", "order"]
        assert (found["host"], found["node"]) == ("app-2.example.com", "n2")
        assert [b["name"] for b in found["order"]] == ["n2", *rest]
        assert found["order"][0] == {"name": "n2", "address": f"127.0.0.1:{ports['n2']}", "alive": True}
        shown = node.cli("route", "resolve", "app.example.com").stdout.split()
        assert shown == order("app.example.com", NAMES)
    cleared = nodes[1].json("member", "set-host", "n2", "--clear")
    assert cleared == {"schema_version": 1, "name": "n2", "host": None}
    assert_refused(nodes[2].cli("route", "resolve", "app-2.example.com"), 3, "route list")


def test_which_is_rendezvous_hashing_on_every_node(nodes: list[Node]) -> None:
    for number, key in enumerate(KEYS):
        node = nodes[number % 3]
        expected = order(key, NAMES)
        assert node.cli("route", "which", key).stdout == f"{expected[0]}\n"
    document = nodes[0].json("route", "which", "ключ 1")
    expected = order("ключ 1", NAMES)
    assert document == {"schema_version": 1, "key": "ключ 1", "node": expected[0], "order": expected}


def test_share_and_unshare_with_a_request_id_apply_once_on_all_nodes(nodes: list[Node]) -> None:
    for shared in (True, False):
        for node in nodes:
            done = share(node, "app.example.com", shared=shared, request_id=f"share-{shared}")
            assert done == {"schema_version": 1, "host": "app.example.com", "shared": shared}
    assert listed(nodes[0])["shared_hosts"] == []


def test_bad_host_is_its_own_error_and_changes_nothing(nodes: list[Node]) -> None:
    one, two, three = nodes
    set_host(one, "n1", "app-1.example.com")
    share(one, "app.example.com")
    before = settled(one)
    assert_refused(two.cli("member", "set-host", "n2", "app-1.example.com"), 4, "member n1")
    assert_refused(two.cli("member", "set-host", "n2", "app.example.com"), 4, "unshare it first")
    assert_refused(three.cli("route", "share", "app-1.example.com"), 4, "member n1")
    assert_refused(three.cli("route", "unshare", "app-1.example.com"), 3, "not shared")
    assert_refused(three.cli("member", "set-host", "n9", "app-9.example.com"), 3, "no member n9")
    assert_refused(three.cli("member", "set-host", "n1"), 2, "--clear")
    assert_refused(three.cli("member", "set-host", "n1", "x.example", "--clear"), 2, "--clear")
    long = ".".join(["a" * 63] * 4)
    for host in ("App.example.com", "10.0.0.1", "a.example:80", "a.example.", "a_b.example", "-a", "", long):
        assert_refused(run("member", "set-host", "-d", one.directory, "n2", "--", host), 65, "host")
        assert_refused(run("route", "share", "-d", one.directory, "--", host), 65, "host")
        assert raw(two, "/v1/members/n2/host", {"host": host}) == (400, "invalid_input"), host
        assert raw(two, "/v1/routes/share", {"host": host}) == (400, "invalid_input"), host
    assert raw(two, "/v1/members/n2/host", {"host": "app-1.example.com"}) == (409, "already_exists")
    assert raw(two, "/v1/members/n2/host", {}) == (400, "invalid_input")
    for node in nodes:
        assert settled(node) == before
    # The same once more is no error.
    set_host(two, "n1", "app-1.example.com")
    share(two, "app.example.com")
    assert settled(three) == before


def test_viewer_sees_routes_and_changes_none(
    running: tuple[Cluster, dict[str, int]], nodes: list[Node]
) -> None:
    cluster = running[0]
    client = Client(
        [f"https://{nodes[1].address}"], credentials=cluster.viewer(), timeout_s=10.0, retry=False
    )
    assert [backend["name"] for backend in client.call("route_list")["backends"]] == NAMES
    for operation, name in (("member_set_host", "n1"), ("route_share", "")):
        with pytest.raises(CyoloctlError) as refused:
            client.call(operation, name, {"host": "app.example.com"})
        assert refused.value.exit_status == 77


def test_without_any_gateway_hosts_resolve_and_nothing_can_be_exported(shared: Cluster) -> None:
    node = shared["n1"]
    set_host(node, "n2", "app-2.example.com")
    try:
        found = node.cli("route", "resolve", "app-2.example.com")
        assert found.stdout.split() == ["n2", *order("app-2.example.com", ["n1", "n3"])]
        assert_refused(node.cli("route", "export", "--format", "nginx"), 4, "no member has a gateway")
        assert "no gateway" in node.cli("route", "list").stdout
    finally:
        set_host(node, "n2", None)


# --- through deaths and restarts -----------------------------------------------------------------


def test_hosts_survive_snapshots_and_restarts_and_are_free_when_their_member_is_removed(
    stopped: Cluster,
) -> None:
    for node in stopped.nodes.values():
        node.compacting(20)
    ports = with_gateways(stopped)
    leader = stopped.wait_leader()
    for name in NAMES:
        set_host(stopped[leader], name, f"app-{name[1:]}.example.com")
    share(stopped[leader], "app.example.com")
    before = {key: order_of(stopped[leader], key) for key in KEYS}
    assert before == {key: order(key, NAMES) for key in KEYS}
    stopped[leader].kill()
    left = [name for name in NAMES if name != leader]
    stopped.wait_leader()
    for name in left:
        wait_until("the dead one noticed", lambda name=name: not alive(stopped[name])[leader])  # type: ignore[misc]
        # Only the keys of the dead node move, each to the next in its order.
        for key, names in before.items():
            assert order_of(stopped[name], key) == [node for node in names if node != leader]
        found = stopped[name].json("route", "resolve", f"app-{leader[1:]}.example.com")
        assert (found["node"], found["order"][0]["alive"]) == (leader, False)
    for number in range(60):
        stopped[left[number % 2]].client().counters.incr("c", 1, request_id=f"r{number}")
    stopped.stop_all()
    stopped.start_all()
    stopped.wait_healthy()
    wait_gateways(stopped, ports)
    for node in stopped.nodes.values():
        table = listed(node)
        assert [b["host"] for b in table["backends"]] == [f"app-{name[1:]}.example.com" for name in NAMES]
        assert table["shared_hosts"] == ["app.example.com"]
        assert {key: order_of(node, key) for key in KEYS} == before
    gone = left[0]
    stopped[left[1]].json("member", "remove", gone, "--yes")
    set_host(stopped[left[1]], left[1], f"app-{gone[1:]}.example.com")
    for name in (leader, left[1]):
        found = stopped[name].json("route", "resolve", f"app-{gone[1:]}.example.com")
        assert (found["node"], len(found["order"])) == (left[1], 2)
        assert_refused(
            stopped[name].cli("route", "resolve", f"app-{left[1][1:]}.example.com"), 3, "no member has"
        )


def alive(node: Node) -> dict[str, bool]:
    return {backend["name"]: backend["alive"] for backend in listed(node)["backends"]}


def order_of(node: Node, key: str) -> list[str]:
    return order(key, [name for name, up in alive(node).items() if up])


# --- files ---------------------------------------------------------------------------------------


def checks(proxy: str, file: object) -> list[str]:
    program = require(proxy)
    return [program, "-e", "stderr", "-t", "-q", "-c", str(file)] if proxy == "nginx" else [
        program, "-c", "-q", "-f", str(file)
    ]  # fmt: skip


@pytest.mark.parametrize("pin", ["soft", "strict"])
@pytest.mark.parametrize("proxy", ["nginx", "haproxy"])
def test_export_is_accepted_by_the_proxy_and_the_same_from_every_node(
    running: tuple[Cluster, dict[str, int]], nodes: list[Node], tmp_path: Path, proxy: str, pin: str
) -> None:
    for name in NAMES:
        set_host(nodes[0], name, f"app-{name[1:]}.example.com")
    share(nodes[0], "app.example.com")
    run_dir = ("--run-dir", tmp_path) if proxy == "nginx" else ()
    texts = set()
    for node in nodes:
        options = ("--format", proxy, "--pin", pin, "--listen", "127.0.0.1:18080", *run_dir)
        document = node.json("route", "export", *options)
        assert list(document) == ["schema_version", "format", "text"]
        assert document["format"] == proxy
        done = node.cli("route", "export", *options)
        assert done.returncode == 0
        file = tmp_path / "file"
        file.write_text(done.stdout)
        checked = subprocess.run(checks(proxy, file), capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        texts.add(without_comments(done.stdout))
        assert without_comments(document["text"]) == without_comments(done.stdout)
    assert len(texts) == 1
    text = next(iter(texts))
    for name, port in running[1].items():
        assert f"127.0.0.1:{port}" in text
        assert f"app-{name[1:]}.example.com" in text.replace("\\", "")


def without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")).strip()


def test_export_options_that_make_no_file_are_refused(nodes: list[Node]) -> None:
    for options, status, words in (
        (("--format", "apache"), 2, "use nginx or haproxy"),
        (("--format", "nginx", "--pin", "maybe"), 2, "soft or strict"),
        (("--format", "nginx", "--listen", "80"), 65, "listen"),
        (("--format", "nginx", "--run-dir", "/tmp/a b"), 65, "run directory"),
        (("--format", "haproxy", "--tls-certificate", "/x;y"), 65, "tls certificate"),
        (("--format", "nginx", "--fragment", "--run-dir", "/tmp"), 65, "fragment"),
    ):
        assert_refused(nodes[0].cli("route", "export", *options), status, words)


# --- watch ---------------------------------------------------------------------------------------


class Watch:
    """`route watch` as a process, and what it does to the file and the proxy."""

    def __init__(self, directory: Path, proxy: str, *endpoints: str, check: str | None = None) -> None:
        self.directory = directory
        self.file = directory / f"{proxy}.conf"
        self.reloads = directory / "reloads"
        reload_ = f"sh -c 'cat {self.file} >> {self.reloads}; echo END >> {self.reloads}'"
        run_dir = ["--run-dir", str(directory)] if proxy == "nginx" else []
        arguments = ["--format", proxy, "--out", str(self.file), "--exec", reload_, *run_dir]
        arguments += ["--interval", "1s", "--listen", "127.0.0.1:18080", "--timeout", "2"]
        arguments += ["--check", check or " ".join(checks(proxy, "{}"))]
        arguments += [word for url in endpoints for word in ("-e", url)]
        self.errors = directory / "errors"
        self.arguments = arguments

    def __enter__(self) -> Watch:
        with open(self.errors, "ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cyoloctl", "route", "watch", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                env=environment(),
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def text(self) -> str:
        return without_comments(self.file.read_text()) if self.file.exists() else ""

    def count(self) -> int:
        """Number of reloads of the proxy."""
        return self.reloads.read_text().count("END\n") if self.reloads.exists() else 0

    def wait(self, what: str, holds: Callable[[str], bool]) -> None:
        def held() -> bool:
            assert self.process.poll() is None, self.errors.read_text()
            return holds(self.text())

        wait_until(what, held)

    def wait_told(self, count: int) -> None:
        wait_until(f"reload {count}", lambda: self.count() >= count)
        assert self.count() == count
        # Each reload saw the file that is there now.
        assert without_comments(self.reloads.read_text().split("END\n")[-2]) == self.text()

    def stop(self, number: int) -> None:
        self.process.send_signal(number)
        # For a service manager SIGTERM is the regular end.
        assert self.process.wait(60) == (0 if number == signal.SIGTERM else 130)
        hidden = [path.name for path in self.directory.iterdir() if path.name.startswith(".")]
        assert hidden == []


@pytest.mark.parametrize("proxy", ["nginx", "haproxy"])
def test_watch_writes_and_reloads_once_a_change_and_ends_clean(
    nodes: list[Node], tmp_path: Path, proxy: str
) -> None:
    with Watch(tmp_path, proxy, nodes[0].endpoint) as watch:
        watch.wait("the file", lambda text: "127.0.0.1" in text)
        watch.wait_told(1)
        set_host(nodes[1], "n3", "app-3.example.com")
        watch.wait("the host", lambda text: "app-3" in text)
        watch.wait_told(2)
        share(nodes[2], "app.example.com")
        watch.wait("the shared host", lambda text: "app.example.com" in text.replace("\\", ""))
        watch.wait_told(3)
        set_host(nodes[0], "n3", None)
        watch.wait("the host gone", lambda text: "app-3" not in text)
        watch.wait_told(4)
        checked = subprocess.run(checks(proxy, watch.file), capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        watch.stop(signal.SIGINT if proxy == "nginx" else signal.SIGTERM)


def test_watch_follows_deaths_returns_and_removals_and_leaves_the_file_when_nobody_answers(
    stopped: Cluster, tmp_path: Path
) -> None:
    with_gateways(stopped)
    for name in NAMES:
        set_host(stopped["n1"], name, f"app-{name[1:]}.example.com")
    first = order("app-1.example.com", ["n2", "n3"])[0]
    other = "n3" if first == "n2" else "n2"
    directory = tmp_path / "proxy"
    directory.mkdir()
    # The dying one is asked first: the next endpoint answers.
    endpoints = [stopped[name].endpoint for name in (first, "n1", other)]
    with Watch(directory, "nginx", *endpoints) as watch:
        watch.wait("the file", lambda text: backup(text, "n1") == first)
        watch.wait_told(1)
        stopped[first].kill()
        watch.wait("the next one behind n1", lambda text: backup(text, "n1") == other)
        watch.wait_told(2)
        stopped[first].start()
        watch.wait("the first one behind n1 again", lambda text: backup(text, "n1") == first)
        watch.wait_told(3)
        stopped["n1"].json("member", "remove", first, "--yes")
        watch.wait("the removed one gone", lambda text: f"cyolo-pin-{first}" not in text)
        watch.wait_told(4)
        before = watch.file.read_bytes()
        stopped["n1"].kill()  # the last but one: no quorum, and then nobody
        wait_until("it says so", lambda: "stays as it is" in watch.errors.read_text())
        stopped[other].kill()
        wait_until("nobody answers", lambda: "could be reached" in watch.errors.read_text())
        assert watch.file.read_bytes() == before
        stopped.start_all("n1", other)
        set_host(stopped["n1"], "n1", "back.example.com")
        watch.wait("the table again", lambda text: "back" in text)
        wait_until("told", lambda: watch.count() >= 5)
        watch.stop(signal.SIGINT)


def backup(text: str, name: str) -> str:
    """Backup of a member's pin, in a file of nginx."""
    block = text.partition(f"upstream cyolo-pin-{name} {{")[2].partition("}")[0]
    return block.partition("max_fails=0;  # ")[2].split("\n")[0].strip()


def test_watch_puts_no_refused_file_in_place_and_goes_on_when_the_proxy_takes_it(
    nodes: list[Node], tmp_path: Path
) -> None:
    require("haproxy")
    verdict = tmp_path / "verdict"
    verdict.symlink_to("/bin/true")
    with Watch(tmp_path, "haproxy", nodes[0].endpoint, check=f"{verdict} {{}}") as watch:
        watch.wait("the file", lambda text: "127.0.0.1" in text)
        watch.wait_told(1)
        before = watch.file.read_bytes()
        swap(verdict, "/bin/false")
        set_host(nodes[1], "n2", "app-2.example.com")
        wait_until("refused", lambda: "refuses the new file" in watch.errors.read_text())
        assert watch.file.read_bytes() == before
        swap(verdict, "/no/such/program")
        wait_until("cannot be run", lambda: "cannot run" in watch.errors.read_text())
        assert watch.file.read_bytes() == before
        assert watch.count() == 1
        swap(verdict, "/bin/true")
        watch.wait("taken at last", lambda text: "app-2.example.com" in text)
        watch.wait_told(2)
        # Said once each, not at every look.
        assert watch.errors.read_text().count("refuses the new file") == 1
        watch.stop(signal.SIGINT)


def swap(link: Path, target: str) -> None:
    """Point a link elsewhere, at once."""
    fresh = link.with_suffix(".new")
    fresh.symlink_to(target)
    os.replace(fresh, link)


def test_watch_interrupted_during_the_check_leaves_nothing_behind(nodes: list[Node], tmp_path: Path) -> None:
    entered = tmp_path / "entered"
    check = f"sh -c 'touch {entered}; exec sleep 60' {{}}"
    for number in (signal.SIGINT, signal.SIGTERM):
        with Watch(tmp_path, "haproxy", nodes[0].endpoint, check=check) as watch:
            wait_until("the check runs", entered.exists)
            watch.stop(number)
        assert not watch.file.exists()
        entered.unlink()


def test_watch_once_exit_statuses(nodes: list[Node], tmp_path: Path) -> None:
    require("haproxy")
    file, told = tmp_path / "haproxy.cfg", tmp_path / "told"
    once = ("route", "watch", "--format", "haproxy", "--out", file, "--once", "--exec", f"touch {told}")
    done = nodes[0].cli(*once)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    before = file.read_bytes()
    told.unlink()
    assert nodes[1].cli(*once).returncode == 0
    assert not told.exists()  # nothing changed: nothing to reload
    set_host(nodes[0], "n1", "app-1.example.com")
    assert_refused(nodes[0].cli(*once, "--check", "false {}"), 78, "refuses")
    assert_refused(nodes[0].cli(*once, "--check", "no-such-program {}"), 78, "cannot run")
    assert_refused(nodes[0].cli(*once, "--check", "true"), 65, "{}")
    assert_refused(nodes[0].cli(*once[:-2], "--exec", ""), 65, "--exec")
    assert_refused(nodes[0].cli(*once, "--interval", "0s"), 65, "--interval")
    silent = ("-e", f"unix://{tmp_path}/none.sock")
    assert_refused(nodes[0].cli(*once, *silent), 69, "could be reached")
    assert file.read_bytes() == before
    assert not told.exists()
    failing = nodes[0].cli(*once[:-2], "--exec", "false")
    assert_refused(failing, 78, "false")
    assert "app-1.example.com" in file.read_text()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    elsewhere = (*once[:5], tmp_path / "none" / "x.cfg", "--once")
    assert_refused(nodes[0].cli(*elsewhere), 65, "cannot replace")
