"""A heat map of buttons, one for each pair of a target and an auxiliary classifier. A button opens its pair in `explore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from . import markup

if TYPE_CHECKING:
    from ..metrics import Estimate
    from .explore import Explorer

__all__ = ["PairGrid"]

WIDTH = 104  # width of a cell in screen pixels
LIGHT = 0.5  # brightness above which a cell's text is black


class PairGrid:
    """A grid of buttons, coloured by accuracy. Each button opens a pair of classifiers in an `Explorer`. Display `grid.widget`.

    `values` maps (target, auxiliary) to the target's accuracy on protected images. All other parameters are passed to
    `Explorer`.
    """

    def __init__(
        self,
        values: dict[tuple[str, str], Estimate],
        dataset: str,
        *,
        data_dir: str = "",
        limit: int = 0,
        seed: int = 0,
        output: Path | None = None,
    ) -> None:
        self._given: dict[str, Any] = {"dataset": dataset, "data_dir": data_dir, "limit": limit, "seed": seed, "output": output}
        self.explorer: Explorer | None = None
        self.cells: dict[tuple[str, str], widgets.Button] = {}
        targets, auxiliaries = sorted({pair[0] for pair in values}), sorted({pair[1] for pair in values})
        rows: list[widgets.Widget] = [self._word("target \\ auxiliary"), *map(self._word, auxiliaries)]
        for target in targets:
            rows.append(self._word(target))
            rows += [self._cell((target, auxiliary), values.get((target, auxiliary))) for auxiliary in auxiliaries]
        columns = f"132px repeat({len(auxiliaries)}, {WIDTH}px)"
        grid = widgets.GridBox(rows, layout=widgets.Layout(grid_template_columns=columns, grid_gap="2px", overflow="auto"))
        said = "accuracy of the target on protected images (%); press a pair to open it in explore"
        self._opened = widgets.VBox([])
        self.widget = widgets.VBox([widgets.HTML(markup.STYLE + markup.message(said)), grid, self._opened])
        self.widget.add_class("pmc2-panel")
        self.widget.add_class("pmc2-pairs")

    @staticmethod
    def _word(text: str) -> widgets.Widget:
        return widgets.HTML(f'<div class="pmc2-text">{markup.escape(text)}</div>')

    def _cell(self, pair: tuple[str, str], value: Estimate | None) -> widgets.Widget:
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        if value is None:
            return self._word("")
        red, green, blue, _ = colormaps["cividis"](value.value)  # as in `plots.heatmap`
        dark = 0.3 * red + 0.59 * green + 0.11 * blue > LIGHT
        interval = f"{100 * value.low:.1f} to {100 * value.high:.1f} %, n = {value.n:,}"
        cell = widgets.Button(
            description=f"{100 * value.value:.1f}",
            tooltip=f"open {pair[0]}-X-{pair[1]} in explore: {interval}",
            style={"button_color": to_hex((red, green, blue)), "text_color": "#000000" if dark else "#ffffff"},
            layout=widgets.Layout(width=f"{WIDTH}px"),
        )
        cell.on_click(lambda _: self.open(*pair))
        self.cells[pair] = cell
        return cell

    def open(self, target: str, auxiliary: str) -> None:
        """Open a pair in an `Explorer` below the grid. The new explorer replaces the previous one."""
        from .explore import Explorer

        self.explorer = Explorer(target=target, auxiliary=auxiliary, name="pairs", **self._given)
        self._opened.children = [self.explorer.widget]
