"""The base class of the view `explore`: state, status line, and the functions that the view's parts share.

The parts are the controls, the background tasks and the choice of pictures. The stage is the widget. The page is the widget's
display in the browser. A method protects, encodes and decodes the pictures. It uses either the workbench's networks or
user-defined functions.
"""

from __future__ import annotations

import statistics
import threading
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError, WorkbenchError
from .explore_stage import Stage, pack_seen
from .latest_wins import Closed, LatestWinsWorker, Superseded
from .settings import Settings

if TYPE_CHECKING:
    from ..data import Dataset
    from .methods import Captured, Method, Seen, View
    from .pipeline import Pipeline

__all__ = ["ViewBase"]


class ViewBase(ABC):
    """The state of a view, and the interface through which the view's parts use each other.

    `title` names the data set. `output` is the folder for exports (None: the default folder).
    """

    stage: Stage
    worker: LatestWinsWorker[Settings]
    tasks: Any
    picture_source: Any
    data_dir, limit = "", 0  # parameters of the data set, if there is one

    def __init__(self, title: str, output: Path | None) -> None:
        self.dataset, self.title, self.output = title, title, output
        self.classes: tuple[str, ...] = ()
        self.pinned: list[View] = []
        self._messages: list[tuple[dict[str, Any], Sequence[Any]]] = []  # received before the settings that they need
        self.error: Exception | None = None
        self.shown, self._renewed = 0, 0  # id of the frames on the page, and the number of calls of `renew`
        self._spent: dict[tuple[str, int], deque[float]] = {}
        self._kept, self._program, self._drawing = False, threading.local(), threading.RLock()

    @property
    def view(self) -> View | None:
        """The displayed result for the first picture on the screen, or None if nothing is displayed yet."""
        shown: View | None = self.stage.view
        return shown

    def settings(self) -> Settings:
        stage = self.stage
        system = stage.strength, stage.rate, stage.codec, stage.quality, stage.pair, stage.variant
        return Settings(stage.source, self.picture_source.pictures, *system)

    def key(self, settings: Settings) -> tuple[Any, ...]:
        """Return a cache key for the pictures of `settings`.

        The key contains a hash of the pixels, because a new upload may have the same names as an earlier upload.
        """
        images = self.picture_source.sources[settings.source].split.images[list(settings.pictures)]
        return settings.source, settings.pictures, hash(images.numpy().tobytes())

    def capture(self, method: Method, settings: Settings) -> Captured:
        split = self.picture_source.sources[settings.source].split
        return method.capture(self.key(settings), split.images[list(settings.pictures)])

    def renew(self) -> None:
        """Send the pictures to the page again with the next view. When the page receives them, it drops prefetched results."""
        self._renewed += 1

    def pack(self, number: int, settings: Settings, seen: Seen) -> dict[str, Any]:
        """Return the cloud's result `seen` in the format of the page. `number` is the id of the pictures on the page."""
        count = len(seen.which)
        spent = {stage: round(statistics.median(times), 3) for (stage, n), times in self._spent.items() if n == count}
        return pack_seen(number, settings, seen, spent, self.note_of(settings))

    # --- interface of the kinds of view ---------------------------------------------------------------------------------------

    @abstractmethod
    def request(self) -> None: ...

    @abstractmethod
    def present(self) -> View | None:
        """Return the result for the present settings. If it is not displayed yet, compute it in this thread.

        Return None before the first view.
        """

    @abstractmethod
    def save(self, path: str | Path) -> Path: ...

    @abstractmethod
    def method_of(self, settings: Settings) -> Method: ...

    @abstractmethod
    def origin(self, settings: Settings | None = None) -> dict[str, Any]:
        """Return the origin of a view's data: data set, weights, library versions, commit and device.

        If the view uses the workbench's networks, the origin also has the seed. `settings` select the networks. None selects
        the present settings.
        """

    def fill_variants(self) -> None:  # noqa: B027 (only a pair has some)
        """Offer the pair's variants on the page. A variant is another generator for the pair's two classifiers."""

    @property
    def measurable(self) -> bool:
        """Whether the view can measure curves. Curves need the workbench's networks and a data set."""
        return False

    @property
    def attacked(self) -> bool:
        """Whether an attacker was trained for the present networks. An attacker is a network that reconstructs originals."""
        return False

    def load(self) -> Dataset:
        """Return the view's data set. Raises RunError if the view shows user-defined methods."""
        raise self._not_a_pair()

    def pipeline_of(self, settings: Settings) -> Pipeline:
        """Return the networks that `settings` select, loaded if necessary. Raises RunError for user-defined methods."""
        raise self._not_a_pair()

    def _not_a_pair(self) -> RunError:
        return RunError(f"{self.stage.pair!r} is not a pair of the workbench: this needs its networks and data set")

    def note_of(self, settings: Settings) -> str:
        """Return a text on how the attacker for `settings` was trained. Without an attacker, the text is empty."""
        return ""

    # --- updates by code -----------------------------------------------------------------------------------------------------

    @property
    def by_program(self) -> bool:
        return getattr(self._program, "depth", 0) > 0

    @contextmanager
    def programmatic_update(self) -> Iterator[None]:
        """A context in which this thread can set controls without requesting a new view."""
        self._program.depth = getattr(self._program, "depth", 0) + 1
        try:
            yield
        finally:
            self._program.depth -= 1

    def offer(self, **choices: Any) -> None:
        """Send lists of choices to the page, such as `codecs=[...]`. The page keeps its other lists."""
        with self._drawing:
            self.stage.options = {**self.stage.options, **choices}

    # --- status line ---------------------------------------------------------------------------------------------------------

    def report(self, text: str, bad: bool = False, kept: bool = False, busy: bool = False) -> None:
        """Show `text` in the status line. `bad` marks an error, and `busy` adds a moving bar.

        With `kept`, the text remains when the next view is displayed, and the view after that clears it. An action that
        requests a view must call `request` before `report`. Otherwise an earlier view that is still being computed may clear
        the text.
        """
        with self._drawing:
            self._kept = kept
            self.stage.message = {"text": text, "bad": bad, "busy": busy}

    def guard(self, action: Callable[[], object]) -> None:
        """Call `action()` in this thread. An error of `action` appears in the status line, and is not raised."""
        try:
            action()
        except (Closed, Superseded):
            return
        except WorkbenchError as error:
            self.error = error
            self.report(str(error), bad=True)
        except KeyboardInterrupt:
            self.report("the training was interrupted; run the cell again to go on from there", bad=True)
        except Exception as error:  # the action may have no caller that would report it
            if self.worker.closed:
                return  # `close` has dropped the networks, so errors are expected
            self.error = error
            self.report(f"{type(error).__name__}: {error}", bad=True)
            traceback.print_exc()
