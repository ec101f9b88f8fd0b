"""A chain of lines in memory: the newest are kept, and of those that were cut the last one's hash."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cyoloctl.audit.lines import FIRST, Chain, Common, line_of, quoted, second_text
from cyoloctl.text import Json

__all__ = ["MAX_BYTES", "MAX_LINES", "AuditLimits", "Lines", "Row"]

MAX_LINES = 20_000
"""Lines of a chain that a cluster keeps: of trust they last for years, of data, at one write per second,
five hours.  A line takes about 400 bytes in memory and 200 in a snapshot."""
MAX_BYTES = 8 * 1024 * 1024
"""Bytes of them, as they are exported; reached first where names are long."""
_BLOCK = 256
_SEALED_AT_ONCE = 64
_LINE_BYTES = 512
"""What a line takes as it is exported, and seldom more."""

Row = tuple[Common, int, int, str, str, str, int]
"""What it has in common with others, epoch, index, outcome, request id, subject, time in Unix milliseconds.

Of text and numbers only, so that the garbage collector does not walk them.
"""


@dataclass(frozen=True, slots=True)
class AuditLimits:
    """lines, bytes: of a chain.  block: lines that are cut at once, always the oldest."""

    lines: int = MAX_LINES
    bytes: int = MAX_BYTES
    block: int = _BLOCK


class _Block:
    """Lines that are cut together.  before: the hash of the line before them.  start: bytes before them."""

    __slots__ = ("before", "rows", "start")

    def __init__(self, before: str, start: int) -> None:
        self.before = before
        self.start = start
        self.rows: list[Row] = []


class Lines:
    """One chain.

    last: the sequence number of the newest line; 0 where there is none.
    cut_through, cut_hash: of the last line that was cut.  exported_through: the last one
    that an operator said was exported.
    """

    def __init__(self, chain: Chain, limits: AuditLimits, *, after: int = 0, before: str = FIRST) -> None:
        """after, before: sequence number and hash of the line before the first one."""
        self.chain: Chain = chain
        self._limits = limits
        self.last = self.cut_through = after
        self.cut_hash = self._head = before
        self.exported_through = 0
        self._sealed_bytes = 0  # since this object was made
        self._unsealed = 0  # lines of the last block that the head does not cover
        self._blocks = deque([_Block(before, 0)])
        self._rows = self._blocks[-1].rows

    def __len__(self) -> int:
        return self.last - self.cut_through

    @property
    def head(self) -> str:
        """The hash of the newest line."""
        self._seal()
        return self._head

    @property
    def size(self) -> int:
        """Bytes of the lines that are here, as they are exported, without their hashes."""
        self._seal()
        return self._sealed_bytes - self._blocks[0].start

    def append(self, row: Row) -> None:
        """Add a line.  Its hash is made a few lines later, or when somebody asks: many at once cost less."""
        self._rows.append(row)
        self.last += 1
        self._unsealed += 1
        if self._unsealed == _SEALED_AT_ONCE or len(self._rows) == self._limits.block:
            self._seal()

    def _seal(self) -> None:
        """Join the newest lines to the chain.  A part of every write, so it calls little; as `line_of`."""
        if not self._unsealed:
            return
        head, written, known, known_text = self._head, 0, -1, ""
        sequence = self.last - self._unsealed
        for common, epoch, index, outcome, request_id, subject, unix_ms in self._rows[-self._unsealed :]:
            second, ms = divmod(unix_ms, 1000)
            if second != known:
                known, known_text = second, second_text(second)
            sequence += 1
            body = common[1] % (
                epoch,
                index,
                outcome,
                quoted(request_id),
                sequence,
                quoted(subject),
                known_text,
                ms,
            )
            written += len(body)
            head = sha256(f"cyoloctl audit v1\n{head}\n{body}".encode("ascii")).hexdigest()
        self._head = head
        self._sealed_bytes += written
        self._unsealed = 0
        if len(self._rows) == self._limits.block:
            self._begin_block()

    def _begin_block(self) -> None:
        """Room for more lines: the oldest are cut where there would be too many."""
        blocks, limits = self._blocks, self._limits
        blocks.append(_Block(self._head, self._sealed_bytes))
        self._rows = blocks[-1].rows
        while len(blocks) > 1 and (
            len(self) + limits.block > limits.lines or self.size + limits.block * _LINE_BYTES > limits.bytes
        ):
            cut = blocks.popleft()
            self.cut_through += len(cut.rows)
            self.cut_hash = blocks[0].before

    def page(self, start: int, limit: int) -> list[Json]:
        """Lines from a sequence number on, as JSON; costs what the lines of its block before it cost, too."""
        found: list[Json] = []
        sequence = self.cut_through
        for block in self._blocks:
            if sequence + len(block.rows) < start:
                sequence += len(block.rows)
                continue
            before = block.before
            for common, *rest in block.rows:
                sequence += 1
                if len(found) == limit:
                    return found
                line = line_of(self.chain, sequence, common, tuple(rest), before)
                before = line["hash"]
                if sequence >= start:
                    found.append(line)
        return found

    def hash_at(self, sequence: int) -> str | None:
        """The hash of a line that is here, or of the last one that was cut; None for others."""
        if sequence == self.cut_through:
            return self.cut_hash
        if not self.cut_through < sequence <= self.last:
            return None
        return str(self.page(sequence, 1)[0]["hash"])

    def unexported_share(self) -> float:
        """How much of its bounds the lines take that are here and were not exported."""
        new = self.last - max(self.exported_through, self.cut_through)
        if new <= 0:
            return 0.0
        share = max(len(self) / self._limits.lines, self.size / self._limits.bytes)
        return share * new / len(self)

    def freeze_rows(self) -> Iterable[list[Any]]:
        """Rows for a snapshot, of this moment: read once, in any thread."""
        blocks = [block.rows for block in self._blocks]
        if blocks:
            blocks[-1] = blocks[-1].copy()  # the others never change
        return _flat(blocks)

    def export_state(self) -> Json:
        """The rest of the state."""
        return {
            "cut_hash": self.cut_hash,
            "cut_through": self.cut_through,
            "exported_through": self.exported_through,
            "head": self.head,
            "last": self.last,
        }

    def prepare_restore(self, state: Json, rows: Iterable[Row]) -> Callable[[], None]:
        """Take over a state that was checked; the returned function does it.  Raises ValueError."""
        fresh = Lines(self.chain, self._limits, after=state["cut_through"], before=state["cut_hash"])
        for row in rows:
            fresh.append(row)
        if (
            fresh.last != state["last"]
            or fresh.head != state["head"]
            or fresh.cut_through != state["cut_through"]
            or state["exported_through"] > fresh.last
            or (fresh.cut_through == 0) != (fresh.cut_hash == FIRST)
        ):
            raise ValueError(f"the {self.chain} chain of the audit log does not hold together")
        fresh.exported_through = state["exported_through"]

        def commit() -> None:
            self.__dict__.update(fresh.__dict__)

        return commit


def _flat(blocks: list[list[Row]]) -> Iterator[list[Any]]:
    for rows in blocks:
        for common, *rest in rows:
            yield [*common[0], *rest]
