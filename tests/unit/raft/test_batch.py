"""A log entry of many commands, byte for byte."""

from __future__ import annotations

import pytest

from cyoloctl.model import Stamp
from cyoloctl.raft.batch import BatchItem, decode_batch, encode_batch, stamp_of

STAMP = Stamp(2, 1_767_225_600_000, 5)
ENTRY = bytes.fromhex(
    "03 00000002 0000019b76daa800 0000000000000005"  # what it is, epoch, time, steady
    "00000003 0000000000000007 6f6e65"  # length, after, one
    "00000000 0000000000000008"
)


def test_entry_has_the_documented_bytes() -> None:
    assert encode_batch([(b"one", 7), (b"", 8)], STAMP) == ENTRY
    assert stamp_of(ENTRY) == STAMP
    assert decode_batch(ENTRY) == [BatchItem(b"one", 7), BatchItem(b"", 8)]


def test_entry_of_release_0_1_0_is_read() -> None:
    entry = bytes.fromhex("00 00000003 6f6e65 00000000")
    assert decode_batch(entry) == [BatchItem(b"one", None), BatchItem(b"", None)]
    assert stamp_of(entry) is None


def test_bytes_after_the_last_whole_command_are_ignored() -> None:
    for size in range(len(ENTRY)):
        whole = [BatchItem(b"one", 7)] if size >= 21 + 15 else []
        assert decode_batch(ENTRY[:size]) == whole
    assert decode_batch(ENTRY + bytes(11)) == decode_batch(ENTRY)
    assert decode_batch(b"\0" + b"\0\0\0\5abcd") == []


@pytest.mark.parametrize("entry", [b"", b"\x03", ENTRY[:20], b"\x01" + ENTRY[1:], b"\x02" + ENTRY[1:]])
def test_entry_that_is_too_short_has_no_stamp(entry: bytes) -> None:
    assert stamp_of(entry) is None
    assert decode_batch(entry) == []
