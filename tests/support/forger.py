"""What a thief makes of a stolen CA key, with plain `cryptography` and nothing of ours.

Files are those of a node's ``pki`` directory: ca.crt and ca.key.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Forged", "Forger"]


@dataclass(frozen=True)
class Forged:
    """A certificate and its key, PEM."""

    certificate_pem: str
    key_pem: str

    @property
    def der(self) -> bytes:
        certificate = x509.load_pem_x509_certificate(self.certificate_pem.encode())
        return certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_hash(self) -> str:
        certificate = x509.load_pem_x509_certificate(self.certificate_pem.encode())
        return sha256(
            certificate.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        ).hexdigest()

    def write(self, directory: Path) -> tuple[Path, Path]:
        """(certificate file, key file)."""
        directory.mkdir(parents=True, exist_ok=True)
        paths = directory / "forged.crt", directory / "forged.key"
        paths[0].write_text(self.certificate_pem)
        paths[1].write_text(self.key_pem)
        return paths


class Forger:
    """Holds a stolen CA: signs what it likes."""

    def __init__(self, pki_dir: Path) -> None:
        self.ca_pem = (pki_dir / "ca.crt").read_text()
        self._ca = x509.load_pem_x509_certificate(self.ca_pem.encode())
        key = serialization.load_pem_private_key((pki_dir / "ca.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        limits = self._ca.extensions.get_extension_for_class(x509.NameConstraints).value
        assert limits.permitted_subtrees is not None
        self.cluster_id = str(limits.permitted_subtrees[0].value).partition(".")[0]

    def certificate(
        self, name: str, role: str, *, days: float = 300, key_pem: str | None = None, sans: int = 1
    ) -> Forged:
        """A certificate for any name and role, as the cluster's own look.  key_pem: None: a fresh key."""
        key: ec.EllipticCurvePrivateKey
        if key_pem is None:
            key = ec.generate_private_key(ec.SECP256R1())
        else:
            loaded = serialization.load_pem_private_key(key_pem.encode(), None)
            assert isinstance(loaded, ec.EllipticCurvePrivateKey)
            key = loaded
        now = datetime.datetime.now(datetime.UTC)
        ends = min(now + datetime.timedelta(days=days), self._ca.not_valid_after_utc)
        dns = f"{name}.{role}.{self.cluster_id}.cyoloctl"
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, ends) - datetime.timedelta(days=400))
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.KeyUsage(True, False, False, False, False, False, False, False, False), critical=True
            )
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(dns)] * sans), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        key_text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        return Forged(certificate.public_bytes(serialization.Encoding.PEM).decode(), key_text)

    def credentials(self, path: Path, name: str, role: str, forged: Forged | None = None) -> Path:
        """A credentials file with a forged certificate, mode 0600."""
        forged = forged or self.certificate(name, role)
        path.touch(0o600)
        path.write_text(
            json.dumps(
                {
                    "schema_version": 1,
                    "role": role,
                    "name": name,
                    "cluster_id": self.cluster_id,
                    "ca_pem": self.ca_pem,
                    "certificate_pem": forged.certificate_pem,
                    "key_pem": forged.key_pem,
                }
            )
        )
        return path
