"""The settings of node.yaml by their dotted names: values, defaults, and which may change while a node runs.

Pure: `difference` decides what a reload does, and `reload` does it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

from cyoloctl.node.config import Config, LogConfig

__all__ = ["Difference", "Reload", "changes", "difference", "values"]

Reload = Literal["now", "restart", "never"]
"""When a change counts: after a reload, after the next start, or never, because the node was made with it."""

_FIXED = frozenset({"name", "cluster.id", "cluster.name", "storage", "offline_ca"})
_NOW = (
    *("log.format", "log.level", "snapshots", "snapshots.every", "snapshots.keep", "snapshots.directory"),
    *("gateway.advertise", "gateway.url", "gateway.tls.certificate", "gateway.tls.key"),
    *("gateway.trusted_proxies", "gateway.metrics_clients", "gateway.allowed_hosts"),
    *("gateway.rendezvous.require_session", "gateway.rendezvous.sign_in_url", "gateway.rendezvous.begin"),
)
_BLOCKS = ("gateway", "snapshots")
"""Blocks that a file may lack as a whole: where it does, the block itself is the key, with the value None."""
_TLS = ("gateway.tls.certificate", "gateway.tls.key")


def values(config: Config) -> dict[str, Any]:
    """The value of each setting, as JSON has it, in the order of the file."""
    found: dict[str, Any] = {
        "name": str(config.name),
        "cluster.id": str(config.cluster_id),
        "cluster.name": str(config.cluster),
        "listen": str(config.listen),
        "advertise": str(config.advertise),
        "storage": config.storage,
        "peers": {str(name): str(address) for name, address in config.peers.items()},
        "log.format": config.log.format,
        "log.level": config.log.level,
        "socket_group": config.socket_group,
        "witness": config.witness,
        "offline_ca": config.offline_ca,
        "machines": list(config.machines),
        "profile": config.profile,
        "snapshots": None,
        "gateway": None,
    }
    policy, gateway = config.snapshots, config.gateway
    if policy is not None:
        del found["snapshots"]
        found |= {
            "snapshots.every": policy.every,
            "snapshots.keep": policy.keep,
            "snapshots.directory": policy.directory,
        }
    if gateway is not None:
        del found["gateway"]
        found |= {
            "gateway.listen": str(gateway.listen),
            "gateway.advertise": str(gateway.advertise),
            "gateway.url": gateway.url,
            "gateway.tls.certificate": gateway.certificate,
            "gateway.tls.key": gateway.key,
            "gateway.trusted_proxies": list(gateway.trusted_proxies),
            "gateway.metrics_clients": list(gateway.metrics_clients),
            "gateway.allowed_hosts": list(gateway.allowed_hosts),
            "gateway.rendezvous.require_session": gateway.require_session,
            "gateway.rendezvous.sign_in_url": gateway.sign_in_url,
            "gateway.rendezvous.begin": list(gateway.begin),
        }
    return found


def changes(key: str, before: Any = "", after: Any = "") -> Reload:
    """When a change of a setting counts, from a value to another one.

    TLS of the gateway may change while it runs, and not begin or end.
    """
    if key in _FIXED:
        return "never"
    if key in _TLS and (before is None) != (after is None):
        return "restart"
    return "now" if key in _NOW else "restart"


@dataclass(frozen=True, slots=True)
class Difference:
    """A configuration beside the one that is in force.

    config: the one that is in force once `applied` is.  applied, needs_restart,
    overridden, fixed, unchanged: the keys, each in one of these.  overridden:
    whoever started the node decided otherwise, which stays.  fixed: those that
    never change, so that the new file is for another node.
    """

    config: Config
    applied: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()


def difference(before: Config, after: Config, held: Collection[str] = ()) -> Difference:
    """What changes between the configuration that is in force and a new one.

    held: keys that whoever started the node decided.
    """
    old, new = values(before), values(after)
    # Browsers are sent to no address at which the gateway does not listen yet.
    moves = old.get("gateway.listen") != new.get("gateway.listen")
    lists: dict[str, list[str]] = {
        name: [] for name in ("now", "restart", "overridden", "never", "unchanged")
    }
    for key in dict.fromkeys((*old, *new)):
        block = key.partition(".")[0]
        if block != key and block in _BLOCKS and (block in old or block in new):
            continue  # the whole block comes or goes
        was, becomes = old.get(key), new.get(key)
        if was == becomes and (key in old) == (key in new):
            lists["unchanged"].append(key)
        else:
            when = "restart" if moves and key == "gateway.advertise" else changes(key, was, becomes)
            lists["overridden" if key in held else when].append(key)
    return Difference(
        config=_merged(before, after, held),
        applied=tuple(lists["now"]),
        needs_restart=tuple(lists["restart"]),
        overridden=tuple(lists["overridden"]),
        fixed=tuple(lists["never"]),
        unchanged=tuple(lists["unchanged"]),
    )


def _merged(before: Config, after: Config, held: Collection[str]) -> Config:
    """The configuration in force with all of another one that may change while the node runs."""
    log = LogConfig(
        before.log.format if "log.format" in held else after.log.format,
        before.log.level if "log.level" in held else after.log.level,
    )
    old, new = before.gateway, after.gateway
    if old is None or new is None:
        gateway = old
    else:
        encrypted = (old.certificate is None) == (new.certificate is None)
        gateway = replace(
            new,
            listen=old.listen,
            advertise=new.advertise if old.listen == new.listen else old.advertise,
            certificate=new.certificate if encrypted else old.certificate,
            key=new.key if encrypted else old.key,
        )
    return replace(before, log=log, snapshots=after.snapshots, gateway=gateway)
