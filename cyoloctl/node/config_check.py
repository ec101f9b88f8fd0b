"""What `config check` and `config show` tell of a node.yaml, offline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cyoloctl.errors import ConfigError
from cyoloctl.gateway.server import tls_context
from cyoloctl.node.config import (
    CONFIG_NAME,
    Config,
    Fault,
    config_of,
    find_lines,
    read_bytes,
    read_file,
)
from cyoloctl.node.config_keys import changes, values
from cyoloctl.paths import check_group
from cyoloctl.pki.files import NODE_CERT, PKI_DIRECTORY, load_file
from cyoloctl.pki.identity import parse_identity
from cyoloctl.pki.x509 import dns_names, load_certificate

__all__ = ["check_bytes", "check_directory", "show"]

Document = dict[str, Any]

_OPTIONS = {"--log-format": "log.format", "--log-level": "log.level", "--socket-group": "socket_group"}


def check_directory(data_dir: Path) -> Document:
    """All that would keep the node of a directory from using its node.yaml.

    Also what the file names on this machine: the gateway's certificate, the
    group of the socket, the node that the directory was made for.  Raises
    ConfigError where there is no file, or this user may not read it.
    """
    path = data_dir / CONFIG_NAME
    found = read_bytes(read_file(path), str(path))
    faults = [*_unusable(found), *_of_another_node(found, data_dir)] if isinstance(found, Config) else found
    return _checked(str(path), faults)


def check_bytes(data: bytes, where: str) -> Document:
    """All that is wrong in a node.yaml that may be for any machine.  Raises ConfigError for a huge one."""
    found = read_bytes(data, where)
    return _checked(where, [] if isinstance(found, Config) else found)


def _checked(where: str, faults: list[Fault]) -> Document:
    problems = [
        {"key": fault.key, "line": fault.line, "column": fault.column, "message": fault.message}
        for fault in faults
    ]
    return {"schema_version": 1, "file": where, "valid": not problems, "problems": problems}


def _unusable(config: Config) -> Iterator[Fault]:
    """What a configuration names on this machine, and the node could not use."""
    if config.gateway is not None and config.gateway.certificate is not None:
        try:
            tls_context(config.gateway.certificate, str(config.gateway.key))
        except ConfigError as error:
            yield Fault("gateway.tls", error.message)
    if config.socket_group is not None:
        try:
            check_group(config.socket_group)
        except ConfigError as error:
            yield Fault("socket_group", error.message)


def _of_another_node(config: Config, data_dir: Path) -> Iterator[Fault]:
    """What contradicts the certificate of the directory; nothing where that cannot be read."""
    identity = None
    with suppress(ConfigError):
        certificate = load_file(data_dir / PKI_DIRECTORY / NODE_CERT, load_certificate)
        identity = next(filter(None, map(parse_identity, dns_names(certificate.extensions))), None)
    if identity is None:
        return
    for key, written, certified in (
        ("name", config.name, identity.name),
        ("cluster.id", config.cluster_id, identity.cluster_id),
    ):
        if written != certified:
            yield Fault(
                key, f"the certificate in this directory is for {certified}, not for {written}: put it back"
            )


def show(data_dir: Path, arguments: Sequence[str] = ()) -> Document:
    """The configuration with which the node of a directory would start, defaults filled in.

    For each key, whether the file has it, and when a change counts.
    arguments: the command line of the node that runs there, whose options come
    before the file; empty where none does.  Paths of secrets are shown, and no
    secret, because node.yaml holds none.  Raises as load_config does.
    """
    path = data_dir / CONFIG_NAME
    data = read_file(path)
    given = _given(arguments)
    found = {**values(config_of(read_bytes(data, str(path)), str(path))), **given}
    lines = find_lines(data.decode())
    settings = [
        {
            "key": key,
            "value": value,
            "origin": "command line" if key in given else "file" if key in lines else "default",
            "line": lines.get(key),
            "changes": "restart" if key in given else changes(key),
        }
        for key, value in found.items()
    ]
    return {"schema_version": 1, "file": str(path), "config": _nested(found), "settings": settings}


def _given(arguments: Sequence[str]) -> dict[str, str]:
    """What the options of `node start` decide, by key."""
    if "node" not in arguments or "start" not in arguments:
        return {}
    found = {}
    for word, following in zip(arguments, (*arguments[1:], ""), strict=True):
        option, has_value, value = word.partition("=")
        if option in _OPTIONS:
            found[_OPTIONS[option]] = value if has_value else following
    return found


def _nested(flat: Mapping[str, Any]) -> Document:
    """Dotted names as the blocks of the file."""
    found: Document = {}
    for key, value in flat.items():
        *blocks, last = key.split(".")
        place = found
        for block in blocks:
            place = place.setdefault(block, {})
        place[last] = value
    return found
