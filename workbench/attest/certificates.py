"""Parse AMD's X.509 certificates, and check their signatures and validity periods.

An attestation report is signed with a processor's key (VCEK) or a cloud provider's key (VLEK). AMD's root (ARK) certifies these
keys through an intermediate authority (ASK or ASVK).

::

    ARK --signs--> ASK  --signs--> VCEK --signs--> report
    ARK --signs--> ASVK --signs--> VLEK --signs--> report
    ARK --signs--> ARK

The signatures of certificates are RSA-PSS with SHA-384. The signature of a report is ECDSA on P-384.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from ..warning_filter import suppress_warnings
from .report import refusal

__all__ = ["MOST_BYTES", "common_name", "extension", "fingerprint", "is_valid_at", "key_of", "load", "readable", "signed_by"]

MOST_BYTES = 8192  # of one certificate; AMD's have less than 2048
HASH = 48  # bytes of SHA-384, and of the salt of its signatures

_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn the parser's errors inside the context into an AttestationError.

    `name` identifies the certificate in the error message. The parser's warnings are suppressed. Every VCEK would cause a
    warning, because its serial number is zero.
    """
    try:
        with suppress_warnings():
            yield
    except _UNREADABLE as error:
        raise refusal(name, "a certificate that can be read", type(error).__name__) from None


def load(der: bytes, name: str = "certificate") -> x509.Certificate:
    """Parse a certificate (DER). Raises AttestationError if the certificate is invalid, or longer than `MOST_BYTES` bytes.

    `name` identifies the certificate in the error message.
    """
    if len(der) > MOST_BYTES:
        raise refusal(name, f"at most {MOST_BYTES} bytes", len(der))
    with readable(name):
        return x509.load_der_x509_certificate(der)


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate, in hexadecimal."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def key_of(certificate: bytes) -> bytes:
    """Return the public key of a TLS certificate (DER). Attestation evidence is bound to this key.

    The key is a SubjectPublicKeyInfo (DER).
    """
    with readable("TLS certificate"):
        key = x509.load_der_x509_certificate(certificate).public_key()
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def extension(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> bytes | None:
    """Return the raw bytes of AMD's extension `oid`, or None if the certificate does not have this extension."""
    for entry in certificate.extensions:
        if entry.oid == oid and isinstance(entry.value, x509.UnrecognizedExtension):
            return entry.value.value
    return None


def common_name(name: x509.Name) -> str:
    """Return the common name in `name`, a certificate's subject or issuer. Return "" if there is none or more than one."""
    values = [attribute.value for attribute in name.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else ""


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate, name: str) -> bool:
    """Return whether the key of `issuer` signed `certificate` with AMD's algorithm.

    The algorithm is RSA-PSS with SHA-384 and a key of 4096 bits. The result is False if `issuer` is not a certificate
    authority. Raises AttestationError if a certificate is malformed, or names another issuer. `name` identifies `certificate`
    in the error message.
    """
    with readable(name):
        scheme, key = certificate.signature_algorithm_parameters, issuer.public_key()
        if not (
            isinstance(scheme, padding.PSS)
            and isinstance(certificate.signature_hash_algorithm, hashes.SHA384)
            and isinstance(scheme._mgf, padding.MGF1)
            and isinstance(scheme._mgf._algorithm, hashes.SHA384)
            and scheme._salt_length == HASH
            and isinstance(key, rsa.RSAPublicKey)
            and key.key_size == 4096
            and issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            # The byte before the signature counts its unused bits. No signature covers this byte, so it must be 0.
            and certificate.public_bytes(Encoding.DER).endswith(b"\0" + certificate.signature)
        ):
            return False
        with contextlib.suppress(InvalidSignature):
            certificate.verify_directly_issued_by(issuer)  # checks names and algorithms, too
            return True
    return False


def is_valid_at(certificate: x509.Certificate, time: datetime) -> bool:
    return certificate.not_valid_before_utc <= time <= certificate.not_valid_after_utc
