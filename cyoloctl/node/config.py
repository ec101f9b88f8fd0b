"""node.yaml: text to a frozen Config, or to all that is wrong in it.

The format is strict, so that a typing mistake is told and not ignored: unknown
and repeated fields, wrong types, aliases, anchors and tags are errors, and each
error names file, line and column.  `config_writer` is the way back.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast

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
from cyoloctl.pki.identity import parse_cluster_id
from cyoloctl.snapshots.policy import MIN_EVERY_S, SnapshotPolicy, parse_every

__all__ = [
    "CONFIG_NAME",
    "KNOWN_PEERS",
    "MAX_BYTES",
    "MAX_FAULTS",
    "SCHEMA_VERSION",
    "Config",
    "Fault",
    "LogConfig",
    "LogFormat",
    "LogLevel",
    "Profile",
    "config_of",
    "find_lines",
    "load_config",
    "parse_config",
    "read_bytes",
    "read_file",
    "read_text",
]

CONFIG_NAME = "node.yaml"
"""The file's name in the data directory."""

KNOWN_PEERS = "peers.json"
"""The file of a member in memory with the peers that it knew last; node.yaml counts where it is newer."""

SCHEMA_VERSION = 1

MAX_BYTES = 256 * 1024
MAX_FAULTS = 100
"""So many are told of one file."""
_MAX_DEPTH = 8

_T = TypeVar("_T")

_TOP = (
    *("schema_version", "name", "cluster", "listen", "advertise", "storage", "peers", "log", "gateway"),
    *("socket_group", "snapshots", "witness", "offline_ca", "machines", "profile"),
)
_GATEWAY = (
    *("listen", "advertise", "url", "tls", "trusted_proxies", "metrics_clients", "allowed_hosts"),
    "rendezvous",
)

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
Profile = Literal["standard", "small"]


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
    machines: the classes of machines that users wrote, MODULE:CLASS.  profile:
    the kind of machine that it runs on, which decides periods and bounds.
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
    profile: Profile = "standard"

    def __post_init__(self) -> None:
        others = {name: address for name, address in self.peers.items() if name != self.name}
        object.__setattr__(self, "peers", MappingProxyType(others))


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a configuration.

    key: the dotted name of the field, such as gateway.listen; empty where no
    field is meant.  message: what is wrong, and what to do.  line, column: where,
    from 1; None where the text is right and what it names is not.  newer: a
    newer release wrote the file.
    """

    key: str
    message: str
    line: int | None = None
    column: int | None = None
    newer: bool = False

    @property
    def place(self) -> str:
        """Where it is in the file."""
        return "" if self.line is None else f"line {self.line}, column {self.column}"


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read node.yaml.

    Raises ConfigError naming file, line and column (without line and column
    where the file is missing or cannot be read), VersionMismatch when a newer
    release wrote it.
    """
    return config_of(read_bytes(read_file(path), os.fspath(path)), os.fspath(path))


def read_file(path: str | os.PathLike[str]) -> bytes:
    """What is in a node.yaml, and one byte more than it may have at most.  Raises ConfigError."""
    where = os.fspath(path)
    try:
        # Not blocking: a pipe of that name must not hold up a node that reloads.
        with open(where, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "it is not a file")
            return file.read(MAX_BYTES + 1)
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


def parse_config(text: str, where: str = CONFIG_NAME) -> Config:
    """The configuration that a YAML text describes.

    where: the file's name for error messages.  Raises as load_config does; no
    text whatever raises anything else.
    """
    return config_of(read_text(text), where)


def read_bytes(data: bytes, where: str = CONFIG_NAME) -> Config | list[Fault]:
    """The configuration that the bytes of a file describe, or all that is wrong in them, in their order.

    Raises ConfigError for more than a node.yaml can have.
    """
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{where} is larger than {MAX_BYTES} bytes: it is not a node.yaml")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        place = _position(data[: error.start].decode("utf-8"))
        return [_fault(*place, "this is not UTF-8 text: save the file as UTF-8")]
    return read_text(text)


def read_text(text: str) -> Config | list[Fault]:
    """The configuration that a YAML text describes, or all that is wrong in it, in its order."""
    faults: list[Fault] = []
    try:
        return _Fields(faults, "", None, _compose(text), "the file").config()
    except _Newer as newer:
        return [newer.fault]
    except _Wrong as wrong:
        faults += wrong.faults
    return sorted(faults, key=lambda fault: (fault.line or 0, fault.column or 0))


def find_lines(text: str) -> dict[str, int]:
    """The line of each field, by its dotted name, in a text that parse_config took."""

    def walk(mapping: Any, prefix: str) -> Iterator[tuple[str, int]]:
        for key, value in mapping.value:
            yield prefix + key.value, key.start_mark.line + 1
            if isinstance(value, yaml.MappingNode):
                yield from walk(value, f"{prefix}{key.value}.")

    return dict(walk(yaml.compose(text, Loader=yaml.SafeLoader), ""))


def config_of(found: Config | list[Fault], where: str) -> Config:
    """What was read, if it is right.

    where: the file's name for messages.  Raises ConfigError for the first
    fault, VersionMismatch where a newer release wrote the file.
    """
    if isinstance(found, Config):
        return found
    first, more = found[0], len(found) - 1
    message = f"{where}, {first.place}: {first.message}"
    if first.newer:
        raise VersionMismatch(message)
    if more:
        message += f" ({more} more: `cyoloctl config check` shows all)"
    raise ConfigError(message)


def _compose(text: str) -> yaml.Node | None:
    """The nodes of a text.  Raises _Wrong."""
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.reader.ReaderError as error:
        place = _position(text[: error.position])
        raise _Wrong(_fault(*place, "this character is not allowed: remove it")) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        problem = error.problem or error.context
        raise _Wrong(_fault(line, column, f"this is not YAML: {problem}; correct it")) from None
    except (ValueError, OverflowError):
        # The scanner passes what it read to int() and chr(): "\U00110000" is a bare ValueError.
        line, column = (loader.line, loader.column) if loader else (0, 0)
        problem = "this is not YAML: a number or escape is out of range; correct it"
        raise _Wrong(_fault(line, column, problem)) from None


class _Wrong(Exception):
    """Ends the reading of a field or of the file; faults: why, where that is not noted yet."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(*faults)
        self.faults = faults


class _Newer(Exception):
    """Ends the reading of a file that a newer release wrote."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


class _Loader(yaml.SafeLoader):
    """Composes nodes, never constructs; refuses what a hand-edited file has no use for."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
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
            raise _Wrong(_fault(event.start_mark.line, event.start_mark.column, problem))
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Fields:
    """The fields of one mapping.

    Takes them one by one, and notes each that is wrong; what is made of them is made when none was.
    """

    def __init__(
        self, faults: list[Fault], prefix: str, at: yaml.Node | None, node: yaml.Node | None, what: str
    ) -> None:
        """faults: those of the whole file, noted so far.  prefix: what the dotted names here begin with."""
        self._faults = faults
        self._prefix = prefix
        self._what = what
        self._at = node or at
        self._values: dict[str, yaml.Node] = {}
        self._keys: dict[str, yaml.Node] = {}
        if not isinstance(node, yaml.MappingNode):
            raise self._error(self._at, f"{what} must be a mapping of fields to values (name: value)")
        for key, value in node.value:
            text = self._tried("", partial(self._text, key, "a field's name"))
            if text in self._keys:
                line = self._keys[text].start_mark.line + 1
                self._note(
                    text, self._error(key, f"{text!r} is there twice, first in line {line}: remove one")
                )
            elif isinstance(text, str):
                self._keys[text] = key
                self._values[text] = value

    def _note(self, name: str, wrong: _Wrong) -> None:
        """Note why a field is wrong, once, and no more than people can read of one file."""
        for fault in wrong.faults[: MAX_FAULTS - len(self._faults)]:
            named = fault if fault.key else replace(fault, key=f"{self._prefix}{name}".rstrip("."))
            if named not in self._faults:
                self._faults.append(named)

    def _tried(self, name: str, read: Callable[[], _T]) -> _T:
        """A field's value; None, whatever the type says, where it is wrong: `_stop` comes before its use."""
        try:
            return read()
        except _Wrong as wrong:
            self._note(name, wrong)
            return cast(_T, None)

    def _stop(self) -> None:
        """Make nothing of fields that are wrong."""
        if self._faults:
            raise _Wrong

    def config(self) -> Config:
        """The whole file."""
        tried = self._tried
        # Before the names of fields: a newer file may have others.
        tried("schema_version", self._version)
        self._only(*_TOP)
        cluster_id, cluster = tried("cluster", self._cluster) or (None, None)
        listen, advertise = self._listen_and_advertise()
        witness = tried("witness", lambda: self._flag("witness", False))
        if witness and "gateway" in self._values:
            wrong = self._error(self._keys["gateway"], "a witness has no gateway: remove 'gateway'")
            self._note("gateway", wrong)
        given = self._values
        name = tried("name", lambda: self._name("name"))
        storage = tried("storage", lambda: self._choice("storage", "disk", "memory"))
        peers = tried("peers", lambda: self._fields("peers")._addresses())
        log = tried("log", lambda: self._fields("log")._log())
        gateway = tried("gateway", lambda: self._fields("gateway")._gateway()) if "gateway" in given else None
        group = (
            tried("socket_group", lambda: self._text(given["socket_group"], "'socket_group'"))
            if "socket_group" in given
            else None
        )
        snapshots = (
            tried("snapshots", lambda: self._fields("snapshots")._snapshots())
            if "snapshots" in given
            else None
        )
        offline_ca = tried("offline_ca", lambda: self._flag("offline_ca", False))
        machines = tried("machines", lambda: self._texts("machines", parse_target, ()))
        profile = tried("profile", lambda: self._choice("profile", "standard", "small"))
        self._stop()
        return Config(
            name=name,
            cluster_id=cluster_id,
            cluster=cluster,
            listen=listen,
            advertise=advertise,
            storage=cast(Storage, storage),
            peers=peers,
            log=log,
            gateway=gateway,
            socket_group=group,
            snapshots=snapshots,
            witness=witness,
            offline_ca=offline_ca,
            machines=machines,
            profile=cast(Profile, profile),
        )

    def _cluster(self) -> tuple[ClusterId, NodeName]:
        cluster = self._fields("cluster", self._required("cluster"))
        cluster._only("id", "name")
        return (
            cluster._tried("id", lambda: cluster._cluster_id("id")),
            cluster._tried("name", lambda: cluster._name("name")),
        )

    def _log(self) -> LogConfig:
        self._only("format", "level")
        form = self._tried("format", lambda: self._choice("format", "text", "json"))
        level = self._tried("level", lambda: self._choice("level", "info", "debug", "warning", "error"))
        return LogConfig(cast(LogFormat, form), cast(LogLevel, level))

    def _snapshots(self) -> SnapshotPolicy:
        self._only("every", "keep", "directory")
        every_s = self._tried("every", self._every_s)
        keep = self._tried("keep", self._keep)
        directory = self._tried("directory", lambda: self._path("directory"))
        self._stop()
        return SnapshotPolicy(every_s, keep, directory)

    def _every_s(self) -> int:
        node = self._required("every")
        try:
            return SnapshotPolicy(parse_every(self._text(node, "'every'")), 1, "/").every_s
        except InvalidInput as error:
            raise self._error(node, error.message) from None

    def _keep(self) -> int:
        node = self._required("keep")
        if not isinstance(node, yaml.ScalarNode) or not re.fullmatch("[0-9]{1,9}", node.value):
            raise self._error(node, "'keep' must be a number of snapshots")
        try:
            return SnapshotPolicy(MIN_EVERY_S, int(node.value), "/").keep
        except InvalidInput as error:
            raise self._error(node, error.message) from None

    def _gateway(self) -> GatewayConfig:
        self._only(*_GATEWAY)
        tried = self._tried
        listen, advertise = self._listen_and_advertise()
        certificate, key = tried("tls", self._tls) or (None, None)
        rendezvous = tried("rendezvous", lambda: self._fields("rendezvous")._rendezvous())
        if advertise is not None:
            tried("advertise" if "advertise" in self._values else "listen", partial(self._shown, advertise))
        url = tried("url", lambda: self._url("url", parse_gateway_url))
        proxies = self._texts("trusted_proxies", parse_network, LOOPBACK)
        metrics = self._texts("metrics_clients", parse_network, LOOPBACK)
        hosts = self._texts("allowed_hosts", parse_host, ())
        self._stop()
        require_session, sign_in_url, begin = rendezvous
        return GatewayConfig(
            listen=listen,
            advertise=advertise,
            url=url,
            certificate=certificate,
            key=key,
            trusted_proxies=proxies,
            metrics_clients=metrics,
            allowed_hosts=hosts,
            require_session=require_session,
            sign_in_url=sign_in_url,
            begin=begin,
        )

    def _shown(self, advertise: Address) -> None:
        """Check that proxies' files can hold an address."""
        try:
            parse_host(advertise.host.lower())
        except InvalidInput as error:
            node = self._values.get("advertise") or self._values["listen"]
            raise self._error(node, error.message) from None

    def _tls(self) -> tuple[str | None, str | None]:
        if "tls" not in self._values:
            return None, None
        tls = self._fields("tls")
        tls._only("certificate", "key")
        return (
            tls._tried("certificate", lambda: tls._path("certificate")),
            tls._tried("key", lambda: tls._path("key")),
        )

    def _rendezvous(self) -> tuple[bool, str | None, tuple[str, ...]]:
        self._only("require_session", "sign_in_url", "begin")
        return (
            self._tried("require_session", lambda: self._flag("require_session", True)),
            self._tried("sign_in_url", lambda: self._url("sign_in_url", parse_link)),
            self._texts("begin", lambda text: parse_name(text, "a kind"), ()),
        )

    def _listen_and_advertise(self) -> tuple[Address, Address]:
        listen = self._tried("listen", lambda: self._address("listen"))
        if "advertise" in self._values:
            return listen, self._tried(
                "advertise", lambda: self._address("advertise", parse_dialable_address)
            )
        return listen, self._tried("listen", self._listen_for_others)

    def _listen_for_others(self) -> Address:
        """The address to listen on as the one that the others dial."""
        listen = self._address("listen")
        if is_wildcard(listen.host):
            raise self._error(
                self._values["listen"],
                f"the others cannot dial {listen}: set advertise to an address that they can reach",
            )
        return self._address("listen", parse_dialable_address)

    def _url(self, name: str, parse: Callable[[str], str]) -> str | None:
        return self._parsed(self._values[name], repr(name), parse) if name in self._values else None

    def _path(self, name: str) -> str:
        node = self._required(name)
        path = self._text(node, repr(name))
        if not os.path.isabs(path) or not path.isprintable():
            # Not shown: somebody may have put the key itself where the path of its file belongs.
            raise self._error(node, f"{name!r} is not a path that begins with /: use an absolute path")
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
            self._note(name, self._error(node, f"{name!r} must be a list: [ONE, OTHER]"))
            return default
        what = f"an item of {name!r}"
        return tuple(self._tried(name, partial(self._parsed, item, what, parse)) for item in node.value)

    def _parsed(self, node: yaml.Node, what: str, parse: Callable[[str], str]) -> str:
        try:
            return parse(self._text(node, what))
        except InvalidInput as error:
            raise self._error(node, error.message) from None

    def _error(self, node: yaml.Node | None, problem: str) -> _Wrong:
        mark = node.start_mark if node is not None else None
        return _Wrong(_fault(mark.line if mark else 0, mark.column if mark else 0, problem))

    def _only(self, *known: str) -> None:
        for text, key in self._keys.items():
            if text not in known and len(self._faults) < MAX_FAULTS:
                import difflib

                close = difflib.get_close_matches(text, known, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"the fields are {', '.join(known)}"
                wrong = self._error(key, f"{self._what} has an unknown field {text[:80]!r}: {hint}")
                self._note(text[:80], wrong)

    def _required(self, name: str) -> yaml.Node:
        if name not in self._values:
            raise self._error(self._at, f"{self._what} has no field {name!r}: add it")
        return self._values[name]

    def _fields(self, name: str, node: yaml.Node | None = None) -> _Fields:
        """A mapping; an empty one where it is absent."""
        empty = yaml.MappingNode("tag:yaml.org,2002:map", [], *self._marks())
        found = node or self._values.get(name, empty)
        return _Fields(self._faults, f"{self._prefix}{name}.", self._at, found, f"{name!r}")

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
            (fault,) = self._error(
                node,
                f"schema_version {node.value} was written by a newer release: this one reads up to "
                f"{SCHEMA_VERSION}; upgrade cyoloctl",
            ).faults
            # Nothing else is looked at: a newer file may be made otherwise.
            raise _Newer(replace(fault, key="schema_version", newer=True))

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
        what = f"a name in {self._what}"
        return {
            self._tried(text, partial(self._parsed_name, key, what)): self._tried(
                text, partial(self._address, text, parse_dialable_address)
            )
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


def _fault(line: int, column: int, problem: str) -> Fault:
    """line and column count from 0, as YAML marks do; people count from 1."""
    return Fault("", problem, line + 1, column + 1)


def _position(before: str) -> tuple[int, int]:
    return before.count("\n"), len(before) - (before.rfind("\n") + 1)
