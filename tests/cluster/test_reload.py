"""A reload of a running node: what can change is in force at once, and a faulty file changes nothing."""

from __future__ import annotations

import json
import logging
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cyoloctl import Node as EmbeddedNode
from cyoloctl.errors import Unavailable
from cyoloctl.node.config import load_config
from cyoloctl.node.run import Node as StartedNode
from tests.support.cluster import Node, assert_refused, environment, free_port, run, wait_until
from tests.support.gateways import Visitor

pytestmark = pytest.mark.cluster


class Reloaded:
    """One node in the background, whose node.yaml decides the log; its file is edited."""

    def __init__(self, directory: Path) -> None:
        self.node = Node(directory, "n1", free_port())
        self.gateway_port = free_port()
        self.yaml = directory / "node.yaml"
        self.log = directory / "node.log"
        self.pid = 0

    def start(self, *options: object) -> None:
        done = self.node.cli("node", "start", "--background", "-o", "json", *options)
        assert done.returncode == 0, done.stderr
        self.pid = json.loads(done.stdout)["pid"]

    def edit(self, *changes: tuple[str, str]) -> None:
        text = self.yaml.read_text()
        for before, after in changes:
            assert before in text
            text = text.replace(before, after, 1)
        self.yaml.write_text(text)

    def reload(self) -> dict[str, Any]:
        return self.node.json("node", "reload")

    def hang_up(self) -> str:
        """SIGHUP; the lines of the log from then on, up to the one that says how it went."""
        size = self.log.stat().st_size
        os.kill(self.pid, signal.SIGHUP)

        def told() -> str:
            lines = self.log.read_text()[size:]
            return lines if "reloaded" in lines.rpartition("\n")[0] else ""

        return wait_until("a word about the reload", told)

    def chatter(self) -> int:
        """Lines of level debug, which there is one of for each request."""
        assert self.node.client().counters.incr("x", 1)["value"]
        return self.log.read_text().count(" debug ")

    def metrics(self) -> int:
        return Visitor(self.gateway_port).get("/metrics").status


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Reloaded]:
    """A node that does not run yet; ended by its pid."""
    made = Reloaded(tmp_path / "n1")
    done = made.node.cli(
        *("cluster", "init", "--name", "n1", "--listen", made.node.address),
        *("--gateway", f"127.0.0.1:{made.gateway_port}"),
    )
    assert done.returncode == 0, done.stderr
    yield made
    if run("node", "stop", "-d", made.node.directory).returncode and made.pid:
        os.kill(made.pid, signal.SIGKILL)


def test_level_and_format_of_the_log_change_at_once(made: Reloaded) -> None:
    made.start()
    assert made.chatter() == 0
    made.edit(("\n  level: info", "\n  level: debug"))
    told = made.reload()
    assert (told["reloaded"], told["pid"], told["applied"]) == (True, made.pid, ["log.level"])
    assert (told["needs_restart"], told["overridden"]) == ([], [])
    assert "log.format" in told["unchanged"]
    assert made.chatter() > 0
    made.edit(("\n  level: debug", "\n  level: info"), ("\n  format: text", "\n  format: json"))
    assert made.reload()["applied"] == ["log.format", "log.level"]
    lines = [json.loads(line) for line in made.log.read_text().splitlines() if line.startswith("{")]
    reloads = [line for line in lines if line["event"] == "reloaded"]
    assert [line["applied"] for line in reloads] == [["log.format", "log.level"]]
    before = made.chatter()
    assert made.chatter() == before


def test_sighup_does_what_node_reload_does(made: Reloaded) -> None:
    made.start()
    made.edit(("\n  level: info", "\n  level: debug"))
    assert 'applied=["log.level"]' in made.hang_up()
    assert made.chatter() > 0


def test_sighup_while_the_node_starts_does_not_end_it_and_counts_once_it_has(
    made: Reloaded, tmp_path: Path
) -> None:
    pki, pipe = made.node.directory / "pki", tmp_path / "certificate"
    os.mkfifo(pipe)
    block = "\n  tls: {{certificate: {}, key: {}}}\n  trusted_proxies:".format
    made.edit(("\n  trusted_proxies:", block(pipe, pki / "node.key")))
    words = [sys.executable, "-m", "cyoloctl", "node", "start", "-d", str(made.node.directory)]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(words, stderr=log, env=environment()) as process,
    ):
        made.pid = process.pid
        try:
            with pipe.open("w") as writer:  # waits for the node, which waits for the certificate
                made.edit((block(pipe, pki / "node.key"), block(pki / "node.crt", pki / "node.key")))
                os.kill(process.pid, signal.SIGHUP)
                writer.write((pki / "node.crt").read_text())
            wait_until("a reload", lambda: " reloaded " in (tmp_path / "log").read_text() or process.poll())
            assert 'applied=["gateway.tls.certificate"]' in (tmp_path / "log").read_text()
            assert run("node", "stop", "-d", made.node.directory).returncode == 0
        finally:
            process.kill()


def test_file_with_a_fault_changes_nothing_at_all(made: Reloaded) -> None:
    made.start()
    wait_until("the gateway's own address known", lambda: made.metrics() == 200)
    wrong = ("storage: disk", "storage: tape")
    made.edit(
        ("\n  level: info", "\n  level: debug"), ('["127.0.0.0/8", "::1/128"]\n  allowed', "[]\n  allowed")
    )
    made.edit(wrong)
    done = made.node.cli("node", "reload", "-o", "json")
    assert_refused(done, 78, "'storage' is 'tape'", str(made.yaml))
    told = made.hang_up()
    assert " error " in told
    assert "not reloaded: all stays as it was" in told
    assert (made.chatter(), made.metrics()) == (0, 200)
    made.edit(wrong[::-1])
    assert made.reload()["applied"] == ["log.level", "gateway.metrics_clients"]
    assert (made.chatter() > 0, made.metrics()) == (True, 403)


def test_what_needs_a_restart_is_named_and_keeps_its_old_value(made: Reloaded) -> None:
    made.start()
    address, other = made.node.address, f"127.0.0.1:{free_port()}"
    made.edit((f"listen: {address}", f"listen: {other}"), ("\n  level: info", "\n  level: debug"))
    done = made.node.cli("node", "reload")
    assert done.returncode == 0, done.stderr
    assert "listen: needs a restart" in done.stderr
    assert made.chatter() > 0
    assert made.reload()["needs_restart"] == ["listen"]
    assert "key=listen" in made.hang_up()
    shown = made.node.json("status")
    assert shown["members"][0]["address"] == address


def test_file_of_another_node_is_refused_by_key(made: Reloaded) -> None:
    made.start()
    made.edit(("\nname: n1", "\nname: n2"), ("\n  level: info", "\n  level: debug"))
    done = made.node.cli("node", "reload")
    assert_refused(done, 78, "`name` is n1 as long as this node lives", "put it back")
    assert made.chatter() == 0


def test_option_of_node_start_stays_in_force_and_is_named(made: Reloaded) -> None:
    made.start("--log-level", "warning")
    made.edit(("\n  level: info", "\n  level: debug"), ("\n  format: text", "\n  format: json"))
    told = made.reload()
    assert (told["applied"], told["overridden"]) == (["log.format"], ["log.level"])
    assert made.chatter() == 0
    assert made.reload()["overridden"] == ["log.level"]
    shown = {each["key"]: each for each in made.node.json("config", "show", "--origin")["settings"]}
    assert (shown["log.level"]["value"], shown["log.level"]["origin"]) == ("warning", "command line")
    assert (shown["log.format"]["value"], shown["log.format"]["origin"]) == ("json", "file")


def test_gateway_is_asked_and_announced_by_the_new_settings(made: Reloaded) -> None:
    made.start()
    visitor = Visitor(made.gateway_port)
    wait_until("the gateway", lambda: visitor.get("/readyz").status == 200)
    assert visitor.get("/begin").status == 404
    made.edit(
        ("begin: []", "begin: [mfa]"),
        ("\n  trusted_proxies:", "\n  url: http://app.example.com\n  trusted_proxies:"),
        ("require_session: true", "require_session: false"),
    )
    assert made.reload()["applied"] == [
        "gateway.url",
        "gateway.rendezvous.require_session",
        "gateway.rendezvous.begin",
    ]
    assert visitor.get("/begin").status == 200
    client = made.node.client()
    wait_until(
        "the new base of links announced",
        lambda: client.call("route_list")["backends"][0]["url"] == "http://app.example.com",
    )


def test_snapshots_begin_with_the_reload(made: Reloaded, tmp_path: Path) -> None:
    made.start()
    backup = tmp_path / "backup"
    backup.mkdir()
    done = made.node.cli("snapshot", "save", "--every", "1h", "--keep", "2", "--dir", backup)
    assert done.returncode == 0, done.stderr
    assert made.reload()["applied"] == ["snapshots"]
    wait_until("a snapshot", lambda: list(backup.glob("n1-*.snapshot")))


def _certificate(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=30)


def test_certificate_of_the_gateway_in_other_files_is_shown_and_a_bad_one_changes_nothing(
    made: Reloaded, tmp_path: Path
) -> None:
    pki = made.node.directory / "pki"
    first, second = ((pki / f"{name}.crt", pki / f"{name}.key") for name in ("node", "operator"))
    block = "\n  tls: {{certificate: {}, key: {}}}\n  trusted_proxies:".format
    made.edit(("\n  trusted_proxies:", block(*first)))
    made.start()
    assert _certificate(made.gateway_port).split() == first[0].read_text().split()
    made.edit((block(*first), block(*second)), ("\n  level: info", "\n  level: debug"))
    told = made.reload()
    assert told["applied"] == ["log.level", "gateway.tls.certificate", "gateway.tls.key"]
    assert _certificate(made.gateway_port).split() == second[0].read_text().split()
    made.edit((block(*second), block(tmp_path / "none", second[1])), ("\n  level: debug", "\n  level: info"))
    assert_refused(made.node.cli("node", "reload"), 78, "correct gateway.tls")
    before = made.chatter()
    assert made.chatter() > before
    assert _certificate(made.gateway_port).split() == second[0].read_text().split()


async def test_log_of_the_program_around_a_node_is_its_own(made: Reloaded) -> None:
    level = logging.getLogger("cyoloctl").level
    async with EmbeddedNode(made.node.directory, timeout_s=30.0) as node:
        made.edit(("\n  level: info", "\n  level: debug"), ("begin: []", "begin: [mfa]"))
        told = await node.client.call("reload", body={})
        assert (told["applied"], told["overridden"]) == (["gateway.rendezvous.begin"], ["log.level"])
        assert logging.getLogger("cyoloctl").level == level


def test_node_that_still_starts_is_told_to_ask_again(made: Reloaded) -> None:
    with pytest.raises(Unavailable, match="still starting"):
        StartedNode(made.node.directory, load_config(made.yaml)).reload()


async def test_hang_up_before_the_node_has_started_reloads_it_then(
    made: Reloaded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cyoloctl")
    node = StartedNode(made.node.directory, load_config(made.yaml))
    made.edit(("\n  level: info", "\n  level: debug"))
    node.hang_up()
    await node.start()
    try:
        [record] = [each for each in caplog.records if each.message == "reloaded"]
        assert record.__dict__["applied"] == ["log.level"]
    finally:
        await node.stop()
