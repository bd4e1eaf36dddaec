"""The state of a live view, its status line, and the interface of its kinds. The parts of `explore` work on it."""

from __future__ import annotations

import statistics
import threading
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
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
    """A live view, as its controls, its background tasks and its picture source use it."""

    stage: Stage
    worker: LatestWinsWorker[Settings]
    tasks: Any
    picture_source: Any
    data_dir, limit = "", 0  # of the data set, if there is one

    def __init__(self, title: str, output: Path | None) -> None:
        self.dataset, self.title, self.output = title, title, output
        self.classes: tuple[str, ...] = ()
        self.pinned: list[View] = []
        self.error: Exception | None = None
        self.shown, self._renewed = 0, 0  # the number of the frames on the page, and how often it had to drop its views
        self._spent: dict[tuple[str, int], deque[float]] = {}
        self._kept, self._program, self._drawing = False, threading.local(), threading.Lock()

    @property
    def view(self) -> View | None:
        """The displayed view of the first picture, or None before the first view."""
        shown: View | None = self.stage.view
        return shown

    def settings(self) -> Settings:
        """Return the present settings."""
        stage = self.stage
        system = stage.strength, stage.rate, stage.codec, stage.quality, stage.pair, stage.variant
        return Settings(stage.source, self.picture_source.pictures, *system)

    def key(self, settings: Settings) -> tuple[Any, ...]:
        """Return a cache key of the pictures on the screen, since other pictures may get the same name and numbers."""
        images = self.picture_source.sources[settings.source].split.images[list(settings.pictures)]
        return settings.source, settings.pictures, hash(images.numpy().tobytes())

    def capture(self, method: Method, settings: Settings) -> Captured:
        """Return the pictures on the screen as received by the edge."""
        split = self.picture_source.sources[settings.source].split
        return method.capture(self.key(settings), split.images[list(settings.pictures)])

    def renew(self) -> None:
        """Make the page drop all views of the pictures on the screen."""
        self._renewed += 1

    def pack(self, number: int, settings: Settings, seen: Seen) -> dict[str, Any]:
        """Return the cloud's view of the frames `number` in the page's form."""
        count = len(seen.which)
        spent = {stage: round(statistics.median(times), 3) for (stage, n), times in self._spent.items() if n == count}
        return pack_seen(number, settings, seen, spent, self.note_of(settings))

    # --- of each kind of view ------------------------------------------------------------------------------------------------

    @abstractmethod
    def request(self) -> None:
        """Show the present settings."""

    @abstractmethod
    def save(self, path: str | Path) -> Path:
        """Write the view as one HTML file."""

    @abstractmethod
    def method_of(self, settings: Settings) -> Method:
        """Return the method that protects, encodes and decodes at the settings."""

    @abstractmethod
    def origin(self, settings: Settings | None = None) -> dict[str, Any]:
        """Return the origin that a figure must carry."""

    def fill_variants(self) -> None:  # noqa: B027 (only a pair has some)
        """Offer the generators of the pair, if it has several."""

    @property
    def measurable(self) -> bool:
        """Whether there are test images for measuring curves."""
        return False

    @property
    def attacked(self) -> bool:
        """Whether an attacker was trained."""
        return False

    def load(self) -> Dataset:
        """Return the data set. Raises RunError if there is none."""
        raise self._not_a_pair()

    def pipeline_of(self, settings: Settings) -> Pipeline:
        """Return the networks for the settings. Raises RunError if there are none."""
        raise self._not_a_pair()

    def _not_a_pair(self) -> RunError:
        return RunError(f"{self.stage.pair!r} is not a pair of the workbench: this needs its networks and data set")

    def note_of(self, settings: Settings) -> str:
        """Return the training conditions of the attacker whose guess is shown."""
        return ""

    # --- updates by code -----------------------------------------------------------------------------------------------------

    @property
    def by_program(self) -> bool:
        """Whether code in this thread, not a user, sets a control. Then no view is requested."""
        return getattr(self._program, "depth", 0) > 0

    @contextmanager
    def programmatic_update(self) -> Iterator[None]:
        """Set controls in this thread without requests."""
        self._program.depth = getattr(self._program, "depth", 0) + 1
        try:
            yield
        finally:
            self._program.depth -= 1

    def offer(self, **choices: Any) -> None:
        """Send the available choices to the page."""
        with self._drawing:
            self.stage.options = {**self.stage.options, **choices}

    # --- status line ---------------------------------------------------------------------------------------------------------

    def report(self, text: str, bad: bool = False, kept: bool = False, busy: bool = False) -> None:
        """Show a status line. A `kept` line survives the next view. `busy` shows a moving bar."""
        self._kept = kept
        self.stage.message = {"text": text, "bad": bad, "busy": busy}

    def guard(self, action: Callable[[], object]) -> None:
        """Run an action in a thread, and report its errors."""
        try:
            action()
        except (Closed, Superseded):
            return
        except WorkbenchError as error:
            self.error = error
            self.report(str(error), bad=True)
        except KeyboardInterrupt:
            self.report("the training was interrupted; run the cell again to go on from there", bad=True)
        except Exception as error:  # this thread has no caller
            if self.worker.closed:
                return  # its networks were dropped
            self.error = error
            self.report(f"{type(error).__name__}: {error}", bad=True)
            traceback.print_exc()
