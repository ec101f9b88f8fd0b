"""`support-bundle`: everything that is promised is in it, and none of the secrets that a node has."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from cyoloctl.keys.ring_file import import_ring
from cyoloctl.pki import join_token
from tests.support.cluster import Cluster, Node, assert_refused, run, wait_until
from tests.support.tokens import mint

pytestmark = pytest.mark.cluster

PASSPHRASE = "a passphrase that nobody else uses"
VALUES = {"open": "a value of a key that is nobody's business", "sealed": "a sealed value, even less so"}
COUNTER = 7_340_033_123_457
COMMENT = "a comment in node.yaml that says the password"


@dataclass(slots=True)
class Found:
    """Bundles by how they were made, unpacked, and the secrets that the node had."""

    bundles: dict[str, dict[str, bytes]]
    secrets: dict[str, bytes]
    node: Node
    base: Path


def unpack(data: bytes) -> dict[str, bytes]:
    """What is in a bundle, by name below its directory."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        for entry in tar:
            assert entry.name.startswith("cyoloctl-support-n1")
            assert (entry.uid, entry.gid, entry.mode & 0o077) == (0, 0, 0)
            assert entry.isdir() or entry.isreg()
            if entry.isreg():
                file = tar.extractfile(entry)
                assert file is not None
                found[entry.name.partition("/")[2]] = file.read()
    return found


@contextmanager
def in_background(node: Node) -> Iterator[None]:
    """The node with a log file in its directory, at debug level."""
    started = node.cli(
        "node", "start", "--background", "--log-level", "debug", "--timeout", "60s", "-o", "json"
    )
    assert started.returncode == 0, started.stderr
    pid = json.loads(started.stdout)["pid"]
    try:
        yield
    finally:
        if node.cli("node", "stop").returncode != 0:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def use(node: Node, base: Path) -> tuple[list[str], list[str]]:
    """Do with the node whatever leaves a secret anywhere; the session tokens and join tokens."""
    client = node.client()
    tokens = [mint(node)]
    tokens.append(node.cli("token", "update", "--set", "mfa=false", stdin=tokens[0]).stdout.strip())
    for token in (tokens[0], tokens[0][:-3]):
        assert node.cli("token", "inspect", "--explain", stdin=token).returncode == 77
    joins = [
        str(client.member_invite(name, learner=True, witness=False, ttl_s=3600)["token"])
        for name in ("n8", "n9")
    ]
    (base / "passphrase").write_text(PASSPHRASE)
    exported = node.cli("key", "export", "--passphrase-file", base / "passphrase", "--out", base / "ring")
    assert exported.returncode == 0, exported.stderr
    assert node.cli("key", "import", base / "ring", "--passphrase-file", base / "passphrase").returncode == 0
    for name, value in VALUES.items():
        more = ["--sealed"] if name == "sealed" else []
        assert node.cli("kv", "put", f"secret/{name}", "-", *more, stdin=value).returncode == 0
    assert client.counters.incr("private", COUNTER)["value"] == COUNTER
    begun = node.cli(
        "rendezvous", "start", "--kind", "mfa", "--data", "password=hunter2-of-bob", "-o", "json"
    )
    tokens.append(json.loads(begun.stdout)["id"])
    assert node.cli("rendezvous", "show", tokens[-1]).returncode == 0
    made = node.cli("credentials", "create", "--role", "viewer", "--name", "eve", "--out", base / "eve.yaml")
    assert made.returncode == 0, made.stderr
    return tokens, joins


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    base = tmp_path_factory.mktemp("bundle")
    with Cluster(base) as cluster:
        node = cluster.new_node("n1")
        made = node.cli("cluster", "init", "--name", "n1", "--listen", node.address)
        assert made.returncode == 0, made.stderr
        with open(node.directory / "node.yaml", "a", encoding="utf-8") as file:
            file.write(f"# {COMMENT}\n")
        with in_background(node):
            wait_until("a primary key", lambda: node.cli("key", "status").returncode == 0)
            tokens, joins = use(node, base)
            identity = base / "identity"
            identity.write_text(node.cli("key", "identity").stdout)
            # What no code of ours writes, and somebody's program may have.
            with open(node.directory / "node.log", "a", encoding="utf-8") as file:
                file.write((node.directory / "pki" / "node.key").read_text())
                file.write(f"leaked {tokens[0]} and {joins[0]}\n{(base / 'ring').read_text()}")
                file.write("the last line\n")
            documents = [make(node, base / "running"), make(node, base / "sealed", "--seal-to", identity)]
        opened = node.cli("support-bundle", "--open", base / "sealed", "--out", base / "opened")
        assert opened.returncode == 0, opened.stderr
        documents.append(make(node, base / "down"))
        secrets = all_secrets(node, base, tokens, joins)
        bundles = {name: unpack((base / name).read_bytes()) for name in ("running", "opened", "down")}
        assert [len(document["contents"]) for document in documents] == [12, 12, 8]  # type: ignore[arg-type]
        yield Found(bundles, secrets, node, base)


def make(node: Node, out: Path, *options: object) -> dict[str, object]:
    done = node.cli("support-bundle", "--out", out, *options, "-o", "json")
    assert done.returncode == 0, done.stderr
    document: dict[str, object] = json.loads(done.stdout)
    assert document["size_bytes"] == out.stat().st_size
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    return document


def all_secrets(node: Node, base: Path, tokens: list[str], joins: list[str]) -> dict[str, bytes]:
    secrets = {"passphrase": PASSPHRASE.encode(), "comment": COMMENT.encode(), "data": b"hunter2-of-bob"}
    secrets |= {f"value {name}": value.encode() for name, value in VALUES.items()}
    secrets |= {"counter": str(COUNTER).encode(), "PEM": b"PRIVATE KEY"}
    for number, token in enumerate(tokens):
        secrets[f"token {number}"] = token[-24:].encode()
    for number, token in enumerate(joins):
        secrets[f"join token {number}"] = token[-40:].encode()
        secrets[f"join secret {number}"] = join_token.decode_token(token).secret.encode()
    texts = {path.name: path.read_text() for path in (node.directory / "pki").glob("*.key")}
    for path in (node.directory / "operator.yaml", base / "eve.yaml"):
        texts[path.name] = json.loads(path.read_text())["key_pem"]
    for name, text in texts.items():
        for line in text.splitlines():
            if len(line) > 20 and "-----" not in line:
                secrets[f"{name} {len(secrets)}"] = line.encode()
    ring = (base / "ring").read_bytes()
    secrets["ring"] = ring.splitlines()[2][:40]
    for key in import_ring(ring, passphrase=PASSPHRASE).keys:
        secrets[f"key {key.key_id_hex}"] = key.secret
        secrets[f"key {key.key_id_hex} hex"] = key.secret.hex().encode()
        for shift in range(3):
            encoded = base64.b64encode(b"\0" * shift + key.secret)[4:-4]
            secrets[f"key {key.key_id_hex} base64 {shift}"] = encoded
    return secrets


def test_no_secret_of_the_node_is_in_any_bundle(found: Found) -> None:
    assert len(found.secrets) > 30
    leaked = [
        f"{name} in {file} of {made}"
        for made, files in found.bundles.items()
        for file, data in files.items()
        for name, secret in found.secrets.items()
        if secret in data
    ]
    assert leaked == []


def test_search_for_secrets_would_find_those_that_were_in_the_log(found: Found) -> None:
    log = (found.node.directory / "node.log").read_bytes()
    there = {name for name, secret in found.secrets.items() if secret in log}
    assert {"PEM", "token 0", "join token 0", "ring"} <= there
    assert any(name.startswith("node.key") for name in there)
    shown = found.bundles["running"]["node.log"]
    assert shown.count(b"(hidden)") >= 4
    assert b"\nthe last line\n" in shown
    assert b" debug " in shown


def test_bundle_of_a_running_node_holds_what_its_readme_says(found: Found) -> None:
    files = found.bundles["running"]
    readme = files["README.txt"].decode()
    assert "about node n1" in readme
    for name in set(files) - {"README.txt"}:
        assert f"  {name} " in readme, name
    assert json.loads(files["doctor.json"])["findings"]
    assert json.loads(files["status.json"])["cluster"]["leader"] == "n1"
    assert [member["name"] for member in json.loads(files["members.json"])["members"]] == ["n1"]
    assert all(key["fingerprint"] for key in json.loads(files["keys.json"])["keys"])
    assert json.loads(files["versions.json"])["packages"]["pysyncobj"]
    paths = {Path(row["path"]).name: row for row in json.loads(files["files.json"])["files"]}
    assert paths["raft.db"]["size_bytes"] > 0
    assert paths["node.key"]["mode"] == "0600"
    assert json.loads(files["fingerprints.json"])["certificate_sha256"]
    assert b"name: n1" in files["node.yaml"]
    assert found.bundles["opened"].keys() == files.keys()


def test_bundle_of_a_node_that_is_down_says_what_is_missing_and_why(found: Found) -> None:
    files = found.bundles["down"]
    assert {"status.json", "members.json", "keys.json", "pki.json"} & files.keys() == set()
    assert "status.json        " in files["README.txt"].decode().partition("What is not in it")[2]
    codes = {one["code"]: one["severity"] for one in json.loads(files["doctor.json"])["findings"]}
    assert codes["node"] == "error"
    assert files["node.log"].endswith(b"\n")


def test_bundle_takes_nobodys_place_and_comes_whole_or_not_at_all(found: Found, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("x")
    refused = found.node.cli("support-bundle", "--out", there)
    assert_refused(refused, 4, "exists")
    assert there.read_text() == "x"
    none = run("support-bundle", "-d", tmp_path / "none", "--out", tmp_path / "new")
    assert_refused(none, 78, "holds no node")
    wrong = found.node.cli("support-bundle", "--out", tmp_path / "new", "--seal-to", there)
    assert_refused(wrong, 65, "node identity")
    both = found.node.cli("support-bundle", "--out", tmp_path / "new", "--seal-to", there, "--open", there)
    assert_refused(both, 2, "--seal-to or --open")
    closed = found.node.cli("support-bundle", "--out", tmp_path / "new", "--open", there)
    assert_refused(closed, 65, "not a sealed support bundle")
    assert list(tmp_path.iterdir()) == [there]


def test_sealed_bundle_shows_nothing_and_is_for_one_node(found: Found, tmp_path: Path) -> None:
    sealed = (found.base / "sealed").read_bytes()
    assert sealed.startswith(b"cyoloctl support-bundle 1 node\n")
    assert b"\x1f\x8b" not in sealed
    other = tmp_path / "other"
    made = run("cluster", "init", "-d", other, "--name", "m1", "--listen", "127.0.0.1:1")
    assert made.returncode == 0, made.stderr
    arguments = ("support-bundle", "-d", other, "--open", found.base / "sealed", "--out", tmp_path / "out")
    assert_refused(run(*arguments), 77, "is for node 'n1'", "not for m1")
    assert not (tmp_path / "out").exists()
