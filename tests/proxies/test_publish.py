"""Replacing a configuration file, with the real proxies as judges."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cyoloctl.errors import ConfigError, InvalidInput
from cyoloctl.routing.publish import publish
from cyoloctl.routing.table import Backend, ExportOptions, RoutingTable
from tests.support.proxies import EXPORTS, Kind, require

KINDS = pytest.mark.parametrize("kind", ["nginx", "haproxy"])


def validator(kind: Kind) -> list[str]:
    program = require(kind)
    return [program, "-e", "stderr", "-t", "-c", "{}"] if kind == "nginx" else [program, "-c", "-f", "{}"]


def exported(
    kind: Kind, directory: Path, *, port: int = 8001, log_index: int = 1, fragment: bool = False
) -> str:
    backend = Backend(
        name="n1", host="app-1.example.com", address=f"127.77.0.1:{port}", alive=True, role="leader"
    )
    run_dir = None if fragment else str(directory)
    options = ExportOptions(listen="127.0.0.1:8080", run_dir=run_dir, fragment=fragment)
    return EXPORTS[kind](RoutingTable((backend,), ("app.example.com",), log_index), options)


@KINDS
def test_publish_of_a_good_file_puts_it_in_place(kind: Kind, tmp_path: Path) -> None:
    directory = tmp_path / "etc"
    directory.mkdir()
    path = directory / "proxy.conf"
    text = exported(kind, tmp_path)
    assert publish(text, path, validate=validator(kind)).outcome == "changed"
    assert path.read_text() == text
    assert os.listdir(directory) == ["proxy.conf"]
    text = exported(kind, tmp_path, port=8002)
    assert publish(text, path, validate=validator(kind)).outcome == "changed"
    assert path.read_text() == text
    assert os.listdir(directory) == ["proxy.conf"]


@KINDS
def test_publish_of_a_broken_file_is_refused_and_leaves_everything_as_it_was(
    kind: Kind, tmp_path: Path
) -> None:
    directory = tmp_path / "etc"
    directory.mkdir()
    path = directory / "proxy.conf"
    good = exported(kind, tmp_path)
    broken = good.replace("127.77.0.1:8001", "127.77.0.1:notaport")
    assert publish(broken, path, validate=validator(kind)).outcome == "refused"
    assert os.listdir(directory) == []
    path.write_text(good)
    published = publish(broken, path, validate=validator(kind))
    assert published.outcome == "refused"
    assert "notaport" in published.output
    assert path.read_text() == good
    assert os.listdir(directory) == ["proxy.conf"]


@KINDS
def test_publish_of_other_comments_only_changes_nothing(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "proxy.conf"
    first = exported(kind, tmp_path)
    publish(first, path, validate=validator(kind))
    before = path.stat()
    second = exported(kind, tmp_path, log_index=2)
    assert second != first
    # A check that would refuse shows that none ran.
    assert publish(second, path, validate=["false", "{}"]).outcome == "unchanged"
    assert path.read_text() == first
    assert path.stat().st_ino == before.st_ino


def test_publish_of_a_fragment_lets_nginx_check_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "cyoloctl.conf"
    fragment = exported("nginx", tmp_path, fragment=True)
    alone = publish(fragment, path, validate=validator("nginx"))
    assert (alone.outcome, '"map" directive is not allowed here' in alone.output) == ("refused", True)
    whole = exported("nginx", tmp_path)
    assert publish(fragment, path, validate=validator("nginx"), validated_text=whole).outcome == "changed"
    assert path.read_text() == fragment
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")] == []


def test_publish_keeps_mode_and_link(tmp_path: Path) -> None:
    target = tmp_path / "available.conf"
    target.write_text("old\n")
    target.chmod(0o640)
    link = tmp_path / "enabled.conf"
    link.symlink_to(target.name)
    assert publish("new\n", link, validate=["true", "{}"]).outcome == "changed"
    assert link.is_symlink()
    assert target.read_text() == "new\n"
    assert target.stat().st_mode & 0o7777 == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user")
def test_publish_keeps_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "proxy.conf"
    path.write_text("old\n")
    os.chown(path, 33, 34)
    publish("new\n", path, validate=["true", "{}"])
    assert (path.stat().st_uid, path.stat().st_gid) == (33, 34)


def test_publish_shows_the_validator_the_new_text_before_it_is_in_place(tmp_path: Path) -> None:
    path = tmp_path / "proxy.conf"
    path.write_text("old\n")
    published = publish("new\n", path, validate=["cat", str(path), "{}"])
    assert published.output == "old\nnew"


def test_publish_without_a_program_or_a_place_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no-such-proxy"):
        publish("new\n", tmp_path / "proxy.conf", validate=["no-such-proxy", "{}"])
    with pytest.raises(InvalidInput, match="names no file"):
        publish("new\n", tmp_path / "proxy.conf", validate=["nginx", "-t"])
    with pytest.raises(InvalidInput, match="absent"):
        publish("new\n", tmp_path / "absent" / "proxy.conf", validate=["true", "{}"])
    assert os.listdir(tmp_path) == []
