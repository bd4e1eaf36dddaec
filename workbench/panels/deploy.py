"""The view of the notebook `deploy`: buttons that launch and stop a deployment, and a display of states and logs.

A deployment has two stages, the edge and the cloud. A plan is a TOML file that names each stage's machine.
"""

from __future__ import annotations

import html
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets as widgets

from ..deployment.deployed import Deployed, StageRow
from ..deployment.plan import Deployment
from ..errors import RemoteError, WorkbenchError
from ..terminal import printable

__all__ = ["DeployPanel"]

LOOK_S = 2.0
LINES = 40
COLOURS = {"ready": "#1b7f5c", "starting": "#b26a00", "crashed": "#b3261e", "unreachable": "#b3261e", "unknown": "#b3261e"}
STYLE = """<style>
.pmc2-deploy { font-family: var(--jp-ui-font-family, sans-serif); font-size: 13px; color: var(--jp-ui-font-color1, inherit) }
.pmc2-deploy table { border-collapse: collapse; width: 100% } .pmc2-deploy td, .pmc2-deploy th { text-align: left;
padding: 4px 14px 4px 0; border-bottom: 1px solid rgba(128, 128, 128, .25); vertical-align: top }
.pmc2-deploy th { font-weight: 600 }
.pmc2-deploy .lines { height: 230px; overflow: auto; display: flex; flex-direction: column-reverse; border-radius: 4px;
background: rgba(128, 128, 128, .08) } .pmc2-deploy pre { flex: none; margin: 0 0 auto; padding: 8px; font-size: 12px;
line-height: 1.4; white-space: pre-wrap; color: inherit; background: none }
.pmc2-deploy .state::before { content: "●"; margin-right: 6px; color: var(--dot) }
</style>"""


class DeployPanel:
    """A panel that launches, stops and shows the deployment in a plan file. Display `panel.widget`.

    `plan` is the path of the plan file. `config` is an SSH configuration file that is used instead of ~/.ssh/config. The
    methods `launch` and `stop` do the same as the buttons. Each method starts a background thread, and returns at once. If the
    thread fails, the panel shows the error in one line, and `wait` raises the error.
    """

    def __init__(self, plan: str | Path, config: Path | None = None) -> None:
        self.plan = Deployment.read(plan)
        self.deployed = Deployed(self.plan, config, self._step)
        self.error: WorkbenchError | None = None
        self.rows: list[StageRow] = []
        self._steps: deque[str] = deque(maxlen=200)
        self._began = time.monotonic()
        self._busy, self._closed = threading.Event(), threading.Event()
        self._looking, self._turn = threading.Lock(), threading.Lock()
        self._build()
        self._watcher = threading.Thread(target=self._watch, name="deploy", daemon=True)
        self._watcher.start()

    def launch(self) -> None:
        """Launch both stages in the background. Does nothing while another launch or stop is running."""
        self._do("launching", self.deployed.launch)

    def stop(self, purge: bool = False) -> None:
        """Stop both stages in the background, and remove the stages' files from the machines.

        With `purge`, also remove the Python environments and weights that are kept for the next launch. Does nothing while
        another launch or stop is running.
        """
        self._do("stopping", lambda: self.deployed.stop(purge))

    def wait(self, timeout: float = 4000.0) -> None:
        """Wait until the running launch or stop ends. Raises RemoteError after `timeout` seconds.

        If the latest launch or stop has failed, its error is raised here.
        """
        deadline = time.monotonic() + timeout
        while self._busy.is_set():
            if time.monotonic() > deadline:
                raise RemoteError(f"not done in {timeout:.0f} s: the steps above show the progress; wait again, or press Stop")
            time.sleep(0.02)
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Stop polling the machines, and disconnect. The stages keep running."""
        self._closed.set()
        self._watcher.join(30)
        self.deployed.close()

    # --- display -------------------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        def button(text: str, icon: str, style: str, action: Callable[[], None]) -> widgets.Button:
            made = widgets.Button(description=text, icon=icon, button_style=style)
            made.on_click(lambda _: action())
            return made

        self.launch_button = button("Launch", "play", "primary", self.launch)
        self.stop_button = button("Stop", "stop", "", self.stop)
        self.message = widgets.HTML(layout=widgets.Layout(min_height="24px"))
        self.table = widgets.HTML(layout=widgets.Layout(min_height="110px"))
        self.steps = widgets.HTML()
        self.log = {which: widgets.HTML() for which in ("edge", "cloud")}
        tabs = widgets.Tab([self.steps, *self.log.values()], titles=("steps", "log of the edge", "log of the cloud"))
        bar = widgets.HBox([self.launch_button, self.stop_button, self.message], layout=widgets.Layout(align_items="center"))
        self.widget = widgets.VBox([widgets.HTML(STYLE), bar, self.table, tabs], layout=widgets.Layout(max_width="980px"))
        self._show_lines(
            self.steps, [f"plan {self.plan.path.name}: edge at {self.plan.edge.host}, cloud at {self.plan.cloud.host}"]
        )
        for box in self.log.values():
            self._show_lines(box, ["nothing yet"])

    def _step(self, line: str) -> None:
        self._steps.append(f"{time.monotonic() - self._began:6.1f} s  {line}")
        self._show_lines(self.steps, list(self._steps))

    def _show_lines(self, box: widgets.HTML, lines: Sequence[str]) -> None:
        text = html.escape("\n".join(printable(line) for line in lines))
        box.value = f'<div class="pmc2-deploy"><div class="lines" tabindex="0"><pre>{text}</pre></div></div>'

    def _say(self, text: str, bad: bool = False) -> None:
        colour = "var(--jp-error-color1, #b3261e)" if bad else "inherit"
        self.message.value = (
            f'<div class="pmc2-deploy" role="status" style="color:{colour}">{html.escape(printable(text))}</div>'
        )

    def show(self, rows: Sequence[StageRow]) -> None:
        """Display the states of the stages in the panel's table, one line for each of `rows`."""
        lines = "".join(
            f"<tr><td>{row.stage}</td><td>{html.escape(row.host)}</td><td>{row.runtime}</td>"
            f'<td class="state" style="--dot:{COLOURS.get(row.state, "#888")}">{row.state}</td>'
            f"<td>{html.escape(printable(row.url or ''.join(row.last[-1:])))}</td></tr>"
            for row in rows
        )
        head = "<tr><th>stage</th><th>host</th><th>runtime</th><th>state</th><th>URL, or its last line</th></tr>"
        self.table.value = f'<div class="pmc2-deploy"><table>{head}{lines}</table></div>'

    # --- actions -------------------------------------------------------------------------------------------------------------

    def _do(self, name: str, action: Callable[[], object]) -> None:
        with self._turn:
            if self._busy.is_set():
                return
            self._busy.set()
            self.launch_button.disabled = self.stop_button.disabled = True
        self.error, self._began = None, time.monotonic()
        self._say(f"{name} …")

        def run() -> None:
            try:
                action()
                self._say(f"{name}: done in {time.monotonic() - self._began:.1f} s")
            except WorkbenchError as error:
                self._fail(error)
            except Exception as error:  # this thread has no caller that would report it
                traceback.print_exc()
                self._fail(WorkbenchError(f"{type(error).__name__}: {error}"))
            finally:
                try:
                    self.look()
                finally:
                    with self._turn:  # a click on an enabled button is never ignored
                        self._busy.clear()
                        self.launch_button.disabled = self.stop_button.disabled = False

        threading.Thread(target=run, name=name, daemon=True).start()

    def _fail(self, error: WorkbenchError) -> None:
        self.error = error
        self._step(str(error))
        self._say(str(error), bad=True)

    def look(self) -> None:
        """Fetch the state and the log of each stage, and display both."""
        with self._looking:
            self.rows = self.deployed.status()
            self.show(self.rows)
            for row in self.rows:
                if row.state in ("absent", "unknown"):
                    continue
                try:
                    lines = list(self.deployed.logs(row.stage, LINES))
                except WorkbenchError as error:
                    lines = [str(error)]
                self._show_lines(self.log[row.stage], lines or ["it said nothing yet"])

    def _watch(self) -> None:
        while not self._closed.is_set():
            if not self._busy.is_set():
                try:
                    self.look()
                except Exception as error:  # this thread has no caller that would report it
                    self._say(f"{type(error).__name__}: {error}", bad=True)
            self._closed.wait(LOOK_S)
