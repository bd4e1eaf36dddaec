"""Read the certificate of the key that signs attestation reports.

The key is a processor's VCEK, or the VLEK that AMD issues to a cloud provider. In each function, `leaf` is the certificate, and
`key` is the kind of key. The certificate has these extensions:

::

    1.3.6.1.4.1.3704.1.2    product, such as "Milan-B0"; "Milan" in a VLEK                             IA5String
                      .3.N  firmware: 1 boot loader, 2 tee, 3 snp, 8 microcode, 9 fmc (from Turin on)   INTEGER, 0 to 255
                      .4    hwID of a VCEK, the processor: 64 bytes, 8 from Turin on                    bytes, or OCTET STRING
                      .5    csp_id of a VLEK, the cloud provider                                        IA5String

Source: AMD 57230, VCEK Certificate and KDS Interface Specification, as implemented in google/go-sev-guest v0.14.1
(`kds/kds.go`) and confidential-containers/trustee v0.21.0 (`deps/verifier/src/snp`: FMC, hwID of 8 bytes, a VLEK).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from .certificates import extension, readable
from .report import Tcb, refusal

__all__ = ["IDENTITIES", "INTERMEDIATES", "SigningKey", "chip_of", "name_of", "provider_of", "public_key", "tcb_of"]

SigningKey: TypeAlias = Literal["VCEK", "VLEK"]
INTERMEDIATES: Mapping[SigningKey, str] = {"VCEK": "ASK", "VLEK": "ASVK"}  # the authority that issues certificates for each key

_OID = "1.3.6.1.4.1.3704.1."
PRODUCT_NAME, CHIP_ID, PROVIDER = (x509.ObjectIdentifier(_OID + suffix) for suffix in ("2", "4", "5"))
IDENTITIES: Mapping[SigningKey, x509.ObjectIdentifier] = {"VCEK": CHIP_ID, "VLEK": PROVIDER}
VERSIONS = {"boot_loader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
CHIP = 64  # bytes of the report's chip_id
TURIN_CHIP = 8  # bytes of chip_id that Turin uses; zeros follow


def public_key(leaf: x509.Certificate, key: SigningKey) -> ec.EllipticCurvePublicKey:
    """Return the public key that verifies the signatures of reports. Raises AttestationError if the key is not on P-384."""
    with readable(key):
        public = leaf.public_key()
        if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP384R1):
            return public
    raise refusal(key, "a key on P-384", type(public).__name__)


def tcb_of(leaf: x509.Certificate, turin: bool, key: SigningKey) -> Tcb:
    """Return the firmware versions in a certificate. Raises AttestationError if a version is missing or invalid.

    The version of `fmc`, a firmware component that exists from Turin on, is read only if `turin` is true.
    """
    versions: dict[str, int] = {}
    with readable(key):
        for name, suffix in VERSIONS.items():
            if name == "fmc" and not turin:
                continue
            value = extension(leaf, x509.ObjectIdentifier(_OID + suffix))
            if value is None or not _is_small_integer(value):
                raise refusal(f"TCB of the {key}", f"a number for {name.replace('_', ' ')}", "none")
            versions[name] = value[-1]
    return Tcb(**versions)


def _is_small_integer(der: bytes) -> bool:
    return (len(der) == 3 and der[:2] == b"\2\1" and der[2] < 0x80) or (
        len(der) == 4 and der[:3] == b"\2\2\0" and der[3] >= 0x80
    )


def chip_of(vcek: x509.Certificate, product: str = "") -> bytes:
    """Return the processor's number in a VCEK certificate, padded with zeros to the 64 bytes of a report.

    `product`, such as "Turin", determines the length of the number. If it is empty, the length of any product is accepted.
    Raises AttestationError if the number is missing or has a wrong length.
    """
    with readable("VCEK"):
        value = extension(vcek, CHIP_ID) or b""
    if len(value) in (TURIN_CHIP + 2, CHIP + 2) and value[:2] == bytes((4, len(value) - 2)):
        value = value[2:]  # the content of an OCTET STRING
    sizes = (TURIN_CHIP, CHIP) if not product else (TURIN_CHIP,) if product == "Turin" else (CHIP,)
    if len(value) not in sizes:
        raise refusal("chip id", f"{' or '.join(map(str, sizes))} bytes in the VCEK", f"{len(value)} bytes")
    return value.ljust(CHIP, b"\0")


def name_of(leaf: x509.Certificate, key: SigningKey) -> str:
    """Return the product's name in a certificate, such as "Milan-B0", or "" if the certificate has none."""
    return _text(leaf, PRODUCT_NAME, key)[:32]


def provider_of(vlek: x509.Certificate) -> str:
    """Return the cloud provider in a VLEK certificate, such as "CN=cc-us-east-2.amazonaws.com", or "" if there is none."""
    return _text(vlek, PROVIDER, "VLEK")


def _text(leaf: x509.Certificate, oid: x509.ObjectIdentifier, key: SigningKey) -> str:
    with readable(key):
        value = extension(leaf, oid) or b""
    if len(value) < 2 or value[0] != 0x16 or value[1] != len(value) - 2 or value[1] >= 0x80:
        return ""
    return "".join(character if character.isprintable() else "?" for character in value[2:].decode("ascii", "replace"))
