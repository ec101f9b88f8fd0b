"""The examples that ``--help`` shows: every command has some, and all of them run, against real nodes.

They run in this process, line by line: 150 interpreters would take longer than everything else here.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cyoloctl.cli import main
from cyoloctl.cli.examples import EXAMPLES
from cyoloctl.node import create, inspection
from tests.cli.harness import processes_of
from tests.support.cluster import MACHINES, Cluster, free_port, wait_until
from tools import generate

#: Not run here, and why.
NOT_RUN = {
    "cyoloctl bench": "it takes longer than the other two",
    "cyoloctl dev": "tests/cli/test_dev.py runs it",
    "cyoloctl dev --nodes 3": "tests/cli/test_dev.py runs it",
    "cyoloctl demo": "tests/cli/test_demo.py runs it",
    "cyoloctl demo --nodes 5 --keep": "it leaves five nodes running",
    "cyoloctl -o json -d /var/lib/cyoloctl key list": "the directory is a service's",
    **dict.fromkeys(
        (line for name in ("lock", "lock run") for line in EXAMPLES[name] if "lock run" in line),
        "what it prints is its command's; tests/cluster/test_locks.py runs such",
    ),
}
#: After a voter was removed the CA is due for an exchange, and --check says so.
STATUSES = {
    "cyoloctl status --check": 4,
    "cyoloctl doctor": 4,
    "cyoloctl doctor --all --warn-days 90": 4,
}
#: They end when they are interrupted.
ENDLESS = ("--watch", "watch ", "cyoloctl top", "cyoloctl console")

ORDER = """
    snapshot save, snapshot inspect, snapshot,
    cluster init, cluster, member invite, member invitations, member uninvite, node join, node start, node
    stop, node set-address, node renew, node request, member grant, node accept, node info, node log, node
    inspect, node reload, node, config check, config show, config, member list, member, member show, member
    set-host, member
    transfer-leadership, member set-address, member demote, member promote, member remove, status, doctor,
    support-bundle, top, console, counter incr,
    counter decr, counter get, counter list, counter watch, counter reset, counter, lock run,
    lock list, lock show, lock release, lock, kv put, kv get, kv list,
    batch, machine check, machine list, machine apply, machine query, machine,
    kv watch, kv keep, kv txn, kv delete, kv, key generate, key
    promote, key rotate, key list, key status, key disable, key enable, key export, key import, key rewrap,
    key policy, key identity, key destroy, key, token mint, token inspect, token update, token refresh,
    token revoke, token revocations, token, audit list, audit export, audit verify, audit,
    rendezvous start, rendezvous claim, rendezvous approve,
    rendezvous deny, rendezvous cancel, rendezvous wait, rendezvous show, rendezvous list, rendezvous
    policy, rendezvous, route share, route list, route which, route resolve, route export, route watch,
    route unshare, route, credentials request, credentials create, credentials list, credentials show,
    credentials renew, credentials revoke, credentials, pki status, pki rotate-ca, pki, cluster set-time,
    cluster upgrade, cluster recover, sim, completion bash, completion zsh, completion fish, completion,
    help exit-codes, help, bench, demo, dev
"""


@dataclass
class World:
    """The nodes and files that the examples take for granted.

    own: a cluster of one node with a machine of a user's.
    words: what stands for the words of the examples.  done: lines that ran.
    """

    cluster: Cluster
    work: Path
    capture: pytest.CaptureFixture[str]
    words: dict[str, str]
    own: Cluster
    done: set[str] = field(default_factory=set)

    def directory(self, line: str) -> Path:
        """The data directory of an example."""
        if line.startswith("cyoloctl cluster init"):
            return self.work / str(len(list(self.work.iterdir())))
        if line.startswith("cyoloctl machine"):
            return self.own["n1"].directory
        if line.startswith("cyoloctl cluster recover"):
            return self.work / "survivor"
        if line.startswith(("cyoloctl node request", "cyoloctl node accept")):
            return self.work / "n5"
        fourth = line.startswith("cyoloctl node") and line != "cyoloctl node renew"
        return self.work / "n4" if fourth else self.cluster["n1"].directory

    def call(self, line: str) -> str:
        """Run one line; what it prints."""
        words = shlex.split(line)
        given = printed = None
        for sign in ("<", ">"):
            if sign in words:
                path = self.work / os.path.expanduser(words[words.index(sign) + 1])
                del words[words.index(sign) : words.index(sign) + 2]
                given, printed = (path, printed) if sign == "<" else (given, path)
        os.environ["CYOLOCTL_DATA_DIR"] = str(self.directory(line))
        stdin = sys.stdin
        sys.stdin = io.TextIOWrapper(io.BytesIO(given.read_bytes() if given else b""))
        self.capture.readouterr()
        try:
            with alarm(endless(line)) as expected:
                status = main(words[1:])
        finally:
            sys.stdin = stdin
        out, err = self.capture.readouterr()
        assert status == STATUSES.get(line, expected), f"{line}\n{out}\n{err}"
        if printed is not None:
            printed.parent.mkdir(parents=True, exist_ok=True)
            printed.write_text(out, "utf-8")
        return out


def endless(line: str) -> bool:
    """Whether the command goes on until it is interrupted."""
    return any(word in line for word in ENDLESS) and not {"--once", "--count"} & set(line.split())


@contextmanager
def alarm(endless: bool) -> Iterator[int]:
    """Interrupt a command that does not end, as Ctrl-C does; its exit status."""
    if not endless:
        yield 0
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.7)
    try:
        yield 130
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def before(world: World, path: str, line: str) -> None:
    """Make what the line takes for granted."""
    if path in ("node start", "node stop"):
        running = (world.work / "n4" / "control.sock").exists()
        if running and path == "node start":
            world.call("cyoloctl node stop")
        if not running and path == "node stop":
            world.call("cyoloctl node start --background")
    if path == "node reload" and not (world.work / "n4" / "control.sock").exists():
        world.call("cyoloctl node start --background")
    if path == "config check":
        (world.work / "new.yaml").write_bytes((world.cluster["n1"].directory / "node.yaml").read_bytes())
    if "--grant n4.grant" in line:
        grant, _ = EXAMPLES["member grant"]
        world.call(grant)
        world.done.add(grant)
    if path == "support-bundle" and not (world.work / "support.identity").exists():
        (world.work / "support.identity").write_text(world.call("cyoloctl key identity"))
    if path == "cluster recover" and not (world.work / "survivor").exists():
        survive(world)
    if path == "member promote":
        voters = world.cluster.nodes.values()  # whichever of them leads is asked
        wait_until(
            "n4 with links", lambda: all(node.client().member_show("n4")["reachable"] for node in voters)
        )
    if path == "key promote":
        world.words["fc01aabb"] = world.call("cyoloctl key generate").strip()
        wait_until("every member holding the key", lambda: held(world))
    if path in ("rendezvous claim", "rendezvous approve", "rendezvous deny", "rendezvous cancel"):
        begin(world)
    if path == "rendezvous wait":
        begin(world)
        world.call(f"cyoloctl rendezvous approve {world.words['WDJB-MJHT']} --by ann")
    if path in ("lock show", "lock release"):
        body = {"holder": "1" * 32, "ttl_s": 600}
        world.cluster["n1"].client().call("lock_acquire", "nightly", body)
    if path == "rendezvous show":
        begin(world)
    if path == "batch":
        operation = {"id": "20001", "op": "counter_increment", "name": "imported"}
        (world.work / "import.jsonl").write_text(json.dumps(operation))
    if path.startswith("kv"):
        prepare_keys(world, line)
    if line.startswith("cyoloctl route export"):
        wait_until("the gateway known", lambda: "127.0.0.1:" in world.call("cyoloctl route list"))


def prepare_keys(world: World, line: str) -> None:
    """The keys and files that a line about them takes for granted."""
    (world.work / "logo.png").write_bytes(bytes(range(256)))
    (world.work / "password").write_text("hunter2")
    (world.work / "change.json").write_text('{"then": [{"op": "put", "key": "site/a", "value": "1"}]}')
    world.words["812"] = world.call("cyoloctl kv put site/name Berlin").strip()
    if "--if-absent" in line:
        world.call("cyoloctl kv delete --prefix leader --yes")
    if line.startswith("cyoloctl kv keep"):
        world.call("cyoloctl kv put leader n1 --ttl 60s")


def survive(world: World) -> None:
    """A stopped node, and what two others would say of their disks."""
    directory = world.work / "survivor"
    create.init_cluster(directory, "n1", f"127.0.0.1:{free_port()}", None, "cyolo", "disk")
    described = inspection.inspect_node(directory)
    for name in ("n2", "n3"):
        (world.work / f"{name}.json").write_text(json.dumps({**described, "name": name}))


def held(world: World) -> bool:
    os.environ["CYOLOCTL_DATA_DIR"] = str(world.cluster["n1"].directory)
    return main(["key", "status"]) == 0


def begin(world: World) -> None:
    """Start a rendezvous; its code and id are those of the examples."""
    rows = dict(row.split("  ", 1) for row in world.call("cyoloctl rendezvous start --kind mfa").splitlines())
    world.words["WDJB-MJHT"] = rows["user code"].strip()
    (world.work / "id").write_text(rows["id"].strip())


@pytest.mark.parametrize("path", [" ".join(command.path[1:]) for command in generate.commands()])
def test_help_of_every_command_ends_with_examples_of_it(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*path.split(), "--help"]) == 0
    shown = capsys.readouterr().out.partition("\nExamples:\n")[2].split("\n\n")[0].splitlines()
    assert [line.strip() for line in shown] == list(EXAMPLES[path])
    assert all(line.startswith(f"cyoloctl {path}".strip()) for line in EXAMPLES[path])


def test_examples_belong_to_commands_and_each_has_its_turn() -> None:
    paths = {" ".join(command.path[1:]) for command in generate.commands()}
    assert set(EXAMPLES) == paths
    assert {path.strip() for path in " ".join(ORDER.split()).split(",")} == paths - {""}


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_examples_of_help_work_and_print_one_object_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for name in ("nginx", "haproxy"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CYOLOCTL_DATA_DIR", "")
    monkeypatch.setenv("CYOLOCTL_OUTPUT", "")
    (work / "phrase").write_text("a passphrase that is long")
    (tmp_path / "own").mkdir()
    shutil.copy(MACHINES / "hits.py", work)
    (work / "visit.json").write_text('{"page": "/index", "by": 2}')
    with Cluster(tmp_path) as cluster, Cluster(tmp_path / "own") as own:
        own.init("n1").give_machine("hits:Hits", MACHINES / "hits.py").terminate()
        own["n1"].start()
        own["n1"].wait_machine()
        cluster.init("n1", "--gateway", f"127.0.0.1:{free_port()}")
        for name in ("n2", "n3"):
            cluster.join(name, through="n1")
        cluster.wait_settled(voters=3)
        words = {"0:500": "0:1", "0:100": "0:2", "127.0.0.1:8600": f"127.0.0.1:{free_port()}"} | {
            f"10.0.0.{n}:7700": f"127.0.0.1:{free_port()}" for n in (4, 5)
        }
        world = World(cluster, work, capsys, words, own)
        try:
            run_all(world)
        finally:
            for pid in processes_of(work / "n4"):
                os.kill(pid, signal.SIGKILL)


def run_all(world: World) -> None:
    for path in [*(path.strip() for path in " ".join(ORDER.split()).split(",")), ""]:
        for line in EXAMPLES[path]:
            if line in world.done or line in NOT_RUN:
                continue
            before(world, path, line)
            text = line
            for word, value in world.words.items():
                text = text.replace(word, value)
            # Where the output is kept it has to be what a person gets; everywhere else it is one object.
            as_json = ">" not in line
            os.environ["CYOLOCTL_OUTPUT"] = "json" if as_json else ""
            out = world.call(text)
            os.environ["CYOLOCTL_OUTPUT"] = ""
            if as_json:
                exported = line.endswith(" --out -")  # a file of lines, each joined to the one before
                objects = out.splitlines() if endless(line) or exported else [out]
                name = "hash" if exported else "schema_version"
                assert all(name in json.loads(found) for found in objects), line
            world.done.add(line)
