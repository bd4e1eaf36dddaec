"""Read request bodies within limits: bytes and time of one body, and bytes of all bodies together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request

from ..errors import ServiceError
from ..protocol import MAX_BODY

__all__ = ["Intake"]


class Intake:
    """Reads request bodies, within limits.

    A body has at most `most` bytes, and arrives within `patience_s` seconds. All bodies together have at most `budget` bytes.
    """

    def __init__(self, most: int = MAX_BODY, budget: int = 256 << 20, patience_s: float = 20.0) -> None:
        self.most, self.budget, self.patience_s = most, budget, patience_s
        self.held = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the body of a request. The body counts towards the budget until the context ends.

        Raises ServiceError 413 (body too long), 408 (too slow), 429 (above the budget) or 400 (client disconnected).
        """
        body = bytearray()  # a list of thousands of small chunks would take more memory than their bytes
        try:
            try:
                async with asyncio.timeout(self.patience_s):
                    async for chunk in request.stream():
                        body += chunk
                        self.held += len(chunk)
                        if len(body) > self.most:
                            raise ServiceError(f"a body may have at most {self.most} bytes", status=413)
                        if self.held > self.budget:
                            raise ServiceError("too much is being received at once", status=429, retry_after=1)
            except TimeoutError:
                raise ServiceError(f"the body took longer than {self.patience_s:g} s to arrive", status=408) from None
            except ClientDisconnect:
                raise ServiceError("the client went away before its request was whole", status=400) from None
            yield bytes(body)
        finally:
            self.held -= len(body)
