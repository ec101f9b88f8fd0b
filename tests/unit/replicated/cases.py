"""Cases for every machine: good and wrong arguments, a state with something of everything, damage.

One case per machine.  A new machine adds its case here, and every test of test_every_machine.py holds for it.
More than 700 lines, because a table is data: nothing here branches.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cyoloctl.credentials.machine import MAX_LIFETIME_MS
from cyoloctl.rendezvous.records import MAX_CALLERS, MAX_REQUIRED, MAX_TTL_MS
from cyoloctl.text import Json

__all__ = ["CASES", "NOW", "Case"]

Damage = Callable[[Any], object]

NOW = 1_800_000_000_000
CLUSTER = "c" * 32
SEALING = base64.b64encode(bytes(32)).decode()
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
SIGNATURE = "AAAA" * 24
DIGEST, OTHER_DIGEST = "a" * 64, "b" * 64


@dataclass(frozen=True)
class Case:
    """history: (machine, operation, arguments) of commands that leave something of everything behind.

    good: well-formed arguments for every operation, which the machine may refuse.
    wrong: values that are malformed, by operation and argument.
    damage: changes of the state after the history that make it one that the machine never exports.
    """

    history: tuple[tuple[str, str, Json], ...]
    good: dict[str, Json]
    wrong: dict[tuple[str, str], list[Any]]
    damage: tuple[Damage, ...]


def _set(path: str, value: Any) -> Damage:
    def change(state: Json) -> None:
        *parents, last = path.split("/")
        for step in parents:
            state = state[step]
        state[last] = value

    return change


def _member(name: str, role: str = "voter") -> tuple[str, str, Json]:
    fields = {"address": "h:1", "role": role, "raft_id": name, "certificate_expires_at": None}
    return "members", "put", {"name": name, "sealing_key": SEALING, **fields}


# -- counters -----------------------------------------------------------------------------------

_counter = Case(
    history=(
        ("counter", "add", {"name": "b", "by": 5}),
        ("counter", "add", {"name": "a", "by": -7}),
        ("counter", "reset", {"name": "c"}),
    ),
    good={"add": {"name": "a", "by": 1}, "reset": {"name": "a"}},
    wrong={
        ("add", "name"): ["", "A", "é", "a b", "-a", "a" * 64, 5, None, ["a"], "\ud800"],
        ("add", "by"): [-(2**63) - 1, 2**63 + 1, True, "1", None, 1.5],
        ("reset", "name"): ["", "A", None],
    },
    damage=(
        lambda s: s.update(A=1),
        lambda s: s["values"].insert(0, ["A", 1]),
        lambda s: s["values"].insert(0, s["values"][0]),
        lambda s: s["values"].reverse(),
        lambda s: s["values"].append(None),
        lambda s: s["values"][0].pop(),
        lambda s: s["values"][0].append(1),
        lambda s: s["values"][0].__setitem__(1, 2**63),
        lambda s: s["values"][0].__setitem__(1, -(2**63) - 1),
        lambda s: s["values"][0].__setitem__(1, True),
        lambda s: s["values"][0].__setitem__(1, "1"),
        lambda s: s["values"][0].__setitem__(1, None),
    ),
)


# -- locks --------------------------------------------------------------------------------------

_ACQUIRE: Json = {"name": "a", "holder": "1" * 32, "owner": "h 1", "by": "root", "ttl_ms": 60_000}
_NO_LOCKS: list[Any] = ["", ".a", "-", "a/b", "a b", "é", "a" * 129, "a\n", 5, None, ["a"], "\ud800"]
_NO_TOKENS: list[Any] = [0, -1, 2**63, True, "1", None, 1.5]
_NO_TTLS: list[Any] = [999, 86_400_001, True, "1", None, 1.5]
_NO_OWNERS: list[Any] = ["x" * 129, "a\n", "é", "\x1b[2J", None, 5, "\ud800"]

_locks = Case(
    history=(
        ("lock", "acquire", {**_ACQUIRE, "name": "b", "holder": "2" * 32}),
        ("lock", "acquire", _ACQUIRE),
        ("lock", "acquire", {**_ACQUIRE, "name": "c"}),
        ("lock", "break", {"name": "c"}),
    ),
    good={
        "acquire": {**_ACQUIRE, "name": "d"},
        "keep": {"name": "a", "token": 2, "ttl_ms": 90_000},
        "release": {"name": "a", "token": 2},
        "break": {"name": "a"},
    },
    wrong={
        ("acquire", "name"): _NO_LOCKS,
        ("acquire", "holder"): ["", "1" * 31, "G" * 32, "A" * 32, "1" * 32 + "\n", None, 1],
        ("acquire", "owner"): _NO_OWNERS,
        ("acquire", "by"): _NO_OWNERS,
        ("acquire", "ttl_ms"): _NO_TTLS,
        ("keep", "name"): _NO_LOCKS,
        ("keep", "token"): _NO_TOKENS,
        ("keep", "ttl_ms"): _NO_TTLS,
        ("release", "name"): _NO_LOCKS,
        ("release", "token"): _NO_TOKENS,
        ("break", "name"): _NO_LOCKS,
    },
    damage=(
        lambda s: s.update(more=1),
        lambda s: s.pop("last_token"),
        lambda s: s.update(last_token=1),
        lambda s: s.update(last_token=-1),
        lambda s: s.update(last_token=None),
        lambda s: s.update(locks=[]),
        lambda s: s.update(locks={"a/b": s["locks"]["a"]}),
        lambda s: s["locks"].update(a=None),
        lambda s: s["locks"].update(a={**s["locks"]["a"], "more": 1}),
        lambda s: s["locks"]["a"].pop("by"),
        lambda s: s["locks"]["a"].update(token=s["locks"]["b"]["token"]),
        lambda s: s["locks"]["a"].update(token=s["last_token"] + 1),
        lambda s: s["locks"]["a"].update(token=0),
        lambda s: s["locks"]["a"].update(holder="x"),
        lambda s: s["locks"]["a"].update(owner="é"),
        lambda s: s["locks"]["a"].update(acquired_unix_ms=-1),
        lambda s: s["locks"]["a"].update(end_steady_ms=2**53 + 1),
        lambda s: s["locks"]["a"].update(expires_unix_ms=1),
    ),
)


# -- members ------------------------------------------------------------------------------------

KEY = "A" * 43 + "="
SECRET, REQUEST = "5" * 64, "a" * 64
PUBLIC = "C" * 42 + "A="
HASH = "c" * 64
_NO_HOSTS: list[Any] = [
    "",
    ".",
    "a.",
    ".a",
    "a..b",
    "-a",
    "a-",
    "A",
    "a_b",
    "a b",
    "a:1",
    "é",
    "[::1]",
    "127.0.0.1",
    "127.1",
    "1",
    "0x7f000001",
    "a.0x1",
    "a" * 64,
    ".".join(["a" * 63] * 4),
    5,
    ["a"],
    "\ud800",
    "a\n",
]
_NODE: Json = {"address": "10.0.0.1:7000", "sealing_key": KEY, "raft_id": "n2"}
_DATED: Json = {**_NODE, "certificate_expires_at": None}
_ANNOUNCE: Json = {"name": "n1", **_DATED, "raft_id": "n1", "key_hash": HASH}
_GRANT: Json = {
    "name": "n6",
    "learner": False,
    "request_sha256": REQUEST,
    "key_hash": "d" * 64,
    "sealing_key": KEY,
    "ttl_s": 600,
}
_GRANT_WITNESS: Json = {
    "name": "w1",
    "request_sha256": REQUEST,
    "key_hash": "e1" * 32,
    "sealing_key": KEY,
    "ttl_s": 600,
}
_WITNESS: Json = {
    **_ANNOUNCE,
    "name": "w1",
    "raft_id": "w1",
    "address": "10.0.0.8:7000",
    "key_hash": "e1" * 32,
}
_NO_DIGESTS: list[Any] = [None, "", 5, "x y", "F" * 64]

_members = Case(
    history=(
        ("members", "announce", _ANNOUNCE),
        _member("gone"),
        ("members", "remove", {"name": "gone"}),
        (
            "members",
            "issue_invitation",
            {"name": "n2", "learner": False, "public_key": PUBLIC, "expires_unix_ms": NOW + 500},
        ),
        (
            "members",
            "invite",
            {"name": "n3", "learner": True, "secret_sha256": SECRET, "expires_unix_ms": NOW + 500},
        ),
        ("members", "grant", _GRANT),
        ("members", "invite_witness", {"name": "w2", "public_key": PUBLIC, "ttl_s": 60}),
        ("members", "grant_witness", _GRANT_WITNESS),
        ("members", "announce", _WITNESS),
        ("members", "set_gateway", {"name": "n1", "gateway": {"address": "h:443", "url": "https://h"}}),
        ("members", "set_host", {"name": "n1", "host": "n1.test"}),
        ("members", "share_host", {"host": "all.test"}),
    ),
    good={
        "issue_invitation": {
            "name": "n2",
            "learner": False,
            "public_key": PUBLIC,
            "expires_unix_ms": NOW + 900,
        },
        "invite_for": {"name": "n2", "learner": False, "public_key": PUBLIC, "ttl_s": 60},
        "invite_witness": {"name": "n2", "public_key": PUBLIC, "ttl_s": 60},
        "uninvite": {"name": "n2"},
        "admit": {"name": "n2", "public_key": PUBLIC, "request_sha256": REQUEST, **_NODE, "key_hash": HASH},
        "grant": {**_GRANT, "name": "n2"},
        "grant_witness": {**_GRANT_WITNESS, "name": "n2", "key_hash": "f" * 64},
        "announce": _ANNOUNCE,
        "invite": {"name": "n4", "learner": False, "secret_sha256": REQUEST, "expires_unix_ms": NOW + 9},
        "redeem": {"name": "n3", "secret_sha256": SECRET, "request_sha256": REQUEST, **_NODE},
        "put": {"name": "n2", "role": "voter", **_DATED},
        "set_role": {"name": "n1", "role": "voter"},
        "set_address": {"name": "n1", "address": "10.0.0.9:7000"},
        "remove": {"name": "n1"},
        "set_host": {"name": "n1", "host": "app-1"},
        "set_gateway": {"name": "n1", "gateway": {"address": "h:80", "url": None}},
        "share_host": {"host": "app"},
        "unshare_host": {"host": "app"},
    },
    wrong={
        ("put", "name"): ["N1", "é", 1, "\ud800"],
        ("put", "address"): ["nohost", "h:0", "é:1", None, "a" * 400 + ":1"],
        ("put", "role"): ["leader", ["voter"], True],
        ("set_role", "role"): ["leader", None, ["voter"], True],
        ("set_address", "address"): ["nohost", "h:0", "é:1", None, "a" * 400 + ":1"],
        ("put", "sealing_key"): ["x", 5, "A" * 44, KEY + "\n"],
        ("put", "raft_id"): ["", "a b", []],
        ("put", "certificate_expires_at"): [
            5,
            "2027-01-02",
            "9999-99-99T99:99:99Z",
            "\uff12027-01-02T03:04:05Z",
        ],
        ("invite", "learner"): [1, None],
        ("invite", "secret_sha256"): [SECRET.replace("5", "A"), "55"],
        ("invite", "expires_unix_ms"): [True, -1, 2**53 + 1, "9"],
        ("issue_invitation", "public_key"): [PUBLIC[:-1], "C" * 44, "D" * 43 + "=", PUBLIC + "\n", None],
        ("issue_invitation", "learner"): [1],
        ("issue_invitation", "expires_unix_ms"): [2**53 + 1],
        ("issue_invitation", "name"): ["N2"],
        ("invite_for", "public_key"): [PUBLIC[:-1], None],
        ("invite_for", "ttl_s"): [59, 604_801, None, True],
        ("invite_witness", "public_key"): [PUBLIC[:-1], None],
        ("invite_witness", "ttl_s"): [59, 604_801, None, True],
        ("grant_witness", "key_hash"): _NO_DIGESTS,
        ("grant_witness", "ttl_s"): [59, 7_776_001, None, True],
        **{("admit", field): _NO_DIGESTS for field in ("key_hash", "request_sha256", "public_key")},
        ("admit", "raft_id"): [None, "", 5, "x y"],
        **{("grant", field): _NO_DIGESTS for field in ("key_hash", "request_sha256", "sealing_key")},
        ("grant", "name"): ["N2", None],
        ("grant", "learner"): [1, None],
        ("grant", "ttl_s"): [59, 7_776_001, None, True],
        ("announce", "key_hash"): _NO_DIGESTS,
        ("set_host", "host"): _NO_HOSTS,
        ("share_host", "host"): _NO_HOSTS,
        ("unshare_host", "host"): _NO_HOSTS,
        ("set_gateway", "gateway"): [5, {}, {"address": "h:80"}, {"address": "h", "url": None}],
    },
    damage=(
        lambda s: s.pop("removed"),
        lambda s: s.update(removed=["n1"]),
        lambda s: s.update(removed=["b", "a"]),
        lambda s: s.update(removed=["a", "a"]),
        lambda s: s.update(removed={}),
        lambda s: s.update(removed=[1]),
        lambda s: s.update(members=[]),
        lambda s: s["members"]["n1"].pop("role"),
        lambda s: s["members"]["n1"].update(role="leader"),
        lambda s: s["members"]["n1"].update(name="n2"),
        lambda s: s["members"]["n1"].update(address="h:080"),
        lambda s: s["members"]["n1"].update(announced="h:080"),
        lambda s: s["members"]["n1"].update(announced=None),
        lambda s: s["members"]["n1"].update(announced=s["members"]["n1"]["address"]),
        lambda s: s["members"].update(n2=s["members"]["n1"]),
        lambda s: s["members"].update(n2={**s["members"]["n1"], "key_hash": "e" * 64}),
        lambda s: s.update(gateways={}),
        lambda s: s.update(gateways=[]),
        lambda s: s["gateways"].update(n9=s["gateways"]["n1"]),
        lambda s: s["gateways"].update(gone=s["gateways"]["n1"]),
        lambda s: s["gateways"]["n1"].update(address="h:0443"),
        lambda s: s["gateways"]["n1"].pop("url"),
        lambda s: s["members"].update(N2=s["members"].pop("n1")),
        lambda s: s["members"].update(n1=None),
        lambda s: s["invitations"][SECRET].update(used_by="x"),
        lambda s: s["invitations"][SECRET].update(secret_sha256=SECRET),
        lambda s: s["invitations"].update(x=s["invitations"].pop(SECRET)),
        lambda s: s["invitations"].update({SECRET: []}),
        lambda s: s.update(hosts={}),
        lambda s: s.update(hosts=["a"]),
        lambda s: s.update(hosts={"a": "n9"}),
        lambda s: s.update(hosts={"a": "n1", "b": "n1"}),
        lambda s: s.update(hosts={"A": "n1"}),
        lambda s: s.update(hosts={"a": 1}),
        lambda s: s.update(hosts={"a": "n1"}, shared_hosts=["a"]),
        lambda s: s.update(shared_hosts=[]),
        lambda s: s.update(shared_hosts="a"),
        lambda s: s.update(shared_hosts=["b", "a"]),
        lambda s: s.update(shared_hosts=["a", "a"]),
        lambda s: s.update(shared_hosts=[1]),
        lambda s: s.update(shared_hosts=sorted(f"h{n}" for n in range(101))),
        lambda s: s.update(issued_invitations={}),
        lambda s: s["issued_invitations"]["n2"].pop("learner"),
        lambda s: s["issued_invitations"]["n2"].update(name="n2"),
        lambda s: s["issued_invitations"]["n2"].update(public_key="x"),
        lambda s: s["issued_invitations"]["n2"].update(created_unix_ms=None),
        lambda s: s["issued_invitations"].update(N2=s["issued_invitations"].pop("n2")),
        lambda s: s["removed"].append("n2"),
        lambda s: s.update(grants={}),
        lambda s: s.update(grants=[]),
        lambda s: s["grants"]["n6"].pop("learner"),
        lambda s: s["grants"]["n6"].update(key_hash="x"),
        lambda s: s["grants"]["n6"].update(name="n6"),
        lambda s: s["grants"].update(N6=s["grants"].pop("n6")),
        lambda s: s["grants"].update(n1=s["grants"]["n6"]),
        lambda s: s["grants"].update(n2=s["grants"]["n6"]),
        lambda s: s["removed"].append("n6"),
        lambda s: s["members"]["n1"].update(key_hash=None),
        lambda s: s["members"]["n1"].update(key_hash="X" * 64),
        lambda s: s["members"].update(n5={**s["members"]["n1"], "raft_id": "n5"}),
        lambda s: s["members"]["w1"].update(witness=False),
        lambda s: s["members"]["w1"].update(role="learner"),
        lambda s: s["gateways"].update(w1=s["gateways"]["n1"]),
        lambda s: s["hosts"].update({"w1.test": "w1"}),
        lambda s: s["issued_invitations"]["w2"].update(learner=True),
        lambda s: s["issued_invitations"]["w2"].update(witness=False),
        lambda s: s["grants"]["n6"].update(witness=True, learner=True),
        lambda s: s["grants"]["n6"].update(witness=None),
    ),
)


# -- presence -----------------------------------------------------------------------------------

_presence = Case(
    history=(
        _member("n1"),
        _member("n2"),
        ("presence", "boot", {"name": "n1", "boots": 3, "boot": "c", "index": 1}),
        ("presence", "reached", {"name": "n2", "index": 2}),
    ),
    good={
        "boot": {"name": "n1", "boots": 4, "boot": "d", "index": 1},
        "reached": {"name": "n1", "index": 1},
    },
    wrong={
        ("boot", "boots"): [True, -1, "1", None],
        ("boot", "boot"): [None, "a b", "é", "x" * 65],
        ("reached", "index"): [2**53 + 1, -1, None],
        ("reached", "name"): ["N1", None],
    },
    damage=(
        lambda s: s.update(n1={}),
        lambda s: s.update(N1=s["n1"]),
        lambda s: s["n1"].update(boots="3"),
        lambda s: s["n1"].update(more=1),
        lambda s: s["n1"].pop("index"),
    ),
)


# -- keys ---------------------------------------------------------------------------------------

K1, K2, K3 = "fc000001", "fc000002", "fc000003"
PRINT = "1" * 32
HOUR_MS = 3_600_000


def blob(text: str = "") -> str:
    return base64.b64encode(text.encode().ljust(80, b"\0")).decode()


def imported(key_id: str, **other: Any) -> dict[str, Any]:
    return {
        "key_id": key_id,
        "cluster_id": "d" * 32,
        "fingerprint": PRINT,
        "state": "enabled",
        "created_unix_ms": 5,
        "retired_unix_ms": NOW - HOUR_MS,
        "tokens_until_unix_ms": NOW + HOUR_MS,
        "wrapped": {"n1": blob(key_id)},
        **other,
    }


def _announced(name: str) -> tuple[str, str, Json]:
    proof = {"certificate_pem": PEM, "signature": SIGNATURE}
    return "keys", "announce", {"name": name, "sealing_key": SEALING, **proof}


def _given(key_id: str, *names: str) -> tuple[tuple[str, str, Json], ...]:
    made = {"key_id": key_id, "cluster_id": CLUSTER, "fingerprint": PRINT}
    return (
        ("keys", "generate", {**made, "wrapped": {name: blob(name) for name in names}}),
        *(("keys", "confirm", {"name": name, "keys": {key_id: PRINT}}) for name in names),
    )


_NAMES = ("n1", "n2", "n3")
_keys = Case(
    # Every state of a key, a removed member, a member without blobs, another policy.
    history=(
        *(_member(name) for name in _NAMES),
        *(_announced(name) for name in _NAMES),
        *_given(K1, *_NAMES),
        *_given(K2, *_NAMES),
        ("keys", "promote", {"key_id": K2}),
        *_given(K3, "n1"),
        ("keys", "import", {"keys": [imported("fc000004", state="disabled"), imported("fc000005")]}),
        ("keys", "destroy", {"key_id": "fc000005", "force": True}),
        ("keys", "policy", {"rotate_every_s": 86_400, "keep_s": 7200}),
        ("members", "remove", {"name": "n3"}),
        (
            "keys",
            "announce",
            {**_announced("n2")[2], "sealing_key": "B" * 42 + "A="},
        ),
    ),
    good={
        "announce": {
            "name": "n1",
            "sealing_key": SEALING,
            "certificate_pem": PEM,
            "signature": SIGNATURE,
        },
        "generate": {"key_id": K2, "cluster_id": CLUSTER, "fingerprint": PRINT, "wrapped": {"n1": blob()}},
        "wrap": {"key_id": K1, "wrapped": {"n1": blob()}},
        "confirm": {"name": "n1", "keys": {K1: PRINT}},
        "reject": {"name": "n1", "keys": [K1]},
        "make": {"key_id": K2, "cluster_id": CLUSTER, "fingerprint": PRINT, "wrapped": {"n1": blob()}},
        "promote": {"key_id": K1},
        "rotate": {"key_id": K1},
        "disable": {"key_id": K1, "force": False},
        "enable": {"key_id": K1},
        "destroy": {"key_id": K1, "force": False},
        "import": {"keys": [imported(K2)]},
        "policy": {"rotate_every_s": None, "keep_s": 3600},
    },
    wrong={
        ("announce", "name"): ["", "N1", "é", 5, None],
        ("announce", "sealing_key"): ["", "A" * 44, None],
        ("announce", "certificate_pem"): [
            "",
            PEM * 2,
            PEM.strip(),
            PEM.replace("MIIB", ""),
            PEM.replace("MIIB", "é"),
            PEM.replace("MIIB\n", "MIIB\n" * 900),
            None,
        ],
        ("announce", "signature"): ["", "AAA", "A" * 100, "AAAA" * 3 + "\n", "=" * 16, None],
        ("generate", "key_id"): ["", "fd000001", "FC000001", "fc00001", "fc0000001", 5, None],
        ("generate", "cluster_id"): ["", "C" * 32, "c" * 31, None],
        ("generate", "fingerprint"): ["", "1" * 31, "g" * 32, 5],
        ("wrap", "wrapped"): [
            {},
            [],
            None,
            {"n1": ""},
            {"n1": None},
            {"N1": blob()},
            {"n1": blob()[:-1]},
            {"n1": base64.b64encode(bytes(81)).decode()},
            {"n1": base64.b64encode(bytes(79)).decode()},
            {"n1": blob()[:-2] + "B="},  # a bit set that no byte has
        ],
        ("confirm", "keys"): [[], None, {K1: ""}, {"x": PRINT}, {K1: None}],
        ("reject", "keys"): [[], None, {}, [K1, K1], ["x"], [None]],
        ("disable", "force"): [0, None, "true"],
        ("import", "keys"): [
            [],
            {},
            None,
            [None],
            [imported(K2)] * 2,
            [{"key_id": K2}],
            [imported(K2, state="primary")],
            [imported(K2, state="destroyed")],
            [imported(K2, wrapped={})],
            [imported(K2, created_unix_ms=-1)],
            [imported(K2, retired_unix_ms=None)],
            [imported(K2, tokens_until_unix_ms=2**53 + 1)],
            [imported(K2, secret="x")],
        ],
        ("policy", "keep_s"): [3599, 366 * 86_400 + 1, True, None, "3600"],
        ("policy", "rotate_every_s"): [0, 3599, 366 * 86_400 + 1, False],
    },
    damage=(
        lambda s: s.pop("policy"),
        lambda s: s.update(more=1),
        lambda s: s["keys"][K1].pop("holders"),
        lambda s: s["keys"].update(fd000001=s["keys"].pop(K1)),
        lambda s: s["nodes"].update(N1=s["nodes"].pop("n1")),
        _set("keys", []),
        _set("nodes/n1", None),
        _set("nodes/n1/signature", ""),
        _set("policy/keep_s", 0),
        _set(f"keys/{K1}/state", "primary"),  # a second one
        _set(f"keys/{K1}/state", "lost"),
        _set(f"keys/{K1}/state", "destroyed"),  # without its time
        _set(f"keys/{K1}/destroyed_unix_ms", 5),
        _set(f"keys/{K1}/created_unix_ms", -5),
        _set(f"keys/{K1}/holders", ["n2"]),  # no blob
        _set(f"keys/{K1}/holders", ["n1", "n1"]),
        _set(f"keys/{K1}/known_to", ["n2", "n1"]),
        _set(f"keys/{K1}/known_to", ["n2"]),  # n1 has a blob
        _set(f"keys/{K1}/known_to", "n1"),
        _set(f"keys/{K1}/compromised_by", ["n1"]),
        _set(f"keys/{K1}/wrapped", {"n1": "x"}),
        _set("keys/fc000005/compromised_by", ["n9"]),
    ),
)


# -- keys and values ----------------------------------------------------------------------------


def _kv_put(key: str, value: bytes = b"v", ttl_ms: int | None = None) -> Json:
    text = base64.b64encode(value).decode()
    return {"key": key, "value": text, "if_revision": None, "ttl_ms": ttl_ms, "fence": None}


_KV_PUT = {"op": "put", "key": "t", "value": "dg==", "ttl_ms": None}
_KV_COMPARE = {"key": "a", "target": "version", "op": ">", "value": 0}
_NO_KEYS: list[Any] = ["", "a\n", "\x7f", "\u2028", "\ud800", "é" * 257, "x" * 513, 5, None, ["a"]]
_NO_VALUES: list[Any] = ["dg=", "dh==", "d g==", "é", None, 5, "A" * 349_529]
_NO_KV_TTLS: list[Any] = [0, 999, 366 * 86_400_000 + 1, True, "1000"]
_NO_FENCES: list[Any] = [
    {"name": "l"},
    {"name": "", "token": 1},
    {"name": "l", "token": 0},
    {"name": "l", "token": 2**63},
    {"name": 5, "token": 1},
    "l=1",
]
_NO_BRANCHES: list[Any] = [
    {},
    [5],
    [_KV_PUT] * 2,
    [{**_KV_PUT, "key": str(number)} for number in range(65)],
    [{**_KV_PUT, "op": "delete"}],
    [{**_KV_PUT, "key": ""}],
    [{"op": "get", "key": "a"}],
    [{**_KV_PUT, "sealed": True}],
    [{**_KV_PUT, "sealed": None}],
]


def _kv_blob(number: int, size: int = 1, key_id: str = "fc000001") -> str:
    return base64.b64encode(b"\x56\x01" + bytes.fromhex(key_id) + bytes([number]) * (40 + size)).decode()


def _kv_sealed(key: str, number: int = 1, ttl_ms: int | None = None) -> Json:
    given = {"if_revision": None, "ttl_ms": ttl_ms, "fence": None}
    return {"key": key, "blob": _kv_blob(number), "digest": f"{number:032x}", **given}


_KV_PUT_SEALED = {"op": "put", "key": "t/s", "digest": "0" * 32, "ttl_ms": None}
_KV_TXN = {"compare": [_KV_COMPARE], "then": [_KV_PUT, _KV_PUT_SEALED], "otherwise": [], "fence": None}
_KV_RESEAL = {"name": "cw==", "revision": 12, "blob": _kv_blob(9, key_id="fc000002")}
_NO_BLOBS: list[Any] = [
    "",
    "dg==",
    _kv_blob(1)[:-1],
    _kv_blob(1, size=-1),
    _kv_blob(1, size=256 * 1024 + 1),
    _kv_blob(1, key_id="fb000001"),
    "WAH" + _kv_blob(1)[3:],
    "VgI" + _kv_blob(1)[3:],
    None,
    5,
]
_NO_DIGESTS: list[Any] = ["", "0" * 31, "0" * 33, "A" * 32, None, 5]


def _row(state: Any, key: str) -> Any:
    return next(row for row in state["entries"] if row[0] == key)


_kv = Case(
    history=(
        ("kv", "put", _kv_put("a", b"1")),
        ("kv", "put", _kv_put("a", b"2")),
        ("kv", "put", _kv_put("b", b"", 5000)),
        ("kv", "put", _kv_put("é/c", b"\xff\x00", 60_000)),
        ("kv", "put", _kv_put("gone")),
        ("kv", "delete", {"key": "gone", "if_revision": None, "fence": None}),
        (
            "kv",
            "txn",
            {"compare": [], "then": [_KV_PUT, {"op": "delete", "key": "b"}], "otherwise": [], "fence": None},
        ),
        _member("n1"),
        _announced("n1"),
        *_given(K1, "n1"),
        ("kv", "put_sealed", _kv_sealed("s")),
        ("kv", "put_sealed", _kv_sealed("s", 2, 60_000)),
        ("kv", "txn_sealed", {**_KV_TXN, "blobs": [_kv_blob(3, size=0)]}),
        *_given(K2, "n1"),
    ),
    good={
        "put": {**_kv_put("a"), "fence": {"name": "l", "token": 1}},
        "delete": {"key": "a", "if_revision": None, "fence": None},
        "delete_prefix": {"prefix": "a"},
        "txn": {"compare": [_KV_COMPARE], "then": [_KV_PUT], "otherwise": [], "fence": None},
        "keep": {"key": "é/c", "created_revision": None, "ttl_ms": 61_000},
        "expire": {"most": 500},
        "put_clear": _kv_put("s"),
        "put_sealed": _kv_sealed("s"),
        "txn_sealed": {**_KV_TXN, "blobs": [_kv_blob(4)]},
        "reseal": {"values": [_KV_RESEAL]},
    },
    wrong={
        ("put_sealed", "key"): _NO_KEYS,
        ("put_sealed", "blob"): _NO_BLOBS,
        ("put_sealed", "digest"): _NO_DIGESTS,
        ("put_sealed", "fence"): _NO_FENCES,
        ("put_clear", "value"): _NO_VALUES,
        ("txn_sealed", "blobs"): [
            *([wrong] for wrong in _NO_BLOBS),
            [],
            [_kv_blob(4)] * 2,
            [_kv_blob(4)] * 129,
            [_kv_blob(4, key_id="fc0000ff")],
            None,
        ],
        ("txn_sealed", "then"): [
            *_NO_BRANCHES,
            [_KV_PUT],
            *([{**_KV_PUT_SEALED, "digest": wrong}] for wrong in _NO_DIGESTS),
            [{**_KV_PUT_SEALED, "value": "dg=="}],
        ],
        ("reseal", "values"): [
            [],
            {},
            [_KV_RESEAL] * 2,
            [{**_KV_RESEAL, "revision": number} for number in range(1, 52)],
            [{**_KV_RESEAL, "revision": 0}],
            [{**_KV_RESEAL, "revision": True}],
            [{**_KV_RESEAL, "name": "s"}],
            [{**_KV_RESEAL, "name": "/w=="}],
            [{**_KV_RESEAL, "name": ""}],
            [{**_KV_RESEAL, "blob": _kv_blob(9, key_id="fc0000ff")}],
            *([{**_KV_RESEAL, "blob": wrong}] for wrong in _NO_BLOBS),
            [5],
        ],
        ("put", "key"): _NO_KEYS,
        ("put", "value"): _NO_VALUES,
        ("put", "if_revision"): [-1, 2**63, True, "1"],
        ("put", "ttl_ms"): _NO_KV_TTLS,
        ("put", "fence"): _NO_FENCES,
        ("delete", "key"): _NO_KEYS,
        ("delete", "if_revision"): [-1, 2**63, True, "1"],
        ("delete", "fence"): _NO_FENCES,
        ("delete_prefix", "prefix"): ["a\n", 5, None, "x" * 513],
        ("txn", "compare"): [
            {},
            [{**_KV_COMPARE, "key": ""}],
            [{**_KV_COMPARE, "target": "age"}],
            [{**_KV_COMPARE, "target": ["version"]}],
            [{**_KV_COMPARE, "op": "=="}],
            [{**_KV_COMPARE, "value": -1}],
            [{**_KV_COMPARE, "value": True}],
            [{**_KV_COMPARE, "target": "exists", "op": "=", "value": 1}],
            [{**_KV_COMPARE, "target": "exists", "op": "!=", "value": True}],
            [{**_KV_COMPARE, "target": "value", "op": "<", "value": "dg=="}],
            [{**_KV_COMPARE, "target": "value", "op": "=", "value": "v"}],
            [{"key": "a"}],
        ],
        ("txn", "then"): [*_NO_BRANCHES, [_KV_PUT_SEALED]],
        ("txn", "otherwise"): _NO_BRANCHES,
        ("txn", "fence"): _NO_FENCES,
        ("keep", "key"): _NO_KEYS,
        ("keep", "created_revision"): [-1, 2**63, True, "1"],
        ("keep", "ttl_ms"): [*_NO_KV_TTLS, None],
        ("expire", "most"): [0, 501, True, None],
    },
    damage=(
        lambda s: s["entries"].clear(),
        lambda s: s["changes"].append(None),
        lambda s: s.update(revision=0),
        lambda s: s.update(first_revision=99),
        lambda s: s.pop("first_revision"),
        lambda s: s["entries"].insert(0, ["", *s["entries"][0][1:]]),
        lambda s: s["entries"].append(["z"]),
        lambda s: s["entries"].append(None),
        lambda s: s["entries"].reverse(),
        lambda s: s["entries"].remove(_row(s, "a")),
        lambda s: _row(s, "a").pop(),
        lambda s: _row(s, "a").__setitem__(1, "dg="),
        lambda s: _row(s, "a").__setitem__(2, 99),
        lambda s: _row(s, "a").__setitem__(3, 0),
        lambda s: _row(s, "a").__setitem__(3, 9),
        lambda s: _row(s, "a").__setitem__(4, 0),
        lambda s: _row(s, "a").__setitem__(5, 5000),
        lambda s: _row(s, "a").__setitem__(6, 5000),
        lambda s: _row(s, "a").__setitem__(4, True),
        lambda s: _row(s, "é/c").__setitem__(6, 2**53 + 1),
        lambda s: _row(s, "s").__setitem__(1, "dg=="),
        lambda s: _row(s, "s").__setitem__(7, 1),
        lambda s: _row(s, "s").__setitem__(7, False),
        lambda s: _row(s, "s").append(True),
        lambda s: _row(s, "a").append(True),
        lambda s: s["changes"].reverse(),
        lambda s: s["changes"][0].__setitem__(0, 0),
        lambda s: s["changes"][0].__setitem__(1, "get"),
        lambda s: s["changes"][0].__setitem__(1, "delete"),
        lambda s: s["changes"][0].__setitem__(2, ""),
        lambda s: s["changes"][0].pop(),
        lambda s: s["changes"][1].__setitem__(3, None) or s["changes"][1].__setitem__(1, "delete"),
        lambda s: s["changes"][1][3].__setitem__(1, 2),
    ),
)


# -- sessions -----------------------------------------------------------------------------------

SID, OTHER_SID = "A" * 22, "B" * 21 + "A"
_UNTIL = NOW + 1000
_sessions = Case(
    history=(
        (
            "sessions",
            "advance",
            {"sid": SID, "gen": 2, "sub": "bob", "iat_unix_s": 5, "until_unix_ms": _UNTIL},
        ),
        ("sessions", "revoke_sid", {"sid": OTHER_SID, "until_unix_ms": _UNTIL}),
        ("sessions", "revoke_sub", {"sub": "ann", "issued_before_unix_s": 50, "until_unix_ms": _UNTIL}),
    ),
    good={
        "advance": {"sid": SID, "gen": 3, "sub": "bob", "iat_unix_s": 5, "until_unix_ms": NOW + 5},
        "advance_to": {
            **{"sid": SID, "gen": 3, "sub": "bob", "iat_unix_s": 5, "until_unix_ms": NOW + 5},
            "change": DIGEST,
        },
        "revoke_sid": {"sid": SID, "until_unix_ms": NOW + 5},
        "revoke_sub": {"sub": "ann", "issued_before_unix_s": 5, "until_unix_ms": NOW + 5},
    },
    wrong={
        ("advance", "gen"): [0, -1, 2**53, True, "1", None],
        ("advance_to", "change"): ["", "A" * 64, "a" * 63, None],
        ("advance", "until_unix_ms"): [None],
        ("advance", "iat_unix_s"): [-1, None],
        ("revoke_sid", "sid"): ["", "A" * 21, "A" * 23, "A" * 21 + "B", "A" * 21 + "=", "é" * 22, 5],
        ("revoke_sid", "until_unix_ms"): [-1, 2**63, True, "5"],
        ("revoke_sub", "sub"): ["", "a" * 257, "é" * 129, "a\n", "\x7f", "\0", "\ud800", 5, None],
        ("revoke_sub", "issued_before_unix_s"): [-1, 2**53, False, "5"],
    },
    damage=(
        lambda t: t.update(more={}),
        lambda t: t["subs"].append(None),
        lambda t: t["sids"][0].pop(),
        lambda t: t["sids"][0].append(5),
        lambda t: t["sids"][0].__setitem__(2, None),
        lambda t: t["sids"][0].__setitem__(3, "5"),
        lambda t: t["subs"][0].__setitem__(3, -1),
        lambda t: t["sids"].reverse(),
        lambda t: t["sids"][1].__setitem__(0, SID),
        lambda t: t["sids"][1].__setitem__(0, "C"),
        lambda t: t["sids"][1].__setitem__(0, None),
        lambda t: t["sids"][0].__setitem__(1, 0),
        lambda t: t["sids"][0].__setitem__(1, 2**53 + 1),
        lambda t: t["sids"][0].__setitem__(1, True),
        lambda t: t["subs"][0].__setitem__(0, ""),
        lambda t: t["subs"][0].__setitem__(2, -1),
        lambda t: t["subs"][0].__setitem__(2, "5"),
    ),
)


# -- credentials --------------------------------------------------------------------------------

FAR = 2**52
_CREATE: Json = {
    "name": "ann",
    "role": "operator",
    "key_hash": f"{1:064x}",
    "ttl_ms": 100,
    "latest_unix_ms": FAR,
    "created_by": "unix socket",
}
_credentials = Case(
    history=(
        ("credentials", "create", _CREATE),
        ("credentials", "create", {**_CREATE, "name": "bob", "key_hash": f"{2:064x}", "role": "viewer"}),
        ("credentials", "revoke", {"name": "bob"}),
    ),
    good={
        "create": {**_CREATE, "name": "eve", "key_hash": f"{3:064x}"},
        "renew": {
            "name": "ann",
            "from_key_hash": None,
            "key_hash": f"{4:064x}",
            "ttl_ms": None,
            "latest_unix_ms": FAR,
        },
        "revoke": {"name": "ann"},
        "bootstrap": {"name": "root", "key_hash": f"{5:064x}", "expires_unix_ms": FAR},
    },
    wrong={
        ("create", "name"): ["Ann", None],
        ("create", "role"): ["node", None, ["viewer"]],
        ("create", "key_hash"): ["A" * 64, None],
        ("create", "ttl_ms"): [0, MAX_LIFETIME_MS + 1, None],
        ("create", "latest_unix_ms"): [True, -1],
        ("create", "created_by"): ["\n", "é", "x" * 129, None],
        ("renew", "from_key_hash"): ["A" * 64, 5],
        ("revoke", "name"): ["Ann", 5],
        ("bootstrap", "expires_unix_ms"): [-1, None],
    },
    damage=(
        lambda s: s.update(had_operator=False),
        lambda s: s.update(had_operator=1),
        lambda s: s.update(entries=[]),
        lambda s: s.update(entries={"x": {}}),
        lambda s: s.update(more=1),
        lambda s: s["entries"][f"{1:064x}"].update(role="node"),
        lambda s: s["entries"][f"{1:064x}"].pop("name"),
    ),
)


# -- authorities --------------------------------------------------------------------------------


def _pem(letter: str) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{letter * 64}\n-----END CERTIFICATE-----\n"


OLD_CA, NEW_CA = _pem("A"), _pem("B")
SEALED, VOUCHER = "c2VhbGVk", "c2lnbmVk"
NEW_SHA256 = sha256(base64.b64decode("B" * 64)).hexdigest()
_BEGIN: Json = {
    "ca_pem": NEW_CA,
    "old_ca_pem": OLD_CA,
    "voucher": VOUCHER,
    "keys": {"n1": SEALED},
    "overlap_ms": 100,
}
_OF_NEW: Json = {"sha256": NEW_SHA256}
_authorities = Case(
    history=(
        *(_member(name) for name in ("n1", "n2")),
        _member("l1", "learner"),
        ("authorities", "set_certificate_days", {"days": 30}),
        ("authorities", "exempt", {"name": "l1"}),
        ("authorities", "begin", _BEGIN),
        ("authorities", "confirm", {"name": "n1", **_OF_NEW}),
    ),
    good={
        "set_certificate_days": {"days": 90},
        "begin": _BEGIN,
        "exchange": _BEGIN,
        "wrap": {**_OF_NEW, "keys": {"n2": SEALED}},
        "confirm": {"name": "n1", **_OF_NEW},
        "advance": _OF_NEW,
        "reissued": {"name": "n1", **_OF_NEW},
        "finish": _OF_NEW,
        "abandon": _OF_NEW,
        "exempt": {"name": "l1"},
    },
    wrong={
        ("set_certificate_days", "days"): [0, 826, True, None],
        ("begin", "ca_pem"): ["", PEM[:-1], NEW_CA * 2, None],
        ("begin", "voucher"): ["", "?", None],
        ("begin", "overlap_ms"): [-1, 367 * 86_400_000, None],
        ("advance", "sha256"): ["B" * 64, None],
        ("wrap", "keys"): [{"N": SEALED}, {"n": "?"}, [], None],
        ("exempt", "name"): [1, "L1"],
    },
    damage=(
        lambda s: s.update(other=1),
        lambda s: s.update(covered=[]),
        lambda s: s.update(exempt=["b", "a"]),
        lambda s: s.update(demoted=["b", "a"]),
        lambda s: s.update(demoted=[]),
        lambda s: s.update(current=OLD_CA),
        lambda s: s.update(finished_unix_ms=1),
        lambda s: s.update(rotation={}),
        lambda s: s.update(certificate_days=0),
        lambda s: s["rotation"].update(reissued=["n1"]),
        lambda s: s["rotation"].update(issuing=True),
    ),
)


# -- rendezvous ---------------------------------------------------------------------------------

_STATES = ("pending", "claimed", "approved", "denied", "consumed", "cancelled")
ID, OTHER = "1" * 32, "2" * 32
IDS = {state: f"{number:032x}" for number, state in enumerate(_STATES, start=0x10)}
CODE, WRONG = "a" * 64, "f" * 64
MINE, THEIRS = "c" * 64, "d" * 64
CALLER = "8" * 64
TTL = 60_000
_STEP: Json = {"id": ID, "expected": None}
_START: Json = {
    "ttl_ms": TTL,
    "kind": "approval",
    "node": "n1",
    "initiator": "alice@example.com",
    "origin": "192.0.2.1",
    "data": {"reason": "deploy"},
    "initiator_public_key": None,
}
_BY: Json = {"by": "bob"}
_APPROVE: Json = {**_BY, "answer": {"group": "ops"}, "sealed_result": None}
_AS: Json = {"actors": [MINE], "claims": {}}


_DAMAGED_RECORDS: list[tuple[str, Json]] = [
    ("pending", {"claimed_by": "bob"}),
    ("pending", {"user_code_sha256": None}),
    ("pending", {"answer": {}}),
    ("pending", {"failed_attempts": 5}),
    ("pending", {"failed_attempts": 6}),
    ("pending", {"expires_unix_ms": NOW}),
    ("pending", {"changed_unix_ms": NOW - 1}),
    ("pending", {"changed_unix_ms": NOW + TTL}),
    ("pending", {"created_unix_ms": -1}),
    ("pending", {"created_unix_ms": 1.5}),
    ("pending", {"initiator_public_key": KEY}),
    ("pending", {"state": "melted"}),
    ("pending", {"state": ["pending"]}),
    ("pending", {"data": {"k": 1}}),
    ("pending", {"redemption_sha256": MINE}),
    ("pending", {"extra": 1}),
    ("claimed", {"claimed_by": None}),
    ("approved", {"answer": None}),
    ("approved", {"answer": None, "sealed_result": SEALED}),
    ("approved", {"sealed_result": SEALED}),
    ("consumed", {"redemption_sha256": None}),
    ("consumed", {"sealed_result": SEALED}),
    ("denied", {"user_code_sha256": CODE}),
    ("denied", {"data": {"k": "v"}}),
    ("denied", {"origin": "here"}),
    ("denied", {"answer": {}}),
    ("cancelled", {"state": "expired"}),
]


def _started(state: str, *steps: tuple[str, Json]) -> tuple[tuple[str, str, Json], ...]:
    """A record that is left in a state."""
    id = IDS[state]
    return (
        ("rendezvous", "start", {**_START, "id": id, "user_code_sha256": id * 2}),
        *(("rendezvous", operation, {"id": id, "expected": None, **more}) for operation, more in steps),
    )


_rendezvous = Case(
    history=(
        (
            "rendezvous",
            "begin",
            {**_START, "id": ID, "user_code_sha256": CODE, "begun_by": [MINE], "kind": "mfa"},
        ),
        *_started("pending"),
        *_started("claimed", ("claim", _BY)),
        *_started("approved", ("approve", _APPROVE)),
        *_started("denied", ("deny", _BY)),
        *_started("consumed", ("approve", _APPROVE), ("consume", {"redemption_sha256": MINE})),
        *_started("cancelled", ("cancel", {})),
        ("rendezvous", "attempt", {"id": None, "user_code_sha256": WRONG, "caller_sha256": CALLER}),
        (
            "rendezvous",
            "try_code",
            {"id": None, "user_code_sha256": WRONG, "counted": [["person", MINE]]},
        ),
        ("rendezvous", "set_policy", {"kind": "mfa", "require": {"mfa": True}, "allow_self": False}),
    ),
    good={
        "start": {**_START, "id": OTHER, "user_code_sha256": "b" * 64},
        "begin": {**_START, "id": OTHER, "user_code_sha256": "b" * 64, "begun_by": [MINE]},
        "try_code": {"id": None, "user_code_sha256": CODE, "counted": [["person", THEIRS]]},
        "claim_as": {**_STEP, **_BY, **_AS},
        "approve_as": {**_STEP, **_APPROVE, **_AS},
        "set_policy": {"kind": "mfa", "require": {}, "allow_self": True},
        "attempt": {"id": None, "user_code_sha256": CODE, "caller_sha256": CALLER},
        "claim": {**_STEP, **_BY},
        "approve": {**_STEP, **_APPROVE},
        "deny": {**_STEP, **_BY},
        "cancel": _STEP,
        "consume": {**_STEP, "redemption_sha256": MINE},
    },
    wrong={
        ("start", "id"): ["1" * 31, "A" * 32, None],
        ("start", "user_code_sha256"): ["WDJB-MJHT"],
        ("start", "ttl_ms"): [9_999, MAX_TTL_MS + 1, True],
        ("start", "kind"): ["Kind", ""],
        ("start", "node"): ["n 1"],
        ("start", "initiator"): ["", "a" * 257, "a\nb", "a\u202eb", None],
        ("start", "origin"): ["", 5],
        ("start", "data"): [
            None,
            [],
            {"K": "v"},
            {"": "v"},
            {"k" * 65: "v"},
            {"k": 1},
            {"k": "\ud800"},
            {"k": "a\x1b[2J"},
            {"k": "é" * 513},
            {f"k{n}": "" for n in range(17)},
            {f"k{n}": "x" * 1024 for n in range(8)},
        ],
        ("start", "initiator_public_key"): ["", "A" * 44, "A" * 42 + "B="],
        ("claim", "expected"): ["done"],
        ("claim", "by"): [""],
        ("claim", "id"): [WRONG],
        ("deny", "by"): [None],
        ("consume", "redemption_sha256"): [None],
        ("approve", "answer"): [{"A": "b"}],
        ("approve", "sealed_result"): ["c2VhbGVk\n", "", "é", "AAAA" * 2049],
        ("begin", "begun_by"): [None, ["x"], [THEIRS, MINE], [MINE] * 2, [f"{n:064x}" for n in range(5)]],
        ("try_code", "counted"): [
            None,
            [],
            [["person"]],
            [["person", MINE, 1]],
            [["street", MINE]],
            [[["person"], MINE]],
            [["person", "x"]],
            [["person", MINE], ["person", THEIRS]],
            {"person": MINE},
        ],
        ("set_policy", "require"): [
            [],
            {"": True},
            {"a\nb": 1},
            {"a": None},
            {"a": []},
            {"a": "x" * 257},
            {"a": 2**53 + 1},
            {f"k{n}": 1 for n in range(MAX_REQUIRED + 1)},
        ],
    },
    damage=(
        lambda s: s.update(tries={}),
        lambda s: s.update(policies={}),
        lambda s: s["tries"].update(person=[]),
        lambda s: s["tries"].update(street=s["tries"]["person"]),
        lambda s: s["tries"]["person"].append([MINE, 1, 2_000_000]),
        lambda s: s["tries"]["person"].append([THEIRS, 1, 1]),
        lambda s: s["tries"]["person"].append([THEIRS, 11, 2_000_000]),
        lambda s: s["tries"]["person"].append([THEIRS, 0, 2_000_000]),
        lambda s: s["tries"]["person"].append([THEIRS, True, 2_000_000]),
        lambda s: s["tries"]["person"].append([THEIRS, 1]),
        lambda s: s["policies"].update(mfa={"require": {}, "allow_self": False}),
        lambda s: s["policies"]["mfa"].update(more=1),
        lambda s: s["records"][ID].update(begun_by=[]),
        lambda s: s["records"][ID].update(begun_by=[THEIRS, MINE]),
        lambda s: s["records"][ID].update(begun_by=["x"]),
        lambda s: s["records"][ID].update(begun_by=[f"{n:064x}" for n in range(5)]),
        lambda s: s.pop("misses"),
        lambda s: s.update(extra={}),
        lambda s: s.update(records=[]),
        lambda s: s["records"].update({OTHER: s["records"][ID]}),  # the code of two live records
        lambda s: s["records"].update(x=s["records"].pop(ID)),
        lambda s: s["records"].update({ID: None}),
        lambda s: s["records"][ID].pop("kind"),
        lambda s: s["misses"].update({CALLER: [11, 0]}),
        lambda s: s["misses"].update({CALLER: [0, 0]}),
        lambda s: s["misses"].update({CALLER: [1]}),
        lambda s: s["misses"].update({CALLER: 1}),
        lambda s: s["misses"].update(x=[1, 0]),
        lambda s: s["misses"].update({f"{n:064x}": [1, 0] for n in range(MAX_CALLERS)}),
        *(
            lambda s, state=state, change=change: s["records"][IDS[state]].update(change)
            for state, change in _DAMAGED_RECORDS
        ),
    ),
)


# -- the clock ----------------------------------------------------------------------------------

_clock = Case(
    history=(("clock", "set", {"to_unix_ms": NOW, "epoch": 0, "by": "admin"}),),
    good={"set": {"to_unix_ms": NOW + 5, "epoch": 1, "by": "admin"}},
    wrong={
        ("set", "to_unix_ms"): [-1, 2**53 + 1, None, True],
        ("set", "epoch"): [-1, None, "1"],
        ("set", "by"): ["a b", "é", "x" * 81, None],
    },
    damage=(
        lambda s: s.update(epoch=-1),
        lambda s: s.update(time_unix_ms=None),
        lambda s: s.pop("steady_ms"),
        lambda s: s.update(history={}),
        lambda s: s.update(history=[[1, 2, 3]]),
        lambda s: s.update(history=[[1, 2, 3, 4, "a b"]]),
        lambda s: s.update(history=s["history"] * 101),
    ),
)

# -- the history ---------------------------------------------------------------------------------

_BREAK: dict[str, Any] = {"kind": "recovered", "by": "n1", "lost": ["n2", "n3"], "cluster_id": "0" * 32}

_history = Case(
    history=(("history", "replace", {**_BREAK, "epoch": 1}),),
    good={"replace": {**_BREAK, "epoch": 2, "kind": "restored"}},
    wrong={
        ("replace", "kind"): ["", "upgraded", None],
        ("replace", "epoch"): [0, -1, None, "1"],
        ("replace", "by"): ["", "N 1", None],
        ("replace", "lost"): [None, "n2", ["n3", "n2"], ["n2", "n2"], [1]],
        ("replace", "cluster_id"): ["", "x", "0" * 33, None],
    },
    damage=(
        lambda s: s.update(breaks=None),
        lambda s: s.update(breaks=[[1, 2]]),
        lambda s: s.update(breaks=s["breaks"] * 2),
        lambda s: s.update(breaks=s["breaks"] * 101),
        lambda s: s["breaks"][0].__setitem__(0, 0),
        lambda s: s["breaks"][0].__setitem__(1, "lost"),
        lambda s: s["breaks"][0].__setitem__(5, ["n3", "n2"]),
        lambda s: s["breaks"][0].__setitem__(6, 1),
        lambda s: s.update(more=1),
    ),
)

# -- levels -------------------------------------------------------------------------------------

_levels = Case(
    history=(
        _member("n1"),
        _member("n2"),
        ("levels", "announce", {"name": "n1", "level": 3}),
        ("levels", "announce", {"name": "n2", "level": 2}),
    ),
    good={"announce": {"name": "n1", "level": 1}, "raise": {"to": 1, "release": "0.3.0"}},
    wrong={
        ("announce", "name"): ["", "N 1", None],
        ("announce", "level"): [0, -1, None, "2", True, 1_000_001],
        ("raise", "to"): [0, None, "2", 1_000_001],
        ("raise", "release"): ["", "0 3", "x" * 41, None, 3],
    },
    damage=(
        lambda s: s.update(level=0),
        lambda s: s.update(level=True),
        lambda s: s.update(release="0.3.0"),
        lambda s: s.update(release=None),
        lambda s: s.update(understood=[]),
        lambda s: s["understood"].update(n1=1),
        lambda s: s["understood"].update({"N 1": 2}),
        lambda s: s.update(more=1),
    ),
)

# -- answers ------------------------------------------------------------------------------------

_answers = Case(
    history=(),
    good={"keep": {"operation": "member_remove", "about": {"name": "n1"}, "answer": {"removed": True}}},
    wrong={
        ("keep", "operation"): ["", "A", "a b", "x" * 65, None],
        ("keep", "about"): [None, [], "x", {"x": "y" * 4096}],
        ("keep", "answer"): [None, [], "x", {"x": "y" * 4096}],
    },
    damage=(lambda s: s.update(x=1),),
)


# -- machines of users --------------------------------------------------------------------------

_TRY = ["try", 1, DIGEST]  # see tests/support/own_machine.py

_machines = Case(
    history=(
        _member("n1"),
        ("machines", "announce", {"name": "n1", "machines": [_TRY, ["try", 2, OTHER_DIGEST]]}),
        ("machines", "register", {"machine": "try", "version": 1, "digest": DIGEST}),
        *(
            (
                "machines",
                "apply",
                {"machine": "try", "operation": "put", "arguments": {"key": key}},
            )
            for key in ("b", "a")
        ),
    ),
    good={
        "announce": {"name": "n1", "machines": [_TRY]},
        "register": {"machine": "try", "version": 2, "digest": OTHER_DIGEST},
        "apply": {"machine": "try", "operation": "put", "arguments": {"key": "c", "value": [None, "x"]}},
    },
    wrong={
        ("announce", "name"): ["", "N1", None],
        ("announce", "machines"): [
            *(None, {}, [None], [_TRY, _TRY], [["try", 2, DIGEST], _TRY], [["Try", 1, DIGEST]]),
            *([["try", 0, DIGEST]], [["try", True, DIGEST]], [["try", 1, "a"]], [_TRY[:2]]),
            [[f"m{number:03}", 1, DIGEST] for number in range(129)],
        ],
        ("register", "machine"): ["", "é", None, 1],
        ("register", "version"): [0, 1_000_001, True, None],
        ("register", "digest"): ["", "A" * 64, None],
        ("apply", "machine"): ["", "A", None],
        ("apply", "operation"): ["", "_x", "A", "x" * 64, None],
        ("apply", "arguments"): [None, [], "x", {"a": "x" * 300_000}],
    },
    damage=(
        lambda s: s.update(more=1),
        lambda s: s["register"].clear(),
        lambda s: s["register"].update(x=[1]),
        lambda s: s["register"].update({"X": [1, DIGEST]}),
        lambda s: s["announced"].update(n1=[]),
        lambda s: s["announced"].update(n1=[["try", 0, DIGEST]]),
        lambda s: s["rows"].reverse(),
        lambda s: s["rows"].append(["other", "a", "1"]),
        lambda s: s["rows"].append(["try", "z", 1]),
        lambda s: s["rows"].append(["try", "z", "1.5"]),
        lambda s: s["rows"].append(["try", "z" * 513, "1"]),
        lambda s: s["rows"].append(["try", "", "1"]),
        lambda s: s["rows"].append(s["rows"][-1]),
        lambda s: s["rows"].append(None),
    ),
)

# -- audit --------------------------------------------------------------------------------------

_audit = Case(
    history=tuple(("audit", "note", {"key_id": f"fc0a1b2{number}"}) for number in range(3)),
    good={"acknowledge": {"chain": "trust", "through": 2, "hash": "0" * 64}},
    wrong={
        ("acknowledge", "chain"): ["", "Trust", "both", None, 1],
        ("acknowledge", "through"): [0, -1, 2**53 + 1, True, "1", None],
        ("acknowledge", "hash"): ["", "0" * 63, "0" * 65, "A" * 64, None, 0],
    },
    damage=(
        lambda s: s.update(more={}),
        lambda s: s.pop("data"),
        _set("trust/last", 2),
        _set("trust/last", 4),
        _set("trust/head", "0" * 64),
        _set("trust/cut_through", 1),
        _set("trust/cut_hash", "1" * 64),
        _set("trust/cut_hash", "x"),
        _set("trust/exported_through", 4),
        _set("trust/exported_through", -1),
        _set("data/last", 1),
        lambda s: s["trust_lines"].reverse(),
        lambda s: s["trust_lines"].pop(),
        lambda s: s["trust_lines"].append(None),
        lambda s: s["trust_lines"][0].pop(),
        lambda s: s["trust_lines"][0].__setitem__(10, "another subject"),
        lambda s: s["trust_lines"][0].__setitem__(10, 1),
        lambda s: s["trust_lines"][0].__setitem__(0, "x" * 1000),
        lambda s: s["trust_lines"][0].__setitem__(7, -1),
        lambda s: s["trust_lines"][0].__setitem__(7, True),
        lambda s: s["data_lines"].append(s["trust_lines"].pop()),
    ),
)

CASES: dict[str, Case] = {
    "audit": _audit,
    "answers": _answers,
    "authorities": _authorities,
    "clock": _clock,
    "counter": _counter,
    "credentials": _credentials,
    "history": _history,
    "keys": _keys,
    "kv": _kv,
    "levels": _levels,
    "lock": _locks,
    "machines": _machines,
    "members": _members,
    "presence": _presence,
    "rendezvous": _rendezvous,
    "sessions": _sessions,
}
