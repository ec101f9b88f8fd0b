"""Every table on screens of several widths, with the longest values that the API gives."""

from __future__ import annotations

import ast
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.cli import main, output
from cyoloctl.cli.output import Column
from cyoloctl.sim import Report, Violation
from tests.cli.harness import Endpoint, counter, member, status

Serve = Callable[[dict[tuple[str, str], Any]], Endpoint]
Capture = pytest.CaptureFixture[str]

ROOT = Path(__file__).resolve().parents[2]
TIME = "2030-12-31T23:59:59Z"
WIDTHS = (40, 80, 120)

#: The longest names, and others that people give.
NAMES = ("n1", "connector-frankfurt-2", "a" * 63)
HOST = ".".join(["x" * 49] * 5)
SUBJECTS = ("alice", "somebody@production.frankfurt.example.com", "ü" * 128, "日本" * 40)
IDS = ("0123456789abcdef" * 2, "f" * 32)
HASHES = ("51a2ab3c12189" + "0" * 51, "9ef9abf307102" + "1" * 51)


def key(key_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "key_id": key_id, "state": "destroyed", "cluster_id": IDS[0], "fingerprint": IDS[1],
        "created_at": TIME, "promoted_at": TIME, "retired_at": TIME, "holders": list(NAMES),
        "missing": list(NAMES), "compromised_by": [], **changes,
    }  # fmt: skip


def audit_page(chain: str, **changes: Any) -> dict[str, Any]:
    common = {
        "chain": chain, "time": "2030-12-31T23:59:59.999Z", "role": "operator", "credential": "c" * 32,
        "address": "2001:db8::1", "node": NAMES[2], "outcome": "already_exists", "request_id": "r" * 128,
        "index": 2**40, "epoch": 1, "previous": "0" * 64, "hash": "0" * 64,
    }  # fmt: skip
    lines = [{**common, "sequence": number, "who": who, **changes} for number, who in enumerate(NAMES, 1)]
    standing = {"last": 3, "head": "0" * 64, "cut_through": 0, "cut_hash": "0" * 64, "exported_through": 0}
    return {"chain": chain, "lines": lines, "next": None, **standing, "index": 2**40, "epoch": 1}


KEYS = {"keys": [key("fcd708fe"), key("fcde4327", state="primary", missing=[], retired_at=None)]}
MEMBERS = [member(name, address=f"{name}.production.example.com:65535") for name in NAMES]
POLICIES = [
    {"kind": name, "require": {f"claim-{i}": "v" * 60 for i in range(9)}, "allow_self": True}
    for name in NAMES
]
RENDEZVOUS = [
    {
        "id": id_, "kind": NAMES[2], "state": "cancelled", "node": NAMES[2],
        "initiator": "operator:" + "z" * 90, "origin": None, "data": {},
        "claimed_by": None, "sealed": False, "failed_attempts": 0,
        "created_at": TIME, "expires_at": TIME, "changed_at": TIME,
    }
    for id_ in IDS
]  # fmt: skip
REVOCATIONS = [
    {"kind": "sub", "value": sub, "minimum_gen": None, "issued_before": TIME, "expires_at": TIME}
    for sub in SUBJECTS
] + [
    {"kind": "sid", "value": "A" * 22, "minimum_gen": 2**31, "issued_before": None, "expires_at": TIME}
]  # fmt: skip
MACHINES = [
    {
        "name": name, "version": 1_000_000, "digest": "e" * 64, "state": "waiting", "rows": 2**40,
        "lacking": list(NAMES), "operations": ["add", "take_back"], "queries": ["top"],
    }
    for name in NAMES
]  # fmt: skip
CREDENTIALS = [
    {
        "name": name, "role": "operator", "key_hash": HASHES[0], "created_at": TIME,
        "created_by": f"credentials {NAMES[2]}", "expires_at": TIME, "revoked_at": TIME,
    }
    for name in NAMES
]  # fmt: skip
PKI = {
    "authorities": [
        {"sha256": sha256, "state": state, "not_before": TIME, "not_after": TIME, "key_holders": list(NAMES)}
        for sha256, state in zip(HASHES, ("previous", "current"), strict=True)
    ],
    "members": [
        {
            "name": name, "role": "voter", "connected": True, "certificate_expires_at": TIME,
            "ca_sha256": sha256, "confirmed": True, "reissued": True,
        }
        for name, sha256 in zip(NAMES, [*HASHES, "7" * 64], strict=True)
    ],
    "rotation": None, "rotation_due": False, "reasons": [], "certificate_days": 825,
    "credentials_to_renew": [],
}  # fmt: skip
INVITATIONS = [
    {"name": name, "learner": True, "created_at": TIME, "expires_at": TIME, "state": "open", "by": "token"}
    for name in NAMES
]
ROUTES = {
    "backends": [
        {"name": name, "host": host, "address": f"gw.{HOST}:65535", "alive": True, "role": "follower"}
        for name, host in zip(NAMES, ["app.example.com", None, HOST], strict=True)
    ],
    "shared_hosts": ["shared." + HOST], "index": 7,
}  # fmt: skip
LOG = {
    "schema_version": 1, "name": "n1", "first_index": 1, "last_index": 2**40, "commit_index": 2**40,
    "entries": [
        {
            "index": index, "term": 2**31, "time": TIME, "bytes": 2**20, "damaged": False, "membership": None,
            "commands": [{"machine": "rendezvous", "operation": name} for name in ("begin", "end")],
        }
        for index in (2**40 - 1, 2**40)
    ],
}  # fmt: skip
LOCKS = [
    {
        "name": name, "token": 2**53, "owner": "connector-frankfurt-2 4194304",
        "by": f"credentials {NAMES[2]}", "acquired_at": TIME, "expires_at": TIME, "index": 7, "epoch": 1,
    }
    for name in (*NAMES, "A" * 128)
]  # fmt: skip
STATUSES = [str(status_) for status_ in (0, 1, 2, 3, 4, 65, 69, 70, 74, 75, 76, 77, 78, 80, 130)]


def get(path: str, answer: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """The answers of an endpoint that gives this one only."""
    return {("GET", path): answer}


ENTRIES: list[dict[str, Any]] = [
    {
        "key": key,
        "size": 2**18,
        "sealed": True,
        "revision": 2**40,
        "created_revision": 1,
        "version": 2**40,
        "expires_at": TIME,
    }
    for key in ("site/name", "x" * 70)
]
ALL_COUNTERS = [counter(name, -(2**63)) for name in NAMES]

#: Command, answers, and the identifiers that have to be whole on every screen.
CASES: list[tuple[str, dict[tuple[str, str], Any], list[str]]] = [
    ("help exit-codes", {}, [*STATUSES, "authorization_pending", "clock_set_back"]),
    ("key list", get("/v1/keys", KEYS), ["fcd708fe", "fcde4327"]),
    (
        "key status",
        get(
            "/v1/keys/status",
            {
                **{"agreed": True, "primary": "fcde4327", "problems": [], "members": [], **KEYS},
                "sealed_values": {"fcde4327": 2**20},
            },
        ),
        ["fcde4327"],
    ),
    (
        "token revocations",
        get("/v1/tokens/revocations", {"revocations": REVOCATIONS, "next": None}),
        [*SUBJECTS, "A" * 22],
    ),
    ("node log", {}, [str(2**40)]),
    ("rendezvous list", get("/v1/rendezvous", {"rendezvous": RENDEZVOUS, "next": None}), [*IDS]),
    ("rendezvous policy", get("/v1/rendezvous/policies", {"policies": POLICIES}), [*NAMES]),
    ("credentials list", get("/v1/credentials", {"credentials": CREDENTIALS}), [*NAMES]),
    ("pki status", get("/v1/pki", PKI), [*NAMES, *HASHES, "7" * 64]),
    ("member list", get("/v1/members", {"members": MEMBERS}), [*NAMES, MEMBERS[2]["address"]]),
    ("member invitations", get("/v1/invitations", {"invitations": INVITATIONS}), [*NAMES]),
    ("status", get("/v1/status", status(*MEMBERS)), [*NAMES, MEMBERS[2]["address"]]),
    ("route list", get("/v1/routes", ROUTES), [*NAMES, "app.example.com", HOST, "shared." + HOST]),
    ("lock list", get("/v1/locks", {"locks": LOCKS, "next": None}), [*NAMES, "A" * 128]),
    (
        "kv list",
        get("/v1/kv/list", {"entries": ENTRIES, "next": None, "revision": 2**40}),
        [*(entry["key"] for entry in ENTRIES), str(2**40)],
    ),
    ("bench --op get --clients 1 --seconds 0.1", get("/v1/counters/bench", counter("bench", 7)), []),
    (
        "audit list",
        {
            **get(
                "/v1/audit/trust",
                audit_page("trust", subject="ü" * 128, operation="kv.put"),
            ),
            **get("/v1/audit/data", audit_page("data", subject="connector-frankfurt-2", operation="kv.put")),
        },
        [*NAMES, "d1", "t3", "connector-frankfurt-2"],
    ),
    ("machine list", get("/v1/machines", {"machines": MACHINES}), [*NAMES, "e" * 16]),
    (
        "counter list",
        get("/v1/counters", {"counters": ALL_COUNTERS, "next": None}),
        [*NAMES, str(-(2**63))],
    ),
]


def screen(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Let stdout be a terminal of that width, without colour."""
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setattr(output, "coloured", lambda stream: False)
    monkeypatch.setattr(output, "terminal_width", lambda: width)


def whole(shown: str, identifier: str) -> bool:
    """Whether it stands in one line, between blanks: nothing was cut, folded or added."""
    return any(identifier in line.split() for line in shown.splitlines())


@pytest.mark.parametrize(("command", "answers", "identifiers"), CASES, ids=[case[0] for case in CASES])
def test_table_shows_every_identifier_whole_on_every_screen(
    serve: Serve,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    answers: dict[tuple[str, str], Any],
    identifiers: list[str],
) -> None:
    from rich.cells import cell_len

    monkeypatch.setattr("cyoloctl.node.inspection.node_log", lambda *arguments, **options: LOG)
    endpoint = serve(answers)
    arguments = [*command.split(), *(["-e", endpoint.url] if answers else [])]
    for width in WIDTHS:
        with monkeypatch.context() as patch:
            screen(patch, width)
            assert main(arguments) == 0
        shown = capsys.readouterr().out
        assert [text for text in identifiers if not whole(shown, text)] == [], f"{width} columns:\n{shown}"
        boxed = [line for line in shown.splitlines() if line[:1] in "╭├│╰"]
        assert all(cell_len(line) <= width for line in boxed), f"{width} columns:\n{shown}"
        assert "…" not in shown
    assert main(arguments) == 0
    plain = capsys.readouterr().out
    assert [text for text in identifiers if not whole(plain, text)] == []
    assert "hidden" not in plain


def test_every_table_of_the_package_is_among_the_cases(
    serve: Serve, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {
        (path.name, node.lineno)
        for path in (ROOT / "cyoloctl" / "cli").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "output.table"
    }
    drawn = set()
    table = output.table

    def noted(*arguments: Any, **options: Any) -> None:
        frame = sys._getframe(1)
        drawn.add((Path(frame.f_code.co_filename).name, frame.f_lineno))
        table(*arguments, **options)

    monkeypatch.setattr(output, "table", noted)
    monkeypatch.setattr("cyoloctl.node.inspection.node_log", lambda *arguments, **options: LOG)
    for command, answers, _ in CASES:
        main([*command.split(), *(["-e", serve(answers).url] if answers else [])])
    assert {where for where in calls if where not in drawn and where[0] != "sim.py"} == set()
    assert len(drawn) >= 12


def test_replay_command_of_a_violation_is_whole_on_every_screen(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        yield Report(
            seed=17, operations=3, faults={}, counts={}, simulated_s=1.0,
            violation=Violation(seed=17, kind="stale-read", at_s=1.5, claim="c", trace=()),
        )  # fmt: skip

    monkeypatch.setattr("cyoloctl.sim.run_seeds", broken)
    for width in WIDTHS:
        with monkeypatch.context() as patch:
            screen(patch, width)
            assert main(["sim", "--seeds", "17:18", "--faults", "crash,disk,partition"]) == 4
        shown = capsys.readouterr().out
        assert "cyoloctl sim --seeds 17:18 --faults crash,disk,partition" in shown, shown


def drawn(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, width: int, columns: list[Column], *rows: list[str]
) -> list[str]:
    with monkeypatch.context() as patch:
        screen(patch, width)
        output.table(columns, rows)
    return capsys.readouterr().out.splitlines()


def test_table_hides_the_least_important_columns_first_and_names_them(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = [Column("NAME", identifier=True), Column("NOTE", drop=2), Column("WHEN", drop=1), Column("X")]
    row = ["n1", "some text", "today", "x"]
    below = []
    for width in (40, 30, 18):
        lines = drawn(capsys, monkeypatch, width, columns, row)
        assert max(map(len, lines)) <= width
        below.append(" ".join(line for line in lines if line[0] not in "╭│├╰"))
    assert below == [
        "",
        "hidden at this width: when; -o json shows everything",
        "hidden at this width: note, when; -o json shows everything",
    ]


def test_table_folds_between_words_and_then_becomes_records(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = [Column("NAME", identifier=True), Column("NOTE")]
    row = ["an-identifier", "one two three"]
    assert drawn(capsys, monkeypatch, 25, columns, row)[3:6] == [
        "│ an-identifier │ one   │",
        "│               │ two   │",
        "│               │ three │",
    ]
    assert drawn(capsys, monkeypatch, 24, columns, row) == [
        "name  an-identifier",
        "note  one two three",
    ]


def test_control_characters_of_a_value_reach_no_terminal(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = "a\x1b[2Jb\nc"
    assert "│ a\\x1b[2Jb\\nc │" in drawn(capsys, monkeypatch, 80, [Column("NAME")], [hostile])
    assert output.fields([("data k", hostile)]) == "data k  a\\x1b[2Jb\\nc\n"


def in_terminal(width: int, *arguments: str) -> str:
    """What the command shows on a terminal of that width."""
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover - the child becomes the command
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        os.execve(
            sys.executable, [sys.executable, "-m", "cyoloctl", *arguments], environment | {"TERM": "xterm"}
        )
    shown = b""
    try:
        while piece := os.read(terminal, 4096):
            shown += piece
    except OSError:  # Linux answers EIO when the last process has closed the terminal
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n")


def test_screen_of_80_columns_shows_statuses_key_ids_and_session_ids(serve: Serve) -> None:
    listed = {"keys": [key("fcd708fe", missing=[])]}
    url = serve({**get("/v1/keys", listed), **CASES[3][1]}).url
    codes = in_terminal(80, "help", "exit-codes")
    assert [text for text in STATUSES if not whole(codes, text)] == []
    keys = in_terminal(80, "key", "list", "-e", url)
    assert whole(keys, "fcd708fe")
    assert "hidden at this width: fingerprint" in keys
    assert whole(in_terminal(80, "token", "revocations", "-e", url), "A" * 22)
    assert max(map(len, (codes + keys).splitlines())) <= 80
