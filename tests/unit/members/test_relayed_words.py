"""The word of a member by way of another one: whose it is, for whom, and when it was said."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cyoloctl.errors import InvalidInput, Unavailable
from cyoloctl.members.relayed_words import RelayedWords
from cyoloctl.pki.files import check_private_files
from cyoloctl.text import Json
from tests.support.pki import ID, NOW, join, make_cluster

NOW_MS = int(NOW.timestamp() * 1000)


class Member:
    """One node's part, with links that the test makes."""

    def __init__(self, name: str, pki_dir: Path, voters: tuple[str, ...] = ("n1", "n2")) -> None:
        self.name = name
        self.links: dict[str, Member] = {}
        self.offered: dict[str, Callable[[str, Json, float], Awaitable[Json]]] = {}
        self.heard: dict[str, frozenset[str]] = {}
        self.unheard: list[str] = []
        self.change: Callable[[Json], Json] = lambda answer: answer
        files = check_private_files(pki_dir, name=name, cluster_id=ID)
        engine: Any = SimpleNamespace(
            peers=lambda: self.links,
            unheard=lambda: self.unheard,
            relayed=self.heard.__setitem__,
            status=lambda: SimpleNamespace(voters=voters),
        )
        calls: Any = SimpleNamespace(
            offer=lambda operation, fields, run, to: self.offered.__setitem__(operation, run), ask=self._ask
        )
        node: Any = SimpleNamespace(name=name, cluster_id=ID)
        self.words = RelayedWords(
            engine, node, calls, files=lambda: files, pki_dir=pki_dir, now_ms=lambda: NOW_MS
        )

    async def _ask(self, name: str, operation: str, arguments: Json, timeout_s: float) -> Json:
        if name not in self.links:
            raise Unavailable(f"no link with {name}")
        other = self.links[name]
        return other.change(await other.offered[operation](self.name, arguments, timeout_s))

    def meet(self, other: Member) -> None:
        self.links[other.name], other.links[self.name] = other, self


@pytest.fixture
def three(tmp_path: Path) -> tuple[Member, Member, Member]:
    """n3 has just joined, and only n1 has links with both others."""
    cluster = make_cluster(tmp_path / "n1", ID)
    for name in ("n2", "n3"):
        join(cluster, tmp_path / name / "pki", name)
    n1, n2, n3 = (Member(name, tmp_path / name / "pki") for name in ("n1", "n2", "n3"))
    n1.meet(n2)
    n1.meet(n3)
    n3.unheard = ["n2"]
    return n1, n2, n3


def hears(member: Member) -> frozenset[str]:
    asyncio.run(member.words._ask("n2"))
    return member.heard["n2"]


def test_word_comes_by_way_of_the_one_that_both_reach(three: tuple[Member, Member, Member]) -> None:
    n1, _, n3 = three
    assert hears(n3) == {"n1", "n2"}
    del n1.links["n2"]
    assert hears(n3) == frozenset(), "its word is gone with the way to it"


@pytest.mark.parametrize(
    ("change", "who"),
    [
        ({"voters": ["n1", "n9"]}, "n1"),
        ({"signature": "AAAA"}, "n1"),
        ({"certificate_pem": "no certificate"}, "n1"),
        ({"voters": ["n1"] * 65}, "n2"),
        ({"voters": "n1"}, "n2"),
        ({"signature": 1}, "n2"),
    ],
)
def test_word_that_was_changed_on_its_way_is_nobodys(
    three: tuple[Member, Member, Member], change: Json, who: str
) -> None:
    n1, n2, n3 = three
    (n1 if who == "n1" else n2).change = lambda answer: {**answer, **change}
    assert hears(n3) == frozenset()


def test_word_of_another_member_time_or_asker_is_refused(three: tuple[Member, Member, Member]) -> None:
    n1, n2, n3 = three

    async def said(member: Member, asker: str, nonce: str) -> Json:
        return await member.offered["sign_voters"]("n1", {"asker": asker, "nonce": nonce}, 1.0)

    for answer in (
        asyncio.run(said(n1, "n3", "now")),  # n1 signs, and says that it is n2's
        asyncio.run(said(n2, "n3", "earlier")),
        asyncio.run(said(n2, "n4", "now")),
    ):
        with pytest.raises(InvalidInput):
            n3.words._checked("n2", "now", answer)
    assert n3.words._checked("n2", "now", asyncio.run(said(n2, "n3", "now"))) == {"n1", "n2"}
