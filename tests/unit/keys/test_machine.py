"""The keys machine, through the bytes that Raft applies."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from cyoloctl import errors
from cyoloctl.keys.records import MAX_DESTROYED, MAX_KEYS, KeyPolicy, KeyRecord, NodeKey
from cyoloctl.state import ClusterState
from tests.support.old_commands import encode_command
from tests.support.results import decode_result

CLUSTER, OTHER_CLUSTER = "c" * 32, "d" * 32
K1, K2, K3 = "fc000001", "fc000002", "fc000003"
PRINT, OTHER_PRINT = "1" * 32, "2" * 32
SEALING, OTHER_SEALING = "A" * 43 + "=", "B" * 42 + "A="
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
SIGNATURE = base64.b64encode(b"s" * 70).decode()
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
KEEP_MS = 7 * DAY_MS
NOW = 1_800_000_000_000  # 2027-01-15T08:00:00Z


def blob(text: str = "") -> str:
    return base64.b64encode(text.encode().ljust(80, b"\0")).decode()


class Keys:
    """A cluster state with a new request id for every command; ``now`` is the proposers' time."""

    def __init__(self, *members: str) -> None:
        self.cluster = ClusterState()
        self.machine = self.cluster.keys
        self.index = 0
        self.now = NOW
        for name in members:
            self.join(name)
            self.announce(name)

    def send(self, machine: str, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self.index += 1
        command = encode_command(
            machine,
            operation,
            arguments,
            request_id=f"r{self.index}",
            automatic=True,
            time_unix_ms=self.now,
        )
        return decode_result(self.cluster.apply(self.index, command))

    def do(self, operation: str, **arguments: Any) -> dict[str, Any]:
        return self.send("keys", operation, arguments)

    def join(self, name: str) -> None:
        fields = {"address": "h:1", "role": "voter", "raft_id": name, "certificate_expires_at": None}
        self.send("members", "put", {"name": name, "sealing_key": SEALING, **fields})

    def announce(self, name: str, sealing_key: str = SEALING) -> dict[str, Any]:
        return self.do(
            "announce", name=name, sealing_key=sealing_key, certificate_pem=PEM, signature=SIGNATURE
        )

    def generate(self, key_id: str = K1, *nodes: str, fingerprint: str = PRINT) -> dict[str, Any]:
        wrapped = {node: blob(node) for node in nodes or ("n1",)}
        return self.do(
            "generate", key_id=key_id, cluster_id=CLUSTER, fingerprint=fingerprint, wrapped=wrapped
        )

    def confirm(self, name: str, *key_ids: str) -> dict[str, Any]:
        return self.do("confirm", name=name, keys=dict.fromkeys(key_ids, PRINT))

    def give(self, key_id: str, *nodes: str) -> None:
        """Generated, sealed to all, confirmed by all."""
        self.generate(key_id, *nodes)
        for node in nodes:
            self.confirm(node, key_id)

    def key(self, key_id: str = K1) -> KeyRecord:
        record = self.machine.get(key_id)
        assert record is not None
        return record

    def records(self) -> list[KeyRecord]:
        return self.machine.records()

    def state(self, key_id: str = K1) -> str:
        return self.key(key_id).state


@pytest.fixture
def two() -> Keys:
    """Two members; K1 is primary and held by both."""
    keys = Keys("n1", "n2")
    keys.give(K1, "n1", "n2")
    return keys


# -- announce ---------------------------------------------------------------------------------------


def test_announce_of_no_member_is_not_found() -> None:
    with pytest.raises(errors.NotFound, match="no member n9"):
        Keys("n1").announce("n9")


def test_announce_is_there_and_may_be_repeated(two: Keys) -> None:
    digest = two.machine.export_state()
    assert two.announce("n1") == {"name": "n1"}
    assert two.machine.export_state() == digest
    assert two.machine.nodes() == {name: NodeKey(SEALING, PEM, SIGNATURE) for name in ("n1", "n2")}


def test_announce_of_another_sealing_key_drops_blobs_and_confirmations_of_this_node_only(two: Keys) -> None:
    two.announce("n2", OTHER_SEALING)
    assert two.key().wrapped.keys() == {"n1"}
    assert two.key().holders == ("n1",)
    assert two.machine.missing("n2") == [K1]
    assert two.key().known_to == ("n1", "n2")


def test_announce_of_a_renewed_certificate_keeps_the_blobs(two: Keys) -> None:
    renewed = PEM.replace("MIIB", "MIIC")
    two.do("announce", name="n2", sealing_key=SEALING, certificate_pem=renewed, signature=SIGNATURE)
    assert two.key().holders == ("n1", "n2")
    assert two.machine.nodes()["n2"].certificate_pem == renewed


# -- generate ---------------------------------------------------------------------------------------


def test_generate_first_key_is_primary_at_once_and_the_next_one_pending() -> None:
    keys = Keys("n1")
    assert keys.generate(K1) == {"key_id": K1, "state": "primary"}
    keys.now += 5
    assert keys.generate(K2) == {"key_id": K2, "state": "pending"}
    assert keys.machine.primary() == keys.key(K1)
    assert (keys.key(K1).promoted_unix_ms, keys.key(K2).promoted_unix_ms) == (NOW, None)
    assert [record.key_id for record in keys.records()] == [K1, K2]


def test_generate_again_gives_the_present_state_and_changes_nothing(two: Keys) -> None:
    two.give(K2, "n1", "n2")
    two.do("promote", key_id=K2)
    before = two.machine.export_state()
    assert two.generate(K1) == {"key_id": K1, "state": "enabled"}
    assert two.machine.export_state() == before


@pytest.mark.parametrize("destroyed", [False, True])
def test_generate_known_id_with_another_key_is_already_exists(two: Keys, destroyed: bool) -> None:
    two.generate(K2)
    if destroyed:
        two.do("destroy", key_id=K2, force=False)
    with pytest.raises(errors.AlreadyExists, match=K2):
        two.generate(K2, fingerprint=OTHER_PRINT)
    with pytest.raises(errors.AlreadyExists):
        two.do("generate", key_id=K2, cluster_id=OTHER_CLUSTER, fingerprint=PRINT, wrapped={"n1": blob()})


def test_generate_sealed_to_a_stranger_is_not_found_and_to_a_silent_member_a_conflict() -> None:
    keys = Keys("n1")
    keys.join("n2")
    with pytest.raises(errors.NotFound, match="n9"):
        keys.generate(K1, "n1", "n9")
    with pytest.raises(errors.Conflict, match="n2 has announced no sealing key"):
        keys.generate(K1, "n1", "n2")
    assert keys.machine.records() == []


def test_generate_above_64_keys_is_a_conflict_until_one_is_destroyed() -> None:
    keys = Keys("n1")
    for n in range(MAX_KEYS):
        keys.generate(f"fc{n:06x}")
    with pytest.raises(errors.Conflict, match="destroy"):
        keys.generate("fcffffff")
    keys.do("destroy", key_id="fc000005", force=False)
    assert keys.generate("fcffffff")["state"] == "pending"


def test_key_that_opens_sealed_values_is_not_destroyed_by_force_either(two: Keys) -> None:
    two.generate(K2)
    left = {K2: 3}
    two.machine.values_under = lambda key_id: left.get(key_id, 0)
    with pytest.raises(errors.Conflict, match=f"{K2} still opens 3 sealed values"):
        two.do("destroy", key_id=K2, force=True)
    assert two.do("disable", key_id=K2, force=False)["state"] == "disabled"
    assert two.machine.has(K2)
    left.clear()
    assert two.do("destroy", key_id=K2, force=True)["state"] == "destroyed"
    assert not two.machine.has(K2)
    assert not two.machine.has(K3)


# -- wrap, confirm, reject --------------------------------------------------------------------------


def test_wrap_for_a_new_member_makes_it_unconfirmed_and_confirm_a_holder(two: Keys) -> None:
    two.join("n3")
    two.announce("n3")
    assert (two.machine.missing("n3"), two.machine.unconfirmed("n3")) == ([K1], [])
    two.do("wrap", key_id=K1, wrapped={"n3": blob("n3")})
    assert (two.machine.missing("n3"), two.machine.unconfirmed("n3")) == ([], [K1])
    assert two.confirm("n3", K1) == {"name": "n3", "confirmed": 1}
    assert two.machine.unconfirmed("n3") == []
    assert two.key().holders == ("n1", "n2", "n3")


def test_wrap_of_another_blob_needs_another_confirmation(two: Keys) -> None:
    two.do("wrap", key_id=K1, wrapped={"n1": blob("n1"), "n2": blob("again")})
    assert two.key().holders == ("n1",)


def test_wrap_of_an_unknown_key_is_not_found_of_a_destroyed_one_a_conflict(two: Keys) -> None:
    two.generate(K2)
    two.do("destroy", key_id=K2, force=False)
    with pytest.raises(errors.NotFound):
        two.do("wrap", key_id=K3, wrapped={"n1": blob()})
    with pytest.raises(errors.Conflict, match="destroyed"):
        two.do("wrap", key_id=K2, wrapped={"n1": blob()})


def test_confirm_with_another_fingerprint_is_a_conflict_and_confirms_none() -> None:
    keys = Keys("n1")
    keys.generate(K1)
    keys.generate(K2)
    with pytest.raises(errors.Conflict, match=f"{K2}: same key id with different keys on two nodes"):
        keys.do("confirm", name="n1", keys={K1: PRINT, K2: OTHER_PRINT})
    assert keys.machine.unconfirmed("n1") == [K1, K2]


def test_confirm_leaves_out_what_the_member_has_no_blob_of(two: Keys) -> None:
    two.generate(K2, "n1")
    assert two.confirm("n2", K2, K3) == {"name": "n2", "confirmed": 0}
    assert two.key(K2).holders == ()


def test_confirm_of_no_member_is_not_found(two: Keys) -> None:
    with pytest.raises(errors.NotFound):
        two.confirm("n9", K1)


def test_reject_makes_a_blob_missing_again_and_remembers_that_it_was_given(two: Keys) -> None:
    assert two.do("reject", name="n2", keys=[K1, K3]) == {"name": "n2", "rejected": 1}
    assert two.machine.missing("n2") == [K1]
    assert (two.key().holders, two.key().known_to) == (("n1",), ("n1", "n2"))
    assert two.do("reject", name="n2", keys=[K1]) == {"name": "n2", "rejected": 0}


# -- promote ----------------------------------------------------------------------------------------


def test_promote_retires_the_primary_key(two: Keys) -> None:
    two.give(K2, "n1", "n2")
    two.now += 1000
    assert two.do("promote", key_id=K2) == {"key_id": K2, "state": "primary"}
    assert two.do("promote", key_id=K2) == {"key_id": K2, "state": "primary"}
    old, new = two.key(K1), two.key(K2)
    assert (old.state, old.retired_unix_ms) == ("enabled", NOW + 1000)
    assert old.tokens_until_unix_ms == NOW + 1000 + KEEP_MS
    assert (new.promoted_unix_ms, new.retired_unix_ms, new.free_unix_ms) == (NOW + 1000, None, None)
    assert two.machine.primary() == new


def test_promote_of_a_key_that_members_lack_names_them(two: Keys) -> None:
    two.join("n3")
    two.generate(K2, "n1", "n2")
    two.confirm("n1", K2)
    with pytest.raises(errors.Conflict, match="not held by n2, n3: "):
        two.do("promote", key_id=K2)
    assert two.state(K1) == "primary"


def test_promote_lacking_many_members_names_ten_of_them(two: Keys) -> None:
    for n in range(10, 30):
        two.join(f"m{n}")
    two.generate(K2)
    with pytest.raises(errors.Conflict, match=r"not held by m10, m11, .*, m19 and 12 more: "):
        two.do("promote", key_id=K2)


@pytest.mark.parametrize("operation", ["disable", "destroy"])
def test_promote_of_a_disabled_or_destroyed_key_is_a_conflict(two: Keys, operation: str) -> None:
    two.give(K2, "n1", "n2")
    two.do(operation, key_id=K2, force=False)
    with pytest.raises(errors.Conflict, match=K2):
        two.do("promote", key_id=K2)


def test_promote_back_and_forth_keeps_the_end_of_the_first_tokens(two: Keys) -> None:
    two.give(K2, "n1", "n2")
    two.do("promote", key_id=K2)
    first_end = two.key(K1).tokens_until_unix_ms
    two.do("promote", key_id=K1)
    assert two.key(K1).tokens_until_unix_ms == first_end
    two.now += HOUR_MS
    two.do("promote", key_id=K2)
    assert two.key(K1).tokens_until_unix_ms == NOW + HOUR_MS + KEEP_MS


# -- disable, enable, destroy -----------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["disable", "destroy"])
@pytest.mark.parametrize("force", [False, True])
def test_primary_key_is_neither_disabled_nor_destroyed(two: Keys, operation: str, force: bool) -> None:
    with pytest.raises(errors.Conflict, match="promote another"):
        two.do(operation, key_id=K1, force=force)


@pytest.mark.parametrize("operation", ["disable", "destroy"])
def test_retired_key_goes_60_s_after_its_last_token_or_by_force(two: Keys, operation: str) -> None:
    two.give(K2, "n1", "n2")
    two.do("promote", key_id=K2)
    two.now = NOW + KEEP_MS + 60_000 - 1
    with pytest.raises(errors.Conflict, match="may live until 2027-01-22T08:01:00Z"):
        two.do(operation, key_id=K1, force=False)
    snapshot = b"".join(two.cluster.begin_snapshot()())
    assert two.do(operation, key_id=K1, force=True)["state"] == f"{operation}d".replace("yd", "yed")
    two.cluster.restore(snapshot)
    two.now += 1
    two.do(operation, key_id=K1, force=False)


@pytest.mark.parametrize("promoted", [False, True])
def test_enable_gives_back_the_state_before(two: Keys, promoted: bool) -> None:
    two.give(K2, "n1", "n2")
    if promoted:
        two.do("promote", key_id=K2)
        two.do("promote", key_id=K1)
    before = two.state(K2)
    assert before == ("enabled" if promoted else "pending")
    two.do("disable", key_id=K2, force=True)
    assert two.do("disable", key_id=K2, force=False) == {"key_id": K2, "state": "disabled"}
    assert two.do("enable", key_id=K2) == {"key_id": K2, "state": before}
    assert two.do("enable", key_id=K2) == {"key_id": K2, "state": before}
    assert two.key(K2).holders == ("n1", "n2")


def test_destroy_drops_blobs_and_keeps_the_record(two: Keys) -> None:
    two.give(K2, "n1", "n2")
    assert two.do("destroy", key_id=K2, force=False) == {"key_id": K2, "state": "destroyed"}
    assert two.do("destroy", key_id=K2, force=False) == {"key_id": K2, "state": "destroyed"}
    record = two.key(K2)
    assert (record.wrapped, record.holders, record.known_to) == ({}, (), ())
    assert (record.fingerprint, record.destroyed_unix_ms) == (PRINT, NOW)
    assert two.machine.missing("n1") == []
    for operation in ("enable", "promote"):
        with pytest.raises(errors.Conflict, match="destroyed"):
            two.do(operation, key_id=K2)


def test_destroy_forgets_the_oldest_beyond_256(two: Keys) -> None:
    for n in range(0x100, 0x100 + MAX_DESTROYED + 1):
        two.now += 1
        two.generate(f"fc{n:06x}")
        two.do("destroy", key_id=f"fc{n:06x}", force=False)
    assert two.machine.get("fc000100") is None
    assert two.state("fc000101") == "destroyed"
    assert len(two.machine.records()) == MAX_DESTROYED + 1
    ClusterState().restore(b"".join(two.cluster.begin_snapshot()()))


@pytest.mark.parametrize(
    ("operation", "more"),
    [("promote", {}), ("enable", {}), ("disable", {"force": True}), ("destroy", {"force": True})],
)
def test_operation_on_an_unknown_key_is_not_found(two: Keys, operation: str, more: Any) -> None:
    with pytest.raises(errors.NotFound, match=f"no key {K3}"):
        two.do(operation, key_id=K3, **more)


def test_refusal_at_the_end_of_time_still_shows_a_date(two: Keys) -> None:
    two.give(K2, "n1", "n2")
    two.now = 2**53
    two.do("promote", key_id=K2)
    with pytest.raises(errors.Conflict, match="9999-12-31T23:59:59Z"):
        two.do("destroy", key_id=K1, force=False)


# -- import -----------------------------------------------------------------------------------------


def imported(key_id: str, **other: Any) -> dict[str, Any]:
    return {
        "key_id": key_id,
        "cluster_id": OTHER_CLUSTER,
        "fingerprint": PRINT,
        "state": "enabled",
        "created_unix_ms": 5,
        "retired_unix_ms": NOW - HOUR_MS,
        "tokens_until_unix_ms": NOW + HOUR_MS,
        "wrapped": {"n1": blob(key_id)},
        **other,
    }


def test_import_adds_keys_of_another_cluster_that_open_and_can_be_promoted(two: Keys) -> None:
    ring = [imported(K2), imported(K3, state="disabled")]
    assert two.do("import", keys=ring) == {"imported": [K2, K3], "known": []}
    assert two.do("import", keys=ring) == {"imported": [], "known": [K2, K3]}
    assert (two.state(K2), two.state(K3)) == ("enabled", "disabled")
    assert (two.key(K2).cluster_id, two.key(K2).promoted_unix_ms) == (OTHER_CLUSTER, None)
    assert two.machine.missing("n2") == [K2, K3]
    with pytest.raises(errors.Conflict, match="may live until"):
        two.do("destroy", key_id=K2, force=False)
    two.now += HOUR_MS + 60_000
    two.do("destroy", key_id=K2, force=False)
    assert two.do("enable", key_id=K3)["state"] == "enabled"


def test_import_into_an_empty_ring_makes_no_primary() -> None:
    keys = Keys("n1")
    keys.do("import", keys=[imported(K2)])
    assert keys.machine.primary() is None
    assert keys.generate(K1)["state"] == "primary"


def test_import_of_a_destroyed_key_does_not_bring_it_back(two: Keys) -> None:
    two.do("import", keys=[imported(K2)])
    two.do("destroy", key_id=K2, force=True)
    assert two.do("import", keys=[imported(K2)]) == {"imported": [], "known": [K2]}
    assert two.state(K2) == "destroyed"


@pytest.mark.parametrize(
    ("second", "error"),
    [
        (imported(K1), errors.AlreadyExists),
        (imported(K3, wrapped={"n9": blob()}), errors.NotFound),
    ],
)
def test_import_is_all_or_nothing(two: Keys, second: Any, error: type[errors.CyoloctlError]) -> None:
    before = two.machine.export_state()
    with pytest.raises(error):
        two.do("import", keys=[imported(K2), second])
    assert two.machine.export_state() == before


def test_import_beyond_64_keys_is_a_conflict(two: Keys) -> None:
    ring = [imported(f"fc0001{n:02x}") for n in range(MAX_KEYS)]
    with pytest.raises(errors.Conflict, match="64 keys"):
        two.do("import", keys=ring)
    two.do("import", keys=ring[1:])
    assert len(two.machine.records()) == MAX_KEYS


# -- policy -----------------------------------------------------------------------------------------


def test_policy_begins_without_rotation_and_with_seven_days(two: Keys) -> None:
    assert two.machine.policy == KeyPolicy(None, 604_800)
    assert two.do("policy", rotate_every_s=86_400, keep_s=7200) == {"rotate_every_s": 86_400, "keep_s": 7200}
    assert two.machine.policy == KeyPolicy(86_400, 7200)


def test_policy_that_keeps_less_leaves_the_tokens_that_are_out_their_time(two: Keys) -> None:
    two.do("policy", rotate_every_s=None, keep_s=3600)
    two.give(K2, "n1", "n2")
    two.now += HOUR_MS
    two.do("promote", key_id=K2)
    assert two.key(K1).tokens_until_unix_ms == NOW + KEEP_MS
    two.now += DAY_MS
    two.give(K3, "n1", "n2")
    two.do("promote", key_id=K3)
    assert two.key(K2).tokens_until_unix_ms == NOW + DAY_MS + 2 * HOUR_MS


def test_policy_that_keeps_more_does_not_change_a_retired_key(two: Keys) -> None:
    two.give(K2, "n1", "n2")
    two.do("promote", key_id=K2)
    two.do("policy", rotate_every_s=None, keep_s=30 * 86_400)
    assert two.key(K1).tokens_until_unix_ms == NOW + KEEP_MS
    two.do("promote", key_id=K1)
    assert two.key(K2).tokens_until_unix_ms == NOW + 30 * DAY_MS


def test_policy_that_would_keep_too_many_keys_is_invalid_input(two: Keys) -> None:
    two.do("policy", rotate_every_s=3600, keep_s=56 * 3600)
    with pytest.raises(errors.InvalidInput, match="rotate less often"):
        two.do("policy", rotate_every_s=3600, keep_s=57 * 3600)


def test_last_token_that_may_exist_is_of_whichever_key_lives_longest(two: Keys) -> None:
    assert two.machine.last_end_unix_ms(NOW) == NOW + KEEP_MS + 120_000
    two.give(K2, "n1", "n2")
    two.do("promote", key_id=K2)
    two.now += DAY_MS
    two.do("policy", rotate_every_s=None, keep_s=3600)
    assert two.machine.last_end_unix_ms(two.now) == NOW + DAY_MS + KEEP_MS + 120_000
    assert two.machine.last_end_unix_ms(NOW + 30 * DAY_MS) == NOW + 30 * DAY_MS + HOUR_MS + 120_000


def test_set_back_dates_nothing_later_than_now_and_leaves_tokens_their_time(two: Keys) -> None:
    two.now += DAY_MS
    two.give(K2, "n1", "n2")
    two.do("promote", key_id=K2)
    two.give(K3, "n1", "n2")
    two.do("destroy", key_id=K3, force=True)
    two.machine.set_back(NOW + DAY_MS, NOW + 1)
    first, second, third = two.key(K1), two.key(K2), two.key(K3)
    assert (first.created_unix_ms, first.promoted_unix_ms) == (NOW, NOW)
    assert (first.retired_unix_ms, first.tokens_until_unix_ms) == (NOW + 1, NOW + DAY_MS + KEEP_MS)
    assert (second.created_unix_ms, second.promoted_unix_ms) == (NOW + 1, NOW + 1)
    assert (third.created_unix_ms, third.promoted_unix_ms, third.destroyed_unix_ms) == (
        NOW + 1,
        None,
        NOW + 1,
    )


# -- members ----------------------------------------------------------------------------------------


def test_removed_member_loses_its_blobs_and_is_named_on_the_keys_that_it_knew(two: Keys) -> None:
    two.give(K2, "n1")
    seen: list[int] = []
    two.machine.on_change = lambda what, index: seen.append(index)
    two.send("members", "remove", {"name": "n2"})
    assert two.machine.nodes().keys() == {"n1"}
    assert (two.key(K1).holders, list(two.key(K1).wrapped)) == (("n1",), ["n1"])
    assert (two.key(K1).compromised_by, two.key(K2).compromised_by) == (("n2",), ())
    assert seen == [two.index]
    assert two.key(K1).to_json()["compromised_by"] == ["n2"]
    two.do("promote", key_id=K2)
    two.do("destroy", key_id=K1, force=True)
    assert two.key(K1).compromised_by == ()


def test_removed_member_that_had_a_blob_before_its_sealing_key_changed_is_named_too(two: Keys) -> None:
    two.announce("n2", OTHER_SEALING)
    two.send("members", "remove", {"name": "n2"})
    assert two.key().compromised_by == ("n2",)


def test_member_whose_removal_is_refused_keeps_its_blobs(two: Keys) -> None:
    with pytest.raises(errors.NotFound):
        two.send("members", "remove", {"name": "n3"})
    assert two.key().holders == ("n1", "n2")


def test_on_change_is_told_once_for_a_change_and_not_for_a_repetition(two: Keys) -> None:
    two.generate(K2, "n1", "n2")
    seen: list[int] = []
    two.machine.on_change = lambda what, index: seen.append(index)
    two.confirm("n1", K1, K2)
    assert seen == [two.index]
    two.confirm("n1", K1, K2)
    with pytest.raises(errors.Conflict):
        two.do("promote", key_id=K2)
    assert len(seen) == 1
    two.machine.on_change = lambda what, index: 1 // 0  # type: ignore[assignment]  # an observer's bug
    assert two.confirm("n2", K2) == {"name": "n2", "confirmed": 1}


# -- snapshots --------------------------------------------------------------------------------------


def eventful() -> Keys:
    """Every state of a key, a removed member, a member without blobs, another policy."""
    keys = Keys("n1", "n2", "n3")
    keys.give(K1, "n1", "n2", "n3")
    keys.give(K2, "n1", "n2", "n3")
    keys.do("promote", key_id=K2)
    keys.generate(K3)
    keys.do("import", keys=[imported("fc000004", state="disabled"), imported("fc000005")])
    keys.do("destroy", key_id="fc000005", force=True)
    keys.do("policy", rotate_every_s=86_400, keep_s=7200)
    keys.send("members", "remove", {"name": "n3"})
    keys.announce("n2", OTHER_SEALING)
    return keys


def test_restore_gives_back_keys_nodes_and_policy() -> None:
    keys = eventful()
    restored = Keys()
    restored.cluster.restore(b"".join(keys.cluster.begin_snapshot()()))
    other = restored.cluster
    assert b"".join(other.begin_snapshot()()) == b"".join(keys.cluster.begin_snapshot()())
    assert other.keys.records() == keys.machine.records()
    assert other.keys.primary() == keys.machine.primary()
    assert other.keys.nodes() == keys.machine.nodes()
    assert other.keys.policy == keys.machine.policy
    assert {record.state for record in restored.records()} == {
        "pending",
        "primary",
        "enabled",
        "disabled",
        "destroyed",
    }


def test_export_is_the_same_for_the_same_state_whatever_the_order() -> None:
    def history(names: list[str], ids: list[str]) -> str:
        keys = Keys(*names)
        keys.generate(K1, *names)
        for key_id in ids:
            keys.generate(key_id, *names)
            for name in names:
                keys.confirm(name, key_id)
        return json.dumps(keys.machine.export_state(), sort_keys=True)

    assert history(["n1", "n2"], [K2, K3]) == history(["n2", "n1"], [K3, K2])


def test_no_repr_and_no_json_of_a_key_shows_a_blob() -> None:
    keys = eventful()
    for record in keys.records():
        shown = repr(record) + json.dumps(record.to_json())
        assert not [sealed for sealed in record.wrapped.values() if sealed in shown]


# -- witnesses --------------------------------------------------------------------------------------


def _with_witness(keys: Keys) -> None:
    public, hashed = base64.b64encode(bytes(32)).decode(), "e" * 64
    keys.send("members", "invite_witness", {"name": "w", "public_key": public, "ttl_s": 60})
    fields = {"address": "h:9", "sealing_key": OTHER_SEALING, "raft_id": "w", "key_hash": hashed}
    fields |= {"public_key": public, "request_sha256": "a" * 64}
    keys.send("members", "admit", {"name": "w", **fields})


def test_no_key_is_sealed_to_a_witness(two: Keys) -> None:
    _with_witness(two)
    before = two.machine.export_state()
    with pytest.raises(errors.Conflict, match="w is a witness"):
        two.announce("w", OTHER_SEALING)
    # Not even where it had announced a sealing key.
    two.machine._nodes["w"] = NodeKey(OTHER_SEALING, PEM, SIGNATURE)
    for change in (
        lambda: two.do("wrap", key_id=K1, wrapped={"w": blob("w")}),
        lambda: two.generate(K2, "n1", "w"),
    ):
        with pytest.raises(errors.Conflict, match="w is a witness: no key is sealed to it"):
            change()
    del two.machine._nodes["w"]
    assert two.machine.export_state() == before


def test_promotion_of_a_key_does_not_wait_for_a_witness(two: Keys) -> None:
    _with_witness(two)
    two.give(K2, "n1", "n2")
    assert two.do("promote", key_id=K2)["state"] == "primary"
