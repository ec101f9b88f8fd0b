"""Small inputs that claim to be, or would become, large: they cost neither memory nor time."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import time
import tracemalloc
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from cyoloctl.pki.ca import make_credentials
from cyoloctl.pki.files import write_credentials
from cyoloctl.raft.wal import checksum
from tests.fuzz import worlds
from tests.fuzz.targets import BY_NAME, example

_PEAK_BYTES = 48 * 2**20
_LIMIT_S = 10.0  # under tracemalloc, on a busy machine

_LAUGHS = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%b]\n" % (97 + n, 97 + n, b",".join([b"*%c" % (96 + n)] * 9)) for n in range(1, 20)
)


def _line(**changes: object) -> bytes:
    return b"\0" + json.dumps({**example("snapshot_chunk"), "data": 0, **changes}).encode()


def _request(body: bytes, *headers: bytes) -> bytes:
    lines = [
        b"POST /v1/counters/c/increment HTTP/1.1",
        b"Host: x",
        b"Content-Length: %d" % len(body),
        *headers,
    ]
    return b"\r\n".join([*lines, b"", body])


def _header(fields: bytes) -> bytes:
    """A frame of a header alone, with 2**62 where it has %d."""
    head = b'{"type":' + fields % 2**62 + b"}"
    return struct.pack(">I", len(head)) + head


def _wal(page_bytes: int) -> bytes:
    """A header with right checksums."""
    data = struct.pack(">6I", 0x377F0682, 3007000, page_bytes, 0, 0, 0)
    sums = checksum(struct.unpack("<6I", data), 0, 0)
    return data + struct.pack(">2I", *sums) + bytes(64)


_OK = b"HTTP/1.1 200 OK\r\n"
_JSON = b"Content-Type: application/json\r\n"
BOMBS: dict[str, tuple[str, bytes]] = {
    "frame-of-4-gib": ("peer-stream", b"\xff\xff\xff\xff" + bytes(1000)),
    "frame-with-a-header-of-4-gib": ("peer-frame", b"\xff\xff\xff\xff{}"),
    "entry-of-2**62": (
        "peer-frame",
        _header(
            b'"append_entries","term":1,"leader_commit":1,"prev_log_index":1,"prev_log_term":0,"entries":[[%d,2,1]]'
        ),
    ),
    "commands-of-2**62": ("replica-message", b'\1{"type":"forward","id":1,"commands":[4611686018427387904]}'),
    "chunk-of-a-snapshot-of-2**62": ("replica-message", _line(total=2**62, term=9)),
    "chunk-at-2**62": ("replica-message", _line(offset=2**62, term=9)),
    "chunk-of-a-snapshot-of-1-gib": ("replica-message", _line(total=2**30, term=9)),
    "frame-of-nested-json": ("peer-frame", struct.pack(">I", 2**21) + b"[" * 2**21),
    "frame-of-one-integer": ("peer-frame", struct.pack(">I", 2**21) + b"9" * 2**21),
    "call-of-nested-json": ("peer-call", b'{"a":' * 40_000),
    "call-of-4-mib": ("peer-call", b" " * (4 * 2**20 - 100)),
    "answer-of-nested-json": ("peer-answer", b"[" * 2**20),
    "batch-of-4-gib": ("batch-entry", b"\0\xff\xff\xff\xff" * 1000),
    "membership-nested": ("membership-entry", b"\2" + b"[" * 2**20),
    "requests-of-4-gi": ("machine-snapshot", b"\1" + bytes(32) + b"\0\0\0\2{}" + b"\xff" * 8),
    "snapshot-with-a-header-of-4-gib": ("snapshot-file", b"cyolosnp\1\xff\xff\xff\xff{}" + bytes(32)),
    "wal-with-pages-of-2-gib": ("journal-wal", _wal(2**31)),
    "token-nested": ("join-token", b"[" * 20_000),
    "grant-nested": ("grant-file", b"[" * 2**20),
    "grant-of-one-integer": ("grant-file", b'{"schema_version":' + b"9" * 2**20 + b"}"),
    "yaml-billion-laughs": ("node-yaml", _LAUGHS),
    "yaml-merge": ("node-yaml", b"a: &a {b: c}\nd:\n  <<: *a\n"),
    "yaml-nested-flow": ("node-yaml", b"[" * 250_000),
    "yaml-nested-blocks": ("node-yaml", b"- " * 120_000),
    "yaml-nested-keys": ("node-yaml", b"? " * 120_000),
    "yaml-one-integer": ("node-yaml", b"schema_version: " + b"9" * 250_000),
    "yaml-sexagesimal": ("node-yaml", b"schema_version: 1" + b":59" * 80_000),
    "yaml-one-line": ("node-yaml", b"a" * 250_000),
    "yaml-many-keys": ("node-yaml", b"".join(b"k%d: v\n" % n for n in range(8_000))),
    "credentials-nested": ("credentials-file", b'{"a":' * 200_000),
    "body-nested": ("api-body", b"[" * 2**20),
    "body-nested-short": ("api-body", b'{"a":' * 200),
    "body-of-one-integer": ("api-body", b'{"by":' + b"9" * 1_000_000 + b"}"),
    "body-of-many-keys": ("api-body", b"{" + b",".join(b'"%d":1' % n for n in range(20_000)) + b"}"),
    "body-gzip-bomb": ("api-server", _request(gzip.compress(bytes(64 * 2**20)), b"Content-Encoding: gzip")),
    "body-of-1-eib": ("api-server", _request(b"{}").replace(b"Length: 2", b"Length: 1152921504606846976")),
    "headers-without-end": ("api-server", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000),
    "answer-of-1-tb": ("api-client", _OK + _JSON + b"Content-Length: 99999999999\r\n\r\n{}"),
    "answer-with-a-chunk-of-4-gib": (
        "api-client",
        _OK + _JSON + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n{}",
    ),
    "answer-of-headers": ("api-client", _OK + b"a: b\r\n" * 20_000),
    "answer-nested": ("api-client", _OK + _JSON + b"\r\n" + b"[" * 100_000),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb_is_refused_within_bounded_memory_and_time(bomb: str) -> None:
    name, data = BOMBS[bomb]
    target = BY_NAME[name]
    target.check(b"")  # what is made once per process is not its cost
    began = time.process_time()  # of this process alone, however busy the machine is
    tracemalloc.start()
    try:
        target.check(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < _PEAK_BYTES + 2 * len(data), f"{peak >> 20} MiB"
    assert time.process_time() - began < _LIMIT_S


def test_credentials_with_an_encrypted_key_are_refused_without_asking_the_terminal(tmp_path: Path) -> None:
    known = worlds.keys()
    bundle = make_credentials(known.ca, known.ca_key, name="admin", role="operator", now=worlds.NOW)
    key = serialization.load_pem_private_key(bundle["key_pem"].encode(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"p"),
    )
    path = tmp_path / "operator.yaml"
    write_credentials(path, {**bundle, "key_pem": encrypted.decode()})
    ours, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cyoloctl", "status", "-e", "https://h:1", "--credentials", path],
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=30.0,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0),
            check=False,
        )
        os.set_blocking(ours, False)
        with pytest.raises(BlockingIOError):
            os.read(ours, 1000)
    finally:
        os.close(ours)
        os.close(terminal)
    assert done.returncode == 78, done.stderr
    assert "cannot be used" in done.stderr
