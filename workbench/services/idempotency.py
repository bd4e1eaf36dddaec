"""A request that is repeated under its id gets the same answer, computed once: while that is under way, and after."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

from ..errors import ServiceError, WorkbenchError
from .types import RequestContext

__all__ = ["IdempotencyCache"]

REMEMBERED = 1024  # answers, by the id of their request
Answer = TypeVar("Answer")


class IdempotencyCache(Generic[Answer]):
    """The answers of a service by who asked, under which id, for what.

    Whoever repeats a request need not know whether it is still being computed: a service that takes longer than its client
    waits for an attempt would else begin anew with each, and never end.
    """

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[str, str, bytes], asyncio.Future[Answer]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    async def answer(
        self, call: RequestContext, asked: Iterable[bytes], deadline: float, compute: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Return what `compute` gives for what is `asked`; without an id always anew. ServiceError 504 past the deadline."""
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
            self._answers.pop(key, None)  # what failed may be tried again
            mine.set_exception(error if isinstance(error, WorkbenchError) else ServiceError("the request was given up"))
            mine.exception()
            raise
        mine.set_result(found)
        return found
