"""Serve the view of a notebook as a web page that shows no code: `make app`.

A view is an interactive widget. The web server is Voilà, from the pip extra `app`.

::

    browser --token--> Voilà on loopback --> one kernel for each open page: runs the notebook's cells up to the view

Cells after the view (figures, results) are not run, so that the page appears at once. Closing the page ends its kernel. If the
connection is lost, the kernel ends after `CULL_S` (300) idle seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
import yaml  # type: ignore[import-untyped]

from ..errors import RunError, UsageError, WorkbenchError, unknown
from ..runs import notebooks_folder
from ..storage import data_root
from .jupyter_extension import at_once

__all__ = ["config", "main", "view_of"]

PORT = 8866
CULL_S = 300
TEMPLATE = "page"
# Content-Security-Policy: own resources only. The widgets' code needs `eval`, and anywidget loads its module from a blob.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' ws: wss: data: blob:; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


def view_of(notebook: nbformat.NotebookNode, parameters: dict[str, Any]) -> nbformat.NotebookNode:
    """Return a copy of `notebook` that ends with the view's cell.

    The view's cell is the first code cell whose source ends in `.widget`. The copy has no text cells. `parameters` maps names
    to new values of the parameters that the notebook's cell with the tag "parameters" declares. Raises UsageError for a
    parameter that the notebook does not declare, and RunError if no cell ends in `.widget`.
    """
    cells = [deepcopy(cell) for cell in notebook.cells if cell.cell_type == "code"]
    shown = next((at for at, cell in enumerate(cells) if cell.source.rstrip().endswith(".widget")), None)
    if shown is None:
        raise RunError("this notebook shows no view: none of its cells ends with `.widget`")
    at = next((at for at, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])), None)
    declared = [] if at is None else _names(cells[at].source)
    for name in parameters:
        if name not in declared:
            raise unknown("parameter", name, declared)
    cells = cells[: shown + 1]
    if at is not None:
        lines = [f"{name} = {value!r}" for name, value in parameters.items()]
        given = nbformat.v4.new_code_cell("\n".join(lines))  # type: ignore[no-untyped-call]
        cells.insert(at + 1, given)
    view = deepcopy(notebook)
    view.cells = cells
    return view


def _names(source: str) -> list[str]:
    return [line.partition(":")[0].strip() for line in source.splitlines() if ":" in line.partition("=")[0]]


def config(notebook: Path, parameters: dict[str, Any], theme: str = "light", token: str | None = None) -> dict[str, Any]:
    """Return Voilà's configuration for a page that shows the view of `notebook`.

    With this configuration, Voilà listens on loopback only, and serves no files from the notebook's folder. `parameters` maps
    names of the notebook's parameters to new values. `theme` is "light" or "dark". `token` is the secret that a browser needs
    to open the page. If it is None, Voilà generates a token. Raises UsageError if the notebook cannot be read, and the errors
    of `view_of`.
    """
    from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

    try:
        parsed = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise UsageError(f"{notebook} cannot be read as a notebook: {str(error).splitlines()[0]}") from None
    parameters = {"output_dir": str(data_root() / "runs" / "interactive")} | parameters
    view = view_of(parsed, parameters)
    known = {"auto_token": True} if token is None else {"token": token}

    def prepare(handler: Any, notebook: nbformat.NotebookNode, cwd: str) -> nbformat.NotebookNode:
        handler.xsrf_token  # noqa: B018  (sets the cookie that a page needs to end its kernel)
        return deepcopy(view)

    return {
        "Voila": {
            "ip": "127.0.0.1",
            "kernel_websocket_connection_class": at_once(ZMQChannelsWebsocketConnection),
            "tornado_settings": {"headers": {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}},
            **known,
        },
        "VoilaConfiguration": {
            "template": TEMPLATE,
            "theme": theme,
            "allow_template_override": "NO",
            "strip_sources": True,
            "show_tracebacks": False,
            "file_allowlist": ["(?!)"],
            "extension_denylist": ["jupyterlab_pygments", "@voila-dashboards/jupyterlab-preview"],
            "prelaunch_hook": prepare,
        },
        "MappingKernelManager": {"cull_interval": 30, "cull_idle_timeout": CULL_S},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a notebook's view as a web page until Ctrl-C or SIGTERM, and return the exit status.

    The status is 0 after success, 2 after a UsageError, and 1 after another error of the workbench. `arguments` are the
    command-line arguments. None stands for `sys.argv[1:]`.
    """
    options = _parser().parse_args(arguments)
    try:
        return _serve(options)
    except WorkbenchError as error:
        print(f"app: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _serve(options: argparse.Namespace) -> int:
    try:
        from traitlets.config import Config
        from voila.app import Voila
    except ImportError:
        raise RunError("the page needs Voilà, which is not here: pip install -e '.[app]' in the checkout") from None
    path = Path(options.notebook)
    if path.suffix != ".ipynb":
        path = notebooks_folder() / f"{options.notebook}.ipynb"
    if not path.is_file():
        raise UsageError(f"no notebook {options.notebook!r}: name one of {notebooks_folder()}, or a file")
    parameters = {name: _value(name, value) for name, value in options.parameter}
    settings = config(path, parameters, options.theme)
    settings["Voila"] |= {"port": options.port, "open_browser": not options.no_browser}
    os.environ["JUPYTER_PATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("JUPYTER_PATH")])])
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    Voila.launch_instance([str(path)], config=Config(settings))
    return 0


def _value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"-p {name} {text!r} is no YAML value: put it in quotes of its own") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="app",
        description="The view of a notebook as a page, without its code.",
        epilog="""examples:
  make app                                                explore, on the samples and the pair that ships
  make app ARGS="train"                                   networks while they are trained
  make app ARGS="-p dataset cifar10 -p data_dir ~/cifar10"  explore on a copy of CIFAR-10""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("notebook", nargs="?", default="explore", help="explore, deploy, or a file (default: explore)")
    parser.add_argument("-p", dest="parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--theme", choices=("light", "dark"), default="light", help="(default: light; in the URL: ?theme=dark)")
    parser.add_argument("--port", type=int, default=PORT, help=f"on 127.0.0.1 (default: {PORT})")
    parser.add_argument("--no-browser", action="store_true", help="print the address, open nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
