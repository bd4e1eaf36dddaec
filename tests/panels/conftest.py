"""A view on the tiny pair, and a folder of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.explorers import DIGITS, opened
from tests.support.uploads import png
from workbench.panels import Explorer

FIRST = {
    **{"source": DIGITS, "strength": 1.0, "rate": 0.0, "codec": "neural", "quality": 89},
    **{"show": "all", "sort": "number", "number": 0, "sheet": 1, "selection": []},
}


@pytest.fixture
def fresh(tiny_data: Path, tmp_path: Path) -> Iterator[Explorer]:
    """A view for a test that closes it, trains an attacker or replaces networks."""
    made = opened(tmp_path)
    assert made.wait(60)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explorer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_DATA", str(tiny_root))
        made = opened(tmp_path_factory.mktemp("shared"), name="shared")
        assert made.rest(60)
        yield made
        made.close()


@pytest.fixture
def explorer(shared: Explorer, tiny_data: Path, tmp_path: Path) -> Explorer:
    """The module's view, at the settings of a new one."""
    for name in [name for name in shared.picture_source.sources if name != DIGITS]:
        del shared.picture_source.sources[name]
    shared.pinned, shared.stage.pins = [], []
    shared.output, shared.tasks.mapping = tmp_path / "out", False
    shared.restore(FIRST)
    shared.report("")
    assert shared.rest(60)
    shared.error = None
    return shared


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "my pictures"
    place.mkdir()
    (place / "a.png").write_bytes(png((200, 30, 40)))
    (place / "b.png").write_bytes(png((1, 2, 3)))
    (place / "c.png").write_bytes(b"no picture")
    return place
