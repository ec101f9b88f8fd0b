"""Files and output of a node: useful lines, and never a secret."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cyoloctl.errors import InvitationRejected
from cyoloctl.pki import join_token
from tests.support.cluster import Cluster, wait_until
from tests.support.connections import Peer, cluster_id_of, issue_node
from tests.support.joining import join_body

pytestmark = pytest.mark.cluster

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(scope="module")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cluster, list[str]]:
    """Two nodes that formed, refused, elected and stopped, logging everything; the tokens that were used.

    Nothing is running now.
    """
    base = tmp_path_factory.mktemp("eventful")
    tokens: list[str] = []
    with Cluster(base, log_level="debug") as cluster:
        node = cluster.init("n1")
        tokens.append(cluster.invite("n2"))
        second = cluster.new_node("n2")
        options = ["--name", "n2", "--listen", second.address, "--token-file", "-"]
        assert second.cli("node", "join", *options, stdin=tokens[0]).returncode == 0
        second.start()
        cluster.wait_settled(voters=2)
        # A token that is used up, one for a name that is refused, one that nobody uses.
        other = base / "other"
        again = cluster.new_node("other")
        assert again.cli("node", "join", *options, stdin=tokens[0]).returncode == 77
        del cluster.nodes["other"]
        assert not other.exists()
        tokens.append(cluster.invite("n3"))
        decoded = join_token.decode_token(tokens[1])
        with pytest.raises(InvitationRejected):
            node.client().call(
                "join", body=join_body(decoded.secret, "wrong", decoded.cluster_id), repeatable=True
            )
        with Peer(node, issue_node(node, "stranger", base / "keys")) as peer:
            peer.hello("n2", cluster_id_of(node))
            peer.wait_closed()
        node.client(10.0).transfer_leadership("n2")
        node.client(10.0).counters.incr("default", 1)
        cluster["n2"].kill()
        wait_until("the peer's end in the log", lambda: _events(cluster, "n1", "peer disconnected"))
        cluster["n2"].start()
        cluster.wait_settled(voters=2)
        (base / "json.out").write_text(
            "".join(
                cluster["n2"].cli(*command, "-o", form).stdout
                for form in ("json", "yaml", "table")
                for command in (
                    ("status",), ("member", "list"), ("member", "show", "n1"), ("node", "info"),
                    ("counter", "incr"), ("counter", "list"), ("member", "remove", "n1", "--dry-run"),
                )
            )
        )  # fmt: skip
        cluster.stop_all()
    return cluster, tokens


def _events(cluster: Cluster, name: str, event: str) -> list[dict[str, object]]:
    return [found for found in cluster[name].log_events() if found["event"] == event]


def test_log_in_json_is_one_object_a_line(eventful: tuple[Cluster, list[str]]) -> None:
    cluster, _ = eventful
    for node in cluster.nodes.values():
        lines = node.log_path.read_text().splitlines()
        assert len(lines) > 10
        for line in lines:
            event = json.loads(line)
            assert list(event)[:4] == ["time", "level", "logger", "event"], line
            assert _TIME.fullmatch(event["time"]), line
            assert event["level"] in ("debug", "info", "warning", "error", "critical"), line
            assert event["logger"].startswith("cyoloctl."), line
        assert node.out_path.read_bytes() == b""


def test_log_names_term_and_peer_where_they_matter(eventful: tuple[Cluster, list[str]]) -> None:
    cluster, _ = eventful
    for name in cluster.nodes:
        changes = _events(cluster, name, "raft state changed")
        assert changes
        assert all(type(event["term"]) is int and event["role"] for event in changes)
        terms = [event["term"] for event in changes]
        assert terms == sorted(terms)  # type: ignore[type-var]
        connected = _events(cluster, name, "peer connected")
        assert {event["peer"] for event in connected} == {"n1", "n2"} - {name}
        assert [event["node"] for event in _events(cluster, name, "node stopped")]
    assert _events(cluster, "n1", "peer disconnected")[0]["peer"] == "n2"
    refused = _events(cluster, "n1", "peer refused")
    assert any("stranger" in f"{event.get('peer')} {event['reason']}" for event in refused)
    assert _events(cluster, "n1", "member admitted")[0]["member"] == "n2"
    assert any(event["level"] == "warning" for event in _events(cluster, "n1", "join refused"))


def _private_lines(directory: Path) -> list[bytes]:
    """Every line of key material in the PEM files and credentials of a node."""
    texts = [path.read_text() for path in (directory / "pki").glob("*.key")]
    texts += [json.loads((path).read_text())["key_pem"] for path in directory.glob("operator.yaml")]
    found = []
    for text in texts:
        body = [line for line in text.splitlines() if "-----" not in line]
        found += [line.encode() for line in body if len(line) > 20]
    return found


def test_no_secret_is_in_logs_journals_or_output(eventful: tuple[Cluster, list[str]]) -> None:
    cluster, tokens = eventful
    secrets = [join_token.decode_token(token).secret.encode() for token in tokens]
    secrets += [token.encode()[-60:] for token in tokens]
    for node in cluster.nodes.values():
        secrets += _private_lines(node.directory)
    assert len(secrets) > 12
    secrets.append(b"PRIVATE KEY")
    searched = [cluster.base / "json.out"]
    for node in cluster.nodes.values():
        searched += [node.log_path, node.out_path, node.directory / "raft.db", node.directory / "node.yaml"]
        searched += node.directory.glob("raft.db-*")
        searched += node.directory.glob("snapshot*")
    for path in searched:
        data = path.read_bytes() if path.is_file() else b""
        for secret in secrets:
            assert secret not in data, f"{path} holds {secret[:6]!r}..."
    assert b"members" in (cluster["n1"].directory / "raft.db").read_bytes(), (
        "the journal is searched in clear"
    )


def test_files_with_secrets_are_closed_to_others(eventful: tuple[Cluster, list[str]]) -> None:
    cluster, _ = eventful
    for node in cluster.nodes.values():
        assert (node.directory / "pki").stat().st_mode & 0o077 == 0
        for path in [
            *node.directory.glob("pki/*"),
            *node.directory.glob("*.yaml"),
            *node.directory.glob("raft.db*"),
        ]:
            assert path.stat().st_mode & 0o077 == 0, path
