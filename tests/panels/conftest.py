"""A view on the tiny pair, and a folder of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.explorers import opened
from tests.support.uploads import png
from workbench.panels import Explorer


@pytest.fixture
def explorer(tiny_data: Path, tmp_path: Path) -> Iterator[Explorer]:
    made = opened(tmp_path)
    assert made.wait(60)
    yield made
    made.close()


@pytest.fixture(scope="module")
def steady(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explorer]:
    """A view for all tests of a module that leave its settings as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_DATA", str(tiny_root))
        made = opened(tmp_path_factory.mktemp("steady"), name="steady")
        assert made.rest(60)
        yield made
        made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two pictures and a file that is none."""
    place = tmp_path / "my pictures"
    place.mkdir()
    (place / "a.png").write_bytes(png((200, 30, 40)))
    (place / "b.png").write_bytes(png((1, 2, 3)))
    (place / "c.png").write_bytes(b"no picture")
    return place
