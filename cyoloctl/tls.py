"""The TLS identity of a running node: contexts that are exchanged without a restart.

Certificates are renewed and CAs exchanged while connections live.  Everything
that opens or accepts one asks this object for the context of the moment, so
that the next connection uses what the files say now.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from weakref import WeakSet

from cyoloctl import pki

__all__ = ["TlsIdentity"]


class TlsIdentity:
    """The present contexts of one node, made from its pki directory.

    server, client: for accepting and for dialling, of the moment: ask for
    them with every connection.  listening: for a listener that takes one
    context once and for all, such as ``loop.create_server``: its connections
    use what `server` is when they shake hands.  authorities: the CAs that are
    trusted now, in PEM.  generation: grows with every exchange.
    """

    def __init__(self, pki_dir: Path) -> None:
        """Raises ConfigError for files that make no identity."""
        self._pki_dir = pki_dir
        self._trusted: dict[bytes, bool] = {}
        self._certificate = b""
        self._present: WeakSet[ssl.SSLContext] = WeakSet()  # contexts with the present certificate
        self.generation = 0
        self.server: ssl.SSLContext
        self.client: ssl.SSLContext
        self.authorities: tuple[str, ...]
        self.reload()
        self.listening = pki.server_context(pki_dir)
        self.listening.sni_callback = self._exchange

    def reload(self) -> None:
        """Read the files again: connections made from now on use them, those that live are left alone.

        Raises ConfigError; then everything is as it was.
        """
        server, client = pki.server_context(self._pki_dir), pki.peer_context(self._pki_dir)
        authorities = pki.read_authorities(self._pki_dir)
        certificate = pki.read_node_certificate(self._pki_dir).encode()
        if certificate != self._certificate:
            self._certificate = certificate
            self._present.clear()
        self._present.update((server, client))
        self.server, self.client, self.authorities = server, client, authorities
        self._trusted.clear()
        self.generation += 1

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
            known = any(pki.is_issued_by(certificate_der, ca) for ca in self.authorities)
            if len(self._trusted) < 1024:
                self._trusted[certificate_der] = known
        return known

    def _exchange(
        self, connection: ssl.SSLObject | ssl.SSLSocket, server_name: str | None, context: ssl.SSLContext
    ) -> None:
        # OpenSSL calls this with every ClientHello, with a server name or without one.
        connection.context = self.server
