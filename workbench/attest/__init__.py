"""Remote attestation: verify which guest, on which processor, holds the key of a TLS connection.

A guest is a virtual machine. SEV-SNP, a feature of AMD's processors, protects the guest from its host. The evidence is a report
on the guest. It is signed with a processor's key (VCEK) or a cloud provider's key (VLEK). AMD's root (ARK) certifies this key
through an intermediate authority (ASK or ASVK).

::

    evidence --+-> report         an SEV-SNP attestation report, strictly parsed
               +-> chain          VCEK <- ASK <- ARK, or VLEK <- ASVK <- ARK; the ARK is pinned by its fingerprint
    Policy ------> verify         named checks -> Verdict, or AttestationError
    boot files --> measure        the launch measurement that a guest's report must have

    nonce, TLS key -> runtime_data -> the guest's attestation agent -> report_data      (fresh evidence of this key)

AMD's revocation lists are not checked, because a download needs a network. The policy's `minimum_tcb` excludes old firmware.
"""

from .certificates import key_of
from .checks import Check, Verdict
from .policy import ANY, Policy
from .products import ARKS, DEFAULT_PRODUCTS, PRODUCTS, WARNINGS
from .report import Report, Tcb
from .verify import MOST_EVIDENCE, runtime_data, verify

__all__ = [
    "ANY",
    "ARKS",
    "DEFAULT_PRODUCTS",
    "MOST_EVIDENCE",
    "PRODUCTS",
    "WARNINGS",
    "Check",
    "Policy",
    "Report",
    "Tcb",
    "Verdict",
    "key_of",
    "runtime_data",
    "verify",
]
