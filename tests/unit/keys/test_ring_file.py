"""Keys sealed to nodes, rings in files: what opens, what does not, and with which error."""

from __future__ import annotations

import base64
import itertools
import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from cyoloctl.errors import AccessDenied, ConfigError, CyoloctlError, InvalidInput, VersionMismatch
from cyoloctl.keys import ring_file
from cyoloctl.keys.keyring import Key, Keyring, KeyState
from cyoloctl.keys.ring_file import Ring, RingKey
from cyoloctl.keys.wrapping import (
    NodeIdentity,
    decode_identity,
    encode_identity,
    sign_sealing_key,
    unwrap,
    verify_sealing_key,
    wrap,
)
from cyoloctl.model import NodeName
from cyoloctl.pki.ca import create_ca, issue_certificate
from cyoloctl.pki.identity import AccessRole, Identity, parse_cluster_id
from cyoloctl.pki.requests import make_request
from cyoloctl.pki.seal import open_sealed
from cyoloctl.pki.statements import sign_statement, verify_statement
from cyoloctl.pki.x509 import certificate_sha256
from cyoloctl.state import ClusterState
from cyoloctl.text import pre_auth_encoding
from cyoloctl.tokens.format import new_session, open_token, seal
from tests.support.old_commands import encode_command
from tests.support.results import decode_result

NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)
NOW_MS = int(NOW.timestamp()) * 1000
ID, OTHER_ID = "c" * 32, "d" * 32
PASSPHRASE = "correct horse battery"


@dataclass(frozen=True)
class Cluster:
    id: str
    ca: str
    ca_key: str


@dataclass(frozen=True)
class Node:
    """A node with its private keys, and what it shows."""

    identity: NodeIdentity
    key_pem: str
    sealing_pem: str

    @property
    def name(self) -> str:
        return self.identity.name


def new_cluster(cluster_id: str) -> Cluster:
    return Cluster(cluster_id, *create_ca(cluster_id, "demo", NOW))


def new_node(cluster: Cluster, name: str, *, role: AccessRole = "node", now: datetime = NOW) -> Node:
    request = make_request(name)
    identity = Identity(NodeName(name), role, parse_cluster_id(cluster.id))
    certificate = issue_certificate(
        cluster.ca, cluster.ca_key, request.request_pem, identity, now=now, days=30
    )
    signature = sign_sealing_key(
        cluster_id=cluster.id,
        name=name,
        sealing_key=request.sealing_key,
        node_key_pem=request.node_key_pem,
    )
    shown = NodeIdentity(name, cluster.id, certificate, request.sealing_key, signature, cluster.ca)
    return Node(shown, request.node_key_pem, request.sealing_key_pem)


OURS, THEIRS = new_cluster(ID), new_cluster(OTHER_ID)
N1, N2 = new_node(OURS, "n1"), new_node(OURS, "n2")
FAR = new_node(THEIRS, "n1")
KEY = Key(b"\xfc\x00\x00\x01", bytes(range(32)), KeyState.PRIMARY, ID)


def ring(cluster_id: str = ID) -> Ring:
    old = Key(b"\xfc\x00\x00\x02", b"o" * 32, KeyState.DISABLED, OTHER_ID)
    return Ring(
        cluster_id,
        604_800,
        (RingKey(replace(KEY, cluster_id=cluster_id), 5), RingKey(old, 6, 1000, 2000)),
    )


# -- one key ------------------------------------------------------------------------------------


def unwrapped(blob: str, **other: Any) -> Key:
    known = {
        "key_id": KEY.key_id_hex,
        "cluster_id": KEY.cluster_id,
        "node": "n1",
        "sealing_key_pem": N1.sealing_pem,
        "state": "primary",
        "fingerprint": KEY.fingerprint,
    }
    return unwrap(blob, **{**known, **other})


def test_wrap_then_unwrap_is_the_key_in_80_bytes_that_differ_each_time() -> None:
    blobs = [wrap(KEY, node="n1", sealing_key=N1.identity.sealing_key) for _ in range(2)]
    assert blobs[0] != blobs[1]
    assert {len(base64.b64decode(blob)) for blob in blobs} == {80}
    assert unwrapped(blobs[0]) == KEY
    assert unwrapped(blobs[1], state="disabled").state is KeyState.DISABLED


def test_wrap_is_hpke_with_the_documented_info() -> None:
    blob = wrap(KEY, node="n1", sealing_key=N1.identity.sealing_key)
    info = pre_auth_encoding(b"cyoloctl key v1", ID.encode(), b"\xfc\x00\x00\x01", b"n1")
    assert open_sealed(N1.sealing_pem, blob, info) == bytes(range(32))


@pytest.mark.parametrize(
    "other",
    [
        {"key_id": "fc000002"},
        {"key_id": "fd000001"},
        {"key_id": "fc"},
        {"key_id": "key"},
        {"key_id": "FC000001"},
        {"key_id": "fc 000001"},
        {"cluster_id": OTHER_ID},
        {"node": "n2"},
        {"sealing_key_pem": N2.sealing_pem},
        {"state": "destroyed"},
        {"state": "lost"},
        {"fingerprint": "0" * 32},
        {"fingerprint": ""},
    ],
    # Cut before the key, which differs from process to process: test workers compare these names.
    ids=lambda other: str(other)[:40],
)
def test_unwrap_of_anything_else_is_one_error_without_the_key(other: dict[str, Any]) -> None:
    blob = wrap(KEY, node="n1", sealing_key=N1.identity.sealing_key)
    with pytest.raises(InvalidInput, match=r"cannot be opened here: .* \(key rewrap\)") as caught:
        unwrapped(blob, **other)
    assert caught.value.__context__ is None


def test_unwrap_of_every_changed_bit_and_of_any_text_is_the_one_error() -> None:
    good = base64.b64decode(wrap(KEY, node="n1", sealing_key=N1.identity.sealing_key))
    rng = random.Random(1)
    flipped = [
        base64.b64encode(good[: bit // 8] + bytes([good[bit // 8] ^ 1 << bit % 8]) + good[bit // 8 + 1 :])
        for bit in range(8 * len(good))
    ]
    cut = [base64.b64encode(good[:length]) for length in range(len(good))]
    noise = [rng.randbytes(rng.randrange(200)) for _ in range(200)]
    texts = ["", "é", "\ud800", "=" * 108, base64.b64encode(good).decode() + "\n"]
    for blob in [*(data.decode("latin-1") for data in flipped + cut + noise), *texts]:
        with pytest.raises(InvalidInput, match="cannot be opened here"):
            unwrapped(blob)


def test_unwrap_with_a_broken_private_key_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError):
        unwrapped("", sealing_key_pem=N1.key_pem)


def test_wrap_to_a_point_of_low_order_is_invalid_input() -> None:
    with pytest.raises(InvalidInput):
        wrap(KEY, node="n1", sealing_key=base64.b64encode(bytes(32)).decode())


# -- whose sealing key it is --------------------------------------------------------------------


def verify(identity: NodeIdentity, *, now: datetime = NOW, **other: Any) -> None:
    verify_sealing_key(now=now, **{name: getattr(identity, name) for name in FIELDS} | other)


FIELDS = ("cluster_id", "name", "sealing_key", "certificate_pem", "signature", "ca_pem")


def test_verify_sealing_key_of_a_node_is_silent() -> None:
    verify(N1.identity)
    verify(N1.identity, now=NOW + timedelta(days=29))


def liar(**other: Any) -> Callable[[], None]:
    return lambda: verify(N1.identity, **other)


@pytest.mark.parametrize(
    ("attempt", "why"),
    [
        (liar(sealing_key=N2.identity.sealing_key), "signature is wrong"),
        (liar(signature=N2.identity.signature), "signature is wrong"),
        (liar(signature=""), "signature is wrong"),
        (liar(signature="é"), "signature is wrong"),
        (liar(signature=N1.identity.signature + "\n"), "signature is wrong"),
        (liar(certificate_pem=N2.identity.certificate_pem), "another name"),
        (liar(name="n2"), "another name"),
        (liar(name="N1"), "not valid"),
        (liar(cluster_id=OTHER_ID), "another name or cluster"),
        (liar(ca_pem=THEIRS.ca), "another CA"),
        (liar(ca_pem=N1.identity.certificate_pem), "another CA"),
        (liar(ca_pem=""), "not a certificate"),
        (liar(certificate_pem=OURS.ca), "no purpose or no name"),
        (liar(certificate_pem="x"), "not a certificate"),
        (liar(now=NOW + timedelta(days=31)), "ended at"),
        (liar(now=NOW + timedelta(days=4000)), "ended at"),
        (lambda: verify(new_node(OURS, "n1", role="operator").identity), "another name"),
        (lambda: verify(new_node(new_cluster(ID), "n1").identity, ca_pem=OURS.ca), "another CA"),
    ],
)
def test_verify_sealing_key_that_does_not_hold_is_invalid_input(
    attempt: Callable[[], None], why: str
) -> None:
    with pytest.raises(InvalidInput, match=why):
        attempt()


def test_sealing_key_statement_names_cluster_name_and_key_apart() -> None:
    statement = pre_auth_encoding(
        b"cyoloctl sealing key v1", ID.encode(), b"n1", N1.identity.sealing_key.encode()
    )
    verify_statement(
        statement,
        N1.identity.signature,
        N1.identity.certificate_pem,
        ca_pem=OURS.ca,
        name="n1",
        cluster_id=ID,
        now=NOW,
    )


def test_identity_is_read_back_and_shows_the_fingerprint_of_its_ca() -> None:
    text = encode_identity(FAR.identity)
    assert text.count("\n") == 1
    identity = decode_identity(text, now=NOW)
    assert identity == FAR.identity
    assert identity.ca_sha256 == certificate_sha256(THEIRS.ca)
    assert len(identity.ca_sha256) == 64


def test_decode_identity_of_changed_text_is_invalid_input() -> None:
    text = encode_identity(N1.identity)
    rng = random.Random(2)
    for at in rng.sample(range(len(text) - 1), 200):
        changed = text[:at] + chr(ord(text[at]) ^ 1 << rng.randrange(7)) + text[at + 1 :]
        with pytest.raises(InvalidInput):
            decode_identity(changed, now=NOW)
    for wrong in ("", "[]", "null", "[" * 100_000, text + " ", text.replace('"name"', '"nome"'), "9" * 5000):
        with pytest.raises(InvalidInput):
            decode_identity(wrong, now=NOW)


# -- files under a passphrase -------------------------------------------------------------------


def cheap(given: Ring | None = None, passphrase: str = PASSPHRASE, **cost: int) -> bytes:
    """An export that costs next to nothing to open."""
    return ring_file._export(
        given or ring(), passphrase, os.urandom, **{"memory_kib": 8, "passes": 1, "lanes": 1, **cost}
    )


def test_export_ring_then_import_ring_is_the_ring() -> None:
    data = ring_file.export_ring(ring(), passphrase=PASSPHRASE)
    assert ring_file.import_ring(data, passphrase=PASSPHRASE) == ring()
    first, header, body, end = data.decode("ascii").split("\n")
    assert (first, end) == ("cyoloctl keyring 1 passphrase", "")
    assert json.loads(header) | {"salt": ""} == {
        "cluster_id": ID,
        "kdf": "argon2id",
        "lanes": 4,
        "memory_kib": 65_536,
        "passes": 3,
        "salt": "",
    }
    assert KEY.secret not in data
    assert base64.b64encode(KEY.secret).rstrip(b"=") not in data + base64.b64decode(body)


def test_exported_file_opens_by_its_documentation_alone() -> None:
    data = cheap()
    first, header, body, _ = data.split(b"\n")
    known = json.loads(header)
    derived = Argon2id(
        salt=base64.b64decode(known["salt"]), length=44, iterations=1, lanes=1, memory_cost=8
    ).derive(PASSPHRASE.encode())
    front = first + b"\n" + header + b"\n"
    opened = json.loads(AESGCM(derived[:32]).decrypt(derived[32:], base64.b64decode(body), front))
    assert opened["keep_s"] == 604_800
    assert base64.b64decode(opened["keys"][0]["secret"]) == KEY.secret


def test_imported_ring_opens_tokens_of_the_ring_that_was_exported() -> None:
    session = new_session("ann", {}, now_unix_s=NOW_MS // 1000)
    token = seal(Keyring(ring().keys), session, cookie_name="cyolo-sid")
    opened = Keyring(ring_file.import_ring(cheap(), passphrase=PASSPHRASE).keys)
    assert open_token(opened, token, now_unix_s=NOW_MS // 1000, cookie_name="cyolo-sid") == session


@pytest.mark.parametrize("passphrase", ["", "eleven char", "n\u0303" * 11])
def test_export_ring_under_a_short_passphrase_is_invalid_input(passphrase: str) -> None:
    with pytest.raises(InvalidInput, match="at least 12"):
        ring_file.export_ring(ring(), passphrase=passphrase)


def test_passphrase_is_the_same_however_a_keyboard_composes_it() -> None:
    data = cheap(passphrase="motörhead forever")
    assert ring_file.import_ring(data, passphrase="moto\u0308rhead forever") == ring()


DENIED = "the passphrase is wrong, or the file was changed"


@pytest.mark.parametrize("passphrase", ["", "short", PASSPHRASE + " ", PASSPHRASE.upper(), "\ud800" * 20])
def test_import_ring_with_a_wrong_passphrase_is_access_denied(passphrase: str) -> None:
    with pytest.raises(AccessDenied, match=DENIED):
        ring_file.import_ring(cheap(), passphrase=passphrase)


def test_import_ring_of_a_changed_salt_cost_cluster_or_body_is_access_denied() -> None:
    data = cheap(memory_kib=64, passes=2)
    _, header, body, _ = data.split(b"\n")
    other = cheap()
    for old, new in [
        (b'"memory_kib":64', b'"memory_kib":65'),
        (b'"passes":2', b'"passes":1'),
        (ID.encode(), OTHER_ID.encode()),
        (header, other.split(b"\n")[1]),
        (body, other.split(b"\n")[2]),
        (body, b""),
        (body, b"AAAA"),
    ]:
        assert old in data
        with pytest.raises(AccessDenied, match=DENIED):
            ring_file.import_ring(data.replace(old, new), passphrase=PASSPHRASE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("memory_kib", 256 * 1024 + 1),
        ("memory_kib", 2**62),
        ("memory_kib", 7),
        ("memory_kib", -1),
        ("passes", 0),
        ("passes", 11),
        ("passes", 2**40),
        ("lanes", 0),
        ("lanes", 17),
        ("kdf", "argon2i"),
        ("salt", ""),
        ("salt", base64.b64encode(bytes(15)).decode()),
        ("salt", "AAAAAAAAAAAAAAAAAAAAAB=="),
        ("cluster_id", "x"),
        ("lanes", True),
        ("lanes", 1.0),
        ("lanes", None),
        ("more", 1),
    ],
)
def test_import_ring_with_a_cost_or_header_out_of_bounds_is_invalid_input_at_once(
    field: str, value: Any
) -> None:
    first, header, body, end = cheap().decode().split("\n")
    changed = json.loads(header) | {field: value}
    text = "\n".join([first, json.dumps(changed, sort_keys=True, separators=(",", ":")), body, end])
    began = time.perf_counter()
    with pytest.raises(InvalidInput):
        ring_file.import_ring(text.encode(), passphrase=PASSPHRASE)
    assert time.perf_counter() - began < 10  # ten passes over 2**62 KiB would take a little longer


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n" * 5,
        b"cyoloctl keyring",
        b"cyoloctl keyring 1 passphrase",
        b"cyoloctl keyring 1 passphrase\n{}\n\n",
        b"cyoloctl keyring 1 passphrase\n" + b"[" * 100_000 + b"\n\n",
        b"cyoloctl keyring 1 secret\n{}\n\n",
        b"cyoloctl keyring 0 passphrase\n{}\n\n",
        b"cyoloctl keyring -1 passphrase\n{}\n\n",
        b"cyoloctl keyring 02 passphrase\n{}\n\n",
        "cyoloctl keyring \u0662 passphrase\n{}\n\n".encode(),
        b"cyoloctl  keyring 1 passphrase\n{}\n\n",
        b"\xef\xbb\xbf" + cheap(),
        cheap().replace(b"\n", b"\r\n"),
        cheap() + b"\n",
        cheap()[:-1],
        cheap()[:-1] + b" \n",
        cheap().replace(b'{"', b'{ "'),
        cheap().replace(b'{"', b'{"lanes":1,"'),
        cheap()[:-1] + "é\n".encode(),
        cheap() + b"A" * (1 << 20),
    ],
)
def test_import_ring_of_what_is_not_such_a_file_is_invalid_input(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        ring_file.import_ring(data, passphrase=PASSPHRASE)


def test_import_ring_of_a_newer_version_says_so() -> None:
    with pytest.raises(VersionMismatch, match="upgrade"):
        ring_file.import_ring(b"cyoloctl keyring 2 anything\nat all", passphrase=PASSPHRASE)


def hostile(data: bytes, attempt: Callable[[bytes], Ring], rounds: int, seed: int) -> None:
    """Changed and invented bytes give the same ring or an error of ours, nothing else."""
    rng = random.Random(seed)
    for _ in range(rounds):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(changed) + 1)
            changed[at : at + rng.choice((0, 1, 1, 1, 40))] = rng.choice(
                (b"", b"\n", b" ", b"{", b'"', b"0", b"-", rng.randbytes(1), rng.randbytes(3))
            )
        if rng.random() < 0.1:
            changed = bytearray(rng.randbytes(rng.randrange(300)))
        try:
            found = attempt(bytes(changed))
        except (InvalidInput, AccessDenied, VersionMismatch):
            continue
        else:
            assert bytes(changed) == data
            assert found == ring()


def test_import_ring_of_any_bytes_is_the_ring_or_a_refusal() -> None:
    def attempt(changed: bytes) -> Ring:
        return ring_file.import_ring(changed, passphrase=PASSPHRASE)

    hostile(cheap(), attempt, 1500, 3)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(keep_s=5),
        lambda r: r.update(keep_s=True),
        lambda r: r.update(cluster_id=OTHER_ID),
        lambda r: r.update(keys={}),
        lambda r: r.update(more=1),
        lambda r: r["keys"].append(r["keys"][0]),
        lambda r: r["keys"].append(None),
        lambda r: r["keys"][0].pop("state"),
        lambda r: r["keys"][0].update(state="destroyed", secret=""),
        lambda r: r["keys"][0].update(state="lost"),
        lambda r: r["keys"][1].update(state="primary"),
        lambda r: r["keys"][0].update(secret="AA=="),
        lambda r: r["keys"][0].update(secret=r["keys"][0]["secret"] + "\n"),
        lambda r: r["keys"][0].update(key_id="fd000001"),
        lambda r: r["keys"][0].update(key_id="x"),
        lambda r: r["keys"][0].update(key_id="fc 00 00 01"),
        lambda r: r["keys"][0].update(cluster_id=""),
        lambda r: r["keys"][0].update(created_unix_ms=-1),
        lambda r: r["keys"][0].update(created_unix_ms=2**60),
        lambda r: r["keys"][0].update(retired_unix_ms=False),
    ],
)
def test_ring_with_a_wrong_field_is_invalid_input_that_shows_no_secret(change: Any) -> None:
    value = json.loads(ring_file._encode_ring(ring()))
    assert (
        ring_file._decode_ring(json.dumps(value, sort_keys=True, separators=(",", ":")).encode(), ID)
        == ring()
    )
    change(value)
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(InvalidInput) as caught:
        ring_file._decode_ring(data, ID)
    assert caught.value.__context__ is None  # the cause might quote a secret
    assert base64.b64encode(KEY.secret).decode() not in str(caught.value)


def test_ring_refuses_a_destroyed_key_and_more_than_64() -> None:
    gone = RingKey(Key(b"\xfc\0\0\3", b"", KeyState.DESTROYED, ID), 5)
    many = tuple(
        RingKey(replace(KEY, key_id=bytes((0xFC, 0, 1, n)), state=KeyState.ENABLED), 5) for n in range(65)
    )
    Ring(ID, 3600, many[:64])
    for entries in ((gone,), many):
        with pytest.raises(InvalidInput):
            Ring(ID, 3600, entries)


def test_repr_of_a_ring_shows_no_secret() -> None:
    shown = repr(ring())
    assert "(hidden)" in shown
    for form in (KEY.secret.hex(), repr(KEY.secret), base64.b64encode(KEY.secret).decode()):
        assert form not in shown


# -- files for a node ---------------------------------------------------------------------------


def to_node(to: Node = N2, sender: Node = N1, to_ca: str | None = None, given: Ring | None = None) -> bytes:
    return ring_file.export_ring_to_node(
        given or ring(sender.identity.cluster_id),
        to=to.identity,
        sender=sender.identity,
        node_key_pem=sender.key_pem,
        to_ca=to_ca,
        now=NOW,
    )


def from_node(data: bytes, at: Node = N2, from_ca: str | None = None, *, now: datetime = NOW) -> Ring:
    return ring_file.import_ring_from_node(
        data,
        name=at.name,
        cluster_id=at.identity.cluster_id,
        ca_pem=at.identity.ca_pem,
        sealing_key_pem=at.sealing_pem,
        from_ca=from_ca,
        now=now,
    )


def test_ring_for_a_node_of_the_same_cluster_opens_there_only() -> None:
    data = to_node()
    assert from_node(data) == ring()
    assert data.startswith(b"cyoloctl keyring 1 node\n")
    with pytest.raises(AccessDenied, match="another node"):
        from_node(data, N1)
    with pytest.raises(AccessDenied, match="another node"):
        from_node(data, Node(N2.identity, N1.key_pem, N1.sealing_pem))


def test_ring_crosses_clusters_when_both_operators_confirm_the_cas() -> None:
    ours, theirs = (certificate_sha256(cluster.ca) for cluster in (OURS, THEIRS))
    with pytest.raises(AccessDenied, match=f"{theirs}.*--to-ca"):
        to_node(FAR)
    with pytest.raises(AccessDenied, match="not the one"):
        to_node(FAR, to_ca=ours)
    # As openssl prints it.
    data = to_node(FAR, to_ca=":".join(theirs[n : n + 2] for n in range(0, 64, 2)).upper())
    with pytest.raises(AccessDenied, match=f"{ours}.*--from-ca"):
        from_node(data, FAR)
    with pytest.raises(AccessDenied, match="not the one"):
        from_node(data, FAR, theirs)
    assert from_node(data, FAR, ours) == ring()


def test_ring_from_a_false_ca_with_our_cluster_id_is_access_denied_even_when_named() -> None:
    false = new_cluster(ID)
    sender = new_node(false, "n1")
    named = certificate_sha256(false.ca)
    data = to_node(new_node(false, "n2"), sender)
    with pytest.raises(AccessDenied, match="do not trust it"):
        from_node(data, N2, named)
    with pytest.raises(AccessDenied, match="do not trust it"):
        to_node(new_node(false, "n2"), to_ca=named)


def test_ring_for_a_node_whose_identity_does_not_hold_is_not_exported() -> None:
    mallory = x25519.X25519PrivateKey.generate().public_key().public_bytes_raw()
    forged = replace(N2.identity, sealing_key=base64.b64encode(mallory).decode())
    with pytest.raises(InvalidInput, match="signature is wrong"):
        to_node(Node(forged, "", ""))


def test_ring_signed_again_by_another_node_does_not_open() -> None:
    n3 = new_node(OURS, "n3")
    first, header, body, _, _ = to_node().decode().split("\n")
    mine = json.loads(header)
    mine["from"] |= {"name": "n3", "certificate_pem": n3.identity.certificate_pem}
    lines = [first, json.dumps(mine, sort_keys=True, separators=(",", ":")), body]
    lines.append(sign_statement(n3.key_pem, ring_file._signed(*lines)))
    with pytest.raises(AccessDenied, match="file was changed"):
        from_node("\n".join([*lines, ""]).encode())


def test_ring_from_a_node_whose_certificate_ended_is_access_denied() -> None:
    with pytest.raises(AccessDenied, match="ended at"):
        from_node(to_node(), now=NOW + timedelta(days=31))


def test_import_ring_from_node_of_any_bytes_is_the_ring_or_a_refusal() -> None:
    hostile(to_node(), from_node, 600, 4)


def test_import_of_the_other_kind_of_file_says_which_it_is() -> None:
    with pytest.raises(InvalidInput, match="sealed to a node"):
        ring_file.import_ring(to_node(), passphrase=PASSPHRASE)
    with pytest.raises(InvalidInput, match="under a passphrase"):
        from_node(cheap())


# -- with the replicated machine ----------------------------------------------------------------


def test_imported_ring_becomes_replicated_keys_that_each_node_opens() -> None:
    whole, index = ClusterState(), itertools.count(1)

    def apply(machine: str, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        n = next(index)
        command = encode_command(
            machine, operation, arguments, request_id=f"r{n}", automatic=True, time_unix_ms=NOW_MS
        )
        return decode_result(whole.apply(n, command))

    for node in (N1, N2):
        shown = node.identity
        member = {"address": "h:1", "role": "voter", "raft_id": node.name, "certificate_expires_at": None}
        apply("members", "put", {"name": node.name, "sealing_key": shown.sealing_key, **member})
        apply(
            "keys",
            "announce",
            {
                "name": node.name,
                "sealing_key": shown.sealing_key,
                "certificate_pem": shown.certificate_pem,
                "signature": shown.signature,
            },
        )
    sealing = {name: announced.sealing_key for name, announced in whole.keys.nodes().items()}
    arguments = ring_file.import_arguments(ring(), sealing, now_unix_ms=NOW_MS)
    assert apply("keys", "import", arguments) == {"imported": ["fc000001", "fc000002"], "known": []}

    primary, old = whole.keys.records()
    assert (primary.state, primary.tokens_until_unix_ms) == ("enabled", NOW_MS + 604_800_000)
    assert (old.state, old.retired_unix_ms, old.tokens_until_unix_ms) == ("disabled", 1000, 2000)
    for node in (N1, N2):
        for record, key in zip((primary, old), ring().keys, strict=True):
            opened = unwrap(
                record.wrapped[node.name],
                key_id=record.key_id,
                cluster_id=record.cluster_id,
                node=node.name,
                sealing_key_pem=node.sealing_pem,
                state=record.state,
                fingerprint=record.fingerprint,
            )
            assert (opened.secret, opened.cluster_id) == (key.secret, key.cluster_id)
            apply("keys", "confirm", {"name": node.name, "keys": {record.key_id: opened.fingerprint}})
    assert apply("keys", "promote", {"key_id": "fc000001"})["state"] == "primary"
    for secret in (key.secret for key in ring().keys):
        for form in (secret, base64.b64encode(secret), secret.hex().encode()):
            assert form not in b"".join(whole.begin_snapshot()())


def test_every_refusal_is_an_error_with_a_status() -> None:
    assert {error.exit_status for error in (AccessDenied, InvalidInput, VersionMismatch)} == {77, 65, 76}
    assert issubclass(AccessDenied, CyoloctlError)
