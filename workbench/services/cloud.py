"""The cloud's service. It classifies payloads, and never sees an unprotected picture.

A payload is a batch of protected pictures, compressed by a codec.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import threading
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from ..bitstream import claimed_images
from ..certs import Role
from ..errors import ProtocolError, ServiceError
from ..protocol import Request, Response, Tensor
from ..system import Cloud, Stopwatch
from .batching import ComputePool
from .idempotency import IdempotencyCache
from .openapi import cloud_document
from .service import Service
from .types import Model, RequestContext

__all__ = ["CloudService", "answer_tensors", "cloud_model", "key_id"]

MOST_IMAGES = 1024  # in one request
MOST_WAITING = 4096  # images in the queue


def key_id(key: bytes) -> str:
    """Return the identifier of a codec: 16 hex digits of the SHA-256 of the codec's `key`.

    Edge and cloud compare their identifiers, because only equal codecs understand each other.
    """
    return hashlib.sha256(key).hexdigest()[:16]


def cloud_model(name: str, weights: str, cloud: Cloud, classes: Sequence[str]) -> Model:
    """Return the description of a cloud for its clients, with the codec that the cloud decodes.

    `name` is the name of the classifier. `weights` is the SHA-256 of the classifier's weights. The first 16 digits of this hash
    are the version.
    """
    return Model(
        name,
        weights[:16],
        [{"name": "payload", "datatype": "BYTES", "shape": [1]}],
        output_metadata(len(classes)),
        {"codec": cloud.codec.name, "codec_id": key_id(cloud.codec.key), "classes": ",".join(classes)},
    )


def output_metadata(classes: int) -> list[dict[str, Any]]:
    return [
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
        {"name": "class", "datatype": "INT64", "shape": [-1]},
        {"name": "scores", "datatype": "FP32", "shape": [-1, classes]},
    ]


def answer_tensors(scores: np.ndarray[Any, np.dtype[np.float32]], classes: Sequence[str]) -> dict[str, Tensor]:
    """Return the output tensors of a response by name: label (text), class (number) and scores.

    `scores` is N x K, for N images and K `classes`.
    """
    found = scores.argmax(1)
    tensors = (
        Tensor.of("label", [classes[index].encode() for index in found]),
        Tensor.of("class", found.astype(np.int64)),
        Tensor.of("scores", scores),
    )
    return {tensor.name: tensor for tensor in tensors}


Recognised: TypeAlias = tuple[np.ndarray[Any, np.dtype[np.float32]], dict[str, float]]  # scores (N x K), times of steps (ms)


class CloudService(Service):
    """Classifies the payloads of clients whose certificate has one of the `roles`.

    The role "edge" is for an edge. The role "client" is for phones that protect their pictures themselves. The cloud computes
    on the pool `lanes`. `options` are further options of `Service`.
    """

    name, other = "pmc2-cloud", "cloud_other"

    def __init__(
        self,
        cloud: Cloud,
        model: Model,
        classes: Sequence[str],
        lanes: ComputePool,
        roles: tuple[Role, ...] = ("edge",),
        **options: Any,
    ) -> None:
        super().__init__(model, roles, **options)
        self.cloud, self.classes = cloud, tuple(classes)
        self._lanes = lanes
        self._waiting = 0
        self._answers = IdempotencyCache[Recognised]()

    @property
    def waiting(self) -> int:
        return self._waiting

    def openapi(self) -> dict[str, Any]:
        return cloud_document(self.model)

    async def close(self) -> None:
        self._lanes.close()

    async def infer(self, request: Request, call: RequestContext, deadline: float) -> Response:
        tensor = request.inputs.get("payload")
        if len(request.inputs) != 1 or tensor is None or not isinstance(tensor.data, list) or len(tensor.data) != 1:
            raise ProtocolError("the input must be one tensor 'payload' of BYTES with one element")
        held = tensor.data
        call.payload, n = len(held[0]), claimed_images(held[0])
        if n > MOST_IMAGES:
            raise ProtocolError(f"a payload may hold at most {MOST_IMAGES} images, this one claims {n}: send fewer")
        if (known := self.cloud.remember(held[0])) is not None:
            scores, times = known.numpy(), dict[str, float]()
        else:
            scores, times = await self._answers.answer(call, (held[0],), deadline, lambda: self._recognise(held, n, deadline))
        call.images, call.milliseconds = len(scores), dict(times)
        return Response(self.model.name, answer_tensors(scores, self.classes), request.id, {}, self.model.version)

    async def _recognise(self, held: list[bytes], n: int, deadline: float) -> Recognised:
        # `held` has one payload, and is emptied so that the payload is freed early
        if self._waiting + n > MOST_WAITING:
            raise ServiceError(f"the queue is full ({self._waiting} images wait)", status=429, retry_after=1)
        clock, late = Stopwatch(), threading.Event()

        def proceed() -> None:
            if late.is_set():
                raise TimeoutError

        def recognise() -> torch.Tensor:
            proceed()
            return self.cloud.recognise(held.pop(), clock, proceed)

        self._waiting += n
        work = asyncio.get_running_loop().run_in_executor(self._lanes.pool, recognise)
        work.add_done_callback(functools.partial(self._done, n))
        try:
            async with asyncio.timeout_at(deadline):
                scores = (await work).numpy()
        except TimeoutError:
            late.set()
            held.clear()  # a late job stays in the pool's queue, and must not hold the payload
            raise ServiceError("the deadline passed before the answer was there", status=504) from None
        return scores, {name: clock.milliseconds[name] or 0.0 for name in ("decompression", "classifier")}

    def _done(self, n: int, work: asyncio.Future[Any]) -> None:
        self._waiting -= n
        if not work.cancelled():
            work.exception()  # asyncio would report an unread exception if the request has ended
