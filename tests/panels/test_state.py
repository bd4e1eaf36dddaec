"""A view controlled by code and by links."""

from __future__ import annotations

import ast
import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
import traitlets

from tests.support.explorers import meta, press, said
from workbench.errors import UsageError
from workbench.panels import Explorer
from workbench.panels.settings import parse


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("strength", 1.01, "strength must be between 0 and 1, got 1.01"),
        ("strength", "much", "strength must be between 0 and 1, got 'much'"),
        ("rate", 2, "rate must be between 0 and 1, got 2"),
        ("rate", 0.5, "neural has one rate, 0; got rate 0.5"),
        ("codec", "mp3", "unknown codec 'mp3'"),
        ("quality", 96, "quality must be a whole number from 1 to 95, got 96"),
        ("pair", "a-X-b", "unknown pair 'a-X-b'"),
        ("variant", "private", "unknown variant 'private'"),
        ("source", "nothing", "unknown source 'nothing'"),
        ("projection", "t-SNE", "unknown projection 't-SNE'"),
        ("pictures", [3, 12], "picture 12 is not there: scikit-learn digits has 12 pictures"),
        ("pictures", [0.5], "a picture's number is a whole number from 0 on, got 0.5"),
        ("pictures", [], "a view shows 1 to 256 pictures, got 0 numbers"),
    ],
)
def test_a_value_that_cannot_be_set_is_named_and_changes_nothing(shared: Explorer, name: str, value: Any, message: str) -> None:
    before = shared.settings()
    with pytest.raises(UsageError, match=re.escape(message)):
        setattr(shared, name, value)
    if name in ("strength", "quality"):
        with pytest.raises((UsageError, traitlets.TraitError), match=str(value)):
            setattr(shared.stage, name, value)  # as from a page
    with pytest.raises(UsageError, match="unknown setting 'strenght': did you mean 'strength'"):
        shared.apply(strenght=1)
    assert shared.settings() == before


def test_a_notebook_drives_the_view_and_the_view_a_notebook(explorer: Explorer) -> None:
    strengths, views = list[float](), list[Any]()
    explorer.observe(lambda change: strengths.append(change["new"]), "strength")
    explorer.observe(lambda change: views.append(change["new"]), "view")
    explorer.strength = 0.4
    assert explorer.wait()
    explorer.stage.set_state({"strength": 0.2})  # as from a page
    assert explorer.wait()
    assert strengths == [0.4, 0.2]
    assert [view.settings.strength for view in views[-1:]] == [0.2]
    explorer.select([3, 1])
    assert explorer.wait()
    assert explorer.pictures == [3, 1]
    with pytest.raises(UsageError, match="unknown attribute 'colour'"):
        explorer.observe(print, "colour")


@pytest.mark.parametrize("pictures", [[2], [0, 5, 3]])
def test_what_is_shown_is_a_figure(explorer: Explorer, pictures: list[int]) -> None:
    import matplotlib.pyplot as plt

    before = list(plt.get_fignums())
    explorer.pictures = pictures  # type: ignore[assignment]
    assert explorer.wait()
    figure = explorer.frame()
    shown = [axis for axis in figure.axes if axis.get_images()]
    assert len(shown) == (4 if len(pictures) == 1 else 3 * len(pictures))
    assert list(plt.get_fignums()) == before, "pyplot's figures belong to the cells"


def test_settings_are_set_at_once_and_a_link_sets_them_again(explorer: Explorer, tmp_path: Path) -> None:
    explorer.apply(strength=0.3, codec="jpeg", quality=40, pictures=[7])
    assert explorer.wait()
    links, kept = explorer.link(), explorer.settings()
    call = ast.parse(links["python"], mode="eval").body
    assert isinstance(call, ast.Call)
    explorer.apply(strength=1.0, codec="png", pictures=[0, 1])
    for text in (*links.values(), json.dumps({"parameters": kept.parameters("digits")})):
        press(explorer, "paste", text=text)
        assert explorer.wait()
        assert explorer.settings() == kept
        explorer.apply(strength=1.0, codec="png", pictures=[0, 1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "names no settings"),
        ("explorer.apply(strength=open('x'))", "names no settings"),
        ("{", "names no settings"),
        ("papermill a b -p dataset cifar10 -p strength 1", "of the data set 'cifar10', this view shows 'digits'"),
        ("explorer.apply(strong=1)", "unknown setting 'strong'"),
    ],
)
def test_a_pasted_text_that_is_no_link_is_named(explorer: Explorer, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text, "digits")
    press(explorer, "paste", text=text)
    assert message in said(explorer)
    assert explorer.strength == 1.0


def test_a_view_is_saved_with_the_clouds_view_at_all_strengths(explorer: Explorer, tmp_path: Path) -> None:
    path = tmp_path / "out" / "explore.html"
    press(explorer, "export", what="page (HTML)")
    assert explorer.rest()
    assert said(explorer) == f"written: {path}"
    text = path.read_text("utf-8")
    other = tmp_path / "other.html"
    assert explorer.save(other) == other
    assert other.read_text("utf-8").partition('id="state">')[0] == text.partition('id="state">')[0]
    state = json.loads(text.partition('id="state">')[2].partition("</script>")[0])
    frames = state["traits"]["frames"]
    assert base64.b64decode(frames["full"]["base64"]) == explorer.stage.frames["full"]
    strengths = {each["meta"]["strength"]: each for each in state["ahead"]}
    assert sorted(strengths) == [k / 100 for k in range(101)]
    assert {each["meta"]["id"] for each in state["ahead"]} == {frames["id"]}
    explorer.strength = 0.3
    assert explorer.wait()
    assert base64.b64decode(strengths[0.3]["blob"]["base64"]) == explorer.stage.seen["blob"]
    assert strengths[0.3]["meta"]["target"] == meta(explorer)["target"]


def test_undo_sets_all_settings_at_once(explorer: Explorer) -> None:
    explorer.apply(strength=0.3, codec="jpeg", pictures=list(range(12)))
    assert explorer.wait()
    before = {
        name: getattr(explorer.stage, name) for name in ("strength", "codec", "number", "sheet", "show", "selection", "source")
    }
    explorer.select([5, 2])
    explorer.codec = "png"
    assert explorer.wait()
    press(explorer, "restore", settings=before)
    assert explorer.wait()
    assert explorer.pictures == list(range(12))
    assert (explorer.codec, explorer.strength) == ("jpeg", 0.3)


def test_a_message_waits_for_the_settings_before_it(explorer: Explorer) -> None:
    explorer.stage.set_state({"strength": 0.9})  # the first step of a drag, as from a page
    number = explorer.stage.sequence + 1
    press(explorer, "restore", settings={"strength": 0.3}, sequence=number)
    press(explorer, "paste", text="explorer.apply(quality=40)", sequence=number + 1)
    explorer.stage.set_state({"strength": 0.8, "sequence": number})  # the drag's last step, held back by the page
    assert (explorer.strength, explorer.quality, explorer.stage.handled) == (0.3, 89, number)
    explorer.stage.set_state({"sequence": number + 1})
    assert (explorer.strength, explorer.quality, explorer.stage.handled) == (0.3, 40, number + 1)
