"""The client of the control API, with the standard library only.

Every command imports this module, so it imports little: no ssl, asyncio,
pathlib or dataclasses.  ``http.client`` is not used because importing it
imports ssl and email (40 ms instead of 20 for a bare ``json`` and ``socket``);
what is needed of HTTP/1.1 is a request with a length and a response with a
length or chunks, read strictly and bounded.

What is known after a failure decides what happens next:

- nothing, or not the whole request, was sent: the next endpoint is tried;
- the node says "certainly not applied" (503): the next endpoint is tried;
- the whole request was sent and no answer came: a read is repeated on the next
  endpoint; a write only when it carries a request id (or is idempotent by
  itself, like a join), so that it cannot apply twice;
- any other answer is the answer.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from typing import TYPE_CHECKING, Any

from cyoloctl.control.table import path_for
from cyoloctl.errors import (
    AccessDenied,
    ClientTimeout,
    ConfigError,
    Conflict,
    CyoloctlError,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    Unavailable,
    Unreachable,
    UsageError,
    VersionMismatch,
)
from cyoloctl.web.encoding import (
    MAX_RESPONSE_BYTES,
    SCHEMA_VERSION,
    clean_text,
    decode_error,
    decode_object,
    encode_body,
)
from cyoloctl.web.schema import (
    KEEPALIVE_LINE_S,
    MAX_TIMEOUT_S,
    MIN_TIMEOUT_S,
    REQUEST_ID_PATTERN,
    REQUEST_ID_RULE,
    Route,
    check_name,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from cyoloctl.control.table import Node

__all__ = ["Client", "join_cluster", "member_endpoints", "new_request_id"]

_MAX_LINE_BYTES = 16 * 1024
_MAX_HEADERS = 100
_MAX_WATCH_LINE_BYTES = 1 << 20
_MAX_AUTHORITIES_BYTES = 64 * 1024  # whoever answers may send it
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")
# A node that says nothing in a watch for three keep-alive periods is gone.
_WATCH_SILENCE_S = 3 * KEEPALIVE_LINE_S
# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the ssl module has no name for.
_NO_CHECK_TIME = 0x200000
_NOT_A_NODE = "something that is not a cyoloctl node of this version answers"


def new_request_id() -> str:
    """A fresh request id: 32 hex characters, 128 random bits."""
    return os.urandom(16).hex()


class _NotSent(Exception):
    """The whole request did not leave: nothing can have been applied."""


class _Lost(Exception):
    """The request left and no complete answer came: for a write, the outcome is unknown."""

    def __init__(self, reason: str, *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


class _Deadline:
    """A point on the monotonic clock."""

    __slots__ = ("at",)

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())


# --- endpoints ----------------------------------------------------------------------------------


class _UnixEndpoint:
    """A control socket in the file system."""

    def __init__(self, text: str, path: str) -> None:
        self.text = text
        self.path = path

    def hint(self) -> str:
        directory = os.path.dirname(self.path) or "."
        return f"start the node with: cyoloctl node start -d {directory}"

    def connect(self, deadline: _Deadline) -> socket.socket:
        """A connected socket.  Raises _NotSent, AccessDenied."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(deadline.left(), 0.001))
            sock.connect(self.path)
        except PermissionError:
            sock.close()
            raise AccessDenied(
                f"{self.text}: permission denied; run as the user that runs the node, "
                "or use an https endpoint with --credentials FILE"
            ) from None
        except FileNotFoundError:
            sock.close()
            raise _NotSent("no such socket: the node is not running") from None
        except ConnectionRefusedError:
            sock.close()
            raise _NotSent("connection refused: the node is not running") from None
        except (OSError, ValueError) as error:
            sock.close()
            raise _NotSent(_why(error)) from None
        return sock


class _TlsEndpoint:
    """A node's address; `trust` says whom to believe and who we are.

    name: the node that must answer there; None: any of the cluster.
    """

    def __init__(self, text: str, host: str, port: int, trust: _Trust, name: str | None = None) -> None:
        self.text = text
        self.host = host
        self.port = port
        self.trust = trust
        self.name = name

    def hint(self) -> str:
        return "check the address and that the node runs there"

    def connect(self, deadline: _Deadline) -> socket.socket:
        """A socket with TLS up and the node's name verified.

        Raises _NotSent, AccessDenied, VersionMismatch, ConfigError.
        """
        tls = self._handshake(self.trust.context(), deadline)
        try:
            certificate: dict[str, Any] = tls.getpeercert() or {}
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
        except BaseException:
            tls.close()
            raise
        return tls

    def _handshake(self, context: ssl.SSLContext, deadline: _Deadline) -> ssl.SSLSocket:
        import ssl

        try:
            sock = socket.create_connection((self.host, self.port), timeout=max(deadline.left(), 0.001))
        except OSError as error:
            raise _NotSent(_why(error)) from None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(max(deadline.left(), 0.001))
            return context.wrap_socket(sock)
        except ssl.SSLCertVerificationError as error:
            sock.close()
            raise _untrusted(self.text, error.verify_message) from None
        except ssl.SSLError as error:
            sock.close()
            raise _tls_failure(self.text, error) or _NotSent(
                "not a cyoloctl node: it does not speak TLS 1.3"
            ) from None
        except OSError as error:
            sock.close()
            raise _NotSent(f"TLS handshake: {_why(error)}") from None


class _StrangerEndpoint(_TlsEndpoint):
    """An address of which nothing is believed: only for what is compared with something known."""

    def connect(self, deadline: _Deadline) -> socket.socket:
        """A socket with TLS up, with whoever answers.  Raises _NotSent, AccessDenied, VersionMismatch."""
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["http/1.1"])
        return self._handshake(context, deadline)


class _PinnedEndpoint(_TlsEndpoint):
    """A member's address in a join token, which knows the cluster's CA by its digest only.

    The CA is asked for first, of whoever answers, and believed when its digest is the one.
    """

    def __init__(self, text: str, host: str, port: int, trust: _PinnedTrust, name: str) -> None:
        super().__init__(text, host, port, trust, name)
        self._pinned = trust

    def connect(self, deadline: _Deadline) -> socket.socket:
        if not self._pinned.known:
            self._pinned.choose(self.text, self._authorities(deadline))
        return super().connect(deadline)

    def _authorities(self, deadline: _Deadline) -> list[Any]:
        route, path = path_for("ca")
        stranger = _StrangerEndpoint(self.text, self.host, self.port, self.trust)
        try:
            with _Exchange(stranger, deadline, deadline) as exchange:
                exchange.send(_request_bytes(route, _target(path, {}, deadline.left()), None))
                status, headers = exchange.head()
                value = exchange.answer(status, headers, exchange.body(headers, _MAX_AUTHORITIES_BYTES))
        except (AccessDenied, VersionMismatch):
            raise
        except (_Lost, CyoloctlError) as error:
            # Of the request that is meant, nothing was sent.
            raise _NotSent(f"it does not show its certificate authority ({error})") from None
        found = value.get("certificates")
        return found if isinstance(found, list) else []


_Endpoint = _UnixEndpoint | _TlsEndpoint


class _Trust:
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
        return f"<_Trust {self.cluster_id} (hidden)>"

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
                    f"{self._source}: its certificates or key cannot be used; get the file anew"
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


class _PinnedTrust(_Trust):
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


def _tls_failure(endpoint: str, error: ssl.SSLError) -> CyoloctlError | None:
    """The meaning of a TLS alert that the node sent us; None when it was not an alert."""
    reason = (error.reason or "").upper()
    if "ALERT" not in reason:
        return None
    if "PROTOCOL" in reason or "HANDSHAKE" in reason or "VERSION" in reason:
        return VersionMismatch(f"{endpoint}: the node refuses the TLS handshake; run the same release")
    words = reason.rpartition("ALERT_")[2].replace("_", " ").lower()
    return AccessDenied(
        f"{endpoint}: the node refuses our certificate ({words}); "
        "use credentials of this cluster that have not expired"
    )


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    text: str = getattr(error, "strerror", None) or str(error) or type(error).__name__
    # "No such file", but not "EOF occurred".
    return clean_text(text if text[:2].isupper() else text[:1].lower() + text[1:])


def _read_credentials(path: Path) -> _Trust:
    """Raises ConfigError for a file that is missing, open to others or damaged."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(1 << 20)
    except OSError as error:
        raise ConfigError(f"credentials file {path}: {_why(error)}; check --credentials FILE") from None
    if mode & 0o077:
        raise ConfigError(f"credentials file {path} is open to other users: run chmod 600 {path}")
    try:
        value = decode_object(raw, "credentials file")
        if value.get("schema_version") != 1:
            raise VersionMismatch(f"credentials file {path} has another schema version; get the file anew")
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
        raise ConfigError(f"credentials file {path} is damaged; get the file anew") from None
    return _Trust(ca, cluster, certificate, key, source=f"credentials file {path}", members=members)


def _read_key(path: Path, name: object) -> str:
    """The private key beside a credentials file that was made on request.

    Raises ConfigError; KeyError when its name is not one.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise KeyError
    key_path = os.path.join(os.path.dirname(os.path.abspath(path)), name)
    try:
        with open(key_path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(1 << 16).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"credentials file {path} belongs to the key {key_path}, which cannot be read ({_why(error)}); "
            "put both into one directory, on the machine that made the request"
        ) from None
    if mode & 0o077:
        raise ConfigError(f"key {key_path} is open to other users: run chmod 600 {key_path}")
    return key


def member_endpoints(credentials: Path) -> list[str]:
    """Endpoints of the members that a credentials file lists; empty for an older file.

    Raises ConfigError, VersionMismatch.
    """
    return [
        f"https://{name}@{where}" for name, where in (_read_credentials(credentials).members or {}).items()
    ]


def _parse_endpoint(text: str, trust: _Trust | None) -> _Endpoint:
    if text.startswith("unix://") and len(text) > len("unix://") and "\0" not in text:
        return _UnixEndpoint(text, text[len("unix://") :])
    if text.startswith("https://"):
        from cyoloctl.model import parse_address

        name, at, where = text[len("https://") :].rstrip("/").rpartition("@")
        try:
            if at:
                check_name(name, "node name")
            address = parse_address(where, "endpoint")
        except InvalidInput:
            address = None
        if address is not None:
            if trust is None:
                raise UsageError(f"{text} needs a certificate: use --credentials FILE")
            return _TlsEndpoint(text, address.host, address.port, trust, name or None)
    raise UsageError(
        f"endpoint {clean_text(text, 200)!r} is not valid: use unix:///PATH/control.sock, https://HOST:PORT "
        "or https://NAME@HOST:PORT"
    )


# --- HTTP ---------------------------------------------------------------------------------------


class _Exchange:
    """One request and its response on one connection."""

    def __init__(self, endpoint: _Endpoint, deadline: _Deadline, connect_deadline: _Deadline) -> None:
        self.endpoint = endpoint
        self.deadline = deadline
        self._buffer = bytearray()
        self._sock = endpoint.connect(connect_deadline)

    def __enter__(self) -> _Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._sock.close()

    def send(self, data: bytes) -> None:
        """Send a whole request.  Raises _NotSent, AccessDenied.

        When this fails, the kernel did not take the last byte, the node never
        has the whole request, and a request without its end is never executed.
        """
        try:
            self._sock.settimeout(max(self.deadline.left(), 0.001))
            self._sock.sendall(data)
        except OSError as error:
            # A node that refuses our certificate says so before it closes.
            self._raise_alert(error)
            if not isinstance(error, TimeoutError):
                try:
                    self._sock.recv(1)
                except OSError as last:
                    self._raise_alert(last)
            raise _NotSent(f"while sending: {_why(error)}") from None

    def _raise_alert(self, error: OSError) -> None:
        if hasattr(error, "reason"):  # ssl.SSLError, without importing ssl for a unix socket
            meaning = _tls_failure(self.endpoint.text, error)  # type: ignore[arg-type]  # see above
            if meaning is not None:
                raise meaning from None

    def _fill(self) -> bool:
        """Receive some bytes; False at the end.  Raises _Lost, AccessDenied."""
        left = self.deadline.left()
        if left <= 0:
            raise _Lost("no answer in time", timed_out=True)
        try:
            self._sock.settimeout(left)
            data = self._sock.recv(65536)
        except TimeoutError:
            raise _Lost("no answer in time", timed_out=True) from None
        except OSError as error:
            self._raise_alert(error)
            raise _Lost(f"connection lost: {_why(error)}") from None
        self._buffer += data
        return bool(data)

    def _line(self, prefix: bytes = b"") -> bytes:
        start = 0
        while (end := self._buffer.find(b"\n", start)) < 0:
            start = len(self._buffer)
            # Garbage may never have a line end: judge it by its first bytes.
            if start > _MAX_LINE_BYTES or not self._buffer.startswith(prefix[:start]):
                raise self.not_a_node()
            if not self._fill():
                raise _Lost("the node closed the connection before it answered")
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if not self._fill():
                raise _Lost("connection lost in the middle of the answer")
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def not_a_node(self) -> VersionMismatch:
        return VersionMismatch(f"{self.endpoint.text}: {_NOT_A_NODE} there; check the endpoint")

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers (names in lower case).  Raises _Lost, VersionMismatch, AccessDenied."""
        while True:
            line = self._line(b"HTTP/1.")
            found = _STATUS_LINE.fullmatch(line)
            if found is None:
                raise self.not_a_node()
            headers: dict[str, str] = {}
            while (line := self._line()) not in (b"\r\n", b"\n"):
                key, colon, value = line.decode("latin-1").partition(":")
                if not colon or len(headers) >= _MAX_HEADERS:
                    raise self.not_a_node()
                headers[key.strip().lower()] = value.strip()
            status = int(found[1])
            if status >= 200:
                return status, headers

    def body(self, headers: Mapping[str, str], limit: int = MAX_RESPONSE_BYTES) -> bytes:
        """The whole body, at most limit bytes.  Raises _Lost, VersionMismatch, AccessDenied."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            chunks: list[bytes] = []
            size = 0
            for chunk in self.chunks():
                size += len(chunk)
                if size > limit:
                    raise self.too_large(limit)
                chunks.append(chunk)
            return b"".join(chunks)
        length = headers.get("content-length")
        if length is not None:
            if not (length.isascii() and length.isdigit() and len(length) <= 12):
                raise self.not_a_node()
            if int(length) > limit:
                raise self.too_large(limit)
            return self._exactly(int(length))
        while self._fill():
            if len(self._buffer) > limit:
                raise self.too_large(limit)
        return bytes(self._buffer)

    def too_large(self, limit: int = MAX_RESPONSE_BYTES) -> VersionMismatch:
        return VersionMismatch(
            f"{self.endpoint.text}: the answer is larger than {limit} bytes; "
            "check the endpoint and run the same release"
        )

    def chunks(self) -> Iterator[bytes]:
        """The chunks of a chunked body.  Raises _Lost, VersionMismatch, AccessDenied."""
        while True:
            text = self._line().split(b";")[0].strip()
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", text):
                raise self.not_a_node()
            size = int(text, 16)
            if size > MAX_RESPONSE_BYTES:
                raise self.too_large()
            if size == 0:
                return
            data = self._exactly(size + 2)
            if data[-2:] != b"\r\n":
                raise self.not_a_node()
            yield data[:-2]

    def answer(self, status: int, headers: Mapping[str, str], raw: bytes) -> dict[str, Any]:
        """The object of a response; raises the error that it holds, or VersionMismatch."""
        try:
            if not headers.get("content-type", "").startswith(("application/json", "application/x-ndjson")):
                raise InvalidInput
            value = decode_object(raw, "answer", MAX_RESPONSE_BYTES)
        except InvalidInput:
            if status >= 500:
                # A proxy in front of a node answers like this when it lost the node.
                raise _Lost(f"a proxy answered with status {status}") from None
            raise self.not_a_node() from None
        if status == 200 and "openapi" in value:
            return value
        version = value.get("schema_version")
        if type(version) is not int:
            raise self.not_a_node()
        if version != SCHEMA_VERSION:
            raise VersionMismatch(
                f"{self.endpoint.text}: the node answers in schema version {version}, "
                f"this release speaks {SCHEMA_VERSION}; use a matching release"
            )
        error = decode_error(value, status)
        if error is not None:
            raise error
        if status != 200:
            raise self.not_a_node()
        return value


def _request_bytes(route: Route[Node], target: str, body: Mapping[str, Any] | None) -> bytes:
    lines = f"{route.method} {target} HTTP/1.1\r\nHost: cyoloctl\r\nConnection: close\r\n"
    if body is None:
        return (lines + "\r\n").encode("ascii")
    data = encode_body(body)
    lines += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return lines.encode("ascii") + data


def _target(path: str, query: Mapping[str, Any], timeout_s: float) -> str:
    # The node gives up a little before we do, so that its answer still arrives.
    seconds = max(MIN_TIMEOUT_S, timeout_s - min(0.25, timeout_s / 10))
    parts = [f"{key}={value}" for key, value in query.items() if value is not None]
    return f"{path}?{'&'.join([*parts, f'timeout_s={seconds:.3f}'])}"


# --- the client ---------------------------------------------------------------------------------


class Client:
    """A cluster, seen through one or several nodes' control endpoints.

    endpoints: ``unix:///PATH``, ``https://HOST:PORT`` or ``https://NAME@HOST:PORT``,
    tried in turn.  With a name exactly that node must answer, without one any
    of the members that the credentials file lists.
    credentials: the JSON file that an https endpoint needs (mode 0600).
    timeout_s: 0.1 to 300, for each call with all its attempts; for a watch,
    until its first line.

    Raises UsageError (endpoints, timeout), ConfigError (credentials file).
    Every method returns the JSON object of the answer and raises the error
    that the node answered with, or one of:

    - Unreachable: no endpoint could be reached, nothing was sent;
    - Unavailable (ClientTimeout, NoLeader, Overloaded): not applied, try again;
    - OutcomeUnknown: a write was sent and may or may not have been applied;
    - AccessDenied: wrong cluster, certificate or role;
    - VersionMismatch: another version, or not a cyoloctl node.
    """

    def __init__(self, endpoints: list[str], *, credentials: Path | None, timeout_s: float) -> None:
        if not endpoints:
            raise UsageError("no endpoint: use --data-dir DIR or --endpoint URL")
        _check_timeout(timeout_s)
        trust = None
        if credentials is not None and any(text.startswith("https://") for text in endpoints):
            trust = _read_credentials(credentials)
        self._endpoints = [_parse_endpoint(text, trust) for text in endpoints]
        self._timeout_s = timeout_s

    def health(self) -> dict[str, Any]:
        """The health of the first node that answers."""
        return self._call("health")

    def status(self) -> dict[str, Any]:
        """The cluster and its members, as the asked node knows them."""
        return self._call("status")

    def openapi(self) -> dict[str, Any]:
        """The node's OpenAPI document."""
        return self._call("openapi")

    def member_list(self) -> dict[str, Any]:
        """Every member."""
        return self._call("member_list")

    def member_show(self, name: str) -> dict[str, Any]:
        """One member.  Raises NotFound."""
        return self._call("member_show", name)

    def member_invite(self, name: str, *, learner: bool = False, ttl_s: int = 3600) -> dict[str, Any]:
        """A single-use join token, good for ttl_s (60 to 604800) seconds.

        It takes the place of an older one for this name, which admits nobody
        any more.  Not repeated when the outcome is unknown: then invite again.
        """
        return self._call("member_invite", body={"name": name, "learner": learner, "ttl_s": ttl_s})

    def member_invitations(self) -> dict[str, Any]:
        """Who is invited."""
        return self._call("member_invitations")

    def member_uninvite(self, name: str) -> dict[str, Any]:
        """Withdraw an invitation.  Raises NotFound, Conflict for a node that has joined."""
        return self._call("member_uninvite", name, body={})

    def ca(self) -> dict[str, Any]:
        """The cluster's certificate authorities, as the asked node knows them."""
        return self._call("ca")

    def join(
        self,
        *,
        name: str,
        public_key: str,
        signature: str,
        request_pem: str,
        sealing_key: str,
        address: str,
        ca_sha256: str,
    ) -> dict[str, Any]:
        """Redeem a join token; idempotent for the same request.  Raises InvitationRejected.

        A node that has no certificate yet uses `join_cluster`.
        """
        body = {
            "name": name,
            "public_key": public_key,
            "signature": signature,
            "request_pem": request_pem,
            "sealing_key": sealing_key,
            "address": address,
            "ca_sha256": ca_sha256,
        }
        return self._call("join", body=body, repeatable=True)

    def member_remove(self, name: str, *, force: bool = False, dry_run: bool = False) -> dict[str, Any]:
        """Remove a member, or only say what it would cost.  Raises NotFound, Conflict."""
        return self._call(
            "member_remove", name, body={"force": force, "dry_run": dry_run}, repeatable=dry_run
        )

    def transfer_leadership(self, to: str | None = None) -> dict[str, Any]:
        """Hand leadership to a voter, None: to the most advanced one.  Raises NotFound, Conflict."""
        return self._call("transfer_leadership", body={"to": to})

    def set_time(self, *, dry_run: bool, request_id: str | None = None) -> dict[str, Any]:
        """Set cluster time to what a majority of the members' clocks show.  Raises Conflict."""
        return self.call("set_time", body={"dry_run": dry_run, "request_id": request_id}, repeatable=True)

    def counter_add(self, name: str, by: int, *, request_id: str | None = None) -> dict[str, Any]:
        """Add `by` (signed 64-bit, not 0) exactly once per request id.

        request_id: 1 to 128 printable ASCII characters; None makes a fresh one,
        so that a retry on another endpoint cannot apply twice.
        Raises CounterOverflow.
        """
        if type(by) is not int or not -(2**63) <= by <= 2**63 - 1 or by == 0:
            raise InvalidInput("by must be a signed 64-bit number other than 0")
        return self._call(
            "counter_increment" if by > 0 else "counter_decrement",
            name,
            body={"by": abs(by), "request_id": _request_id(request_id)},
        )

    def counter_reset(self, name: str, *, request_id: str | None = None) -> dict[str, Any]:
        """Set a counter to 0, once per request id.  Raises NotFound."""
        return self._call("counter_reset", name, body={"request_id": _request_id(request_id)})

    def counter_get(self, name: str, *, stale: bool = False) -> dict[str, Any]:
        """A counter: linearizable, or with stale what the asked node has.  Raises NotFound."""
        return self._call("counter_get", name, query=_consistency(stale))

    def counter_list(
        self, *, after: str | None = None, limit: int = 100, stale: bool = False
    ) -> dict[str, Any]:
        """A page of 1 to 1000 counters by name, after the name `after`."""
        if after is not None:
            check_name(after, "counter name")
        if type(limit) is not int or not 1 <= limit <= 1000:
            raise InvalidInput("limit must be 1 to 1000")
        return self._call("counter_list", query={"limit": limit, "after": after, **_consistency(stale)})

    def counter_watch(self, name: str) -> Iterator[dict[str, Any]]:
        """The present value, then every change that this node reports, until the caller stops.

        The request is made by the first `next`.  Raises NotFound; when the
        stream ends or goes silent for 30 s, Unavailable: watch again.
        """
        return self._watch("counter_watch", name)

    def call(
        self,
        operation: str,
        name: str = "",
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        *,
        repeatable: bool = False,
    ) -> dict[str, Any]:
        """Any operation of the API (token_mint, key_list...), with the fields of its body and query.

        An operation that takes a request id gets a fresh one where the body
        has none.  repeatable: sending it twice does no harm.
        """
        route = path_for(operation, name)[0]
        if route.body:
            body = dict(body or {})
            if "request_id" in route.body_fields:
                body["request_id"] = _request_id(body.get("request_id"))
        return self._call(operation, name, body=body, query=query, repeatable=repeatable)

    def stop(self, *, force: bool = False) -> dict[str, Any]:
        """Stop the node at the first endpoint, and only that one: never another in its stead.

        Raises Conflict when that would end a cluster in memory, unless force.
        """
        return self._call("stop", body={"force": force}, only_first=True)

    def _call(
        self,
        operation: str,
        name: str = "",
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        repeatable: bool = False,
        only_first: bool = False,
    ) -> dict[str, Any]:
        endpoints = self._endpoints[:1] if only_first else self._endpoints
        return _call(
            endpoints, self._timeout_s, operation, name, body=body, query=query or {}, repeatable=repeatable
        )

    def _watch(self, operation: str, name: str) -> Iterator[dict[str, Any]]:
        route, path = path_for(operation, name)
        deadline = _Deadline(self._timeout_s)
        failures = _Failures(route, None)
        exchange: _Exchange | None = None
        for position, endpoint in enumerate(self._endpoints):
            budget = deadline.left() / (len(self._endpoints) - position)
            share = _Deadline(budget)
            try:
                exchange = _Exchange(endpoint, share, share)
                try:
                    exchange.send(_request_bytes(route, _target(path, {}, budget), None))
                    status, headers = exchange.head()
                    if status != 200 or headers.get("transfer-encoding", "").lower() != "chunked":
                        exchange.answer(status, headers, exchange.body(headers))
                        raise exchange.not_a_node()
                    break
                except BaseException:
                    exchange.__exit__()
                    raise
            except (_NotSent, _Lost, Unavailable, AccessDenied, VersionMismatch) as error:
                failures.add(endpoint, error)
        else:
            raise failures.error()
        with exchange:
            pending = b""
            chunks = exchange.chunks()
            while True:
                exchange.deadline = _Deadline(_WATCH_SILENCE_S)
                try:
                    chunk = next(chunks, None)
                except _Lost as error:
                    raise Unavailable(f"{endpoint.text}: the watch ended ({error}); watch again") from None
                if chunk is None:
                    raise Unavailable(f"{endpoint.text}: the node ended the watch; watch again")
                *lines, pending = (pending + chunk).split(b"\n")
                if len(pending) > _MAX_WATCH_LINE_BYTES:
                    raise exchange.too_large()
                for line in lines:
                    if line.strip():
                        try:
                            yield exchange.answer(200, headers, line)
                        except _Lost as error:
                            raise Unavailable(f"{endpoint.text}: {error}; watch again") from None


def join_cluster(
    members: Sequence[tuple[str, str]],
    ca_sha256: str,
    cluster_id: str,
    body: Mapping[str, Any],
    timeout_s: float,
) -> dict[str, Any]:
    """Redeem a join token without a certificate of our own: the grant object.

    members: names with HOST:PORT, tried in turn; the node of that name, and no
    other, must answer there.  ca_sha256 and cluster_id come from the token,
    and pin whom we talk to before anything is sent.  No clock of ours decides
    anything.  body: name, public_key, signature, request_pem, sealing_key,
    address, ca_sha256.  timeout_s: 0.1 to 300, overall.  The same body may be sent again
    after any failure.

    Raises what Client raises, and InvitationRejected.
    """
    from cyoloctl.model import parse_address

    if not members:
        raise InvalidInput("the join token names no member; ask for a new one")
    _check_timeout(timeout_s)
    trust = _PinnedTrust(ca_sha256, cluster_id, source="the join token")
    endpoints: list[_Endpoint] = []
    for name, address in members:
        where = parse_address(address)
        endpoints.append(_PinnedEndpoint(f"https://{name}@{where}", where.host, where.port, trust, name))
    return _call(endpoints, timeout_s, "join", "", body=body, query={}, repeatable=True)


def _check_timeout(timeout_s: float) -> None:
    if not MIN_TIMEOUT_S <= timeout_s <= MAX_TIMEOUT_S:
        raise UsageError(f"the timeout must be {MIN_TIMEOUT_S} to {MAX_TIMEOUT_S:.0f} seconds")


def _request_id(given: str | None) -> str:
    if given is None:
        return new_request_id()
    if not re.fullmatch(REQUEST_ID_PATTERN, given):
        raise InvalidInput(f"the request id is not valid: use {REQUEST_ID_RULE}")
    return given


def _consistency(stale: bool) -> dict[str, str]:
    return {"consistency": "stale"} if stale else {}


class _Failures:
    """What went wrong at each endpoint, and which error that makes in the end."""

    def __init__(self, route: Route[Node], request_id: str | None) -> None:
        self._route = route
        self._request_id = request_id
        self._seen: list[tuple[_Endpoint, Exception]] = []
        self.unknown = False

    def add(self, endpoint: _Endpoint, error: Exception) -> None:
        """Note a failure; a lost answer to a write makes the outcome unknown."""
        if isinstance(error, OutcomeUnknown) or (isinstance(error, _Lost) and self._route.write):
            self.unknown = True
        self._seen.append((endpoint, error))

    def reasons(self) -> str:
        """Every endpoint with its reason."""
        parts = []
        for endpoint, error in self._seen:
            text = str(error)
            parts.append(text if text.startswith(endpoint.text) else f"{endpoint.text}: {text}")
        return "; ".join(parts)

    def error(self) -> CyoloctlError:
        """The error to raise: what is known about the outcome comes first."""
        if self.unknown:
            advice = (
                f"retry with --request-id {self._request_id}"
                if self._request_id
                else "look at the state before you retry"
            )
            return OutcomeUnknown(f"the outcome is unknown ({self.reasons()}); {advice}")
        for kind in (Unavailable, AccessDenied, VersionMismatch):
            for _, error in self._seen:
                if isinstance(error, kind):
                    return error
        lost = [error for _, error in self._seen if isinstance(error, _Lost)]
        if lost:
            text = f"{self.reasons()}; try again"
            return ClientTimeout(text) if lost[-1].timed_out else Unavailable(text)
        hints = list(dict.fromkeys(endpoint.hint() for endpoint, _ in self._seen))
        return Unreachable(f"no node could be reached: {self.reasons()}; {'; '.join(hints)}")


def _call(
    endpoints: Sequence[_Endpoint],
    timeout_s: float,
    operation: str,
    name: str,
    *,
    body: Mapping[str, Any] | None,
    query: Mapping[str, Any],
    repeatable: bool,
) -> dict[str, Any]:
    route, path = path_for(operation, name)
    if body is not None:
        # The node would say the same, but only after it was reached.
        route.check_body(body)
    request_id = body.get("request_id") if body is not None else None
    repeatable = repeatable or not route.write or request_id is not None
    deadline = _Deadline(timeout_s)
    failures = _Failures(route, request_id)
    for position, endpoint in enumerate(endpoints):
        # A node that hangs must leave time for the others; what cannot be
        # repeated elsewhere shares only the time to connect.
        share = _Deadline(deadline.left() / (len(endpoints) - position))
        limit = share if repeatable else deadline
        try:
            with _Exchange(endpoint, limit, share) as exchange:
                exchange.send(_request_bytes(route, _target(path, query, limit.left()), body))
                status, headers = exchange.head()
                raw = exchange.body(headers)
        except (_NotSent, AccessDenied) as error:
            # TLS said no, in either direction: nothing was applied.
            failures.add(endpoint, error)
            continue
        except (_Lost, VersionMismatch) as error:
            failures.add(endpoint, error)
            if repeatable:
                continue
            break
        try:
            return exchange.answer(status, headers, raw)
        except Unavailable as error:
            failures.add(endpoint, error)
        except (_Lost, OutcomeUnknown, VersionMismatch) as error:
            failures.add(endpoint, error)
            if not repeatable:
                break
        except CyoloctlError as error:
            # The cluster's refusal of this very request id settles an earlier
            # attempt as well; a refusal by one node does not.
            if not failures.unknown or isinstance(error, (InvalidInput, Conflict, NotFound)):
                raise
            failures.add(endpoint, error)
    raise failures.error()
