"""Key rings in files, carried to other networks.

A ring leaves its cluster in two ways only (``keys.wrapping`` has the third way
out of a process, a key sealed to a node):

* in a file under a passphrase::

      cyoloctl keyring 1 passphrase
      {"cluster_id":C,"kdf":"argon2id","lanes":4,"memory_kib":65536,"passes":3,"salt":S}
      BASE64

  key 32 | nonce 12 = Argon2id(passphrase, salt), and BASE64 is AES-256-GCM of
  the ring with the two lines above, with their line ends, as associated data.
* in a file for one node, of this cluster or another::

      cyoloctl keyring 1 node
      {"from":{"ca_pem","certificate_pem","cluster_id","name"},"to":{"cluster_id","name","sealing_key"}}
      BASE64
      SIGNATURE

  BASE64 is HPKE to the sealing key with info = PAE("cyoloctl keyring v1",
  line 1, line 2), so it opens only under its sender's name; SIGNATURE is ECDSA
  by the sender's certificate over PAE("cyoloctl keyring v1", lines 1 to 3).

The ring, and every line in braces, is canonical JSON: sorted keys, no spaces,
ASCII.  Secrets and salts in it are base64.  Destroyed keys are left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from cyoloctl.errors import AccessDenied, InvalidInput, VersionMismatch
from cyoloctl.keys.keyring import Key, Keyring, KeyState
from cyoloctl.keys.wrapping import (
    MAX_FILE_BYTES,
    NodeIdentity,
    check_fields,
    parse_key_id,
    read_object,
    verify_identity,
    wrap,
)
from cyoloctl.model import parse_name
from cyoloctl.pki.identity import parse_cluster_id
from cyoloctl.pki.seal import open_sealed, seal
from cyoloctl.pki.statements import sign_statement, verify_statement
from cyoloctl.pki.x509 import certificate_sha256
from cyoloctl.text import Json, canonical_json, decode_base64, encode_base64, pre_auth_encoding

__all__ = [
    "MIN_PASSPHRASE_CHARACTERS",
    "Ring",
    "RingKey",
    "export_ring",
    "export_ring_to_node",
    "import_arguments",
    "import_ring",
    "import_ring_from_node",
    "keep_ring",
    "open_kept_ring",
]

MIN_PASSPHRASE_CHARACTERS = 12


_MAX_KEYS = 64
_MIN_PERIOD_S, _MAX_PERIOD_S = 3_600, 366 * 86_400
_MAX_TIME_UNIX_MS = 2**53
_NAME, _VERSION = "cyoloctl keyring", 1
_DOMAIN = b"cyoloctl keyring v1"

# Bounds on what a file may demand of anyone who opens it.
_MAX_MEMORY_KIB, _MAX_PASSES, _MAX_LANES = 256 * 1024, 10, 16
_NOT_A_RING = "this is not a key ring of cyoloctl: use the whole, unchanged file that `key export` wrote"
_DAMAGED = "the key ring cannot be opened: it is for another node, or the file was changed"


# -- rings --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RingKey:
    """A key with its times in Unix milliseconds; see cyoloctl.keys.records.

    tokens_until_unix_ms: the end of the last token under it; None while it
    mints, or never did.
    """

    key: Key
    created_unix_ms: int
    retired_unix_ms: int | None = None
    tokens_until_unix_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Ring:
    """The keys of a cluster that are not destroyed, 64 at most.  Prints no secret.

    keep_s: the longest that its tokens live, 1 hour to 366 days.

    Raises InvalidInput for anything else.
    """

    cluster_id: str
    keep_s: int
    entries: tuple[RingKey, ...]

    def __post_init__(self) -> None:
        Keyring(self.keys)
        for cluster_id in (self.cluster_id, *(key.cluster_id for key in self.keys)):
            parse_cluster_id(cluster_id)
        times: list[object] = []
        for entry in self.entries:
            times.append(entry.created_unix_ms)
            times += [t for t in (entry.retired_unix_ms, entry.tokens_until_unix_ms) if t is not None]
        if (
            type(self.keep_s) is not int
            or not _MIN_PERIOD_S <= self.keep_s <= _MAX_PERIOD_S
            or len(self.entries) > _MAX_KEYS
            or any(key.state is KeyState.DESTROYED for key in self.keys)
            or not all(type(time) is int and 0 <= time <= _MAX_TIME_UNIX_MS for time in times)
        ):
            raise InvalidInput(_NOT_A_RING)

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys, for a Keyring."""
        return tuple(entry.key for entry in self.entries)


def import_arguments(ring: Ring, nodes: Mapping[str, str], *, now_unix_ms: int) -> Json:
    """The arguments of the operation ``import`` of the replicated keys: every key, sealed to every node.

    nodes: name -> sealing key, after verify_sealing_key.  now_unix_ms: of the
    import.  A key that mints there, or may one day, counts as retired now: what
    the other cluster does with it later nobody here learns.

    Raises InvalidInput for a sealing key that is not valid.
    """
    keys = []
    for entry in ring.entries:
        key, until_ms, retired_ms = entry.key, entry.tokens_until_unix_ms, entry.retired_unix_ms
        if until_ms is None or retired_ms is None:
            retired_ms, until_ms = now_unix_ms, max(until_ms or 0, now_unix_ms + ring.keep_s * 1000)
        keys.append(
            {
                "key_id": key.key_id_hex,
                "cluster_id": key.cluster_id,
                "fingerprint": key.fingerprint,
                "state": "disabled" if key.state is KeyState.DISABLED else "enabled",
                "created_unix_ms": entry.created_unix_ms,
                "retired_unix_ms": retired_ms,
                "tokens_until_unix_ms": until_ms,
                "wrapped": {
                    name: wrap(key, node=name, sealing_key=sealing) for name, sealing in nodes.items()
                },
            }
        )
    return {"keys": keys}


def _encode_ring(ring: Ring) -> bytes:
    keys = [
        {
            "cluster_id": entry.key.cluster_id,
            "created_unix_ms": entry.created_unix_ms,
            "key_id": entry.key.key_id_hex,
            "retired_unix_ms": entry.retired_unix_ms,
            "secret": encode_base64(entry.key.secret),
            "state": str(entry.key.state),
            "tokens_until_unix_ms": entry.tokens_until_unix_ms,
        }
        for entry in ring.entries
    ]
    return canonical_json({"cluster_id": ring.cluster_id, "keep_s": ring.keep_s, "keys": keys}).encode()


_RING = {"cluster_id": str, "keep_s": int, "keys": list}
_RING_KEY = {
    "cluster_id": str,
    "created_unix_ms": int,
    "key_id": str,
    "retired_unix_ms": (int, type(None)),
    "secret": str,
    "state": str,
    "tokens_until_unix_ms": (int, type(None)),
}


def _decode_ring(data: bytes, cluster_id: str) -> Ring:
    """The ring in these bytes.  Raises InvalidInput without a cause, which could quote a secret."""
    try:
        top = read_object(data.decode("ascii"), _RING, "a key ring")
        items = [check_fields(item, _RING_KEY, "a key ring") for item in top["keys"]]
        entries = [
            RingKey(
                Key(
                    parse_key_id(item["key_id"]),
                    decode_base64(item["secret"]),
                    KeyState(item["state"]),
                    item["cluster_id"],
                ),
                item["created_unix_ms"],
                item["retired_unix_ms"],
                item["tokens_until_unix_ms"],
            )
            for item in items
        ]
        if top["cluster_id"] == cluster_id:
            return Ring(cluster_id, top["keep_s"], tuple(entries))
    except (ValueError, InvalidInput):
        pass
    raise InvalidInput(_NOT_A_RING)


# -- files --------------------------------------------------------------------------------------


def export_ring(ring: Ring, *, passphrase: str, random: Callable[[int], bytes] = os.urandom) -> bytes:
    """The ring in a file under a passphrase of at least 12 characters.

    Takes about 64 MiB of memory and a fraction of a second, as opening it
    does.  Raises InvalidInput for a shorter passphrase.
    """
    return _export(ring, passphrase, random, memory_kib=64 * 1024, passes=3, lanes=4)


def _export(
    ring: Ring,
    passphrase: str,
    random: Callable[[int], bytes],
    *,
    memory_kib: int,
    passes: int,
    lanes: int,
) -> bytes:
    secret = _passphrase_bytes(passphrase)
    if secret is None:
        raise InvalidInput(
            f"the passphrase is too short: use at least {MIN_PASSPHRASE_CHARACTERS} characters"
        )
    salt = random(16)
    header = canonical_json(
        {
            "cluster_id": ring.cluster_id,
            "kdf": "argon2id",
            "lanes": lanes,
            "memory_kib": memory_kib,
            "passes": passes,
            "salt": encode_base64(salt),
        }
    )
    front = f"{_NAME} {_VERSION} passphrase\n{header}\n".encode()
    derived = _derive(secret, salt, passes, lanes, memory_kib)
    sealed = AESGCM(derived[:32]).encrypt(derived[32:], _encode_ring(ring), front)
    return front + encode_base64(sealed).encode() + b"\n"


_HEADER = {"cluster_id": str, "kdf": str, "lanes": int, "memory_kib": int, "passes": int, "salt": str}


def import_ring(data: bytes, *, passphrase: str) -> Ring:
    """The ring in a file under a passphrase.

    Raises AccessDenied for a wrong passphrase or a file that was changed;
    InvalidInput for what is not such a file, or asks for more than 256 MiB,
    10 passes or 16 lanes to be opened; VersionMismatch for one of a newer
    release.
    """
    header_line, body = _lines(data, "passphrase", 2)
    header = read_object(header_line, _HEADER, "a key ring")
    cluster_id = parse_cluster_id(header["cluster_id"])
    memory_kib, passes, lanes = header["memory_kib"], header["passes"], header["lanes"]
    try:
        salt, sealed = decode_base64(header["salt"]), decode_base64(body)
        if header["kdf"] != "argon2id" or len(salt) != 16:
            raise ValueError
    except ValueError:
        raise InvalidInput(_NOT_A_RING) from None
    # Before anything is computed: the file is not authenticated yet.
    if not (
        1 <= lanes <= _MAX_LANES and 1 <= passes <= _MAX_PASSES and 8 * lanes <= memory_kib <= _MAX_MEMORY_KIB
    ):
        raise InvalidInput(
            f"the key ring asks for {memory_kib} KiB, {passes} passes and {lanes} lanes to be opened: "
            "use a file that cyoloctl wrote"
        )
    secret = _passphrase_bytes(passphrase)
    if secret is not None:
        derived = _derive(secret, salt, passes, lanes, memory_kib)
        front = data[: data.index(b"\n", data.index(b"\n") + 1) + 1]
        try:
            opened = AESGCM(derived[:32]).decrypt(derived[32:], sealed, front)
        except InvalidTag:
            pass
        else:
            return _decode_ring(opened, cluster_id)
    raise AccessDenied("the key ring cannot be opened: the passphrase is wrong, or the file was changed")


def export_ring_to_node(
    ring: Ring,
    *,
    to: NodeIdentity,
    sender: NodeIdentity,
    node_key_pem: str,
    to_ca: str | None,
    now: datetime,
) -> bytes:
    """The ring in a file that only one node can open, signed by this node.

    to: the node it is for.  to_ca: for a node of another cluster, the
    fingerprint of that cluster's CA certificate as its operator reads it out
    (SHA-256, hexadecimal, colons allowed).  sender: this node, and the private
    key of its certificate.

    Raises InvalidInput where an identity does not hold, AccessDenied for a CA
    that nobody vouches for; the message shows its fingerprint.
    """
    for identity in (to, sender):
        verify_identity(identity, now)
    _check_ca(to.name, to.cluster_id, to.ca_pem, sender.cluster_id, sender.ca_pem, to_ca, "--to-ca")
    header = {
        "from": {name: getattr(sender, name) for name in _FROM},
        "to": {name: getattr(to, name) for name in _TO},
    }
    front = [f"{_NAME} {_VERSION} node", canonical_json(header)]
    front.append(seal(to.sealing_key, _encode_ring(ring), _signed(*front)))
    return "\n".join([*front, sign_statement(node_key_pem, _signed(*front)), ""]).encode()


_FROM = {"ca_pem": str, "certificate_pem": str, "cluster_id": str, "name": str}
_TO = {"cluster_id": str, "name": str, "sealing_key": str}


def import_ring_from_node(
    data: bytes,
    *,
    name: str,
    cluster_id: str,
    ca_pem: str,
    sealing_key_pem: str,
    from_ca: str | None,
    now: datetime,
) -> Ring:
    """The ring in a file for this node.

    name, cluster_id, ca_pem, sealing_key_pem: of this node.  from_ca: where
    the file comes from another cluster, the fingerprint of that cluster's CA
    certificate as its operator reads it out.

    Raises AccessDenied for a file that is for another node, was changed, or
    whose sender's CA nobody vouches for or certificate does not hold now;
    InvalidInput for what is not such a file; VersionMismatch; ConfigError for
    the private sealing key.
    """
    header_line, body, signature = _lines(data, "node", 3)
    header = read_object(header_line, {"from": dict, "to": dict}, "a key ring")
    sender = check_fields(header["from"], _FROM, "a key ring")
    to = check_fields(header["to"], _TO, "a key ring")
    if (to["name"], to["cluster_id"]) != (name, cluster_id):
        raise AccessDenied(_DAMAGED)
    _check_ca(
        parse_name(sender["name"]),
        sender["cluster_id"],
        sender["ca_pem"],
        cluster_id,
        ca_pem,
        from_ca,
        "--from-ca",
    )
    first = f"{_NAME} {_VERSION} node"
    # Authenticated before it is opened, and opened before it is parsed.
    try:
        verify_statement(_signed(first, header_line, body), signature, now=now, **sender)
    except InvalidInput as error:
        raise AccessDenied(error.message) from None
    try:
        opened = open_sealed(sealing_key_pem, body, _signed(first, header_line))
    except InvalidInput:
        raise AccessDenied(_DAMAGED) from None
    return _decode_ring(opened, sender["cluster_id"])


def keep_ring(ring: Ring, *, sealing_key: str) -> str:
    """The ring as a node keeps it for itself until it runs: sealed to its own sealing key."""
    front = canonical_json({"cluster_id": ring.cluster_id})
    return f"{front}\n{seal(sealing_key, _encode_ring(ring), _signed(_KEPT, front))}\n"


def open_kept_ring(text: str, *, sealing_key_pem: str) -> Ring:
    """The ring that `keep_ring` sealed.  Raises InvalidInput."""
    front, _, sealed = text.partition("\n")
    header = read_object(front, {"cluster_id": str}, "a key ring")
    opened = open_sealed(sealing_key_pem, sealed.removesuffix("\n"), _signed(_KEPT, front))
    return _decode_ring(opened, parse_cluster_id(header["cluster_id"]))


_KEPT = f"{_NAME} {_VERSION} kept"


def _signed(*lines: str) -> bytes:
    return pre_auth_encoding(_DOMAIN, *(line.encode() for line in lines))


def _check_ca(
    name: str, cluster_id: str, ca_pem: str, own_id: str, own_ca_pem: str, given: str | None, option: str
) -> None:
    """Check a ring's CA.  Raises AccessDenied unless it is our own or the one that the operator names."""
    found = certificate_sha256(ca_pem)
    if cluster_id == own_id and found != certificate_sha256(own_ca_pem):
        raise AccessDenied(
            f"the CA of node {name} is not this cluster's, though it has its id: do not trust it"
        )
    if given is None and cluster_id != own_id:
        raise AccessDenied(
            f"node {name} is of another cluster: have its operator confirm the fingerprint of its CA "
            f"certificate, which is {found} here, and name it ({option})"
        )
    if given is not None and given.strip().replace(":", "").lower() != found:
        raise AccessDenied(f"the CA of node {name} is not the one that was named: its fingerprint is {found}")


def _lines(data: bytes, kind: str, count: int) -> list[str]:
    """The lines of a file after its first one."""
    lines = data.decode("latin-1").split("\n") if len(data) <= MAX_FILE_BYTES else []
    words = lines[0].split(" ") if lines else []
    if len(words) != 4 or " ".join(words[:2]) != _NAME:
        raise InvalidInput(_NOT_A_RING)
    if words[2] != str(_VERSION):
        if words[2].isascii() and words[2].isdigit() and words[2][0] != "0" and len(words[2]) < 9:
            raise VersionMismatch("the key ring was written by a newer release: upgrade cyoloctl")
        raise InvalidInput(_NOT_A_RING)
    if words[3] != kind:
        other = {"node": "passphrase", "passphrase": "node"}[kind]
        if words[3] == other:
            raise InvalidInput(
                "the key ring is sealed to a node: import it there, without a passphrase"
                if other == "node"
                else "the key ring is under a passphrase: give it"
            )
        raise InvalidInput(_NOT_A_RING)
    if len(lines) != count + 2 or lines[-1] or not data.isascii():
        raise InvalidInput(_NOT_A_RING)
    return lines[1:-1]


# -- below: parts -------------------------------------------------------------------------------


def _passphrase_bytes(passphrase: str) -> bytes | None:
    """None for a passphrase that is too short.  NFC, so that every keyboard spells it alike."""
    import unicodedata  # here: nodes never see a passphrase

    text = unicodedata.normalize("NFC", passphrase)
    if len(text) < MIN_PASSPHRASE_CHARACTERS:
        return None
    return text.encode("utf-8", "surrogatepass")


def _derive(secret: bytes, salt: bytes, passes: int, lanes: int, memory_kib: int) -> bytes:
    return Argon2id(salt=salt, length=44, iterations=passes, lanes=lanes, memory_cost=memory_kib).derive(
        secret
    )
