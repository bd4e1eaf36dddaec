"""The stage of `explore` in a page without a kernel: its ES module, with a model that holds a stage's state.

    python -m tests.support.stage_page docs

draws the pictures of docs/explore.md, with the shipped pair and the pristine samples.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.panels.saved_page import state_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

PANELS = Path(__file__).resolve().parents[2] / "workbench" / "panels"
# A model in the form of anywidget's. `sent` and `saved` record the page's messages, `arrive` plays the kernel's.
SCRIPT = """async ([state, module, css]) => {
    const binary = (value) => {
        if (Array.isArray(value)) return value.map(binary);
        if (value && value.base64 !== undefined) {
            const bytes = Uint8Array.from(atob(value.base64), (c) => c.charCodeAt(0));
            return new DataView(bytes.buffer);
        }
        if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, binary(v)]));
        return value;
    };
    const listeners = new Map(), values = binary(state);
    const model = window.model = {
        sent: [], saved: [], changed: {}, answers: true,
        get: (name) => values[name],
        set(name, value) {
            const given = typeof name === "string" ? {[name]: value} : name;
            Object.assign(values, given);
            Object.assign(this.changed, given);
        },
        save_changes() { this.saved.push(this.changed); this.changed = {}; },
        send({sequence, ...content}, _, buffers) {
            if (this.saved.at(-1)?.sequence !== sequence) throw new Error("a message without its number among the settings");
            this.sent.push([content, (buffers || []).length]);
            if (this.answers) values.handled = sequence;
        },
        on(name, callback) { listeners.set(name, [...(listeners.get(name) || []), callback]); },
        off(name, callback) { listeners.set(name, (listeners.get(name) || []).filter((each) => each !== callback)); },
        arrive(name, value) { values[name] = binary(value); for (const each of listeners.get("change:" + name) || []) each(); },
        message(content, buffers) { for (const each of listeners.get("msg:custom") || []) each(content, buffers.map(binary)); },
        listening() { return [...listeners.values()].flat().length; },
    };
    const style = document.createElement("style");
    style.textContent = css;
    document.head.append(style);
    const url = URL.createObjectURL(new Blob([module], {type: "text/javascript"}));
    window.stage = await import(url);
    const el = document.createElement("div");
    document.body.append(el);
    window.close_stage = window.stage.default.render({model, el});
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""


def open_stage(page: Page, state: dict[str, Any], theme: str = "light") -> None:
    page.set_content(
        f'<!doctype html><html lang="en" style="color-scheme: {theme}"><title>stage</title>'
        '<body style="background: light-dark(#fff, #111)"></body></html>'
    )
    module, css = ((PANELS / f"explore.{kind}").read_text("utf-8") for kind in ("js", "css"))
    page.evaluate(SCRIPT, [state, module, css])


def main() -> None:
    from tests.support import browsers
    from workbench.panels import Explorer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    folder = parser.parse_args().folder
    explorer = Explorer()  # at strength 1: at less, a person may recognise a protected picture
    states = {}
    explorer.rest()
    states["explore", "light"] = state_of(explorer.stage)
    explorer.pin()
    explorer.apply(codec="jpeg", quality=70, pictures=[4])
    explorer.rest()
    states["explore-dark", "dark"] = state_of(explorer.stage)
    explorer.unpin(0)
    explorer.apply(codec="neural", pictures=list(range(16)))
    explorer.rest()
    states["explore-sheet", "light"] = state_of(explorer.stage)
    explorer.close()
    with browsers.launched(browsers.chromium_path()) as browser:
        for (name, theme), state in states.items():
            state["seen"]["meta"]["spent"] = {}  # times depend on the machine: docs/results/speed.md has them
            page = browser.new_context(viewport={"width": 1180, "height": 800}).new_page()
            open_stage(page, state, theme)
            page.add_style_tag(content=".pmc2-numbers { min-height: 0 }")
            page.wait_for_timeout(500)
            page.locator(".pmc2-explore").screenshot(path=folder / f"{name}.png")


if __name__ == "__main__":
    main()
