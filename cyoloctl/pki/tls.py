"""TLS of a node: its contexts, exchanged without a restart, and the identity of the other end.

Certificates are renewed and CAs exchanged while connections live.  Everything
that opens or accepts one asks a `TlsIdentity` for the context of the moment, so
that the next connection uses what the files say now.
"""

from __future__ import annotations

import functools
import hashlib
import os
import ssl
import warnings
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.utils import CryptographyDeprecationWarning

from cyoloctl.errors import AccessDenied, ConfigError
from cyoloctl.pki.files import CA_CERT, NODE_CERT, NODE_KEY, read_authorities, read_node_certificate, read_pem
from cyoloctl.pki.identity import Identity, TlsObject, parse_identity
from cyoloctl.pki.x509 import DEFECTS, dns_names, is_issued_by

__all__ = [
    "ALPN_HTTP",
    "ALPN_RAFT",
    "ALPN_RAFT_BEFORE",
    "NO_CHECK_TIME",
    "Presented",
    "TlsIdentity",
    "peer_context",
    "presented",
    "server_context",
]

ALPN_RAFT = "cyoloctl-raft/3"
ALPN_RAFT_BEFORE = ("cyoloctl-raft/2", "cyoloctl-raft/1")
"""Accepted in a handshake only so that both ends can be told which of them must be upgraded."""
ALPN_HTTP = "http/1.1"
NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python's ssl has no name for."""


class TlsIdentity:
    """The present contexts of one node, made from its pki directory.

    server, client: for accepting and for dialling, of the moment: ask for
    them with every connection.  listening: for a listener that takes one
    context once and for all, such as ``loop.create_server``: its connections
    use what `server` is when they shake hands.  authorities: the CAs that are
    trusted now, in PEM.
    """

    def __init__(self, pki_dir: Path) -> None:
        """Read the files of the identity.  Raises ConfigError where they make none."""
        self._pki_dir = pki_dir
        self._trusted: dict[bytes, bool] = {}
        self._certificate = b""
        self._present: WeakSet[ssl.SSLContext] = WeakSet()  # contexts with the present certificate
        self.server: ssl.SSLContext
        self.client: ssl.SSLContext
        self.authorities: tuple[str, ...]
        self.reload()
        self.listening = server_context(pki_dir)
        self.listening.sni_callback = self._exchange

    def reload(self) -> None:
        """Read the files again, for new connections; those that live are left alone.

        Raises ConfigError; then everything is as it was.
        """
        server, client = server_context(self._pki_dir), peer_context(self._pki_dir)
        authorities = read_authorities(self._pki_dir)
        certificate = read_node_certificate(self._pki_dir).encode()
        if certificate != self._certificate:
            self._certificate = certificate
            self._present.clear()
        self._present.update((server, client))
        self.server, self.client, self.authorities = server, client, authorities
        self._trusted.clear()

    def shows_present(self, connection: ssl.SSLObject | ssl.SSLSocket) -> bool:
        """Whether the other end of a connection was shown the certificate that the node has now."""
        return connection.context in self._present

    def is_trusted(self, certificate_der: bytes) -> bool:
        """Whether a CA that is trusted now issued a certificate.  Its dates and names are not looked at.

        The handshake said so once; a connection that lives is asked again
        after a CA was dropped.
        """
        known = self._trusted.get(certificate_der)
        if known is None:
            known = any(is_issued_by(certificate_der, ca) for ca in self.authorities)
            if len(self._trusted) < 1024:
                self._trusted[certificate_der] = known
        return known

    def _exchange(
        self, connection: ssl.SSLObject | ssl.SSLSocket, server_name: str | None, context: ssl.SSLContext
    ) -> None:
        # OpenSSL calls this with every ClientHello, with a server name or without one.
        connection.context = self.server


def server_context(pki_dir: Path) -> ssl.SSLContext:
    """TLS for the one port of a node: TLS 1.3, both protocols, client certificates optional.

    A certificate that is presented is verified against the cluster's CA;
    `presented` tells whose it is.  Without one the routes decide.  Raises ConfigError.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, pki_dir)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols([ALPN_RAFT, *ALPN_RAFT_BEFORE, ALPN_HTTP])
    # No resumption: each connection shows its certificate.
    context.num_tickets = 0
    return context


def peer_context(pki_dir: Path) -> ssl.SSLContext:
    """TLS for dialling another node: the chain is verified, the address is not.

    The caller must compare what was `presented` with the node it meant: role
    "node" and the name.  Raises ConfigError.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, pki_dir)
    context.check_hostname = False  # certificates name nodes, not addresses
    context.set_alpn_protocols([ALPN_RAFT, *ALPN_RAFT_BEFORE])
    return context


def _context(protocol: ssl._SSLMethod, pki_dir: Path) -> ssl.SSLContext:
    certificate, key, ca = pki_dir / NODE_CERT, pki_dir / NODE_KEY, pki_dir / CA_CERT
    ca_pem = read_pem(ca)
    read_pem(certificate)
    read_pem(key)
    checked = os.lstat(key)
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The default of Python 3.13 on every version (RFC 5280 to the letter).
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    # The dates of the other end's certificate are judged after the handshake, by the cluster's time:
    # OpenSSL would ask this machine's clock, which may be the one that is wrong.
    context.verify_flags |= NO_CHECK_TIME
    try:
        context.load_verify_locations(cadata=ca_pem)
        # With a password, or OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(certificate, key, password="")
        # OpenSSL opens the file by its name: it must still be the one that was looked at.
        now = os.lstat(key)
        if (now.st_dev, now.st_ino, now.st_mode) != (checked.st_dev, checked.st_ino, checked.st_mode):
            raise ValueError("the key was exchanged meanwhile")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(
            f"{certificate}, {key} and {ca} do not make a TLS identity ({error}): restore the right files"
        ) from error
    return context


# -- the other end ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Presented:
    """The name and key that a certificate showed in a finished handshake.

    key_hash: as of `public_key_sha256`.  expires_unix_ms: its end; nobody has
    compared it with a clock yet.
    """

    identity: Identity
    key_hash: str
    expires_unix_ms: int


def presented(ssl_object: TlsObject | None, *, cluster_id: str) -> Presented | None:
    """Identity and key that a finished handshake presented; None where no certificate was presented.

    Chain and purpose were checked by the handshake (of a context that asks for
    certificates); dates and register are for the caller to judge.  Raises
    AccessDenied for a certificate that does not carry exactly one name,
    exactly of our form, of this cluster.
    """
    der = None if ssl_object is None else ssl_object.getpeercert(True)
    if der is None:
        return None
    found = _read_presented(der)
    if found is None or found.identity.cluster_id != cluster_id:
        raise AccessDenied("the certificate does not name a member of this cluster: use one issued by it")
    return found


# A connection is judged again every second; parsing each time would cost 100 times as much as asking.
@functools.lru_cache(maxsize=4096)
def _read_presented(der: bytes) -> Presented | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", CryptographyDeprecationWarning)
            certificate = x509.load_der_x509_certificate(der)
            names = dns_names(certificate.extensions)
            spki = certificate.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            ends = certificate.not_valid_after_utc
    except DEFECTS:
        return None
    identity = parse_identity(names[0]) if len(names) == 1 else None
    if identity is None:
        return None
    return Presented(identity, hashlib.sha256(spki).hexdigest(), int(ends.timestamp() * 1000))
