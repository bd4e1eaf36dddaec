"""TLS 1.3 contexts, the roles of certificates, and bearer tokens. Certificates and tokens can change while a service runs.

::

    client --certificate or token--> edge --certificate--> cloud
    phone  --certificate-----------> cloud                               (if the phone runs the generator)

The role of a certificate is edge, cloud or client. Each end checks authority, expiry and role of the peer's certificate. A
client also checks the service's name. One authority signs all roles, so without the check of the role the cloud could pose as
the edge.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import hmac
import ipaddress
import logging
import math
import os
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ..attest import key_of
from ..certs import CLIENT, ROLES, SERVER, Role, folder_of, role_of
from ..errors import AttestationError, UsageError

__all__ = [
    "Peer",
    "Token",
    "client_context",
    "expiry_of",
    "is_loopback",
    "marks",
    "peer_of",
    "rotate",
    "rotate_token",
    "server_context",
]

TOKEN_VARIABLE = "WORKBENCH_TOKEN"
LEAST_TOKEN = 16  # characters
FROM = "where `workbench certs` was run"
CERTIFICATE_POLL_S = 0.5  # between two checks of a certificate's files

log = logging.getLogger("workbench.services")


@dataclass(frozen=True)
class Peer:
    """The client at the other end of a service's connection.

    `role` is the role in the client's certificate (None: no certificate, or no role). `name` is a hash of that certificate.
    `shown` is the public key (DER) of the certificate that the service has shown to the client. Without TLS, `shown` is empty.
    """

    role: Role | None = None
    name: str = ""
    shown: bytes = field(default=b"", repr=False)
    expires: float = math.inf  # expiry of the certificate, in seconds since the epoch (see `expiry_of`)


def peer_of(connection: ssl.SSLObject | ssl.SSLSocket | None) -> Peer:
    """Return the client at the other end of a service's connection. Call this function after the handshake.

    `connection` None means a connection without TLS.
    """
    if connection is None:
        return Peer()
    certificate, shown = connection.getpeercert(binary_form=True), getattr(connection.context, "shown", b"")
    if not certificate:
        return Peer(shown=shown)
    name = hashlib.sha256(certificate).hexdigest()[:16]
    return Peer(_role_of(certificate, CLIENT), name, shown, expiry_of(connection))


def expiry_of(connection: ssl.SSLObject | ssl.SSLSocket) -> float:
    """Return the time at which the peer's certificate or its authority expires, whichever is sooner.

    The time is in seconds since the epoch. Without a certificate, it is inf.
    """
    certificate = connection.getpeercert(binary_form=True)
    return _expiry(certificate, getattr(connection.context, "authorities", ())) if certificate else math.inf


_role_of = functools.lru_cache(1024)(role_of)


@functools.lru_cache(1024)
def _expiry(certificate: bytes, authorities: tuple[x509.Certificate, ...]) -> float:
    leaf = x509.load_der_x509_certificate(certificate)
    signed_until = [each.not_valid_after_utc.timestamp() for each in authorities if each.subject == leaf.issuer]
    return min(leaf.not_valid_after_utc.timestamp(), max(signed_until, default=math.inf))


class _Context(ssl.SSLContext):
    shown: bytes = b""
    authorities: tuple[x509.Certificate, ...] = ()
    files: tuple[Path, ...] = ()
    marks: Sequence[tuple[int, int]] = ()  # of `files`, from before they were read


@dataclass(frozen=True)
class Token:
    """A bearer token: a shared secret in place of a client's certificate. Its repr does not show the secret."""

    secret: bytes = field(repr=False)

    @classmethod
    def read(cls, path: Path | None = None) -> Token | None:
        """Return the token in the file `path` or, without a path, in `$WORKBENCH_TOKEN`.

        Return None if the variable is not set. Raises UsageError for an unreadable file or an invalid token.
        """
        where = str(path) if path is not None else f"${TOKEN_VARIABLE}"
        try:
            text = os.environ.get(TOKEN_VARIABLE, "") if path is None else path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"no token can be read from {where} ({type(error).__name__})") from None
        if path is None and not text:
            return None
        text = text.strip()
        if len(text) < LEAST_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
            raise UsageError(f"the token in {where} must be at least {LEAST_TOKEN} printable characters without a space")
        return cls(text.encode())

    def fits(self, header: str | None) -> bool:
        kind, _, given = (header or "").partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("utf-8", "replace"), self.secret)

    @property
    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret.decode()}"}


def server_context(folder: Path, role: Role, demand: bool = True) -> ssl.SSLContext:
    """Return the TLS context of a service, which shows the certificate of `role` in `folder`.

    With `demand`, clients must show a certificate. Otherwise a certificate is optional. Raises UsageError if a file is missing
    or invalid.
    """
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # a resumed session shows no certificate, so it could outlive an authority
    own = folder_of(folder, role) / f"{role}.pem"
    before = after = b""
    with _usable(f"the certificate {own}"):
        while not after or before != after:  # load again if the file was replaced meanwhile: `shown` must be the loaded key
            before = own.read_bytes() if own.is_file() else b""
            _fill(context, folder, role)
            after = own.read_bytes()
        context.shown = key_of(x509.load_pem_x509_certificate(after).public_bytes(Encoding.DER))
    context.verify_mode = ssl.CERT_REQUIRED if demand else ssl.CERT_OPTIONAL
    return context


class RoleError(ssl.SSLCertVerificationError):
    """Raised by a client's handshake if the role in the service's certificate is not one of the `demanded` roles."""

    def __init__(self, role: Role | None, demanded: Sequence[Role]) -> None:
        its = f"is of the role {role!r}" if role else "states no role, or no use as a server,"
        self.verify_message = f"its certificate {its} and the connection is for the {' or '.join(demanded)} alone"
        super().__init__(1, self.verify_message)


class _ClientContext(_Context):
    demanded: tuple[Role, ...] = ()

    def check(self, connection: ssl.SSLObject | ssl.SSLSocket) -> None:
        role = _role_of(connection.getpeercert(binary_form=True) or b"", SERVER)
        if role not in self.demanded:
            raise RoleError(role, self.demanded)


class _CheckedObject(ssl.SSLObject):
    def do_handshake(self) -> None:
        super().do_handshake()
        cast(_ClientContext, self.context).check(self)


class _CheckedSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        cast(_ClientContext, self.context).check(self)


def client_context(folder: Path, role: Role | None, peer: Role | None = None) -> ssl.SSLContext:
    """Return the TLS context of a client, which shows the certificate of `role` in `folder` (None: no certificate).

    The handshake checks the service's authority, expiry, name and role. The service must have the role `peer`. None accepts
    edge and cloud, for tools that send nothing private. Raises UsageError if a file in `folder` is missing or invalid.
    """
    context = _ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslobject_class, context.sslsocket_class = _CheckedObject, _CheckedSocket
    context.demanded = ("edge", "cloud") if peer is None else (peer,)
    _fill(context, folder, role)
    return context


def _fill(context: _Context, folder: Path, role: Role | None) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    own = folder_of(folder, role)
    with _usable(f"the certificates in {folder}"):
        authority = _found(own, "ca.pem")
        context.files = (authority, *((own / f"{role}.pem", own / f"{role}.key") if role is not None else ()))
        context.marks = marks(context.files)
        context.load_verify_locations(authority)
        context.authorities = tuple(map(x509.load_der_x509_certificate, context.get_ca_certs(binary_form=True)))
        if role is not None:
            context.load_cert_chain(_found(own, f"{role}.pem"), _found(own, f"{role}.key"))


@contextlib.contextmanager
def _usable(name: str) -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except (AttestationError, OSError, ValueError) as error:  # OpenSSL loads files that `cryptography` refuses
        raise UsageError(f"{name} cannot be used ({error}): make new ones with `workbench certs`") from None


def _found(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        others = [role for role in ROLES if (folder / f"{role}.pem").is_file()]
        if others and name != "ca.pem" and not name.startswith(others[0]):
            raise UsageError(f"{folder} is the folder of the {others[0]} and has no {name}: copy the right one from {FROM}")
        raise UsageError(f"there is no {name} in {folder}: make certificates with `workbench certs {folder}`")
    return path


def is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost"


def marks(files: Iterable[Path]) -> list[tuple[int, int]]:
    """Return the modification time (ns) and the inode of each file, or an empty list if a file is missing.

    If a value changes, a file was replaced.
    """
    with contextlib.suppress(OSError):
        return [(status.st_mtime_ns, status.st_ino) for status in (path.stat() for path in files)]
    return []


async def rotate(folder: Path, role: Role, known: Sequence[tuple[int, int]], renewed: Callable[[], None]) -> None:
    """Call `renewed` whenever the certificate of `role`, its key or the authority in `folder` changes. Runs until cancelled.

    `known` are the `marks` of the files in use. While certificate and key do not match, the old certificate stays in use.
    """
    own = folder_of(folder, role)
    files = (own / "ca.pem", own / f"{role}.pem", own / f"{role}.key")
    while True:
        await asyncio.sleep(CERTIFICATE_POLL_S)
        if (now := marks(files)) == known or not now:
            continue
        try:
            client_context(own, role)  # a separate context, because a mismatched pair would spoil the one in use
            renewed()
        except Exception as error:  # whatever is wrong with the files, they may be replaced again
            log.warning("the certificate of %s was not renewed: %s", role, error)
        else:
            known = now
            log.info("the certificate of %s was renewed", role)


async def rotate_token(path: Path, token: Token | None, replaced: Callable[[Token], None]) -> None:
    """Call `replaced` with the new token whenever the token in the file `path` changes. Runs until cancelled.

    `token` is the current token. While the file is missing or has no valid token, the current token stays in use.
    """
    known: list[tuple[int, int]] = []  # empty: the file may have changed since `token` was read
    while True:
        await asyncio.sleep(CERTIFICATE_POLL_S)
        if (now := marks((path,))) == known or not now:
            continue
        known = now
        try:
            content = Token.read(path)
        except UsageError as error:
            log.warning("the token was not replaced: %s", error)
            continue
        if content is not None and content != token:
            token = content
            replaced(token)
            log.info("the token was replaced")
