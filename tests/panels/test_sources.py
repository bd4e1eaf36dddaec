"""The pictures and networks of a view: by number and class, uploaded, from a folder; pairs and variants."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.explorers import DIGITS, everything, meta, opened, pixels, press, said, upload
from tests.support.uploads import awkward, png
from workbench.data import Dataset
from workbench.errors import UsageError, WeightsError, WorkbenchError
from workbench.panels import Explorer, projection
from workbench.panels.picture_source import UPLOADS


def test_the_number_chooses_the_picture(explorer: Explorer, digits: Dataset) -> None:
    explorer.stage.number = 5
    assert explorer.wait()
    assert np.array_equal(pixels(explorer, "original"), digits.test.images[5].permute(1, 2, 0).numpy())
    assert explorer.pictures == [5]
    press(explorer, "random")
    assert explorer.wait()
    assert 0 <= explorer.stage.number <= 11


def test_pictures_of_one_class_and_their_order(explorer: Explorer, digits: Dataset) -> None:
    label = int(digits.test.labels[4])
    wanted = (digits.test.head(12).labels == label).nonzero()[:, 0].tolist()
    explorer.stage.show = str(label)
    assert explorer.wait()
    assert explorer.stage.options["count"] == len(wanted)
    explorer.stage.sheet = 16
    assert explorer.wait()
    assert explorer.pictures == explorer.stage.frames["numbers"] == wanted
    explorer.stage.show = "all"
    assert explorer.wait()
    assert (explorer.stage.number, explorer.stage.options["count"]) == (0, 12)


@pytest.mark.parametrize("show", ["misclassified", "recognised"])
def test_pictures_can_be_those_read_wrong_or_right(explorer: Explorer, show: str) -> None:
    explorer.stage.show = show
    assert explorer.rest()
    assert f"{explorer.stage.options['count']} of the first 12 pictures, at strength 1" in said(explorer)
    explorer.stage.sheet = 16
    assert explorer.wait()
    answers = [top[0][0] for top in meta(explorer)["target"]]
    right = [answer == label for answer, label in zip(answers, explorer.stage.frames["labels"], strict=True)]
    assert right
    assert set(right) == {show == "recognised"}


def test_the_least_hidden_come_first(explorer: Explorer) -> None:
    explorer.stage.sort = "least hidden (SSIM)"
    assert explorer.rest()
    explorer.stage.sheet = 16
    assert explorer.wait()
    similar = [abs(value) for value in meta(explorer)["ssim"]]
    assert similar == sorted(similar, reverse=True)
    assert sorted(explorer.pictures) == list(range(12))


def test_the_map_places_equal_pictures_equally(explorer: Explorer) -> None:
    press(explorer, "map", on=True)
    assert explorer.rest()
    points = explorer.stage.points
    assert len(points["points"]) == len(points["labels"]) == 12
    assert all(0 <= value <= 1 for point in points["points"] for value in point)
    places: dict[int, set[tuple[float, ...]]] = {}
    for which, point in zip(points["which"], points["points"], strict=True):
        places.setdefault(which, set()).add(tuple(point))
    assert all(len(each) == 1 for each in places.values()), "what the cloud cannot tell apart is one point"
    assert len(points["cloud"]) == points["distinct"] * 32 * 32 * 3
    press(explorer, "select", numbers=[2, 7, 5])
    assert explorer.wait()
    assert explorer.pictures == explorer.stage.frames["numbers"] == [2, 7, 5]
    assert (explorer.stage.show, explorer.stage.sheet) == ("selection", 16)


def test_points_are_principal_components() -> None:
    generator = torch.Generator().manual_seed(0)
    places = torch.cartesian_prod(torch.arange(-4.0, 5.0), torch.tensor([-1.0, 1.0]))  # uncorrelated, the first axis wider
    axes = torch.linalg.qr(torch.randn(20, 2, generator=generator))[0].T
    found = projection.project(places @ axes + 5)
    for k in range(2):
        correlation = torch.corrcoef(torch.stack([found[:, k], places[:, k]]))[0, 1]
        assert abs(correlation) > 0.999, "the widest spread first"
    assert torch.equal(found, projection.project(places @ axes + 5))
    assert torch.equal(projection.project(torch.ones(3, 4)), torch.zeros(3, 2)), "one place"


def test_points_by_umap_or_the_missing_package_is_named(explorer: Explorer) -> None:
    if importlib.util.find_spec("umap") is None:
        with pytest.raises(UsageError, match="needs umap-learn: pip install umap-learn, or choose 'PCA'"):
            explorer.projection = "UMAP"
        assert explorer.projection == "PCA"
        assert explorer.stage.options["projections"] == ["PCA"]
        return
    explorer.projection = "UMAP"
    groups = torch.arange(60) // 20 * 10.0
    features = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)) + groups[:, None]
    features[1] = features[0]
    found = projection.project(features, "UMAP")
    assert torch.equal(found[0], found[1]), "equal features are equal points"
    assert torch.equal(found, projection.project(features, "UMAP")), "from a fixed seed"
    near = torch.cdist(found, found)
    assert near[:20, :20].mean() < near[:20, 20:].mean() / 2, "groups stay together"


def test_uploaded_pictures_are_shown_and_replaced(explorer: Explorer) -> None:
    upload(explorer, ("a.png", png((200, 30, 40))), ("b.png", png((1, 2, 3))), ("c.png", png(9, mode="L")))
    assert explorer.wait()
    assert (explorer.source, explorer.stage.options["count"]) == (UPLOADS, 3)
    assert set(map(tuple, pixels(explorer, "original").reshape(-1, 3))) == {(200, 30, 40)}
    assert (explorer.stage.frames["labels"], explorer.stage.frames["names"]) == ([-1], ["a.png"])
    explorer.stage.number = 2
    assert explorer.wait()
    assert pixels(explorer, "original")[0, 0].tolist() == [9, 9, 9]
    upload(explorer, ("d.png", png((0, 250, 0))))
    assert explorer.wait()
    assert (explorer.stage.number, explorer.stage.options["count"]) == (0, 1)
    assert pixels(explorer, "original")[0, 0].tolist() == [0, 250, 0]
    explorer.source = DIGITS
    assert explorer.wait()
    assert explorer.stage.options["count"] == 12


def test_of_ten_awkward_files_each_is_shown_or_its_fault_is_said(explorer: Explorer) -> None:
    files = awkward()
    upload(explorer, *files)
    assert explorer.wait()
    source = explorer.picture_source.sources[UPLOADS]
    refused = [name for name, _ in files if name not in source.names]
    assert {"grey.png", "see through.png", "cmyk.jpg", "wide.png", "one pixel.png"} <= set(source.names)
    assert {"truncated.png", "bomb.png", files[-1][0]} <= set(refused)
    for name in refused:
        assert name.partition("<")[0][:20] in said(explorer)
    for index in range(len(source.names)):
        explorer.stage.number = index
        assert explorer.wait()
        assert pixels(explorer, "original").shape == (32, 32, 3)
    assert not explorer.error


def test_files_of_which_none_is_a_picture_change_nothing(explorer: Explorer) -> None:
    before = everything(explorer)
    upload(explorer, ("notes.txt", b"<b>no picture</b>"))
    assert explorer.wait()
    assert "notes.txt" in said(explorer)
    assert explorer.stage.message["bad"]
    assert everything(explorer) == before
    assert UPLOADS not in explorer.stage.options["sources"]


def test_a_folder_is_shown_and_what_in_it_is_no_picture_is_said(explorer: Explorer, folder: Path) -> None:
    press(explorer, "folder", path=str(folder))
    assert explorer.wait()
    assert explorer.source == "folder my pictures"
    assert explorer.stage.options["count"] == 2
    assert pixels(explorer, "original")[0, 0].tolist() == [200, 30, 40]
    assert "c.png" in said(explorer)
    press(explorer, "folder", path=str(folder / "not there"))
    assert "does not exist" in said(explorer)
    assert explorer.source == "folder my pictures"


def test_a_variant_that_is_not_there_is_said(tiny_data: Path, tmp_path: Path) -> None:
    explorer = opened(tmp_path, variant="nowhere")
    try:
        with pytest.raises(WeightsError, match="nowhere"):
            explorer.wait(60)
        assert "nowhere" in said(explorer)
        explorer.variant = ""
        assert explorer.wait(60)
        assert explorer.view is not None
    finally:
        explorer.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strength": 1.5}, "strength must be between 0 and 1, got 1.5"),
        ({"strength": float("nan")}, "got nan"),
        ({"rate": -0.1}, "rate must be between 0 and 1, got -0.1"),
        ({"codec": "jpg"}, "unknown codec 'jpg'"),
        ({"quality": 0}, "quality must be a whole number from 1 to 95, got 0"),
        ({"picture": -1}, "picture and limit must be 0 or more"),
        ({"sheet": 12}, "a sheet has 1, 16, 64 or 256 pictures, got 12"),
    ],
)
def test_a_bad_parameter_is_refused_at_once(tiny_data: Path, tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        opened(tmp_path, **wrong)


@pytest.mark.parametrize(
    ("wrong", "message"), [({"dataset": "digit"}, "digit"), ({"picture": 40}, "picture 40 is not there: .* 12 test pictures")]
)
def test_a_parameter_that_names_nothing_is_said_and_raised(
    tiny_data: Path, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    explorer = opened(tmp_path, **wrong)
    try:
        with pytest.raises(WorkbenchError, match=message):
            explorer.wait(60)
        assert explorer.stage.message["bad"]
    finally:
        explorer.close()
