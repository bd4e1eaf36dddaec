"""Check the values of Kata's Helm chart on a cluster.

Kata starts a guest, a virtual machine, for each container. A shim is Kata's runtime for one kind of guest. Helm stores the
values in Secrets, which these checks do not read. They read the chart's DaemonSet instead. In each function, `daemons` are all
DaemonSets of the cluster, and `machine` is the name of the host on which kubectl runs.

Source of the names of charts, values and variables: kata-containers 4.1.0 (ddcb1ad8), tools/packaging/kata-deploy/helm-chart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..kubernetes.guest import Container
from ..kubernetes.manifests import ANNOTATIONS, GPU_CLASS, shim_name
from .findings import Finding, ok, unknown, wrong

__all__ = ["CHART", "RELEASE", "annotation_findings", "chart_findings", "installing"]

Object = Mapping[str, Any]
CHART = "oci://ghcr.io/confidential-containers/charts/confidential-containers"
RELEASE = "0.22.0"  # of the chart; docs/deployment.md has the complete table
INSTALL = f"`helm upgrade --install coco {CHART} --version {RELEASE} --namespace coco-system --create-namespace`"


def installing(container: Container, daemons: Sequence[Object]) -> str:
    """Return the Helm command that enables the container's shim in Kata's chart.

    If the chart is missing, return the command that installs the chart.
    """
    chart = _chart(daemons)
    return _set(chart, f"shims.{shim_name(container)}.enabled=true") if chart else INSTALL


def chart_findings(machine: str, container: Container, daemons: Sequence[Object]) -> list[Finding]:
    """Check that Kata's chart enables the container's shim, and that the guest, not the host, pulls the image."""
    shim = shim_name(container)
    chart = _chart(daemons)
    if chart is None:
        way = "look at its values: `helm list -A`, `helm get values RELEASE -n NAMESPACE`"
        return [unknown(machine, "chart", "has no DaemonSet of Kata's chart", way)]
    values = _values(chart)
    if shim not in values.get("SHIMS_X86_64", shim).split():
        return [wrong(machine, "chart", f"has a Kata chart that leaves {shim} out", installing(container, daemons))]
    pulls = " ".join(
        values.get(key, "") for key in ("SNAPSHOTTER_HANDLER_MAPPING_X86_64", "EXPERIMENTAL_FORCE_GUEST_PULL_X86_64")
    )
    if not re.search(rf"(^|[\s,]){re.escape(shim)}(:nydus)?($|[\s,])", pulls):
        text = f"has a Kata chart by which the host pulls images for {shim}, which the guest's policy refuses"
        return [wrong(machine, "chart", text, _set(chart, f"shims.{shim}.containerd.snapshotter=nydus"))]
    return [ok(machine, "chart", f"has a Kata chart by which guests of {shim} pull their images")]


def _chart(daemons: Sequence[Object]) -> Object | None:
    return next((each for each in daemons if any(name.startswith("SHIMS_") for name in _values(each))), None)


def _values(daemon: Object) -> dict[str, str]:
    containers = daemon.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
    return {one["name"]: str(one.get("value", "")) for each in containers for one in each.get("env", [])}


def _set(chart: Object | None, value: str) -> str:
    metadata: Object = chart["metadata"] if chart else {"name": "kata-as-coco-runtime"}
    whole = metadata["name"] == "kata-as-coco-runtime"  # name of Kata's chart within the Confidential Containers (CoCo) chart
    labels = metadata.get("annotations", {})
    release = labels.get("meta.helm.sh/release-name", "coco" if whole else "kata-deploy")
    namespace = labels.get("meta.helm.sh/release-namespace", metadata.get("namespace", "coco-system"))
    source = CHART if whole else "oci://ghcr.io/kata-containers/kata-deploy-charts/kata-deploy"
    prefix = "kata-as-coco-runtime." if whole else ""
    values = f"--reuse-values --set '{prefix}{value}'"
    command = f"`helm upgrade {release} {source} --version VERSION --namespace {namespace} {values}`"
    return f"{command}, with the VERSION that `helm list -A` shows"


def annotation_findings(
    machine: str, container: Container, daemons: Sequence[Object], configured: Mapping[str, Sequence[str] | None]
) -> list[Finding]:
    """Check that Kata lets pods set the annotations that the container needs.

    `configured` is {shim: allowed annotations, as regular expressions}. It comes from Kata's files on the host on which kubectl
    runs. It is empty if this host is not a node of the cluster. If it has no list for the container's shim, Kata's default and
    the chart's values apply.
    """
    shim = shim_name(container)
    chart = _chart(daemons)
    allowed = configured.get(shim)
    if allowed is None and chart is None:
        path = f"/opt/kata/share/defaults/kata-containers/{'runtime-rs/' if container.shim == 'rust' else ''}runtimes/{shim}"
        need = " and ".join(ANNOTATIONS)
        return [
            unknown(
                machine,
                "annotations",
                "does not tell which annotations its Kata allows",
                f"enable_annotations in {path} must have {need}",
            )
        ]
    if allowed is None and chart is not None:
        allowed = [*_default(shim), *_granted(_values(chart).get("ALLOWED_HYPERVISOR_ANNOTATIONS_X86_64", ""), shim)]
    missing = [name for name in ANNOTATIONS if not any(_matches(each, name) for each in allowed or ())]
    if not missing:
        return [ok(machine, "annotations", f"lets pods of {shim} set {' and '.join(ANNOTATIONS)}")]
    effect = "then /aa/evidence answers nothing" if "kernel_params" in missing else "then the guest has no policy and no broker"
    fate = "drops them without an error" if container.shim == "rust" else "refuses such pods"
    text = f"does not let pods of {shim} set {' and '.join(missing)}: the {container.shim.title()} runtime {fate}, {effect}"
    names = ",".join(ANNOTATIONS)
    return [
        wrong(machine, "annotations", text, _set(chart, f"shims.{shim}.allowedHypervisorAnnotations={{{names}}}"), blocks=True)
    ]


def _default(shim: str) -> tuple[str, ...]:
    # equal to DEFENABLEANNOTATIONS of Kata 3.31.0 to 4.1.0
    rust_gpu = shim == f"{GPU_CLASS.removeprefix('kata-')}-runtime-rs"
    return ("cc_init_data",) if rust_gpu else ("cc_init_data", "kernel_params")


def _granted(value: str, shim: str) -> list[str]:
    # in "qemu-snp:x,y z", x and y are for qemu-snp, z is for all shims
    parts = [part.partition(":") for part in value.split()]
    return [
        name for head, colon, tail in parts for name in (tail.split(",") if colon and head == shim else [] if colon else [head])
    ]


def _matches(expression: str, name: str) -> bool:
    try:
        return re.search(expression, name) is not None
    except re.error:
        return False
