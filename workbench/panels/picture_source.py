"""Select the pictures that `explore` shows: a collection, a filter, an order, and a position in the filtered order.

A collection is a numbered list of pictures, such as the test images or a folder's pictures. The page shows one or more
pictures, beginning at the position. A search is a background task that measures a collection's first pictures. Filters and
orders that depend on the cloud's results need a search.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, WorkbenchError, unknown
from .settings import SHEETS

if TYPE_CHECKING:
    from .pipeline import Scan
    from .sources import Source
    from .view_base import ViewBase

__all__ = ["UPLOADS", "PictureSource"]

UPLOADS = "my own pictures"
MOST_UPLOADED = 64 << 20  # bytes of one upload
SORTS = ("number", "least hidden (SSIM)", "attacker's PSNR")
SELECTION, RIGHT, MISREAD, EVERY = "selection", "recognised", "misclassified", "all"


class PictureSource:
    """The collections, and the filtered and sorted order of the chosen collection. The screen shows a section of this order."""

    def __init__(self, explorer: ViewBase) -> None:
        self.explorer, self.stage = explorer, explorer.stage
        self.sources: dict[str, Source] = {}
        self._order: list[int] | None = None
        self.stage.observe(self._change_source, "source")
        self.stage.observe(self._change_order, ["show", "sort", "selection"])

    @property
    def pictures(self) -> tuple[int, ...]:
        """The numbers of the pictures on the screen. The first picture of the collection has the number 0."""
        first, count = self.stage.number, self.stage.sheet
        order: Sequence[int] = range(self._count()) if self._order is None else self._order
        return tuple(order[first : first + count]) or tuple(order[:1])

    def _count(self) -> int:
        return len(self.sources[self.stage.source].split) if self._order is None else len(self._order)

    def offer(self, name: str, source: Source) -> None:
        self.sources[name] = source
        self.tell()

    def add(self, name: str, source: Source) -> None:
        """Add the collection `source` under `name`, and choose this collection. Reset filter and order."""
        self.sources[name] = source
        with self.explorer.programmatic_update():
            self.stage.source = name
            self._reset()
        self.tell()

    def tell(self) -> None:
        """Send the names of the available collections, filters and orders to the page."""
        if (source := self.sources.get(self.stage.source)) is None:
            return
        self.explorer.offer(
            sources=list(self.sources),
            shows=[*source.choices(self.explorer.classes), *([SELECTION] if self.stage.selection else [])],
            sorts=list(SORTS[: 3 if self.explorer.attacked else 2]),
            count=self._count(),
        )

    def go_to(self, number: int) -> None:
        """Go to the position `number` in the filtered order. If `number` is too large, go to the last picture."""
        with self.explorer.programmatic_update():
            self.stage.number = max(0, min(number, self._count() - 1))

    def select(self, numbers: Sequence[int]) -> None:
        """Show the pictures with the given numbers, in the given order. Raises UsageError for an unknown number.

        The first picture of the chosen collection has the number 0.
        """
        there = len(self.sources[self.stage.source].split)
        for number in numbers:
            if not 0 <= number < there:
                raise UsageError(f"picture {number} is not there: {self.stage.source} has {there} pictures, from 0 on")
        with self.explorer.programmatic_update():
            self.stage.selection, self._order = list(numbers), list(numbers)
            self.stage.show, self.stage.sort, self.stage.number = SELECTION, SORTS[0], 0
            self.stage.sheet = next(size for size in SHEETS if size >= len(numbers))
        self.tell()
        self.explorer.request()

    def choose(self, name: str) -> None:
        if name not in self.sources:
            raise unknown("source", name, self.sources)
        self.stage.source = name

    def random(self) -> None:
        """Go to a random position in the filtered order."""
        self.stage.number = random.randrange(self._count())

    def take_folder(self, path: str) -> None:
        """Read the pictures of the folder `path` as a new collection, and choose it. Errors appear in the status line."""
        from .sources import from_folder

        self._take(f"folder {Path(path).name}", lambda: from_folder(path, self._side()))

    def take_files(self, names: Sequence[str], contents: Sequence[bytes]) -> None:
        """Read uploaded picture files as a collection, and choose this collection. Errors appear in the status line.

        `names` are the names of the files, and `contents` are their bytes. The new collection replaces the previous upload.
        """
        if sum(map(len, contents)) > MOST_UPLOADED:
            self.explorer.report(f"these files have more than {MOST_UPLOADED >> 20} MiB together; choose fewer", bad=True)
            return
        from .sources import from_files

        self._take(UPLOADS, lambda: from_files(list(zip(names, contents, strict=True)), self._side()))

    def repeat_search(self) -> None:
        """Filter and sort again if the filter or the order depends on the cloud's results.

        Called after a change of the networks or of the codec.
        """
        if self._searched():
            self._change_order({})

    def rearrange(self) -> None:
        """Apply the filter and the order. Called by `Controls.restore`, which may have changed both.

        If the filter or the order depends on the cloud's results, a search is added to the queue. The search later resets the
        position. Otherwise the position is kept.
        """
        if self._searched():
            self.explorer.tasks.later(self.explorer.tasks.search)
            return
        self._order = None if self.stage.show == EVERY else self._filtered()
        self.go_to(self.stage.number)
        self.tell()

    def arrange(self, scan: Scan) -> None:
        """Apply the chosen filter and order to the collection, with the measurements in `scan`.

        `scan` has measurements of the collection's first pictures only. If the filter or the order needs measurements, all
        other pictures are left out.
        """
        numbers = self._filtered()
        if self.stage.show in (RIGHT, MISREAD):
            wanted = self.stage.show == RIGHT
            numbers = [k for k, right in enumerate(scan.right) if right is wanted]
        numbers = [k for k in numbers if k < len(scan.right)] if self._searched() else numbers
        if self.stage.sort != SORTS[0]:
            measured = scan.ssim if self.stage.sort == SORTS[1] else scan.psnr
            numbers = sorted(numbers, key=lambda k: -measured[k]) if measured else numbers
        self._run_over(numbers)

    def _searched(self) -> bool:
        return self.stage.show in (RIGHT, MISREAD) or self.stage.sort != SORTS[0]

    def _filtered(self) -> list[int]:
        source, classes, show = self.sources[self.stage.source], self.explorer.classes, self.stage.show
        if show == SELECTION:
            return [number for number in self.stage.selection if number < len(source.split)]
        if show in classes:
            return source.of_class(classes.index(show))
        return list(range(len(source.split)))

    def _run_over(self, order: list[int]) -> None:
        none = "" if order else f"no picture is {self.stage.show!r}: all are shown"
        if none:
            with self.explorer.programmatic_update():
                self._reset()
        else:
            self._order = order
            self.go_to(0)
        self.tell()
        self.explorer.request()
        if none:
            self.explorer.report(none, kept=True)

    def _reset(self) -> None:
        self._order = None
        self.stage.show, self.stage.sort, self.stage.number = EVERY, SORTS[0], 0

    def _change_source(self, _: dict[str, Any]) -> None:
        if self.explorer.by_program or self.stage.source not in self.sources:
            return
        with self.explorer.programmatic_update():
            self._reset()
        self.tell()
        self.explorer.request()

    def _change_order(self, change: dict[str, Any]) -> None:
        if self.explorer.by_program or not self.sources:
            return
        if change.get("name") == "selection" and self.stage.show != SELECTION:
            return
        if self._searched():
            self.explorer.tasks.later(self.explorer.tasks.search)
        else:
            self._run_over(self._filtered())

    def _take(self, name: str, read: Callable[[], tuple[Source | None, list[str]]]) -> None:
        try:
            source, wrong = read()
        except WorkbenchError as error:
            self.explorer.report(str(error), bad=True)
            return
        self.explorer.report("")
        if source is not None:
            self.explorer.tasks.forget(name)
            self.add(name, source)
            self.explorer.request()
        if wrong:
            self.explorer.report("; ".join(wrong)[:600], bad=True, kept=True)

    def _side(self) -> int:
        return int(next(iter(self.sources.values())).split.images.shape[-1])
