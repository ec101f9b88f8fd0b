"""The stream of a state: read as it was written, in small steps, and refused when it is anything else."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from typing import Any

import pytest

from cyoloctl.replicated import stream
from cyoloctl.replicated.stream import DIGEST_BYTES, StreamReader, frame, row_frames, sealed

SMALL, LARGE = [["a", 1], ["b", None]], [[f"{number:05d}", "x" * 100] for number in range(5000)]


class Slow(BytesIO):
    """Gives at most so many bytes at a time."""

    def __init__(self, data: bytes, most: int) -> None:
        super().__init__(data)
        self.most = most

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        return super().read(min(size, self.most))


def written(*tables: list[Any], head: bytes = b"head") -> bytes:
    def parts() -> Iterator[bytes]:
        yield frame(head)
        for rows in tables:
            yield from row_frames(rows)

    return b"".join(sealed(parts()))


def resealed(content: bytes) -> bytes:
    return content + sha256(content).digest()


def read(data: bytes, *, tables: int = 1, most: int = 2**20) -> list[list[Any]]:
    reader = StreamReader(Slow(data, most))
    assert reader.frame() == b"head"
    found = [list(reader.rows()) for _ in range(tables)]
    reader.finish()
    return found


def test_tables_are_read_as_they_were_written() -> None:
    tables: list[list[Any]] = [SMALL, [], LARGE, SMALL]
    assert read(written(*tables), tables=4) == tables


@pytest.mark.parametrize("most", [1, 3, 7, 1000, 64 * 1024, 64 * 1024 + 1, 2**30])
def test_stream_is_read_from_parts_of_any_size(most: int) -> None:
    rows = LARGE[:200] if most < 1000 else LARGE
    assert read(written(rows, SMALL), tables=2, most=most) == [rows, SMALL]


def test_no_step_of_a_large_table_is_large() -> None:
    """Neither of what encodes, which holds the interpreter, nor of what is in memory at once."""
    assert max(map(len, row_frames(LARGE))) < 32 * 120
    parts = list(sealed(row_frames(LARGE)))
    assert max(map(len, parts)) <= 64 * 1024 + 32 * 120 + DIGEST_BYTES
    assert len(parts) == sum(map(len, parts)) // (64 * 1024) + 1


def test_stream_of_which_a_byte_was_changed_is_refused() -> None:
    good = written(SMALL)
    for position in range(len(good)):
        with pytest.raises((ValueError, AssertionError)):
            read(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
    # Within a text, where nothing else would tell.
    changed = good.replace(b'"a"', b'"A"')
    assert changed != good
    with pytest.raises(ValueError, match="its checksum is wrong"):
        read(changed)


@pytest.mark.parametrize("most", [7, 2**20])
def test_stream_that_is_cut_short_is_refused(most: int) -> None:
    good = written(SMALL)
    for size in range(4, len(good)):
        with pytest.raises(ValueError, match="it is cut short"):
            StreamReaderOf(good[:size], most).to_the_end()


class StreamReaderOf(StreamReader):
    """Of bytes that `written` gave, or a part of them."""

    def __init__(self, data: bytes, most: int) -> None:
        super().__init__(Slow(data, most))

    def to_the_end(self) -> None:
        self.frame()
        list(self.rows())
        self.finish()


@pytest.mark.parametrize("more", [b"\0", b"x" * 100, b"x" * 2**17])
def test_whatever_follows_the_end_is_refused(more: bytes) -> None:
    """Whether it was read ahead or not."""
    good = written(SMALL)
    StreamReaderOf(good, len(good)).to_the_end()
    for most in (1, len(good), len(good) + 1, 2**20):
        with pytest.raises(ValueError, match="something follows its end"):
            StreamReaderOf(good + more, most).to_the_end()


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{}",
        b'"text"',
        b"5",
        b"null",
        b"[ 1]",
        b'["\xc3\xa9"]',
        b"[" * 100_000,
        b"[" + b",".join([b"1"] * 33) + b"]",
    ],
)
def test_frame_that_is_no_list_of_some_rows_is_refused(content: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        read(resealed(frame(b"head") + frame(content) + bytes(4)))


def test_rest_is_all_that_was_not_taken() -> None:
    data = bytes(range(256)) * 1000
    reader = StreamReader(Slow(data, 50_000))
    assert reader.take(3) + reader.rest() == data
    reader.finish(sealed=False)


def test_rows_of_a_frame_are_as_many_as_the_format_says() -> None:
    assert stream._ROWS == 32, "readers of the first release with tables refuse more"
