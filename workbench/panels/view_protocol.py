"""The interface of the view for the parts of `explore`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .explore_stage import Stage
from .latest_wins import LatestWinsWorker
from .settings import Settings

if TYPE_CHECKING:
    from ..data import Dataset
    from .methods import Captured, Method, Seen, View
    from .pipeline import Pipeline

__all__ = ["ViewProtocol"]


class ViewProtocol(Protocol):
    """A live view, as its background tasks and its picture source see it."""

    stage: Stage
    worker: LatestWinsWorker[Settings]
    tasks: Any
    picture_source: Any
    classes: tuple[str, ...]
    pinned: list[View]
    title: str
    dataset: str
    data_dir: str
    limit: int
    output: Path | None
    shown: int

    @property
    def view(self) -> View | None:
        """The displayed view of the first picture."""

    @property
    def measurable(self) -> bool:
        """Whether there are test images."""

    @property
    def attacked(self) -> bool:
        """Whether an attacker was trained."""

    @property
    def by_program(self) -> bool:
        """Whether code, not a user, sets a control in this thread."""

    def programmatic_update(self) -> AbstractContextManager[None]:
        """Set controls without requests."""

    def save(self, path: str | Path) -> Path:
        """Write the view as one HTML file."""

    def settings(self) -> Settings:
        """Return the present settings."""

    def request(self) -> None:
        """Show the present settings."""

    def report(self, text: str, bad: bool = False, kept: bool = False, busy: bool = False) -> None:
        """Show a line."""

    def offer(self, **choices: Any) -> None:
        """Send the available choices to the page."""

    def guard(self, action: Callable[[], object]) -> None:
        """Run an action, and report its errors."""

    def renew(self) -> None:
        """Make the page drop all views."""

    def load(self) -> Dataset:
        """Return the data set."""

    def origin(self, settings: Settings | None = None) -> dict[str, Any]:
        """Return the origin that a figure must carry."""

    def pipeline_of(self, settings: Settings) -> Pipeline:
        """Return the networks for the settings."""

    def method_of(self, settings: Settings) -> Method:
        """Return the method for the settings."""

    def key(self, settings: Settings) -> tuple[Any, ...]:
        """Return a cache key of the pictures."""

    def capture(self, method: Method, settings: Settings) -> Captured:
        """Return the pictures as received by the edge."""

    def pack(self, number: int, settings: Settings, seen: Seen) -> dict[str, Any]:
        """Return the cloud's view in the page's form."""
