"""Support bundles that one node can open::

    cyoloctl support-bundle 1 node
    {"ca_sha256":F,"cluster_id":C,"name":N,"sealing_key":K}
    BASE64

BASE64 is HPKE to the sealing key (`pki.seal`) with info = PAE("cyoloctl support
bundle v1", line 1, line 2).  The second line is canonical JSON and says for
whom it is.  It says nothing of who sealed it: anybody can.
"""

from __future__ import annotations

from cyoloctl.errors import AccessDenied, InvalidInput, VersionMismatch
from cyoloctl.keys.wrapping import NodeIdentity, read_object
from cyoloctl.pki.seal import open_sealed, seal
from cyoloctl.text import canonical_json, pre_auth_encoding

__all__ = ["MAX_SEALED_BYTES", "open_bundle", "seal_bundle"]

MAX_SEALED_BYTES = 64 * 2**20

_NAME, _VERSION = "cyoloctl support-bundle", 1
_DOMAIN = b"cyoloctl support bundle v1"
_TO = dict.fromkeys(("ca_sha256", "cluster_id", "name", "sealing_key"), str)
_NOT_ONE = (
    "this is not a sealed support bundle: use the whole, unchanged file that `support-bundle --seal-to` wrote"
)


def seal_bundle(data: bytes, to: NodeIdentity) -> bytes:
    """The bundle in a file that only this node can open.  to: an identity that was verified."""
    front = (f"{_NAME} {_VERSION} node", canonical_json({name: getattr(to, name) for name in _TO}))
    return "\n".join([*front, seal(to.sealing_key, data, _info(*front)), ""]).encode("ascii")


def open_bundle(data: bytes, *, name: str, cluster_id: str, sealing_key_pem: str) -> bytes:
    """The bundle in such a file.  name, cluster_id: of this node; sealing_key_pem: its private sealing key.

    Raises AccessDenied for one that is for another node or was changed,
    InvalidInput for what is no such file, VersionMismatch, ConfigError for the key.
    """
    lines = data.decode("latin-1").split("\n") if len(data) <= MAX_SEALED_BYTES else []
    words = lines[0].split(" ") if lines else []
    if len(words) != 4 or " ".join(words[:2]) != _NAME:
        raise InvalidInput(_NOT_ONE)
    if words[2].isdecimal() and words[2].isascii() and words[2] != str(_VERSION):
        raise VersionMismatch("the support bundle was sealed by a newer release: upgrade cyoloctl")
    if words[2:] != [str(_VERSION), "node"] or len(lines) != 4 or lines[3] or not data.isascii():
        raise InvalidInput(_NOT_ONE)
    try:
        opened = open_sealed(sealing_key_pem, lines[2], _info(lines[0], lines[1]))
    except InvalidInput:
        raise AccessDenied(_for_whom(lines[1], name, cluster_id)) from None
    return opened


def _for_whom(line: str, name: str, cluster_id: str) -> str:
    """Why a bundle cannot be opened.  line: who it is for, as it says itself and nothing proves."""
    try:
        to = read_object(line, _TO, "a support bundle")
    except InvalidInput:
        raise InvalidInput(_NOT_ONE) from None
    if (to["name"], to["cluster_id"]) == (name, cluster_id):
        return "the support bundle cannot be opened: it was changed, or this node has another key now"
    return (
        f"the support bundle is for node {to['name'][:80]!r} of cluster {to['cluster_id'][:80]!r}, not for "
        f"{name}: open it there"
    )


def _info(*lines: str) -> bytes:
    return pre_auth_encoding(_DOMAIN, *(line.encode() for line in lines))
