"""Find the three certificates that certify an attestation report.

A report is signed with a processor's key (VCEK) or a cloud provider's key (VLEK). The first certificate belongs to this key,
the second to the authority that issued it (ASK or ASVK), and the third to AMD's root (ARK). The policy pins the root by its
fingerprint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cryptography import x509

from ..errors import AttestationError
from .certificates import extension, fingerprint, load, readable, signed_by
from .endorsement import IDENTITIES, INTERMEDIATES, SigningKey, chip_of, provider_of, tcb_of
from .policy import Policy
from .products import ARKS, WARNINGS, authorities
from .report import Report, refusal

__all__ = ["Chain", "find_chain"]


@dataclass(frozen=True)
class Chain:
    """The certificates that certify a report.

    key: "VCEK" or "VLEK".  leaf: the certificate of this key.
    issuer: the ASK, which signs VCEKs, or the ASVK, which signs VLEKs.
    ark: the root.  product: the generation of processors to which this root belongs, such as "Genoa".
    """

    key: SigningKey
    leaf: x509.Certificate
    issuer: x509.Certificate
    ark: x509.Certificate
    product: str

    def __iter__(self) -> Iterator[tuple[str, x509.Certificate, str, x509.Certificate]]:
        """Yield (name, certificate, issuer's name, issuer's certificate) for each certificate, the root first."""
        middle = INTERMEDIATES[self.key]
        yield "ARK", self.ark, "ARK", self.ark
        yield middle, self.issuer, "ARK", self.ark
        yield self.key, self.leaf, middle, self.issuer


def find_chain(policy: Policy, given: Sequence[bytes], report: Report, key: SigningKey) -> Chain:
    """Return the chain of certificates that certifies a report. The signatures of the chain are not verified.

    The certificates are taken from the policy and from `given`, the certificates (DER) in the evidence. If neither contains an
    authority's certificate (ARK, ASK or ASVK), AMD's certificates in this package are used. `key` is the kind of key that
    signed the report. Raises AttestationError if a certificate is missing or the root is not pinned.
    """
    own, received = [load(der) for der in policy.chain], [load(der, "certificate of the evidence") for der in given]
    with readable(key):
        leaves = [candidate for candidate in (*received, *own) if extension(candidate, IDENTITIES[key]) is not None]
        fitting = [candidate for candidate in leaves if _fits(candidate, policy, report, key)]
        if not leaves:
            owner = "the processor's certificate" if key == "VCEK" else "the provider's certificate"
            raise refusal(key, f"{owner}, in the evidence or in the policy's `chain`", "none")
        leaf = (fitting or leaves)[0]
        known = [candidate for candidate in (*own, *received) if not _is_leaf(candidate)]
        known = known or [load(der) for der in authorities()]
        issuer = _issuer(leaf, INTERMEDIATES[key], known)
        ark = _issuer(issuer, "ARK", known)
    return Chain(key, leaf, issuer, ark, _product(ark, policy))


def _is_leaf(certificate: x509.Certificate) -> bool:
    return any(extension(certificate, oid) is not None for oid in IDENTITIES.values())


def _fits(leaf: x509.Certificate, policy: Policy, report: Report, key: SigningKey) -> bool:
    with contextlib.suppress(AttestationError):
        if tcb_of(leaf, report.reported.fmc is not None, key) != report.reported:
            return False
        if key == "VLEK":
            return provider_of(leaf) == policy.provider
        return not any(report.chip) or chip_of(leaf) == report.chip  # a host may mask the processor's number
    return False


def _issuer(certificate: x509.Certificate, name: str, known: Sequence[x509.Certificate]) -> x509.Certificate:
    named = [candidate for candidate in known if candidate.subject == certificate.issuer]
    if not named:
        raise refusal(name, "AMD's certificate, in the evidence or in the policy's `chain`", "none")
    return next((candidate for candidate in named[1:] if _signed(certificate, candidate)), named[0])


def _signed(certificate: x509.Certificate, candidate: x509.Certificate) -> bool:
    with contextlib.suppress(AttestationError):
        return signed_by(certificate, candidate, "")
    return False


def _product(ark: x509.Certificate, policy: Policy) -> str:
    actual = fingerprint(ark)
    for product, pin in policy.pins.items():
        if actual == pin:
            return product
    untrusted = {pin: product for product, pin in ARKS.items()}.get(actual, "")
    hint = f" ({untrusted}, which `products` does not name)" if untrusted else ""
    if untrusted in WARNINGS:
        hint = f" ({untrusted}: to trust it, name it in `products`; software can forge it, arXiv 2605.12990)"
    expected = " or ".join(f"{pin} ({product})" for product, pin in policy.pins.items())
    raise refusal("ARK pin", expected, f"{actual}{hint}")
