"""A helper for notebooks: check parameters, find or train weights, save results and figures.

papermill is a program that executes a notebook with parameters of the user's choice. A notebook calls `Notebook(...)` once
after its parameters cell. Everything is saved immediately to `<output>/<name>.json` and `<output>/figures/`, so that an
interrupted notebook keeps its results. Functions import heavy modules themselves, so that the widgets of the notebook `explore`
appear before torch is imported.

A pair is a target classifier, an auxiliary classifier and the networks that were trained for them (see `weights`).
"""

from __future__ import annotations

import base64
import html
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError, unknown
from .processes import spin_briefly
from .storage import data_root, expand_user, replacing, write_json

if TYPE_CHECKING:
    from . import data, weights
    from .evaluation import Evaluation

__all__ = ["Notebook", "column_kinds", "loss_text", "plain"]

spin_briefly()  # before the notebook's imports load torch

FORMAT = 1
_TYPES: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool, "list": list}


class Notebook:
    """The parameters and the results of one notebook. `parameters` are the variables of its parameters cell, by name.

    `name` is the notebook's name. Results are saved to the folder `output_dir`, or to `default_output()` if `output_dir` is
    empty. Raises UsageError if papermill set an unknown parameter, or if a parameter has another type than its annotation.
    """

    def __init__(self, name: str, *, output_dir: str = "", **parameters: Any) -> None:
        check_parameters({**parameters, "output_dir": output_dir})
        self.name, self.parameters = name, parameters
        self.output = expand_user(output_dir) if output_dir else default_output()
        self._kept: dict[str, Any] = {"format": FORMAT, "notebook": name, "parameters": parameters}
        self._kept |= {"results": [], "tables": [], "figures": []}
        self._write()

    def dataset(self) -> data.Dataset:
        from . import data

        return data.load(self.parameters["dataset"], self.parameters.get("data_dir") or None)

    def pair(self, dataset: data.Dataset, target: str = "", auxiliary: str = "", *, compressor: bool = True) -> weights.Pair:
        """Return the networks of a pair. `target` and `auxiliary` are by default the notebook's parameters of these names.

        If `dataset` has training images, missing networks are first trained with the preset `quick`. With `compressor` False
        the pair has no compressor.
        """
        from . import training, weights
        from .inference import prepare_pair

        target, auxiliary = target or self.parameters["target"], auxiliary or self.parameters["auxiliary"]
        if dataset.family == dataset.name or dataset.name == "folder":  # the samples have no training images
            training.ensure(dataset, target, auxiliary, seed=self.parameters.get("seed", 0), compressor=compressor)
        return prepare_pair(weights.load_pair(dataset.family, target, auxiliary, compressor=compressor))

    def evaluation(self, dataset: data.Dataset, pair: weights.Pair, **options: Any) -> Evaluation:
        """Return an `Evaluation` of `pair` on the test images of `dataset`. `options` are further arguments of `Evaluation`.

        Only the first `limit` images are used. `limit` is a parameter of the notebook, and 0 means all images.
        """
        from .evaluation import Evaluation

        return Evaluation(pair, dataset, limit=self.parameters.get("limit") or None, **options)

    def result(self, name: str, values: Any, origin: dict[str, Any]) -> None:
        """Save the `values` of a result under its `name`.

        `origin` states the data, weights and versions behind the values, as `Evaluation.origin` returns it.
        """
        self._kept["results"].append({"name": name, "values": plain(values), **origin})
        self._write()

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "", main: bool = False
    ) -> Any:
        """Save a table, and return it as HTML for display.

        `note` is a line of text below the table. `main` moves the table to the top of the report.
        """
        from IPython.display import HTML

        cells = [[format_cell(cell) for cell in row] for row in rows]
        self._kept["tables"].append({"title": title, "columns": list(columns), "rows": cells, "note": note, "main": main})
        self._write()
        return HTML(  # type: ignore[no-untyped-call]
            table_html(title, list(columns), cells, note)
        )

    def figure(self, figure: Any, name: str, caption: str) -> Any:
        """Save a matplotlib figure with its caption as PNG and SVG, close the figure, and return it as HTML for display."""
        import matplotlib.pyplot as plt
        from IPython.display import HTML

        folder = self.output / "figures"
        image = b""
        for kind, dpi in (("svg", 96), ("png", 160)):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=dpi)
            image = buffer.getvalue()
            with replacing(folder / f"{self.name}-{name}.{kind}") as temporary:
                temporary.write_bytes(image)
        width = round(figure.get_figwidth() * 96)
        plt.close(figure)  # else a cell would show a pyplot figure twice
        self._kept["figures"].append({"file": f"figures/{self.name}-{name}", "caption": caption, "width": width})
        self._write()
        encoded = base64.b64encode(image).decode()
        return HTML(  # type: ignore[no-untyped-call]
            f'<figure style="margin:0;background:#fff;max-width:{width}px"><img style="width:100%" '
            f'alt="{html.escape(caption, quote=True)}" src="data:image/png;base64,{encoded}">'
            f'<figcaption style="padding:4px 8px 8px;color:#444;font-size:90%">{html.escape(caption)}</figcaption></figure>'
        )

    def _write(self) -> None:
        write_json(self.output / f"{self.name}.json", self._kept)


def loss_text(training: dict[str, Any]) -> str:
    """Return the loss of a training as text: the name and the weight of each term.

    `training` is the field `training` of a network's manifest.
    """
    loss = training.get("loss", {})
    terms = loss.get("joint", {key: value for key, value in loss.items() if key not in ("start", "before")})
    text = ", ".join(f"{key} {value}" for key, value in terms.items())
    return (f"joint: {text}" if "joint" in loss else text) or "cross-entropy"


def check_parameters(declared: dict[str, Any]) -> None:
    """Raise UsageError if papermill set an unknown parameter, or if a parameter has another type than its annotation.

    `declared` are the notebook's parameters and their values. papermill itself only warns of unknown parameters.
    """
    import ast

    for source in _injected():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Assign):
                for name in (target.id for target in node.targets if isinstance(target, ast.Name)):
                    if name not in declared and not name.startswith("PAPERMILL_"):
                        raise unknown("parameter", name, declared)
    if (ipython := _shell()) is None:
        return
    hints = ipython.user_ns.get("__annotations__", {})
    for name, value in declared.items():
        hint = str(getattr(hints.get(name), "__name__", hints.get(name))).partition("[")[0]
        expected = _TYPES.get(hint, object)
        if not isinstance(value, expected) or (isinstance(value, bool) and hint in ("int", "float")):
            raise UsageError(f"parameter {name!r} must be of type {hint}, got {value!r}")


def _shell() -> Any:
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


def _injected() -> list[str]:
    shell = _shell()
    return [] if shell is None else [cell for cell in shell.user_ns.get("In", []) if cell.startswith("# Parameters\n")]


def default_output() -> Path:
    """Return the default folder of results: the working directory under papermill, else `data/runs/interactive`.

    A notebook runs under papermill if papermill has injected a cell of parameters. Environment variables do not show this,
    because a notebook that starts papermill passes its own variables on.
    """
    return Path.cwd() if _injected() else data_root() / "runs" / "interactive"


def plain(value: Any) -> Any:
    """Return a value as plain JSON: an `Estimate` as an object, a tuple as a list, a numpy or torch scalar as a number."""
    from .metrics import Estimate

    if isinstance(value, Estimate):
        return value.as_dict()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value


def format_cell(value: Any) -> str:
    """Return a value as text for a cell of a table. An `Estimate` must be a proportion: it is shown in percent."""
    from .metrics import Estimate

    if isinstance(value, Estimate):
        return f"{100 * value.value:.2f} [{100 * value.low:.2f}, {100 * value.high:.2f}]"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


_FIGURE = re.compile(r"[-+−<>]?\d|—|$")  # the beginning of a cell with a number
LONG = 20  # a cell with more characters may wrap


def column_kinds(rows: Sequence[Sequence[str]], count: int) -> list[str]:
    """Return the kind of each column of a table, which sets its alignment: "figure" (right), "word" or "words" (left).

    `rows` are the texts of the table's cells. `count` is the number of columns. A column of kind "figure" has numbers only, and
    the first column is never of this kind. A column of "words" has long texts, which may wrap.
    """
    kinds = []
    for k in range(count):
        cells = [row[k] for row in rows]
        if k and all(map(_FIGURE.match, cells)):
            kinds.append("figure")
        else:
            kinds.append("words" if any(len(cell) > LONG for cell in cells) else "word")
    return kinds


_STYLES = {
    "figure": "text-align:right;white-space:nowrap",
    "word": "text-align:left;white-space:nowrap",
    "words": "text-align:left;min-width:14ch",
}


def table_html(title: str, columns: list[str], rows: list[list[str]], note: str) -> str:
    """Return a table as HTML that is legible on light and dark backgrounds. `note` is a line of text below the table."""
    styles = [f"padding:4px 10px;{_STYLES[kind]}" for kind in column_kinds(rows, len(columns))]
    above = "white-space:normal;vertical-align:bottom;border-bottom:1px solid currentColor"
    head = "".join(f'<th style="{style};{above}">{html.escape(name)}</th>' for style, name in zip(styles, columns, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f'<td style="{style}">{html.escape(cell)}</td>' for style, cell in zip(styles, row, strict=True))
        + "</tr>"
        for row in rows
    )
    foot = f'<div style="opacity:.75;font-size:90%;padding:4px 12px">{html.escape(note)}</div>' if note else ""
    return (
        f'<div style="overflow-x:auto"><div style="font-weight:600;padding:4px 12px">{html.escape(title)}</div>'
        f'<table style="border-collapse:collapse;font-variant-numeric:tabular-nums"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>{foot}</div>"
    )
