"""What a support bundle holds of a data directory, and what it says that it leaves out."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

from cyoloctl.doctor.bundle import LOG_TAIL_BYTES, SupportBundle, make_bundle
from cyoloctl.doctor.collecting import collect
from cyoloctl.errors import NoLeader, Unreachable
from cyoloctl.text import Json
from tests.unit.doctor.conftest import down


def made(node: Path, ask: object = down) -> tuple[SupportBundle, dict[str, bytes]]:
    """The bundle of a directory, and its parts."""
    facts = collect(node, ask=ask, pid=None, timeout_s=5.0)  # type: ignore[arg-type]  # as `down`
    bundle = make_bundle(node, facts, ask)  # type: ignore[arg-type]  # as `down`
    parts = {}
    with tarfile.open(fileobj=io.BytesIO(bundle.data), mode="r:gz") as tar:
        for entry in tar:
            file = tar.extractfile(entry)
            if file is not None:
                parts[entry.name.partition("/")[2]] = file.read()
    assert tuple(parts) == bundle.names
    return bundle, parts


def left_out(bundle: SupportBundle) -> dict[str, str]:
    return {one.name: one.reason for one in bundle.left_out}


def test_parts_that_the_node_did_not_give_are_named_with_the_reason(node: Path) -> None:
    bundle, parts = made(node)
    assert left_out(bundle) == {
        **dict.fromkeys(("status.json", "keys.json", "pki.json", "members.json"), "nobody there"),
        "node.log": "this node writes no log file: see what collects its stderr",
    }
    for name, reason in left_out(bundle).items():
        assert f"  {name:<18} {reason}\n" in parts["README.txt"].decode()


def test_directory_whose_path_is_no_utf8_has_a_bundle_too(node: Path) -> None:
    odd = node.rename(node.with_name(os.fsdecode(b"n\xff")))

    def ask(operation: str, query: Mapping[str, str]) -> Json:
        raise Unreachable(f"no socket in {odd}")

    (odd / "node.yaml").write_text("name: [", "utf-8")
    _, parts = made(odd, ask)
    assert "no socket in " in parts["README.txt"].decode()
    assert "node.yaml" in parts["node.yaml"].decode()


def test_part_that_is_refused_costs_no_other(node: Path) -> None:
    def ask(operation: str, query: Mapping[str, str]) -> Json:
        if operation in ("pki_status", "member_list"):
            raise NoLeader("no leader")
        return {
            "status": {"cluster": {"quorum": 1, "leader": "n1"}, "members": [], "problems": []},
            "key_status": {"agreed": True, "problems": []},
            "credential_list": {"credentials": []},
        }[operation]

    bundle, parts = made(node, ask)
    assert {"status.json", "keys.json"} < parts.keys()
    assert {name: left_out(bundle)[name] for name in ("pki.json", "members.json")} == {
        "pki.json": "no leader",
        "members.json": "no leader",
    }
    assert "credentials.json" not in parts


def test_end_of_a_long_log_begins_with_a_whole_line(node: Path) -> None:
    line = b"x" * 99 + b"\n"
    (node / "node.log").write_bytes(b"first\n" + line * (LOG_TAIL_BYTES // 100 + 10))
    (node / "node.log.1").write_bytes(b"before that\n")
    _, parts = made(node)
    assert LOG_TAIL_BYTES - 100 <= len(parts["node.log"]) <= LOG_TAIL_BYTES
    assert set(parts["node.log"].splitlines(keepends=True)) == {line}
    assert parts["node.log.1"] == b"before that\n"


def test_log_that_is_a_link_or_a_pipe_is_left_out(node: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("somebody's secret\n")
    (node / "node.log").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(node / "node.log.1")
    bundle, parts = made(node)
    assert not {"node.log", "node.log.1"} & parts.keys()
    assert left_out(bundle).keys() >= {"node.log", "node.log.1"}
    assert b"somebody's secret" not in b"".join(parts.values())


def test_keys_of_the_node_are_hidden_wherever_they_stand_and_counted(node: Path) -> None:
    key = (node / "pki" / "node.key").read_text().splitlines()[1]
    (node / "node.log").write_text(f"one {key} and {key}\n")
    bundle, parts = made(node)
    assert parts["node.log"] == b"one (hidden) and (hidden)\n"
    assert bundle.hidden == 2


def test_pipes_in_place_of_files_hold_nobody_up(node: Path) -> None:
    for name in ("node.yaml", "operator.yaml", "pki/other.key"):
        (node / name).unlink(missing_ok=True)
        os.mkfifo(node / name)
    _, parts = made(node)
    assert b"it is not a file" in parts["node.yaml"]


def test_node_yaml_that_cannot_be_read_is_quoted_nowhere(node: Path) -> None:
    path = node / "node.yaml"
    path.write_text(path.read_text().replace("storage: disk", "storage: hunter2"))
    _, parts = made(node)
    assert b"hunter2" not in b"".join(parts.values())
    assert b"may quote the file" in parts["node.yaml"]
    assert b"config" in parts["doctor.json"]


def test_key_that_is_missing_is_told_and_the_rest_is_there(node: Path) -> None:
    (node / "pki" / "node.crt").unlink()
    bundle, parts = made(node)
    assert "node.crt" in left_out(bundle)["fingerprints.json"]
    assert {"doctor.json", "files.json", "node.yaml", "machine.json", "versions.json"} < parts.keys()
