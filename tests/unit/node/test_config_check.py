"""`config check` and `config show`: what they tell of a file, and of what it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyoloctl.errors import ConfigError
from cyoloctl.node import create
from cyoloctl.node.config_check import check_bytes, check_directory, show


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The directory of a node that was never started."""
    directory = tmp_path / "n1"
    create.init_cluster(directory, "n1", "127.0.0.1:7700", None, "cyolo", "disk")
    return directory


def edit(node: Path, before: str, after: str) -> None:
    path = node / "node.yaml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def keys(node: Path) -> list[str]:
    return [problem["key"] for problem in check_directory(node)["problems"]]


def test_check_of_a_new_node_finds_nothing_and_changes_nothing(node: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [node, *node.rglob("*")]}
    assert check_directory(node) == {
        "schema_version": 1,
        "file": str(node / "node.yaml"),
        "valid": True,
        "problems": [],
    }
    assert {path: path.stat().st_mtime_ns for path in [node, *node.rglob("*")]} == before


def test_check_tells_every_fault_with_its_key_and_line(node: Path) -> None:
    edit(node, "storage: disk", "storage: tape")
    edit(node, "level: info", "level: loud")
    edit(node, "listen: 127.0.0.1:7700", "listne: 127.0.0.1:7700")
    found = check_directory(node)
    assert not found["valid"]
    assert [(each["key"], each["line"]) for each in found["problems"]] == [
        ("listen", 2),
        ("listne", 14),
        ("storage", 18),
        ("log.level", 27),
    ]
    assert "use disk or memory" in found["problems"][2]["message"]


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [("name: n1", "name: n2", "name"), ('id: "', 'id: "f', "cluster.id")],
)
def test_check_of_a_file_for_another_node_says_whose_directory_it_is(
    node: Path, before: str, after: str, key: str
) -> None:
    edit(node, before, after)
    if key == "cluster.id":
        text = (node / "node.yaml").read_text()
        right = text.partition('id: "f')[2].partition('"')[0]
        edit(node, f'id: "f{right}"', f'id: "{"f" * 32}"')
    (problem,) = check_directory(node)["problems"]
    assert problem["key"] == key
    assert "the certificate in this directory is for" in problem["message"]
    assert problem["line"] is None


def test_check_without_a_readable_certificate_judges_the_file_alone(node: Path) -> None:
    (node / "pki" / "node.crt").write_text("nothing")
    edit(node, "name: n1", "name: n2")
    assert check_directory(node)["valid"]


def test_check_looks_at_what_the_file_names_on_this_machine(node: Path) -> None:
    with (node / "node.yaml").open("a") as file:
        file.write(
            "socket_group: no-such-group-here\n"
            "gateway: {listen: '127.0.0.1:1', tls: {certificate: /none.crt, key: /none.key}}\n"
        )
    assert keys(node) == ["gateway.tls", "socket_group"]


def test_check_of_a_text_alone_looks_at_nothing_else(node: Path) -> None:
    edit(node, "name: n1", "name: n2")
    text = (node / "node.yaml").read_bytes() + b"socket_group: no-such-group-here\n"
    assert check_bytes(text, "new.yaml")["valid"]
    assert check_bytes(b"\xff", "new.yaml")["problems"][0]["line"] == 1
    with pytest.raises(ConfigError, match="larger than"):
        check_bytes(b"#" * (256 * 1024 + 1), "new.yaml")


def test_check_without_a_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cyoloctl cluster init"):
        check_directory(tmp_path)


def test_show_fills_in_defaults_and_says_which_they_are(node: Path) -> None:
    edit(node, "log:\n", "gateway:\n  listen: 127.0.0.1:1\n  rendezvous: {begin: [mfa]}\nlog:\n")
    edit(node, "  format: text\n", "")
    found = show(node)
    settings = {each["key"]: each for each in found["settings"]}
    level, form, begin = (settings[key] for key in ("log.level", "log.format", "gateway.rendezvous.begin"))
    assert (level["origin"], form["origin"], form["line"]) == ("file", "default", None)
    assert (begin["value"], begin["origin"], begin["changes"]) == (["mfa"], "file", "now")
    assert (settings["listen"]["changes"], settings["name"]["changes"]) == ("restart", "never")
    line = (node / "node.yaml").read_text().splitlines()[level["line"] - 1]
    assert line.strip() == "level: info"
    assert found["config"]["log"] == {"format": "text", "level": "info"}
    assert found["config"]["gateway"]["rendezvous"]["begin"] == ["mfa"]
    assert found["config"]["snapshots"] is None


def test_show_of_a_file_with_faults_raises_the_first(node: Path) -> None:
    edit(node, "storage: disk", "storage: tape")
    with pytest.raises(ConfigError, match="use disk or memory"):
        show(node)


def test_show_puts_options_of_the_running_node_before_the_file(node: Path) -> None:
    edit(node, "  format: text\n", "")
    started = [
        "/usr/bin/python3",
        "/usr/bin/cyoloctl",
        "node",
        "start",
        "--log-level",
        "debug",
        "--log-format=json",
    ]
    found = show(node, started)
    settings = {each["key"]: each for each in found["settings"]}
    for key, value in (("log.level", "debug"), ("log.format", "json")):
        each = settings[key]
        assert (each["value"], each["origin"], each["changes"]) == (value, "command line", "restart")
    assert settings["socket_group"]["origin"] == "default"
    assert found["config"]["log"] == {"format": "json", "level": "debug"}
    other = show(node, ["program", "--log-level", "debug"])
    assert other == show(node)
