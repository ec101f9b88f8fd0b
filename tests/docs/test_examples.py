"""The example blocks of the pages: each is run, checked in another way, or marked as what it is.

``bash`` blocks run here, page by page and from top to bottom, against a cluster of real nodes.  A table
says what stands for the names of a page: its addresses and directories, and what the reader fills in.
Programs that need root, hours or another machine are stand-ins that take their arguments and succeed.

``yaml`` blocks are parts of node.yaml.  ``python`` and ``py`` blocks run.  ``json`` and ``output`` are what
is printed, ``message`` is looked up by test_messages.py, ``text`` is a drawing or a formula.  ``symptom``
and ``sh`` are for a cluster that is broken in some way: tests/support/runbook.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from cyoloctl.keys.keyring import Key, Keyring, KeyState
from cyoloctl.node import config, create, inspection
from cyoloctl.text import canonical_json
from tests.cli.harness import processes_of
from tests.docs.reading import GENERATED, ROOT, Block, blocks, pages
from tests.support.cluster import MACHINES, Cluster, Node, environment, free_port, wait_until
from tests.support.connections import cluster_id_of
from tests.unit.audit.test_lines import chain_of

KINDS = {"bash", "yaml", "python", "py", "json", "output", "message", "text", "sh", "symptom"}
LIMIT_S = 400
#: They need root, hours, or a proxy that is installed; tests/proxies tries the real ones.
STAND_INS = ("make", "python", "nginx", "haproxy", "systemctl", "install")

PAGES = sorted(page for page in pages() if page.startswith("docs/") and page not in GENERATED)


@dataclass
class World:
    """World in which a page is tried.

    voters: how many nodes.  options: of `cluster init`.  allowed: exit statuses that are no failure, as a
    pattern of the shell.  prepare: makes what else the page takes for granted, and says what stands for the
    page's words, in order.
    """

    voters: int = 1
    options: tuple[str, ...] = ()
    allowed: str = "0"
    prepare: Callable[[Cluster, Path], dict[str, str]] = field(default=lambda cluster, work: {})


def api(cluster: Cluster, work: Path) -> dict[str, str]:
    node = cluster["n1"]
    credentials = yaml.safe_load((node.directory / "operator.yaml").read_text("utf-8"))
    (work / "ca.crt").write_text(credentials["ca_pem"])
    (work / "operator.crt").write_text(credentials["certificate_pem"])
    (work / "operator.key").write_text(credentials["key_pem"])
    return {"$CLUSTER_ID": credentials["cluster_id"], "10.0.0.1:7700": node.address}


def monitoring(cluster: Cluster, work: Path) -> dict[str, str]:
    return {"$CLUSTER_ID": cluster_id_of(cluster["n1"]), "10.0.0.1:7700": cluster["n1"].address}


def console(cluster: Cluster, work: Path) -> dict[str, str]:
    # One SIGTERM ends it with 0; neither does the stand-in of a shell, nor a second one.
    ended = f"timeout --foreground --preserve-status 4 {sys.executable} -P -m"
    return {
        "cyoloctl console": f"{ended} cyoloctl console",
        "127.0.0.1:8600": f"127.0.0.1:{free_port()}",
        "10.0.0.1:7700": cluster["n1"].address,
    }


def correctness(cluster: Cluster, work: Path) -> dict[str, str]:
    return {"0:500": "0:1"}


def operating(cluster: Cluster, work: Path) -> dict[str, str]:
    cluster.join("l1", through="n1", learner=True)
    there = Cluster(work / "there")
    there.base.mkdir()
    cluster.nodes["there"] = there.init("m1")
    theirs = cluster["there"].json("key", "identity")["ca_sha256"]
    ours = cluster["n1"].json("key", "identity")["ca_sha256"]
    [key] = cluster["n1"].json("key", "list")["keys"]
    n6, box = cluster.new_node("n6"), cluster.new_node("w")
    create.init_cluster(work / "n1", "n1", f"127.0.0.1:{free_port()}", None, "cyolo", "disk")
    (work / "phrase").write_text("a passphrase that is long")
    (work / "n2.json").write_text(json.dumps({**inspection.inspect_node(work / "n1"), "name": "n2"}))
    return {
        "/srv/n1": str(work / "n1"),
        "/srv/new": str(work / "new"),
        "10.0.0.9:7700": f"127.0.0.1:{free_port()}",
        "/backup": str(work),
        "member remove OLD": "member remove n4",
        "NEW": "n5",
        "LOST": "n3",
        "-d DIR": f"-d {cluster['l1'].directory}",
        "10.0.1.6:7700": n6.address,
        "10.0.1.7:7700": box.address,
        "10.0.1.4:7700": f"127.0.0.1:{free_port()}",
        "10.0.1.1:7700": cluster["n1"].address,
        "10.0.1.2:7700": cluster["n2"].address,
        "10.0.3.1:7700": f"127.0.0.1:{free_port()}",
        "10.0.3.2:7700": f"127.0.0.1:{free_port()}",
        "destroy KEY": f"destroy {key['key_id']}",
        "/srv/there": str(cluster["there"].directory),
        "THEIRS": theirs,
        "OURS": ours,
    }


def rendezvous(cluster: Cluster, work: Path) -> dict[str, str]:
    for name in ("alice", "bob"):
        made = cluster["n1"].cli("token", "mint", "--sub", name, "--claim", "mfa=true")
        (work / f"{name}.token").write_text(made.stdout)
    start = "cyoloctl rendezvous start --kind mfa --token-file alice.token"
    return {
        start: f"code=$({start} -o json | grep -o '[A-Z]\\{{4\\}}-[A-Z]\\{{4\\}}' | head -1)",
        "WDJB-MJHT": "$code",
        "cluster init": f"cluster init -d {work / 'fresh'}",
        "10.0.0.1:7700": f"127.0.0.1:{free_port()}",
        "10.0.0.1:8080": f"127.0.0.1:{free_port()}",
    }


def routing(cluster: Cluster, work: Path) -> dict[str, str]:
    node = cluster["n1"]
    exported = ("route", "export", "--format", "nginx")
    wait_until("the gateway known to the cluster", lambda: node.cli(*exported).returncode == 0)
    shutil.copy(node.directory / "operator.yaml", work / "operator.yaml")
    return {
        "cyoloctl route watch": "cyoloctl route watch --once",
        "/etc/nginx/nginx.conf": str(work / "live.conf"),
        "10.0.0.1:7700": node.address,
        "-e https://10.0.0.2:7700 ": "",
    }


def scripting(cluster: Cluster, work: Path) -> dict[str, str]:
    return {"$JOB": "job-17"}


def locks(cluster: Cluster, work: Path) -> dict[str, str]:
    return {"/usr/local/bin/backup": "true"}


def machines(cluster: Cluster, work: Path) -> dict[str, str]:
    shutil.copy(MACHINES / "hits.py", work)
    cluster["n1"].give_machine("hits:Hits", MACHINES / "hits.py").terminate()
    cluster["n1"].start()
    cluster["n1"].wait_machine()
    return {}


WORLDS = {
    "docs/api.md": World(prepare=api),
    "docs/batch.md": World(),
    "docs/console.md": World(prepare=console),
    "docs/audit.md": World(),
    "docs/correctness.md": World(voters=0, prepare=correctness),
    "docs/kv.md": World(),
    "docs/machines.md": World(prepare=machines),
    "docs/locks.md": World(prepare=locks),
    "docs/monitoring.md": World(prepare=monitoring),
    "docs/operating.md": World(voters=4, allowed="0|4", prepare=operating),
    "docs/rendezvous.md": World(prepare=rendezvous),
    "docs/routing.md": World(options=("--gateway", f"127.0.0.1:{free_port()}"), prepare=routing),
    "docs/scripting.md": World(prepare=scripting),
    "docs/security.md": World(),
    "docs/tokens.md": World(allowed="0|4"),
}


def tools(directory: Path, allowed: str) -> None:
    """The program and the stand-ins, as commands."""
    directory.mkdir()
    program = f'''"{sys.executable}" -P -m cyoloctl "$@"
status=$?
case $status in {allowed}) exit 0 ;; *) exit $status ;; esac'''
    for name, body in ({"cyoloctl": program} | dict.fromkeys(STAND_INS, "exit 0")).items():
        (directory / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (directory / name).chmod(0o755)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_a_page_say_what_they_are(page: str) -> None:
    assert [f"{page}:{block.line}" for block in blocks(page) if block.info not in KINDS] == []
    assert any(block.info == "bash" for block in blocks(page)) == (page in WORLDS)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 90)
@pytest.mark.parametrize("page", WORLDS)
def test_commands_of_a_page_work_from_top_to_bottom(page: str, tmp_path: Path) -> None:
    world = WORLDS[page]
    if page in ("docs/api.md", "docs/monitoring.md") and shutil.which("curl") is None:
        pytest.skip(f"THE EXAMPLES OF {page} ARE NOT TRIED: apt-get install curl")
    work = tmp_path / "work"
    work.mkdir()
    tools(tmp_path / "bin", world.allowed)
    with Cluster(tmp_path) as cluster:
        if world.voters:
            cluster.init("n1", *world.options)
        for number in range(2, world.voters + 1):
            cluster.join(f"n{number}", through="n1")
            cluster.wait_settled(voters=number)
        words = world.prepare(cluster, work) | {"/srv/": f"{tmp_path}/"}
        text = "\n".join(block.text for block in blocks(page) if block.info == "bash")
        for word, value in words.items():
            assert word in text or word == "/srv/", f"{page} no longer says {word}"
            text = text.replace(word, value)
        text = text.replace(" &&\n", "\n")  # a failure in front of && would end nothing
        path = f"{tmp_path / 'bin'}:{environment()['PATH']}"
        try:
            ran = subprocess.run(
                ["bash", "-euo", "pipefail", "-x", "-c", text],
                cwd=work,
                env=environment(PATH=path, CYOLOCTL_DATA_DIR=str(tmp_path / "n1"), PYTHONPATH=str(ROOT)),
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        finally:
            for directory in filter(Path.is_dir, tmp_path.iterdir()):  # of nodes that the page makes too
                for pid in processes_of(directory):  # that the page started in the background
                    os.kill(pid, signal.SIGKILL)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"


YAML = [block for page in PAGES for block in blocks(page) if block.info == "yaml"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """A data directory that was never started."""
    base = tmp_path_factory.mktemp("plain")
    node = Node(base / "n1", "n1", free_port())
    made = node.cli("cluster", "init", "--name", "n1", "--listen", node.address, "--gateway", "127.0.0.1:1")
    assert made.returncode == 0, made.stderr
    return node


@pytest.mark.parametrize("block", YAML, ids=lambda block: f"{block.page}:{block.line}")
def test_yaml_of_a_page_is_a_part_of_node_yaml(block: Block, plain: Node) -> None:
    path = plain.directory / "node.yaml"
    before = path.read_text("utf-8")
    whole = yaml.safe_load(before)
    for name, part in yaml.safe_load(block.text).items():
        whole[name] = {**whole[name], **part} if type(part) is dict else part
    path.write_text(json.dumps(whole), "utf-8")
    try:
        config.load_config(path)
    finally:
        path.write_text(before, "utf-8")


def test_python_of_the_page_of_machines_is_the_example_that_runs() -> None:
    [example] = [block for block in blocks("docs/machines.md") if block.info == "python"]
    assert (MACHINES / "hits.py").read_text("utf-8").endswith(f"\n\n{example.text}")


def test_python_of_the_tokens_page_works_as_it_stands() -> None:
    [example] = [block for block in blocks("docs/tokens.md") if block.info == "py"]
    key = Key(bytes.fromhex("fc000001"), bytes(range(32)), KeyState.PRIMARY, "0" * 32)
    names = {
        "keyring": Keyring([key]),
        "now": 1_800_000_000,
        "is_revoked": lambda session: False,
    }
    exec(compile(example.text, f"{example.page}:{example.line}", "exec"), names)
    assert re.fullmatch(r"VAH8[\w-]+", str(names["token"]))


def test_python_of_the_audit_page_takes_an_export_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [example] = [block for block in blocks("docs/audit.md") if block.info == "py"]
    code = compile(example.text, f"{example.page}:{example.line}", "exec")
    monkeypatch.chdir(tmp_path)
    export = tmp_path / "audit.jsonl"
    texts = [f"{canonical_json(line)}\n" for line in chain_of(4, "a\u00fc\U0001f600%")]
    export.write_text("".join(texts))
    exec(code, {})
    for wrong, word in (
        ([*texts[:2], texts[2].replace("done", "dome"), texts[3]], "line 3 was changed"),
        ([texts[0], *texts[2:]], "line 2 does not follow"),
    ):
        export.write_text("".join(wrong))
        with pytest.raises(AssertionError, match=word):
            exec(code, {})
