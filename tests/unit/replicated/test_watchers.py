"""Events of those who wait for a change."""

from __future__ import annotations

from cyoloctl.replicated.watchers import Watchers


def test_change_wakes_those_who_wait_for_that_name_only() -> None:
    watchers = Watchers()
    with watchers.watch("a") as first, watchers.watch("a") as second, watchers.watch("b") as other:
        watchers.changed("a")
        watchers.changed("nobody waits for this")
        assert (first.is_set(), second.is_set(), other.is_set()) == (True, True, False)
        watchers.all_changed()
        assert other.is_set()


def test_name_is_watched_until_the_last_one_leaves() -> None:
    watchers = Watchers()
    with watchers.watch("a"):
        with watchers.watch("a"):
            assert watchers.names() == ["a"]
        assert watchers.is_watched("a")
    assert not watchers.is_watched("a")
    assert watchers.names() == []
