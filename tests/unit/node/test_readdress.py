"""Other addresses in the node.yaml of a node that does not run."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from cyoloctl.errors import AlreadyExists, InvalidInput
from cyoloctl.model import parse_address
from cyoloctl.node.config import KNOWN_PEERS, Config, load_config, parse_config
from cyoloctl.node.config_writer import write_config
from cyoloctl.node.readdress import set_addresses

HEAD = f"""schema_version: 1
name: n1
cluster: {{id: "{"1" * 32}", name: c}}   # the office
storage: disk
"""


def write(directory: Path, text: str) -> Path:
    directory.chmod(0o700)
    path = directory / "node.yaml"
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "# mine\nlisten: 10.0.0.1:1  # rack 4\npeers:\n  # far away\n  n2: 10.0.0.2:1 # slow\n",
            "# mine\nlisten: 10.0.9.1:1  # rack 4\npeers:\n  # far away\n  n3: 10.0.9.3:1\n"
            "  n2: 10.0.9.2:1 # slow\n",
        ),
        (
            "listen: '10.0.0.1:1'\nadvertise: \"10.0.0.1:1\"\npeers: {}\nlog: {level: debug}",
            "listen: 10.0.9.1:1\nadvertise: 10.0.9.1:1\n"
            'peers: {"n2": "10.0.9.2:1", "n3": "10.0.9.3:1"}\nlog: {level: debug}',
        ),
        (
            "peers: {n2: '10.0.0.2:1'}\nlisten: 10.0.0.1:1\n",
            'peers: {"n3": "10.0.9.3:1", n2: 10.0.9.2:1}\nlisten: 10.0.9.1:1\n',
        ),
        ("listen: 10.0.0.1:1\n", "listen: 10.0.9.1:1\n"),
    ],
    ids=["block", "empty", "flow", "no peers"],
)
def test_addresses_change_and_everything_else_in_the_file_stays(
    tmp_path: Path, before: str, after: str
) -> None:
    path = write(tmp_path, HEAD + before)
    config = load_config(path)
    done = set_addresses(
        tmp_path, listen="10.0.9.1:1", advertise=None, peers=["n2=10.0.9.2:1", "n3=10.0.9.3:1"]
    )
    assert (done["changed"], done["address"]) == (True, "10.0.9.1:1")
    text = path.read_text("utf-8")
    assert text.endswith(HEAD + after)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    moved = {"n2": parse_address("10.0.9.2:1"), "n3": parse_address("10.0.9.3:1")}
    listen = parse_address("10.0.9.1:1")
    assert parse_config(text) == replace(config, listen=listen, advertise=listen, peers=moved)
    again = set_addresses(tmp_path, listen="10.0.9.1:1", advertise=None, peers=["n3=10.0.9.3:1"])
    assert (again["changed"], path.read_text("utf-8")) == (False, text)


@pytest.mark.parametrize(
    ("listen", "advertise", "wanted", "told"),
    [
        ("10.0.0.1:1", None, "10.0.0.1:2", "10.0.0.1:2"),
        ("10.0.0.1:1", None, "10.0.0.9:1", "10.0.0.9:1"),
        ("0.0.0.0:1", "10.0.0.1:1", "0.0.0.0:2", "10.0.0.1:2"),
        ("0.0.0.0:1", "10.0.0.1:1", "10.0.0.9:2", "10.0.0.9:2"),
        ("10.0.0.1:1", "n1.example.com:1", "10.0.0.1:2", "n1.example.com:2"),
        ("10.0.0.1:1", None, "0.0.0.0:2", "10.0.0.1:2"),
        # Something in front of the node, at another port: it stays where it is.
        ("10.0.0.1:1", "203.0.113.7:443", "10.0.0.1:2", "203.0.113.7:443"),
    ],
)
def test_address_that_the_others_are_told_moves_along(
    tmp_path: Path, listen: str, advertise: str | None, wanted: str, told: str
) -> None:
    more = "" if advertise is None else f"advertise: {advertise}\n"
    write(tmp_path, f"{HEAD}listen: {listen}\n{more}")
    assert set_addresses(tmp_path, listen=wanted, advertise=None, peers=[])["address"] == told
    written = load_config(tmp_path / "node.yaml")
    assert (str(written.listen), str(written.advertise)) == (wanted, told)


def test_one_place_for_two_members_is_refused_however_it_is_spelled(tmp_path: Path) -> None:
    path = write(tmp_path, f"{HEAD}listen: 10.0.0.1:1\npeers: {{n2: '10.0.0.2:1', n3: '10.0.0.3:1'}}\n")
    before = path.read_text("utf-8")
    for listen, peers in (
        (None, ["n2=10.0.0.3:1"]),
        (None, ["n2=[::ffff:10.0.0.3]:1"]),
        (None, ["n2=10.0.0.1:1"]),
        ("10.0.0.2:1", []),
    ):
        with pytest.raises(AlreadyExists, match="cannot both be at"):
            set_addresses(tmp_path, listen=listen, advertise=None, peers=peers)
    assert path.read_text("utf-8") == before
    # Two that changed places.
    set_addresses(tmp_path, listen=None, advertise=None, peers=["n2=10.0.0.3:1", "n3=10.0.0.2:1"])


@pytest.mark.parametrize(
    "peer", ["n2", "n2=", "=10.0.0.2:1", "n2=10.0.0.2", "N2=10.0.0.2:1", "n2=0.0.0.0:1", "n1=10.0.0.2:1"]
)
def test_peer_that_makes_no_sense_changes_nothing(tmp_path: Path, peer: str) -> None:
    path = write(tmp_path, f"{HEAD}listen: 10.0.0.1:1\n")
    with pytest.raises(InvalidInput):
        set_addresses(tmp_path, listen="10.0.0.9:1", advertise=None, peers=["n3=10.0.0.3:1", peer])
    assert path.read_text("utf-8") == f"{HEAD}listen: 10.0.0.1:1\n"


def test_peers_that_a_member_in_memory_knew_last_go_on_counting_before_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path, f"{HEAD.replace('disk', 'memory')}listen: 10.0.0.1:1\npeers: {{n2: '10.0.0.2:1'}}\n"
    )
    os.utime(path, (1_000, 1_000))
    known = tmp_path / KNOWN_PEERS
    known.write_text('{"n3": "10.0.0.3:1"}')
    os.utime(known, (2_000, 2_000))
    set_addresses(tmp_path, listen="10.0.0.9:1", advertise=None, peers=["n3=10.0.9.3:1"])
    # In one step, so that a command that is killed leaves them counting too.
    assert (path.stat().st_mtime, known.stat().st_mtime) == (2_000, 2_000)
    # One that is not among them is: the file counts, and what was known last does not.
    set_addresses(tmp_path, listen=None, advertise=None, peers=["n4=10.0.0.4:1"])
    os.utime(known, (2_000, 2_000))
    assert known.stat().st_mtime < path.stat().st_mtime


def test_file_in_which_nothing_can_be_inserted_is_written_anew(tmp_path: Path) -> None:
    text = "{schema_version: 1, name: n1, cluster: {id: '" + "1" * 32 + "', name: c}, listen: '10.0.0.1:1'}"
    path = write(tmp_path, text)
    before = load_config(path)
    set_addresses(tmp_path, listen=None, advertise="10.0.0.9:7", peers=["n2=10.0.0.2:1"])
    moved = replace(before, advertise=parse_address("10.0.0.9:7"), peers={"n2": parse_address("10.0.0.2:1")})
    assert load_config(path) == moved


def test_file_that_the_program_wrote_keeps_its_comments(tmp_path: Path) -> None:
    write(tmp_path, HEAD + "listen: 10.0.0.1:1\n")
    path = tmp_path / "node.yaml"
    config: Config = load_config(path)
    write_config(path, config)
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    set_addresses(tmp_path, listen="10.0.0.9:1", advertise=None, peers=["n2=10.0.0.2:1"])
    assert [line for line in path.read_text().splitlines() if line.startswith("#")] == comments
    assert load_config(path).peers == {"n2": parse_address("10.0.0.2:1")}
