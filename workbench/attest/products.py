"""AMD's products with SEV-SNP: root certificates, processors, and warnings about published attacks.

A product is a generation of processors, such as Genoa. Each product has a root certificate (ARK) and two intermediate
certificates (ASK, ASVK).
"""

from __future__ import annotations

import functools
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path

__all__ = ["ARKS", "DEFAULT_PRODUCTS", "PRODUCTS", "WARNINGS", "authorities", "der_blocks", "product_of"]

ARKS = {  # SHA-256 of AMD's root certificates
    "Milan": "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "Genoa": "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    "Turin": "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
}
PRODUCTS = tuple(ARKS)
WARNINGS: Mapping[str, str] = {  # products that a policy must name explicitly, and the reason in one sentence
    "Milan": "Milan's evidence can be forged by software alone (arXiv 2605.12990: root seed of its VCEKs extracted), "
    "so it proves little: use Genoa or Turin",
}
DEFAULT_PRODUCTS = tuple(name for name in PRODUCTS if name not in WARNINGS)


def product_of(cpuid: tuple[int, int, int]) -> str:
    """Return the product of a processor, or "" if it is unknown. `cpuid` is the processor's family, model and stepping.

    The ranges of model numbers come from virtee/sev 7.1.0, `Generation::identify_cpu`. Bergamo and Siena count as Genoa.
    """
    family, model, _ = cpuid
    if family == 0x19:
        return "Milan" if model < 0x10 else "Genoa" if model < 0x20 or 0xA0 <= model < 0xB0 else ""
    return "Turin" if family == 0x1A and model <= 0x11 else ""


@functools.cache
def authorities() -> tuple[bytes, ...]:
    """Return the ARK, ASK and ASVK certificates (DER) of all products, as AMD's key distribution service publishes them."""
    return tuple(der_blocks(Path(__file__).with_name("amd.pem").read_bytes()))


def der_blocks(pem: bytes) -> list[bytes]:
    """Return the certificates (DER) in the content of a PEM file. Raises ValueError for a block that is not base64."""
    parts = (part.partition(b"-----END CERTIFICATE-----") for part in pem.split(b"-----BEGIN CERTIFICATE-----")[1:])
    return [b64decode(b"".join(block.split()), validate=True) for block, end, _ in parts if end]
