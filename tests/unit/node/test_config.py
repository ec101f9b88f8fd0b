"""node.yaml and the places of a node's files."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cyoloctl.errors import AlreadyExists, ConfigError, StorageError, VersionMismatch
from cyoloctl.model import Address, ClusterId, NodeName
from cyoloctl.node.config import (
    MAX_FAULTS,
    Config,
    LogConfig,
    find_lines,
    load_config,
    parse_config,
    read_text,
)
from cyoloctl.node.config_writer import dump_config, write_config
from cyoloctl.node.gateway_config import GatewayConfig
from cyoloctl.paths import (
    MAX_SOCKET_PATH_BYTES,
    control_socket_path,
    default_data_dir,
    write_private,
)

CLUSTER_ID = "0123456789abcdef0123456789abcdef"

MINIMAL = f"""\
schema_version: 1
name: n1
cluster: {{id: "{CLUSTER_ID}", name: demo}}
listen: 127.0.0.1:7700
# the fifth line
"""

FULL = Config(
    name=NodeName("n1"),
    cluster_id=ClusterId(CLUSTER_ID),
    cluster=NodeName("demo"),
    listen=Address("::", 7700),
    advertise=Address("fd00::1", 7700),
    storage="memory",
    peers={NodeName("1e3"): Address("10.0.0.2", 7700), NodeName("on"): Address("n3.example", 1)},
    log=LogConfig("json", "debug"),
    gateway=GatewayConfig(
        listen=Address("::", 8443),
        advertise=Address("app-1.example.com", 8443),
        url="https://app.example.com/x",
        certificate="/etc/a b/tls.crt",
        key="/etc/a b/tls.key",
        trusted_proxies=("10.0.0.0/8", "fd00::1/128"),
        metrics_clients=(),
        allowed_hosts=("localhost", "::1"),
        require_session=False,
        sign_in_url="https://login.example.com/?next={return}&a#b",
        begin=("mfa", "1e3"),
    ),
    socket_group="a group: 1",
)


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "/x/node.yaml")
    return caught.value.message


# -- reading ------------------------------------------------------------------------------------


def test_parse_config_of_a_minimal_file_fills_in_defaults() -> None:
    config = parse_config(MINIMAL)
    assert config == Config(
        name=NodeName("n1"),
        cluster_id=ClusterId(CLUSTER_ID),
        cluster=NodeName("demo"),
        listen=Address("127.0.0.1", 7700),
        advertise=Address("127.0.0.1", 7700),
    )
    assert (config.storage, dict(config.peers), config.log) == ("disk", {}, LogConfig("text", "info"))


def test_dump_config_of_names_that_yaml_takes_for_other_types_reads_back_the_same() -> None:
    assert parse_config(dump_config(FULL)) == FULL


def test_dump_config_of_a_small_node_reads_back_and_no_other_file_has_the_field() -> None:
    small = replace(FULL, profile="small")
    assert parse_config(dump_config(small)) == small
    assert "profile" not in dump_config(FULL), "earlier releases take no other field"


def test_dump_config_of_a_witness_reads_back_and_no_other_file_has_the_field() -> None:
    witness = replace(FULL, gateway=None, witness=True)
    assert parse_config(dump_config(witness)) == witness
    assert "witness" not in dump_config(FULL), "earlier releases take no other field"


def test_dump_config_of_machines_reads_back_and_no_other_file_has_the_field() -> None:
    own = replace(FULL, machines=("hits:Hits", "our.package:More"))
    assert parse_config(dump_config(own)) == own
    assert "machines" not in dump_config(FULL), "earlier releases take no other field"


def test_dump_config_has_a_comment_above_every_section() -> None:
    lines = dump_config(FULL).splitlines()
    for section in ("name:", "cluster:", "listen:", "storage:", "peers:", "log:", "socket_group:"):
        (at,) = [number for number, line in enumerate(lines) if line.startswith(section)]
        assert lines[at - 1].startswith("# ")


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://login.example.com/in?next={return}", True),
        ("/login?next={return}&x=1", True),
        ("/login", True),
        ("//evil.example/login", False),
        ("https://login.example.com/{return}", False),
        ("{return}", False),
        ("/login?a={return}&b={return}", False),
        ("/login?a={other}", False),
        ("javascript:alert(1)", False),
        ("/\\\\evil.example", False),
    ],
)
def test_sign_in_url_is_a_link_or_a_path_with_the_way_back_in_its_query(url: str, good: bool) -> None:
    text = MINIMAL + (
        "gateway:\n  listen: 127.0.0.1:8080\n  rendezvous:\n    sign_in_url: " + json.dumps(url) + "\n"
    )
    if good:
        gateway = parse_config(text).gateway
        assert gateway is not None
        assert gateway.sign_in_url == url
    else:
        assert "{return} once, in the query" in refused(text)


def test_config_peers_leaves_out_the_node_itself() -> None:
    config = parse_config(MINIMAL + "peers: {n1: 10.0.0.1:7700, n2: 10.0.0.2:7700}\n")
    assert dict(config.peers) == {"n2": Address("10.0.0.2", 7700)}


def test_config_is_frozen() -> None:
    config = parse_config(MINIMAL)
    with pytest.raises(AttributeError):
        config.name = NodeName("n2")  # type: ignore[misc]  # what the test is about
    with pytest.raises(TypeError):
        config.peers[NodeName("n2")] = Address("h", 1)  # type: ignore[index]  # what the test is about


DEFECTS = {
    "unknown field": (MINIMAL + "listn: a:1\n", 6, 1, "did you mean 'listen'?"),
    "unknown nested field": (MINIMAL + "log:\n  colour: red\n", 7, 3, "the fields are format, level"),
    "repeated field": (MINIMAL + "name: n2\n", 6, 1, "'name' is there twice, first in line 2"),
    "repeated peer": (MINIMAL + "peers:\n  n2: a:1\n  n2: b:1\n", 8, 3, "first in line 7"),
    "missing field": (MINIMAL.replace("name: n1\n", ""), 1, 1, "has no field 'name'"),
    "missing nested field": (MINIMAL.replace(", name: demo", ""), 3, 10, "'cluster' has no field 'name'"),
    "name is a number": (MINIMAL.replace("name: n1", "name: 12"), 2, 7, "takes 12 for int: put it in quotes"),
    "name is a boolean": (MINIMAL.replace("name: n1", "name: no"), 2, 7, "takes no for bool"),
    "name is a list": (MINIMAL.replace("name: n1", "name: [n1]"), 2, 7, "must be one text"),
    "name is empty": (MINIMAL.replace("name: n1", "name:"), 2, 6, "'name' is empty"),
    "name is not valid": (MINIMAL.replace("name: n1", "name: N_1"), 2, 7, "use 1 to 63 of a-z"),
    "cluster is text": (MINIMAL.replace("{id", "x #"), 3, 10, "'cluster' must be a mapping"),
    "cluster id is short": (MINIMAL.replace(CLUSTER_ID, "abc"), 3, 15, "32 characters"),
    "cluster id in capitals": (MINIMAL.replace("abcdef", "ABCDEF"), 3, 15, "32 characters"),
    "listen has no port": (MINIMAL.replace(":7700", ""), 4, 9, "use HOST:PORT"),
    "listen has a bad port": (MINIMAL.replace(":7700", ":65536"), 4, 9, "use HOST:PORT"),
    "wildcard without advertise": (MINIMAL.replace("127.0.0.1", "0.0.0.0"), 4, 9, "set advertise"),
    "wildcard advertised": (MINIMAL + "advertise: '[::]:7700'\n", 6, 12, "nobody can dial"),
    "wildcard spelt short": (MINIMAL.replace("127.0.0.1", "0.0"), 4, 9, "set advertise"),
    "wildcard spelt long": (MINIMAL + "advertise: '[::ffff:0:0]:7700'\n", 6, 12, "nobody can dial"),
    "wildcard of a peer": (MINIMAL + "peers: {n2: 0x0:7700}\n", 6, 13, "nobody can dial"),
    "socket group is a number": (MINIMAL + "socket_group: 12\n", 6, 15, "takes 12 for int: put it in quotes"),
    "machine without a class": (MINIMAL + "machines: [hits]\n", 6, 12, "use MODULE:CLASS"),
    "storage is unknown": (MINIMAL + "storage: tape\n", 6, 10, "use disk or memory"),
    "log format is unknown": (MINIMAL + "log: {format: xml}\n", 6, 15, "use text or json"),
    "log level is unknown": (MINIMAL + "log: {level: loud}\n", 6, 14, "use info or debug"),
    "log is empty": (MINIMAL + "log:\n", 6, 5, "'log' must be a mapping"),
    "peer address": (MINIMAL + "peers: {n2: nowhere}\n", 6, 13, "use HOST:PORT"),
    "peer name": (MINIMAL + "peers: {N2: a:1}\n", 6, 9, "use 1 to 63"),
    "gateway of a witness": (
        MINIMAL + "witness: true\ngateway: {listen: a:1}\n",
        7,
        1,
        "a witness has no gateway",
    ),
    "a profile that does not exist": (MINIMAL + "profile: tiny\n", 6, 10, "use standard or small"),
    "witness is a word": (MINIMAL + "witness: maybe\n", 6, 10, "must be true or false"),
    "gateway without listen": (MINIMAL + "gateway: {url: 'https://a'}\n", 6, 10, "has no field 'listen'"),
    "gateway unknown field": (MINIMAL + "gateway: {listen: a:1, tsl: {}}\n", 6, 24, "did you mean 'tls'"),
    "gateway wildcard": (MINIMAL + "gateway: {listen: 0.0.0.0:80}\n", 6, 19, "set advertise"),
    "gateway odd host": (MINIMAL + "gateway: {listen: a_b:80}\n", 6, 19, "use a host name"),
    "gateway url": (MINIMAL + "gateway: {listen: a:1, url: ftp://a}\n", 6, 29, "use https://HOST"),
    "gateway url of a script": (
        MINIMAL + "gateway: {listen: a:1, url: 'javascript:1'}\n",
        6,
        29,
        "use https",
    ),
    "gateway tls": (MINIMAL + "gateway: {listen: a:1, tls: {key: /k}}\n", 6, 29, "no field 'certificate'"),
    "gateway tls path": (
        MINIMAL + "gateway: {listen: a:1, tls: {certificate: c, key: k}}\n",
        6,
        43,
        "use an absolute path",
    ),
    "gateway proxies": (MINIMAL + "gateway: {listen: a:1, trusted_proxies: 10.0.0.1}\n", 6, 41, "a list"),
    "gateway proxy": (
        MINIMAL + "gateway: {listen: a:1, trusted_proxies: [10.0.0.1/8]}\n",
        6,
        42,
        "a network",
    ),
    "gateway kind": (
        MINIMAL + "gateway: {listen: a:1, rendezvous: {begin: [Sign in]}}\n",
        6,
        45,
        "a kind",
    ),
    "gateway flag": (
        MINIMAL + "gateway: {listen: a:1, rendezvous: {require_session: 1}}\n",
        6,
        54,
        "true or false",
    ),
    "anchor": (MINIMAL.replace("name: n1", "name: &a n1"), 2, 7, "anchors (&name) are not allowed"),
    "alias": ("a: *b\n", 1, 4, "aliases (*name) are not allowed"),
    "tag": (MINIMAL.replace("name: n1", "name: !!python/name:os.system n1"), 2, 7, "tags (!name)"),
    "merge key": (MINIMAL + "<<: {name: n2}\n", 6, 1, "takes << for merge"),
    "nested without end": ("a: " + "[" * 5000, 1, 11, "nested too deeply"),
    "two documents": (MINIMAL + "---\na: 1\n", 6, 1, "this is not YAML"),
    "not YAML": (MINIMAL + "a: 'x\n", 7, 1, "this is not YAML"),
    "tab": (MINIMAL + "log:\n\tlevel: info\n", 7, 1, "this is not YAML"),
    "control character": (MINIMAL + "a: \x07\n", 6, 4, "this character is not allowed"),
    "escape out of range": (MINIMAL + 'a: "\\U00110000"\n', 6, 7, "out of range"),
    "empty": ("", 1, 1, "must be a mapping"),
    "comment only": ("# nothing\n", 1, 1, "must be a mapping"),
    "list": ("- a\n", 1, 1, "must be a mapping"),
    "schema version is text": (MINIMAL.replace(": 1\n", ": '1'\n", 1), 1, 17, "must be the number 1"),
    "schema version is zero": (MINIMAL.replace(": 1\n", ": 0\n", 1), 1, 17, "must be the number 1"),
    "schema version is true": (MINIMAL.replace(": 1\n", ": true\n", 1), 1, 17, "must be the number 1"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_parse_config_of_a_defect_names_file_line_column_and_remedy(defect: str) -> None:
    text, line, column, part = DEFECTS[defect]
    message = refused(text)
    assert message.startswith(f"/x/node.yaml, line {line}, column {column}: ")
    assert part in message


def test_parse_config_of_a_newer_schema_raises_version_mismatch_before_looking_at_fields() -> None:
    with pytest.raises(VersionMismatch, match=r"line 1, column 17.*upgrade cyoloctl"):
        parse_config("schema_version: 2\nname: [new, shape]\nnew_field: 1\n")


def test_load_config_of_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "node.yaml")
    for part in (str(tmp_path / "node.yaml"), "cyoloctl cluster init", "cyoloctl node join"):
        assert part in caught.value.message


def test_load_config_of_a_directory_raises_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path)


def test_load_config_of_a_pipe_does_not_wait_for_somebody_to_write(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "node.yaml")
    with pytest.raises(ConfigError, match=r"node\.yaml: it is not a file; correct it"):
        load_config(tmp_path / "node.yaml")


def test_load_config_of_other_encodings_names_the_first_wrong_byte(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_bytes(b"name: n1\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"line 2, column 6: this is not UTF-8"):
        load_config(tmp_path / "node.yaml")


def test_load_config_of_a_huge_file_is_refused_unparsed(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_bytes(b"#" * (256 * 1024 + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load_config(tmp_path / "node.yaml")


# -- writing ------------------------------------------------------------------------------------


def test_write_config_is_private_replaces_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    write_config(path, FULL, exclusive=True)
    write_config(path, replace(FULL, storage="disk"))
    assert load_config(path) == replace(FULL, storage="disk")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["node.yaml"]


def test_write_config_exclusive_over_a_file_leaves_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("mine")
    with pytest.raises(AlreadyExists):
        write_config(path, FULL, exclusive=True)
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["node.yaml"]


def test_write_private_replaces_a_symbolic_link_and_not_its_target(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(AlreadyExists):
        write_private(link, b"secret", exclusive=True)
    write_private(link, b"secret")
    assert target.read_text() == "mine"
    assert not link.is_symlink()
    assert link.read_bytes() == b"secret"


def test_write_private_under_an_odd_umask_is_0600(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        write_private(tmp_path / "file", b"secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_write_private_without_a_directory_raises_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        write_private(tmp_path / "none" / "file", b"")


# -- the data directory and the socket ----------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "is_root", "expected"),
    [
        ({"HOME": "/root"}, True, "/var/lib/cyoloctl"),
        ({"HOME": "/h/a"}, False, "/h/a/.local/share/cyoloctl"),
        ({"HOME": "/h/a", "XDG_DATA_HOME": "/data"}, False, "/data/cyoloctl"),
        ({"HOME": "/h/a", "XDG_DATA_HOME": "data"}, False, "/h/a/.local/share/cyoloctl"),
        ({"XDG_DATA_HOME": "/data"}, False, "/data/cyoloctl"),
    ],
)
def test_default_data_dir_follows_user_and_environment(
    environ: dict[str, str], is_root: bool, expected: str
) -> None:
    assert default_data_dir(environ, is_root) == expected


def test_default_data_dir_without_a_home_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="--data-dir"):
        default_data_dir({}, False)


def long_directory(tmp_path: Path) -> Path:
    path = tmp_path / ("d" * 120)
    path.mkdir(parents=True)
    return path


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory in the place of /tmp, short enough for a socket address (tmp_path may not be)."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    yield path
    shutil.rmtree(path)


def test_control_socket_path_of_a_short_directory_is_in_it(base: Path) -> None:
    assert control_socket_path(base) == base / "control.sock"
    assert control_socket_path(base, create=True) == base / "control.sock"
    assert os.listdir(base) == []


def test_control_socket_path_of_a_relative_directory_is_absolute(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(base)
    assert control_socket_path("x/../y") == base / "y" / "control.sock"


def test_control_socket_path_at_the_limit_can_be_bound(base: Path) -> None:
    room = MAX_SOCKET_PATH_BYTES - len(os.fsencode(base)) - len("//control.sock")
    exact, over = base / ("x" * room), base / ("x" * (room + 1))
    exact.mkdir()
    path = control_socket_path(exact)
    assert path == exact / "control.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    assert control_socket_path(over, bases=[str(base)]).parent == base / f"cyoloctl-{os.getuid()}"


def test_control_socket_path_of_a_long_directory_connects_client_and_node(tmp_path: Path, base: Path) -> None:
    directory = long_directory(tmp_path)
    bases = [str(base)]
    expected = control_socket_path(directory, bases=bases)
    assert not expected.parent.exists()
    node = control_socket_path(directory, create=True, bases=bases)
    assert node == expected
    assert stat.S_IMODE(node.parent.stat().st_mode) == 0o700
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(node))
        server.listen()
        client.connect(str(control_socket_path(directory, bases=bases)))


def test_control_socket_path_through_a_symbolic_link_is_the_same(tmp_path: Path, base: Path) -> None:
    directory = long_directory(tmp_path)
    link = base / "link"
    link.symlink_to(directory)
    bases = [str(base)]
    assert control_socket_path(link, bases=bases) == control_socket_path(directory, bases=bases)


def test_control_socket_path_of_two_directories_differs(tmp_path: Path, base: Path) -> None:
    one, two = long_directory(tmp_path / "1"), long_directory(tmp_path / "2")
    bases = [str(base)]
    assert control_socket_path(one, bases=bases) != control_socket_path(two, bases=bases)


def test_control_socket_path_finds_the_socket_of_a_node_in_another_environment(
    tmp_path: Path, base: Path
) -> None:
    directory = long_directory(tmp_path)
    (base / "run").mkdir()
    (base / "tmp").mkdir()
    control_socket_path(long_directory(tmp_path / "2"), create=True, bases=[str(base / "run")])
    node = control_socket_path(directory, create=True, bases=[str(base / "tmp")])
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(node))
        assert control_socket_path(directory, bases=[str(base / "run"), str(base / "tmp")]) == node


def test_control_socket_path_uses_a_private_runtime_directory_only(tmp_path: Path, base: Path) -> None:
    directory = long_directory(tmp_path)
    environ = {"XDG_RUNTIME_DIR": str(base)}
    expected = {str(base), f"/run/user/{os.getuid()}"}
    assert str(control_socket_path(directory, environ=environ).parent.parent) in expected
    base.chmod(0o755)
    assert control_socket_path(directory, environ=environ).parent.parent != base


@pytest.mark.parametrize("create", [True, False])
def test_control_socket_path_under_a_planted_symbolic_link_is_refused(
    tmp_path: Path, base: Path, create: bool
) -> None:
    theirs = base / "theirs"
    theirs.mkdir(mode=0o700)
    (base / f"cyoloctl-{os.getuid()}").symlink_to(theirs)
    with pytest.raises(ConfigError, match=r"is not a directory.*not safe"):
        control_socket_path(long_directory(tmp_path), create=create, bases=[str(base)])
    assert os.listdir(theirs) == []


@pytest.mark.parametrize("create", [True, False])
def test_control_socket_path_in_a_directory_open_to_others_is_refused(
    tmp_path: Path, base: Path, create: bool
) -> None:
    (base / f"cyoloctl-{os.getuid()}").mkdir()
    (base / f"cyoloctl-{os.getuid()}").chmod(0o770)
    with pytest.raises(ConfigError, match="has mode 0770, not 0700"):
        control_socket_path(long_directory(tmp_path), create=create, bases=[str(base)])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory of another user")
@pytest.mark.parametrize("create", [True, False])
def test_control_socket_path_in_a_directory_of_another_user_is_refused(
    tmp_path: Path, base: Path, create: bool
) -> None:
    planted = base / f"cyoloctl-{os.getuid()}"
    planted.mkdir(mode=0o700)
    os.chown(planted, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        control_socket_path(long_directory(tmp_path), create=create, bases=[str(base)])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory of another user")
def test_control_socket_path_for_root_is_that_of_the_owner_of_the_directory(
    tmp_path: Path, base: Path
) -> None:
    directory = long_directory(tmp_path)
    os.chown(directory, 12345, -1)
    path = control_socket_path(directory, create=True, bases=[str(base)])
    assert path.parent.name == "cyoloctl-12345"
    assert path.parent.stat().st_uid == 12345


def test_control_socket_path_below_a_writable_base_without_sticky_bit_is_refused(
    tmp_path: Path, base: Path
) -> None:
    base.chmod(0o777)
    with pytest.raises(ConfigError, match="can be replaced by others"):
        control_socket_path(long_directory(tmp_path), create=True, bases=[str(base)])
    base.chmod(0o1777)
    path = control_socket_path(long_directory(tmp_path / "2"), create=True, bases=[str(base)])
    assert path.parent.parent == base


def test_control_socket_path_without_any_short_base_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"at most \d+ bytes"):
        control_socket_path(long_directory(tmp_path), bases=["/" + "x" * 100])


def test_import_paths_loads_nothing_slow() -> None:
    slow = ["asyncio", "ssl", "socket", "hashlib", "_hashlib", "json", "yaml", "cryptography", "tempfile"]
    code = f"import sys, cyoloctl.paths; print([m for m in {slow!r} if m in sys.modules])"
    # -S: without site, since what an installation's .pth files import is not ours.
    root = Path(__file__).resolve().parents[3]
    found = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"


def test_parse_config_of_a_gateway_fills_in_defaults_that_trust_and_admit_loopback_only() -> None:
    gateway = parse_config(MINIMAL + "gateway: {listen: 10.0.0.1:8080}\n").gateway
    assert gateway == GatewayConfig(Address("10.0.0.1", 8080), Address("10.0.0.1", 8080))
    assert gateway.trusted_proxies == gateway.metrics_clients == ("127.0.0.0/8", "::1/128")
    assert gateway.require_session
    assert parse_config(MINIMAL).gateway is None


# -- all that is wrong --------------------------------------------------------------------------


def test_file_that_is_wrong_from_end_to_end_has_a_hundred_faults_found_in_no_time() -> None:
    """Each was compared with all before it: a file of the largest size held a node up for seconds."""
    began = time.process_time()
    for line in ("k{}: v\n", "name: n{}\n"):
        found = read_text("".join(map(line.format, range(8_000))))
        assert isinstance(found, list)
        assert len(found) == MAX_FAULTS == 100
    assert time.process_time() - began < 15


def test_read_text_finds_every_fault_in_the_order_of_the_file() -> None:
    text = f"""\
schema_version: 1
name: N_1
cluster: {{id: "abc", name: demo, nmae: x}}
listen: nowhere
storage: tape
colour: red
peers: {{n2: nowhere, N3: "a:1"}}
log: {{format: xml, level: loud}}
witness: true
gateway:
  listen: nowhere
  url: ftp://a
  tls: {{certificate: c}}
  trusted_proxies: [10.0.0.1/8, "10.0.0.0/8", x]
  rendezvous: {{require_session: 1, sign_in_url: "//x", begin: [Sign in]}}
socket_group: 12
machines: [hits, "ours:Hits"]
snapshots: {{every: 1s, keep: 0, directory: here}}
offline_ca: maybe
{"name: n2"}
"""
    found = read_text(text)
    assert isinstance(found, list)
    assert [(fault.key, fault.line) for fault in found] == [
        *(("name", 2), ("cluster.id", 3), ("cluster.nmae", 3), ("listen", 4), ("storage", 5), ("colour", 6)),
        *(("peers.n2", 7), ("peers.N3", 7), ("log.format", 8), ("log.level", 8), ("gateway", 10)),
        *(("gateway.listen", 11), ("gateway.url", 12), ("gateway.tls.key", 13)),
        *(("gateway.tls.certificate", 13), ("gateway.trusted_proxies", 14), ("gateway.trusted_proxies", 14)),
        ("gateway.rendezvous.require_session", 15),
        *(("gateway.rendezvous.sign_in_url", 15), ("gateway.rendezvous.begin", 15)),
        *(("socket_group", 16), ("machines", 17)),
        *(("snapshots.every", 18), ("snapshots.keep", 18), ("snapshots.directory", 18)),
        *(("offline_ca", 19), ("name", 20)),
    ]
    assert refused(text).endswith(" (26 more: `cyoloctl config check` shows all)")


def test_read_text_of_missing_fields_names_each() -> None:
    found = read_text("schema_version: 1\ncluster: {}\n")
    assert isinstance(found, list)
    assert sorted(fault.key for fault in found) == ["cluster.id", "cluster.name", "listen", "name"]


@pytest.mark.parametrize("defect", DEFECTS)
def test_read_text_of_one_defect_finds_it_once(defect: str) -> None:
    found = read_text(DEFECTS[defect][0])
    assert isinstance(found, list)
    assert len({fault.message for fault in found}) == len(found)


def test_read_text_of_a_newer_schema_says_that_alone() -> None:
    (fault,) = read_text("schema_version: 2\nname: [new, shape]\nnew_field: 1\n")  # type: ignore[misc]  # a list
    assert (fault.key, fault.newer) == ("schema_version", True)


def test_key_in_the_place_of_its_path_is_not_shown() -> None:
    secret = "MC4CAQAwBQYDK2VwBCIEIDv7"
    for value in (f'"-----BEGIN PRIVATE KEY-----\\n{secret}"', secret):
        message = refused(MINIMAL + f"gateway: {{listen: a:1, tls: {{certificate: /c, key: {value}}}}}\n")
        assert "use an absolute path" in message
        assert secret not in message


def test_find_lines_gives_every_field_its_line() -> None:
    found = find_lines(MINIMAL + "log:\n  # the level\n  level: info\npeers: {n2: a:1}\n")
    assert found == {
        **{"schema_version": 1, "name": 2, "cluster": 3, "cluster.id": 3, "cluster.name": 3, "listen": 4},
        **{"log": 6, "log.level": 8, "peers": 9, "peers.n2": 9},
    }
