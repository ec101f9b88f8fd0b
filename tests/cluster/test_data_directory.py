"""Data directories that are wrong, damaged or taken: refused with the file and the remedy."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, Node, Writers, assert_refused, run, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.fault]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A single node that counted to 3 and was stopped; never started again, only copied."""
    with Cluster(tmp_path_factory.mktemp("template")) as cluster:
        node = cluster.init("n1")
        for _ in range(3):
            node.client().counters.incr("default", 1)
        assert node.terminate() == 0
    return cluster


@pytest.fixture
def node(template: Cluster, tmp_path: Path) -> Iterator[Node]:
    """A copy of it that does not run yet."""
    with template.copy_to(tmp_path) as cluster:
        yield cluster["n1"]


def _assert_counts_on(node: Node, value: int) -> None:
    node.start()
    assert node.client().counters.incr("default", 1)["value"] == value
    assert node.terminate() == 0


def _edit(node: Node, old: str, new: str) -> None:
    path = node.directory / "node.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_start_with_the_port_in_use_is_refused_and_names_it(node: Node) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", node.port))
        other.listen()
        assert_refused(node.start_refused(), 4, node.address, "node.yaml")
        background = node.cli("node", "start", "--background")
        assert_refused(background, 4, node.address, "node.yaml")
    _assert_counts_on(node, 4)


def test_start_twice_of_one_directory_refuses_the_second_and_the_first_goes_on(node: Node) -> None:
    node.start()
    assert_refused(node.start_refused(), 4, "in use by another process", str(node.directory))
    log = node.directory / "node.log"
    before = log.stat() if log.exists() else None
    assert_refused(node.cli("node", "start", "--background"), 4, f"runs already, as process {node.pid}")
    assert (log.stat() if log.exists() else None) == before  # the running node's log is its own
    assert node.running()
    assert node.client().counters.incr("default", 1)["value"] == 4


def test_start_with_the_journal_of_a_node_of_another_cluster_is_refused(node: Node, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert run("cluster", "init", "-d", other, "--name", "n1", "--listen", "127.0.0.1:1").returncode == 0
    mine = (node.directory / "raft.db").read_bytes()
    shutil.copy(other / "raft.db", node.directory / "raft.db")
    assert_refused(node.start_refused(), 78, str(node.directory / "raft.db"), "data directory")
    (node.directory / "raft.db").write_bytes(mine)
    _assert_counts_on(node, 4)


def test_start_with_the_journal_of_another_member_is_refused(stopped: Cluster) -> None:
    shutil.copy(stopped["n2"].directory / "raft.db", stopped["n3"].directory / "raft.db")
    refused = stopped["n3"].start_refused()
    assert_refused(refused, 78, str(stopped["n3"].directory / "raft.db"), "'n2'", "'n3'")
    stopped.start_all("n1", "n2")
    assert stopped.client().counters.incr("default", 1)["value"] == 1


def test_log_is_shown_beside_the_running_node_and_copied_for_any_sqlite(node: Node, tmp_path: Path) -> None:
    """And a program that has the file open keeps no node from starting."""
    path = node.directory / "raft.db"
    look = f"import sqlite3, sys; c = sqlite3.connect('file:{path}?mode=ro', uri=True); "
    look += "print(c.execute('SELECT count(*) FROM entries').fetchone()[0], flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", look], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert int(reader.stdout.readline()) > 3
        node.start()
        assert "another program has the journal open" in node.log_tail()
        reader.stdin.close()
    assert node.terminate() == 0
    node.start()
    written = node.client().counters.incr("default", 39, request_id="the-42")
    shown = node.json("node", "log", "--from", written["index"], "--limit", 1)
    (entry,) = shown["entries"]
    assert entry["index"] == written["index"] <= shown["last_index"]
    assert (entry["damaged"], entry["membership"]) == (False, None)
    (command,) = entry["commands"]
    assert (command["machine"], command["operation"], command["request_id"]) == ("counter", "add", "the-42")
    table = node.cli("node", "log", "--limit", 500).stdout
    assert "membership add n1" in table
    assert table.count("counter add") == 4
    copy = tmp_path / "copy.db"
    inspected = node.json("node", "inspect", "--copy", copy)
    assert (inspected["voters"], inspected["problem"], inspected["copy"]) == (["n1"], None, str(copy))
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT max(position) FROM entries").fetchone()[0] >= written["index"]
    assert_refused(node.cli("node", "inspect", "--copy", copy), 4, str(copy))
    assert node.client().counters.incr("default", 1)["value"] == 43


def test_inspection_of_a_damaged_log_names_the_entry(node: Node, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(node.directory / "raft.db")) as connection:
        connection.execute("UPDATE entries SET crc = crc + 1 WHERE position = 2")
        connection.commit()
    assert node.json("node", "inspect")["problem"] == "log entry 2 is wrong"
    assert "damaged" in node.cli("node", "log", "--from", "2", "--limit", "1").stdout
    memory = tmp_path / "memory"
    init = ("cluster", "init", "-d", memory, "--name", "n1", "--listen", "127.0.0.1:1", "--storage", "memory")
    assert run(*init).returncode == 0
    assert_refused(run("node", "log", "-d", memory), 78, "in memory", "cyoloctl status")


def test_start_without_its_journal_is_refused_and_names_the_remedy(node: Node) -> None:
    (node.directory / "raft.db").rename(node.directory / "moved")
    assert_refused(node.start_refused(), 74, str(node.directory / "raft.db"), "member remove n1")
    assert not (node.directory / "raft.db").exists(), "a node that lost its log must not begin a new one"
    (node.directory / "moved").rename(node.directory / "raft.db")
    _assert_counts_on(node, 4)


def test_start_with_an_empty_journal_file_is_refused(node: Node) -> None:
    # Not begun again as a new log: the node would vote again in terms in which it voted.
    (node.directory / "raft.db").write_bytes(b"")
    (node.directory / "raft.db-wal").unlink(missing_ok=True)
    result = node.start_refused()
    assert result.returncode in (74, 78), result
    assert_refused(result, result.returncode, str(node.directory / "raft.db"))


def test_start_with_a_newer_configuration_is_a_version_mismatch(node: Node) -> None:
    _edit(node, "schema_version: 1", "schema_version: 2")
    assert_refused(node.start_refused(), 76, "node.yaml, line", "schema_version 2", "upgrade")
    assert_refused(node.cli("node", "info"), 76, "schema_version 2")


def test_start_with_a_newer_journal_is_a_version_mismatch(node: Node) -> None:
    connection = sqlite3.connect(node.directory / "raft.db")
    connection.execute("PRAGMA user_version=3")
    connection.close()
    assert_refused(node.start_refused(), 76, str(node.directory / "raft.db"), "version 3")


@pytest.mark.parametrize(
    ("file", "mode"),
    [
        ("pki/node.key", 0o640),
        ("pki/node.key", 0o604),
        ("pki/sealing.key", 0o640),
        ("pki/ca.key", 0o660),
        ("operator.yaml", 0o644),
        ("pki", 0o770),
    ],
)
def test_start_with_a_key_open_to_others_is_refused_until_the_printed_chmod_was_run(
    node: Node, file: str, mode: int
) -> None:
    path = node.directory / file
    path.chmod(mode)
    result = node.start_refused()
    assert_refused(result, 78, str(path))
    command = re.search(r"run `(chmod [^`]+)`", result.stderr)
    assert command is not None, result.stderr
    subprocess.run(command[1], shell=True, check=True)
    assert os.stat(path).st_mode & 0o077 == 0
    _assert_counts_on(node, 4)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *((f"pki/{file}", "missing") for file in ("node.key", "node.crt", "ca.crt", "sealing.key")),
        *((f"pki/{file}", "garbage") for file in ("node.key", "node.crt", "ca.crt", "sealing.key")),
        ("pki/node.key", "a directory"),
        ("pki/node.key", "empty"),
    ],
)
def test_start_with_an_unusable_key_or_certificate_is_refused_and_names_it(
    node: Node, file: str, damage: str
) -> None:
    path = node.directory / file
    path.unlink()
    if damage == "a directory":
        path.mkdir()
    elif damage != "missing":
        path.write_text("garbage" if damage == "garbage" else "")
        path.chmod(0o600)
    assert_refused(
        node.start_refused(),
        78,
        str(path),
        "restore" if file.endswith(".key") or damage in ("missing", "a directory") else "use the right file",
    )


def test_start_with_the_key_of_another_node_is_refused(stopped: Cluster) -> None:
    for file in ("node.key", "node.crt"):
        shutil.copy(stopped["n1"].directory / "pki" / file, stopped["n2"].directory / "pki" / file)
    assert_refused(
        stopped["n2"].start_refused(), 78, str(stopped["n2"].directory / "pki" / "node.crt"), "node.yaml"
    )


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("storage: disk", "storrage: disk", r"line \d+, column 1\b", ["storrage", "storage"]),
        ("storage: disk", "storage: 5", r"line \d+, column 10\b", ["storage", "quotes"]),
        ("storage: disk", "storage: tape", r"line \d+, column 10\b", ["tape", "disk or memory"]),
        ("name: n1", "name: [n1]", r"line \d+, column 7\b", ["name"]),
        ("schema_version: 1", "schema_version: one", r"line 2, column 17\b", ["schema_version"]),
        ("storage: disk", "storage: disk\nstorage: disk", r"line \d+, column 1\b", ["twice"]),
        ("storage: disk", "storage: {disk", r"line \d+, column \d+\b", ["not YAML"]),
        ("storage: disk", "\tstorage", r"line \d+, column \d+\b", ["not YAML"]),
        ("listen: ", "listen: 1", r"line \d+, column \d+\b", []),
        ("level: info", "level: loud", r"line \d+, column \d+\b", ["loud", "info"]),
    ],
)
def test_start_with_a_wrong_configuration_names_line_and_column(
    node: Node, old: str, new: str, place: str, words: list[str]
) -> None:
    if (old, new) == ("listen: ", "listen: 1"):
        _edit(node, f':{node.port}"', ':99999"') if f':{node.port}"' in (
            node.directory / "node.yaml"
        ).read_text() else _edit(node, f":{node.port}", ":99999")
    else:
        _edit(node, old, new)
    result = node.start_refused()
    assert_refused(result, 78, str(node.directory / "node.yaml"), *words)
    assert re.search(place, result.stderr), result.stderr


def test_start_in_the_background_gives_the_reason_why_the_node_is_not_ready(node: Node) -> None:
    _edit(node, "storage: disk", "storage: tape")
    result = node.cli("node", "start", "--background")
    assert_refused(result, 78, str(node.directory / "node.yaml"), "tape")


def test_start_in_a_directory_without_a_node_is_refused(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        result = run("node", "start", "-d", directory)
        assert_refused(result, 78, str(directory), "cluster init", "node join")
    assert not (tmp_path / "missing").exists()


def test_init_in_a_used_directory_is_refused_and_changes_nothing(node: Node) -> None:
    def files() -> dict[str, bytes]:
        found = [path for path in node.directory.rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in found}

    before = files()
    again = node.cli("cluster", "init", "--name", "n9", "--listen", "127.0.0.1:1")
    assert_refused(again, 4, str(node.directory), "another data directory")
    assert files() == before
    _assert_counts_on(node, 4)


def test_init_beside_the_journal_of_a_lost_node_is_refused(node: Node) -> None:
    (node.directory / "node.yaml").unlink()
    again = node.cli("cluster", "init", "--name", "n1", "--listen", "127.0.0.1:1")
    assert_refused(again, 4, str(node.directory))
    assert (node.directory / "raft.db").exists()


# --- the journal after a crash -------------------------------------------------------------------


def _crash_with_a_long_wal(cluster: Cluster, victim: str) -> Path:
    """Writes go on while the node is killed; its WAL then holds many transactions."""
    with Writers(cluster, threads=2) as writers:
        writers.wait_more(60)
        cluster[victim].kill()
        writers.finish()
    wal = cluster[victim].directory / "raft.db-wal"
    assert wal.stat().st_size > 20 * 4120, "the WAL is too short to be cut and damaged"
    return wal


@pytest.mark.parametrize("cut_bytes", [1, 5000, 15 * 4120])
def test_start_with_a_journal_torn_at_its_end_catches_up_or_is_kept_out(
    cluster: Cluster, cut_bytes: int
) -> None:
    """Entries never acknowledged are fetched again; a disk that lost acknowledged ones must not vote."""
    victim = cluster.followers()[0]
    wal = _crash_with_a_long_wal(cluster, victim)
    with open(wal, "r+b") as file:
        file.truncate(wal.stat().st_size - cut_bytes)
    node = cluster[victim]
    node.launch()

    def ended_or_settled() -> bool:
        assert node.process is not None
        if node.process.poll() is not None:
            return True
        value = cluster.client().counters.get("default")["value"]
        return bool(node.client().counters.get("default", stale=True)["value"] == value)

    wait_until("the node caught up, or kept out", ended_or_settled)
    assert node.process is not None
    if node.process.poll() is None:
        cluster.wait_settled(voters=3)
    else:
        assert node.wait_exit() == 4
        assert f"older copy of {victim}'s disk" in node.log_tail()
        assert cluster.client().counters.incr("default", 1)["value"] > 0


def test_start_with_a_journal_damaged_in_its_middle_is_refused(cluster: Cluster) -> None:
    victim = cluster.followers()[0]
    wal = _crash_with_a_long_wal(cluster, victim)
    value = cluster.client().counters.get("default")["value"]
    with open(wal, "r+b") as file:
        # The body of the fourth of many frames: 32 bytes of header, frames of 24 + 4096.
        file.seek(32 + 3 * 4120 + 2000)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0xFF]))
    damaged = wal.read_bytes()
    result = cluster[victim].start_refused()
    assert_refused(result, 74, str(wal), "damaged", "member remove")
    assert wal.read_bytes() == damaged, "what is left is evidence"
    background = cluster[victim].cli("node", "start", "--background")
    assert_refused(background, 74, str(wal), "member remove")
    # The others lost nothing, and go on.
    assert cluster.client().counters.incr("default", 1)["value"] == value + 1


def test_start_with_a_journal_damaged_in_its_main_file_is_refused(node: Node) -> None:
    path = node.directory / "raft.db"
    data = bytearray(path.read_bytes())
    position = data.index(b'"counter","add"')
    data[position] ^= 0x01
    path.write_bytes(data)
    assert_refused(node.start_refused(), 74, str(path), "damaged", "member remove")
