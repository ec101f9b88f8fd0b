"""node.yaml: text to a frozen Config and back.  The only module that knows YAML.

The format is strict, so that a typing mistake is told and not ignored: unknown
and repeated fields, wrong types, aliases, anchors and tags are errors, and each
error names file, line and column.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, cast

import yaml

from cyoloctl.errors import ConfigError, InvalidInput, VersionMismatch
from cyoloctl.machines.names import parse_target
from cyoloctl.model import (
    Address,
    ClusterId,
    NodeName,
    Storage,
    is_wildcard,
    parse_address,
    parse_dialable_address,
    parse_name,
)
from cyoloctl.node.gateway_config import (
    LOOPBACK,
    GatewayConfig,
    parse_gateway_url,
    parse_host,
    parse_link,
    parse_network,
)
from cyoloctl.paths import write_node_file
from cyoloctl.pki.identity import parse_cluster_id
from cyoloctl.snapshots.policy import SnapshotPolicy, parse_every

__all__ = [
    "CONFIG_NAME",
    "KNOWN_PEERS",
    "SCHEMA_VERSION",
    "Config",
    "LogConfig",
    "LogFormat",
    "LogLevel",
    "dump_config",
    "load_config",
    "parse_config",
    "rewrite_addresses",
    "rewrite_snapshots",
    "write_config",
]

CONFIG_NAME = "node.yaml"
"""The file's name in the data directory."""

KNOWN_PEERS = "peers.json"
"""The file of a member in memory with the peers that it knew last; node.yaml counts where it is newer."""

SCHEMA_VERSION = 1

_MAX_BYTES = 256 * 1024
_MAX_DEPTH = 8

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Settings of the node's log."""

    format: LogFormat = "text"
    level: LogLevel = "info"


@dataclass(frozen=True, slots=True)
class Config:
    """A node's configuration; every value is valid.

    listen: where this node accepts connections.  advertise: where the others
    reach it.  peers: where to dial first, never this node itself; the log
    knows the present members and addresses.  gateway: None: it has none.
    socket_group: the group of this machine that may use gateway.sock, with the
    role of a gateway; None: there is no such socket.  snapshots: those that it
    saves by itself; None: none.  witness: whether it votes without holding
    any key; the cluster knows, and this says so before the log is here.
    offline_ca: whether the key of the CA is with the operator and on no member.
    machines: the classes of machines that users wrote, MODULE:CLASS.
    """

    name: NodeName
    cluster_id: ClusterId
    cluster: NodeName
    listen: Address
    advertise: Address
    storage: Storage = "disk"
    peers: Mapping[NodeName, Address] = field(default_factory=dict)
    log: LogConfig = LogConfig()
    gateway: GatewayConfig | None = None
    socket_group: str | None = None
    snapshots: SnapshotPolicy | None = None
    witness: bool = False
    offline_ca: bool = False
    machines: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        others = {name: address for name, address in self.peers.items() if name != self.name}
        object.__setattr__(self, "peers", MappingProxyType(others))


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read node.yaml.

    Raises ConfigError naming file, line and column (without line and column
    where the file is missing or cannot be read), VersionMismatch when a newer
    release wrote it.
    """
    where = os.fspath(path)
    try:
        with open(where, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"{where} is not there: run `cyoloctl cluster init` for a new cluster or `cyoloctl node join` "
            "for a new member, or name the right data directory with --data-dir"
        ) from None
    except PermissionError as error:
        raise ConfigError(
            f"cannot read {where}: permission denied; run the command as the user that runs the node, or "
            "name another directory with --data-dir"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read {where}: {error.strerror}; correct it and try again") from error
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{where} is larger than {_MAX_BYTES} bytes: it is not a node.yaml")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        raise _error(where, *_position(before), "this is not UTF-8 text: save the file as UTF-8") from None
    return parse_config(text, where)


def parse_config(text: str, where: str = CONFIG_NAME) -> Config:
    """The configuration that a YAML text describes.

    where: the file's name for error messages.  Raises as load_config does; no
    text whatever raises anything else.
    """
    loader: _Loader | None = None
    try:
        loader = _Loader(text, where)
        root = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        raise _error(
            where, *_position(text[: error.position]), "this character is not allowed: remove it"
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        raise _error(where, line, column, f"this is not YAML: {error.problem or error.context}") from None
    except (ValueError, OverflowError):
        # The scanner passes what it read to int() and chr(): "\U00110000" is a bare ValueError.
        line, column = (loader.line, loader.column) if loader else (0, 0)
        raise _error(where, line, column, "this is not YAML: a number or escape is out of range") from None
    return _Fields(where, None, root, "the file").config()


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
{_dump_witness(config.witness)}{_dump_offline_ca(config.offline_ca)}{_dump_socket_group(config.socket_group)}{_dump_gateway(config.gateway)}{_dump_machines(config.machines)}{_dump_snapshots(config.snapshots)}"""


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


class _Loader(yaml.SafeLoader):
    """Composes nodes, never constructs; refuses what a hand-edited file has no use for."""

    def __init__(self, text: str, where: str) -> None:
        super().__init__(text)
        self._where = where
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # types-PyYAML 6.0.12
        problem = None
        if isinstance(event, yaml.AliasEvent):
            problem = "aliases (*name) are not allowed: write the value out"
        elif getattr(event, "anchor", None) is not None:
            problem = "anchors (&name) are not allowed: remove it"
        elif getattr(event, "tag", None) is not None:
            problem = "tags (!name) are not allowed: remove it"
        elif self._depth >= _MAX_DEPTH:
            problem = "this is nested too deeply"
        if problem is not None:
            raise _error(self._where, event.start_mark.line, event.start_mark.column, problem)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Fields:
    """The fields of one mapping; takes them one by one and reports the first that is wrong."""

    def __init__(self, where: str, at: yaml.Node | None, node: yaml.Node | None, what: str) -> None:
        self._where = where
        self._what = what
        self._at = node or at
        self._values: dict[str, yaml.Node] = {}
        self._keys: dict[str, yaml.Node] = {}
        if not isinstance(node, yaml.MappingNode):
            raise self._error(self._at, f"{what} must be a mapping of fields to values (name: value)")
        for key, value in node.value:
            text = self._text(key, "a field's name")
            if text in self._keys:
                line = self._keys[text].start_mark.line + 1
                raise self._error(key, f"{text!r} is there twice, first in line {line}: remove one")
            self._keys[text] = key
            self._values[text] = value

    def config(self) -> Config:
        """The whole file."""
        # Before the names of fields: a newer file may have others.
        self._version()
        self._only(
            *(
                "schema_version",
                "name",
                "cluster",
                "listen",
                "advertise",
                "storage",
                "peers",
                "log",
                "gateway",
            ),
            "socket_group",
            "snapshots",
            "witness",
            "offline_ca",
            "machines",
        )
        cluster = _Fields(self._where, self._at, self._required("cluster"), "'cluster'")
        cluster._only("id", "name")
        log = self._fields("log")
        log._only("format", "level")
        listen, advertise = self._listen_and_advertise()
        witness = self._flag("witness", False)
        if witness and "gateway" in self._values:
            raise self._error(self._keys["gateway"], "a witness has no gateway: remove 'gateway'")
        return Config(
            name=self._name("name"),
            cluster_id=cluster._cluster_id("id"),
            cluster=cluster._name("name"),
            listen=listen,
            advertise=advertise,
            storage=cast(Storage, self._choice("storage", "disk", "memory")),
            peers=self._fields("peers")._addresses(),
            log=LogConfig(
                cast(LogFormat, log._choice("format", "text", "json")),
                cast(LogLevel, log._choice("level", "info", "debug", "warning", "error")),
            ),
            gateway=self._fields("gateway")._gateway() if "gateway" in self._values else None,
            socket_group=(
                self._text(self._values["socket_group"], "'socket_group'")
                if "socket_group" in self._values
                else None
            ),
            snapshots=self._fields("snapshots")._snapshots() if "snapshots" in self._values else None,
            witness=witness,
            offline_ca=self._flag("offline_ca", False),
            machines=self._texts("machines", parse_target, ()),
        )

    def _snapshots(self) -> SnapshotPolicy:
        self._only("every", "keep", "directory")
        every, keep = self._required("every"), self._required("keep")
        try:
            if not isinstance(keep, yaml.ScalarNode) or not re.fullmatch("[0-9]{1,9}", keep.value):
                raise InvalidInput("'keep' must be a number of snapshots")
            every_s = parse_every(self._text(every, "'every'"))
            return SnapshotPolicy(every_s, int(keep.value), self._path("directory"))
        except InvalidInput as error:
            raise self._error(every, error.message) from None

    def _gateway(self) -> GatewayConfig:
        self._only(
            "listen",
            "advertise",
            "url",
            "tls",
            "trusted_proxies",
            "metrics_clients",
            "allowed_hosts",
            "rendezvous",
        )
        listen, advertise = self._listen_and_advertise()
        certificate = key = None
        if "tls" in self._values:
            tls = self._fields("tls")
            tls._only("certificate", "key")
            certificate, key = tls._path("certificate"), tls._path("key")
        rendezvous = self._fields("rendezvous")
        rendezvous._only("require_session", "sign_in_url", "begin")
        try:
            parse_host(advertise.host.lower())
        except InvalidInput as error:
            raise self._error(
                self._values.get("advertise") or self._values["listen"], error.message
            ) from None
        return GatewayConfig(
            listen=listen,
            advertise=advertise,
            url=self._url("url", parse_gateway_url),
            certificate=certificate,
            key=key,
            trusted_proxies=self._texts("trusted_proxies", parse_network, LOOPBACK),
            metrics_clients=self._texts("metrics_clients", parse_network, LOOPBACK),
            allowed_hosts=self._texts("allowed_hosts", parse_host, ()),
            require_session=rendezvous._flag("require_session", True),
            sign_in_url=rendezvous._url("sign_in_url", parse_link),
            begin=rendezvous._texts("begin", lambda text: parse_name(text, "a kind"), ()),
        )

    def _listen_and_advertise(self) -> tuple[Address, Address]:
        listen = self._address("listen")
        if "advertise" in self._values:
            return listen, self._address("advertise", parse_dialable_address)
        if is_wildcard(listen.host):
            raise self._error(
                self._values["listen"],
                f"the others cannot dial {listen}: set advertise to an address that they can reach",
            )
        return listen, self._address("listen", parse_dialable_address)

    def _url(self, name: str, parse: Callable[[str], str]) -> str | None:
        return self._parsed(self._values[name], repr(name), parse) if name in self._values else None

    def _path(self, name: str) -> str:
        node = self._required(name)
        path = self._text(node, repr(name))
        if not os.path.isabs(path) or not path.isprintable():
            raise self._error(node, f"{name!r} is {path[:80]!r}: use an absolute path")
        return path

    def _flag(self, name: str, default: bool) -> bool:
        node = self._values.get(name)
        if node is None:
            return default
        if not isinstance(node, yaml.ScalarNode) or node.value not in ("true", "false"):
            raise self._error(node, f"{name!r} must be true or false")
        return bool(node.value == "true")

    def _texts(self, name: str, parse: Callable[[str], str], default: tuple[str, ...]) -> tuple[str, ...]:
        """An optional list of texts."""
        node = self._values.get(name)
        if node is None:
            return default
        if not isinstance(node, yaml.SequenceNode):
            raise self._error(node, f"{name!r} must be a list: [ONE, OTHER]")
        return tuple(self._parsed(item, f"an item of {name!r}", parse) for item in node.value)

    def _parsed(self, node: yaml.Node, what: str, parse: Callable[[str], str]) -> str:
        try:
            return parse(self._text(node, what))
        except InvalidInput as error:
            raise self._error(node, error.message) from None

    def _error(self, node: yaml.Node | None, problem: str) -> ConfigError:
        mark = node.start_mark if node is not None else None
        return _error(self._where, mark.line if mark else 0, mark.column if mark else 0, problem)

    def _only(self, *known: str) -> None:
        for text, key in self._keys.items():
            if text not in known:
                close = difflib.get_close_matches(text, known, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"the fields are {', '.join(known)}"
                raise self._error(key, f"{self._what} has an unknown field {text[:80]!r}: {hint}")

    def _required(self, name: str) -> yaml.Node:
        if name not in self._values:
            raise self._error(self._at, f"{self._what} has no field {name!r}: add it")
        return self._values[name]

    def _fields(self, name: str) -> _Fields:
        """An optional mapping; an empty one where it is absent."""
        empty = yaml.MappingNode("tag:yaml.org,2002:map", [], *self._marks())
        return _Fields(self._where, self._at, self._values.get(name, empty), f"{name!r}")

    def _marks(self) -> tuple[yaml.Mark | None, yaml.Mark | None]:
        return (self._at.start_mark, self._at.end_mark) if self._at is not None else (None, None)

    def _text(self, node: yaml.Node, what: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, f"{what} must be one text")
        if node.tag == "tag:yaml.org,2002:null":
            raise self._error(node, f"{what} is empty: give it a value, or remove the field")
        if node.tag != "tag:yaml.org,2002:str":
            kind = str(node.tag).rsplit(":", 1)[-1]
            shown = str(node.value)[:80]
            raise self._error(
                node, f"{what} must be text, and YAML takes {shown} for {kind}: put it in quotes"
            )
        return cast(str, node.value)

    def _version(self) -> None:
        node = self._required("schema_version")
        if (
            not isinstance(node, yaml.ScalarNode)
            or node.tag != "tag:yaml.org,2002:int"
            or not re.fullmatch(r"[1-9][0-9]{0,8}", node.value)
        ):
            raise self._error(node, f"'schema_version' must be the number {SCHEMA_VERSION}")
        if int(node.value) > SCHEMA_VERSION:
            raise VersionMismatch(
                f"{self._error(node, f'schema_version {node.value} was written by a newer release')}: "
                f"this one reads up to {SCHEMA_VERSION}; upgrade cyoloctl"
            )

    def _name(self, name: str) -> NodeName:
        node = self._required(name)
        return self._parsed_name(node, repr(name))

    def _parsed_name(self, node: yaml.Node, what: str) -> NodeName:
        try:
            return parse_name(self._text(node, what), what)
        except InvalidInput as error:
            raise self._error(node, error.message) from None

    def _cluster_id(self, name: str) -> ClusterId:
        node = self._required(name)
        try:
            return parse_cluster_id(self._text(node, repr(name)))
        except InvalidInput as error:
            raise self._error(node, error.message) from None

    def _address(self, name: str, parse: Callable[[str, str], Address] = parse_address) -> Address:
        node = self._required(name)
        try:
            return parse(self._text(node, repr(name)), repr(name))
        except InvalidInput as error:
            raise self._error(node, error.message) from None

    def _addresses(self) -> dict[NodeName, Address]:
        return {
            self._parsed_name(key, f"a name in {self._what}"): self._address(text, parse_dialable_address)
            for text, key in self._keys.items()
        }

    def _choice(self, name: str, default: str, *others: str) -> str:
        if name not in self._values:
            return default
        node = self._values[name]
        text = self._text(node, repr(name))
        if text not in (default, *others):
            raise self._error(node, f"{name!r} is {text[:80]!r}: use {' or '.join((default, *others))}")
        return text


def _error(where: str, line: int, column: int, problem: str) -> ConfigError:
    """line and column count from 0, as YAML marks do; people count from 1."""
    return ConfigError(f"{where}, line {line + 1}, column {column + 1}: {problem}")


def _position(before: str) -> tuple[int, int]:
    return before.count("\n"), len(before) - (before.rfind("\n") + 1)


def _scalar(text: str) -> str:
    """Plain where YAML 1.1 reads it back as text (not so for 12, no, 1:30), else in quotes."""
    resolver = yaml.resolver.Resolver()
    tag = resolver.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # as above
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.:-]*", text) and not text.endswith(":")
    return text if plain and tag == "tag:yaml.org,2002:str" else json.dumps(text)
