"""Which picture `explore` shows: of which collection, and over which of its pictures the number runs."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WorkbenchError

if TYPE_CHECKING:
    from .explore import Explorer
    from .sources import Source

__all__ = ["UPLOADS", "Choice"]

UPLOADS = "my own pictures"
MOST_UPLOADED = 64 << 20  # bytes of one upload


class Choice:
    """The collections that there are, and what a hand chooses among them; the explorer shows it."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer, self.controls = explorer, explorer.controls
        self.sources: dict[str, Source] = {}
        self._order: list[int] | None = None
        c = self.controls
        c.index.observe(lambda _: explorer.ask(), "value")
        c.source.observe(self._change_source, "value")
        c.show.observe(self._change_shown, "value")
        c.upload.observe(self._change_upload, "value")
        c.folder.observe(self._change_folder, "value")
        c.random.on_click(lambda _: self._random())

    @property
    def number(self) -> int:
        """The chosen picture's number in its collection."""
        position: int = self.controls.index.value
        return position if self._order is None else self._order[position]

    def offer(self, name: str, source: Source, chosen: str = "") -> None:
        """Add a collection; the one that is chosen stays so, unless another is named."""
        self.sources[name] = source
        with self.controls.quietly():
            self.controls.offer(list(self.sources), chosen or self.controls.source.value)

    def add(self, name: str, source: Source) -> None:
        """Add a collection, and choose it."""
        self.offer(name, source, name)
        self.run_over_all()

    def go_to(self, number: int) -> None:
        """Choose a picture by its number, or the last where there are not so many."""
        with self.controls.quietly():
            self.controls.index.value = min(number, self.controls.index.max)

    def run_over_all(self) -> None:
        """Let the number run over all pictures of the chosen collection, and offer what else it may run over."""
        source = self.sources[self.controls.source.value]
        self._order = None
        with self.controls.quietly():
            self.controls.choose_from(source.choices(self.explorer.classes), len(source.split))

    def run_over(self, order: list[int] | None) -> None:
        """Let the number run over some of a collection's pictures, or all, and show the first."""
        self._order = order
        count = len(self.sources[self.controls.source.value].split) if order is None else len(order)
        with self.controls.quietly():
            self.controls.run_over(count)
        self.explorer.ask()

    def take_folder(self, path: str) -> None:
        """Add the pictures of a folder."""
        from .sources import from_folder

        self._take(f"folder {Path(path).name}", lambda: from_folder(path, self._side()))

    def look_again(self) -> None:
        """Look again for the pictures over which the number runs, where it is the networks that tell which these are."""
        if self._order is not None and self.controls.show.value in self._searched():
            self._change_shown({})

    def _change_source(self, _: dict[str, Any]) -> None:
        if not self.controls.quiet:
            self.run_over_all()
            self.explorer.ask()

    def _change_shown(self, _: dict[str, Any]) -> None:
        if self.controls.quiet:
            return
        chosen, source, classes = self.controls.show.value, self.sources[self.controls.source.value], self.explorer.classes
        if chosen in self._searched():
            self.explorer.helper.later(self.explorer.helper.search)
            return
        self.run_over(source.of_class(classes.index(chosen)) if chosen in classes else None)

    def _change_upload(self, change: dict[str, Any]) -> None:
        if not change["new"]:
            return
        files = [(str(file["name"]), bytes(file["content"])) for file in change["new"]]
        if sum(len(content) for _, content in files) > MOST_UPLOADED:
            self.explorer.say(f"these files have more than {MOST_UPLOADED >> 20} MiB together; choose fewer", bad=True)
            return
        from .sources import from_files

        self._take(UPLOADS, lambda: from_files(files, self._side()))

    def _change_folder(self, change: dict[str, Any]) -> None:
        if path := change["new"].strip():
            self.take_folder(path)

    def _take(self, name: str, read: Callable[[], tuple[Source | None, list[str]]]) -> None:
        """Add a collection, and say which pictures of it could not be read."""
        try:
            source, wrong = read()
        except WorkbenchError as error:
            self.explorer.say(str(error), bad=True)
            return
        self.explorer.say("; ".join(wrong)[:600], bad=True, told=bool(wrong))
        if source is not None:
            self.explorer.helper.forget(name)
            self.add(name, source)
            self.explorer.ask()

    def _random(self) -> None:
        self.controls.index.value = random.randint(0, self.controls.index.max)

    def _searched(self) -> tuple[str, str]:
        from .sources import LEAST_HIDDEN, MISREAD

        return MISREAD, LEAST_HIDDEN

    def _side(self) -> int:
        return int(next(iter(self.sources.values())).split.images.shape[-1])
