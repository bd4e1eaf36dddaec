"""Certificates that `workbench certs` does not issue, signed by an authority that it made."""

from __future__ import annotations

import ipaddress
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def copy_authority(source: Path, target: Path) -> None:
    (target / "authority").mkdir(parents=True)
    shutil.copy(source / "ca.pem", target)
    shutil.copy(source / "authority" / "ca.key", target / "authority")


def sign(
    folder: Path,
    target: Path,
    name: str,
    *,
    uris: Sequence[str] = (),
    hosts: Sequence[str] = ("localhost", "127.0.0.1"),
    uses: Sequence[x509.ObjectIdentifier] | None = BOTH,
) -> Path:
    """Write a certificate by `folder`'s authority to `target` as NAME.pem, with its key and ca.pem.

    `uses` None leaves the extended key usage out.
    """
    authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    key = serialization.load_pem_private_key((folder / "authority" / "ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    own, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "forged")])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(authority.subject).public_key(own.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + timedelta(days=1))
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if uses is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "ca.pem", target)
    (target / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (target / f"{name}.key").write_bytes(secret)
    return target
