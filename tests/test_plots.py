"""The figures: they render as PNG and SVG without a warning, label their axes, and draw the given data."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from workbench import plots
from workbench.metrics import Estimate, mean, wilson
from workbench.pictures import residual


@pytest.fixture(autouse=True)
def own_style() -> Iterator[None]:
    with mpl.rc_context():
        mpl.use("Agg")
        plots.use_style()
        yield
        plt.close("all")


def estimates(point: float, shift: int = 0) -> dict[str, object]:
    spread = [100.0 + point, 120.0 + point, 90.0]
    return {
        "point": point,
        "target": wilson(80 - shift, 100),
        "auxiliary": wilson(10 + shift, 100),
        "ssim": mean([0.1, 0.2, 0.3]),
        "bytes": mean(spread),
    }


CURVE = [estimates(point, shift) for shift, point in enumerate((0.0, 0.5, 1.0))]
HISTORY = [{"step": s, "train": {}, "validation": {"loss": 1 / s, "accuracy": 0.1 * s, "auxiliary": 0.2}} for s in (1, 2, 3)]
BITS = [{"step": s, "train": {}, "validation": {"loss": 1 / s, "accuracy": 0.5, "bits": 100.0 / s}} for s in (1, 2)]
LEARNT = [
    {"step": s, "train": {"loss": 2 / s} if s < 3 else {}, "validation": {"loss": 1 / s, "accuracy": 0.3}} for s in (1, 2, 3)
]
PICTURES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))

PARTS = {name: mean([number + 1.0, number + 2.0]) for number, name in enumerate(plots.COMPONENT_TITLES)}

ENERGY: dict[str, dict[str, object]] = {
    name: {
        "mj": mean([whole - 1, whole + 1]),
        "range_mj": [whole / 2, 2 * whole],
        "parts_mj": {part: Estimate(whole * size, 0, whole, 2) for part, size in zip(plots.PART_TITLES, sizes, strict=True)},
    }
    for name, whole, sizes in (("PP", 13.0, (0.1, 0.5, 0.1, 0.3, 0.0, 0.0)), ("PMC²", 3.0, (0.1, 0.0, 0.1, 0.8, 0.0, 0.0)))
}


def attacked(point: object, psnr: float, bits: float = 8.0, right: int = 80) -> dict[str, object]:
    figures = {"psnr": mean([psnr - 1, psnr + 1]), "ssim": mean([psnr / 40, psnr / 30]), "bits": mean([bits, bits])}
    return {"point": point, "answered": wilson(right, 100), "over": psnr - 13, **figures}


CONTROL: dict[str, object] = {"psnr": Estimate(13.1, 12.9, 13.3, 100), "ssim": Estimate(0.14, 0.12, 0.16, 100)}
LEVELS = {"psnr": 10.0, "ssim": 0.3}
STRENGTHS = [attacked(0.0, 30, right=95), attacked(0.5, 25, right=90), attacked(1.0, 18, right=85)]
RATES = [attacked("PNG", 19, 22000, 98), attacked("neural", 13, 3.3, 97), attacked("JPEG q50", 18.9, 5800, 98)]
PAIRS = {"same": [attacked(100, 16), attacked(1000, 18)], "noise": [attacked(100, 11), attacked(1000, 12)]}

FIGURES: dict[str, Callable[[], Figure]] = {
    "strength_curves": lambda: plots.strength_curves(CURVE, 0.1, "a title"),
    "strength_curves of one point": lambda: plots.strength_curves(CURVE[:1], 0.1, "a title"),
    "accuracy_bytes": lambda: plots.accuracy_bytes({"JPEG 4:4:4": CURVE, "JPEG 4:2:0": CURVE}, "a title", {"png": CURVE[0]}),
    "accuracy_bytes without points": lambda: plots.accuracy_bytes({"JPEG": CURVE}, "a title"),
    "rate_accuracy": lambda: plots.rate_accuracy(
        {"JPEG 4:4:4": CURVE}, {"neural": CURVE[0], "png": CURVE[1]}, wilson(9, 10), 10, "a title"
    ),
    "components": lambda: plots.components(
        {"PMC²": PARTS, "PP": PARTS}, {"PMC²": mean([53.0, 55.0]), "PP": mean([54.0, 54.5])}, "ms an image", "a title"
    ),
    "links": lambda: plots.links({"PMC²": {"LAN": mean([1.0, 2.0]), "LTE": mean([9.0, 9.5])}}, "a title"),
    "energy_bars": lambda: plots.energy_bars(ENERGY, {"PP": 62.9, "PMC²": 5.1}, "a title", "paper: a meter"),
    "energy_bars without the paper": lambda: plots.energy_bars(ENERGY, {}, "a title", ""),
    "energy_shares": lambda: plots.energy_shares(
        {"PMC²": {"share": Estimate(0.2, 0.19, 0.21, 9), "range": [0.1, 0.3]}}, {"PMC²": 8.1}, "a title"
    ),
    "heatmap": lambda: plots.heatmap({("a", "b"): wilson(9, 10)}, ["a"], ["b"], "a title"),
    "heatmap with blanks": lambda: plots.heatmap(
        {("a", "b"): wilson(9, 10), ("b", "a"): wilson(1, 10)}, ["a", "b"], ["a", "b"], ""
    ),
    "training_curves": lambda: plots.training_curves({"generator": HISTORY, "compressor": BITS}),
    "training_curves of imported weights": lambda: plots.training_curves({"target": [], "compressor": BITS}),
    "learning_curves": lambda: plots.learning_curves({"target: a": LEARNT, "generator": []}, {"generator": 9}, {}, "a title"),
    "attack_curves": lambda: plots.attack_curves(STRENGTHS, CONTROL, LEVELS, "a title"),
    "attack_rates": lambda: plots.attack_rates(RATES, CONTROL, LEVELS, "a title"),
    "attack_pairs": lambda: plots.attack_pairs(PAIRS, CONTROL, LEVELS, "a title"),
    "pareto": lambda: plots.pareto([{**row, "variant": name} for row in RATES for name in ("", "private")], "a title"),
    "pareto of one point": lambda: plots.pareto(RATES[:1], "a title"),
    "gallery of guesses": lambda: plots.reconstructions(
        PICTURES, {"inversion": PICTURES.flip(0), "a second": PICTURES / 2}, "a title", 2
    ),
    "gallery": lambda: plots.gallery({"original": PICTURES, "protected": PICTURES[:2]}, ["a", "b", "c", "d"]),
    "gallery of one": lambda: plots.gallery({"original": PICTURES[:1]}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_renders_without_a_warning_and_is_labelled(name: str) -> None:
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    png, svg = io.BytesIO(), io.BytesIO()
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")  # keep the layout: it takes longer than the drawing
    figure.savefig(png, format="png", dpi=50)
    figure.savefig(svg, format="svg")
    pixels = np.asarray(Image.open(png).convert("RGB"))
    width, height = figure.get_size_inches()
    assert pixels.shape[:2] == pytest.approx((height * 50, width * 50), abs=1)
    assert pixels.std() > 0, "it is blank"
    assert ET.fromstring(svg.getvalue()).tag == "{http://www.w3.org/2000/svg}svg"
    if not name.startswith(("gallery", "training_curves", "learning_curves")):
        for axis in figure.axes:
            assert axis.get_xlabel() or axis.get_label() == "<colorbar>"
            assert axis.get_ylabel()


def test_the_same_figure_is_the_same_svg() -> None:
    rendered = []
    for _ in range(2):
        buffer = io.BytesIO()
        FIGURES["links"]().savefig(buffer, format="svg", metadata={"Date": None})
        rendered.append(buffer.getvalue())
    assert rendered[0] == rendered[1]


def test_strength_curves_draw_percent_intervals_and_chance() -> None:
    accuracy, ssim, size = plots.strength_curves(CURVE, 0.1, "digits").axes
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in accuracy.get_lines()}
    np.testing.assert_allclose(lines["target"], [80, 79, 78])
    np.testing.assert_allclose(lines["auxiliary"], [10, 11, 12])
    np.testing.assert_allclose(lines["chance"], 10)
    target: Estimate = wilson(80, 100)
    heights = accuracy.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(100 * target.high)
    np.testing.assert_allclose(ssim.get_lines()[0].get_ydata(), 0.2)
    np.testing.assert_allclose(size.get_lines()[0].get_ydata(), [row["bytes"].value for row in CURVE])  # type: ignore[attr-defined]
    assert {text.get_text() for text in accuracy.get_legend().get_texts()} == {"target", "auxiliary", "chance"}
    assert size.get_ylim()[1] > max(row["bytes"].high for row in CURVE), "nothing lies on the frame, be it a flat line"


def test_learning_curves_mark_the_epoch_that_is_kept() -> None:
    accuracy, empty, loss, _ = plots.learning_curves(
        {"target": LEARNT, "generator": []}, {"target": 8}, {"target": 91.6}, ""
    ).axes
    lines = {line.get_label(): line for line in (*accuracy.get_lines(), *loss.get_lines())}
    np.testing.assert_allclose(lines["target"].get_ydata(), 30)
    np.testing.assert_allclose(lines["paper (CIFAR-10)"].get_ydata(), 91.6)
    np.testing.assert_allclose(lines["training"].get_xydata(), [(1, 2), (2, 1)])
    np.testing.assert_allclose(lines["lowest"].get_xydata(), [(3, 1 / 3)])
    assert accuracy.get_xlim()[1] > 8, "there is room for what is still to come"
    assert [text.get_text() for text in empty.texts] == ["not yet"]


def test_the_papers_energy_stands_on_an_axis_of_its_own() -> None:
    ours, theirs = plots.energy_bars(ENERGY, {"PP": 62.9, "PMC²": 5.1}, "digits", "paper: a meter").axes
    assert (ours.get_title(), theirs.get_title()) == ("digits", "paper: a meter")
    assert [bar.get_width() for bar in theirs.patches] == [62.9, 5.1]
    ends = [bar.get_x() + bar.get_width() for bar in ours.patches]
    assert max(ends) == pytest.approx(13.0), "parts add up to the whole"
    assert ours.get_xlim()[1] > 26.0, "the range of what is assumed is seen"
    assert [label.get_text() for label in ours.get_yticklabels()] == ["PP", "PMC²"]
    assert ours.get_ylim()[0] > ours.get_ylim()[1], "the first is on top"


def test_bytes_are_on_a_log_scale_with_codecs_in_order() -> None:
    reversed_rows = CURVE[::-1]
    quality, rate = plots.accuracy_bytes({"JPEG": reversed_rows}, "digits", {"neural": CURVE[0]}).axes
    assert (quality.get_xscale(), rate.get_xscale()) == ("linear", "log")
    x = np.asarray(rate.get_lines()[0].get_xdata())
    assert (np.diff(x) > 0).all()
    assert {text.get_text() for text in rate.get_legend().get_texts()} == {"JPEG", "neural"}


def test_points_of_no_or_full_accuracy_can_be_drawn() -> None:
    for n in (3, 6, 8, 10, 32, 480, 500):
        ends = {name: {"target": wilson(right, n), "bytes": mean([8.0, 12.0])} for name, right in (("none", 0), ("all", n))}
        assert plots.accuracy_bytes({"JPEG": CURVE}, "digits", ends).axes


def test_a_heatmap_writes_its_figures_and_leaves_gaps_blank() -> None:
    axis = plots.heatmap({("a", "b"): wilson(9, 10), ("b", "a"): wilson(1, 10)}, ["a", "b"], ["a", "b"], "title").axes[0]
    assert sorted(text.get_text() for text in axis.texts) == ["10.0", "90.0"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    assert np.isnan(np.asarray(axis.get_images()[0].get_array().filled(np.nan))).sum() == 2  # type: ignore[union-attr]


def test_a_gallery_of_uneven_rows_fits_the_longest() -> None:
    figure = plots.gallery({"original": PICTURES, "protected": PICTURES[:2]}, ["a", "b", "c", "d"])
    axes = np.array(figure.axes).reshape(2, 4)
    shown = np.array([[len(axis.get_images()) for axis in line] for line in axes])
    assert shown.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert [axis.get_title() for axis in axes[0]] == ["a", "b", "c", "d"]
    assert [line[0].texts[0].get_text() for line in axes] == ["original", "protected"]
    np.testing.assert_allclose(
        np.asarray(axes[0, 1].get_images()[0].get_array()) / 255, PICTURES[1].permute(1, 2, 0), atol=1 / 500
    )


def test_training_curves_show_accuracy_and_each_networks_figure() -> None:
    figure = plots.training_curves({"generator": HISTORY, "compressor": BITS})
    top, bottom = np.array(figure.axes).reshape(2, 2)
    np.testing.assert_allclose(top[0].get_lines()[0].get_ydata(), [10, 20, 30])
    assert len(top[0].get_lines()) == 2, "target and auxiliary"
    assert top[0].get_ylabel() == "validation accuracy (%)"
    assert [axis.get_title() for axis in top] == ["generator", "compressor"]
    assert [axis.get_ylabel() for axis in bottom] == ["loss", "bits an image"]
    assert all(axis.get_xlabel() == "step" for axis in bottom)
    assert bottom[1].get_yscale() == "log"


def test_the_residual_is_grey_where_equal_and_signed_elsewhere() -> None:
    x = torch.full((3, 4, 4), 0.4)
    assert torch.equal(residual(x, x), torch.full_like(x, 0.5))
    torch.testing.assert_close(residual(x, x + 0.2), torch.full_like(x, 0.6))
    torch.testing.assert_close(residual(x, x - 0.2), torch.full_like(x, 0.4))
    torch.testing.assert_close(residual(x, x + 0.1, gain=4), torch.full_like(x, 0.7))
    assert residual(torch.zeros(1), torch.ones(1), gain=9).item() == 1
    assert residual(torch.ones(1), torch.zeros(1), gain=9).item() == 0


def test_an_attack_is_drawn_with_control_interval_and_threshold() -> None:
    figure = plots.attack_curves(STRENGTHS, CONTROL, LEVELS, "digits")
    psnr, ssim, accuracy = figure.axes
    lines = {line.get_label(): line for line in psnr.get_lines()}
    np.testing.assert_allclose(lines["attacker"].get_ydata(), [30, 25, 18])
    np.testing.assert_allclose(lines["attacker"].get_xdata(), [0, 0.5, 1])
    np.testing.assert_allclose(lines["class mean (control)"].get_ydata(), 13.1)
    assert lines["class mean (control)"].get_linestyle() == "--"
    np.testing.assert_allclose(lines["recognisable (He et al.)"].get_ydata(), 10)
    assert lines["recognisable (He et al.)"].get_linestyle() == ":"
    (band,) = psnr.patches
    assert (band.get_extents().y0, band.get_extents().y1) == pytest.approx(
        psnr.transData.transform([(0, 12.9), (0, 13.3)])[:, 1]
    )
    np.testing.assert_allclose(ssim.get_lines()[1].get_ydata(), 0.14)
    np.testing.assert_allclose(ssim.get_lines()[2].get_ydata(), 0.3)
    np.testing.assert_allclose(accuracy.get_lines()[0].get_ydata(), [95, 90, 85])
    assert len(accuracy.get_lines()) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(lines)


def test_attacks_over_bits_are_ordered_and_all_points_named() -> None:
    axes = plots.attack_rates(RATES, CONTROL, LEVELS, "digits").axes
    for axis in axes:
        assert axis.get_xscale() == "log"
        np.testing.assert_allclose(axis.get_lines()[0].get_xdata(), [3.3, 5800, 22000])
        assert {(text.get_text(), text.xy[0]) for text in axis.texts} == {("neural", 3.3), ("JPEG q50", 5800), ("PNG", 22000)}
    np.testing.assert_allclose(axes[0].get_lines()[0].get_ydata(), [13, 18.9, 19])
    np.testing.assert_allclose(axes[2].get_lines()[0].get_ydata(), [97, 98, 98])


def test_attacks_over_pairs_have_a_line_for_each_source() -> None:
    psnr, _ = plots.attack_pairs(PAIRS, CONTROL, LEVELS, "digits").axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in psnr.get_lines()}
    assert drawn["the same data"] == pytest.approx([16, 18])
    assert drawn["noise"] == pytest.approx([11, 12])
    assert "other data" not in drawn
    assert [label.get_text() for label in psnr.get_xticklabels()] == ["100", "1,000"]
    assert psnr.get_xscale() == "log"


def test_the_front_is_what_no_other_point_betters_in_all_three() -> None:
    cheap, right, private = attacked("a", 15, 10, 80), attacked("b", 15, 100, 90), attacked("c", 13, 100, 80)
    dearer, wrong, open_ = attacked("d", 15, 11, 80), attacked("e", 15, 100, 79), attacked("f", 16, 100, 90)
    points = [cheap, dearer, right, wrong, private, open_]
    assert plots.front(points) == [True, False, True, False, True, False]
    assert plots.front([cheap, cheap]) == [True, True], "of equals none betters the other"
    assert plots.front([]) == []


def test_the_pareto_figure_rings_the_front() -> None:
    own = [{**row, "variant": ""} for row in RATES]
    other = [{**attacked("neural", 12, 3.4, 95), "variant": "private"}]
    figure = plots.pareto([*own, *other], "digits")
    axis, colours = figure.axes
    mine, theirs, ringed = (each for each in axis.collections if isinstance(each, mpl.collections.PathCollection))
    np.testing.assert_allclose(mine.get_offsets(), [[22000, 98], [3.3, 97], [5800, 98]])
    np.testing.assert_allclose(mine.get_array(), [6, 0, 5.9])
    np.testing.assert_allclose(theirs.get_offsets(), [[3.4, 95]])
    assert not np.array_equal(mine.get_paths()[0].vertices, theirs.get_paths()[0].vertices)
    assert mine.get_clim() == theirs.get_clim()
    np.testing.assert_allclose(ringed.get_offsets(), [[3.3, 97], [5800, 98], [3.4, 95]])
    assert axis.get_xscale() == "log"
    assert "dB" in colours.get_ylabel()
    names = [text.get_text() for text in axis.get_legend().get_texts()]
    assert names == ["generator: the pair’s own", "generator: private", "Pareto front"]


def test_names_beside_points_cover_neither_points_nor_each_other() -> None:
    crowd = [attacked(f"codec {k}", 15, 100 * 1.12**k, 90 + k % 3) for k in range(8)]
    figure = plots.pareto(crowd, "digits")
    figure.savefig(io.BytesIO(), format="png", dpi=figure.dpi)
    axis = figure.axes[0]
    boxes = [mpl.text.Text.get_window_extent(text) for text in axis.texts]
    assert [text.get_text() for text in axis.texts] == [f"codec {k}" for k in range(8)]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert not any(box.contains(*place) for place in axis.transData.transform(axis.collections[-1].get_offsets()))
        assert axis.get_window_extent().contains(box.x0, box.y0)
        assert axis.get_window_extent().contains(box.x1, box.y1)


def test_guesses_are_drawn_below_originals_from_best_to_worst() -> None:
    wrong = torch.tensor([0.3, 0.0, 0.1, 0.2])[:, None, None, None]
    images = PICTURES / 2
    figure = plots.reconstructions(images, {"inversion": images + wrong}, "digits, n = 4", 2)
    best, worst = figure.axes
    for axis, order in ((best, (1, 2)), (worst, (3, 0))):
        shown = np.asarray(axis.get_images()[0].get_array()) / 255
        for column, row in enumerate(order):
            left = 34 * column
            np.testing.assert_allclose(shown[:32, left : left + 32], images[row].permute(1, 2, 0), atol=1 / 250)
            np.testing.assert_allclose(shown[34:, left : left + 32], (images + wrong)[row].permute(1, 2, 0), atol=1 / 250)
    assert [label.get_text() for label in best.get_xticklabels()] == ["100.0", "20.0"]
    assert [label.get_text() for label in worst.get_xticklabels()] == ["14.0", "10.5"]
    assert [label.get_text() for label in best.get_yticklabels()] == ["original", "inversion"]
    assert (best.get_title(), worst.get_title()) == ("best 2", "worst 2")
    assert figure.get_suptitle() == "digits, n = 4: PSNR (dB) below"
    assert plots.reconstructions(images, {"one": images}, "", 9).axes[0].get_title() == "best 4"


def test_the_total_ends_its_components_with_its_interval() -> None:
    whole = Estimate(60.0, 58.0, 63.0, 9)
    axis = plots.components({"PMC²": PARTS}, {"PMC²": whole}, "ms an image", "a title").axes[0]
    ends = axis.collections[0].get_segments()[0][:, 0]
    np.testing.assert_allclose(ends, [58.0, 63.0])
    assert [text.get_text() for text in axis.texts] == ["60.00 [58.00, 63.00]"]
    assert axis.texts[0].xy[0] == 63.0, "beyond the bar and its interval"
