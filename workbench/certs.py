"""Development certificates: an authority of one's own and, signed by it, certificates for edge, cloud and client.

::

    ca.pem ca.key -> edge.pem edge.key        serves clients; is the cloud's only client
                  -> cloud.pem cloud.key      serves the edge
                  -> client.pem client.key    a phone

ECDSA on P-256. Who may speak with whom hangs on the role in a certificate's subject alternative name, `urn:pmc2:edge`, `:cloud`
or `:client`: all three come from one authority, and a phone's must not open the cloud. Keys are readable by their owner alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .errors import UsageError
from .storage import replacing

__all__ = ["ROLES", "Role", "issue", "role_of"]

Role = Literal["edge", "cloud", "client"]
ROLES: tuple[Role, ...] = get_args(Role)
LOCAL = ("localhost", "127.0.0.1", "::1")
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
USES = {"edge": [SERVER, CLIENT], "cloud": [SERVER], "client": [CLIENT]}
SKEW = timedelta(minutes=5)  # that a machine's clock may be behind


def issue(
    folder: Path,
    names: Sequence[str] = LOCAL,
    roles: Sequence[Role] = ROLES,
    days: int = 365,
    now: datetime | None = None,
) -> list[Path]:
    """Write an authority, unless one is there, and a new certificate with its key for each role; return the files written.

    `names` are the host names and addresses by which edge and cloud are reached; `days`, at most 825, is how long the
    certificates hold (the authority: ten times as long, ten years at most). Called again it renews them under the same
    authority, so that what trusts it goes on. Raises UsageError for a name or a number that cannot be, for a role that there is
    not, and for an authority that is unreadable or has expired; nothing is written then.
    """
    now = now or datetime.now(UTC)
    if not 1 <= days <= 825:
        raise UsageError(f"certificates can hold for 1 to 825 days, got {days}")
    if wrong := set(roles) - set(ROLES):
        raise UsageError(f"no role {', '.join(sorted(wrong))}: choose among {', '.join(ROLES)}")
    hosts = [_host(name) for name in names]
    if not hosts:
        raise UsageError("edge and cloud need at least one host name or address")
    written: list[Path] = []
    authority, key, made = _authority(folder, days, now)
    if made:
        written += _write(folder, "ca", authority, key)
    until = min(now + timedelta(days=days), authority.not_valid_after_utc)
    for role in roles:
        own = ec.generate_private_key(ec.SECP256R1())
        written += _write(folder, role, _certificate(role, own, hosts, authority, key, now, until), own)
    return written


def role_of(certificate: bytes) -> Role | None:
    """Return the role that a certificate (DER) gives its owner; None where it gives none. Whether it holds, TLS has checked."""
    try:
        names = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        found = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound):
        return None
    return next((role for role in ROLES if f"urn:pmc2:{role}" in found), None)


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    labels = name.removeprefix("*.").split(".")
    if len(name) > 253 or not all(0 < len(label) < 64 and label.replace("-", "").isalnum() for label in labels):
        raise UsageError(f"{name!r} is neither a host name nor an address")
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise UsageError(f"host name {name!r} must be written in ASCII (xn--...)") from error


def _authority(folder: Path, days: int, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey, bool]:
    """Return the folder's authority and its key, and whether they are new."""
    paths = folder / "ca.pem", folder / "ca.key"
    if not any(path.exists() for path in paths):
        key = ec.generate_private_key(ec.SECP256R1())
        return _root(key, now, now + timedelta(days=min(10 * days, 3650))), key, True
    try:
        certificate = x509.load_pem_x509_certificate(paths[0].read_bytes())
        loaded = serialization.load_pem_private_key(paths[1].read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"the authority in {folder} cannot be read ({type(error).__name__}): remove ca.pem and ca.key"
        ) from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != certificate.public_key():
        raise UsageError(f"ca.key in {folder} is not the key of ca.pem: remove both")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise UsageError(
            f"the authority in {folder} held until {certificate.not_valid_after_utc:%Y-%m-%d}: remove ca.pem, ca.key"
        )
    return certificate, loaded, False


def _root(key: ec.EllipticCurvePrivateKey, now: datetime, until: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "PMC2 development authority")])
    builder = _builder(name, name, key, now, until)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def _certificate(
    role: Role,
    own: ec.EllipticCurvePrivateKey,
    hosts: Sequence[x509.GeneralName],
    authority: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    until: datetime,
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"PMC2 {role}")])
    builder = _builder(name, authority.subject, own, now, until)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(USES[role]), critical=False)
    identity = x509.UniformResourceIdentifier(f"urn:pmc2:{role}")
    reached = [] if role == "client" else list(hosts)
    builder = builder.add_extension(x509.SubjectAlternativeName([identity, *reached]), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return builder.add_extension(issuer, critical=False).sign(key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - SKEW).not_valid_after(until)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> list[Path]:
    """Write a certificate and its key, each all or nothing; the key first, readable by its owner alone."""
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files = {folder / f"{name}.key": (secret, 0o600), folder / f"{name}.pem": (_pem(certificate), 0o644)}
    for path, (content, mode) in files.items():
        with replacing(path, mode) as temporary:
            temporary.write_bytes(content)
    return list(files)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
