"""Other addresses for a node that does not run, and for the members that it dials."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from cyoloctl.errors import AlreadyExists, InvalidInput
from cyoloctl.model import (
    Address,
    NodeName,
    is_wildcard,
    parse_address,
    parse_dialable_address,
    parse_name,
    same_place,
)
from cyoloctl.node.config import CONFIG_NAME, KNOWN_PEERS, Config, load_config
from cyoloctl.node.config_writer import rewrite_addresses
from cyoloctl.paths import check_ownership

__all__ = ["set_addresses"]


def set_addresses(
    data_dir: Path, *, listen: str | None, advertise: str | None, peers: Sequence[str]
) -> dict[str, Any]:
    """Change node.yaml; what was not given stays.  The caller knows that the node does not run.

    peers: each ``NAME=HOST:PORT``.  Without advertise, the address that the
    others are told moves along with the one to listen on, where it has the
    same port.

    Raises ConfigError, InvalidInput, AlreadyExists for an address of another
    member, StorageError.
    """
    check_ownership(data_dir)
    path = data_dir / CONFIG_NAME
    before = load_config(path)
    listens = before.listen if listen is None else parse_address(listen, "listen address")
    if advertise is not None:
        told = parse_dialable_address(advertise, "advertise address")
    else:
        told = _moved_along(before, listens)
    given = dict(_peer(text, before) for text in peers)
    after = replace(before, listen=listens, advertise=told, peers={**before.peers, **given})
    _refuse_one_place(before, after, given)
    if after != before:
        rewrite_addresses(path, after, modified_ns=_older_than_what_was_known(data_dir, given))
    return {
        "schema_version": 1,
        "name": after.name,
        "listen": str(after.listen),
        "address": str(after.advertise),
        "peers": {name: str(address) for name, address in after.peers.items()},
        "changed": after != before,
        "data_dir": str(data_dir),
    }


def _older_than_what_was_known(data_dir: Path, given: Mapping[NodeName, Address]) -> int | None:
    """The time for node.yaml by which the peers known last still count before its own; None: they do not.

    They joined or left since node.yaml was written: only their addresses are in it.  The file
    appears with that time, so that a command that is killed does not change who counts.
    """
    last, path = data_dir / KNOWN_PEERS, data_dir / CONFIG_NAME
    if not last.exists() or last.stat().st_mtime < path.stat().st_mtime:
        return None
    known = json.loads(last.read_text("utf-8"))
    return last.stat().st_mtime_ns if given.keys() <= known.keys() else None


def _moved_along(before: Config, listens: Address) -> Address:
    """The address that the others are told, once the node listens somewhere else."""
    told = before.advertise
    if listens == before.listen or told.port != before.listen.port:
        return told  # it is of something in front of the node
    if not is_wildcard(listens.host) and (
        same_place(told, before.listen)
        or not same_place(replace(listens, port=1), replace(before.listen, port=1))
    ):
        return parse_dialable_address(str(listens), "listen address")
    return Address(told.host, listens.port)


def _peer(text: str, config: Config) -> tuple[NodeName, Address]:
    name, separator, address = text.partition("=")
    if not separator:
        raise InvalidInput(f"peer {text[:80]!r} is not valid: use NAME=HOST:PORT, such as n2=10.0.0.2:7700")
    parsed = parse_name(name, "peer")
    if parsed == config.name:
        raise InvalidInput(f"{name} is this node: use --listen and --advertise for its own address")
    return parsed, parse_dialable_address(address, f"address of {name}")


def _refuse_one_place(before: Config, after: Config, given: Mapping[NodeName, Address]) -> None:
    """Refuse a new address that is another member's too.  Raises AlreadyExists."""
    changed = set(given) | ({after.name} if after.advertise != before.advertise else set())
    places = {after.name: after.advertise, **after.peers}
    for one, other in combinations(sorted(places), 2):
        if {one, other} & changed and same_place(places[one], places[other]):
            raise AlreadyExists(
                f"{one} and {other} cannot both be at {places[one]}: if {other} moved as well, say where to "
                f"(--peer NAME=HOST:PORT)"
            )
