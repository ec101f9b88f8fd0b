"""Whom a node believes: its log, its state, a majority, never one peer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from cyoloctl.model import RaftId
from cyoloctl.raft.peers import COPY, OLDER, REMOVED, TOO_OLD, Hello, PeerInfo
from cyoloctl.raft.verdicts import Verdicts


@dataclass
class Register:
    roles: dict[str, str] = field(default_factory=dict)
    processes: dict[str, tuple[int, str, int]] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()
    raft_ids: dict[str, RaftId] = field(default_factory=dict)
    at: int = 1

    def level(self) -> int:
        return self.at

    def is_removed(self, name: str) -> bool:
        return name in self.removed

    def is_left_behind(self, name: str) -> bool:
        return False

    def role(self, name: str) -> str | None:
        return self.roles.get(name)

    def stands_back(self, name: str) -> bool:
        return False

    def raft_id(self, name: str) -> RaftId | None:
        return self.raft_ids.get(name)

    def process(self, name: str) -> tuple[int, str, int] | None:
        return self.processes.get(name)


@dataclass
class Own:
    """A replica and its links, as far as a verdict looks at them."""

    raft_id: RaftId
    in_log: frozenset[RaftId] = frozenset()
    gone: frozenset[RaftId] = frozenset()
    connected: dict[str, PeerInfo] = field(default_factory=dict)
    disputed: tuple[RaftId, int, int] | None = None
    failed: bool = False

    def voters(self) -> frozenset[RaftId]:
        return self.in_log

    def removed_peers(self) -> frozenset[RaftId]:
        return self.gone

    def forgot(self, raft_id: RaftId, term: int, last_index: int) -> bool:
        return last_index < 7

    def fail_disputed(self) -> None:
        self.failed = True

    def peers(self) -> dict[str, PeerInfo]:
        return self.connected

    def last_process(self, name: str) -> str | None:
        return "earlier"


def ids(*names: str) -> frozenset[RaftId]:
    return frozenset(RaftId(name) for name in names)


def peer(*voters: str, pongs: int = 1, leader: str | None = None, boots: int = 0, boot: str = "") -> PeerInfo:
    return PeerInfo(
        "h:1", "0", info={"leader": leader}, voters=ids(*voters), pongs=pongs, boots=boots, boot=boot
    )


def verdicts(own: Own, *, register: Register | None = None, named: tuple[str, ...] = ()) -> Verdicts:
    made = Verdicts("me", boots=3, boot="mine", register=register or Register())
    made.attach(own, own)
    made.named = frozenset(named)
    return made


@pytest.mark.parametrize(
    ("own", "named", "leads"),
    [
        # An empty log: a majority of those that node.yaml names.
        (Own(RaftId("me"), connected={"a": peer("x"), "b": peer("y")}), ("a", "b"), False),
        (Own(RaftId("me"), connected={"a": peer("x"), "b": peer("x")}), ("a", "b"), True),
        (Own(RaftId("me"), connected={"a": peer("x")}), ("a", "b"), False),
        # Those whose log is empty too have no say, once they said so.
        (Own(RaftId("me"), connected={"a": peer("x"), "b": peer()}), ("a", "b"), True),
        (Own(RaftId("me"), connected={"a": peer("x"), "b": peer(pongs=0)}), ("a", "b"), False),
        (
            Own(RaftId("me"), connected={"a": peer("x"), "b": peer("x"), "c": peer(), "d": peer()}),
            ("a", "b", "c", "d"),
            True,
        ),
        (Own(RaftId("me"), connected={"a": peer("x"), "c": peer()}), ("a", "b", "c"), False),
        # A log: a voter in it, which is not this node itself.
        (Own(RaftId("me"), ids("me", "a"), connected={"a": peer("x"), "b": peer()}), (), True),
        (Own(RaftId("me"), ids("me", "a"), connected={"b": peer("x")}), ("b",), False),
        (Own(RaftId("me"), ids("me"), connected={"b": peer("x")}), ("b",), False),
        # The beginning of a log that names an earlier life of this node alone.
        (Own(RaftId("me~2"), ids("me~1"), connected={"a": peer("x"), "b": peer("x")}), ("a", "b"), True),
        (Own(RaftId("me~2"), ids("me~1"), connected={"a": peer("x"), "b": peer("y")}), ("a", "b"), False),
    ],
)
def test_unknown_peer_may_lead_when_the_log_or_a_majority_of_the_named_says_so(
    own: Own, named: tuple[str, ...], leads: bool
) -> None:
    assert verdicts(own, named=named).may_lead(RaftId("x")) is leads


def test_word_that_was_relayed_counts_for_a_named_node_without_a_link_alone() -> None:
    own = Own(RaftId("me"), connected={"a": peer("x")})
    made = verdicts(own, named=("a", "b"))
    assert made.unheard() == ["b"]
    made.relayed("c", ids("x"))
    assert not made.may_lead(RaftId("x"))
    made.relayed("b", ids("x", "a"))
    assert made.may_lead(RaftId("x"))
    assert not made.may_lead(RaftId("b"))
    own.connected["b"] = peer("y")  # by now it speaks for itself
    assert made.unheard() == []
    assert not made.may_lead(RaftId("x"))
    del own.connected["b"]
    made.relayed("b", frozenset())
    assert not made.may_lead(RaftId("x"))


@pytest.mark.parametrize("place", ["log", "register"])
def test_nobody_is_unheard_once_a_node_has_its_place(place: str) -> None:
    own = Own(RaftId("me"), ids("me", "a") if place == "log" else ids("a"), connected={"a": peer("x")})
    register = Register(raft_ids={"me": "me"}) if place == "register" else None
    made = verdicts(own, register=register, named=("a", "b"))
    assert made.unheard() == []
    made.relayed("b", ids("y"))
    assert not made.may_lead(RaftId("y"))


@pytest.mark.parametrize(
    ("own", "register", "named", "leads"),
    [
        # The beginning of the log names voters that are gone; what the node was told when it joined is later.
        (
            Own(RaftId("me"), ids("old"), connected={"a": peer("x"), "b": peer("x")}),
            {},
            ("a", "b", "old"),
            True,
        ),
        (
            Own(RaftId("me~2"), ids("old"), connected={"a": peer("x"), "b": peer("x")}),
            {"me": "me~1"},
            ("a", "b"),
            True,
        ),
        (
            Own(RaftId("me"), ids("old"), connected={"a": peer("x"), "b": peer("y")}),
            {},
            ("a", "b", "old"),
            False,
        ),
        # A log that names an earlier life of this node alone names nobody, whatever its state says.
        (
            Own(RaftId("me~2"), ids("me~1"), connected={"a": peer("x"), "b": peer("x")}),
            {"me": "me~2"},
            ("a", "b"),
            True,
        ),
        # From its own place in the log on, the log alone counts.
        (
            Own(RaftId("me"), ids("old"), connected={"a": peer("x"), "b": peer("x")}),
            {"me": "me"},
            ("a", "b"),
            False,
        ),
        (
            Own(RaftId("me"), ids("old", "me"), connected={"a": peer("x"), "b": peer("x")}),
            {},
            ("a", "b"),
            False,
        ),
    ],
)
def test_log_that_does_not_reach_to_its_nodes_own_place_is_not_all_that_it_believes(
    own: Own, register: dict[str, str], named: tuple[str, ...], leads: bool
) -> None:
    known = Register(raft_ids={name: RaftId(raft_id) for name, raft_id in register.items()})
    assert verdicts(own, register=known, named=named).may_lead(RaftId("x")) is leads


def test_peer_that_was_admitted_as_a_voter_may_lead_before_its_promotion_is_here() -> None:
    own = Own(RaftId("me"), ids("me", "a"))
    assert verdicts(own, register=Register(roles={"x": "voter"})).may_lead(RaftId("x"))
    assert not verdicts(own, register=Register(roles={"x": "learner"})).may_lead(RaftId("x"))


@pytest.mark.parametrize(
    ("boots", "boot", "last_index", "reason"),
    [
        (2, "a", 9, None),
        (2, "b", 9, COPY),
        (1, "a", 9, OLDER),
        (3, "c", 9, None),
        (3, "c", 7, OLDER),
        (2, "a", 7, None),
    ],
)
def test_process_is_kept_out_by_what_the_register_knows(
    boots: int, boot: str, last_index: int, reason: str | None
) -> None:
    made = verdicts(Own(RaftId("me")), register=Register(processes={"x": (2, "a", 8)}))
    assert made.refusal(Hello("x", RaftId("x"), boots, boot, "h:1", 1, last_index)) == reason
    assert made.refusal(Hello("x", RaftId("x~1"), boots, boot, "h:1", 1, last_index)) is None


def test_process_that_forgot_what_it_acknowledged_is_kept_out() -> None:
    made = verdicts(Own(RaftId("me")))
    assert made.refusal(Hello("x", RaftId("x"), 1, "new", "h:1", 1, 6)) == OLDER
    assert made.refusal(Hello("x", RaftId("x"), 1, "earlier", "h:1", 1, 6)) is None


def test_own_end_is_its_removal_or_a_later_process_of_its_name() -> None:
    own = Own(RaftId("me"))
    assert verdicts(own).end() is None
    assert verdicts(own, register=Register(removed=frozenset({"me"}))).end() == REMOVED
    assert verdicts(Own(RaftId("me"), gone=ids("me"))).end() == REMOVED
    assert verdicts(own, register=Register(processes={"me": (3, "mine", 1)})).end() is None
    assert verdicts(own, register=Register(processes={"me": (3, "other", 1)})).end() == COPY
    assert verdicts(own, register=Register(processes={"me": (4, "other", 1)})).end() == COPY


def test_copies_are_the_peers_that_the_register_knows_a_later_process_of() -> None:
    connected = {"a": peer(boots=1, boot="x"), "b": peer(boots=2, boot="x"), "c": peer()}
    register = Register(processes=dict.fromkeys("abc", (2, "x", 0)))
    assert list(verdicts(Own(RaftId("me"), connected=connected), register=register).copies()) == ["a"]


@pytest.mark.parametrize(
    ("boots", "boot", "last_index", "known", "doubtful"),
    [
        (3, "new", 7, (2, "x", 8), True),
        (3, "new", 8, (2, "x", 8), False),
        (2, "x", 7, (2, "x", 8), False),  # the registered process itself
        (3, "new", 7, None, False),
        (0, "new", 0, (2, "x", 8), False),  # its log is in memory
    ],
)
def test_doubtful_is_a_peer_whose_hello_told_of_less_than_the_register_knows_now(
    boots: int, boot: str, last_index: int, known: tuple[int, str, int] | None, doubtful: bool
) -> None:
    connected = {"a": replace(peer(boots=boots, boot=boot), last_index=last_index)}
    register = Register(processes={} if known is None else {"a": known})
    found = list(verdicts(Own(RaftId("me"), connected=connected), register=register).doubtful())
    assert found == (["a"] if doubtful else [])


def test_dispute_is_lost_to_a_majority_of_the_voters_that_follows_the_other() -> None:
    own = Own(RaftId("me"), ids("me", "a", "b"), disputed=(RaftId("a"), 4, 2))
    made = verdicts(own)
    own.connected = {"a": peer()}
    made.settle_dispute()
    assert not own.failed
    own.connected = {"a": peer(), "b": peer(leader="a")}
    made.settle_dispute()
    assert own.failed


def test_a_majority_of_the_voters_keeps_this_process_out() -> None:
    made = verdicts(Own(RaftId("me"), ids("me", "a", "b")))
    assert made.kept_out("a", REMOVED, 1.0) is None
    assert made.kept_out("x", REMOVED, 1.0) is None
    made.took_in("a")
    assert made.kept_out("b", REMOVED, 2.0) is None
    assert made.kept_out("a", REMOVED, 3.0) == REMOVED


def test_voter_stands_back_by_the_register_and_this_node_by_its_configuration_too() -> None:
    class Known(Register):
        def stands_back(self, name: str) -> bool:
            return name == "w"

    made = verdicts(Own(RaftId("me")), register=Known())
    assert (made.stands_back(RaftId("w~7")), made.stands_back(RaftId("me"))) == (True, False)
    configured = Verdicts("me", 3, "mine", register=Register(), stands_back=True)
    assert (configured.stands_back(RaftId("me")), configured.stands_back(RaftId("w"))) == (True, False)


@pytest.mark.parametrize(("understood", "expected"), [(1, TOO_OLD), (2, None), (3, None)])
def test_process_below_the_level_of_the_cluster_is_kept_out(understood: int, expected: str | None) -> None:
    told = Hello("a", RaftId("a"), 1, "b1", "a:1", 1, 9, understood)
    in_memory = replace(told, raft_id=RaftId("a~1"))
    judge = verdicts(Own(RaftId("me")), register=Register(at=2))
    assert (judge.refusal(told), judge.refusal(in_memory)) == (expected, expected)


def test_peer_that_went_back_while_the_level_was_raised_says_hello_again() -> None:
    connected = {"a": PeerInfo("a:1", "1"), "b": PeerInfo("b:1", "2", level=2)}
    judge = verdicts(Own(RaftId("me"), connected=connected), register=Register(at=2))
    assert list(judge.doubtful()) == ["a"]
