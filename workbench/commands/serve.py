"""`workbench serve`: run an edge or a cloud as an HTTPS service.

The edge protects and encodes images. The cloud decodes and classifies them.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import math
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..processes import keep_memory
from ..storage import write_text
from .options import AUXILIARY, TARGET, Commands, add_command, add_precision, add_rate, pick_device, positive, read_rate

if TYPE_CHECKING:
    from ..certs import Role
    from ..services.attestation_agent import AttestationAgent
    from ..services.loading import StageConfig
    from ..services.server import Tls
    from ..services.service import Service
    from ..services.trust import Token

__all__ = ["add"]

CLOUD, EDGE = "127.0.0.1:8444", "127.0.0.1:8443"
YOUNG_OBJECTS = 5000  # new objects until a garbage collection; Python's default is 700


def add(commands: Commands) -> None:
    made = add_command(
        commands,
        "serve",
        serve,
        "run the edge or the cloud as an HTTPS service, until Ctrl-C or SIGTERM",
        f"""  workbench certs data/certs
  workbench serve cloud --certs data/certs
  workbench serve edge --certs data/certs --cloud https://{CLOUD}
  workbench serve cloud --certs data/certs --arrangement pp          phones ask it themselves, with PNG
  workbench serve edge --certs data/certs --cloud https://... --token-file token --listen 0.0.0.0:8443""",
    )
    made.add_argument("what", choices=("edge", "cloud"))
    made.add_argument("--listen", metavar="HOST:PORT", help=f"port 0: any free one (default: {EDGE}, {CLOUD})")
    made.add_argument("--port-file", type=Path, metavar="FILE", help="write the port there as soon as it is taken")
    made.add_argument("--certs", type=Path, metavar="DIR", help="a folder made by `workbench certs`")
    made.add_argument("--cloud", metavar="URL", help="of an edge: where payloads go")
    made.add_argument("--dataset", default="cifar10", help="whose weights (default: cifar10, which ships)")
    made.add_argument("--data-dir", metavar="DIR", help="of data set `folder`: its class folders, which name the classes")
    made.add_argument("--target", default=TARGET, metavar="NAME", help=f"the cloud's model (default: {TARGET})")
    made.add_argument("--auxiliary", default=AUXILIARY, metavar="NAME", help=f"the pair's other (default: {AUXILIARY})")
    made.add_argument(
        "--codec", help="between edge and cloud: neural, compressai, png, jpeg or webp (default: neural; pp: png)"
    )
    made.add_argument(
        "--arrangement", default="pmc2", choices=("pmc2", "pp"), help="pp: the cloud serves phones (default: pmc2)"
    )
    made.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: a GPU if there is one")
    add_precision(made, "in which the networks compute; bfloat16: about twice as fast if the processor has it")
    _add_limits(made)
    made.add_argument("--token-file", type=Path, metavar="FILE", help="a bearer token that clients may show")
    made.add_argument("--least-strength", type=float, default=1.0, metavar="A", help="an edge refuses less (default: 1)")
    add_rate(made, "of the codec neural: what an edge sends at for requests that name none, and a cloud warms up for")
    made.add_argument("--most-rate", type=float, metavar="R", help="an edge refuses a higher rate (default: --rate)")
    made.add_argument("--attestation-agent", metavar="URL", help="in a guest: such as http://127.0.0.1:8006")
    made.add_argument(
        "--secrets",
        metavar="NAME",
        help="in a guest: the key broker's resource with the certificates, which are written to --certs",
    )
    made.add_argument(
        "--probes", action="store_true", help="of an edge: answer health checks that show no certificate, and nothing else"
    )
    made.add_argument("--plain-http", action="store_true", help="without TLS, on loopback alone: for debugging")
    made.add_argument("--quiet", action="store_true", help="no line for each request")


def _add_limits(made: argparse.ArgumentParser) -> None:
    made.add_argument("--lanes", type=positive, default=0, metavar="N", help="batches computed at once (default: by cores)")
    made.add_argument("--threads", type=positive, default=0, metavar="N", help="of one lane (default: by cores)")
    made.add_argument("--remember", type=int, metavar="N", help="of a cloud: codes whose answers it keeps (4096)")
    made.add_argument(
        "--decode-every", action="store_true", help="of a cloud: decode and classify equal codes once for each image"
    )
    made.add_argument("--queue", type=positive, default=1024, metavar="N", help="images that may wait at the edge (1024)")
    made.add_argument("--batch", type=positive, default=256, metavar="N", help="images joined at the edge at most (256)")
    made.add_argument("--wait-ms", type=float, default=2.0, metavar="MS", help="a batch waits for arriving requests (2)")
    made.add_argument("--deadline", type=float, default=30.0, metavar="S", help="of a request that names none (30)")


def serve(options: argparse.Namespace) -> int:
    """Run a service until SIGTERM or Ctrl-C, and then finish the accepted requests.

    The port is bound before the networks are loaded. So clients that connect early wait, and are not refused. Raises UsageError
    for options that contradict each other.
    """
    if not options.plain_http and options.certs is None:
        raise UsageError("give --certs DIR (made by `workbench certs DIR`), or --plain-http on loopback")
    if options.what == "edge" and options.cloud is None:
        raise UsageError("an edge needs --cloud URL, such as https://" + CLOUD)
    if options.what == "edge" and options.arrangement == "pp":
        raise UsageError("arrangement pp has no edge: the phone protects, and asks the cloud")
    if not (0 <= options.least_strength <= 1 and 0 <= options.wait_ms < math.inf and 0 < options.deadline < math.inf):
        raise UsageError("--least-strength is from 0 to 1, --wait-ms from 0 up, --deadline above 0, all of them finite")
    if options.most_rate is not None and options.what == "cloud":
        raise UsageError("--most-rate is an edge's: a cloud decodes payloads of every rate")
    if options.most_rate is not None and not (options.rate or 0.0) <= options.most_rate <= 1:
        raise UsageError(f"--most-rate is from --rate to 1, got {options.most_rate:g}")
    if options.remember is not None and options.remember < 0:
        raise UsageError(f"--remember is a number of codes from 0 up, got {options.remember}")
    if options.token_file is not None and options.what == "cloud" and options.arrangement == "pmc2":
        raise UsageError("a cloud of arrangement pmc2 answers its edge's certificate alone: leave out --token-file")
    agent = _agent(options)
    if (options.probes and options.what != "edge") or ((options.secrets or options.probes) and options.plain_http):
        raise UsageError("--secrets and --probes are for an edge with --certs")
    if options.secrets and agent is None:
        raise UsageError("--secrets are released in a guest: give its --attestation-agent, such as http://127.0.0.1:8006")
    keep_memory()
    with _ended_by_signals():
        _load_and_run(options)
    return 0


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    # KeyboardInterrupt would not work: if it passes through an `exec`, as in many imports, the signal kills Python.
    codes = {signal.SIGTERM: 0, signal.SIGINT: 130}
    previous = {number: signal.signal(number, lambda *_, code=code: sys.exit(code)) for number, code in codes.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _load_and_run(options: argparse.Namespace) -> None:
    from ..services.server import Listener
    from ..services.server import serve as run

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger("workbench.access").setLevel(logging.WARNING if options.quiet else logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # its lines quote received bytes
    if options.secrets:
        from ..services.secrets import fetch

        fetch(options.attestation_agent, options.secrets, options.certs, options.what)
    tls = _tls(options)
    _warn_of_other_keys(options)
    listener = Listener.open(options.listen or (EDGE if options.what == "edge" else CLOUD))
    with contextlib.ExitStack() as stack:
        if options.port_file is not None:
            write_text(options.port_file, f"{listener.port}\n")
            stack.callback(options.port_file.unlink, missing_ok=True)
        run(_service(options), listener, tls, options.token_file)


def _warn_of_other_keys(options: argparse.Namespace) -> None:
    from ..services.server import address
    from ..services.trust import is_loopback

    if options.certs is None or options.listen is None or is_loopback(address(options.listen)[0]):
        return
    if (options.certs / "authority" / "ca.key").exists():
        logging.getLogger("workbench.services").warning(
            "%s has the keys of every role and of the authority: on a host of its own, copy and name %s alone",
            options.certs,
            options.certs / options.what,
        )


def _tls(options: argparse.Namespace) -> Tls | None:
    from ..services.server import Tls
    from ..services.trust import server_context

    if options.plain_http:
        return None
    demand = options.what == "cloud" or (_token(options) is None and not options.probes)
    return Tls(server_context(options.certs, options.what, demand), options.certs, options.what)


def _token(options: argparse.Namespace) -> Token | None:
    from ..services.trust import TOKEN_VARIABLE, Token

    if options.token_file is not None:
        return Token.read(options.token_file)
    if os.environ.get(TOKEN_VARIABLE):
        logging.getLogger("workbench.services").warning(
            "$%s is for clients and lets nobody in here: give --token-file to take a token", TOKEN_VARIABLE
        )
    return None


def _agent(options: argparse.Namespace) -> AttestationAgent | None:
    from ..services.attestation_agent import AttestationAgent

    if options.attestation_agent is None:
        return None
    if options.plain_http or (options.what != "edge" and not options.secrets):
        raise UsageError("--attestation-agent is for an edge with --certs: evidence is bound to the TLS key that clients see")
    return AttestationAgent(options.attestation_agent)


def _service(options: argparse.Namespace) -> Service:
    from ..data import load
    from ..inference import computes_in_16_bits
    from ..services.batching import ComputePool
    from ..services.loading import StageConfig, lanes_and_threads

    shared: dict[str, Any] = {"token": _token(options), "plain": options.plain_http, "deadline_s": options.deadline}
    device = pick_device(options.device)
    codec = options.codec = options.codec or ("png" if options.arrangement == "pp" else "neural")
    rate = read_rate(options) or 0.0
    dataset = load(options.dataset, options.data_dir)
    stage = StageConfig(
        dataset.family,
        dataset.classes,
        options.target,
        options.auxiliary,
        codec,
        device,
        precision=options.precision,
        rate=rate,
    )
    if options.precision == "bfloat16" and not computes_in_16_bits(device):
        logging.getLogger("workbench.services").warning(
            "this processor has no bfloat16 of its own: it takes longer than float32"
        )
    shared["lanes"] = ComputePool(*lanes_and_threads(device, options.lanes, options.threads))
    service = (_edge if options.what == "edge" else _cloud)(options, stage, shared)
    gc.collect()
    gc.freeze()  # existing objects stay alive, so later collections skip them
    gc.set_threshold(YOUNG_OBJECTS)  # the objects of about a hundred requests are freed without a collection
    return service


def _cloud(options: argparse.Namespace, stage: StageConfig, shared: dict[str, Any]) -> Service:
    from ..services.cloud import CloudService, cloud_model
    from ..services.loading import cloud_stage, warm_cloud
    from ..system import REMEMBERED

    cloud, weights = cloud_stage(stage, REMEMBERED if options.remember is None else options.remember, options.decode_every)
    shared["lanes"].warm(lambda n: warm_cloud(cloud, stage.size, n))
    roles: tuple[Role, ...] = ("client",) if options.arrangement == "pp" else ("edge",)
    service = CloudService(
        cloud, cloud_model(stage.target, weights, cloud, stage.classes), stage.classes, roles=roles, **shared
    )
    service.ready = True
    return service


def _edge(options: argparse.Namespace, stage: StageConfig, shared: dict[str, Any]) -> Service:
    from ..services.connection import Connection
    from ..services.edge import EdgeService, edge_model
    from ..services.loading import edge_stage, warm_edge
    from ..services.trust import client_context

    trust = None if options.certs is None else lambda: client_context(options.certs, "edge", "cloud")
    cloud = Connection(options.cloud, trust, attempt_s=5.0, plain=options.plain_http)
    edge, weights, target = edge_stage(stage)
    shared["lanes"].warm(lambda n: warm_edge(edge, stage.size, n), options.batch)
    return EdgeService(
        edge,
        edge_model(stage.target, weights, stage.classes, stage.codec),
        stage.classes,
        cloud,
        target,
        size=stage.size,
        most=options.batch,
        capacity=max(options.queue, options.batch),
        wait_s=options.wait_ms / 1e3,
        least_strength=options.least_strength,
        most_rate=options.most_rate,
        agent=_agent(options),
        **shared,
    )
