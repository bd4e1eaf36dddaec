"""An idempotency cache: a request that is repeated under its id gets the same response, computed once."""

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
    """A service's results by client, id and content of a request.

    A client may repeat a request while it is being computed. Without the cache, a service that takes longer than its clients'
    attempts would start again with each of them, and never finish.
    """

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[str, str, bytes], asyncio.Future[Answer]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    async def answer(
        self, call: RequestContext, asked: Iterable[bytes], deadline: float, compute: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Return the result of `compute`, from the cache if the request's id and content `asked` are known.

        Without an id nothing is cached. Raises ServiceError 504 after the deadline.
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
