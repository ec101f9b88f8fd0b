"""A Config to node.yaml: a whole file with comments, or a few fields in the one that is there."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import yaml

from cyoloctl.errors import ConfigError
from cyoloctl.model import Address
from cyoloctl.node.config import SCHEMA_VERSION, Config, Profile, parse_config
from cyoloctl.node.gateway_config import GatewayConfig
from cyoloctl.paths import write_node_file
from cyoloctl.snapshots.policy import SnapshotPolicy

__all__ = ["dump_config", "rewrite_addresses", "rewrite_snapshots", "write_config"]


def dump_config(config: Config) -> str:
    """node.yaml for a configuration, with comments; parse_config gives the same Config back."""
    peers = "".join(f"\n  {_scalar(name)}: {_scalar(str(addr))}" for name, addr in config.peers.items())
    return f"""\
# The configuration of one cyoloctl node.  Edit it by hand, then restart the node.
schema_version: {SCHEMA_VERSION}

# The identity of this node.  Its certificate and the log carry it: do not change it.
name: {_scalar(config.name)}

# The cluster that it belongs to.  Do not change it.
cluster:
  id: {json.dumps(config.cluster_id)}
  name: {_scalar(config.cluster)}

# Where this node accepts connections, HOST:PORT, and where the others reach it.
# Without advertise, listen is what the others are told.
listen: {_scalar(str(config.listen))}
advertise: {_scalar(str(config.advertise))}

# Where the log is kept: disk, or memory (everything is lost when the node stops).
storage: {config.storage}

# Where to dial first, NAME: HOST:PORT.  The log knows the present addresses; correct
# one here only when all the others moved while this node was away.
peers:{peers or " {}"}

# format: text or json.  level: debug, info, warning or error.
log:
  format: {config.log.format}
  level: {config.log.level}
{_dump_witness(config.witness)}{_dump_offline_ca(config.offline_ca)}{_dump_socket_group(config.socket_group)}{_dump_gateway(config.gateway)}{_dump_machines(config.machines)}{_dump_profile(config.profile)}{_dump_snapshots(config.snapshots)}"""


def _dump_witness(witness: bool) -> str:
    if not witness:
        return ""
    return """
# This node votes, and holds no keys: the cluster admitted it as a witness.  Do not change it.
witness: true
"""


def _dump_offline_ca(offline_ca: bool) -> str:
    if not offline_ca:
        return ""
    return """
# The key of the CA is in a file that the operator keeps, and on no member.  Do not change it.
offline_ca: true
"""


def _dump_socket_group(group: str | None) -> str:
    if group is None:
        return ""
    return f"""
# The group of this machine that may use gateway.sock, with the role of a gateway.
socket_group: {json.dumps(group)}
"""


def _dump_machines(machines: tuple[str, ...]) -> str:
    if not machines:
        return ""
    listed = ", ".join(json.dumps(each) for each in machines)
    return f"""
# The machines of your own, MODULE:CLASS, from the directory machines here or as installed.
machines: [{listed}]
"""


def _dump_profile(profile: Profile) -> str:
    if profile == "standard":
        return ""
    return f"""
# The kind of machine: standard or small.  See docs/small.md.
profile: {profile}
"""


def _dump_snapshots(policy: SnapshotPolicy | None) -> str:
    if policy is None:
        return ""
    directory = json.dumps(policy.directory)
    return f"\nsnapshots: {{every: {policy.every}, keep: {policy.keep}, directory: {directory}}}\n"


def _dump_gateway(gateway: GatewayConfig | None) -> str:
    if gateway is None:
        return ""

    def optional(name: str, value: str | None) -> str:
        return "" if value is None else f"  {name}: {_scalar(value)}\n"

    def texts(values: tuple[str, ...]) -> str:
        return "[" + ", ".join(json.dumps(value) for value in values) + "]"

    tls = ""
    if gateway.certificate is not None and gateway.key is not None:
        tls = f"  tls: {{certificate: {json.dumps(gateway.certificate)}, key: {json.dumps(gateway.key)}}}\n"
    return f"""
# The listener for browsers: HOST:PORT, and where reverse proxies reach it.  url: the base of
# links for people.  tls: PEM files, absolute.  trusted_proxies: whose X-Forwarded-* are believed;
# metrics_clients: IP addresses or networks that may read /metrics.  See docs/rendezvous.md.
gateway:
  listen: {_scalar(str(gateway.listen))}
  advertise: {_scalar(str(gateway.advertise))}
{optional("url", gateway.url)}{tls}\
  trusted_proxies: {texts(gateway.trusted_proxies)}
  metrics_clients: {texts(gateway.metrics_clients)}
  allowed_hosts: {texts(gateway.allowed_hosts)}
  # Approving on the page takes a session cookie; sign_in_url: where people get one, {{return}} in
  # it: the link that brings them back.  begin: the kinds that browsers may begin, such as [mfa].
  rendezvous:
    require_session: {"true" if gateway.require_session else "false"}
{"" if gateway.sign_in_url is None else f"    sign_in_url: {json.dumps(gateway.sign_in_url)}{chr(10)}"}\
    begin: {texts(gateway.begin)}
"""


def write_config(path: str | os.PathLike[str], config: Config, *, exclusive: bool = False) -> None:
    """Write node.yaml atomically, mode 0600, on the disk when this returns.

    exclusive: raise AlreadyExists rather than replace a file.  Comments that
    somebody added are lost.  Raises StorageError.
    """
    write_node_file(path, dump_config(config).encode(), exclusive=exclusive)


def rewrite_addresses(
    path: str | os.PathLike[str], wanted: Config, *, modified_ns: int | None = None
) -> None:
    """Put listen, advertise and peers of a configuration into the node.yaml of the same node.

    The rest of the file stays as it was written, comments too, wherever it
    can; atomic, as write_config.  modified_ns: as in write_node_file.
    Raises ConfigError, StorageError.
    """
    with open(path, encoding="utf-8") as file:
        _rewrite(path, _with_addresses(file.read(), wanted), wanted, modified_ns)


def rewrite_snapshots(path: str | os.PathLike[str], wanted: Config) -> None:
    """The same for the snapshot policy."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for key, value in root.value:
        if key.value == "snapshots":
            text = text[: key.start_mark.index].rstrip("\n") + "\n" + text[value.end_mark.index :]
    _rewrite(path, text.rstrip("\n") + "\n" + _dump_snapshots(wanted.snapshots), wanted)


def _rewrite(path: str | os.PathLike[str], text: str, wanted: Config, modified_ns: int | None = None) -> None:
    try:
        kept = parse_config(text) == wanted
    except ConfigError:
        kept = False  # all of it in one pair of braces, for example
    write_node_file(path, (text if kept else dump_config(wanted)).encode(), modified_ns=modified_ns)


def _with_addresses(text: str, wanted: Config) -> str:
    """A text that load_config took, with other addresses."""
    edits: list[tuple[int, int, str]] = []  # from, to, instead

    def put(node: Any, address: Address) -> None:
        if node.value != str(address):
            edits.append((node.start_mark.index, node.end_mark.index, _scalar(str(address))))

    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    fields: dict[str, Any] = {key.value: value for key, value in root.value}
    put(fields["listen"], wanted.listen)
    if "advertise" in fields:
        put(fields["advertise"], wanted.advertise)
    elif wanted.advertise != wanted.listen:
        start = root.value[0][0].start_mark.index
        edits.append((start, start, f"advertise: {_scalar(str(wanted.advertise))}\n"))
    peers: Any = fields.get("peers")
    known = {} if peers is None else {key.value: value for key, value in peers.value}
    more = {name: address for name, address in wanted.peers.items() if name not in known}
    for name, address in wanted.peers.items():
        if name in known:
            put(known[name], address)
    if more and peers is None:
        lines = "".join(f"  {_scalar(name)}: {_scalar(str(address))}\n" for name, address in more.items())
        start = root.value[0][0].start_mark.index
        edits.append((start, start, f"peers:\n{lines}"))
    elif more and peers.flow_style:
        items = [f"{json.dumps(name)}: {json.dumps(str(address))}" for name, address in more.items()]
        start = peers.start_mark.index + 1
        edits.append((start, start, ", ".join(items) + (", " if known else "")))
    elif more:
        first = peers.value[0][0].start_mark
        items = [f"{_scalar(name)}: {_scalar(str(address))}" for name, address in more.items()]
        edits.append((first.index, first.index, "".join(f"{item}\n{' ' * first.column}" for item in items)))
    for start, end, instead in sorted(edits, reverse=True):
        text = text[:start] + instead + text[end:]
    return text


def _scalar(text: str) -> str:
    """Plain where YAML 1.1 reads it back as text (not so for 12, no, 1:30), else in quotes."""
    resolver = yaml.resolver.Resolver()
    tag = resolver.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # as above
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.:-]*", text) and not text.endswith(":")
    return text if plain and tag == "tag:yaml.org,2002:str" else json.dumps(text)
