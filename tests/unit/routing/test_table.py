"""Rendezvous hashing, the routing table, and what may stand in an exported file."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from typing import Any

import pytest

from cyoloctl.errors import Conflict, InvalidInput, NotFound
from cyoloctl.routing.haproxy import export_haproxy
from cyoloctl.routing.hrw import order, which
from cyoloctl.routing.nginx import export_nginx
from cyoloctl.routing.table import Backend, ExportOptions, RoutingTable

EXPORTS = pytest.mark.parametrize("export", [export_nginx, export_haproxy])


def backend(number: int, **changes: Any) -> Backend:
    made = Backend(
        name=f"n{number}",
        host=f"app-{number}.example.com",
        address=f"192.0.2.{number}:8443",
        alive=True,
        role="follower",
    )
    return replace(made, **changes)


def table(**changes: Any) -> RoutingTable:
    made = RoutingTable((backend(1), backend(2), backend(3)), ("app.example.com",), 42)
    return replace(made, **changes)


# Made with the shell line of the module's docstring, which the test below runs.
VECTORS = {
    "app.example.com": ["n3", "n4", "n2", "n5", "n1"],
    "app-1.example.com": ["n1", "n3", "n4", "n5", "n2"],
    "": ["n4", "n3", "n2", "n5", "n1"],
    "ключ": ["n3", "n2", "n1", "n5", "n4"],
}


@pytest.mark.parametrize("key", VECTORS)
def test_order_is_that_of_the_vectors(key: str) -> None:
    assert order(key, ["n3", "n1", "n5", "n2", "n4", "n1"]) == VECTORS[key]
    assert which(key, ["n3", "n1", "n5", "n2", "n4"]) == VECTORS[key][0]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
@pytest.mark.parametrize("key", VECTORS)
def test_order_is_what_a_shell_and_sha256sum_find(key: str) -> None:
    script = (
        'for name in n1 n2 n3 n4 n5; do printf "%s\\0%s" "$0" "$name" | sha256sum | sed "s/-/$name/"; done'
        " | LC_ALL=C sort -r"
    )
    done = subprocess.run(["sh", "-c", script, key], capture_output=True, text=True, check=True)
    assert [line.split()[1] for line in done.stdout.splitlines()] == VECTORS[key]


def test_which_without_members_is_none() -> None:
    assert which("key", []) is None
    assert order("key", []) == []


def test_order_of_a_key_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidInput, match="utf-8"):
        order("\udcff", ["n1"])


def test_resolve_of_a_pin_is_its_node_then_the_live_ones_in_order() -> None:
    found = [b.name for b in table().resolve("app-1.example.com")]
    assert found == ["n1", *order("app-1.example.com", ["n2", "n3"])]
    assert [b.name for b in table().resolve("APP-1.example.com")] == found
    dead = table(backends=(backend(1, alive=False), backend(2, alive=False), backend(3)))
    assert [b.name for b in dead.resolve("app-1.example.com")] == ["n1", "n3"]


def test_resolve_of_a_shared_host_is_the_live_ones_in_order() -> None:
    assert [b.name for b in table().resolve("app.example.com")] == order(
        "app.example.com", ["n1", "n2", "n3"]
    )
    dead = table(backends=tuple(backend(n, alive=n == 2) for n in (1, 2, 3)))
    assert [b.name for b in dead.resolve("app.example.com")] == ["n2"]
    none = table(backends=tuple(backend(n, alive=False) for n in (1, 2, 3)))
    assert none.resolve("app.example.com") == []


@pytest.mark.parametrize("host", ["", "other.example.com", "n1", "app-1.example.com..", "example.com"])
def test_resolve_of_an_unknown_host_is_not_found(host: str) -> None:
    with pytest.raises(NotFound):
        table().resolve(host)


@pytest.mark.parametrize(
    "changes",
    [
        {"backends": (backend(1), backend(2, name="n1"))},
        {"backends": (backend(1), backend(2, host="app-1.example.com"))},
        {"backends": (backend(1), backend(2, address="192.0.2.1:8443"))},
        {"backends": (backend(1, address="[2001:db8::1]:80"), backend(2, address="[2001:DB8::1]:80"))},
        {"shared_hosts": ("app-1.example.com",)},
        {"shared_hosts": ("app.example.com", "app.example.com")},
        {"shared_hosts": ("app.example.com; return 200",)},
        {"log_index": -1},
        {"log_index": "1"},
    ],
)
def test_table_with_something_twice_or_malformed_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        table(**changes)


# What the configuration languages, and readers of the header, could take for more than a value.
EVIL = [
    "a;b", "a b", "a\nb", "a\rb", "a\tb", "a{b", "a}b", 'a"b', "a'b", "a#b", "a$b", "a\\b", "a%b", "a`b",
    "a\0b", "a\u2028b", "a|b", "a(b", "a*b", "-a", "",
]  # fmt: skip


@pytest.mark.parametrize("evil", EVIL)
def test_value_that_could_be_read_as_configuration_is_refused(evil: str) -> None:
    for wrong in (
        lambda: backend(1, name=evil),
        lambda: backend(1, host=evil),
        lambda: backend(1, address=f"{evil}:80"),
        lambda: backend(1, address=f"[fe80::1%{evil}]:80"),
        lambda: backend(1, address=f"192.0.2.1:{evil}"),
        lambda: backend(1, role=evil),
        lambda: ExportOptions(pin=evil),
        lambda: ExportOptions(listen=f"{evil}:80"),
        lambda: ExportOptions(tls_certificate=evil),
        lambda: ExportOptions(backend_tls_ca=evil),
        lambda: ExportOptions(run_dir=evil),
    ):
        with pytest.raises(InvalidInput):
            wrong()
    for path in ("", *([f"/etc/{evil}"] if evil not in ("", "-a") else [])):
        with pytest.raises(InvalidInput):
            ExportOptions(tls_certificate=path)


@pytest.mark.parametrize(
    "changes",
    [
        {"response_timeout_s": 0},
        {"response_timeout_s": 61},
        {"response_timeout_s": True},
        {"response_timeout_s": 1.5},
        {"fragment": True, "run_dir": "/tmp/x"},
        {"listen": "80"},
        {"listen": "localhost"},
        {"tls_certificate": "x.pem"},
        {"tls_certificate": "/etc/ssl/"},
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        ExportOptions(**changes)


@EXPORTS
def test_export_of_the_same_table_is_the_same_bytes_in_whatever_order_it_came(export: Any) -> None:
    other = RoutingTable((backend(3), backend(1), backend(2)), ("app.example.com",), 42)
    assert export(table(), ExportOptions()) == export(other, ExportOptions())


@EXPORTS
def test_export_names_its_members_and_index(export: Any) -> None:
    head = export(table(), ExportOptions()).split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    for text in ("log index 42", "n2  192.0.2.2:8443  app-2.example.com", "any of them: app.example.com"):
        assert text in head


@EXPORTS
def test_export_without_members_is_refused(export: Any) -> None:
    with pytest.raises(Conflict, match="no member has a gateway"):
        export(RoutingTable(()), ExportOptions())


def test_export_for_nginx_takes_the_first_live_node_as_the_next() -> None:
    first, second = order("app-1.example.com", ["n2", "n3"])
    for dead, following in (((), first), ((first,), second), ((first, second), first)):
        backends = tuple(backend(n, alive=f"n{n}" not in dead) for n in (1, 2, 3))
        text = export_nginx(table(backends=backends), ExportOptions())
        own = text.split("upstream cyolo-pin-n1 {")[1].split("}")[0]
        assert [line.split("# ")[1] for line in own.splitlines() if "# " in line] == ["n1", following]


def test_export_for_haproxy_does_not_change_with_liveness() -> None:
    dead = table(backends=tuple(backend(n, alive=False) for n in (1, 2, 3)))
    assert export_haproxy(table(), ExportOptions()) == export_haproxy(dead, ExportOptions())
