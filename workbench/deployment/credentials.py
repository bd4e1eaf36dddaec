"""Whom a deployment trusts: the certificates of its stages, and what the evidence of its edge must prove."""

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

RENEW = timedelta(days=14)  # before they expire


def issue_certificates(plan: Deployment) -> bool:
    """Issue the certificates of a deployment; return False if the existing ones will do.

    For other names than before there is another authority: each can sign the names that it was made for and no others.
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
    """Return the names by which a stage is reached: its address, or this machine's own, through SSH."""
    host = plan.stage(which).address.rpartition(":")[0].strip("[]")
    return [host] if host else ["127.0.0.1", "localhost"]


def _valid_until(plan: Deployment) -> datetime:
    """Return when the first certificate expires; the epoch if one cannot be read."""
    try:
        paths = [folder_of(plan.certs, role) / f"{role}.pem" for role in get_args(Role)]
        return min(x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc for path in paths)
    except (OSError, ValueError):  # UsageError is one
        return datetime.fromtimestamp(0, UTC)


def required_policy(plan: Deployment, given: Policy | str | Path | None = None) -> Policy | None:
    """Return what the edge's evidence must prove: the given policy, or else the plan's; None if there is neither.

    The evidence of a confidential edge must have the digest of this plan's configuration, whatever the policy says of it.
    Raises UsageError if a confidential edge has no policy, or one that its evidence cannot fit.
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
