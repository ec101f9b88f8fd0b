"""What a reload may change, and what it may not: decided without a node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cyoloctl.model import Address, ClusterId, NodeName
from cyoloctl.node.config import Config, LogConfig
from cyoloctl.node.config_keys import changes, difference, values
from cyoloctl.node.gateway_config import GatewayConfig
from cyoloctl.snapshots.policy import SnapshotPolicy

HERE, ELSEWHERE = Address("127.0.0.1", 1), Address("127.0.0.1", 2)
TLS = {"certificate": "/a.crt", "key": "/a.key"}
GATEWAY = GatewayConfig(HERE, HERE)
POLICY = SnapshotPolicy(3600, 7, "/backup")
CONFIG = Config(
    name=NodeName("n1"),
    cluster_id=ClusterId("0" * 32),
    cluster=NodeName("demo"),
    listen=HERE,
    advertise=HERE,
    gateway=GATEWAY,
    snapshots=POLICY,
)


def gateway(**fields: Any) -> Config:
    return replace(CONFIG, gateway=replace(GATEWAY, **fields))


APPLIED = {
    "log.level": replace(CONFIG, log=LogConfig(level="debug")),
    "log.format": replace(CONFIG, log=LogConfig(format="json")),
    "snapshots": replace(CONFIG, snapshots=None),
    "snapshots.every": replace(CONFIG, snapshots=replace(POLICY, every_s=60)),
    "snapshots.keep": replace(CONFIG, snapshots=replace(POLICY, keep=1)),
    "snapshots.directory": replace(CONFIG, snapshots=replace(POLICY, directory="/other")),
    "gateway.advertise": gateway(advertise=ELSEWHERE),
    "gateway.url": gateway(url="https://app.example.com"),
    "gateway.trusted_proxies": gateway(trusted_proxies=("10.0.0.0/8",)),
    "gateway.metrics_clients": gateway(metrics_clients=()),
    "gateway.allowed_hosts": gateway(allowed_hosts=("app.example.com",)),
    "gateway.rendezvous.require_session": gateway(require_session=False),
    "gateway.rendezvous.sign_in_url": gateway(sign_in_url="/login"),
    "gateway.rendezvous.begin": gateway(begin=("mfa",)),
}
NEEDS_RESTART = {
    "listen": replace(CONFIG, listen=ELSEWHERE),
    "advertise": replace(CONFIG, advertise=ELSEWHERE),
    "peers": replace(CONFIG, peers={NodeName("n2"): ELSEWHERE}),
    "socket_group": replace(CONFIG, socket_group="www-data"),
    "witness": replace(CONFIG, witness=True),
    "machines": replace(CONFIG, machines=("hits:Hits",)),
    "profile": replace(CONFIG, profile="small"),
    "gateway": replace(CONFIG, gateway=None),
    "gateway.listen": gateway(listen=ELSEWHERE),
}
NEVER = {
    "name": replace(CONFIG, name=NodeName("n2")),
    "cluster.id": replace(CONFIG, cluster_id=ClusterId("1" * 32)),
    "cluster.name": replace(CONFIG, cluster=NodeName("other")),
    "storage": replace(CONFIG, storage="memory"),
    "offline_ca": replace(CONFIG, offline_ca=True),
}


@pytest.mark.parametrize("key", APPLIED)
def test_difference_of_what_may_change_is_applied_and_in_force(key: str) -> None:
    found = difference(CONFIG, APPLIED[key])
    assert (found.applied, found.needs_restart, found.overridden, found.fixed) == ((key,), (), (), ())
    assert found.config == APPLIED[key]


@pytest.mark.parametrize("key", NEEDS_RESTART)
def test_difference_of_what_needs_a_restart_leaves_the_old_value_in_force(key: str) -> None:
    found = difference(CONFIG, NEEDS_RESTART[key])
    assert (found.applied, found.needs_restart, found.overridden, found.fixed) == ((), (key,), (), ())
    assert found.config == CONFIG


@pytest.mark.parametrize("key", NEVER)
def test_difference_of_what_the_node_was_made_with_is_told_apart(key: str) -> None:
    found = difference(CONFIG, NEVER[key])
    assert (found.applied, found.needs_restart, found.fixed) == ((), (), (key,))
    assert found.config == CONFIG


def test_every_setting_is_in_one_of_the_tables() -> None:
    inner = {"gateway.tls.certificate", "gateway.tls.key"}
    assert {*values(CONFIG), "gateway", "snapshots"} - inner == {*APPLIED, *NEEDS_RESTART, *NEVER}


def test_difference_of_several_changes_applies_those_that_may_and_names_the_others() -> None:
    after = replace(gateway(begin=("mfa",)), listen=ELSEWHERE, log=LogConfig(level="error"))
    found = difference(CONFIG, after)
    assert found.applied == ("log.level", "gateway.rendezvous.begin")
    assert found.needs_restart == ("listen",)
    assert found.config == replace(after, listen=HERE)
    assert sorted((*found.applied, *found.needs_restart, *found.unchanged)) == sorted(values(CONFIG))


def test_difference_again_still_names_what_needs_a_restart() -> None:
    after = replace(CONFIG, listen=ELSEWHERE, log=LogConfig(level="error"))
    again = difference(difference(CONFIG, after).config, after)
    assert (again.applied, again.needs_restart) == ((), ("listen",))


def test_difference_of_a_key_that_the_command_line_decided_leaves_that_in_force() -> None:
    after = replace(CONFIG, log=LogConfig("json", "debug"))
    found = difference(CONFIG, after, {"log.level", "socket_group"})
    assert (found.applied, found.overridden) == (("log.format",), ("log.level",))
    assert found.config.log == LogConfig("json", "info")


def test_difference_of_certificate_files_of_the_gateway_is_applied_and_of_having_any_is_not() -> None:
    plain, encrypted = CONFIG, gateway(**TLS)
    other = gateway(certificate="/b.crt", key="/b.key")
    keys = ("gateway.tls.certificate", "gateway.tls.key")
    assert difference(encrypted, other).applied == keys
    assert difference(encrypted, other).config == other
    for before, after in ((plain, encrypted), (encrypted, plain)):
        found = difference(before, after)
        assert (found.applied, found.needs_restart, found.config) == ((), keys, before)


def test_gateway_that_is_to_move_is_not_announced_where_it_does_not_listen_yet() -> None:
    found = difference(CONFIG, gateway(listen=ELSEWHERE, advertise=ELSEWHERE, begin=("mfa",)))
    assert found.needs_restart == ("gateway.listen", "gateway.advertise")
    assert found.config == gateway(begin=("mfa",))


def test_block_that_comes_or_goes_is_one_key() -> None:
    without = replace(CONFIG, gateway=None, snapshots=None)
    for before, after in ((CONFIG, without), (without, CONFIG)):
        found = difference(before, after)
        assert (found.applied, found.needs_restart) == (("snapshots",), ("gateway",))
        assert not [key for key in found.unchanged if key.startswith(("gateway", "snapshots"))]


def test_changes_of_a_setting_are_those_that_a_reload_finds() -> None:
    assert {changes(key) for key in APPLIED} == {"now"}
    assert {changes(key) for key in NEEDS_RESTART} == {"restart"}
    assert {changes(key) for key in NEVER} == {"never"}
