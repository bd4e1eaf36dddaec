"""The edge's service. It protects pictures, sends the payload to the cloud, and returns the labels.

The payload is the compressed protected pictures. The cloud receives nothing else of a picture.

::

    JPEG, PNG -> decode -> micro-batch -> generator -> codec --payload--> cloud --scores--> the batch's requests
                   |
                   large pictures on separate threads, so that they delay no other request

A micro-batch joins queued requests. It runs on a lane, a worker thread of the compute pool. A client may also request the
cloud's view of its pictures: the images that the cloud decodes from the payload.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import logging
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.responses import Response as HttpResponse
from starlette.routing import Route

from ..certs import Role
from ..errors import DataError, ProtocolError, ServiceError, UsageError, WorkbenchError
from ..models import check_strength
from ..pictures import Limits
from ..protocol import MAX_ID, Request, Response, Tensor
from ..system import Edge, Stopwatch
from .admission import PATH
from .attestation_agent import AttestationAgent, evidence_of
from .batching import Batcher, ComputePool, Job
from .cloud import answer_tensors, key_id, output_metadata
from .connection import Connection, Scores, infer, metadata, reported, scores_of
from .decoding import MemoryBudget, PictureDecoder
from .forms import form_of
from .idempotency import IdempotencyCache
from .openapi import edge_document
from .phone import PayloadSlice, asks_to_see, decode_view, page_routes
from .service import Service, number
from .types import Answer, Model, RequestContext

__all__ = ["LARGE", "EdgeService", "edge_model"]

log = logging.getLogger("workbench.services")

# Small pictures are decoded on a lane, large ones on a separate thread.
SMALL = Limits(("JPEG", "PNG"), file_bytes=16 << 10, jpeg_pixels=128 * 128, pixels=128 * 128, scans=20)
SMALL_SUM = 1 << 20  # bytes of a request's small pictures
LARGE = Limits(("JPEG", "PNG"), file_bytes=24 << 20, jpeg_pixels=64_000_000, pixels=4096 * 4096, scans=20)


@dataclass(frozen=True)
class EdgeResult:
    """The result of a request with N pictures: the scores of the K classes (N x K), and the time of each step (ms).

    `payload` is the number of bytes that were sent to the cloud for this request. If one payload had the pictures of several
    requests, the bytes are divided in proportion to the numbers of pictures.
    """

    scores: Scores
    payload: float
    milliseconds: dict[str, float]
    seen: list[bytes] | None = field(default=None, repr=False)  # PNGs of the cloud's view, if it was requested


@dataclass
class _Pictures:
    files: Sequence[bytes] = field(repr=False)
    see: bool = False
    images: torch.Tensor | None = field(default=None, repr=False)
    large: bool = False
    place: PayloadSlice | None = None


def edge_model(name: str, weights: str, classes: Sequence[str], codec: str) -> Model:
    """Return the description of an edge for its clients.

    `name` is the name of the cloud's classifier. `weights` is the SHA-256 of the generator's weights. The first 16 digits of
    this hash are the version.
    """
    return Model(
        name,
        weights[:16],
        [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        output_metadata(len(classes)),
        {"codec": codec, "classes": ",".join(classes)},
    )


class EdgeService(Service):
    """Protects pictures, and sends only their payload to the cloud, which recognises them.

    `target` is the SHA-256 of the classifier for which the generator was trained. The cloud must run this classifier. Images
    have `size` x `size` pixels.

    Clients may choose the strength of the protection and the rate of the codec `neural`. A strength below `least_strength` is
    refused, because at strength 0 the original picture would be sent. A rate above `most_rate` (None: the codec's own rate) is
    refused, because a higher rate shows the cloud more of the picture.

    `agent` is the attestation agent of the guest (confidential VM) in which the edge runs, if any. `budget` is the memory for
    decoding large pictures. `most`, `capacity` and `wait_s` are the settings of the `Batcher`.
    """

    name, other = "pmc2-edge", "edge_other"

    def __init__(
        self,
        edge: Edge,
        model: Model,
        classes: Sequence[str],
        cloud: Connection,
        target: str,
        lanes: ComputePool,
        *,
        size: int = 32,
        most: int = 256,
        capacity: int = 1024,
        wait_s: float = 0.002,
        least_strength: float = 1.0,
        most_rate: float | None = None,
        roles: tuple[Role, ...] = ("client",),
        agent: AttestationAgent | None = None,
        budget: MemoryBudget | None = None,
        **options: Any,
    ) -> None:
        self.agent = agent
        self._batcher: Batcher[EdgeResult] = Batcher(
            self._protect, self._forward, lanes=lanes, most=most, capacity=capacity, wait_s=wait_s
        )
        super().__init__(model, roles, **options)
        self._lanes = lanes
        self.edge, self.cloud, self.classes = edge, cloud, tuple(classes)
        self.target, self.size, self.most, self.least_strength = target[:16], size, most, least_strength
        self.most_rate = getattr(edge.codec, "rate", 0.0) if most_rate is None else most_rate
        self._decoder = PictureDecoder(edge, size, LARGE, max(1, (os.cpu_count() or 2) // 2), budget)
        self._answers = IdempotencyCache[EdgeResult]()
        self._watch: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        return self._batcher.accepted

    def arriving(self, change: int) -> None:
        if change > 0:
            self._batcher.arriving += 1
        else:
            self._batcher.settled()

    def renewed(self) -> None:
        self.cloud.renew()

    def openapi(self) -> dict[str, Any]:
        return edge_document(self.model, attested=self.agent is not None)

    def direct(self) -> dict[str, Answer]:
        return {"/recognize": self._plain}

    async def open(self) -> None:
        """Open the connection to the cloud. The service is ready once `check_cloud` passes."""
        await self.cloud.__aenter__()
        self._watch = asyncio.create_task(self._until_known())

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        await self._batcher.close()
        self._lanes.close()
        self._decoder.close()
        await self.cloud.__aexit__()

    def _routes(self) -> list[Route]:
        return [*super()._routes(), Route(PATH, self._attestation), *page_routes(self)]

    async def _attestation(self, http: HttpRequest) -> HttpResponse:
        # clients verify the evidence before they send a token, so an edge with a token needs no credential for evidence
        admitted = True
        try:
            self.admit(http)
        except ServiceError as error:
            if self.token is None or error.status != 401 or http.headers.get("Authorization") is not None:
                raise
            admitted = False
        return await evidence_of(self.agent, http, admitted)

    async def _until_known(self) -> None:
        pause, logged = 0.05, ""
        while not self.ready:
            try:
                await self.check_cloud()
                self.ready = True
                return
            except Exception as error:  # the cloud may be repaired, whatever is wrong with its responses
                reason = str(error) if isinstance(error, WorkbenchError) else type(error).__name__
                if reason != logged:
                    logged = reason
                    log.warning("not ready: %s", logged)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.5)

    async def check_cloud(self) -> None:
        """Raise ServiceError if the cloud does not run the classifier `target`, or does not decode this edge's payloads."""
        found = await metadata(self.cloud, self.model.name)
        self._check_version((found.get("versions") or [""])[0])
        codec = found.get("parameters", {}).get("codec_id")
        if codec != key_id(self.edge.codec.key):
            raise ServiceError(
                f"the cloud at {self.cloud.url} decodes another codec or other weights than this edge encodes with "
                f"({codec!r:.40}, {key_id(self.edge.codec.key)}): start both with the same pair and --codec",
                status=502,
            )

    def _check_version(self, version: Any) -> None:
        if version != self.target:
            raise ServiceError(
                f"the cloud at {self.cloud.url} answers with a {self.model.name} {version!r:.40}, the generator was trained "
                f"for {self.target}: start both with the same pair",
                status=502,
            )

    async def infer(self, request: Request, call: RequestContext, deadline: float) -> Response:
        image = request.inputs.get("image")
        if set(request.inputs) != {"image"} or image is None or not isinstance(image.data, list) or len(image.shape) > 2:
            raise ProtocolError("the input must be one tensor 'image' of BYTES, a JPEG or PNG file an element")
        strength = number(request.parameters, "strength", 1.0)
        rate = number(request.parameters, "rate", 0.0) if "rate" in request.parameters else None
        found = await self._recognised(image.data, strength, rate, call, deadline)
        parameters = {"payload_bytes": found.payload}
        return Response(self.model.name, answer_tensors(found.scores, self.classes), request.id, parameters, self.model.version)

    async def _plain(self, http: HttpRequest, body: bytes, call: RequestContext) -> HttpResponse:
        form = form_of(body, http.headers.get("Content-Type", ""), self._batcher.most)
        call.id = form.text(http, "id") or ""
        if len(call.id) > MAX_ID:
            raise ProtocolError(f"the header X-Request-Id may have at most {MAX_ID} characters")
        deadline, asked = self.deadline(form.number(http, "timeout")), asks_to_see(form.text(http, "show"), len(form.files))
        strength, rate = form.number(http, "strength"), form.number(http, "rate")
        found = await self._recognised(form.files, 1.0 if strength is None else strength, rate, call, deadline, asked)
        best = found.scores.argmax(1)
        results = [
            {"label": self.classes[index], "class": int(index), "scores": [round(float(score), 6) for score in scores]}
            for index, scores in zip(best, found.scores, strict=True)
        ]
        times = {name: round(value, 3) for name, value in call.finish(self.other).items()}
        answer = {"model": self.model.name, "results": results, "milliseconds": times, "payload_bytes": round(found.payload, 3)}
        if found.seen is not None:
            answer["cloud_picture"] = [base64.b64encode(file).decode() for file in found.seen]
        return JSONResponse(answer | ({"id": call.id} if call.id else {}), headers={"Cache-Control": "no-store"})

    async def _recognised(
        self,
        files: Sequence[bytes],
        strength: float,
        rate: float | None,
        call: RequestContext,
        deadline: float,
        see: bool = False,
    ) -> EdgeResult:
        if not 0 < len(files) <= self._batcher.most:
            raise ProtocolError(f"a request has 1 to {self._batcher.most} pictures, this one {len(files)}")
        check_strength(strength)
        if strength < self.least_strength:
            raise UsageError(f"this edge protects at a strength of {self.least_strength:g} or more, got {strength:g}")
        self.edge.codec.at(rate)  # raises for an unknown rate
        if rate is not None and rate > self.most_rate:
            raise UsageError(f"this edge sends at a rate of {self.most_rate:g} or less, got {rate:g}")
        call.images, kind = len(files), (strength, rate)
        asked = itertools.chain((repr((*kind, see)).encode(),), files)
        found = await self._answers.answer(call, asked, deadline, lambda: self._submit(files, kind, deadline, see))
        call.payload, call.milliseconds = found.payload, dict(found.milliseconds)
        return found

    async def _submit(self, files: Sequence[bytes], kind: tuple[float, float | None], deadline: float, see: bool) -> EdgeResult:
        work = _Pictures(files, see)
        if sum(map(len, files)) > SMALL_SUM or any(len(file) > SMALL.file_bytes for file in files):
            await self._decode(work, deadline)
        found = await self._batcher.submit(work, len(files), kind, deadline)
        if work.large:  # the lane found a large picture: decode on another thread, then submit again
            await self._decode(work, deadline)
            found = await self._batcher.submit(work, len(files), kind, deadline)
        return found if work.place is None else await self._shown(found, work.place, deadline)

    async def _shown(self, found: EdgeResult, place: PayloadSlice, deadline: float) -> EdgeResult:
        start = time.perf_counter()
        try:
            async with asyncio.timeout_at(deadline):
                seen = await asyncio.get_running_loop().run_in_executor(self._lanes.pool, decode_view, self.edge.codec, place)
        except TimeoutError:
            raise ServiceError("the deadline passed before the answer was there", status=504) from None
        return replace(found, seen=seen, milliseconds=found.milliseconds | {"shown": 1e3 * (time.perf_counter() - start)})

    async def _decode(self, work: _Pictures, deadline: float) -> None:
        n = len(work.files)
        if self._batcher.accepted + n > self._batcher.capacity:
            raise ServiceError("the queue is full", status=429, retry_after=1)
        self._batcher.accepted += n
        try:
            work.images = await self._decoder.decode(work.files, deadline)
        finally:
            work.files = ()
            self._batcher.accepted -= n

    def _protect(self, jobs: Sequence[Job[EdgeResult]]) -> tuple[bytes, Stopwatch]:
        clock = Stopwatch()
        if fresh := [job.work for job in jobs if job.work.images is None]:
            self._receive(fresh, clock)
        whole: list[torch.Tensor] = [job.work.images for job in jobs if job.work.images is not None]
        if not whole:
            return b"", clock
        images = whole[0] if len(whole) == 1 else torch.cat(whole)
        strength, rate = jobs[0].kind
        return self.edge.protect(images, strength, clock, rate), clock

    def _receive(self, works: Sequence[_Pictures], clock: Stopwatch) -> None:
        # one call for several jobs takes half the time of single calls
        try:
            images = self.edge.receive([file for work in works for file in work.files], self.size, clock, SMALL)
        except DataError:
            if len(works) == 1:
                works[0].large = True
            else:
                for work in works:
                    self._receive([work], clock)
            return
        for work, part in zip(works, images.split_with_sizes([len(work.files) for work in works]), strict=True):
            work.images = part

    async def _forward(self, jobs: Sequence[Job[EdgeResult]], computed: tuple[bytes, Stopwatch]) -> None:
        payload, clock = computed
        aside = [job for job in jobs if job.work.large and job.work.images is None]
        for job in aside:
            if not job.answer.done():
                job.answer.set_result(_NOTHING)
        sent = [job for job in jobs if job not in aside]
        if not sent:
            return
        start = time.perf_counter()
        n = sum(job.size for job in sent)
        answer, scores = await self._ask(payload, n, max(job.deadline for job in sent))
        passed = 1e3 * (time.perf_counter() - start)
        times = {name: clock.milliseconds[name] or 0.0 for name in ("generator", "compression")}
        parts = ("decompression", "classifier", "cloud_other")
        times |= {name: reported(answer, f"{name}_ms") for name in parts}
        times["network_edge_cloud"] = max(0.0, passed - sum(times[name] for name in parts))
        position = 0
        for job in sent:
            part = scores[position : position + job.size]
            job.work.place = PayloadSlice(payload, position, job.size) if job.work.see else None
            position += job.size
            if not job.answer.done():
                job.answer.set_result(EdgeResult(part, len(payload) * job.size / n, dict(times)))

    async def _ask(self, payload: bytes, n: int, deadline: float) -> tuple[Response, Scores]:
        # the client gets a status of 500 or above for faults of the cloud
        try:
            sent = Tensor.of("payload", [payload])
            answer = await infer(self.cloud, self.model.name, [sent], id=secrets.token_hex(8), deadline=deadline)
        except ServiceError as error:
            status = {429: 503, 503: 503, 504: 504}.get(error.status, 502)
            raise ServiceError(str(error), status=status, retry_after=error.retry_after) from None
        self._check_version(answer.version)
        return answer, scores_of(answer, n, len(self.classes), f"the cloud at {self.cloud.url}")


_NOTHING = EdgeResult(np.empty((0, 0), np.float32), 0.0, {})
