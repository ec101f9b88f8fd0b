"""Any sequence of changes, syncs and crashes leaves what a plain list would have."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cyoloctl.raft.journal import Entry, Journal, MemoryStore, Store
from cyoloctl.raft.sqlite_store import SqliteStore

Durable = tuple[list[Entry], int, str | None, dict[str, str]]


class JournalMachine(RuleBasedStateMachine):
    """The model: a list, and a copy of it made at each sync.  A crash returns to the copy."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="journal-"))
        self.crashes = 0
        self.log: list[Entry] = []
        self.term = 0
        self.vote: str | None = None
        self.meta: dict[str, str] = {}
        self.durable: Durable = ([], 0, None, {})
        self.journals: list[Journal] = []

    def new_store(self) -> Store:
        """The store that a process finds that starts now; the old one is never touched again."""
        directory = self.directory / str(self.crashes)
        directory.mkdir()
        if self.crashes:
            for path in (self.directory / str(self.crashes - 1)).iterdir():
                shutil.copyfile(path, directory / path.name)
        self.crashes += 1
        return SqliteStore(directory / "raft.db")

    def open(self) -> None:
        self.journal = Journal(self.new_store())
        self.journals.append(self.journal)

    @initialize(first=st.sampled_from([1, 2, 1000]))
    def begin(self, first: int) -> None:
        self.open()
        self.journal.append(first, 0, b"\x01")
        self.log.append((b"\x01", first, 0))

    @rule(command=st.binary(max_size=40) | st.sampled_from([bytes(5000), bytes(20000)]), rises=st.booleans())
    def append(self, command: bytes, rises: bool) -> None:
        index, term = self.log[-1][1] + 1, self.log[-1][2] + rises
        self.journal.append(index, term, command)
        self.log.append((command, index, term))

    @precondition(lambda self: len(self.log) > 1)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.log[1][1], self.log[-1][1] + 1))
        self.journal.truncate_from(index)
        self.log = [entry for entry in self.log if entry[1] < index]

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.log[0][1], self.log[-1][1]))
        self.journal.compact_to(index)
        self.log = [entry for entry in self.log if entry[1] >= index]

    @rule(index=st.integers(1, 2000), term=st.integers(0, 5))
    def reset(self, index: int, term: int) -> None:
        self.journal.reset(index, term)
        self.log = [(b"\x01", index, term)]
        self.remember()

    @rule(more=st.integers(1, 3), vote=st.sampled_from([None, "a", "b"]))
    def vote_in_new_term(self, more: int, vote: str | None) -> None:
        self.term, self.vote = self.term + more, vote
        self.journal.set_term(self.term, vote)

    @rule(key=st.sampled_from(["name", "cluster_id"]), value=st.text(max_size=5))
    def set_meta(self, key: str, value: str) -> None:
        self.journal.set_meta(key, value)
        self.meta[key] = value

    @rule(index=st.integers(0, 3000))
    def commit(self, index: int) -> None:
        self.journal.set_commit_index(index)

    @rule(flush=st.booleans())
    def sync(self, flush: bool) -> None:
        if flush:
            self.journal.flush()
        else:
            self.journal.sync()
        self.remember()

    def remember(self) -> None:
        self.durable = (list(self.log), self.term, self.vote, dict(self.meta))

    @precondition(lambda self: self.durable[0])
    @rule()
    def crash(self) -> None:
        self.open()
        log, self.term, self.vote, meta = self.durable
        self.log, self.meta = list(log), dict(meta)
        assert self.log[0][1] <= self.journal.commit_index <= self.log[-1][1]

    @invariant()
    def journal_is_the_list(self) -> None:
        if not self.log:
            return
        journal = self.journal
        assert journal.entries == self.log
        assert (journal.first_index, journal.last_index) == (self.log[0][1], self.log[-1][1])
        assert journal.last_term == self.log[-1][2]
        assert journal.byte_size == sum(len(entry[0]) for entry in self.log)
        assert (journal.term, journal.vote) == (self.term, self.vote)
        assert {key: journal.get_meta(key) for key in self.meta} == self.meta
        for index in (
            journal.first_index - 1,
            journal.first_index,
            journal.last_index,
            journal.last_index + 1,
        ):
            expected = [entry for entry in self.log if entry[1] == index]
            assert journal.entry(index) == (expected[0] if expected else None)

    def teardown(self) -> None:
        for journal in self.journals:
            journal.close()
        shutil.rmtree(self.directory)


class MemoryJournalMachine(JournalMachine):
    """The same over a store in memory."""

    def new_store(self) -> Store:
        if not self.crashes:
            self.memory = MemoryStore()
        self.crashes += 1
        return self.memory

    def teardown(self) -> None:
        shutil.rmtree(self.directory)


TestJournalOnDisk = JournalMachine.TestCase
TestJournalOnDisk.settings = settings(max_examples=25, stateful_step_count=40)
TestJournalInMemory = MemoryJournalMachine.TestCase
TestJournalInMemory.settings = settings(max_examples=40, stateful_step_count=50)
