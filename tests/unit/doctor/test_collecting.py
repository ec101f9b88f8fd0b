"""The facts of a data directory and of a node's answers; nothing is left behind by their collection."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from cyoloctl.doctor import collecting
from cyoloctl.doctor.cluster import find_all
from cyoloctl.doctor.collecting import ask_node, collect, hosts_of, look_up, measure_syncs, read_config
from cyoloctl.doctor.facts import Answers
from cyoloctl.doctor.findings import directory_findings
from cyoloctl.errors import ClientTimeout, CyoloctlError, InvalidInput, NoLeader, Unreachable
from cyoloctl.node.unfinished import leftovers
from cyoloctl.text import Json
from tests.unit.doctor.conftest import down

STATUS: Json = {"members": [{"address": "n1.example:7700"}, {"address": "10.0.0.2:7700"}, {"address": "?"}]}


def names_below(directory: Path) -> set[str]:
    return {str(path) for path in directory.rglob("*")}


def test_directory_of_a_node_that_is_down_is_read_and_left_as_it_was(node: Path) -> None:
    before = names_below(node)
    facts = collect(node, ask=down, pid=None, timeout_s=5.0)
    assert names_below(node) == before
    directory = facts.directory
    assert (directory.name, directory.cluster, directory.config_error) == ("n1", "cyolo", None)
    assert (directory.pki_problem, directory.sync_error, directory.snapshots) == (None, None, None)
    assert directory.certificate_ends is not None
    assert directory.ca_ends is not None
    assert directory.certificate_ends < directory.ca_ends
    modes = {Path(file.path).name: (file.secrecy, file.mode, file.kind) for file in directory.files}
    assert modes["node.key"] == ("secret", 0o600, "file")
    assert modes["raft.db"] == ("secret", 0o600, "file")
    assert modes["operator.yaml"] == ("secret", 0o600, "file")
    assert modes["node.crt"] == ("public", 0o600, "file")
    assert modes["pki"] == ("own", 0o700, "directory")
    assert facts.answers == Answers(facts.answers.version, error="nobody there", unreachable=True)
    assert facts.hosts == {}


def test_link_has_the_mode_of_what_it_leads_to(node: Path, tmp_path: Path) -> None:
    elsewhere = (node / "node.yaml").rename(tmp_path / "elsewhere.yaml")
    (node / "node.yaml").symlink_to(elsewhere)
    (node / "node.log").symlink_to(tmp_path / "nowhere")
    link = tmp_path / "link"
    link.symlink_to(node)
    facts = collect(link, ask=down, pid=None, timeout_s=5.0)
    shown = {file.path: (file.kind, file.mode) for file in facts.directory.files}
    assert shown[str(link)] == ("directory", 0o700)
    assert shown[str(link / "node.yaml")] == ("file", 0o600)
    assert str(link / "node.log") not in shown
    assert next(one for one in directory_findings(facts) if one["code"] == "permissions")["severity"] == "ok"


def test_node_yaml_that_cannot_be_read_leaves_the_rest_to_be_told(node: Path) -> None:
    (node / "node.yaml").write_text("nonsense: 1\n")
    facts = collect(node, ask=down, pid=None, timeout_s=5.0)
    assert facts.directory.name is None
    assert "node.yaml" in str(facts.directory.config_error)
    assert facts.directory.syncs is not None
    assert read_config(node / "none")[0] is None


def test_key_that_is_open_to_others_is_a_problem_of_the_keys_too(node: Path) -> None:
    key = node / "pki" / "node.key"
    key.chmod(0o640)
    directory = collect(node, ask=down, pid=None, timeout_s=5.0).directory
    assert str(key) in str(directory.pki_problem)
    assert [file.mode for file in directory.files if file.path == str(key)] == [0o640]


def test_syncs_are_measured_and_the_file_is_gone(tmp_path: Path) -> None:
    found = measure_syncs(tmp_path)
    assert 1 <= found.count <= 32
    assert 0 <= found.median_ms <= found.worst_ms
    assert list(tmp_path.iterdir()) == []


def test_measurement_on_a_disk_that_stands_ends_after_three_seconds(tmp_path: Path) -> None:
    times: Iterator[float] = iter([0.0, *(number * 0.5 for number in range(100))])
    found = measure_syncs(tmp_path, lambda: next(times))
    assert found.count < 32
    assert found.median_ms == 500


@pytest.mark.parametrize("failing", ["write", "fdatasync"])
def test_file_of_the_measurement_is_removed_whatever_happens(
    node: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*arguments: object) -> None:
        assert [path.name for path in leftovers(node)], "a killed command leaves what the next start removes"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(collecting.os, failing, fail)
    directory = collect(node, ask=down, pid=None, timeout_s=5.0).directory
    assert (directory.syncs, directory.sync_error) == (None, "No space left on device")
    assert leftovers(node) == []


def test_interrupted_measurement_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(collecting.os, "fdatasync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure_syncs(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_newest_snapshot_of_the_policy_is_found_and_a_directory_that_is_gone_is_told(
    node: Path, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    backup.mkdir()
    with open(node / "node.yaml", "a", encoding="utf-8") as file:
        file.write(f"snapshots: {{every: 6h, keep: 3, directory: {backup}}}\n")

    def newest() -> tuple[int | None, str | None]:
        policy = collect(node, ask=down, pid=None, timeout_s=5.0).directory.snapshots
        assert policy is not None
        assert (policy.every_s, policy.directory) == (6 * 3600, str(backup))
        return policy.newest_unix_ms, policy.error

    assert newest() == (None, None)
    for name, at in (
        ("n1-20260101T000000Z", 100),
        ("n1-20260102T000000Z", 200),
        ("n2-20260103T000000Z", 300),
    ):
        (backup / f"{name}.snapshot").write_text("")
        os.utime(backup / f"{name}.snapshot", (at, at))
    assert newest() == (200_000, None)
    for path in backup.iterdir():
        path.unlink()
    backup.rmdir()
    assert newest() == (None, "No such file or directory")


def test_everything_that_needs_no_leader_is_asked_so_and_a_refusal_costs_nothing_else() -> None:
    asked = []

    def ask(operation: str, query: Mapping[str, str]) -> Json:
        asked.append((operation, dict(query)))
        if operation == "pki_status":
            raise NoLeader("no leader")
        return {"of": operation}

    answers = ask_node(ask)
    stale = {"consistency": "stale"}
    assert asked == [
        ("status", {}), ("key_status", stale), ("credential_list", stale), ("pki_status", {}),
    ]  # fmt: skip
    assert (answers.error, answers.status, answers.keys) == (None, {"of": "status"}, {"of": "key_status"})
    assert (answers.credentials, answers.pki) == ({"of": "credential_list"}, None)
    assert answers.refused == {"pki_status": "no leader"}


@pytest.mark.parametrize(
    ("error", "unreachable"),
    [(Unreachable("x"), True), (ClientTimeout("x"), False), (InvalidInput("x"), False)],
)
def test_node_that_says_nothing_is_asked_once(error: CyoloctlError, unreachable: bool) -> None:
    asked = []

    def ask(operation: str, query: Mapping[str, str]) -> Json:
        asked.append(operation)
        raise error

    answers = ask_node(ask)
    assert (answers.error, answers.unreachable, answers.status) == ("x", unreachable, None)
    assert asked == ["status"]


def test_hosts_are_those_of_the_members_or_of_node_yaml_without_addresses(node: Path) -> None:
    assert hosts_of(None, Answers("1", status=STATUS)) == {"n1.example"}
    (node / "node.yaml").write_text(
        (node / "node.yaml").read_text().replace("peers: {}", "peers: {n2: 'n2.example:7700'}")
    )
    config, _ = read_config(node)
    assert config is not None
    assert hosts_of(config, Answers("1", error="down")) == {"n2.example"}
    assert hosts_of(None, Answers("1", error="down")) == set()


def test_host_that_cannot_be_looked_up_has_the_reason() -> None:
    found = look_up(["localhost", "nowhere.invalid"], 30.0)
    assert found["localhost"] is None
    assert found["nowhere.invalid"]
    assert look_up(["nowhere.invalid"], 0.0)["nowhere.invalid"]


@pytest.mark.skipif(os.geteuid() != 0, reason="ANOTHER USER'S DOCTOR IS NOT TRIED: only root becomes one")
def test_directory_of_another_user_is_not_judged_by_what_may_not_be_read(node: Path) -> None:
    for path in (node, *node.parents):
        if path.stat().st_uid == 0 and path.is_relative_to(tempfile.gettempdir()):
            path.chmod(0o711)  # as `socket_group` leaves it, and on the way there
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(12345)
            os.setuid(12345)
            facts = collect(node, ask=down, pid=None, timeout_s=5.0)
            told = [one["code"] for one in find_all(facts, warn_days=None) if one["severity"] == "error"]
            os.write(sending, f"{facts.directory.closed_to} {facts.directory.owner_name} {told}".encode())
        finally:
            os._exit(0)
    os.close(sending)
    with open(receiving, encoding="utf-8") as pipe:
        assert pipe.read() == "12345 root ['permissions']"
    os.waitpid(pid, 0)
