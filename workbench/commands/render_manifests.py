"""`workbench manifests`: print the Kubernetes objects that run a deployment's edge or cloud, as YAML."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .launch import PLAN
from .options import Commands, add_command

if TYPE_CHECKING:
    from ..deployment.kubernetes.guest import Container
    from ..deployment.plan import Deployment

__all__ = ["add"]


def add(commands: Commands) -> None:
    made = add_command(
        commands,
        "manifests",
        _manifests,
        "print the Kubernetes objects of a stage that is planned in a container, as YAML",
        "  workbench manifests deployment.toml edge\n  workbench manifests deployment.toml cloud | kubectl apply -f -",
    )
    made.add_argument("plan", type=Path, nargs="?", default=PLAN, metavar="FILE", help=f"default: {PLAN}")
    made.add_argument("stage", nargs="?", default="edge", choices=("edge", "cloud"), help="default: edge")


def _manifests(options: argparse.Namespace) -> int:
    from ..deployment.kubernetes.manifests import render, to_yaml
    from ..deployment.plan import Deployment

    plan = Deployment.read(options.plan)
    container = plan.container() if options.stage == "edge" else plan.cloud_container()
    if options.stage == "cloud":
        print("# A cloud in a guest with a confidential GPU. Valid under Kubernetes' schemas, but it has never run.")
    print(to_yaml(render(container, _certificates(plan, container))), end="")
    return 0


def _certificates(plan: Deployment, container: Container) -> dict[str, bytes] | None:
    from ..certs import folder_of
    from ..deployment.kubernetes.manifests import FILES

    if container.resource:
        return None
    folder = folder_of(plan.certs, "edge")
    try:
        return {name: (folder / name).read_bytes() for name in FILES}
    except OSError:
        raise UsageError(
            f"the certificates of {plan.path.name} are not issued yet: `workbench launch {plan.path.name}`"
        ) from None
