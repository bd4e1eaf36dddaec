"""An idempotency cache: a second request with the same id gets the result of the first request."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

from ..errors import ServiceError, WorkbenchError
from .types import RequestContext

__all__ = ["IdempotencyCache"]

REMEMBERED = 1024  # cached results
Answer = TypeVar("Answer")


class IdempotencyCache(Generic[Answer]):
    """A cache of results, including results that are still being computed.

    The key of a result is the client, the request id and the content of the request. Without the cache, each retry would start
    a new computation, even while an earlier one still runs.
    """

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[str, str, bytes], asyncio.Future[Answer]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    async def answer(
        self, call: RequestContext, asked: Iterable[bytes], deadline: float, compute: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Return the cached result of a request, or else the result of `compute`, which is then cached.

        A request is identified by the client and the id in `call`, and by its content `asked`. Without an id, nothing is
        cached. Raises ServiceError 504 if an earlier attempt is still being computed at `deadline` (the event loop's time).
        """
        if not call.id:
            return await compute()
        digest = hashlib.blake2b(digest_size=16)
        for part in asked:
            digest.update(len(part).to_bytes(4, "little"))
            digest.update(part)
        key = (call.peer, call.id, digest.digest())
        if (known := self._answers.get(key)) is not None:
            try:
                async with asyncio.timeout_at(deadline):
                    return await asyncio.shield(known)
            except TimeoutError:
                raise ServiceError("the deadline passed before the answer was there", status=504) from None
        mine = self._answers[key] = asyncio.get_running_loop().create_future()
        while len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)
        try:
            found = await compute()
        except BaseException as error:
            self._answers.pop(key, None)  # a failed request may be retried
            mine.set_exception(error if isinstance(error, WorkbenchError) else ServiceError("the request was given up"))
            mine.exception()
            raise
        mine.set_result(found)
        return found
