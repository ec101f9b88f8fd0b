"""The lock machine: one holder at a time, tokens that increase, nothing that ends early."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyoloctl.errors import Conflict, NotFound, Overloaded
from cyoloctl.locks.machine import MAX_LOCKS, LockLimits, LockMachine
from cyoloctl.model import Stamp
from cyoloctl.replicated.command import Refused, encode_command
from cyoloctl.state import ClusterState
from cyoloctl.text import Json, canonical_json, parse_canonical_json

NOW = 1_800_000_000_000
ME, YOU = "1" * 32, "2" * 32


class Locks:
    """A machine, its log and its time."""

    def __init__(self, limits: LockLimits | None = None) -> None:
        self.epoch = 1
        self.limits = limits or LockLimits()
        self.index, self.now = 0, NOW
        self.stepped = NOW  # so much more than steady time has cluster time gone on
        self.machine = self.new()

    def new(self) -> LockMachine:
        return LockMachine(lambda: self.epoch, self.limits, self.stamp)

    def stamp(self) -> Stamp:
        return Stamp(0, self.now, self.now - self.stepped)

    def step(self, by_ms: int) -> None:
        self.now += by_ms
        self.stepped += by_ms

    def do(self, operation: str, name: str = "a", **given: Any) -> Json:
        self.index += 1
        return self.machine.apply(operation, {"name": name, **given}, self.index, self.now)

    def acquire(self, holder: str = ME, name: str = "a", ttl_ms: int = 10_000) -> Json:
        return self.do("acquire", name, holder=holder, owner=f"h {holder[0]}", by="root", ttl_ms=ttl_ms)

    def refused(self, operation: str, name: str = "a", **given: Any) -> Exception:
        with pytest.raises(Refused) as caught:
            self.do(operation, name, **given)
        return caught.value.error


@pytest.fixture
def locks() -> Locks:
    return Locks()


def test_acquire_tells_who_has_it_and_until_when(locks: Locks) -> None:
    locks.index = 6
    shown = {"name": "a", "token": 7, "owner": "h 1", "by": "root"}
    times = {"acquired_unix_ms": NOW, "expires_unix_ms": NOW + 10_000}
    assert locks.acquire() == {"acquired": True, **shown, **times}
    assert locks.acquire(YOU) == {"acquired": False, **shown, **times}
    held = locks.machine.get("a", NOW)
    assert held is not None
    assert held.shown(locks.stamp()) == {**shown, **times}
    assert locks.machine.get("b", NOW) is None


def test_holder_that_asks_again_keeps_its_token_and_the_later_end(locks: Locks) -> None:
    first = locks.acquire()
    locks.now += 2_000
    assert locks.acquire() == {**first, "expires_unix_ms": NOW + 12_000}
    assert locks.acquire(ttl_ms=1_000) == {**first, "expires_unix_ms": NOW + 12_000}


def test_lock_is_held_to_its_end_and_no_longer(locks: Locks) -> None:
    token = locks.acquire()["token"]
    locks.now += 9_999
    assert locks.acquire(YOU)["acquired"] is False
    assert locks.machine.holds("a", token, locks.now)
    assert not locks.machine.holds("a", token, locks.now + 1)
    assert not locks.machine.holds("a", token + 1, locks.now)
    assert not locks.machine.holds("a", token - 1, locks.now)  # of whoever had it before
    assert not locks.machine.holds("b", token, locks.now)
    locks.now += 1
    taken = locks.acquire(YOU)
    assert taken["acquired"] is True
    assert taken["token"] > token
    assert not locks.machine.holds("a", token, locks.now)


def test_holder_whose_lock_ended_gets_another_token(locks: Locks) -> None:
    token = locks.acquire()["token"]
    locks.now += 10_000
    assert locks.acquire()["token"] > token


def test_keep_moves_the_end_on_and_never_back(locks: Locks) -> None:
    token = locks.acquire()["token"]
    locks.now += 5_000
    assert locks.do("keep", token=token, ttl_ms=10_000)["expires_unix_ms"] == NOW + 15_000
    assert locks.do("keep", token=token, ttl_ms=1_000)["expires_unix_ms"] == NOW + 15_000
    locks.now = NOW + 14_999
    assert locks.acquire(YOU)["acquired"] is False


def test_keep_of_what_is_lost_is_conflict(locks: Locks) -> None:
    assert isinstance(locks.refused("keep", token=1, ttl_ms=1_000), Conflict)
    token = locks.acquire()["token"]
    assert isinstance(locks.refused("keep", token=token + 1, ttl_ms=1_000), Conflict)
    locks.now += 10_000  # even where nobody else has it yet: a token that was over is over
    assert isinstance(locks.refused("keep", token=token, ttl_ms=1_000), Conflict)
    taken = locks.acquire(YOU)
    refused = locks.refused("keep", token=token, ttl_ms=1_000)
    assert "does not hold lock a any more: acquire it again" in str(refused)
    assert locks.machine.holds("a", taken["token"], locks.now)


def test_release_frees_the_lock_of_this_token_only(locks: Locks) -> None:
    token = locks.acquire()["token"]
    assert locks.do("release", token=token + 1) == {"name": "a", "released": False}
    assert locks.machine.holds("a", token, NOW)
    assert locks.do("release", token=token) == {"name": "a", "released": True}
    assert locks.do("release", token=token) == {"name": "a", "released": False}
    taken = locks.acquire(YOU)
    assert taken["acquired"] is True
    assert locks.do("release", token=token)["released"] is False
    locks.now += 10_000
    assert locks.do("release", token=taken["token"])["released"] is False


def test_break_takes_the_lock_away_from_whoever_has_it(locks: Locks) -> None:
    assert isinstance(locks.refused("break"), NotFound)
    held = locks.acquire()
    assert locks.do("break") == {key: value for key, value in held.items() if key != "acquired"}
    assert locks.acquire(YOU)["acquired"] is True
    locks.now += 10_000
    assert isinstance(locks.refused("break"), NotFound)


def test_tokens_increase_within_an_entry_and_across_locks(locks: Locks) -> None:
    tokens = []
    for number in range(5):
        locks.index = 99  # of one entry
        tokens.append(locks.acquire(name=f"n{number}")["token"])
    assert tokens == [100, 101, 102, 103, 104]
    locks.index = 100
    assert locks.acquire(name="later")["token"] == 105
    locks.index = 400
    assert locks.acquire(name="much-later")["token"] == 401


def test_tokens_of_an_epoch_are_above_all_of_the_one_before_whose_end_was_lost(locks: Locks) -> None:
    locks.index = 5_000_000_000
    lost = locks.acquire()["token"]
    again = Locks()  # from a backup that is older than the lock
    again.epoch = 2
    assert again.acquire()["token"] == 2**40 > lost
    assert again.acquire(name="b")["token"] == 2**40 + 1


def test_token_of_the_cluster_state_counts_its_epoch() -> None:
    state = ClusterState()
    state.advance(Stamp(0, NOW, 1))
    broken = {"kind": "restored", "epoch": 1, "by": "n1", "lost": [], "cluster_id": "0" * 32}
    state.apply(1, encode_command("history", "replace", broken, request_id="r"))
    given = {"name": "a", "holder": ME, "owner": "", "by": "", "ttl_ms": 1_000}
    state.apply(2, encode_command("lock", "acquire", given, request_id="s", kind="client"))
    assert state.locks.holds("a", 2**40, NOW)


def test_lock_of_the_cluster_state_outlives_a_step_of_time() -> None:
    state = ClusterState()
    given = {"name": "a", "holder": ME, "owner": "", "by": "", "ttl_ms": 10_000}
    state.advance(Stamp(0, NOW, 1))
    state.apply(1, encode_command("lock", "acquire", given, request_id="r", kind="client"))
    state.advance(Stamp(0, NOW + 3_600_000, 10_000))
    state.apply(2, encode_command("lock", "acquire", {**given, "holder": YOU}, request_id="s", kind="client"))
    assert state.locks.holds("a", 1, NOW + 3_600_000)
    state.advance(Stamp(0, NOW + 3_600_001, 10_001))
    state.apply(3, encode_command("lock", "acquire", {**given, "holder": YOU}, request_id="t", kind="client"))
    assert state.locks.holds("a", 3, NOW + 3_600_001)


def test_acquire_above_the_limit_is_overloaded_for_free_locks_only() -> None:
    locks = Locks(LockLimits(locks=2))
    token = locks.acquire(name="a")["token"]
    locks.acquire(name="b", ttl_ms=20_000)
    full = locks.refused("acquire", "c", holder=ME, owner="", by="", ttl_ms=1_000)
    assert isinstance(full, Overloaded)
    assert "2 locks are held already" in str(full)
    assert locks.acquire(name="a")["acquired"] is True
    assert locks.acquire(YOU, name="a")["acquired"] is False
    assert locks.do("keep", "a", token=token, ttl_ms=1_000)["token"] == token
    locks.now += 10_000
    assert locks.acquire(name="c")["acquired"] is True
    assert LockLimits().locks == MAX_LOCKS == 10_000


def test_locks_that_ended_are_forgotten(locks: Locks) -> None:
    for number in range(50):
        locks.acquire(name=f"n{number}")
        locks.now += 1_000
    assert len(locks.machine.export_state()["locks"]) <= 11


def test_list_is_sorted_paged_and_of_what_is_held(locks: Locks) -> None:
    for name in ("d", "b", "a"):
        locks.acquire(name=name)
    locks.acquire(name="c", ttl_ms=1_000)
    listed = locks.machine.list

    def names(*given: Any) -> list[str]:
        return [lock.name for lock in listed(*given)]

    assert names(None, 3, NOW) == ["a", "b", "c"]
    assert names("b", 3, NOW) == ["c", "d"]
    assert names("bb", 1, NOW) == ["c"]
    assert names("b", 3, NOW + 1_000) == ["d"]
    assert names(None, 9, NOW + 10_000) == names(None, 0, NOW) == names(None, -1, NOW) == []


def test_time_that_is_set_back_leaves_every_lock_as_long_as_it_was(locks: Locks) -> None:
    locks.acquire(name="over", ttl_ms=1_000)
    token = locks.acquire(name="a", ttl_ms=60_000)["token"]
    locks.now += 20_000
    locks.machine.set_back(locks.now, 5_000)
    locks.step(5_000 - locks.now)
    assert locks.machine.holds("a", token, 44_999)
    assert not locks.machine.holds("a", token, 45_000)
    assert [lock.acquired_unix_ms for lock in locks.machine.list(None, 9, 0)] == [0]
    locks.now = 45_000
    assert locks.acquire(YOU, name="a")["token"] > token


def test_step_of_cluster_time_ends_no_lock_and_moves_its_date(locks: Locks) -> None:
    first = locks.acquire()
    locks.step(3_600_000)
    refused = locks.acquire(YOU)
    assert (refused["acquired"], refused["token"]) == (False, first["token"])
    assert refused["expires_unix_ms"] == first["expires_unix_ms"] + 3_600_000
    assert locks.machine.holds("a", first["token"], locks.now + 9_999)
    assert not locks.machine.holds("a", first["token"], locks.now + 10_000)
    assert [lock.name for lock in locks.machine.list(None, 9, locks.now)] == ["a"]
    assert locks.do("keep", token=first["token"], ttl_ms=1_000)["expires_unix_ms"] == locks.now + 10_000
    locks.now += 10_000
    assert locks.acquire(YOU)["acquired"] is True


def test_lock_of_a_snapshot_without_steady_time_ends_by_its_date(locks: Locks) -> None:
    token = locks.acquire(ttl_ms=20_000)["token"]
    state = parse_canonical_json(canonical_json(locks.machine.export_state()))
    del state["locks"]["a"]["end_steady_ms"]
    state["locks"]["a"]["expires_unix_ms"] = NOW + 20_000
    locks.stepped -= 5_000  # steady time has gone on meanwhile
    locks.machine = locks.new()
    locks.machine.prepare_restore(state)()
    assert locks.machine.export_state() == state
    locks.now += 19_999
    assert locks.acquire(YOU)["acquired"] is False
    assert not locks.machine.holds("a", token, locks.now + 1)
    assert locks.do("keep", token=token, ttl_ms=10_000)["expires_unix_ms"] == locks.now + 10_000
    locks.step(60_000)  # it has been kept, and counts by steady time from there
    assert locks.machine.holds("a", token, locks.now + 9_999)
    locks.machine.prepare_restore(state)()
    locks.machine.set_back(NOW + 19_999, 1_000)
    locks.step(1_000 - locks.now)
    assert locks.machine.holds("a", token, 1_000)
    assert not locks.machine.holds("a", token, 1_001)
    locks.machine.prepare_restore(state)()
    locks.machine.set_back(NOW + 20_000, 1_000)
    assert not locks.machine.holds("a", token, 1_000)
    locks.machine.prepare_restore(state)()
    locks.machine.set_back(2 * NOW + 20_001, NOW)  # a clock was wrong by more than all time since 1970
    locks.machine.prepare_restore(locks.machine.export_state())
    assert not locks.machine.holds("a", token, NOW)


def test_on_change_is_told_of_what_is_free_or_anothers(locks: Locks) -> None:
    seen: list[tuple[str, int]] = []
    locks.machine.on_change = lambda *change: seen.append(change)
    token = locks.acquire()["token"]
    locks.acquire(YOU)
    locks.do("keep", token=token, ttl_ms=1_000)
    locks.do("release", token=9)
    locks.do("release", token=token)
    locks.acquire(YOU)
    locks.do("break")
    assert seen == [("a", 1), ("a", 5), ("a", 6), ("a", 7)]


def test_restored_machine_remembers_the_last_token_of_a_lock_that_is_free(locks: Locks) -> None:
    locks.index = 50
    locks.do("release", token=locks.acquire()["token"])
    other = Locks()
    other.machine.prepare_restore(parse_canonical_json(canonical_json(locks.machine.export_state())))()
    assert not other.machine.is_new()
    assert other.acquire()["token"] == 52


def test_restored_machine_forgets_what_ends_as_the_others_do(locks: Locks) -> None:
    locks.acquire()
    other = Locks()
    other.machine.prepare_restore(parse_canonical_json(canonical_json(locks.machine.export_state())))()
    locks.now = other.now = NOW + 10_000
    other.index = locks.index
    assert other.acquire(YOU) == locks.acquire(YOU)
    assert other.machine.export_state() == locks.machine.export_state()


def test_cluster_without_locks_has_the_snapshot_of_a_release_without_them() -> None:
    state = ClusterState()
    state.advance(Stamp(0, NOW, 1))
    before = b"".join(state.begin_snapshot()())
    assert b'"lock"' not in before
    given = {"name": "a", "holder": ME, "owner": "", "by": "", "ttl_ms": 1_000}
    state.apply(1, encode_command("lock", "acquire", given, request_id="r", kind="client"))
    assert b'"lock"' in b"".join(state.begin_snapshot()())
    state.restore(before)
    assert state.locks.is_new()
    assert state.locks.get("a", NOW) is None


# -- a naive model -------------------------------------------------------------------------------

_NAMES = st.sampled_from("abc")
_STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("acquire"), _NAMES, st.sampled_from([ME, YOU, "3" * 32]), st.sampled_from([1, 3, 9])
        ),
        st.tuples(st.just("keep"), _NAMES, st.integers(0, 4), st.sampled_from([1, 3, 9])),
        st.tuples(st.just("release"), _NAMES, st.integers(0, 4)),
        st.tuples(st.just("break"), _NAMES),
        st.tuples(st.just("pass"), st.integers(1, 4)),
        st.tuples(st.just("set_back"), st.integers(1, 50)),
        st.tuples(st.just("step"), st.integers(1, 50)),
        st.tuples(st.just("restore")),
    ),
    max_size=40,
)


class Model:
    """Every lock ever given: name, token, holder, end; nothing is forgotten but what ends."""

    def __init__(self, most: int) -> None:
        self.most, self.given = most, dict[str, tuple[int, str, int]]()
        self.tokens: list[int] = []

    def live(self, now: int) -> dict[str, tuple[int, str, int]]:
        return {name: lock for name, lock in self.given.items() if now < lock[2]}

    def step(self, now: int, by: int) -> None:
        self.given = {name: (t, h, end + by) for name, (t, h, end) in self.live(now).items()}


@given(_STEPS)
def test_machine_answers_as_the_model(steps: list[tuple[Any, ...]]) -> None:
    locks, model = Locks(LockLimits(locks=2)), Model(2)
    for step in steps:
        _step(locks, model, *step)
        live = model.live(locks.now)
        held = {each.name: each for each in locks.machine.list(None, 9, locks.now)}
        ends = {name: each.shown(locks.stamp())["expires_unix_ms"] for name, each in held.items()}
        assert {name: (each.token, each.holder, ends[name]) for name, each in held.items()} == live
        assert model.tokens == sorted(set(model.tokens))


def _step(locks: Locks, model: Model, operation: str, *given: Any) -> None:
    now, live = locks.now, model.live(locks.now)
    if operation == "pass":
        locks.now += given[0] * 1_000
        return
    if operation == "set_back":
        locks.machine.set_back(now, now - given[0] * 1_000)
        model.step(now, -given[0] * 1_000)
        locks.step(-given[0] * 1_000)
        return
    if operation == "step":
        model.step(now, given[0] * 1_000)
        locks.step(given[0] * 1_000)
        return
    if operation == "restore":
        exported = parse_canonical_json(canonical_json(locks.machine.export_state()))
        locks.machine = locks.new()
        locks.machine.prepare_restore(exported)()
        return
    name, known = given[0], live.get(given[0])
    if operation == "acquire":
        _acquire(locks, model, known, *given)
        return
    if operation == "break":
        if known is None:
            assert isinstance(locks.refused("break", name), NotFound)
        else:
            assert locks.do("break", name)["token"] == known[0]
            del model.given[name]
        return
    # One of the last tokens, by its number; or one that there never was.
    token = (model.tokens[-given[1] :] or [77])[0] if given[1] else 10**9
    mine = known is not None and known[0] == token
    if operation == "release":
        assert locks.do("release", name, token=token) == {"name": name, "released": mine}
        if mine:
            del model.given[name]
    elif mine and known is not None:
        end = max(known[2], now + given[2] * 1_000)
        assert locks.do("keep", name, token=token, ttl_ms=given[2] * 1_000)["expires_unix_ms"] == end
        model.given[name] = (token, known[1], end)
    else:
        assert isinstance(locks.refused("keep", name, token=token, ttl_ms=1_000), Conflict)


def _acquire(
    locks: Locks, model: Model, known: tuple[int, str, int] | None, name: str, holder: str, ttl_s: int
) -> None:
    end = locks.now + ttl_s * 1_000
    if known is None and len(model.live(locks.now)) >= model.most:
        full = locks.refused("acquire", name, holder=holder, owner="", by="", ttl_ms=1_000)
        assert isinstance(full, Overloaded)
        return
    answer = locks.acquire(holder, name, ttl_s * 1_000)
    if known is None:
        assert answer["acquired"] is True
        model.tokens.append(answer["token"])
        model.given[name] = (answer["token"], holder, end)
    elif known[1] == holder:
        model.given[name] = (known[0], holder, max(known[2], end))
        assert (answer["acquired"], answer["token"]) == (True, known[0])
    else:
        assert (answer["acquired"], answer["token"]) == (False, known[0])
