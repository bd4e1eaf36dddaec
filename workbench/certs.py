"""Development certificates: a local certificate authority, and certificates that it signs for edge, cloud and client.

::

    FOLDER/ca.pem                         the authority's certificate, which clients and phones trust
    FOLDER/authority/ca.key               the authority's key, which never leaves this machine
    FOLDER/edge/    ca.pem edge.pem edge.key        the edge: serves clients, and is a client of the cloud
    FOLDER/cloud/   ca.pem cloud.pem cloud.key      the cloud: serves the edge
    FOLDER/client/  ca.pem client.pem client.key    a phone

Edge, cloud and client are the three roles. A host gets only the folder of its role. Keys are ECDSA on P-256. Only the owner of
a key file can read it.

One authority signs the certificates of edge and cloud, but neither may impersonate the other. So every connection of the
workbench checks the role in the peer's certificate (subject alternative name `urn:pmc2:edge`, `:cloud` or `:client`). Browsers
check only host names, so edge and cloud may share only loopback names. The authority can sign only for the names with which it
was made (critical NameConstraints).
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

from .errors import StorageError, UsageError
from .storage import replacing

__all__ = ["LOCAL", "ROLES", "Role", "folder_of", "issue", "role_of"]

Role = Literal["edge", "cloud", "client"]
ROLES: tuple[Role, ...] = get_args(Role)
LOCAL = ("localhost", "127.0.0.1", "::1")
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
USES = {"edge": [SERVER, CLIENT], "cloud": [SERVER], "client": [CLIENT]}
SKEW = timedelta(minutes=5)  # tolerance for the clocks of other machines
Names = Sequence[x509.GeneralName]


def issue(
    folder: Path,
    names: Sequence[str] = LOCAL,
    roles: Sequence[Role] = ROLES,
    days: int = 365,
    now: datetime | None = None,
    *,
    cloud_names: Sequence[str] = LOCAL,
) -> list[Path]:
    """Write a new certificate and key for each role, and an authority if none exists. Return the written files.

    `names` are the host names and addresses of the edge. `cloud_names` are those of the cloud. The two lists may share only
    loopback names. Certificates are valid from `now` (None: the present) for `days` days (1 to 825), but no longer than the
    authority. A new authority is valid for ten times `days`, at most ten years. A second call renews the certificates under the
    same authority, so clients need no change.

    Raises UsageError, and writes nothing, if an argument is invalid, or if the existing authority is unreadable, expired or not
    allowed to sign these names. Raises StorageError if a file cannot be written.
    """
    now = now or datetime.now(UTC)
    if not 1 <= days <= 825:
        raise UsageError(f"certificates can hold for 1 to 825 days, got {days}")
    if wrong := set(roles) - set(ROLES):
        raise UsageError(f"no role {', '.join(sorted(wrong))}: choose among {', '.join(ROLES)}")
    hosts: dict[Role, Names] = {"edge": _hosts(names), "cloud": _hosts(cloud_names), "client": ()}
    if not hosts["edge"] or not hosts["cloud"]:
        raise UsageError("edge and cloud need at least one host name or address each")
    _check_apart(hosts["edge"], hosts["cloud"])
    _check_layout(folder)
    authority, key, made = _authority(folder, [*hosts["edge"], *hosts["cloud"]], days, now)
    written, ca = list[Path](), authority.public_bytes(serialization.Encoding.PEM)
    if made:
        _make_private(folder / "authority")
        written = [_write(folder / "authority" / "ca.key", _secret(key), 0o600), _write(folder / "ca.pem", ca)]
    until = min(now + timedelta(days=days), authority.not_valid_after_utc)
    for role in roles:
        own = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(role, own, hosts[role], authority, key, now, until)
        _make_private(folder / role)
        written.append(_write(folder / role / f"{role}.key", _secret(own), 0o600))
        written.append(_write(folder / role / f"{role}.pem", certificate.public_bytes(serialization.Encoding.PEM)))
        written.append(_write(folder / role / "ca.pem", ca))
    return written


def role_of(certificate: bytes, use: x509.ObjectIdentifier | None = None) -> Role | None:
    """Return the role in a certificate (DER bytes). Return None if the bytes are invalid or do not name exactly one role.

    `use` is an extended key usage such as `SERVER`. If the certificate lacks it, return None. Signature and dates are not
    checked here, because TLS checks them.
    """
    try:
        extensions = x509.load_der_x509_certificate(certificate).extensions
        uris = extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.UniformResourceIdentifier
        )
        if use is not None and use not in extensions.get_extension_for_class(x509.ExtendedKeyUsage).value:
            return None
    except (ValueError, x509.ExtensionNotFound):
        return None
    roles = [role for role in ROLES if f"urn:pmc2:{role}" in uris]
    return roles[0] if len(roles) == 1 else None


def folder_of(folder: Path, role: Role | None) -> Path:
    """Return the folder with a role's files: `folder`/ROLE if this exists, else `folder`. For role None, return `folder`.

    Raises UsageError if the keys of several roles, or of the authority, lie directly in `folder`. Versions before 0.2 wrote
    such folders.
    """
    _check_layout(folder)
    return folder / role if role is not None and (folder / role).is_dir() else folder


def _check_layout(folder: Path) -> None:
    keys = [name for name in ("ca", *ROLES) if (folder / f"{name}.key").exists()]
    if len(keys) > 1 or "ca" in keys:
        raise UsageError(
            f"{folder} has {', '.join(f'{name}.key' for name in keys)} side by side, as older versions made it: a host would "
            f"get the keys of others. Remove the folder, make it with `workbench certs {folder} [--names ...]`, and have "
            "phones trust its new ca.pem"
        )


def _hosts(names: Sequence[str]) -> Names:
    return [_host(name) for name in dict.fromkeys(names)]


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    labels = name.removeprefix("*.").split(".")
    if (
        len(name) > 253
        or not all(0 < len(label) < 64 and label.replace("-", "").isalnum() for label in labels)
        or labels[-1].isdigit()
    ):
        raise UsageError(f"{name!r} is neither a host name nor an address")
    if name.startswith("*.") and len(labels) < 2:
        raise UsageError(
            f"{name!r} stands for every host under {labels[0]!r}: name at least two labels, such as *.edge.example"
        )
    try:
        return x509.DNSName(name.lower())
    except ValueError as error:
        raise UsageError(f"host name {name!r} must be written in ASCII (xn--...)") from error


def _check_apart(edge: Names, cloud: Names) -> None:
    for mine in edge:
        for theirs in cloud:
            if _overlap(mine, theirs) and not _is_loopback(mine):
                raise UsageError(
                    f"{theirs.value} would be a name of the edge and of the cloud: a browser checks names alone and would take "
                    "the cloud for the edge. Give the cloud names of its own with --cloud-names"
                )


def _overlap(one: x509.GeneralName, other: x509.GeneralName) -> bool:
    if isinstance(one, x509.IPAddress) and isinstance(other, x509.IPAddress):
        return _plain(one) == _plain(other)
    if isinstance(one, x509.DNSName) and isinstance(other, x509.DNSName):
        pairs = ((one.value, other.value), (other.value, one.value))
        return one.value == other.value or any(
            wild.startswith("*.") and name.partition(".")[2] == wild[2:] for wild, name in pairs
        )
    return False


def _plain(address: x509.IPAddress) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    value = address.value
    assert isinstance(value, ipaddress.IPv4Address | ipaddress.IPv6Address)
    return getattr(value, "ipv4_mapped", None) or value


def _is_loopback(name: x509.GeneralName) -> bool:
    return _plain(name).is_loopback if isinstance(name, x509.IPAddress) else name.value == "localhost"


def _constraints(hosts: Names) -> x509.NameConstraints:
    # constrain host names and addresses: a kind without constraints would be unlimited
    subtrees: list[x509.GeneralName] = []
    for host in dict.fromkeys([*hosts, *_hosts(LOCAL)]):
        if isinstance(host, x509.IPAddress):
            subtrees.append(x509.IPAddress(ipaddress.ip_network(host.value)))
        else:
            subtrees.append(x509.DNSName(host.value.removeprefix("*.")))
    return x509.NameConstraints(permitted_subtrees=list(dict.fromkeys(subtrees)), excluded_subtrees=None)


def _check_permitted(folder: Path, authority: x509.Certificate, hosts: Names) -> None:
    way_out = f"Remove {folder}, make it again, and have phones trust its new ca.pem"
    try:
        permitted = authority.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    except x509.ExtensionNotFound:
        raise UsageError(
            f"the authority in {folder} may sign every name, and phones would trust it for all. {way_out}"
        ) from None
    for host in hosts:
        if not any(_permits(subtree, host) for subtree in permitted):
            names = ", ".join(str(subtree.value) for subtree in permitted)
            raise UsageError(f"the authority in {folder} was made for {names} and may not sign {host.value}. {way_out}")


def _permits(subtree: x509.GeneralName, host: x509.GeneralName) -> bool:
    if isinstance(host, x509.IPAddress):
        return isinstance(subtree, x509.IPAddress) and ipaddress.ip_network(host.value) == subtree.value
    return isinstance(subtree, x509.DNSName) and f".{host.value.removeprefix('*.')}".endswith(f".{subtree.value}")


def _authority(
    folder: Path, hosts: Names, days: int, now: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey, bool]:
    paths = folder / "ca.pem", folder / "authority" / "ca.key"
    if not any(path.exists() for path in paths):
        key = ec.generate_private_key(ec.SECP256R1())
        return _root(key, hosts, now, now + timedelta(days=min(10 * days, 3650))), key, True
    try:
        certificate = x509.load_pem_x509_certificate(paths[0].read_bytes())
        loaded = serialization.load_pem_private_key(paths[1].read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"the authority in {folder} cannot be read ({type(error).__name__}): remove ca.pem and authority/ca.key"
        ) from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != certificate.public_key():
        raise UsageError(f"authority/ca.key in {folder} is not the key of ca.pem: remove both")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise UsageError(
            f"the authority in {folder} held until {certificate.not_valid_after_utc:%Y-%m-%d}: remove ca.pem, authority/ca.key"
        )
    _check_permitted(folder, certificate, hosts)
    return certificate, loaded, False


def _root(key: ec.EllipticCurvePrivateKey, hosts: Names, now: datetime, until: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "PMC2 development authority")])
    builder = _builder(name, name, key, now, until)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_constraints(hosts), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def _certificate(
    role: Role,
    own: ec.EllipticCurvePrivateKey,
    hosts: Names,
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
    builder = builder.add_extension(x509.SubjectAlternativeName([identity, *hosts]), critical=False)
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


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise StorageError(f"cannot make {folder} for its owner alone: {error.strerror or error}; choose another") from error


def _secret(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(path: Path, content: bytes, mode: int = 0o644) -> Path:
    with replacing(path, mode) as temporary:
        temporary.write_bytes(content)
    return path
