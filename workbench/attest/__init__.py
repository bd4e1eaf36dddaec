"""Remote attestation: whether evidence proves which guest, on which processor, holds the key that a TLS connection shows.

::

    evidence --+-> report         an SEV-SNP attestation report: strictly read, signed by the processor's VCEK
               +-> certificates   VCEK <- ASK <- ARK, the last one pinned by its fingerprint
    Policy ------> verify         every check by its name -> Verdict, or AttestationError

    nonce, TLS key -> runtime_data -> the guest's attestation agent -> report_data      (so that it is fresh, and of this key)

Not looked at: AMD's revocation lists, which are fetched over a network; `minimum_tcb` is what shuts out old firmware here.
"""

from .certificates import ARKS, PRODUCTS, key_of
from .policy import Policy
from .report import Report, Tcb
from .verify import MOST_EVIDENCE, Check, Verdict, runtime_data, verify

__all__ = [
    "ARKS",
    "MOST_EVIDENCE",
    "PRODUCTS",
    "Check",
    "Policy",
    "Report",
    "Tcb",
    "Verdict",
    "key_of",
    "runtime_data",
    "verify",
]
