"""Token keys, tokens and passphrases are nowhere but where they belong."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cyoloctl.keys.ring_file import import_ring
from tests.support.cluster import Cluster, Node, environment
from tests.support.connections import http_exchange, unix_connect
from tests.support.tokens import mint, wait_keys

pytestmark = pytest.mark.cluster

PASSPHRASE = "a passphrase that nobody else uses"
OTHER_PASSPHRASE = "a wrong passphrase, also secret"


@dataclass(slots=True)
class Leaks:
    """Places to search, and the secrets: name -> bytes that must not be there."""

    places: dict[str, bytes]
    secrets: dict[str, bytes]


def _spellings(secret: bytes) -> dict[str, bytes]:
    """Spellings of key bytes: as they are, in hexadecimal, in base64 at each offset, as a repr."""
    found = {
        "raw": secret,
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "repr": repr(secret).encode()[2:-1],
        "list": json.dumps(list(secret)).encode()[1:-1],
    }
    for shift in range(3):
        inner = base64.b64encode(b"\0" * shift + secret)[4:-4]
        found[f"base64 {shift}"] = inner
        found[f"base64url {shift}"] = inner.replace(b"+", b"-").replace(b"/", b"_")
    return found


def _processes() -> bytes:
    """Arguments and environments of every process that can be read."""
    parts = []
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                parts.append((process / name).read_bytes())
            except OSError:
                continue  # it has ended
    return b"\n".join(parts)


@pytest.fixture(scope="module")
def leaks(tmp_path_factory: pytest.TempPathFactory) -> Leaks:
    """Two nodes that did everything with keys and tokens, logging at debug level; then stopped.

    More than 60 lines, because it is one story in the order in which an operator would do it.
    """
    base = tmp_path_factory.mktemp("leaks")
    said: list[str] = []
    tokens: list[str] = []
    with Cluster(base, log_level="debug") as cluster:
        for name in ("n1", "n2"):
            node = cluster.init(name) if name == "n1" else cluster.join(name)
            node.terminate()
            node.compacting(60).start()
        cluster.wait_settled(voters=2)
        wait_keys(cluster)
        one, two = cluster["n1"], cluster["n2"]
        secret, wrong, ring = base / "passphrase", base / "wrong", base / "ring"
        secret.write_text(PASSPHRASE)
        wrong.write_text(OTHER_PASSPHRASE)

        def key(node: Node, *arguments: object, status: int = 0) -> None:
            for form in ("json", "yaml", "table"):
                done = node.cli("key", *arguments, "-o", form)
                assert done.returncode == status, done.stderr
                said.extend((done.stdout, done.stderr))

        def token(node: Node, *arguments: object, stdin: str = "", status: int = 0) -> str:
            done = node.cli("token", *arguments, stdin=stdin)
            assert done.returncode == status, done.stderr
            said.append(done.stderr)
            return done.stdout

        tokens += [mint(one), token(two, "mint", "--sub", "zoe").strip()]
        token(one, "inspect", stdin=tokens[0])
        tokens.append(token(two, "update", "--set", "mfa=false", stdin=tokens[0]).strip())
        tokens.append(token(two, "refresh", stdin=tokens[1]).strip())
        for arguments in (("inspect", "--explain"), ("update",), ("refresh",)):
            token(one, *arguments, stdin=tokens[0], status=77)
            token(one, *arguments, stdin=tokens[1][:-3], status=77)
            token(one, *arguments, stdin=tokens[1] + "x" * 9000, status=77)
        token(one, "revoke", "-", stdin=tokens[2])
        said.append(token(one, "revocations"))
        body = json.dumps({"token": tokens[1]}).encode()
        for path, sent in (
            ("inspect", body[:-1]),
            ("inspect", body[:-1] + b',"token":1}'),
            ("update", body[:-1] + b',"set":5}'),
            ("refresh", body[:-1] + b',"ttl_s":[]}'),
            ("revoke", body[:-1] + b',"sub":"x"}'),
            ("batch", b'{"operation":"update","items":5,"what":[' + body + b"]}"),
            ("mint", body),
            ("nowhere", body),
        ):
            said.append(json.dumps(http_exchange(unix_connect(two), "POST", f"/v1/tokens/{path}", sent)[1]))
        early = {node.name: (node.directory / "raft.db-wal").read_bytes() for node in (one, two)}
        # While a batch runs: nothing is in its arguments or environment, or anybody's.
        with subprocess.Popen(
            [
                sys.executable, "-m", "cyoloctl", "token", "inspect", "--batch", "--keyring", str(ring),
                "--passphrase-file", str(secret),
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True,
        ) as batch:  # fmt: skip
            key(one, "list")
            assert one.cli("key", "export", "--passphrase-file", secret, "--out", ring).returncode == 0
            said.append(_processes().decode("latin-1"))
            batch.kill()
        key(one, "status")
        key(two, "policy")
        key(two, "identity")
        key(two, "generate")
        key(two, "rotate")
        key(one, "rewrap")
        key(one, "import", ring, "--passphrase-file", secret)
        key(one, "import", ring, "--passphrase-file", wrong, status=77)
        key(one, "import", secret, "--passphrase-file", secret, status=65)
        identity = base / "identity"
        identity.write_text(two.cli("key", "identity").stdout)
        assert one.cli("key", "export", "--to-node", identity, "--out", base / "sealed").returncode == 0
        key(two, "import", base / "sealed")
        final = base / "final"
        assert two.cli("key", "export", "--passphrase-file", secret, "--out", final).returncode == 0
        for _ in range(100):
            one.client().counters.incr("default", 1)
        cluster.stop_all()

    rings = [import_ring(path.read_bytes(), passphrase=PASSPHRASE) for path in (ring, final)]
    secrets = {"passphrase": PASSPHRASE.encode(), "wrong passphrase": OTHER_PASSPHRASE.encode()}
    secrets |= {f"token {number}": text.encode()[-40:] for number, text in enumerate(tokens)}
    for number, found in enumerate(entry for ring in rings for entry in ring.keys):
        for spelling, data in _spellings(found.secret).items():
            secrets[f"key {number} {spelling}"] = data
    places = {"what commands printed, and all arguments and environments": "\n".join(said).encode()}
    places |= {f"{name} raft.db-wal": data for name, data in early.items()}
    for path in [ring, final, base / "sealed", identity]:
        places[path.name] = path.read_bytes()
    for node in cluster.nodes.values():
        for path in [node.log_path, node.out_path, node.directory / "node.yaml"]:
            places[str(path)] = path.read_bytes()
        for path in [*node.directory.glob("raft.db*"), *node.directory.glob("snapshot*")]:
            places[str(path)] = path.read_bytes()
        for path in (node.directory / "pki").iterdir():
            places[str(path)] = path.read_bytes()
    return Leaks(places, secrets)


def test_no_token_key_token_or_passphrase_is_written_or_printed_anywhere(leaks: Leaks) -> None:
    assert len(leaks.secrets) > 40
    found = [
        f"{name} in {place}"
        for place, data in leaks.places.items()
        for name, secret in leaks.secrets.items()
        if secret in data
    ]
    assert found == []


@pytest.mark.parametrize(
    ("place", "marks"),
    [
        ("raft.db-wal", [b"wrapped", b"revoke_sid", b"advance"]),
        ("snapshot", [b"wrapped", b"sessions"]),
        (".log", [b'"debug"', b"token key promoted", b"the key ring was exported", b"/v1/tokens/update"]),
        ("ring", [b"cyoloctl keyring 1 passphrase"]),
    ],
)
def test_search_for_secrets_looks_where_they_would_be_in_clear(
    leaks: Leaks, place: str, marks: list[bytes]
) -> None:
    """Were a key or token there, it would be among these."""
    data = b"".join(data for name, data in leaks.places.items() if name.endswith(place))
    for mark in marks:
        assert mark in data


@pytest.mark.parametrize("shape", [bytes, bytes.hex, base64.b64encode])
def test_search_for_secrets_finds_what_is_there(leaks: Leaks, shape: Callable[[bytes], bytes | str]) -> None:
    secret = leaks.secrets["key 0 raw"]
    shaped = shape(secret)
    text = b"xx" + (shaped if isinstance(shaped, bytes) else shaped.encode()) + b"yy"
    assert any(name.startswith("key 0") and data in text for name, data in leaks.secrets.items())
