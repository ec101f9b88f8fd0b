"""Elections: who may stand, whose word counts, and the question before each whether it would be won.

Counting votes and granting them is the vendor's.  Here stands what keeps it
honest: pre-vote (Ongaro, dissertation 9.6; row 19), a vote that counts once
(row 17), and deafness to peers that are no voters.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from cyoloctl.model import RaftId, majority, name_of
from cyoloctl.raft.core import Core
from cyoloctl.raft.membership import Membership
from cyoloctl.raft.messages import Message
from cyoloctl.raft.vendor import Node

__all__ = ["Elections"]

_AHEAD_S = 2.5
"""So long a learner has shown its leader a higher term before the leader stands above it."""

_AHEAD_AGAIN_S = 300.0
"""And not again for the same learner within this time: its word must not keep elections going."""

_log = logging.getLogger("cyoloctl.raft")


class Elections:
    """The elections in which one replica takes part."""

    def __init__(self, core: Core, membership: Membership, may_lead: Callable[[RaftId], bool]) -> None:
        """may_lead: see `Replica`."""
        self._core = core
        self._membership = membership
        self._may_lead = may_lead
        self._prevote: tuple[int, set[Node]] | None = None  # the term that is asked about, and who would vote
        self._granted = False
        self._votes: tuple[int, set[Node]] = (-1, set())
        self._bounded: set[Node] = set()  # said once that they may not lead
        self._ahead: dict[str, float] = {}  # learners with a higher term -> when to stand above it

    def is_asking(self) -> bool:
        """True while a pre-vote is open."""
        return self._prevote is not None

    def may_campaign(self, now: float) -> bool:
        """Start a pre-vote when it is due, in each tick; True when this node may stand for election now."""
        self._maybe_ask(now)
        return self._membership.is_voter() and (self._granted or self._core.engine.transfer_requested())

    def campaigned(self) -> None:
        """End of the tick: the next election needs a pre-vote of its own."""
        self._granted = False

    def led(self) -> None:
        """There is a leader: give up the open pre-vote."""
        self._prevote = None
        self._granted = False

    def lost_leader(self) -> None:
        """The link with the leader ended.

        A leader that was killed closes its sockets: do not wait for the whole timeout.
        Should it live, the others still hear it and refuse the pre-vote.
        """
        core, engine = self._core, self._core.engine
        core.leader_seen_at = -1e9
        spread = core.timing.lost_leader_spread_s * core.rng.random() + core.patience_s()
        engine.set_election_deadline(min(engine.election_deadline(), core.clock() + spread))

    def _is_new_vote(self, node: Node) -> bool:
        """Row 17: a vote counts once per member and term."""
        term = self._core.engine.term()
        if self._votes[0] != term:
            self._votes = (term, set())
        if node in self._votes[1]:
            return False
        self._votes[1].add(node)
        return True

    def _maybe_ask(self, now: float) -> None:
        """Row 19: ask whether an election would be won before disturbing anyone."""
        engine = self._core.engine
        if engine.is_leader() or not self._membership.is_voter() or self._granted:
            return
        if engine.election_deadline() > now or engine.transfer_requested():
            return
        engine.restart_election_timer()
        term = engine.term() + 1
        self._prevote = (term, set())
        if not engine.others():
            self._grant()
            return
        _, index, last_term = self._core.journal.entries[-1]
        for node in sorted(engine.others(), key=lambda other: other.id):
            self._core.send(
                node, {"type": "pre_vote", "term": term, "last_log_index": index, "last_log_term": last_term}
            )

    def _grant(self) -> None:
        self._prevote = None
        self._granted = True
        self._core.engine.set_election_deadline(-1.0)

    def counts(self, node: Node) -> bool:
        """True when what a peer says of terms, votes and the log counts: it is, or may be, a voter."""
        if node in self._core.engine.others() or self._may_lead(node.id):
            return True
        if node not in self._bounded:
            self._bounded.add(node)
            _log.warning(
                "a peer that is no voter acts as one: ignored until a voter says that it is",
                extra={"peer": node.id},
            )
        return False

    def follow_term(self, node: Node, term: int) -> None:
        """A higher term in an answer deposes (row 8), if it comes from somebody who may vote.

        A learner deposes nobody.  It may have been demoted after an election
        of which nobody heard, and follows no leader of a lower term: so the
        leader stands at once above it, if seldom.
        """
        if self.counts(node):
            self._core.engine.step_down(term)
        elif self._is_ahead(node):
            _log.warning("a learner has a higher term: standing above it", extra={"peer": node.id})
            self._core.engine.step_down(term)
            self._grant()

    def _is_ahead(self, node: Node) -> bool:
        """As leader, to which this peer showed a higher term: whether to stand above it now."""
        core, removed = self._core, self._membership.current.removed
        if not core.engine.is_leader() or node not in core.engine.readonly() or node.id in removed:
            return False
        now, name = core.clock(), name_of(node.id)
        self._ahead = {each: at for each, at in self._ahead.items() if now - at < _AHEAD_AGAIN_S}
        if now < self._ahead.setdefault(name, now + _AHEAD_S):
            return False
        self._ahead[name] = now + _AHEAD_AGAIN_S
        return True

    def on_pre_vote(self, node: Node, message: Message) -> None:
        """A peer asks whether it would win an election."""
        engine = self._core.engine
        if not self.counts(node):
            return
        _, index, last_term = self._core.journal.entries[-1]
        up_to_date = (message["last_log_term"], message["last_log_index"]) >= (last_term, index)
        leader_alive = engine.is_leader() or (
            engine.leader() is not None
            and self._core.clock() - self._core.leader_seen_at < self._core.timing.election_min_s
        )
        granted = message["term"] > engine.term() and up_to_date and not leader_alive
        self._core.send(
            node,
            {
                "type": "pre_vote_response",
                "term": message["term"] if granted else engine.term(),
                "granted": granted,
            },
        )

    def on_pre_vote_response(self, node: Node, message: Message) -> None:
        """A voter would vote for this node, or refuses and tells its term."""
        engine = self._core.engine
        if not message["granted"]:
            if message["term"] > engine.term() and self.counts(node):
                engine.step_down(message["term"])
                self._prevote = None
            return
        if self._prevote is None or node not in engine.others() or message["term"] != self._prevote[0]:
            return
        if self._prevote[0] != engine.term() + 1 or engine.is_leader():
            self._prevote = None
            return
        self._prevote[1].add(node)
        if 1 + len(self._prevote[1]) >= majority(len(engine.others()) + 1):
            self._grant()

    def on_request_vote(self, node: Node, message: Message) -> None:
        """A candidate asks for the vote; the vendor decides, and the journal keeps it."""
        if self.counts(node):
            self._core.engine.deliver(node, message)

    def on_vote_response(self, node: Node, message: Message) -> None:
        """A vote for this candidate."""
        engine = self._core.engine
        if (
            engine.is_candidate()
            and message["term"] == engine.term()
            and node in engine.others()
            and self._is_new_vote(node)
        ):
            engine.deliver(node, message)

    def on_timeout_now(self, node: Node, message: Message) -> None:
        """The leader hands leadership over: stand for election at once."""
        engine = self._core.engine
        if self._core.stands_back(self._core.raft_id):
            _log.warning("leadership is handed to a voter that stands back: ignored", extra={"peer": node.id})
            return
        if self._membership.is_voter() and engine.leader() == node and message["term"] == engine.term():
            self._core.asked_to_lead_at = self._core.clock()
            engine.deliver(node, message)
