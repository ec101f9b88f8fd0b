"""Grants that travel by file: sealed to the node that asked, and good for its request only.

    sealed = HPKE (`pki.seal`) of the grant (`make_grant`) in canonical JSON, to the sealing key in the
             request, with info = PAE("cyoloctl grant v1", cluster id, name, SHA-256 of each CA, SHA-256
             of the request, expiry)

The rest of the file is for people and for errors that say more than "damaged":
what is in it counts only because the seal does not open with anything else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes

from cyoloctl.errors import AccessDenied, InvalidInput
from cyoloctl.model import parse_name
from cyoloctl.pki.documents import SCHEMA_VERSION, parse_fields, parse_object, to_text
from cyoloctl.pki.files import SEALING_KEY, read_pem
from cyoloctl.pki.identity import parse_cluster_id
from cyoloctl.pki.requests import csr_sha256
from cyoloctl.pki.seal import open_sealed, seal
from cyoloctl.pki.x509 import load_authorities
from cyoloctl.text import canonical_json, parse_canonical_json, pre_auth_encoding

__all__ = ["SealedGrant", "decode_sealed_grant", "encode_sealed_grant", "open_grant", "seal_grant"]

_KIND = "cyoloctl admission"
_RENEWAL = "cyoloctl certificate"
_MAX_CHARS = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CA_SHA256 = re.compile(r"[0-9a-f]{64}(,[0-9a-f]{64})*")
_FAR_UNIX_S = 1 << 40


@dataclass(frozen=True, slots=True)
class SealedGrant:
    """What a grant file says outside its seal, and the sealed grant (base64).

    ca_sha256: of each CA that the node will trust, with commas between.
    request_sha256: of the DER of the certificate request that it answers.
    expires_unix_s: the cluster admits the node until then, by the cluster's time.
    """

    cluster_id: str
    name: str
    ca_sha256: str
    request_sha256: str
    expires_unix_s: int
    sealed: str

    def info(self) -> bytes:
        """What the seal is for: it opens with nothing else."""
        parts = (
            self.cluster_id,
            self.name,
            self.ca_sha256,
            self.request_sha256,
            str(self.expires_unix_s),
        )
        return pre_auth_encoding(b"cyoloctl grant v1", *(part.encode() for part in parts))


def seal_grant(
    grant: Mapping[str, Any], *, request_pem: str, sealing_key: str, expires_unix_s: int
) -> SealedGrant:
    """Seal a grant (`make_grant`) to the node whose request it answers.  Raises InvalidInput for its key."""
    authorities = load_authorities(grant["ca_pem"])
    unsealed = SealedGrant(
        cluster_id=grant["cluster_id"],
        name=grant["name"],
        ca_sha256=",".join(each.fingerprint(hashes.SHA256()).hex() for each in authorities),
        request_sha256=csr_sha256(request_pem),
        expires_unix_s=expires_unix_s,
        sealed="",
    )
    sealed = seal(sealing_key, canonical_json(dict(grant)).encode(), unsealed.info())
    return replace(unsealed, sealed=sealed)


def encode_sealed_grant(grant: SealedGrant) -> str:
    """The text of a grant file: one JSON object.  Only the node that asked can use it."""
    return to_text(
        {
            "schema_version": SCHEMA_VERSION,
            "kind": _KIND,
            "cluster_id": grant.cluster_id,
            "name": grant.name,
            "ca_sha256": grant.ca_sha256,
            "request_sha256": grant.request_sha256,
            "expires_unix_s": grant.expires_unix_s,
            "sealed": grant.sealed,
        }
    )


def decode_sealed_grant(text: str) -> SealedGrant:
    """The grant in a grant file, still sealed.

    Raises InvalidInput, VersionMismatch for one of a newer release.
    """
    value = parse_object(text, "grant", _MAX_CHARS)
    if value.get("kind") == _RENEWAL:
        raise InvalidInput(
            "this file renews the certificate of a member: put it in place with "
            "`cyoloctl node renew --grant FILE`"
        )
    fields = parse_fields(
        value,
        "grant",
        kind=str,
        cluster_id=str,
        name=str,
        ca_sha256=str,
        request_sha256=str,
        expires_unix_s=int,
        sealed=str,
    )
    if (
        fields["kind"] != _KIND
        or not _CA_SHA256.fullmatch(fields["ca_sha256"])
        or not _SHA256.fullmatch(fields["request_sha256"])
        or not 0 < fields["expires_unix_s"] < _FAR_UNIX_S
    ):
        raise InvalidInput("this is not a grant of cyoloctl: use the whole, unchanged file")
    return SealedGrant(
        parse_cluster_id(fields["cluster_id"]),
        parse_name(fields["name"]),
        fields["ca_sha256"],
        fields["request_sha256"],
        fields["expires_unix_s"],
        fields["sealed"],
    )


def open_grant(pki_dir: Path, grant: SealedGrant, *, name: str, request_pem: str) -> dict[str, Any]:
    """The grant for this node's request, for `accept_grant` with what the file pins.

    name, request_pem: those of the node in the directory.  Raises
    AccessDenied where it answers another request, InvalidInput where it was
    damaged or changed, ConfigError for the files of the directory.
    """
    if grant.name != name or grant.request_sha256 != csr_sha256(request_pem):
        raise AccessDenied(
            f"the grant answers another request, of {grant.name}, and the keys here do not open it: "
            "use it in the directory whose request was granted, or have this one's granted"
        )
    opened = open_sealed(read_pem(pki_dir / SEALING_KEY), grant.sealed, grant.info())
    try:
        found = parse_canonical_json(opened.decode("ascii"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidInput("this is not a grant of cyoloctl: use the whole, unchanged file")
    return found
