"""AMD's certificates: a processor's VCEK, the ASK that signs it and the ARK that signs this one, pinned by its fingerprint.

::

    ARK --signs--> itself, ASK --signs--> VCEK --signs--> report              RSA-PSS with SHA-384; the report ECDSA on P-384
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ..errors import AttestationError
from ..quiet import QUIET
from .report import Report, Tcb, refusal

__all__ = ["ARKS", "MOST_BYTES", "PRODUCTS", "Chain", "find_chain", "fingerprint", "key_of", "load", "product_of"]

PRODUCTS = ("Milan", "Genoa", "Turin")
ARKS = {  # SHA-256 of AMD's root certificates
    "Milan": "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "Genoa": "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
}
MOST_BYTES = 8192  # of one certificate; AMD's have less than 2048
HASH = 48  # bytes of SHA-384, and of the salt of its signatures

_OID = "1.3.6.1.4.1.3704.1."
PRODUCT_NAME, CHIP_ID = x509.ObjectIdentifier(_OID + "2"), x509.ObjectIdentifier(_OID + "4")
VERSIONS = {"boot_loader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}

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
def _readable(what: str) -> Iterator[None]:
    """Turn what `cryptography` raises on bytes that are no such certificate into the refusal that says so.

    It warns, too: of serial numbers, since every VCEK's is zero, and of what damaged ones hold. That is nobody's concern here.
    """
    try:
        with QUIET:
            yield
    except _UNREADABLE as error:
        raise refusal(what, "a certificate that can be read", type(error).__name__) from None


def load(der: bytes, what: str = "certificate") -> x509.Certificate:
    """Return a certificate (DER). Raises AttestationError for bytes that are none, or too many."""
    if len(der) > MOST_BYTES:
        raise refusal(what, f"at most {MOST_BYTES} bytes", len(der))
    with _readable(what):
        return x509.load_der_x509_certificate(der)


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def key_of(certificate: bytes) -> bytes:
    """Return the public key of a TLS certificate (both DER), the SubjectPublicKeyInfo: what evidence is bound to."""
    with _readable("TLS certificate"):
        key = x509.load_der_x509_certificate(certificate).public_key()
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class Chain:
    """The certificates of one processor, by their names, and which product the pinned one is of."""

    vcek: x509.Certificate
    ask: x509.Certificate
    ark: x509.Certificate
    product: str

    def __iter__(self) -> Iterator[tuple[str, x509.Certificate]]:
        return iter((("ARK", self.ark), ("ASK", self.ask), ("VCEK", self.vcek)))


def find_chain(own: Sequence[bytes], given: Sequence[bytes], report: Report, pins: Mapping[str, str]) -> Chain:
    """Return the chain of a report's processor, from certificates (DER) that came with it and such as the verifier has.

    Raises AttestationError where one is missing, and where the last is not among `pins`, fingerprints by product.
    """
    mine, came = [load(der) for der in own], [load(der, "certificate of the evidence") for der in given]
    with _readable("VCEK"):
        leaves = [each for each in (*came, *mine) if _extension(each, CHIP_ID) is not None]
        fitting = [each for each in leaves if _is_of(each, report)]
        if not leaves:
            raise refusal("VCEK", "the processor's certificate, in the evidence or in the policy's `chain`", "none")
        vcek = (fitting or leaves)[0]
        ask = _issuer(vcek, "ASK", [*mine, *came])
        ark = _issuer(ask, "ARK", [*mine, *came])
    found = fingerprint(ark)
    for product, pin in pins.items():
        if found == pin:
            return Chain(vcek, ask, ark, product)
    raise refusal("ARK pin", " or ".join(f"{pin} ({product})" for product, pin in pins.items()), found)


def _is_of(vcek: x509.Certificate, report: Report) -> bool:
    """Return whether it is the one of several, of other processors or older firmware, that signed a report."""
    with contextlib.suppress(AttestationError):
        chip = report.chip if any(report.chip) else chip_of(vcek, "")  # a host may leave it out
        return tcb_of(vcek, report.reported.fmc is not None) == report.reported and chip_of(vcek, "") == chip
    return False


def _issuer(of: x509.Certificate, what: str, among: Sequence[x509.Certificate]) -> x509.Certificate:
    for each in among:
        if each.subject == of.issuer and _extension(each, CHIP_ID) is None:
            return each
    raise refusal(what, "AMD's certificate, in the evidence or in the policy's `chain`", "none")


# --- what a chain must be --------------------------------------------------------------------------------------------------


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate, what: str) -> bool:
    """Return whether `issuer`, an authority with an RSA key of 4096 bits, signed a certificate as AMD does."""
    with _readable(what):
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
            and certificate.public_bytes(Encoding.DER).endswith(
                b"\0" + certificate.signature
            )  # whole bytes: nothing signs that
        ):
            return False
        with contextlib.suppress(InvalidSignature):
            certificate.verify_directly_issued_by(issuer)  # names and algorithms, too
            return True
    return False


def holds(certificate: x509.Certificate, at: datetime) -> bool:
    """Return whether a certificate is valid at a time."""
    return certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc


def key_of_vcek(vcek: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """Return a VCEK's key; AttestationError where it is not on P-384."""
    with _readable("VCEK"):
        key = vcek.public_key()
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1):
            return key
    raise refusal("VCEK", "a key on P-384", type(key).__name__)


# --- what a VCEK says ------------------------------------------------------------------------------------------------------


def _extension(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> bytes | None:
    for each in certificate.extensions:
        if each.oid == oid and isinstance(each.value, x509.UnrecognizedExtension):
            return each.value.value
    return None


def tcb_of(vcek: x509.Certificate, turin: bool) -> Tcb:
    """Return the versions for which a VCEK was made. Raises AttestationError where it does not say them."""
    parts = {name: suffix for name, suffix in VERSIONS.items() if turin or name != "fmc"}
    found: dict[str, int] = {}
    with _readable("VCEK"):
        for name, suffix in parts.items():
            value = _extension(vcek, x509.ObjectIdentifier(_OID + suffix))
            if value is None or not _is_small_integer(value):
                raise refusal("TCB of the VCEK", f"a number for {name.replace('_', ' ')}", "none")
            found[name] = value[-1]
    return Tcb(**found)


def _is_small_integer(der: bytes) -> bool:
    """Return whether an INTEGER (DER) is from 0 to 255."""
    return (len(der) == 3 and der[:2] == b"\2\1" and der[2] < 0x80) or (
        len(der) == 4 and der[:3] == b"\2\2\0" and der[3] >= 0x80
    )


def chip_of(vcek: x509.Certificate, product: str) -> bytes:
    """Return the processor's number, 64 bytes; Turin's has eight, and zeros behind them."""
    with _readable("VCEK"):
        value = _extension(vcek, CHIP_ID) or b""
    if len(value) in (10, 66) and value[:2] == bytes((4, len(value) - 2)):
        value = value[2:]  # within an OCTET STRING
    size = 8 if product == "Turin" else 64
    if len(value) != size and (product or len(value) not in (8, 64)):
        raise refusal("chip id", f"{size} bytes in the VCEK", f"{len(value)} bytes")
    return value.ljust(64, b"\0")


def name_of(vcek: x509.Certificate) -> str:
    """Return what a VCEK says its product is, such as "Milan-B0"; empty where it says nothing."""
    with _readable("VCEK"):
        value = _extension(vcek, PRODUCT_NAME) or b""
    text = value[2:].decode("ascii", "replace") if value[:1] == b"\x16" else ""
    return "".join(c if c.isprintable() else "?" for c in text[:32])


def product_of(cpuid: tuple[int, int, int]) -> str:
    """Return the product of a processor by the family and model that its report has; empty for none known."""
    family, model, _ = cpuid
    if family == 0x19:
        return "Milan" if model < 0x10 else "Genoa" if model < 0x20 or 0xA0 <= model < 0xB0 else ""
    return "Turin" if family == 0x1A and model < 0x20 else ""
