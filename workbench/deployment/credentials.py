"""Issue the certificates of a deployment's stages (edge and cloud), and choose the client's attestation policy.

An attestation policy states what the edge's attestation evidence must prove.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

from cryptography import x509

from ..attest import ANY, Policy
from ..certs import Role, folder_of, issue
from ..errors import UsageError
from ..storage import write_json
from .kubernetes.guest import initdata_digest
from .plan import Deployment, Which

__all__ = ["issue_certificates", "required_policy"]

RENEW = timedelta(days=14)  # certificates are renewed this long before they expire


def issue_certificates(plan: Deployment) -> bool:
    """Issue all certificates of a deployment if one is missing or expires within 14 days, or if a stage's host name changed.

    Return whether certificates were issued. If a host name changed, a new certificate authority is also made, because the old
    one cannot sign certificates for the new name.
    """
    names = {"edge": _names(plan, "edge"), "cloud": _names(plan, "cloud")}
    path, known = plan.folder / "names.json", None
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(path.read_text())
    if known == names and _valid_until(plan) - RENEW > datetime.now(UTC):
        return False
    if known != names:
        path.unlink(missing_ok=True)
        shutil.rmtree(plan.certs, ignore_errors=True)
    issue(plan.certs, names["edge"], cloud_names=names["cloud"])
    write_json(path, names)
    return True


def _names(plan: Deployment, which: Which) -> list[str]:
    host = plan.stage(which).address.rpartition(":")[0].strip("[]")
    return [host] if host else ["127.0.0.1", "localhost"]


def _valid_until(plan: Deployment) -> datetime:
    try:
        paths = [folder_of(plan.certs, role) / f"{role}.pem" for role in get_args(Role)]
        return min(x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc for path in paths)
    except (OSError, ValueError):  # UsageError is a ValueError
        return datetime.fromtimestamp(0, UTC)


def required_policy(plan: Deployment, given: Policy | str | Path | None = None) -> Policy | None:
    """Return the client's attestation policy: `given`, else the plan's policy, else None.

    `given` is a policy or the path of its file. A confidential edge runs in a guest, a virtual machine with encrypted memory.
    For such an edge, the returned policy requires the digest of the guest's configuration (initdata). The digest is computed
    from the plan. Raises UsageError if a confidential edge has no policy, or if no evidence of this edge could meet the policy.
    """
    source = given if given is not None else plan.policy
    confidential = plan.edge.runtime == "confidential"
    if source is None and confidential:
        raise UsageError(
            f"{plan.path}: a confidential edge needs [client] policy: nothing is verified without it, and any host with the "
            "edge's certificate gets the pictures. `workbench init-deployment --policy policy.toml` writes one"
        )
    policy = source if isinstance(source, Policy) or source is None else Policy.read(Path(source))
    if policy is None or not confidential:
        return policy
    if policy.kind != "snp":
        raise UsageError(f'a policy of kind = "{policy.kind}" proves nothing of a confidential edge: give kind = "snp"')
    digest = initdata_digest(plan.container())
    if policy.initdata.lower() not in (ANY, digest):
        raise UsageError(
            f"the policy asks for initdata = {policy.initdata}, and the edge of {plan.path.name} has {digest}: if you trust "
            "this plan's image and options, put that into the policy"
        )
    return dataclasses.replace(policy, initdata=digest)
