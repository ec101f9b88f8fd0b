"""Endpoints with TLS, and trust in them: addresses, credentials files, join tokens.

No ssl at import: many of these are made by commands that then have nothing to do.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

from cyoloctl.control import blocking
from cyoloctl.control.http1 import (
    Exchange,
    Lost,
    NotSent,
    request_bytes,
    target,
    tls_failure,
    why,
)
from cyoloctl.control.table import path_for
from cyoloctl.errors import AccessDenied, ConfigError, CyoloctlError, InvalidInput, VersionMismatch
from cyoloctl.web.encoding import clean_text, decode_object

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cyoloctl.web.lookup import Host, Place
    from cyoloctl.web.steps import Steps, Until

__all__ = ["PinnedEndpoint", "PinnedTrust", "TlsEndpoint", "Trust", "member_endpoints", "read_credentials"]

_MAX_AUTHORITIES_BYTES = 64 * 1024  # whoever answers may send it
# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the ssl module has no name for.
_NO_CHECK_TIME = 0x200000


class TlsEndpoint:
    """A node's address; `trust` says whom to believe and who we are.

    name: the node that must answer there; None: any of the cluster.
    """

    def __init__(self, text: str, host: str, port: int, trust: Trust, name: str | None = None) -> None:
        self.text = text
        self.host = host
        self.port = port
        self.trust = trust
        self.name = name
        self._host: Host | None = None

    def hint(self) -> str:
        return "check the address and that the node runs there"

    def look_up(self) -> Host:
        """What is known of the host; a look-up of its name runs from now on."""
        if self._host is None:
            from cyoloctl.web.lookup import Host

            self._host = Host(self.host, self.port)
        self._host.begin()
        return self._host

    def connect(self, deadline: Until) -> socket.socket:
        """A socket with TLS up and the node's name verified.

        Raises NotSent, AccessDenied, VersionMismatch, ConfigError.
        """
        tls = self._handshake(self.trust.context(), deadline)
        try:
            self.check(tls.getpeercert() or {})
        except BaseException:
            tls.close()
            raise
        return tls

    def check(self, certificate: Mapping[str, Any]) -> None:
        """Refuse a certificate that is not that of the node that is meant.  Raises AccessDenied."""
        names = [str(name) for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS"]
        suffix = f".node.{self.trust.cluster_id}.cyoloctl"
        if len(names) != 1 or not names[0].endswith(suffix):
            raise _untrusted(self.text, "its certificate does not name a node of this cluster")
        who = clean_text(names[0].removesuffix(suffix), 80)
        if self.name is not None and names != [self.name + suffix]:
            raise AccessDenied(
                f"{self.text}: {who} answers there, not {self.name}: nothing was sent; "
                "check the address, and that nobody else took it"
            )
        if self.name is None:
            self.trust.check_node(self.text, who)
        self.trust.check_date(self.text, who, certificate)

    def _handshake(self, context: ssl.SSLContext, deadline: Until) -> ssl.SSLSocket:
        sock = self._connected(deadline)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(max(deadline.left(), 0.001))
            return context.wrap_socket(sock)
        except OSError as error:
            sock.close()
            raise self.handshake_failure(error) from None

    def handshake_failure(self, error: OSError) -> CyoloctlError | NotSent:
        """The meaning of a failure of the TLS handshake."""
        import ssl

        if isinstance(error, ssl.SSLCertVerificationError):
            return _untrusted(self.text, error.verify_message)
        if isinstance(error, ssl.SSLError):
            return tls_failure(self.text, error) or NotSent("not a cyoloctl node: it does not speak TLS 1.3")
        return NotSent(f"TLS handshake: {why(error)}")

    def places(self, deadline: Until) -> list[Place]:
        """The host's places to connect to, in order.  Waits for their look-up.  Raises NotSent."""
        try:
            return self.look_up().places(deadline.left())
        except TimeoutError:
            raise NotSent(f"the name {self.host} was not looked up in time: no name server answers") from None
        except OSError as error:
            raise NotSent(why(error)) from None

    def _connected(self, deadline: Until) -> socket.socket:
        """A TCP connection to the first of the host's places that takes one.  Raises NotSent."""
        host, places = self.look_up(), self.places(deadline)
        problem = "the name has no address"
        for position, (family, where) in enumerate(places):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                # A place that swallows everything must leave time for the next one.
                sock.settimeout(max(deadline.left() / (len(places) - position), 0.001))
                sock.connect(where)
            except OSError as error:
                sock.close()
                problem = why(error)
                continue
            host.worked((family, where))
            return sock
        raise NotSent(problem)


class StrangerEndpoint(TlsEndpoint):
    """An address of which nothing is believed: only for what is compared with something known."""

    def connect(self, deadline: Until) -> socket.socket:
        """A socket with TLS up, with whoever answers.  Raises NotSent, AccessDenied, VersionMismatch."""
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["http/1.1"])
        return self._handshake(context, deadline)


class PinnedEndpoint(TlsEndpoint):
    """A member's address in a join token, which knows the cluster's CA by its digest only.

    The CA is asked for first, of whoever answers, and believed when its digest is the one.
    """

    def __init__(self, text: str, host: str, port: int, trust: PinnedTrust, name: str) -> None:
        super().__init__(text, host, port, trust, name)
        self._pinned = trust

    def connect(self, deadline: Until) -> socket.socket:
        if not self._pinned.known:
            self._pinned.choose(self.text, self._authorities(deadline))
        return super().connect(deadline)

    def _authorities(self, deadline: Until) -> list[Any]:
        stranger = StrangerEndpoint(self.text, self.host, self.port, self.trust)
        try:
            value = blocking.run(_ask_for_authorities(stranger, deadline))
        except (AccessDenied, VersionMismatch):
            raise
        except (Lost, CyoloctlError) as error:
            # Of the request that is meant, nothing was sent.
            raise NotSent(f"it does not show its certificate authority ({error})") from None
        found = value.get("certificates")
        return found if isinstance(found, list) else []


def _ask_for_authorities(stranger: StrangerEndpoint, deadline: Until) -> Steps[dict[str, Any]]:
    route, path = path_for("ca")
    with (yield from Exchange.open(stranger, deadline, deadline)) as exchange:
        yield from exchange.send(request_bytes(route, target(path, {}, deadline.left()), None))
        status, headers = yield from exchange.head()
        raw = yield from exchange.body(headers, _MAX_AUTHORITIES_BYTES)
        return exchange.answer(status, headers, raw)


class Trust:
    """A cluster's CA and, perhaps, our certificate.  The TLS context is made when first needed."""

    def __init__(
        self,
        ca_pem: str,
        cluster_id: str,
        certificate_pem: str = "",
        key_pem: str = "",
        source: str = "",
        members: Mapping[str, str] | None = None,
    ) -> None:
        """members: names and addresses of the nodes that may answer; None: any node of the cluster."""
        self.cluster_id = cluster_id
        self.members = members
        self._ca_pem = ca_pem
        self._certificate_pem = certificate_pem
        self._key_pem = key_pem
        self._source = source
        self._context: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"<Trust {self.cluster_id} (hidden)>"

    def context(self) -> ssl.SSLContext:
        """The context.  Raises ConfigError when the credentials are damaged."""
        if self._context is None:
            import ssl

            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            # Certificates name nodes, not addresses: connect() checks the name itself.
            context.check_hostname = False
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.set_alpn_protocols(["http/1.1"])
            # Dates are judged after the handshake, where it can be said by which clock.  Those of our own
            # certificate the node judges, by the cluster's time.
            context.verify_flags |= _NO_CHECK_TIME
            try:
                context.load_verify_locations(cadata=self._ca_pem)
                if self._key_pem:
                    _load_chain(context, self._certificate_pem + "\n" + self._key_pem)
            except (ssl.SSLError, ValueError, TypeError, IndexError, OSError):  # TypeError: not ASCII
                raise ConfigError(
                    f"{self._source}: its certificates or key cannot be used; get the file again"
                ) from None
            self._context = context
        return self._context

    def check_node(self, endpoint: str, who: str) -> None:
        """Refuse a node that the credentials file does not list.  Raises AccessDenied."""
        if self.members is not None and who not in self.members:
            raise AccessDenied(
                f"{endpoint}: {who} answers there, which is not among the members in {self._source}: nothing "
                f"was sent; if it joined since the file was made, use https://{who}@HOST:PORT, or have the "
                "file made again (cyoloctl credentials renew)"
            )

    def check_date(self, endpoint: str, who: str, certificate: Mapping[str, Any]) -> None:
        """Refuse a node whose certificate has ended by the clock of this machine.  Raises AccessDenied."""
        import ssl

        ends = ssl.cert_time_to_seconds(str(certificate.get("notAfter", "")))
        now = time.time()
        if now >= ends:
            raise AccessDenied(
                f"{endpoint}: the certificate of node {who} ended at {_utc(ends)} and the clock of this "
                f"machine says {_utc(now)}: nothing was sent; set this clock, or, if it is right, run "
                f"`cyoloctl node renew` on {who}"
            )


class PinnedTrust(Trust):
    """CAs that are known by their SHA-256, until `choose` was shown the certificates.

    ca_sha256: hex; of two, with a comma, while the cluster exchanges its CA.

    Dates are not judged: the machine that joins may have a clock that is
    wrong, and the cluster keeps its own time.
    """

    def __init__(self, ca_sha256: str, cluster_id: str, source: str) -> None:
        super().__init__("", cluster_id, source=source)
        self._ca_sha256 = ca_sha256

    def check_date(self, endpoint: str, who: str, certificate: Mapping[str, Any]) -> None:
        pass

    @property
    def known(self) -> bool:
        """Whether the CA was found."""
        return bool(self._ca_pem)

    def choose(self, endpoint: str, certificates: Sequence[Any]) -> None:
        """Take the certificates with the right digests.  Raises AccessDenied when none is among them."""
        import ssl
        from hashlib import sha256

        found = ""
        for pem in certificates:
            try:
                der = ssl.PEM_cert_to_DER_cert(pem)
            except (ValueError, TypeError, AttributeError):
                continue
            if sha256(der).hexdigest() in self._ca_sha256.split(","):
                found += ssl.DER_cert_to_PEM_cert(der)
        if found:
            self._ca_pem = found
            return
        raise AccessDenied(
            f"{endpoint}: whoever answers there belongs to another cluster than the join token, or the "
            "cluster has a new certificate authority since: nothing was sent; check the address, "
            "or invite the node again (cyoloctl member invite)"
        )


def _utc(unix_s: float) -> str:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))
    except (ValueError, OverflowError, OSError):
        return f"{unix_s:.0f} s since 1970"


def _load_chain(context: ssl.SSLContext, pem: str) -> None:
    # The ssl module takes the key from a file only: one without a name where the
    # system has those, else one that exists for a moment and only for us.
    data = pem.encode("ascii")
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("credentials", os.MFD_CLOEXEC)
        try:
            os.write(fd, data)
            # With a password, or OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(f"/proc/self/fd/{fd}", password="")
        finally:
            os.close(fd)
        return
    import tempfile

    fd, path = tempfile.mkstemp(prefix="cyoloctl-")
    try:
        os.write(fd, data)
        os.close(fd)
        context.load_cert_chain(path, password="")
    finally:
        os.unlink(path)


def _untrusted(endpoint: str, why: str) -> AccessDenied:
    return AccessDenied(
        f"{endpoint}: the node belongs to another cluster, or the credentials do ({clean_text(why)}); "
        "check the address and --credentials FILE"
    )


def read_credentials(path: str | os.PathLike[str]) -> Trust:
    """The trust in a credentials file.  Raises ConfigError if it is missing, open to others or damaged."""
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            raw = file.read(1 << 20)
    except OSError as error:
        raise ConfigError(f"credentials file {path}: {why(error)}; check --credentials FILE") from None
    try:
        value = decode_object(raw, "credentials file")
        if value.get("schema_version") != 1:
            raise VersionMismatch(f"credentials file {path} has another schema version; get the file again")
        ca, cluster, certificate = (value[name] for name in ("ca_pem", "cluster_id", "certificate_pem"))
        key = value["key_pem"] if "key_pem" in value else _read_key(path, value["key_file"])
        members = value.get("members")
        if not all(isinstance(text, str) and text for text in (ca, cluster, certificate, key)):
            raise KeyError
        if members is not None and not (
            isinstance(members, dict) and all(isinstance(address, str) for address in members.values())
        ):
            raise KeyError
    except (InvalidInput, KeyError):
        raise ConfigError(
            f"{path} is no credentials file, or it is damaged: get the file again, or name another one "
            "with --credentials FILE"
        ) from None
    _refuse_open_to_others(path, found, "credentials file")
    return Trust(ca, cluster, certificate, key, source=f"credentials file {path}", members=members)


def _read_key(path: str | os.PathLike[str], name: object) -> str:
    """The private key beside a credentials file that was made on request.

    Raises ConfigError; KeyError when its name is not one.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise KeyError
    key_path = os.path.join(os.path.dirname(os.path.abspath(path)), name)
    try:
        with open(key_path, "rb") as file:
            found = os.fstat(file.fileno())
            key = file.read(1 << 16).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"credentials file {path} belongs to the key {key_path}, which cannot be read ({why(error)}); "
            "put both into one directory, on the machine that made the request"
        ) from None
    if "PRIVATE KEY" not in key:  # whoever made the credentials file chose the name
        raise KeyError
    _refuse_open_to_others(key_path, found, "key")
    return key


def _refuse_open_to_others(path: str | os.PathLike[str], found: os.stat_result, what: str) -> None:
    """Raise ConfigError for a file that others may read.  Its contents are those of such a file."""
    if not found.st_mode & 0o077:
        return
    from cyoloctl.paths import quoted

    remedy = f"run `chmod 600 {quoted(path)}`"
    if found.st_uid != os.geteuid():
        remedy = f"it belongs to user {found.st_uid}: make a copy of your own, mode 0600"
    raise ConfigError(f"{what} {os.fspath(path)} is open to other users: {remedy}")


def member_endpoints(credentials: Path) -> list[str]:
    """Endpoints of the members that a credentials file lists; empty for an older file.

    Raises ConfigError, VersionMismatch.
    """
    return [
        f"https://{name}@{where}" for name, where in (read_credentials(credentials).members or {}).items()
    ]
