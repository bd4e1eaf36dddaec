"""The HTTPS client: it sends pictures to the edge, which returns scores for the classes.

::

    with HttpsClient("https://127.0.0.1:8443", certs="data/certs") as client:
        answer = client.recognise(images)          tensors; System.recognise does the same without a network
        answer = client.recognise_files([jpeg])    contents of picture files

`AsyncHttpsClient` is the same with `async with` and `await`. In the baseline PP there is no edge: the client protects the
pictures, and sends them to the cloud. If a request is lost, or an overloaded service refuses it, the client retries until the
deadline. Many images are sent in parallel batches, and the results keep their order.

`strength` scales the perturbation, from 0 (none) to 1 (the paper's). `rate` sets the bytes of the payload from edge to cloud,
from 0 (fewest) to 1 (most). An edge in a confidential VM can send evidence that proves which software it runs. A policy states
which evidence the client accepts, and a verdict is the result of this check (see `attest`).
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor as Images
from tqdm.auto import tqdm

from .attest import Policy, Verdict
from .errors import ServiceError, UsageError
from .models import check_strength
from .pictures import check_images
from .protocol import MAX_BODY, MAX_TIMEOUT_S, Response, Tensor
from .rates import check_rate
from .services.admission import admission
from .services.connection import Connection, infer, metadata, reported, scores_of
from .services.trust import Token, client_context
from .system import Client as Phone
from .system import Edge, Recognition, Stopwatch

__all__ = ["AsyncHttpsClient", "HttpsClient"]

Result = TypeVar("Result")
EDGE = ("generator", "compression", "edge_other", "network_edge_cloud", "decompression", "classifier", "cloud_other")
CLOUD = ("decompression", "classifier", "cloud_other")
MOST_BYTES = MAX_BODY * 3 // 4  # of a request's files


class AsyncHttpsClient:
    """An asynchronous client of the service at `url`: the edge, or the cloud if `protects` is given (the baseline PP).

    `protects` is a local `Edge`, which protects images on the phone. `certs` is a folder made by `workbench certs`, with the
    trusted authority and the client's certificate. A bearer `token` replaces the client's certificate. `plain` allows
    unencrypted HTTP on the local machine.

    A request may take `deadline_s` seconds in all, with its retries. A single attempt may take `attempt_s` seconds. A request
    has at most `batch` images and 24 MiB of files, and at most `at_once` requests run in parallel. `quality` and `subsampling`
    are those of the phone's JPEG.

    `policy` is a policy or the path of its file. With a policy, each new connection checks the edge's evidence before a picture
    is sent. Evidence that the policy does not accept raises AttestationError. The attribute `verdict` is the result of the
    latest check.
    """

    def __init__(
        self,
        url: str,
        *,
        certs: str | Path | None = None,
        token: Token | None = None,
        protects: Edge | None = None,
        deadline_s: float = 30.0,
        attempt_s: float = 10.0,
        batch: int = 256,
        at_once: int = 2,
        quality: int = 90,
        subsampling: str = "4:4:4",
        plain: bool = False,
        policy: Policy | str | Path | None = None,
    ) -> None:
        if certs is None and not plain:
            raise UsageError("give certs=, the folder made by `workbench certs`: its authority is whom this client trusts")
        if batch < 1 or at_once < 1 or not 0 < deadline_s < math.inf:
            raise UsageError(f"batch, at_once and a finite deadline_s must be above 0, got {batch}, {at_once}, {deadline_s}")
        folder = None if certs is None else Path(certs)
        trust = (
            None
            if folder is None
            else lambda: client_context(folder, None if token else "client", "edge" if protects is None else "cloud")
        )
        if isinstance(policy, str | Path):
            policy = Policy.read(Path(policy))
        headers, admit = token.header if token else None, None if policy is None else admission(policy, self._judged)
        self._connection = Connection(url, trust, headers, attempt_s=attempt_s, plain=plain, admit=admit)
        if policy is not None and (protects is not None or not self._connection.url.startswith("https")):
            what = "a cloud has no evidence of its own" if protects is not None else "plain HTTP has no key to bind evidence to"
            raise UsageError(f"a policy is for an edge over HTTPS, not for {self._connection.url}: {what}; leave it out")
        self._phone, self._protects = Phone(quality, subsampling), protects
        self.deadline_s, self.batch, self.at_once = deadline_s, batch, at_once
        self._model: tuple[str, tuple[str, ...]] | None = None
        self.verdict: Verdict | None = None
        self._connecting_s = 0.0  # seconds spent on connecting, excluded from the pictures' times

    def _judged(self, verdict: Verdict) -> None:
        self.verdict = verdict

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connection.url!r})"

    async def __aenter__(self) -> AsyncHttpsClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.__aexit__()

    async def model(self, deadline: float | None = None) -> tuple[str, tuple[str, ...]]:
        """Return the name of the service's model and the names of its classes. They are requested once, then cached.

        `deadline` is a time of the event loop (None: `deadline_s` seconds from now).
        """
        if self._model is None:
            start, deadline = time.perf_counter(), self._deadline() if deadline is None else deadline
            names = (await metadata(self._connection, deadline=deadline)).get("models")
            if not (isinstance(names, list) and names and isinstance(names[0], str)):
                raise ServiceError(f"{self._connection.url} is no service of this workbench: it names no model", status=502)
            parameters = (await metadata(self._connection, names[0], deadline)).get("parameters", {})
            if (codec := parameters.get("codec")) != "png" and self._protects is not None:
                raise ServiceError(
                    f"{self._connection.url} takes payloads of {codec!r:.40}: start it with --arrangement pp", status=502
                )
            self._connecting_s += time.perf_counter() - start
            self._model = names[0], tuple(str(parameters.get("classes", "")).split(","))
        return self._model

    async def recognise(
        self, images: Images, strength: float = 1.0, progress: bool = False, rate: float | None = None
    ) -> Recognition:
        """Send images through the system, like `System.recognise`. `images` are floats in [0, 1], N x 3 x H x W.

        `strength` and `rate` are in [0, 1]. For `rate` None, the codec uses its default. `progress` shows a progress bar.
        Raises ServiceError if the service fails or refuses, or does not respond before the deadline.
        """
        check_images(images)
        check_strength(strength)
        check_rate(rate)
        sizes = [images[0].numel()] * len(images)  # the bytes of a PNG of noise; a JPEG has fewer
        return await self._all(sizes, progress, lambda part: self._images(images[part], strength, rate))

    async def recognise_files(
        self, files: Sequence[bytes], strength: float = 1.0, progress: bool = False, rate: float | None = None
    ) -> Recognition:
        """Send JPEG or PNG files to the edge unchanged. The edge crops and scales the pictures.

        The other parameters are those of `recognise`. Raises UsageError without files, and in the baseline PP, which has no
        edge.
        """
        if self._protects is not None:
            raise UsageError("in arrangement PP the phone protects images itself: call recognise")
        if not files:
            raise UsageError("no pictures given: name at least one file")
        check_strength(strength)
        check_rate(rate)
        sizes = list(map(len, files))
        return await self._all(sizes, progress, lambda part: self._files(files[part], strength, rate, Stopwatch()))

    async def _all(self, sizes: Sequence[int], progress: bool, send: Callable[[slice], Awaitable[Recognition]]) -> Recognition:
        free, began = asyncio.Semaphore(self.at_once), time.perf_counter() - self._connecting_s
        with tqdm(total=len(sizes), desc="recognise", unit="image", disable=not progress) as bar:

            async def one(part: slice) -> Recognition:
                async with free:
                    answer = await send(part)
                    bar.update(len(answer.scores))
                    return answer

            parts = _batches(sizes, self.batch)
            if len(parts) == 1:
                return _whole(await one(parts[0]), began + self._connecting_s)
            tasks = [asyncio.create_task(one(part)) for part in parts]
            try:
                return _whole(_joined(await asyncio.gather(*tasks)), began + self._connecting_s)
            finally:
                for task in tasks:
                    task.cancel()

    async def _images(self, images: Images, strength: float, rate: float | None) -> Recognition:
        clock = Stopwatch()
        if self._protects is None:
            return await self._files(self._phone.capture(images, clock), strength, rate, clock)
        payload = self._protects.protect(images, strength, clock, rate)
        scores, answer, passed = await self._ask(Tensor.of("payload", [payload]), len(images), {})
        _split(clock, answer, passed, CLOUD, "network_edge_cloud")
        return Recognition(scores, None, len(payload), clock.milliseconds)

    async def _files(self, files: Sequence[bytes], strength: float, rate: float | None, clock: Stopwatch) -> Recognition:
        options = {"strength": strength} | ({} if rate is None else {"rate": rate})
        scores, answer, passed = await self._ask(Tensor.of("image", list(files)), len(files), options)
        _split(clock, answer, passed, EDGE, "network_client_edge")
        return Recognition(scores, sum(map(len, files)), reported(answer, "payload_bytes"), clock.milliseconds)

    async def _ask(self, tensor: Tensor, images: int, parameters: dict[str, Any]) -> tuple[Images, Response, float]:
        deadline = self._deadline()
        model, classes = await self.model(deadline)
        start = time.perf_counter()
        parameters = parameters | {"timeout": math.ceil(1e6 * min(self.deadline_s, MAX_TIMEOUT_S))}
        answer = await infer(self._connection, model, [tensor], id=uuid.uuid4().hex, parameters=parameters, deadline=deadline)
        scores = scores_of(answer, images, len(classes), self._connection.url)
        passed = 1e3 * (time.perf_counter() - start)
        return torch.from_numpy(scores.copy()), answer, passed

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.deadline_s


class HttpsClient:
    """A blocking form of `AsyncHttpsClient` with the same arguments. It connects at the first request."""

    def __init__(self, url: str, **options: Any) -> None:
        self._inner = AsyncHttpsClient(url, **options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()
        self._end: Callable[[], Any] = lambda: None

    def __repr__(self) -> str:
        return f"HttpsClient({self._inner._connection.url!r})"

    def __enter__(self) -> HttpsClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def verdict(self) -> Verdict | None:
        """The result of the latest check of the edge's evidence, or None before the first check."""
        return self._inner.verdict

    @property
    def classes(self) -> tuple[str, ...]:
        return self._run(self._inner.model)[1]

    def recognise(
        self, images: Images, strength: float = 1.0, progress: bool = False, rate: float | None = None
    ) -> Recognition:
        """Send images (floats in [0, 1], N x 3 x H x W) through the system, like `AsyncHttpsClient.recognise`."""
        return self._timed(self._inner.recognise, images, strength, progress, rate)

    def recognise_files(
        self, files: Sequence[bytes], strength: float = 1.0, progress: bool = False, rate: float | None = None
    ) -> Recognition:
        """Send JPEG or PNG files to the edge unchanged, like `AsyncHttpsClient.recognise_files`."""
        return self._timed(self._inner.recognise_files, files, strength, progress, rate)

    def close(self) -> None:
        """Disconnect. Calls in progress raise ServiceError. A later call connects again."""
        with self._starting:
            self._end()
            self._loop = None

    def _timed(self, function: Callable[..., Coroutine[Any, Any, Recognition]], *arguments: Any) -> Recognition:
        # the time for switching between threads also counts as `edge_other`
        marks = [time.perf_counter()]

        async def marked() -> Recognition:
            marks.append(time.perf_counter())
            answer = await function(*arguments)
            marks.append(time.perf_counter())
            return answer

        answer = self._run(marked)
        _charge(answer, (marks[1] - marks[0]) + (time.perf_counter() - marks[2]))
        return answer

    def _run(self, function: Callable[..., Coroutine[Any, Any, Result]], *arguments: Any) -> Result:
        with self._starting:
            if self._loop is None:
                self._loop = new_loop()
                thread = threading.Thread(target=_until_stopped, args=(self._loop,), name="client", daemon=True)
                thread.start()
                self._end = weakref.finalize(self, _end, thread, self._loop, self._inner)
            call = asyncio.run_coroutine_threadsafe(function(*arguments), self._loop)
        try:
            return call.result()
        except CancelledError:
            raise ServiceError(f"the client of {self._inner._connection.url} was closed before the answer was there") from None
        except BaseException:
            call.cancel()  # after Ctrl-C the result is not needed
            raise


def new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


def _until_stopped(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _end(thread: threading.Thread, loop: asyncio.AbstractEventLoop, inner: AsyncHttpsClient) -> None:
    async def end() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await inner.__aexit__()
        loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)
    if threading.current_thread() is not thread:  # the garbage collector may call this in `thread`, which cannot join itself
        thread.join()


def _batches(sizes: Sequence[int], most: int) -> list[slice]:
    # batches of at most `most` items and MOST_BYTES bytes, but of at least one item
    batches, start, total = [], 0, 0
    for index, size in enumerate(sizes):
        if index > start and (index - start == most or total + size > MOST_BYTES):
            batches.append(slice(start, index))
            start, total = index, 0
        total += size
    return [*batches, slice(start, len(sizes))]


def _split(clock: Stopwatch, answer: Response, passed: float, parts: Sequence[str], network: str) -> None:
    # the network takes the rest of the `passed` milliseconds
    times = {name: reported(answer, f"{name}_ms") for name in parts}
    clock.milliseconds |= times | {network: max(0.0, passed - sum(times.values()))}


def _whole(answer: Recognition, began: float) -> Recognition:
    counted = sum(value for value in answer.milliseconds.values() if value is not None) / 1e3
    _charge(answer, max(0.0, time.perf_counter() - began - counted))
    return answer


def _charge(answer: Recognition, seconds: float) -> None:
    # the paper counts such time as "others on edge/mobile"
    answer.milliseconds["edge_other"] = (answer.milliseconds["edge_other"] or 0.0) + 1e3 * seconds


def _joined(parts: Sequence[Recognition]) -> Recognition:
    times: dict[str, float | None] = {}
    for part in parts:
        for name, value in part.milliseconds.items():
            times[name] = value if times.get(name) is None else (times[name] or 0.0) + (value or 0.0)
    s1 = [part.s1_bytes for part in parts if part.s1_bytes is not None]
    return Recognition(
        torch.cat([part.scores for part in parts]), sum(s1) if s1 else None, sum(p.s2_bytes for p in parts), times
    )
