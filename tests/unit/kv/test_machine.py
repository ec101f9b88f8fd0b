"""The machine of keys and values: revisions, conditions, transactions, ends, quota and what is remembered."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any
from zlib import decompress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyoloctl import errors
from cyoloctl.kv.changes import Changes
from cyoloctl.kv.machine import DELETED_AT_ONCE, EXPIRED_AT_ONCE, KEY_OVERHEAD_BYTES, KvLimits, KvMachine
from cyoloctl.kv.records import Entry, Event, check_key, plain_size
from cyoloctl.replicated.command import Malformed, Refused
from cyoloctl.state import ClusterState
from cyoloctl.text import Json, canonical_json, parse_canonical_json
from tests.support.states import exported, prepared

NOW = 1_800_000_000_000
OLD, NEW = "fc000001", "fc000002"


class Keys:
    """A machine whose log index and time go on as told; each command is an entry of its own."""

    def __init__(self, **limits: Any) -> None:
        self.held: set[tuple[str, int]] = set()
        self.ring = {OLD, NEW}
        self.machine = KvMachine(
            lambda name, token, now: (name, token) in self.held,
            lambda: self.epoch,
            KvLimits(**limits),
            lambda key_id: key_id in self.ring,
        )
        self.index, self.epoch = 10, 1
        self.now = NOW

    def do(self, operation: str, *, again: bool = False, **given: Any) -> Json:
        """again: in the same entry as the command before."""
        self.index += not again
        return self.machine.apply(operation, given, self.index, self.now)

    def put(self, key: str, value: bytes = b"v", **more: Any) -> Json:
        given = {"if_revision": None, "ttl_ms": None, "fence": None, **more}
        return self.do("put", key=key, value=b64encode(value).decode(), **given)

    def put_sealed(self, key: str, blob: bytes, **more: Any) -> Json:
        given = {"if_revision": None, "ttl_ms": None, "fence": None, "digest": "0" * 32, **more}
        return self.do("put_sealed", key=key, blob=b64encode(blob).decode(), **given)

    def reseal(self, *values: tuple[str, int, bytes]) -> int:
        listed = [
            {
                "name": b64encode(key.encode()).decode(),
                "revision": revision,
                "blob": b64encode(blob).decode(),
            }
            for key, revision, blob in values
        ]
        resealed: int = self.do("reseal", values=listed)["resealed"]
        return resealed

    def delete(self, key: str, **more: Any) -> Json:
        return self.do("delete", key=key, **{"if_revision": None, "fence": None, **more})

    def txn(self, compare: list[Json], then: list[Json], otherwise: list[Json] | None = None) -> Json:
        return self.do("txn", compare=compare, then=then, otherwise=otherwise or [], fence=None)

    def refused(self, operation: str, error: type[errors.CyoloctlError], **given: Any) -> None:
        before = self.state()
        with pytest.raises(Refused) as caught:
            getattr(self, operation)(**given) if hasattr(self, operation) else self.do(operation, **given)
        assert type(caught.value.error) is error
        assert self.state() == before

    def value(self, key: str, revision: int | None = None) -> bytes | None:
        entry = self.machine.get(key, revision)
        return None if entry is None else entry.value

    def state(self) -> str:
        return canonical_json(exported(self.machine))

    def restored(self) -> KvMachine:
        again = KvMachine(limits=self.machine._limits, has_key=self.machine.has_key)
        prepared(again, parse_canonical_json(self.state()))()
        return again

    def events(self, revision: int = 0) -> list[tuple[int, str, str]]:
        return [(each.revision, each.kind, each.key) for each in self.machine.changes(revision, 10_000)]


def blob(text: bytes, key_id: str = OLD) -> bytes:
    """What the machine takes for a sealed value: it looks at the first six bytes."""
    return b"\x56\x01" + bytes.fromhex(key_id) + bytes(40) + text


def a_put(key: str, value: bytes = b"v", ttl_ms: int | None = None) -> Json:
    return {"op": "put", "key": key, "value": b64encode(value).decode(), "ttl_ms": ttl_ms}


def compare(key: str, target: str, op: str, value: Any) -> Json:
    return {"key": key, "target": target, "op": op, "value": value}


@pytest.fixture
def keys() -> Keys:
    return Keys()


def test_revision_is_the_index_of_the_entry_and_higher_for_the_next_command_in_it(keys: Keys) -> None:
    assert keys.put("a")["revision"] == 11
    assert keys.put("a", again=True)["revision"] == 12
    # A caller that read between the two cannot take the second for the first.
    keys.refused("put", errors.Conflict, key="a", if_revision=11)
    assert keys.put("a", if_revision=12)["revision"] == 13
    assert keys.put("b", b"x") == {
        "revision": 14,
        "created_revision": 14,
        "version": 1,
        "expires_unix_ms": None,
    }
    entry = keys.machine.get("a")
    assert entry is not None
    assert (entry.created_revision, entry.revision, entry.version) == (11, 13, 3)


def test_revision_of_a_lost_history_never_comes_again(keys: Keys) -> None:
    keys.put("a")
    keys.epoch = 2
    assert keys.put("a")["revision"] == 2**40
    assert keys.put("a")["revision"] == 2**40 + 1


def test_condition_on_a_revision(keys: Keys) -> None:
    keys.refused("put", errors.Conflict, key="a", if_revision=5)
    made = keys.put("a", if_revision=0)["revision"]
    keys.refused("put", errors.AlreadyExists, key="a", if_revision=0)
    keys.refused("delete", errors.Conflict, key="a", if_revision=made + 1)
    keys.delete("a", if_revision=made)
    keys.refused("delete", errors.NotFound, key="a")
    assert keys.put("a")["version"] == 1


def test_keys_expire_once_and_only_by_an_entry(keys: Keys) -> None:
    keys.put("a", ttl_ms=5000)
    keys.put("b", ttl_ms=9000)
    assert keys.machine.next_end_unix_ms() == NOW + 5000
    keys.now += 4999
    assert keys.do("expire", most=500) == {"expired": 0}
    keys.now += 1
    assert keys.value("a") == b"v"  # nobody sees it go before the log says so
    assert keys.do("expire", most=500) == {"expired": 1}
    assert keys.value("a") is None
    assert keys.events()[-1][1:] == ("expire", "a")
    assert keys.machine.next_end_unix_ms() == NOW + 9000
    keys.now = NOW + 9000
    # What is over counts as gone for whoever writes, and goes before the write, with a revision of its own.
    written = keys.put("b", b"2", if_revision=0)
    assert written["version"] == 1
    assert keys.events()[-2:] == [(written["revision"] - 1, "expire", "b"), (written["revision"], "put", "b")]
    assert keys.machine.next_end_unix_ms() is None


def test_refused_write_takes_no_key_away(keys: Keys) -> None:
    keys.put("a", ttl_ms=1000)
    keys.put("b")
    keys.now += 1000
    keys.refused("put", errors.AlreadyExists, key="b", if_revision=0)
    keys.refused("delete", errors.NotFound, key="a")
    assert keys.value("a") == b"v"


def test_expired_keys_go_a_bounded_number_at_a_time(keys: Keys) -> None:
    for number in range(7):
        keys.put(f"k{number}", ttl_ms=1000 + number)
    keys.now += 10_000
    assert keys.do("expire", most=3) == {"expired": 3}
    assert [key for key, _ in keys.machine.page("", None, 10)] == ["k3", "k4", "k5", "k6"]


def test_key_that_a_command_names_ends_before_it_however_many_others_are_due(keys: Keys) -> None:
    for number in range(EXPIRED_AT_ONCE + 5):
        keys.put(f"k{number}", ttl_ms=1000)
    keys.put("last", ttl_ms=1001)
    keys.now += 1001
    assert keys.put("last", b"new")["version"] == 1
    assert len(keys.machine) == 1 + 5 + 1


def test_keep_gives_a_later_end_and_is_no_change(keys: Keys) -> None:
    made = keys.put("a", ttl_ms=5000)["revision"]
    keys.now += 3000
    kept = keys.do("keep", key="a", created_revision=made, ttl_ms=5000)
    assert kept == {"revision": made, "expires_unix_ms": NOW + 8000}
    assert keys.do("keep", key="a", created_revision=None, ttl_ms=1000)["expires_unix_ms"] == NOW + 8000
    assert keys.events() == [(made, "put", "a")]
    keys.refused("keep", errors.Conflict, key="a", created_revision=made + 1, ttl_ms=5000)
    keys.put("for ever")
    keys.refused("keep", errors.Conflict, key="for ever", created_revision=None, ttl_ms=5000)
    keys.now += 5000
    keys.refused("keep", errors.NotFound, key="a", created_revision=None, ttl_ms=5000)


def test_restored_machine_still_ends_keys(keys: Keys) -> None:
    keys.put("a", ttl_ms=5000)
    assert keys.restored().next_end_unix_ms() == NOW + 5000


def test_time_set_back_leaves_no_key_longer_than_it_was_given(keys: Keys) -> None:
    keys.put("a", ttl_ms=5000)
    keys.put("b", ttl_ms=90_000)
    keys.machine.set_back(NOW, NOW - 86_400_000)
    keys.now = NOW - 86_400_000 + 5000
    assert keys.do("expire", most=500) == {"expired": 1}
    keys.now += 85_000
    assert keys.do("expire", most=500) == {"expired": 1}


def test_key_whose_time_was_over_is_not_there_again_when_the_time_is_set_back(keys: Keys) -> None:
    keys.put("over", ttl_ms=5000)
    keys.put("there", ttl_ms=5001)
    keys.now += 5000
    keys.refused("delete", errors.NotFound, key="over", if_revision=None, fence=None)
    keys.machine.set_back(keys.now, NOW + 1000)
    keys.now = NOW + 1000
    keys.refused("delete", errors.NotFound, key="over", if_revision=None, fence=None)
    assert keys.do("expire", most=500) == {"expired": 1}
    keys.do("delete", key="there", if_revision=None, fence=None)


def test_time_set_back_passes_over_keys_that_are_gone_or_have_no_end_any_more(keys: Keys) -> None:
    for key, ttl_ms in (("first", 4000), ("deleted", 5000), ("stays", 5000)):
        keys.put(key, ttl_ms=ttl_ms)
    keys.delete("deleted")
    keys.put("stays")
    keys.machine.set_back(NOW, NOW - 86_400_000)
    keys.now = NOW - 86_400_000 + 5000
    assert keys.do("expire", most=500) == {"expired": 1}
    assert keys.value("stays") == b"v"


def test_key_that_is_kept_again_and_again_has_one_end_and_time_set_back_finds_it(keys: Keys) -> None:
    keys.txn([], [a_put("a", ttl_ms=5000), a_put("b", ttl_ms=5000)])
    for _ in range(1000):
        keys.now += 1
        keys.do("keep", key="a", created_revision=None, ttl_ms=5000)
        assert len(keys.machine._ends) <= 105
    keys.machine.set_back(keys.now, keys.now - 86_400_000)
    keys.now += 5000 - 86_400_000
    assert keys.do("expire", most=500) == {"expired": 2}


def test_transaction_changes_all_at_one_revision_or_takes_the_other_branch(keys: Keys) -> None:
    made = keys.put("a", b"1")["revision"]
    done = keys.txn(
        [compare("a", "revision", "=", made), compare("gone", "exists", "=", False)],
        [a_put("a", b"2"), a_put("b"), {"op": "delete", "key": "gone"}],
        [a_put("wrong")],
    )
    revision = done["revision"]
    assert done == {
        "succeeded": True,
        "revision": revision,
        "results": [
            {"created_revision": made, "version": 2, "expires_unix_ms": None},
            {"created_revision": revision, "version": 1, "expires_unix_ms": None},
            {"deleted": False},
        ],
    }
    assert keys.events(revision) == [(revision, "put", "a"), (revision, "put", "b")]
    done = keys.txn([compare("a", "revision", "=", made)], [a_put("wrong")], [{"op": "delete", "key": "a"}])
    assert done == {"succeeded": False, "revision": revision + 1, "results": [{"deleted": True}]}
    mixed = [compare("b", "exists", "=", True), compare("a", "exists", "=", True)]
    assert keys.txn(mixed, [a_put("a")]) == {
        "succeeded": False,
        "revision": revision + 1,
        "results": [],
    }
    assert [key for key, _ in keys.machine.page("", None, 10)] == ["b"]


@pytest.mark.parametrize(
    ("target", "op", "value", "holds"),
    [
        ("exists", "=", True, True), ("exists", "=", False, False),
        ("value", "=", "dg==", True), ("value", "!=", "dg==", False), ("value", "=", "", False),
        ("version", "=", 2, True), ("version", "<", 2, False), ("version", ">", 1, True),
        ("version", "!=", 2, False),
        ("created_revision", "=", 11, True), ("revision", ">", 11, True), ("revision", "=", 12, True),
    ],
)  # fmt: skip
def test_comparisons(keys: Keys, target: str, op: str, value: Any, holds: bool) -> None:
    keys.put("a", b"x")
    keys.put("a", b"v")
    assert keys.txn([compare("a", target, op, value)], [])["succeeded"] is holds


def test_key_that_is_not_there_compares_as_zero_and_has_no_value(keys: Keys) -> None:
    assert keys.txn([compare("a", "version", "=", 0), compare("a", "value", "!=", "")], [])["succeeded"]
    keys.put("a", ttl_ms=1000)
    keys.now += 1000
    assert keys.txn([compare("a", "exists", "=", False)], [])["succeeded"]


def test_prefix_goes_a_thousand_keys_at_a_time(keys: Keys) -> None:
    for number in range(DELETED_AT_ONCE + 2):
        keys.put(f"b/{number:04}")
    for key in ("a", "c"):
        keys.put(key)
    done = keys.do("delete_prefix", prefix="b/")
    last = keys.machine.revision
    assert done == {"deleted": DELETED_AT_ONCE, "more": True, "revision": last}
    assert keys.do("delete_prefix", prefix="b/") == {"deleted": 2, "more": False, "revision": last + 1}
    assert keys.do("delete_prefix", prefix="b/") == {"deleted": 0, "more": False, "revision": last + 1}
    assert [key for key, _ in keys.machine.page("", None, 10)] == ["a", "c"]


def test_quota_refuses_what_needs_more_and_nothing_else() -> None:
    keys = Keys(quota=2 * (KEY_OVERHEAD_BYTES + 1 + 10))
    keys.put("a", bytes(10))
    keys.put("b", bytes(10))
    assert keys.machine.size == keys.machine.quota
    keys.refused("put", errors.QuotaExceeded, key="c", value=b"")
    keys.refused("put", errors.QuotaExceeded, key="a", value=bytes(11))
    keys.put("a", bytes(9))
    assert keys.txn([], [{"op": "delete", "key": "b"}, a_put("c", bytes(11))])["succeeded"]
    with pytest.raises(Refused):
        keys.txn([], [a_put("c", bytes(12))])
    keys.delete("a")
    keys.delete("c")
    assert keys.machine.size == 0


def test_fence_lets_only_the_holder_of_the_lock_write(keys: Keys) -> None:
    keys.held = {("job", 7)}
    keys.put("a", fence={"name": "job", "token": 7})
    keys.refused("put", errors.FenceLost, key="a", fence={"name": "job", "token": 6})
    keys.held = set()
    keys.refused("delete", errors.FenceLost, key="a", fence={"name": "job", "token": 7})
    with pytest.raises(Refused):
        keys.do("txn", compare=[], then=[], otherwise=[], fence={"name": "job", "token": 7})


def test_machine_without_locks_refuses_every_fence() -> None:
    with pytest.raises(Refused):
        KvMachine().apply(
            "put",
            {
                "key": "a",
                "value": "",
                "if_revision": None,
                "ttl_ms": None,
                "fence": {"name": "l", "token": 1},
            },
            1,
            NOW,
        )


def test_key_as_it_was_at_a_recent_revision(keys: Keys) -> None:
    first = keys.put("a", b"1")["revision"]
    second = keys.put("a", b"2")["revision"]
    keys.put("b")
    gone = keys.delete("a")["revision"]
    assert [keys.value("a", at) for at in (first - 1, first, second, gone - 1, gone)] == [
        None, b"1", b"2", b"2", None,
    ]  # fmt: skip
    assert [key for key, _ in keys.machine.page("", None, 10, second)] == ["a"]
    assert [key for key, _ in keys.machine.page("", "a", 10, gone - 1)] == ["b"]
    with pytest.raises(errors.Conflict, match=f"there is no revision {gone + 1} yet"):
        keys.value("a", gone + 1)


def test_forgotten_changes_are_told_of_with_the_revision_to_go_on_from() -> None:
    keys = Keys(changes=8)
    revisions = [keys.put("a", b"%d" % number)["revision"] for number in range(9)]
    first = keys.machine.first_revision
    assert first == revisions[2]
    assert [revision for revision, _, _ in keys.events(first)] == revisions[2:]
    with pytest.raises(errors.Compacted, match=f"go on from {first}"):
        keys.machine.changes(first - 1, 10)
    assert keys.value("a", first - 1) == b"1"
    with pytest.raises(errors.Compacted):
        keys.value("a", first - 2)


def test_changes_of_one_revision_are_forgotten_and_given_together() -> None:
    changes = Changes(8, 10**6)
    entry = Entry(b"", 1, 1, 1, None, None)
    for revision in (1, 1, 1, 2, 2, 3, 4, 5, 6):
        changes.add(Event(revision, "put", "k", entry, None))
    assert [each.revision for each in changes.since(1, 1)] == [1, 1, 1]
    assert [each.revision for each in changes.since(2, 3)] == [2, 2, 3]
    changes.trim()
    assert (len(changes), changes.first_revision) == (6, 2)


def test_changes_are_bounded_in_bytes_too() -> None:
    keys = Keys(change_bytes=4096)
    for _ in range(20):
        keys.put("a", bytes(1000))
    assert len(keys.machine._changes) <= 4
    keys.put("b", bytes(200_000))
    keys.put("b", b"")
    assert keys.machine.first_revision == keys.machine.revision + 1
    assert keys.events(keys.machine.first_revision) == []
    assert keys.restored().first_revision == keys.machine.first_revision


def test_pages_of_a_prefix_go_on_after_a_key(keys: Keys) -> None:
    for key in ("a", "b", "b/1", "b/2", "b0", "c", "é"):
        keys.put(key)

    def page(prefix: str, after: str | None, limit: int) -> list[str]:
        return [key for key, _ in keys.machine.page(prefix, after, limit)]

    assert page("b", None, 10) == ["b", "b/1", "b/2", "b0"]
    assert page("b/", None, 1) == ["b/1"]
    assert page("b/", "b/1", 10) == ["b/2"]
    assert page("b/", "a", 10) == ["b/1", "b/2"]
    assert page("b/", "c", 10) == []
    assert page("", "c", 10) == ["é"]


def test_rule_of_keys_is_the_same_for_callers_and_in_the_log() -> None:
    from cyoloctl.kv import api, records

    assert api._KEY.pattern.encode("unicode_escape").decode() == records._KEY.pattern
    assert (api.KEY_RULE, api.MAX_VALUE_BYTES) == (records.KEY_RULE, records.MAX_VALUE_BYTES)
    for key in ("é" * 256, "x" * 512, "a b", "😀"):
        assert check_key(key) == key
        api.check_key(key)
    for key in ("é" * 257, "\n", "\x85", "\ud800", ""):
        with pytest.raises(Malformed):
            check_key(key)
        with pytest.raises(errors.InvalidInput):
            api.check_key(key)


def test_sealed_value_is_kept_as_it_came_and_counts_as_it_is_stored(keys: Keys) -> None:
    secret = blob(b"secret")
    made = keys.put_sealed("s", secret, if_revision=0, ttl_ms=5000)
    entry = keys.machine.get("s")
    assert entry == Entry(secret, made["revision"], made["revision"], 1, 5000, NOW + 5000, sealed=True)
    assert plain_size(entry) == len(b"secret")
    assert keys.machine.size == KEY_OVERHEAD_BYTES + 1 + len(secret)
    assert keys.restored().get("s") == entry
    assert made.keys() == {"revision", "created_revision", "version", "expires_unix_ms"}


def test_value_that_is_not_sealed_replaces_a_sealed_one_only_where_that_is_said(keys: Keys) -> None:
    keys.put_sealed("s", blob(b"1"))
    keys.refused("put", errors.Conflict, key="s")
    with pytest.raises(Refused):  # a branch that is not taken has come to every journal all the same
        keys.txn([compare("s", "version", "=", 0)], [a_put("s")])
    assert keys.value("s") == blob(b"1")
    clear = a_put("s", b"2") | {"sealed": False}
    assert keys.txn([], [clear])["succeeded"]
    assert keys.put("s", b"3")["version"] == 3
    keys.put_sealed("s", blob(b"4"))
    given = {"if_revision": None, "ttl_ms": 1000, "fence": None}
    keys.do("put_clear", key="s", value="NQ==", **given)
    assert keys.machine.get("s") == Entry(b"5", keys.index, 11, 5, 1000, NOW + 1000)
    keys.put_sealed("s", blob(b"6"), ttl_ms=1000)
    keys.now += 1000
    assert keys.put("s", b"7")["version"] == 1  # it had ended: there is nothing to keep sealed


def test_sealed_value_is_compared_by_its_numbers_only(keys: Keys) -> None:
    made = keys.put_sealed("s", blob(b"1"))["revision"]
    for op in ("=", "!="):
        with pytest.raises(Refused, match="cannot be compared"):
            keys.txn([compare("s", "version", "=", 0), compare("s", "value", op, "MQ==")], [])
    assert keys.txn([compare("s", "revision", "=", made)], [])["succeeded"]


def test_transaction_puts_its_sealed_values_in_order(keys: Keys) -> None:
    def step(key: str) -> Json:
        return {"op": "put", "key": key, "digest": "0" * 32, "ttl_ms": None}

    blobs = [b64encode(blob(text)).decode() for text in (b"1", b"2", b"3")]
    steps: Json = {
        "then": [step("a"), a_put("b"), step("c")],
        "otherwise": [{"op": "delete", "key": "a"}, step("d")],
        "blobs": blobs,
        "fence": None,
    }
    assert keys.do("txn_sealed", compare=[], **steps)["succeeded"]
    assert [keys.value(key) for key in ("a", "b", "c")] == [blob(b"1"), b"v", blob(b"2")]
    assert not keys.do("txn_sealed", compare=[compare("a", "exists", "=", False)], **steps)["succeeded"]
    assert [keys.value(key) for key in ("a", "d")] == [None, blob(b"3")]


def test_value_under_a_key_that_the_ring_has_no_more_is_not_taken_and_not_remembered(keys: Keys) -> None:
    made = keys.put_sealed("s", blob(b"1"))["revision"]
    keys.ring = {NEW}
    before = keys.state()
    for do in (lambda: keys.put_sealed("s", blob(b"2")), lambda: keys.reseal(("s", made, blob(b"1")))):
        with pytest.raises(Malformed) as caught:
            do()
        assert caught.value.code == "unavailable"
    assert keys.state() == before


def test_sealed_again_is_no_change_and_reaches_all_that_is_remembered(keys: Keys) -> None:
    one = keys.put_sealed("s", blob(b"1"))["revision"]
    two = keys.put_sealed("s", blob(b"2"), ttl_ms=5000)["revision"]
    gone = keys.put_sealed("gone", blob(b"3"))["revision"]
    keys.delete("gone")
    keys.do("keep", key="s", created_revision=None, ttl_ms=9000)
    told: list[int] = []
    keys.machine.on_change = lambda key, index: told.append(index)
    before = (keys.machine.revision, keys.machine.size, keys.events(), keys.machine.next_end_unix_ms())
    assert keys.machine.values_under(OLD) == 3
    assert list(keys.machine.sealed_under(OLD, 2)) == [("s", one), ("s", two)]
    assert keys.reseal(
        *(("s", one, blob(b"1", NEW)), ("s", two, blob(b"2", NEW)), ("gone", gone, blob(b"3", NEW)))
    ) == 3  # fmt: skip
    assert (keys.machine.values_under(OLD), keys.machine.values_under(NEW)) == (0, 3)
    assert keys.machine.sealing_keys() == [NEW]
    assert told == []
    assert before == (
        keys.machine.revision,
        keys.machine.size,
        keys.events(),
        keys.machine.next_end_unix_ms(),
    )
    for machine in (keys.machine, keys.restored()):
        seen = [e.entry.value for e in machine.changes(1, 99) if e.entry is not None]
        assert seen == [blob(b"1", NEW), blob(b"2", NEW), blob(b"3", NEW)]
        found = machine.get("s", one), machine.get("s"), machine.get("gone", gone)
        assert [entry and entry.value for entry in found] == seen
        assert (machine.values_under(OLD), machine.values_under(NEW)) == (0, 3)


def test_what_has_gone_or_is_of_another_length_is_not_sealed_again(keys: Keys) -> None:
    made = keys.put_sealed("s", blob(b"1"))["revision"]
    clear = keys.put("a", blob(b"1"))["revision"]
    before = keys.state()
    for value in (("s", made, blob(b"12", NEW)), ("s", made + 1, blob(b"1", NEW)), ("b", 1, blob(b"1", NEW))):
        assert keys.reseal(value) == 0
    assert keys.reseal(("a", clear, blob(b"1", NEW))) == 0
    assert keys.state() == before
    assert keys.machine.values_under(OLD) == 1


def test_forgotten_value_needs_its_key_no_more() -> None:
    keys = Keys(changes=8)
    keys.put_sealed("s", blob(b"1"))
    keys.delete("s")
    assert keys.machine.values_under(OLD) == 1
    for number in range(8):
        keys.put("a", b"%d" % number)
    assert keys.machine.values_under(OLD) == 0
    assert keys.machine.sealing_keys() == []


BEFORE_SEALING = (
    "eNqdUk+L00AUj+6eXNeTexJB5igR27TW3eIKCuJJxIsHs92QJq/tsOlMmEnSdpcsePQPInjyqh9A8CN4UDz5FQRB2YsfQX1v"
    "krbpWkQdQmbee7/5vd+8905ef+d9+nrtw/rq5zc/tr49v5p/39152Lq9+/Lp0evs46Mjy1rZOGADqfi+FF4q+Ngbata+VLen"
    "TrQOWFfJkQZVBIKIg0iKs5AhFCcFvVRDSEZus6EfDLgAc9lPE+JKuDFzIpDBHkUglsGAtWuYjOtEqglrux2b6QT8cGKEIHHC"
    "hzBXVqP7MhUJqTFkCkKUw/3IJMOjmiUa+KEnY1A+crN2DyGA3j2YGGi558UrymMsIx5MijDEHnpbteZmDSUqmfgJeJCBmpBf"
    "pFGUE11G6GDgiz6RuG4dRcdpwmzmM5tQHdutOxWfy+7c295mNgLpM5gCSMjGFNmXAuYETZuFEEECs4jLLo8MTcN8VRos4rwQ"
    "mLKNKfsG61BKx75SwyfRr4Mv6HGlE09BxjWXwvRjbtSb1E4YdkEZMi4yjoXgxWQsxHK6N5QZTYFLxLECDSKAaUyEsJ/J1PAM"
    "udYwuxVIFRoDLXTrkp5pHlZ6RcMRYQMivTAoyFs6cC54ESSetPufd3FZlrW6oup13A9ftM7ff/v45l2rWCfKfe1nuSyqSghj"
    "LBa2PvOjFMxIKMCBCSuFpTCMY45lmU+0aRtbBOGMlUaeowqHVGztaDba/FI7puL0EhXOv6swA1FV4VRUOEZFg1Sw9qvDc2un"
    "3h9Tsb5ERePPKhp/U4vGb7VoYrZbFy5uPLhx9tmTYyrOLFHRrKhYmOrcqqxfTdiynA=="
)
"""A snapshot, compressed, of a release whose values had no seventh field."""


def test_snapshot_of_before_there_were_sealed_values_is_read() -> None:
    state = ClusterState()
    state.restore(decompress(b64decode(BEFORE_SEALING)))
    assert state.kv.get("a") == Entry(b"2", 12, 11, 2, 5000, 5000)
    assert state.kv.get("a", 11) == Entry(b"1", 11, 11, 1, None, None)
    assert state.kv.get("gone", 13) == Entry(b"\xff", 13, 13, 1, None, None)
    assert [(each.revision, each.kind) for each in state.kv.changes(0, 9)] == [
        (11, "put"), (12, "put"), (13, "put"), (14, "delete"),
    ]  # fmt: skip
    assert state.kv.sealing_keys() == []


NAMES = st.sampled_from(["a", "a/1", "a/2", "b"])
VALUES = st.binary(max_size=3)
TTLS = st.none() | st.integers(1000, 4000)
STEPS = st.lists(
    st.builds(a_put, NAMES, VALUES, TTLS) | st.builds(lambda key: {"op": "delete", "key": key}, NAMES),
    max_size=3,
    unique_by=lambda step: step["key"],
)
COMPARISONS = st.lists(
    st.builds(
        compare, NAMES, st.sampled_from(["version", "revision"]), st.sampled_from("=<>"), st.integers(0, 5)
    ),
    max_size=2,
)
COMMANDS = st.one_of(
    st.tuples(st.just("put"), NAMES, VALUES, TTLS, st.none() | st.integers(0, 20)),
    st.tuples(st.just("delete"), NAMES, st.none() | st.integers(1, 20)),
    st.tuples(st.just("prefix"), st.sampled_from(["", "a/", "z"])),
    st.tuples(st.just("txn"), COMPARISONS, STEPS, STEPS),
    st.tuples(st.just("wait"), st.integers(0, 3000)),
    st.tuples(st.just("expire")),
    st.tuples(st.just("seal"), NAMES, VALUES, TTLS, st.sampled_from([OLD, NEW])),
    st.tuples(st.just("reseal"), st.sampled_from([OLD, NEW])),
    st.tuples(st.just("restore")),
)


def carry_out(keys: Keys, command: tuple[Any, ...]) -> None:
    what, *rest = command
    if what == "put":
        key, value, ttl_ms, if_revision = rest
        keys.put(key, value, ttl_ms=ttl_ms, if_revision=if_revision)
    elif what == "delete":
        keys.delete(rest[0], if_revision=rest[1])
    elif what == "prefix":
        keys.do("delete_prefix", prefix=rest[0])
    elif what == "txn":
        keys.txn(*rest)
    elif what == "expire":
        keys.do("expire", most=2)
    elif what == "seal":
        key, value, ttl_ms, key_id = rest
        keys.put_sealed(key, blob(value, key_id), ttl_ms=ttl_ms)
    elif what == "reseal":
        other = NEW if rest[0] == OLD else OLD
        found = keys.machine.sealed_under(rest[0], 3)
        again = [(*place, blob(entry.value[46:], other)) for place, entry in found.items()]
        if again:
            assert keys.reseal(*again) == len(again)


def under(machine: KvMachine) -> dict[str, int]:
    """By a look at all of the state: how many values each key opens."""
    tables = exported(machine)["tables"]
    stored = [
        *(fields for _, *fields in tables["entries"]),
        *(change[3] for change in tables["changes"] if change[3]),
    ]
    ids = [b64decode(fields[0])[2:6].hex() for fields in stored if len(fields) == 7]
    return {key_id: ids.count(key_id) for key_id in (OLD, NEW)}


def text_of(value: bytes) -> bytes:
    """What a value says, sealed or not: sealing it again changes nothing."""
    return value[46:] if value.startswith(b"\x56\x01\xfc") else value


@settings(max_examples=150, deadline=None)
@given(st.lists(COMMANDS, max_size=30))
def test_all_that_was_is_read_again_at_its_revision_and_from_the_changes(
    commands: list[tuple[Any, ...]],
) -> None:
    """Against a dumb model: a copy of the whole table for every revision."""
    keys = Keys(changes=12)
    tables: dict[int, dict[str, bytes]] = {0: {}}
    for command in commands:
        if command[0] == "wait":
            keys.now += command[1]
        if command[0] == "restore":
            keys.machine = keys.restored()
            continue
        last = keys.machine.revision
        try:
            carry_out(keys, command)
        except Refused:
            assert keys.machine.revision == last
        for revision in sorted({each[0] for each in keys.events(max(last + 1, keys.machine.first_revision))}):
            tables[revision] = {
                key: text_of(value)
                for key in ("a", "a/1", "a/2", "b")
                if (value := keys.value(key, revision)) is not None
            }
        stored = {key: entry.value for key, entry in keys.machine.page("", None, 10)}
        present = {key: text_of(value) for key, value in stored.items()}
        if keys.machine.revision in tables:
            assert present == tables[keys.machine.revision]
        assert keys.machine.size == sum(
            len(key) + len(value) + KEY_OVERHEAD_BYTES for key, value in stored.items()
        )
        assert {key_id: keys.machine.values_under(key_id) for key_id in (OLD, NEW)} == under(keys.machine)
        replayed: dict[str, bytes] = {}
        known = [revision for revision in tables if revision >= keys.machine.first_revision - 1]
        for revision in known:
            read = {k: text_of(e.value) for k, e in keys.machine.page("", None, 10, revision)}
            assert read == tables[revision]
        if known:
            replayed = dict(tables[known[0]])
            for event in keys.machine.changes(max(known[0] + 1, keys.machine.first_revision), 10_000):
                if event.entry is None:
                    del replayed[event.key]
                else:
                    replayed[event.key] = text_of(event.entry.value)
            assert replayed == present
    assert canonical_json(exported(keys.restored())) == keys.state()
