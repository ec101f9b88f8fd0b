"""The runbook, followed: what is broken on purpose says what the page says, and its commands mend it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.docs.reading import blocks, occurs
from tests.support.cluster import Cluster, NotYet, free_port, run, wait_until
from tests.support.runbook import PAGE, entries, symptoms

pytestmark = pytest.mark.cluster


def commands(entry: str, level: str = "## ") -> list[str]:
    """The commands of an entry, without remarks, in order."""
    first, last = entries(level)[entry]
    found = [block.text for block in blocks(PAGE) if block.info == "sh" and first <= block.line <= last]
    lines = "\n".join(found).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+# .*$", "", line) for line in lines]


def is_told(result: subprocess.CompletedProcess[str], entry: str) -> None:
    """The entry has what a command ended with."""
    first, last = entries()[entry]
    listed = [each for each in symptoms(first, last) if each.kind == "exit"]
    assert any(each.key == str(result.returncode) and occurs(each.words, result.stderr) for each in listed), (
        f"{entry} lacks {result.returncode}: {result.stderr}"
    )


def follow(line: str, words: Mapping[str, object], *, statuses: tuple[int, ...] = (0,)) -> str:
    """Run a command of the page; words: what stands for its names.  Returns its stdout.

    Raises NotYet where it ends with 75, unless that is one of the statuses.
    """
    for word, value in words.items():
        line = re.sub(rf"(?<![\w.-]){re.escape(word)}(?![\w-])", str(value), line)
    program, *rest = line.split()
    assert program == "cyoloctl"
    done = run(*rest)
    if done.returncode == 75 and 75 not in statuses:
        raise NotYet(done.stderr)
    assert done.returncode in statuses, f"{line}: {done.stderr}"
    return done.stdout


def test_cluster_without_a_leader_says_so_and_is_mended_by_starting_a_node(cluster: Cluster) -> None:
    entry = "There is no leader"
    n1, n2 = cluster["n1"], cluster["n2"]
    for name in ("n2", "n3"):
        cluster[name].kill()
    is_told(n1.cli("counter", "incr", "--timeout", "1s"), entry)

    def told() -> subprocess.CompletedProcess[str]:
        done = n1.cli("status", "--check")
        if done.returncode != 75:
            raise NotYet(done.stderr)
        return done

    is_told(wait_until("no leader is known", told), entry)
    look, start, check = commands(entry)
    words = {"DIR": n1.directory}
    assert "no quorum: only 1 of 3 voters are reachable" in follow(look, words, statuses=(75,))
    try:
        assert "pid" in follow(start, {"DIR": n2.directory})
        wait_until("a leader", lambda: follow(check, words, statuses=(0, 4)))
    finally:
        assert n2.cli("node", "stop").returncode == 0  # it is no child of this test


def test_node_whose_log_is_gone_is_replaced_by_the_commands_of_the_page(
    cluster: Cluster, tmp_path: Path
) -> None:
    n1, n3 = cluster["n1"], cluster["n3"]
    n1.cli("counter", "incr", "--by", "7")
    n3.kill()
    for journal in n3.directory.glob("raft.db*"):
        journal.unlink()
    refused = n3.start_refused()
    assert refused.returncode == 74
    is_told(refused, "A node does not start")
    look, dry_run, remove, invite, move, join, start, check = commands("Status 74: the disk", "### ")
    healthy = {"n4.token": tmp_path / "n4.token", "DIR": n1.directory}
    at_n1 = f"-d {n1.directory}"
    follow(look, healthy, statuses=(4,))
    assert json.loads(follow(f"{dry_run} {at_n1} -o json", healthy))["dry_run"] is True
    follow(f"{remove} {at_n1}", healthy)
    follow(f"{invite} {at_n1}", healthy)
    assert move == "mv DIR DIR.damaged"
    n3.directory.rename(tmp_path / "n3.damaged")
    new = cluster.new_node("n4", free_port())
    words = {**healthy, "DIR": new.directory, "HOST:PORT": new.address}
    follow(join, words)
    try:
        follow(start, words)

        def only_the_ca_is_due() -> bool:
            found = json.loads(follow(f"{check} -o json", words, statuses=(0, 4)))
            codes = {each["code"] for each in found["problems"]}
            if codes - {"ca_rotation_due"} or not found["cluster"]["healthy"]:
                raise NotYet(codes)
            return True

        wait_until("the new node is a member like any other", only_the_ca_is_due)
        assert new.json("counter", "get")["value"] == 7
    finally:
        assert new.cli("node", "stop").returncode == 0


def test_stolen_machine_is_shut_out_in_the_order_of_the_page(cluster: Cluster, tmp_path: Path) -> None:
    n1 = cluster["n1"]
    bob = tmp_path / "bob.yaml"
    made = n1.cli("credentials", "create", "--name", "bob", "--role", "operator", "--out", bob)
    assert made.returncode == 0, made.stderr
    token = n1.cli("token", "mint", "--sub", "alice").stdout.strip()
    [key] = n1.json("key", "list")["keys"]
    cluster["n3"].kill()
    lines = commands("A disk or a machine was stolen")
    for line in lines[:-1]:
        follow(f"{line} -d {n1.directory}", {"KEY": key["key_id"]}, statuses=(0, 4))
    is_told(n1.cli("token", "inspect", "-", stdin=token), "Sessions are refused")
    remote = n1.cli("status", "--credentials", bob, "-e", f"https://{n1.address}")
    is_told(remote, "Credentials or a join token are refused")
    removed = cluster["n3"]
    removed.launch()
    assert removed.wait_exit() == 4  # the cluster tells it so
    wait_until(
        "the exchange of the CA has begun",
        lambda: n1.json("pki", "status")["rotation"] is not None,
    )
