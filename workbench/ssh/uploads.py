"""Upload files to a remote host. Files are named by their SHA-256, resumed after an interruption, and verified before use.

::

    folder/<sha256>          complete and verified
    folder/<sha256>.part     incomplete; all concurrent senders write the same bytes at the same offsets
    folder/<sha256>.<word>   the file while one sender verifies it; the word is random

The remote host needs a POSIX shell, `dd`, and `sha256sum` or Python, but no SFTP.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..errors import RemoteError, UsageError
from ..processes import as_done
from .remote_process import LostError, RemoteProcess, Watchdog, last_line

__all__ = ["UploadHost", "put"]

BLOCK = 64 << 10  # bytes: uploads are resumed at whole blocks
AT_ONCE = 4  # concurrent files; sshd allows ten sessions on a connection
STALL_S = 60.0  # an upload without progress fails after this time
HASHED = 20e6  # bytes per second: the slowest expected hashing on the remote host
RESUME_S, PAUSE_S = 60.0, 0.5  # time for reopening a lost connection, and the pause between retries
AGAIN = 3  # retries after a concurrent sender removed a .part file
INCOMPLETE, SPOILT = 3, 4  # exit statuses of TAKE: the .part file is too short, or has other bytes

HASH = (
    "hash() { if command -v sha256sum >/dev/null 2>&1; then sha256sum; else python3 -c 'import hashlib, sys\n"
    "found = hashlib.sha256()\n"
    'for part in iter(lambda: sys.stdin.buffer.read(65536), b""): found.update(part)\n'
    "print(found.hexdigest())'; fi | cut -c 1-64; }; "
)
# Argument: the folder. Input: one digest per line. Output: the folder's absolute path, then a line for each digest: "whole", or
# three fields on the .part file: number of complete blocks, their digest, size in bytes (0 if another sender completed it).
ASK = (
    HASH + 'umask 077; mkdir -p -- "$1" && cd -- "$1" && pwd || exit 1; '
    "while read -r name; do "
    'if [ -f "$name" ] && [ "$(hash <"$name")" = "$name" ]; then echo whole; '
    'elif [ -f "$name.part" ]; then s=$(wc -c <"$name.part" || echo 0); n=$((s / %d)); '
    'echo "$n" "$(head -c "$((n * %d))" "$name.part" | hash)" "$s"; '
    "else echo 0 - 0; fi; done"
) % (BLOCK, BLOCK)
# Arguments: folder, digest, first block, size, mode, "again" if the .part file has other content, a random word.
# Input: the rest of the file.
# Blocks are written in place, never appended, because the session of a lost connection may still write the same blocks.
# Before its check, a .part file is linked to a unique name, because another sender may begin a new file under the old name.
TAKE = (
    HASH + 'umask 077; cd -- "$1" || exit 1; [ "$6" = again ] && rm -f -- "$2.part"; own="$2.$7"; '
    "trap 'rm -f -- \"$own\"' EXIT; "
    'LC_ALL=C dd of="$2.part" bs=%d seek="$3" conv=notrunc || exit 1; exec 2>/dev/null; '
    '{ ln -f -- "$2.part" "$own" || cp -- "$2.part" "$own"; } && [ "$(hash <"$own")" = "$2" ] && chmod "$5" "$own" '
    '&& mv -f -- "$own" "$2" && rm -f -- "$2.part" && exit 0; '
    '[ "$(hash <"$2")" = "$2" ] && rm -f -- "$2.part" && exit 0; '
    '[ "$(wc -c <"$2.part" || echo 0)" -lt "$4" ] && exit %d; rm -f -- "$2.part"; exit %d'
) % (BLOCK, INCOMPLETE, SPOILT)


class UploadHost(Protocol):
    """The part of `remote.Host` that an upload needs."""

    name: str

    def start(self, command: Sequence[str]) -> RemoteProcess: ...

    def ask(self, command: Sequence[str], data: bytes, timeout: float) -> bytes: ...


@dataclass(frozen=True)
class Item:
    """A file to send, with its SHA-256 `digest` (hex) and its `size` (bytes).

    `content` is the path of the file, or its bytes. The repr omits the content, which may be a key.
    """

    content: Path | bytes = field(repr=False)
    digest: str
    size: int

    @classmethod
    def of(cls, content: Path | bytes) -> Item:
        """Return the item for a file's path or for bytes. Raises UsageError if the file is unreadable."""
        if isinstance(content, bytes):
            return cls(content, hashlib.sha256(content).hexdigest(), len(content))
        try:
            with content.open("rb") as file:
                return cls(content, hashlib.file_digest(file, "sha256").hexdigest(), content.stat().st_size)
        except OSError as error:
            raise UsageError(f"{content} cannot be read ({error.strerror}): check the path and its permissions") from error

    @property
    def mode(self) -> str:
        """The mode of the remote file, in octal: 600 for content given as bytes, which may be a key, else 644."""
        return "600" if isinstance(self.content, bytes) else "644"

    def blocks(self, first: int = 0) -> Iterator[bytes]:
        """Yield the blocks of the content, `BLOCK` bytes each, from block `first` to the end."""
        if isinstance(self.content, bytes):
            for start in range(first * BLOCK, self.size, BLOCK):
                yield self.content[start : start + BLOCK]
            return
        try:
            with self.content.open("rb") as file:
                file.seek(first * BLOCK)
                while part := file.read(BLOCK):
                    yield part
        except OSError as error:
            raise UsageError(f"{self.content} cannot be read any more ({error.strerror}): leave it while it is sent") from error

    def left_of(self, state: str) -> int | None:
        """Return the index of the first block that the host lacks, or None if the host's .part file differs in content.

        `state` is the host's report on its .part file, as text: the number of complete blocks, their SHA-256, and the file's
        size in bytes.
        """
        blocks, digest, size = state.split()
        if int(size) > self.size:
            return None
        found = hashlib.sha256()
        for _, part in zip(range(int(blocks)), self.blocks(), strict=False):
            found.update(part)
        return int(blocks) if blocks == "0" or found.hexdigest() == digest else None


def put(far: UploadHost, files: Sequence[Path | bytes], folder: str, progress: bool = False) -> list[str]:
    """Send files to `folder` on the host `far`, and return the absolute remote path of each file, in order.

    A file is a path, or bytes. Files that the folder already has are not sent. A lost connection is reopened, and blocks that
    have arrived are not sent again. `progress` shows a progress bar. Raises RemoteError if the host cannot store a file (disk
    full, no permission, altered bytes), and UsageError for an unreadable file.
    """
    items = [Item.of(each) for each in files]
    if not items:
        return []
    where = _UploadBatch(far, folder, list({item.digest: item for item in items}.values()), progress).run()
    return [f"{where}/{item.digest}" for item in items]


class _UploadBatch:
    def __init__(self, far: UploadHost, folder: str, items: Sequence[Item], progress: bool) -> None:
        from tqdm import tqdm

        self.far, self.folder, self.items = far, folder, items
        self._stopped = threading.Event()
        self._done: dict[str, int] = {}
        self._works: set[RemoteProcess] = set()
        self._bar = tqdm(total=0, unit="B", unit_scale=True, desc=f"to {far.name}", disable=not progress, leave=False)

    def run(self) -> str:
        with self._bar, ThreadPoolExecutor(AT_ONCE, "upload") as pool:
            where, found = self._ask(self.items)
            left = [(item, state) for item, state in zip(self.items, found, strict=True) if state != "whole"]
            self._bar.total = sum(item.size for item, _ in left)
            futures: list[Future[None]] = []
            try:
                futures += (pool.submit(self._send, item, state) for item, state in left)
                for future in as_done(futures):
                    future.result()
            except BaseException:  # also Ctrl-C: stop all uploads, which the next launch resumes
                self._stopped.set()
                for future in futures:
                    future.cancel()
                for work in list(self._works):
                    work.end()
                raise
        return where

    def _ask(self, items: Sequence[Item]) -> tuple[str, list[str]]:
        names = "".join(f"{item.digest}\n" for item in items).encode()
        patience = STALL_S + sum(item.size for item in items) / HASHED
        lines = self.far.ask(["sh", "-c", ASK, "put", self.folder], names, patience).decode("utf-8", "replace").splitlines()
        if len(lines) < len(items) + 1:
            raise RemoteError(f"{self.far.name}: {self.folder} cannot be listed: its shell said {lines[:1]}")
        return lines[-len(items) - 1], lines[-len(items) :]

    def _send(self, item: Item, state: str) -> None:
        rivals, asked, give_up = 0, True, time.monotonic() + RESUME_S
        while not self._stopped.is_set():
            had = self._done.get(item.digest, 0)
            try:
                if not asked:
                    state = self._ask([item])[1][0]
                if state == "whole" or self._attempt(item, state):
                    return
                rivals += 1
                if rivals > AGAIN:
                    raise RemoteError(
                        f"{self.far.name}: {self.folder}/{item.digest} is removed while it is sent, again and again"
                    )
            except LostError as error:
                if self._done.get(item.digest, 0) > had:
                    give_up = time.monotonic() + RESUME_S
                if time.monotonic() > give_up:
                    raise LostError(
                        f"{self.far.name}: the connection is lost, and was not to be had again for {RESUME_S:g} s ({error}): "
                        "launch again when it is back; what has arrived is kept"
                    ) from error
                self._stopped.wait(PAUSE_S)
            asked = False

    def _attempt(self, item: Item, state: str) -> bool:
        first = item.left_of(state)
        command = ["sh", "-c", TAKE, "put", self.folder, item.digest, str(first or 0), str(item.size), item.mode]
        command += ["again" if first is None else "", secrets.token_hex(8)]
        with self.far.start(command) as work, Watchdog(STALL_S, work.end) as dog:
            self._works.add(work)
            self._write(work, item, first or 0, dog.extend)
            dog.extend(item.size / HASHED)
            for _ in iter(work.read, b""):
                pass
            status = work.wait()
            errors = work.errors()
        self._works.discard(work)
        if dog.timed_out:
            raise RemoteError(f"{self.far.name} has taken nothing of {self._what(item)} for {STALL_S:g} s: is its disk alive?")
        return self._judge(item, status, errors)

    def _write(self, work: RemoteProcess, item: Item, first: int, taken: Callable[[], None]) -> None:
        there = first * BLOCK
        with contextlib.suppress(BrokenPipeError):  # the exit status gives the reason
            for part in item.blocks(first):
                self._tell(item, there)
                if self._stopped.is_set():
                    work.end()
                    return
                work.write(part)
                taken()
                there += len(part)
            self._tell(item, there)
            work.finish()

    def _tell(self, item: Item, there: int) -> None:
        """Advance the progress bar. `there` is the number of bytes of `item` that the host now has."""
        if (more := there - self._done.get(item.digest, 0)) > 0:
            self._done[item.digest] = there
            self._bar.update(more)

    def _judge(self, item: Item, status: int, errors: bytes) -> bool:
        if status in (0, INCOMPLETE) or self._stopped.is_set():
            return status == 0
        if status == SPOILT:
            raise RemoteError(
                f"{self.far.name}: {self._what(item)} arrived as other bytes than those of its SHA-256 and was removed: "
                "did the file change, or does something over there change it?"
            )
        said = next((line for line in errors.splitlines() if line.startswith((b"dd: ", b"sh: ", b"put: "))), errors)
        raise RemoteError(
            f"{self.far.name} cannot take {self._what(item)} in {self.folder} ({last_line(said) or f'status {status}'}): "
            "free space there or name another folder; what has arrived is kept"
        )

    def _what(self, item: Item) -> str:
        return f"{item.digest[:12]}..." if isinstance(item.content, bytes) else str(item.content)
