"""The configuration that membership entries make."""

from __future__ import annotations

import pytest

from cyoloctl.raft.membership import Configuration, one_life_each

ABC = Configuration(frozenset("abc"), frozenset())


@pytest.mark.parametrize(
    ("change", "voters", "removed"),
    [
        (("add", "d"), "abcd", ""),
        (("add", "a"), "abc", ""),
        (("demote", "c"), "ab", ""),
        (("remove", "c"), "ab", "c"),
        (("remove", "d"), "abc", "d"),
    ],
)
def test_configuration_after_a_change_holds_it(change: tuple[str, str], voters: str, removed: str) -> None:
    assert ABC.after(change) == Configuration(frozenset(voters), frozenset(removed))


def test_removed_member_is_never_added_again() -> None:
    removed = ABC.after(("remove", "c"))
    assert removed.after(("add", "c")) == removed


def test_of_a_member_in_memory_the_last_removed_life_is_kept() -> None:
    lives = Configuration(frozenset({"a"}), frozenset({"b", "m~1", "mm~9"}))
    assert lives.after(("remove", "m~2")).removed == {"b", "m~2", "mm~9"}


def test_list_of_an_earlier_release_keeps_one_life_for_each_name() -> None:
    assert one_life_each(["a", "m~1", "m~2", "n~7"]) == {"a", "m~2", "n~7"}
