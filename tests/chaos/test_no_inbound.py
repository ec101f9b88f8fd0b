"""Nodes to which nobody can connect: nftables drops at their door all that others begin."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.control.client import Client
from cyoloctl.paths import control_socket_path
from tests.chaos.netns import Network, missing
from tests.support.cluster import environment, wait_until

pytestmark = [pytest.mark.netns, pytest.mark.fault, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _privilege() -> None:
    if reason := missing():
        pytest.skip(f"NODES WITHOUT INBOUND CONNECTIONS ARE NOT TESTED: {reason}")


class Site:
    """n1, which others can dial, and n2 and n3, which nobody can."""

    def __init__(self, base: Path, network: Network) -> None:
        self.base, self.network = base, network
        self.running: list[subprocess.Popen[bytes]] = []

    def directory(self, name: str) -> str:
        return str(self.base / name)

    def run(self, name: str, *arguments: str, stdin: str = "") -> str:
        """A command where this node is; what it printed."""
        done = subprocess.run(
            [
                *self.network.inside(name),
                sys.executable,
                "-m",
                "cyoloctl",
                *arguments,
                "-d",
                self.directory(name),
            ],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            env=environment(),
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, name: str) -> None:
        command = [sys.executable, "-m", "cyoloctl", "node", "start", "-d", self.directory(name)]
        log = (self.base / f"{name}.log").open("ab")
        with log:
            self.running.append(
                subprocess.Popen(
                    [*self.network.inside(name), *command], stdout=log, stderr=log, env=environment()
                )
            )
        wait_until(f"{name} answers", lambda: self.client(name).health())

    def join(self, name: str) -> None:
        token = self.run("n1", "member", "invite", "--name", name)
        where = f"{self.network.address(name)}:7700"
        self.run(name, "node", "join", "--name", name, "--listen", where, "--token-file", "-", stdin=token)
        self.start(name)

    def client(self, name: str, timeout_s: float = 5.0) -> Client:
        socket = control_socket_path(Path(self.directory(name)))
        return Client([f"unix://{socket}"], credentials=None, timeout_s=timeout_s, retry=False)

    def links(self, name: str) -> dict[tuple[str, ...], Any]:
        """By pair, whether it has a link and who dialled, as this node's `status` says."""
        found = self.client(name).status()["links"]
        return {tuple(each["members"]): (each["linked"], each["dialled_by"]) for each in found}

    def problem(self, name: str, code: str) -> str:
        """What this node's `status` says of such problems."""
        found = self.client(name).status()["problems"]
        return "; ".join(each["message"] for each in found if each["code"] == code)

    def close(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Network(["n1", "n2", "n3"]) as network:
        network.close_door("n2")
        network.close_door("n3")
        made = Site(tmp_path, network)
        try:
            yield made
        finally:
            made.close()


def test_nodes_behind_closed_doors_join_vote_and_lead_and_are_told_that_they_have_no_link(site: Site) -> None:
    listen = f"{site.network.address('n1')}:7700"
    site.run("n1", "cluster", "init", "--name", "n1", "--listen", listen)
    site.start("n1")
    site.join("n2")
    wait_until("two voters", lambda: site.client("n1").status()["cluster"]["voters"] == 2)
    site.run("n1", "member", "transfer-leadership", "--to", "n2")
    assert site.client("n2", 20.0).counters.incr("default", 1)["value"] == 1
    assert site.client("n1").status()["cluster"]["leader"] == "n2"
    # A leader that a new node has no link with stays for minutes: only voters move it soon.
    site.run("n1", "member", "transfer-leadership", "--to", "n1")
    site.join("n3")
    wait_until("three voters", lambda: site.client("n1").status()["cluster"]["voters"] == 3, 120.0)

    # The two have no link, and both are served through the third, which each of them dialled.
    wait_until("the pair is named", lambda: site.links("n1").get(("n2", "n3")) == (False, None))
    assert site.links("n1")["n1", "n2"] == (True, "n2")
    assert site.links("n1")["n1", "n3"] == (True, "n3")
    for number, name in enumerate(("n1", "n2", "n3"), start=2):
        assert site.client(name, 30.0).counters.incr("default", 1)["value"] == number
    for name in ("n1", "n2", "n3"):
        wait_until(f"{name} says that n2 and n3 have no link", lambda name=name: site.problem(name, "link"))  # type: ignore[misc]
        assert "n2 and n3 do not reach each other" in site.problem(name, "link")
        assert not site.problem(name, "address")
