"""Who may ask the console: addresses, Host, methods, other sites, the link and the cookie."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from cyoloctl.console.guard import COOKIE, Asked, Door, Refusal, parse_loopback, refused
from cyoloctl.errors import InvalidInput

HOST = "127.0.0.1:4000"


def secrets() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"secret-{next(numbers)}"


def asked(path: str = "/", method: str = "GET", **headers: tuple[str, ...]) -> Asked:
    return Asked(method=method, path=path, **{"hosts": (HOST,), **headers})


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("127.1.2.3:65535", ("127.1.2.3", 65535)),
        ("localhost:80", ("127.0.0.1", 80)),
        ("[::1]:8600", ("::1", 8600)),
    ],
)
def test_loopback_addresses_are_taken(text: str, place: tuple[str, int]) -> None:
    assert parse_loopback(text) == place


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0:8600",
        "10.0.0.1:8600",
        "*:8600",
        "[::]:8600",
        "[::ffff:10.0.0.1]:8600",
        "[fe80::1%lo]:8600",
        "node.example.com:8600",
        "localhost.example.com:8600",
        "128.0.0.1:1",
    ],
)
def test_any_other_address_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(InvalidInput, match="serves this machine only"):
        parse_loopback(text)


@pytest.mark.parametrize("text", ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", ":8600"])
def test_what_is_no_address_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(InvalidInput, match="port 0 to 65535"):
        parse_loopback(text)


@pytest.mark.parametrize(
    "hosts", [(HOST,), ("localhost:8600",), ("LOCALHOST",), ("[::1]:8600",), ("127.9.9.9:1",), ("127.0.0.1",)]
)
def test_hosts_of_this_machine_are_served_at_any_port_of_a_tunnel(hosts: tuple[str, ...]) -> None:
    assert refused(asked(hosts=hosts)) is None


@pytest.mark.parametrize(
    "hosts",
    [
        (),
        (HOST, HOST),
        ("rebound.example.com:4000",),
        ("127.0.0.1.example.com:4000",),
        ("localhost.example.com",),
        ("10.0.0.1:4000",),
        ("::1",),
        ("",),
        ("127.0.0.1:4000@evil.example",),
    ],
)
def test_any_other_host_is_refused(hosts: tuple[str, ...]) -> None:
    refusal = refused(asked(hosts=hosts))
    assert refusal is not None
    assert refusal.status == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get"])
def test_every_method_that_could_change_something_is_405(method: str) -> None:
    refusal = refused(asked(method=method))
    assert refusal is not None
    assert refusal.status == 405


@pytest.mark.parametrize(
    "headers",
    [
        {"sites": ("cross-site",)},
        {"sites": ("same-site",)},
        {"sites": ("none", "cross-site")},
        {"origins": ("https://evil.example",)},
        {"origins": ("null",)},
        {"origins": ("http://127.0.0.1:4001",)},
    ],
)
def test_pages_of_other_sites_and_ports_are_refused(headers: dict[str, tuple[str, ...]]) -> None:
    refusal = refused(asked(**headers))
    assert refusal is not None
    assert refusal.status == 403


def test_own_page_and_address_bar_are_served() -> None:
    for site in ("none", "same-origin"):
        assert refused(asked(sites=(site,), origins=(f"http://{HOST}",))) is None


def test_link_lets_one_browser_in_and_another_link_the_next() -> None:
    door = Door(secrets())
    link = door.link
    cookie = door.open(asked(link))
    assert cookie is not None
    assert cookie.endswith(f"; Path={door.home}; HttpOnly; SameSite=Strict")
    assert door.open(asked(link)) is None
    assert door.link != link
    assert door.open(asked(door.link)) is not None


def test_head_and_a_wrong_link_use_no_link_up() -> None:
    door = Door(secrets())
    link = door.link
    assert door.open(asked(link, "HEAD")) is None
    assert door.open(asked(link + "x")) is None
    assert door.open(asked("/open/")) is None
    assert door.open(asked("/open/\udcff")) is None
    assert door.link == link


def test_inside_needs_cookie_and_place_and_says_the_same_without_either() -> None:
    door = Door(secrets())
    cookie = (door.open(asked(door.link)) or "").partition(";")[0]
    assert cookie.startswith(f"{COOKIE}=")
    assert door.inside(asked(f"{door.home}data", cookies=(f"a=b; {cookie}",))) == "data"
    # Somebody else of this host name may have put cookies of that name beside ours.
    assert door.inside(asked(door.home, cookies=(f"{COOKIE}=junk; {cookie}",))) == ""
    outside = {
        door.inside(asked(f"{door.home}data")),
        door.inside(asked(f"{door.home}data", cookies=(f"{COOKIE}=secret-9",))),
        door.inside(asked(f"{door.home}data", cookies=(f"{COOKIE}=",))),
        door.inside(asked(f"{door.home}data", cookies=(f"other={cookie.partition('=')[2]}",))),
        door.inside(asked("/guess/data", cookies=(cookie,))),
        door.inside(asked("/", cookies=(cookie,))),
    }
    [refusal] = outside
    assert isinstance(refusal, Refusal)
    assert refusal.status == 403
