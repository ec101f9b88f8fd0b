"""Rendezvous hashing: little moves when members change, and each gets its share."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyoloctl.routing.haproxy import export_haproxy
from cyoloctl.routing.hrw import order, which
from cyoloctl.routing.nginx import export_nginx
from cyoloctl.routing.table import Backend, ExportOptions, RoutingTable

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
MEMBERS = st.sets(NAMES, min_size=1, max_size=8)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(KEYS, MEMBERS)
def test_order_is_every_member_once_and_begins_with_which(key: str, members: set[str]) -> None:
    found = order(key, members)
    assert sorted(found) == sorted(members)
    assert found[0] == which(key, members)
    assert order(key, found[::-1] + found) == found


@given(KEYS, MEMBERS, NAMES)
def test_order_when_a_member_comes_or_goes_keeps_that_of_the_others(
    key: str, members: set[str], other: str
) -> None:
    """So only the keys of a member that goes move, and only to one that comes."""
    assert [name for name in order(key, members | {other}) if name != other] == order(key, members - {other})


@pytest.mark.parametrize("size", [3, 5, 9])
def test_keys_are_shared_evenly_and_so_are_those_of_a_member_that_goes(size: int) -> None:
    keys, members = 9_000, [f"n{number}" for number in range(1, size + 1)]
    first, second = Counter[str](), Counter[str]()
    for number in range(keys):
        found = order(f"key-{number}", members)
        first[found[0]] += 1
        if found[0] == "n1":
            second[found[1]] += 1
    # Five standard deviations of a fair draw: fixed keys, so this cannot fail by chance.
    for counts, sides, total in ((first, size, keys), (second, size - 1, first["n1"])):
        spread = 5 * (total / sides * (1 - 1 / sides)) ** 0.5
        assert len(counts) == sides
        assert all(abs(count - total / sides) < spread for count in counts.values()), counts


HOSTS = st.from_regex(
    r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z]([a-z0-9-]{0,61}[a-z0-9])?){0,2}", fullmatch=True
)


@given(st.lists(st.tuples(NAMES, HOSTS), min_size=1, max_size=6, unique_by=(lambda p: p[0], lambda p: p[1])))
def test_exports_of_any_table_have_each_host_and_balanced_braces(pairs: list[tuple[str, str]]) -> None:
    backends = tuple(
        Backend(name=name, host=host, address=f"10.0.0.{number}:80", alive=True, role="follower")
        for number, (name, host) in enumerate(pairs, 1)
    )
    nginx = export_nginx(RoutingTable(backends), ExportOptions())
    haproxy = export_haproxy(RoutingTable(backends), ExportOptions())
    for name, host in pairs:
        assert f"use_backend cyolo-pin-{name} if {{ var(txn.cyolo_host) -m str {host} }}\n" in haproxy
        pattern = host.replace(".", r"\.")
        assert f'"~*^{pattern}\\.?(:[0-9]+)?$" cyolo-pin-{name};\n' in nginx
    assert nginx.count("{") == nginx.count("}")
