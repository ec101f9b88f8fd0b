"""Session tokens of cyoloctl beside others, in one run, for the same payload: ``make bench-tokens``.

Each system turns the same object into a token and back, JSON included, with its usual API and defaults.
Rounds alternate between the systems and the median counts.  A system that is not installed is reported and
left out.

Altered spellings: of one good token, how many different byte strings open as well.  Tried are each character
replaced by each other byte, each of the bytes ``= + / . space newline tab NUL`` and one high byte put in at
each place, and padding put on or taken off.  Every one that opens is a second cookie for one session: block
lists, rate limits and logs by token text miss it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Result", "System", "main"]

NOW = 1_800_000_000
COOKIE = "cyolo-sid"
CLAIMS = {
    "device": "laptop-17",
    "groups": ["operators", "db-readers"],
    "ip": "10.20.30.40",
    "mfa": True,
    "site": "tlv-21",
}
PAYLOAD: dict[str, Any] = {
    "abs": NOW + 28_800,
    "c": CLAIMS,
    "exp": NOW + 900,
    "gen": 1,
    "iat": NOW,
    "sid": "AAECAwQFBgcICQoLDA0ODw",
    "sub": "alice@example.com",
}
TARGET_RATE = 20_000
TARGET_EXTRA_CHARACTERS = 15
INSERTED = b"=+/. \n\t\0\xff"


@dataclass(frozen=True)
class System:
    """mint: a token of PAYLOAD.  open: its payload again, or any exception.  imports: the statement timed."""

    name: str
    imports: str
    mint: Callable[[], str]
    open: Callable[[str | bytes], object]
    note: str = ""


@dataclass
class Result:
    """rates: one per round, per second.  import_ms: over an empty interpreter, median of fresh processes."""

    name: str
    note: str
    characters: int
    mints: list[float] = field(default_factory=list)
    opens: list[float] = field(default_factory=list)
    imports_ms: list[float] = field(default_factory=list)
    altered_accepted: dict[str, int] = field(default_factory=dict)


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def cyoloctl_system() -> System:
    from cyoloctl.keys.keyring import Key, Keyring, KeyState
    from cyoloctl.tokens.format import Session, open_token, seal

    states = [KeyState.ENABLED, KeyState.ENABLED, KeyState.PRIMARY]
    ring = Keyring(
        Key(bytes((0xFC, 0, 0, number)), os.urandom(32), state, "0123456789abcdef" * 2)
        for number, state in enumerate(states)
    )
    fields = {name: value for name, value in PAYLOAD.items() if name != "c"}
    session = Session(claims=CLAIMS, **fields)
    return System(
        "cyoloctl",
        "import cyoloctl.tokens.format",
        lambda: seal(ring, session, cookie_name=COOKIE),
        lambda token: open_token(ring, token, now_unix_s=NOW, cookie_name=COOKIE),
        "ring of three; context, times and the payload's spelling are checked",
    )


def new_session_system() -> System:
    from cyoloctl.keys.keyring import Key, Keyring, KeyState
    from cyoloctl.tokens.format import new_session, open_token, seal

    ring = Keyring([Key(b"\xfc\0\0\0", os.urandom(32), KeyState.PRIMARY, "0123456789abcdef" * 2)])
    return System(
        "cyoloctl, new session",
        "import cyoloctl.tokens.format",
        lambda: seal(ring, new_session(PAYLOAD["sub"], CLAIMS, now_unix_s=NOW), cookie_name=COOKIE),
        lambda token: open_token(ring, token, now_unix_s=NOW, cookie_name=COOKIE),
        "the same with new_session before each seal",
    )


def fernet_system() -> System:
    from cryptography.fernet import Fernet

    one = Fernet(Fernet.generate_key())
    return System(
        "Fernet",
        "import cryptography.fernet, json",
        lambda: one.encrypt(compact(PAYLOAD)).decode(),
        lambda token: json.loads(one.decrypt(token, ttl=900)),
    )


def multi_fernet_system() -> System:
    from cryptography.fernet import Fernet, MultiFernet

    keys = [Fernet(Fernet.generate_key()) for _ in range(3)]
    three = MultiFernet(keys)
    return System(
        "MultiFernet of 3",
        "import cryptography.fernet, json",
        lambda: keys[2].encrypt(compact(PAYLOAD)).decode(),
        lambda token: json.loads(three.decrypt(token, ttl=900)),
        "tokens under the third key, as after two rotations",
    )


def joserfc_system() -> System:
    from joserfc import jwe
    from joserfc.jwk import OctKey

    key = OctKey.generate_key(256)
    header = {"alg": "dir", "enc": "A256GCM"}

    def opened(token: str | bytes) -> object:
        return json.loads(jwe.decrypt_compact(token, key, algorithms=["dir", "A256GCM"]).plaintext or b"")

    return System(
        "joserfc JWE dir/A256GCM",
        "import json; from joserfc import jwe",
        lambda: jwe.encrypt_compact(header, compact(PAYLOAD), key, algorithms=["dir", "A256GCM"]),
        opened,
    )


def pyseto_system() -> System:
    import pyseto

    key = pyseto.Key.new(version=4, purpose="local", key=os.urandom(32))
    return System(
        "pyseto v4.local",
        "import json, pyseto",
        lambda: pyseto.encode(key, compact(PAYLOAD)).decode(),
        lambda token: json.loads(pyseto.decode(key, token).payload),
    )


def itsdangerous_system() -> System:
    from itsdangerous import URLSafeTimedSerializer

    serializer = URLSafeTimedSerializer(os.urandom(32), salt=COOKIE)
    return System(
        "itsdangerous",
        "import itsdangerous",
        lambda: str(serializer.dumps(PAYLOAD)),
        lambda token: serializer.loads(token, max_age=900),
        "signed only: anyone reads the payload",
    )


MAKERS = [
    cyoloctl_system,
    new_session_system,
    fernet_system,
    multi_fernet_system,
    joserfc_system,
    pyseto_system,
    itsdangerous_system,
]


def rate(act: Callable[[], object], seconds: float) -> float:
    """Calls per second, over at least that many seconds."""
    calls, batch = 0, 64
    begun = time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < seconds:
        for _ in range(batch):
            act()
        calls += batch
    return calls / elapsed


def import_ms(statement: str) -> float:
    """The whole time of a fresh interpreter that runs the statement, its code compiled before."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return (time.perf_counter() - begun) * 1000


def alterations(token: str) -> Iterator[tuple[str, bytes]]:
    """Every altered spelling that is tried, with its kind; never the token itself."""
    text = token.encode()
    for at in range(len(text)):
        for byte in range(256):
            if byte != text[at]:
                yield "replaced", text[:at] + bytes([byte]) + text[at + 1 :]
    for at in range(len(text) + 1):
        for byte in INSERTED:
            yield "inserted", text[:at] + bytes([byte]) + text[at:]
    bare = text.rstrip(b"=")
    for padded in (bare, bare + b"=", bare + b"==", bare + b"===", bare + b"===="):
        if padded != text:
            yield "padding", padded


def accepted(system: System, token: str) -> dict[str, int]:
    """Number of altered spellings that open, by kind, each distinct one once."""
    seen: set[bytes] = set()
    counts = {"replaced": 0, "inserted": 0, "padding": 0}
    for kind, altered in alterations(token):
        if altered not in seen:
            seen.add(altered)
            with contextlib.suppress(Exception):  # what a system raises is its own affair
                system.open(altered)
                counts[kind] += 1
    return counts


def over_fernet() -> list[int]:
    """Characters more than Fernet's, for payloads of 200 to 247 bytes: Fernet pads to 16."""
    from cryptography.fernet import Fernet

    from cyoloctl.keys.keyring import Key, Keyring, KeyState
    from cyoloctl.tokens.format import new_session, seal

    ring = Keyring([Key(b"\xfc\0\0\0", os.urandom(32), KeyState.PRIMARY, "0123456789abcdef" * 2)])
    fernet = Fernet(Fernet.generate_key())
    found = []
    empty = len(compact({**PAYLOAD, "c": {"p": ""}}))
    for size in range(200, 248):
        made = new_session(PAYLOAD["sub"], {"p": "x" * (size - empty)}, now_unix_s=NOW)
        found.append(len(seal(ring, made, cookie_name=COOKIE)) - len(fernet.encrypt(bytes(size))))
    return found


def table(results: list[Result]) -> str:
    head = [
        "",
        "mints/s",
        "opens/s",
        "characters",
        "import ms",
        "altered accepted",
        "replaced/inserted/padding",
    ]
    rows = [head]
    for result in results:
        counts = result.altered_accepted
        rows.append(
            [
                result.name,
                f"{statistics.median(result.mints):,.0f}",
                f"{statistics.median(result.opens):,.0f}",
                str(result.characters),
                f"{statistics.median(result.imports_ms):.0f}",
                f"{sum(counts.values()):,}",
                "/".join(f"{count:,}" for count in counts.values()),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    notes = [f"{result.name}: {result.note}." for result in results if result.note]
    return "\n".join([*lines, "", *notes])


def missed(results: list[Result]) -> list[str]:
    """The targets (benchmarks/README.md) that this run missed."""
    by_name = {result.name: result for result in results}
    ours, fernet = by_name["cyoloctl"], by_name["Fernet"]
    found = []
    for what, rates in (("mints", ours.mints), ("opens", ours.opens)):
        if statistics.median(rates) < TARGET_RATE:
            found.append(f"fewer than {TARGET_RATE:,} {what} per second")
    if ours.characters > fernet.characters + TARGET_EXTRA_CHARACTERS:
        found.append(f"more than {TARGET_EXTRA_CHARACTERS} characters longer than Fernet")
    if sum(ours.altered_accepted.values()):
        found.append("altered spellings are accepted")
    return found


def main() -> int:
    """0, or 1 when --strict and a target was missed.

    More than 60 lines, because most are options and lines of the report.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tokens", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=9, help="alternating rounds (default 9)")
    parser.add_argument(
        "--seconds", type=float, default=0.3, help="of each mint and open in a round (default 0.3)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print everything as JSON after the table, on stdout alone"
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 when a target is missed")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be 1 or more")
    warnings.simplefilter("ignore")

    systems: list[System] = []
    absent: list[str] = []
    for maker in MAKERS:
        try:
            systems.append(maker())
        except ImportError as error:
            absent.append(f"{maker.__name__.removesuffix('_system')}: {error}")
    results = []
    for system in systems:
        token = system.mint()
        system.open(token)
        results.append(Result(system.name, system.note, len(token), altered_accepted=accepted(system, token)))
    for _ in range(arguments.rounds):
        empty = import_ms("pass")
        for system, result in zip(systems, results, strict=True):
            token = system.mint()
            result.mints.append(rate(system.mint, arguments.seconds))
            result.opens.append(rate(lambda: system.open(token), arguments.seconds))  # noqa: B023  # called here
            result.imports_ms.append(import_ms(system.imports) - empty)

    failures = missed(results)
    shown = table(results)
    machine = f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs"
    longer = over_fernet()
    lengths = (
        f"payload {len(compact(PAYLOAD))} bytes; characters over Fernet, by the length of the payload: "
        f"{min(longer)} to {max(longer)}, mean {statistics.mean(longer):.1f}"
    )
    lines = [
        shown,
        "",
        lengths,
        machine,
        *(f"not installed: {line}" for line in absent),
        *(f"missed: {f}" for f in failures),
    ]
    print("\n".join(lines), file=sys.stderr if arguments.json else sys.stdout)
    if arguments.json:
        everything = [asdict(result) for result in results]
        print(
            json.dumps(
                {
                    "machine": machine,
                    "over_fernet": longer,
                    "results": everything,
                    "absent": absent,
                    "missed": failures,
                },
                indent=1,
            )
        )
    return 1 if failures and arguments.strict else 0


if __name__ == "__main__":
    sys.exit(main())
