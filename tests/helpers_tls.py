"""Certificates as an operator makes them: an authority, and one for each host's address."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates; its own lies in ``folder``."""

    def __init__(self, folder: Path) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec

        folder.mkdir()
        self.folder, self.file, self._key = folder, folder / "ca.crt", ec.generate_private_key(ec.SECP256R1())
        self._name = _name("authority of a test")
        made = _builder(self._name, self._name, self._key.public_key(), DAY).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        _write(self.file, made, self._key)

    def variables(self, address: str, valid: datetime.timedelta = DAY) -> dict[str, str]:
        """The environment of a host at ``address``: TLS with a certificate of its own, valid so long from now."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        key = ec.generate_private_key(ec.SECP256R1())
        certificate, secret = self.folder / f"{address}.crt", self.folder / f"{address}.key"
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        made = _builder(_name(address), self._name, key.public_key(), valid).add_extension(names, critical=False)
        _write(certificate, made, self._key)
        secret.touch(mode=0o600)
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return {
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": str(certificate),
            "RAY_TLS_SERVER_KEY": str(secret),
            "RAY_TLS_CA_CERT": str(self.file),
        }


def _name(common: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, valid: datetime.timedelta
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.timezone.utc)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return (
        made.serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + valid) - DAY)
        .not_valid_after(now + valid)
    )


def _write(path: Path, made: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    path.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
