// The stage of `explore`. The page itself blends x + a (G(x) - x). The cloud's view comes from the kernel, or from the table of
// views that the kernel fills while the controls rest. explore_stage.py describes the messages.

const LAYERS = {
  original: "original", protected: "protected", cloud: "at the cloud", residual: "residual", attacker: "attacker's guess",
};
const SETTINGS = ["strength", "rate", "codec", "quality", "pair", "variant", "source", "show", "sort", "number", "sheet", "selection"];
const LOOK = ["layer", "gain"];
const GRADED = ["jpeg", "webp"];
const STAGES = {
  client_compression: "phone: JPEG", generator: "edge: generator", compression: "edge: codec",
  decompression: "cloud: codec", classifier: "cloud: classifier",
};
const BLUE = "#0072B2", ORANGE = "#D55E00", GREEN = "#009E73", PURPLE = "#9467BD";
const CLASS_COLOURS = [BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F", "#BCBD22", PURPLE];
const SETTLED_MS = 400, LATE_MS = 4000, SIGHT_MS = 120e3, STEPS = 50, CACHED_BYTES = 96e6, ZOOMS = [1, 2, 3, 4, 6, 8];
const CHART = [320, 190, 40, 10, 24, 34]; // width, height, and the margins: left, right, top, bottom

// --- elements ----------------------------------------------------------------------------------------------------------------

function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && key !== "list" && key !== "role") element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const svgText = (x, y, string, anchor = "middle", more = {}) => svg("text", {x, y, "text-anchor": anchor, ...more}, string);

let serial = 0;

function labelled(name, text, control, title = "") {
  control.id ||= `pmc2-${name}-${++serial}`;
  return h("div", {className: `pmc2-field pmc2-${name}`, title}, h("label", {htmlFor: control.id}, text), control);
}

// Mark an element that needs a kernel: a saved page hides it.
function asking(element) {
  element.classList.add("pmc2-asking");
  return element;
}

function choice(name, text, onchange, title) {
  const select = h("select", {onchange: () => onchange(select.value)});
  return [labelled(name, text, select, title), select];
}

function fill(select, options, value) {
  const pairs = options.map((each) => (Array.isArray(each) ? each : [each, each]));
  if (!pairs.some(([key]) => String(key) === String(value)) && value !== "") pairs.push([value, value]);
  const text = JSON.stringify(pairs);
  if (select.dataset.offered !== text) {
    select.dataset.offered = text;
    select.replaceChildren(...pairs.map(([key, label]) => h("option", {value: key}, label)));
  }
  select.value = value;
}

// A slider with a text field. `marks` is a strip that marks positions with known views.
function slider(name, text, min, max, step, set, format = (value) => value) {
  const range = h("input", {type: "range", min, max, step, oninput: () => set(Number(range.value))});
  const typed = h("input", {type: "number", min, max, step, ariaLabel: `${text}, typed`, onchange: () => {
    const value = Math.min(range.max, Math.max(range.min, Number(typed.value)));
    if (typed.value !== "" && Number.isFinite(value)) set(value);
    typed.value = format(Number(range.value));
  }});
  const marks = h("canvas", {className: "pmc2-marks", width: 101, height: 1, ariaHidden: "true"});
  const field = labelled(name, text, range);
  field.classList.add("pmc2-slider");
  field.append(typed, marks);
  const show = (value) => {
    range.value = value;
    if (!typed.matches(":focus")) typed.value = format(value); // the view may be in a shadow root
  };
  return {field, range, typed, marks, show};
}

const bytesOf = (view) => (view ? new Uint8Array(view.buffer ?? view, view.byteOffset ?? 0, view.byteLength) : null);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const mean = (values) => values.reduce((sum, each) => sum + each, 0) / values.length;
const ssimText = (value) => (Math.round(1000 * value) / 1000 || 0).toFixed(3); // no "-0.000"
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const grouped = (number, digits = 0) =>
  number.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits});

// --- pixels: RGB pictures into RGBA image data ----------------------------------------------------------------------------------

// Each function writes picture `k` of `size` = [w, h] into `image`, with its upper left corner at (left, top).
function each(size, k, image, left, top, colour) {
  const [w, hgt] = size, data = image.data, row = 4 * image.width;
  let from = 3 * w * hgt * k;
  for (let y = 0; y < hgt; y++) {
    let to = (top + y) * row + 4 * left;
    for (let x = 0; x < w; x++, to += 4, from += 3) {
      data[to] = colour(from);
      data[to + 1] = colour(from + 1);
      data[to + 2] = colour(from + 2);
      data[to + 3] = 255;
    }
  }
}

function blended(x, full, strength) {
  return (i) => x[i] + strength * (full[i] - x[i]);
}

function difference(original, protectedPicture, gain) {
  return (i) => ((Math.round(protectedPicture(i)) - original[i]) * gain) / 2 + 127.5;
}

const keyOf = (id, strength, rate, codec, quality) =>
  [id, Math.round(1000 * strength), Math.round(1000 * rate), codec, GRADED.includes(codec) ? quality : 0].join("|");

// --- the view -----------------------------------------------------------------------------------------------------------------

class View {
  constructor(model, el) {
    this.model = model;
    this.state = Object.fromEntries([...SETTINGS, ...LOOK].map((name) => [name, model.get(name)]));
    this.zoom = 1;
    this.pan = [0, 0];
    this.divider = 0;
    this.swapped = false;
    this.table = new Map();
    this.held = 0; // bytes in the table
    this.version = 0; // of the table
    this.past = [];
    this.future = [];
    this.views = 0;
    this.off = [];
    this.build(el);
    this.listen();
    this.takeFrames();
    this.takeSeen();
    this.showAll();
    this.remember();
  }

  // --- messages from the kernel -----------------------------------------------------------------------------------------------

  on(name, callback) {
    this.model.on(name, callback);
    this.off.push(() => this.model.off(name, callback));
  }

  listen() {
    for (const name of [...SETTINGS, ...LOOK]) {
      this.on(`change:${name}`, () => {
        const value = this.model.get(name);
        if (JSON.stringify(value) === JSON.stringify(this.state[name])) return;
        this.state[name] = value;
        this.changed(name);
      });
    }
    this.on("change:options", () => this.showControls());
    this.on("change:frames", () => { this.takeFrames(); this.showAll(); });
    this.on("change:seen", () => { this.takeSeen(); this.schedule(true); if (!this.begun) this.remember(); });
    this.on("change:message", () => this.showMessage());
    this.on("change:curves", () => this.showCurves());
    this.on("change:points", () => this.showMap());
    this.on("change:pins", () => this.showPins());
    this.on("msg:custom", (content, buffers) => this.receive(content, buffers));
    const observer = new ResizeObserver(() => this.fit());
    observer.observe(this.root);
    const fullscreen = () => this.fit();
    document.addEventListener("fullscreenchange", fullscreen);
    this.off.push(() => observer.disconnect(), () => document.removeEventListener("fullscreenchange", fullscreen));
  }

  close() {
    clearTimeout(this.settling);
    clearTimeout(this.late);
    for (const off of this.off) off();
  }

  receive(content, buffers) {
    if (content.kind === "ahead") {
      this.keep(content.meta, bytesOf(buffers[0]));
      this.schedule(false);
    } else if (content.kind === "file") {
      const url = URL.createObjectURL(new Blob([buffers[0]], {type: content.type}));
      this.link.replaceChildren(h("a", {href: url, download: content.name}, `save ${content.name}`));
    } else if (content.kind === "link") {
      this.python.value = content.python;
      this.command.value = content.command;
    }
  }

  takeFrames() {
    const frames = this.model.get("frames");
    if (!frames || !frames.original) return;
    this.frames = {...frames};
    for (const name of ["original", "received", "full"]) this.frames[name] = bytesOf(frames[name]);
    this.size = [frames.width, frames.height];
    this.forget();
    this.layout();
  }

  forget() {
    this.table.clear();
    this.version++;
    this.held = 0;
    this.shown = null;
  }

  takeSeen() {
    const seen = this.model.get("seen");
    if (seen && seen.meta && this.frames && seen.meta.id === this.frames.id) {
      this.keep(seen.meta, bytesOf(seen.blob));
    }
  }

  keep(meta, blob) {
    if (!this.frames || meta.id !== this.frames.id) return;
    const key = keyOf(meta.id, meta.strength, meta.rate, meta.codec, meta.quality), before = this.table.get(key);
    this.held += blob.length - (before ? before.blob.length : 0);
    this.table.delete(key);
    this.table.set(key, {meta, blob});
    this.version++;
    while (this.held > CACHED_BYTES) {
      const [oldest, {blob: old}] = this.table.entries().next().value;
      this.table.delete(oldest);
      this.held -= old.length;
    }
  }

  // --- user input -------------------------------------------------------------------------------------------------------------

  set(name, value) {
    if (this.state[name] === value) return;
    this.state[name] = value;
    this.model.set(name, value);
    this.model.save_changes();
    if (this.restoring > this.model.get("handled")) this.restore(); // the undo would else take this change back
    this.changed(name);
  }

  changed(name) {
    if (name === "sheet" || name === "layer") this.layout();
    this.showControls();
    this.schedule(true);
    this.settle();
  }

  // Settings may wait in the page while messages do not. So the kernel acts on a message once its number has come as a setting.
  send(content, buffers = []) {
    const sequence = (this.model.get("sequence") ?? 0) + 1;
    this.model.set("sequence", sequence);
    this.model.save_changes();
    try {
      this.model.send({...content, sequence}, undefined, buffers);
    } catch {
      this.say("there is no kernel: this page shows its last state", true);
    }
  }

  settle() {
    clearTimeout(this.settling);
    this.settling = setTimeout(() => { this.remember(); this.announce(); }, SETTLED_MS);
  }

  // Before the first view the kernel sets the settings, and these are no steps.
  remember() {
    const now = JSON.stringify(this.state);
    if (this.begun && now !== this.present) {
      this.past.push(this.present);
      this.past.splice(0, this.past.length - STEPS);
      this.future.length = 0; // in place, because `step` holds this list
    }
    this.begun ||= Boolean(this.options.ready && this.table.size);
    this.present = now;
    this.showHistory();
  }

  step(from, to) {
    this.remember();
    if (!from.length) return;
    to.push(this.present);
    this.present = from.pop();
    const settings = JSON.parse(this.present);
    clearTimeout(this.settling);
    for (const name of LOOK) this.model.set(name, settings[name]);
    this.model.save_changes();
    this.state = settings;
    if (!this.options.saved) this.restore();
    this.showHistory();
    this.layout();
    this.showAll();
    this.announce();
  }

  keydown(event) {
    const key = event.key.toLowerCase();
    if ((event.ctrlKey || event.metaKey) && (key === "z" || key === "y") && event.target.type !== "text") {
      event.preventDefault();
      event.stopPropagation();
      if (key === "y" || event.shiftKey) this.step(this.future, this.past);
      else this.step(this.past, this.future);
    }
    if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation(); // keys in the view must not trigger the notebook's shortcuts
  }

  async upload(files) {
    if (!files.length) return;
    const contents = await Promise.all([...files].map((file) => file.arrayBuffer()));
    this.send({do: "upload", names: [...files].map((file) => file.name)}, contents);
  }

  restore() {
    this.send({do: "restore", settings: {...this.state}});
    this.restoring = this.model.get("sequence");
  }

  // --- built once -------------------------------------------------------------------------------------------------------------

  build(el) {
    const row = (...children) => h("div", {className: "pmc2-row"}, ...children);
    const part = (...children) => h("div", {className: "pmc2-row pmc2-part"}, ...children);
    const group = (...children) => h("div", {className: "pmc2-group"}, ...children); // wraps as one
    const button = (name, text, title, act) => h("button", {className: `pmc2-button pmc2-${name}`, type: "button", title, onclick: act}, text);
    this.root = h("div", {className: "pmc2-explore", onkeydown: (event) => this.keydown(event)});
    this.root.pmc2 = this;
    const controls = this.controls = {};
    const select = (name, text, title, act = (value) => this.set(name, value)) => {
      const [field, control] = choice(name, text, act, title);
      controls[name] = control;
      return field;
    };
    const [sliders, slide] = [this.sliders = {}, (name, text, min, max, step, act, format) => {
      sliders[name] = slider(name, text, min, max, step, act, format);
      return sliders[name].field;
    }];
    const decimals = (value) => String(Math.round(100 * value) / 100);
    const sources = asking(row(
      select("source", "pictures"),
      select("show", "show"),
      select("sort", "sort by"),
      select("sheet", "at once", "pictures on the screen", (value) => this.set("sheet", Number(value))),
      slide("number", "number", 0, 0, 1, (value) => this.set("number", Math.round(value))),
      group(
        button("previous", "‹", "the pictures before", () => this.page(-1)),
        button("next", "›", "the next pictures", () => this.page(1)),
        button("random", "random", "a picture at random", () => this.send({do: "random"})),
      ),
    ));
    this.files = h("input", {type: "file", accept: "image/*", multiple: true, hidden: true, onchange: () => {
      this.upload(this.files.files).then(() => { this.files.value = ""; });
    }});
    this.folder = h("input", {type: "text", placeholder: "path of a folder, then Enter", onchange: () => {
      if (this.folder.value.trim()) this.send({do: "folder", path: this.folder.value.trim()});
    }});
    this.drop = h("div", {className: "pmc2-drop"}, "or drop pictures here");
    const own = asking(row(
      button("upload", "upload pictures", "choose pictures of your own", () => this.files.click()), this.files, this.drop,
      labelled("folder", "or folder", this.folder),
    ));
    const system = part(
      slide("strength", "strength", 0, 1, 0.01, (value) => this.set("strength", Math.round(100 * value) / 100), decimals),
      slide("rate", "rate", 0, 1, 0.01, (value) => this.set("rate", this.stop(value)), decimals),
      select("codec", "codec"),
      slide("quality", "quality", 1, 95, 1, (value) => this.set("quality", Math.round(value))),
      select("pair", "pair"),
      select("variant", "generator"),
    );
    this.text = h("span", {});
    this.link = h("span", {className: "pmc2-link"});
    this.message = h("div", {className: "pmc2-message"}, h("div", {role: "status"}, this.text, " ", this.link), h("div", {className: "pmc2-busy"}));
    this.toggle = button("toggle", "A/B: originals", "show the original in place of each picture", () => {
      this.swapped = !this.swapped;
      this.toggle.setAttribute("aria-pressed", this.swapped);
      this.transform();
    });
    this.toggle.setAttribute("aria-pressed", "false");
    const view = row(
      this.toggle,
      slide("divider", "original left of", 0, 1, 0.01, (value) => { this.divider = value; this.transform(); }, decimals),
      select("zoom", "zoom", "also Ctrl and the wheel over a picture; drag to pan", (value) => this.zoomTo(Number(value))),
      slide("gain", "residual times", 1, 16, 0.5, (value) => this.set("gain", value)),
      select("layer", "sheet shows", "what every picture of the sheet shows"),
      group(
        this.undoButton = button("undo", "undo", "undo (Ctrl+Z)", () => this.step(this.past, this.future)),
        this.redoButton = button("redo", "redo", "redo (Ctrl+Shift+Z)", () => this.step(this.future, this.past)),
        button("full", "full screen", "the view on the whole screen; Escape leaves it", () => (
          this.isWhole ? document.exitFullscreen() : this.root.requestFullscreen?.())),
      ),
    );
    this.cards = {};
    this.shelf = h("div", {className: "pmc2-shelf"}, ...Object.keys(LAYERS).map((name) => this.card(name)));
    this.sheetCanvas = h("canvas", {className: "pmc2-canvas", ariaHidden: "true"});
    this.tiles = h("div", {className: "pmc2-tiles", role: "group", ariaLabel: "pictures of the sheet", onkeydown: (event) => this.walk(event)});
    this.sheetBox = h("div", {className: "pmc2-sheet-box"}, this.sheetCanvas, this.tiles);
    this.sheetScroll = h("div", {className: "pmc2-sheet-scroll"}, this.sheetBox);
    this.numbers = h("div", {className: "pmc2-numbers"});
    this.said = h("div", {className: "pmc2-hidden", role: "status"});
    controls.kind = h("select", {});
    this.attackButton = button("attack", "train an attacker", "an inversion network learns from what the cloud sees", () => this.send({do: "attack"}));
    const actions = asking(part(
      this.attackButton,
      this.pinButton = button("pin", "pin", "keep this view next to others", () => this.send({do: "pin"})),
      labelled("export-kind", "export", controls.kind),
      this.exportButton = button("export", "write", "write the export to a file", () => {
        this.link.replaceChildren();
        this.send({do: "export", what: controls.kind.value});
      }),
    ));
    this.pinned = h("div", {className: "pmc2-pins"});
    this.curves = h("div", {className: "pmc2-curves"});
    this.curvesText = h("div", {className: "pmc2-soft pmc2-curves-text"});
    this.root.append(sources, own, system, this.message, view, this.shelf, this.sheetScroll, this.numbers, this.said, actions,
      this.pinned, this.curvesText, this.curves, this.buildMap(), asking(this.buildLink()));
    fill(controls.zoom, ZOOMS.map((zoom) => [zoom, zoom === 1 ? "fit" : `${zoom}×`]), 1);
    fill(controls.layer, Object.entries(LAYERS).filter(([name]) => name !== "original").concat([["original", "original"]]), this.state.layer);
    el.append(this.root);
    this.watchDrops();
  }

  card(name) {
    const over = h("canvas", {className: "pmc2-canvas pmc2-over", role: "img", ariaLabel: LAYERS[name]});
    const under = name === "original" ? null : h("canvas", {className: "pmc2-canvas pmc2-under", ariaHidden: "true"});
    const pane = h("div", {className: "pmc2-pane"}, ...[under, over].filter(Boolean));
    const caption = h("span", {className: "pmc2-soft"}, "…");
    this.cards[name] = {over, under, pane, caption};
    this.watchPane(pane);
    return h("figure", {className: `pmc2-card pmc2-${name}`}, pane, h("figcaption", {}, h("b", {}, LAYERS[name]), h("br"), caption));
  }

  watchPane(pane) {
    let from = null;
    pane.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      from = [event.clientX, event.clientY, ...this.pan];
      pane.setPointerCapture(event.pointerId);
      this.drag(pane, event, from);
      event.preventDefault();
    });
    pane.addEventListener("pointermove", (event) => from && this.drag(pane, event, from));
    for (const kind of ["pointerup", "pointercancel"]) pane.addEventListener(kind, () => { from = null; });
    pane.addEventListener("dblclick", () => this.zoomTo(1));
    pane.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const box = pane.getBoundingClientRect(), at = ZOOMS.indexOf(this.zoom) + (event.deltaY < 0 ? 1 : -1);
      this.zoomTo(ZOOMS[clamp(at, 0, ZOOMS.length - 1)], [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]);
    }, {passive: false});
  }

  drag(pane, event, [x, y, left, top]) {
    const box = pane.getBoundingClientRect();
    if (this.zoom === 1) {
      this.divider = clamp(Math.round((100 * (event.clientX - box.left)) / box.width) / 100, 0, 1);
    } else {
      this.pan = [left + (event.clientX - x) / box.width, top + (event.clientY - y) / box.height];
    }
    this.transform();
  }

  zoomTo(zoom, [x, y] = [0.5, 0.5]) {
    const factor = zoom / this.zoom;
    this.pan = [x - factor * (x - this.pan[0]), y - factor * (y - this.pan[1])];
    this.zoom = zoom;
    this.controls.zoom.value = zoom;
    this.transform();
    this.fit();
  }

  transform() {
    const most = 1 - this.zoom;
    this.pan = this.pan.map((each) => clamp(each, most, 0));
    this.shelf.style.cssText = `--zoom: ${this.zoom}; --left: ${this.pan[0]}; --top: ${this.pan[1]}; --divider: ${this.divider}`;
    this.shelf.classList.toggle("pmc2-swapped", this.swapped);
    this.shelf.classList.toggle("pmc2-divided", this.divider > 0 && this.divider < 1);
    this.sliders.divider.show(this.divider);
    if (this.sheetOn) this.schedule(false);
    this.fit();
  }

  watchDrops() {
    const over = (on) => (event) => {
      event.preventDefault();
      event.stopPropagation();
      this.drop.classList.toggle("pmc2-is-over", on);
    };
    this.root.addEventListener("dragover", over(true));
    this.root.addEventListener("dragleave", over(false));
    this.root.addEventListener("drop", (event) => { over(false)(event); this.upload(event.dataTransfer.files); });
  }

  page(direction) {
    const last = Math.max(0, (this.options.count ?? 1) - 1);
    this.set("number", clamp(this.state.number + direction * this.state.sheet, 0, last));
  }

  stop(rate) {
    const stops = this.options.rates ?? [];
    return stops.reduce((best, each) => (Math.abs(each - rate) < Math.abs(best - rate) ? each : best), stops[0] ?? 0);
  }

  // --- sizes ------------------------------------------------------------------------------------------------------------------

  get options() { return this.model.get("options") ?? {}; }
  get isWhole() { return this.root.matches(":fullscreen"); } // document.fullscreenElement does not see into a shadow root
  get sheetOn() { return this.state.sheet > 1; }
  get count() { return this.frames ? this.frames.numbers.length : 0; }

  layout() {
    this.shelf.hidden = this.sheetOn;
    this.sheetScroll.hidden = !this.sheetOn;
    if (!this.frames) return;
    const [w, hgt] = this.size;
    this.images = {};
    for (const {over, under} of Object.values(this.cards)) {
      for (const canvas of [over, under]) if (canvas) [canvas.width, canvas.height, canvas.painted] = [w, hgt, null];
    }
    this.fit();
    this.makeTiles();
  }

  fit() {
    if (!this.frames) return;
    const width = this.root.clientWidth - 4, [w, hgt] = this.size, whole = this.isWhole;
    if (!width || width < 0) return;
    const columns = width >= 860 ? 5 : width >= 560 ? 3 : 2, most = whole ? 640 : 224;
    const side = Math.min(most, (width - 12 * (columns - 1)) / columns), longest = Math.max(w, hgt);
    const factor = side >= longest ? Math.floor(side / longest) : side / longest;
    this.shelf.style.setProperty("--w", `${Math.floor(factor * w)}px`);
    this.shelf.style.setProperty("--h", `${Math.floor(factor * hgt)}px`);
    if (!this.sheetOn) return;
    const wide = width >= 800 ? 1 : 0.5, n = this.state.sheet;
    this.columns = Math.min(this.count, n <= 16 ? 8 * wide : n <= 64 ? 16 * wide : 32 * wide);
    this.rows = Math.ceil(this.count / this.columns);
    const room = Math.min(width / this.columns, whole ? 400 : 128), tile = room >= w ? Math.floor(room / w) * w : room;
    this.sheetBox.style.cssText = `--tile-w: ${tile * this.zoom}px; --tile-h: ${(tile * this.zoom * hgt) / w}px; --columns: ${this.columns}; --rows: ${this.rows}`;
    const [cw, ch] = [this.columns * w, this.rows * hgt];
    if (this.sheetCanvas.width !== cw || this.sheetCanvas.height !== ch) {
      [this.sheetCanvas.width, this.sheetCanvas.height] = [cw, ch];
      this.schedule(false);
    }
  }

  makeTiles() {
    if (!this.sheetOn) return this.tiles.replaceChildren();
    if (this.tiles.children.length !== this.count) {
      this.tiles.replaceChildren(...Array.from({length: this.count}, (_, k) => h("button", {
        className: "pmc2-tile", type: "button", tabIndex: k ? -1 : 0, onclick: () => this.open(k),
      })));
    }
    this.nameTiles();
  }

  walk(event) {
    const steps = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns};
    const all = [...this.tiles.children], at = all.indexOf(event.target);
    const to = event.key === "Home" ? 0 : event.key === "End" ? all.length - 1 : at + (steps[event.key] ?? NaN);
    if (!(to in all)) return;
    event.preventDefault();
    all[at].tabIndex = -1;
    all[to].tabIndex = 0;
    all[to].focus();
  }

  open(k) {
    if (this.options.saved) return;
    const number = this.state.number + k;
    this.remember();
    this.model.set({number, sheet: 1});
    Object.assign(this.state, {number, sheet: 1});
    this.model.save_changes();
    this.cut(k);
    this.layout();
    this.changed("number");
    this.cards.protected.pane.scrollIntoView?.({block: "nearest"});
  }

  // Show one picture of the sheet at once. Its own view comes later from the kernel.
  cut(k) {
    const part = 3 * this.size[0] * this.size[1], frames = this.frames, one = (bytes) => bytes && bytes.slice(part * k, part * (k + 1));
    this.frames = {...frames, id: `${frames.id}.${k}`, numbers: [frames.numbers[k]], labels: [frames.labels[k]], names: frames.names.slice(k, k + 1),
      original: one(frames.original), received: one(frames.received), full: one(frames.full), s1: frames.s1.slice(k, k + 1), on_original: []};
    this.forget();
  }

  // --- drawing ----------------------------------------------------------------------------------------------------------------

  schedule(more) {
    this.more ||= more;
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      const all = this.more;
      this.more = false;
      this.draw();
      if (all) this.showNumbers();
      this.showMarks();
    });
  }

  // The view at the settings or, until it arrives, the last displayed one.
  present_() {
    if (!this.frames) return null;
    const {strength, rate, codec, quality} = this.state;
    const exact = this.table.get(keyOf(this.frames.id, strength, rate, codec, quality));
    if (exact && exact !== this.shown) this.views++;
    if (exact) this.shown = exact;
    this.root.classList.toggle("pmc2-waiting", !exact);
    if (exact) this.arrived();
    else this.late ??= setTimeout(() => this.missing(), this.options.saved ? 0 : LATE_MS);
    return this.shown;
  }

  arrived() {
    clearTimeout(this.late);
    this.late = null;
    if (this.isLate) this.showMessage();
    this.isLate = false;
  }

  // Without a kernel, as in a saved notebook, the cloud's view at other settings does not come.
  missing() {
    const meta = this.shown?.meta;
    if (!meta || this.model.get("message")?.busy) return;
    this.isLate = true;
    const reason = this.options.saved ? "this page holds no view at these settings" : "the kernel has sent no other view";
    this.say(`${reason}: the cloud's picture and the figures are those of strength ${meta.strength}, rate ${meta.rate}, ${meta.codec}`);
  }

  colour(layer, entry, k) {
    const {original, received, full} = this.frames, {strength, gain} = this.state;
    if (layer === "original") return (i) => original[i];
    if (layer === "protected") return full && blended(received, full, strength);
    if (layer === "residual") return full && difference(original, blended(received, full, strength), gain);
    if (!entry) return null;
    const part = 3 * this.size[0] * this.size[1], which = entry.meta.which[k];
    if (layer === "attacker" && !entry.meta.psnr) return null;
    const shift = part * (which + (layer === "attacker" ? entry.meta.distinct : 0) - k);
    return (i) => entry.blob[i + shift];
  }

  paint(canvas, layer, entry) {
    const colour = this.colour(layer, entry, 0), context = canvas.getContext("2d");
    if (!colour) context.clearRect(0, 0, canvas.width, canvas.height);
    if (!colour) return false;
    const image = (this.images[layer] ??= context.createImageData(canvas.width, canvas.height));
    each(this.size, 0, image, 0, 0, colour);
    context.putImageData(image, 0, 0);
    return true;
  }

  draw() {
    if (!this.frames) return;
    const entry = this.present_();
    if (this.sheetOn) return this.drawSheet(entry);
    for (const [layer, {over, under}] of Object.entries(this.cards)) {
      const there = this.paint(over, layer, entry);
      if (under && layer !== "residual") under.hidden = !there;
      if (under && there && layer !== "residual" && under.painted !== this.frames && this.paint(under, "original", entry)) under.painted = this.frames;
    }
  }

  drawSheet(entry) {
    const canvas = this.sheetCanvas, context = canvas.getContext("2d"), [w, hgt] = this.size;
    if (!this.sheetImage || this.sheetImage.width !== canvas.width || this.sheetImage.height !== canvas.height) {
      this.sheetImage = context.createImageData(canvas.width, canvas.height);
    }
    const layer = this.swapped ? "original" : this.state.layer, cut = Math.round(this.divider * w);
    for (let k = 0; k < this.count; k++) {
      const left = (k % this.columns) * w, top = Math.floor(k / this.columns) * hgt, colour = this.colour(layer, entry, k);
      each(this.size, k, this.sheetImage, left, top, colour ?? (() => 128));
      if (cut && layer !== "residual") this.halve(k, left, top, cut);
    }
    context.putImageData(this.sheetImage, 0, 0);
  }

  halve(k, left, top, cut) {
    const [w, hgt] = this.size, {original} = this.frames, data = this.sheetImage.data;
    for (let y = 0; y < hgt; y++) {
      for (let x = 0; x < cut; x++) {
        const from = 3 * ((k * hgt + y) * w + x), to = 4 * ((top + y) * this.sheetImage.width + left + x);
        for (let c = 0; c < 3; c++) data[to + c] = original[from + c];
      }
    }
  }

  showMarks() {
    if (!this.frames) return;
    const {strength, rate, codec, quality} = this.state, id = this.frames.id, common = `${this.version} ${id} ${codec} ${quality}`;
    const strip = (canvas, state, known) => {
      if (canvas.marked === state) return;
      canvas.marked = state;
      const context = canvas.getContext("2d");
      context.clearRect(0, 0, 101, 1);
      context.fillStyle = getComputedStyle(canvas).color;
      for (let k = 0; k <= 100; k++) if (known(k / 100)) context.fillRect(k, 0, 1, 1);
    };
    strip(this.sliders.strength.marks, `${common} ${rate}`, (each) => this.table.has(keyOf(id, each, rate, codec, quality)));
    strip(this.sliders.rate.marks, `${common} ${strength}`, (each) => this.table.has(keyOf(id, strength, each, codec, quality)));
  }

  // --- controls and figures ---------------------------------------------------------------------------------------------------

  showAll() {
    this.showControls();
    this.showMessage();
    this.showCurves();
    this.showMap();
    this.showPins();
    this.transform();
    this.schedule(true);
  }

  showControls() {
    const {state, options, controls, sliders} = this;
    fill(controls.source, options.sources ?? [], state.source || "…");
    fill(controls.show, options.shows ?? ["all"], state.show);
    fill(controls.sort, options.sorts ?? ["number"], state.sort);
    fill(controls.sheet, [[1, "1 picture"], [16, "16"], [64, "64"], [256, "256"]], state.sheet);
    fill(controls.codec, options.codecs ?? [], state.codec);
    fill(controls.pair, options.pairs ?? [], state.pair);
    fill(controls.variant, options.variants ?? [["", "…"]], state.variant);
    controls.variant.title = controls.variant.selectedOptions[0]?.text ?? "";
    fill(controls.kind, options.kinds ?? [], controls.kind.value || (options.kinds ?? [""])[0]);
    controls.layer.value = state.layer;
    sliders.number.range.max = sliders.number.typed.max = Math.max(0, (options.count ?? 1) - 1);
    for (const name of ["strength", "rate", "quality", "number", "gain"]) sliders[name].show(state[name]);
    const rates = options.rates ?? [];
    this.enable(sliders.rate, rates.length > 1);
    sliders.rate.field.title = rates.length > 1 ? `${rates.length} stops` : "this codec has one rate";
    this.enable(sliders.quality, GRADED.includes(state.codec) && !options.saved);
    fill(this.projection, options.projections ?? ["PCA"], this.model.get("projection") ?? "PCA");
    this.root.classList.toggle("pmc2-saved", Boolean(options.saved));
    controls.codec.disabled = Boolean(options.comparison || options.saved);
    controls.pair.disabled = controls.variant.disabled = Boolean(options.saved);
    controls.variant.closest(".pmc2-field").hidden = Boolean(options.comparison);
    controls.layer.closest(".pmc2-field").hidden = !this.sheetOn;
    this.attackButton.hidden = Boolean(options.comparison);
    this.attackButton.disabled = !options.ready || Boolean(options.attacking);
    this.mapDetails.hidden = Boolean(options.comparison || (options.saved && !this.points));
    sliders.strength.range.setAttribute("aria-valuetext", `strength ${state.strength}`);
    this.showCurveMarkers();
  }

  enable(control, on) {
    control.range.disabled = control.typed.disabled = !on;
    control.field.classList.toggle("pmc2-off", !on);
  }

  showHistory() {
    this.undoButton.disabled = !this.past.length;
    this.redoButton.disabled = !this.future.length;
  }

  say(text, bad = false) {
    this.text.textContent = text;
    this.text.className = bad ? "pmc2-bad" : "pmc2-soft";
  }

  showMessage() {
    const {text = "", bad = false, busy = false} = this.model.get("message") ?? {};
    if (!text.startsWith("written")) this.link.replaceChildren();
    this.say(text, bad);
    this.message.classList.toggle("pmc2-is-busy", busy);
  }

  className(k) { return this.options.classes?.[k] ?? (k >= 0 ? `class ${k}` : "unknown"); }

  // Rebuilt only for another view: a frame of a drag has no time for layout.
  showNumbers() {
    if (!this.frames) return;
    const entry = this.shown, before = this.numbered ?? [], now = [entry, this.frames, this.options, this.state.gain, this.state.sheet];
    if (now.every((each, k) => each === before[k])) return;
    this.numbered = now;
    if (this.sheetOn) this.nameTiles();
    this.captions(entry);
    if (!entry) return;
    const {meta} = entry, data = this.numbers.dataset;
    Object.assign(data, {strength: meta.strength, rate: meta.rate, view: this.views, index: this.frames.numbers[0], count: this.count, codec: meta.codec});
    const cells = (this.sheetOn ? this.sheetFigures(meta) : this.pictureFigures(meta)).map(([name, value, note]) =>
      h("div", {}, h("span", {className: "pmc2-of"}, name), h("span", {className: "pmc2-is"}, value), h("small", {}, note)));
    const columns = this.sheetOn ? [] : [
      this.bars(`Target ${this.state.pair.split("-X-")[0]}, at the cloud`, meta.target[0], BLUE, "pmc2-bars-target"),
      this.bars(`Auxiliary ${this.state.pair.split("-X-")[1] ?? ""}, at the cloud`, meta.auxiliary[0], ORANGE, "pmc2-bars-auxiliary"),
    ];
    columns.push(this.stages(meta.spent));
    this.numbers.replaceChildren(h("div", {className: "pmc2-figures"}, ...cells), h("div", {className: "pmc2-columns"}, ...columns.filter(Boolean)));
  }

  captions(entry) {
    const set = (name, ...lines) => { this.cards[name].caption.replaceChildren(...lines.flatMap((line, k) => (k ? [h("br"), line] : [line]))); };
    const label = this.frames.labels[0], meta = entry?.meta;
    set("original", "what a person sees:", this.frames.names[0] ?? (label >= 0 ? this.className(label) : "unknown"));
    set("residual", "protected − original", `times ${this.state.gain}, grey is equal`);
    if (!meta) return;
    set("protected", "before coding", `SSIM ${ssimText(meta.ssim[0])}`);
    set("cloud", meta.name, `${grouped(meta.payload)} bytes`);
    if (meta.psnr) set("attacker", `${meta.psnr[0].toFixed(1)} dB`, meta.note.split(", ")[0]);
    this.cards.attacker.caption.title = meta.note;
    if (!meta.psnr) set("attacker", this.options.comparison ? "not for own methods" : "press “train an attacker”");
    this.cards.cloud.over.ariaLabel = `at the cloud: ${meta.name}, ${meta.payload} bytes`;
    this.cards.protected.over.ariaLabel = `protected at strength ${meta.strength}: SSIM ${ssimText(meta.ssim[0])}`;
  }

  verdict(label, answer) {
    return label < 0 ? "class unknown" : label === answer ? "right" : `wrong: it is ${this.className(label)}`;
  }

  pictureFigures(meta) {
    const bits = 8 * meta.payload, code = meta.bits[0], label = this.frames.labels[0];
    const found = [["SSIM, original and protected", ssimText(meta.ssim[0]), "1 is the same picture"]];
    if (this.frames.s1[0]) found.push(["S1, phone to edge", `${grouped(this.frames.s1[0])} bytes`, "JPEG, quality 90, 4:4:4"]);
    const split = Math.abs(bits - code) < 0.05 ? `${grouped(bits)} bits` : `${grouped(bits)} bits: ${grouped(code, 1)} of code, ${grouped(bits - code, 1)} of coder`;
    found.push(["S2, edge to cloud", `${grouped(meta.payload)} bytes`, split]);
    const before = this.frames.on_original[0]?.[0], after = meta.target[0]?.[0];
    if (before) found.push(["target, original", `${this.className(before[0])}, ${percent(before[1])}`, this.verdict(label, before[0])]);
    if (after) found.push(["target, at the cloud", `${this.className(after[0])}, ${percent(after[1])}`, this.verdict(label, after[0])]);
    return found;
  }

  right(meta, name = "target") {
    return meta[name].map((top, k) => top[0][0] === this.frames.labels[k]);
  }

  sheetFigures(meta) {
    const n = meta.which.length, known = this.frames.labels.every((label) => label >= 0), found = [];
    const share = (values) => `${percent(mean(values.map(Number)), 1)}`;
    if (meta.target.length && known) found.push(["target's accuracy", share(this.right(meta)), `${this.right(meta).filter((each) => !each).length} of ${n} misread`]);
    if (meta.auxiliary.length && known) found.push(["auxiliary's accuracy", share(this.right(meta, "auxiliary")), "must not recognise them"]);
    found.push(["SSIM, mean", ssimText(mean(meta.ssim)), `least hidden: ${ssimText(Math.max(...meta.ssim.map(Math.abs)))}`]);
    found.push(["S2, edge to cloud", `${grouped(meta.payload / n, 2)} bytes`, `a picture; ${grouped(meta.payload)} for ${n} in one payload`]);
    found.push(["pictures at the cloud", `${meta.distinct} distinct`, `of ${n}`]);
    if (meta.psnr) found.push(["attacker's gain", `${(mean(meta.psnr) - this.control()).toFixed(1)} dB`, `PSNR ${mean(meta.psnr).toFixed(1)} dB, over the sheet's mean picture`]);
    return found;
  }

  // The mean PSNR of a guess without any view: the mean of all pictures.
  control() {
    const {original} = this.frames, n = this.count, part = original.length / n, average = new Float32Array(part), errors = new Float32Array(n);
    for (let i = 0; i < original.length; i++) average[i % part] += original[i] / n;
    for (let i = 0; i < original.length; i++) errors[Math.floor(i / part)] += ((original[i] - average[i % part]) / 255) ** 2 / part;
    return mean([...errors].map((error) => -10 * Math.log10(Math.max(error, 1e-10))));
  }

  bars(title, top, colour, name) {
    if (!top) return null;
    const label = this.frames.labels[0];
    return h("div", {className: name}, h("h4", {}, title), ...top.map(([k, share]) =>
      this.bar(`${this.className(k)}${k === label ? " ✓" : ""}`, share, percent(share, 1), colour, k === label ? " pmc2-right" : "")));
  }

  bar(text, share, value, colour, kind = "") {
    const filled = h("span", {className: "pmc2-fill"});
    filled.style.cssText = `width: ${(100 * share).toFixed(1)}%; background: ${colour}`;
    return h("div", {className: `pmc2-bar${kind}`}, h("span", {title: text}, text), h("span", {className: "pmc2-track"}, filled), h("span", {}, value));
  }

  stages(spent) {
    const names = Object.keys(STAGES).filter((name) => name in spent), all = names.reduce((sum, name) => sum + spent[name], 0);
    if (!names.length) return null;
    const what = this.sheetOn ? `Milliseconds for ${this.count} pictures` : "Milliseconds (median)";
    return h("div", {className: "pmc2-stages"}, h("h4", {}, `${what}: ${all.toFixed(2)} in all`),
      ...names.map((name) => this.bar(STAGES[name], spent[name] / Math.max(all, 1e-9), spent[name].toFixed(2), "#6E6E6E")));
  }

  nameTiles() {
    const meta = this.shown?.meta, {labels, numbers, names} = this.frames;
    const least = meta ? [...meta.ssim.keys()].sort((a, b) => Math.abs(meta.ssim[b]) - Math.abs(meta.ssim[a])).slice(0, Math.max(1, Math.floor(this.count / 16))) : [];
    [...this.tiles.children].forEach((tile, k) => {
      const answer = meta?.target[k]?.[0], wrong = Boolean(answer) && labels[k] >= 0 && answer[0] !== labels[k];
      const name = names[k] ?? (labels[k] >= 0 ? this.className(labels[k]) : "class unknown");
      const text = [`picture ${numbers[k]}, ${name}`];
      if (answer) text.push(wrong ? `misread as ${this.className(answer[0])}` : `read as ${this.className(answer[0])}`);
      if (meta) text.push(`SSIM ${ssimText(meta.ssim[k])}`);
      if (meta?.psnr) text.push(`attacker ${meta.psnr[k].toFixed(1)} dB`);
      if (least.includes(k)) text.push("least hidden");
      tile.className = `pmc2-tile${wrong ? " pmc2-wrong" : ""}${least.includes(k) ? " pmc2-least" : ""}`;
      tile.ariaLabel = tile.title = text.join(", ");
    });
  }

  announce() {
    const meta = this.shown?.meta;
    if (!meta) return;
    const figures = this.sheetOn ? this.sheetFigures(meta) : this.pictureFigures(meta);
    this.said.textContent = `strength ${meta.strength}, rate ${meta.rate}: ${figures.map(([name, value]) => `${name} ${value}`).join("; ")}`;
  }

  // --- pins -------------------------------------------------------------------------------------------------------------------

  showPins() {
    this.pinned.replaceChildren(...(this.model.get("pins") ?? []).map((pin, at) => {
      const pictures = pin.images.map((bytes, k) => {
        const canvas = h("canvas", {className: "pmc2-canvas", width: pin.width, height: pin.height, role: "img", ariaLabel: ["original", "protected", "at the cloud"][k]});
        const pixels = bytesOf(bytes), image = canvas.getContext("2d").createImageData(pin.width, pin.height);
        each([pin.width, pin.height], 0, image, 0, 0, (i) => pixels[i]);
        canvas.getContext("2d").putImageData(image, 0, 0);
        return canvas;
      });
      return h("div", {className: "pmc2-pin-card"}, h("div", {className: "pmc2-pin-pictures"}, ...pictures), h("b", {}, pin.text),
        h("div", {className: "pmc2-soft"}, pin.system), h("div", {}, pin.figures), h("div", {}, pin.answer),
        h("button", {className: "pmc2-button pmc2-asking", type: "button", title: `show ${pin.text} again`, onclick: () => this.send({do: "again", at})}, "show again"), " ",
        h("button", {className: "pmc2-button pmc2-asking", type: "button", title: `remove ${pin.text}`, onclick: () => this.send({do: "unpin", at})}, "remove"));
    }));
  }

  // --- curves and surface -----------------------------------------------------------------------------------------------------

  showCurves() {
    const curves = this.model.get("curves") ?? {};
    this.curvesText.textContent = curves.text ?? "";
    this.markers = [];
    if (!curves.target) return this.curves.replaceChildren();
    const top = Math.max(...curves.bytes.map((row) => row[3])) * 1.1 || 1;
    const charts = [
      this.chart("accuracy at the cloud (%)", [["target", curves.target, BLUE], ["auxiliary", curves.auxiliary, ORANGE]], 0, 100, curves.chance),
      this.chart("SSIM (original, protected)", [["SSIM", curves.ssim, GREEN]], -0.2, 1, 0),
      this.chart("S2 (bytes a picture)", [["S2", curves.bytes, PURPLE]], 0, top),
    ];
    if (curves.surface?.rows.length) charts.push(this.surface(curves.surface));
    this.curves.replaceChildren(...charts);
    this.showCurveMarkers();
  }

  chart(title, lines, low, high, level) {
    const [W, H, l, r, t, b] = CHART, x = (v) => l + v * (W - l - r), y = (v) => t + (1 - (clamp(v, low, high) - low) / (high - low)) * (H - t - b);
    const path = (points) => points.map(([u, v], k) => `${k ? "L" : "M"}${x(u).toFixed(1)} ${y(v).toFixed(1)}`).join("");
    const ends = lines.map(([name, rows]) => `${name} from ${rows[0][1].toPrecision(3)} to ${rows.at(-1)[1].toPrecision(3)}`).join(", ");
    const marker = svg("line", {class: "pmc2-marker", y1: t, y2: H - b});
    this.markers.push((a) => { for (const end of ["x1", "x2"]) marker.setAttribute(end, x(a)); });
    const ticks = [low, (low + high) / 2, high].map((v) => Number(v.toPrecision(2)));
    const drawing = svg("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title} over strength: ${ends}`, class: "pmc2-chart"},
      svgText(l, 14, title, "start", {class: "pmc2-chart-title"}), svg("path", {class: "pmc2-axes", d: `M${l} ${t}V${H - b}H${W - r}`}),
      ...ticks.map((v) => svgText(l - 5, y(v) + 4, String(v), "end")), ...[0, 0.5, 1].map((v) => svgText(x(v), H - b + 14, String(v))),
      svgText(x(0.5), H - 3, "strength"),
      ...(level === undefined ? [] : [svg("path", {class: "pmc2-level", d: path([[0, level], [1, level]])})]),
      ...lines.flatMap(([, rows, colour]) => [
        svg("path", {d: `${path(rows.map((row) => [row[0], row[3]]))}${path(rows.map((row) => [row[0], row[2]]).reverse()).replace("M", "L")}Z`, fill: colour, opacity: 0.18}),
        svg("path", {d: path(rows.map((row) => [row[0], row[1]])), fill: "none", stroke: colour, "stroke-width": 2})]),
      ...(lines.length > 1 ? lines.flatMap(([name, , colour], k) => [svgText(W - r - 22, t + H / 3 + 15 * k, name, "end", {class: "pmc2-chart-name"}),
        svg("path", {d: `M${W - r - 18} ${t + H / 3 - 4 + 15 * k}h14`, stroke: colour, "stroke-width": 3})]) : []), marker);
    drawing.addEventListener("click", (event) => {
      const box = drawing.getBoundingClientRect(), at = (((event.clientX - box.left) / box.width) * W - l) / (W - l - r);
      if (at > -0.05 && at < 1.05) this.set("strength", Math.round(100 * clamp(at, 0, 1)) / 100);
    });
    return drawing;
  }

  surface({n, rows}) {
    const [W, H, l, r, t, b] = CHART, strengths = [...new Set(rows.map((row) => row[0]))], rates = [...new Set(rows.map((row) => row[1]))];
    const w = (W - l - r) / strengths.length, hgt = (H - t - b) / rates.length, low = Math.min(...rows.map((row) => row[2])), high = Math.max(...rows.map((row) => row[2]));
    const cells = rows.map(([a, rate, accuracy, bytes]) => {
      const share = (accuracy - low) / Math.max(high - low, 1e-9), k = strengths.indexOf(a), j = rates.indexOf(rate);
      const cell = svg("rect", {x: l + w * k, y: H - b - hgt * (j + 1), width: w + 0.5, height: hgt + 0.5, fill: `color-mix(in oklab, #ffe945 ${100 * share}%, #00224e)`},
        svg("title", {}, `strength ${a}, rate ${rate}: ${accuracy.toFixed(1)} %, ${bytes.toFixed(1)} bytes`));
      cell.addEventListener("click", () => { this.set("strength", a); this.set("rate", this.stop(rate)); });
      return cell;
    });
    const ring = svg("circle", {class: "pmc2-ring", r: 5});
    const place = (values, value) => {
      const at = values.findIndex((each) => each >= value - 1e-9), k = at < 0 ? values.length - 1 : at;
      return k && value < values[k] ? k - 1 + (value - values[k - 1]) / (values[k] - values[k - 1]) : k;
    };
    this.markers.push((a) => {
      ring.setAttribute("cx", l + w * (place(strengths, a) + 0.5));
      ring.setAttribute("cy", H - b - hgt * (place(rates, this.state.rate) + 0.5));
    });
    return svg("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", class: "pmc2-chart pmc2-surface", "aria-label": `target's accuracy over strength and rate: ${low.toFixed(1)} to ${high.toFixed(1)} %`},
      svgText(l, 14, `accuracy (%), ${low.toFixed(0)} to ${high.toFixed(0)}, n = ${n}: press to set both`, "start", {class: "pmc2-chart-title"}), ...cells,
      ...[0, strengths.length - 1].map((k) => svgText(l + w * (k + 0.5), H - b + 14, String(strengths[k]), "middle")), svgText(W / 2, H - 3, "strength", "middle"),
      ...[0, rates.length - 1].map((j) => svgText(l - 5, H - b - hgt * (j + 0.5) + 4, String(rates[j]), "end")), svgText(12, H / 2, "rate", "middle", {transform: `rotate(-90 12 ${H / 2})`}), ring);
  }

  showCurveMarkers() {
    for (const place of this.markers ?? []) place(this.state.strength);
  }

  // --- the map ----------------------------------------------------------------------------------------------------------------

  buildMap() {
    const [field, select] = choice("colour-by", "colour", () => this.showMap());
    this.colourBy = select;
    fill(select, [["class", "class"], ["right", "right or wrong"], ["attacker", "attacker's PSNR"]], "class");
    const [projection, projected] = choice("projection", "projection", (value) => {
      this.model.set("projection", value);
      this.model.save_changes();
    });
    this.projection = projected;
    this.map = h("canvas", {className: "pmc2-map-canvas", width: 560, height: 360, role: "img", ariaLabel: "map of what the cloud receives"});
    this.thumbnail = h("canvas", {className: "pmc2-canvas pmc2-thumbnail", hidden: true, ariaHidden: "true"});
    this.mapText = h("div", {className: "pmc2-soft"});
    this.legend = h("div", {className: "pmc2-legend"});
    this.watchMap();
    this.mapDetails = h("details", {className: "pmc2-map", ontoggle: () => this.options.saved || this.send({do: "map", on: this.mapDetails.open})},
      h("summary", {}, "Map: what the cloud receives of many pictures"),
      h("div", {className: "pmc2-row"}, field, asking(projection), h("span", {className: "pmc2-soft pmc2-asking"}, "drag around points to make them the sheet; Shift for a rectangle")),
      h("div", {className: "pmc2-map-box"}, this.map, this.thumbnail), this.legend, this.mapText);
    return this.mapDetails;
  }

  place(k) {
    const [x, y] = this.points.points[k];
    return [20 + x * (this.map.width - 40), 20 + (1 - y) * (this.map.height - 40)];
  }

  mapColour(k) {
    const {labels, answers, psnr} = this.points, by = this.colourBy.value;
    if (by === "right") return labels[k] === answers[k] ? BLUE : ORANGE;
    if (by === "attacker" && psnr) {
      const low = Math.min(...psnr), high = Math.max(...psnr);
      return `color-mix(in oklab, ${ORANGE} ${(100 * (psnr[k] - low)) / Math.max(high - low, 1e-9)}%, #7fb7d8)`;
    }
    return labels[k] >= 0 ? CLASS_COLOURS[labels[k] % CLASS_COLOURS.length] : "#7F7F7F";
  }

  showMap() {
    const points = this.model.get("points");
    if (!points || !points.points) {
      this.mapText.textContent = "the map is drawn once the view rests";
      return;
    }
    this.points = points;
    const context = this.map.getContext("2d"), by = this.colourBy.value;
    context.clearRect(0, 0, this.map.width, this.map.height);
    for (let k = 0; k < points.points.length; k++) {
      context.fillStyle = this.mapColour(k);
      context.globalAlpha = 0.75;
      context.beginPath();
      context.arc(...this.place(k), 4.5, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
    if (this.lasso?.length > 1) {
      context.strokeStyle = getComputedStyle(this.map).color;
      context.beginPath();
      this.lasso.forEach(([x, y], j) => (j ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.closePath();
      context.stroke();
    }
    const places = new Set(points.points.map(([x, y]) => `${x.toFixed(3)} ${y.toFixed(3)}`)).size;
    this.mapText.textContent = `${counted(points.points.length, "picture")} at ${counted(places, "place")}: ${points.by === "UMAP" ? "UMAP" : "principal components"} of what the target reads at the cloud`;
    const names = by === "right" ? [["right", BLUE], ["wrong", ORANGE]] : by === "attacker" ? [[points.psnr ? "more of the picture recovered" : "no attacker is trained", ORANGE]]
      : [...new Set(points.labels)].sort((a, c) => a - c).slice(0, 10).map((label) => [this.className(label), label >= 0 ? CLASS_COLOURS[label % CLASS_COLOURS.length] : "#7F7F7F"]);
    this.legend.replaceChildren(...names.map(([name, colour]) => {
      const dot = h("i", {});
      dot.style.background = colour;
      return h("span", {}, dot, name);
    }));
    this.map.ariaLabel = `map: ${this.mapText.textContent}`;
  }

  watchMap() {
    const at = (event) => {
      const box = this.map.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * this.map.width, ((event.clientY - box.top) / box.height) * this.map.height];
    };
    this.map.addEventListener("pointerdown", (event) => {
      if (!this.points || this.options.saved) return;
      this.map.setPointerCapture(event.pointerId);
      this.lasso = [at(event)];
    });
    this.map.addEventListener("pointermove", (event) => {
      if (!this.points) return;
      const [x, y] = at(event);
      if (!this.lasso) return this.hover(x, y);
      const [x0, y0] = this.lasso[0];
      if (event.shiftKey) this.lasso = [[x0, y0], [x, y0], [x, y], [x0, y]];
      else this.lasso.push([x, y]);
      this.showMap();
    });
    this.map.addEventListener("pointerup", () => {
      const lasso = this.lasso ?? [];
      this.lasso = null;
      this.showMap();
      const numbers = lasso.length > 2 ? [...this.points.points.keys()].filter((k) => inside(this.place(k), lasso)) : [];
      if (numbers.length) this.send({do: "select", numbers: numbers.slice(0, 256)});
    });
    this.map.addEventListener("pointerleave", () => { this.thumbnail.hidden = true; });
  }

  hover(x, y) {
    let best = -1, least = 144;
    for (let k = 0; k < this.points.points.length; k++) {
      const [u, v] = this.place(k), distance = (u - x) ** 2 + (v - y) ** 2;
      if (distance < least) [best, least] = [k, distance];
    }
    this.thumbnail.hidden = best < 0;
    if (best < 0) return;
    const {width, height, original, cloud, which} = this.points, canvas = this.thumbnail, part = 3 * width * height;
    [canvas.width, canvas.height] = [2 * width, height];
    const context = canvas.getContext("2d"), image = context.createImageData(2 * width, height), [o, c] = [bytesOf(original), bytesOf(cloud)];
    each([width, height], best, image, 0, 0, (i) => o[i]);
    each([width, height], best, image, width, 0, (i) => c[i + part * (which[best] - best)]);
    context.putImageData(image, 0, 0);
    const [u, v] = this.place(best);
    canvas.style.cssText = `left: ${(100 * u) / this.map.width}%; top: ${(100 * v) / this.map.height}%`;
    this.map.title = `picture ${best}: ${this.className(this.points.labels[best])}, read as ${this.className(this.points.answers[best])}`;
  }

  // --- the link ---------------------------------------------------------------------------------------------------------------

  buildLink() {
    const line = (name, text) => {
      this[name] = h("input", {type: "text", readOnly: true, onfocus: () => this[name].select()});
      const copy = h("button", {className: "pmc2-button", type: "button", onclick: () => {
        this[name].select();
        navigator.clipboard?.writeText(this[name].value);
      }}, "copy");
      copy.ariaLabel = `copy ${text}`;
      return h("div", {className: "pmc2-row"}, labelled(name, text, this[name]), copy);
    };
    this.pasted = h("input", {type: "text", placeholder: "explorer.apply(...), papermill ..., or {...}", onchange: () => {
      if (this.pasted.value.trim()) this.send({do: "paste", text: this.pasted.value});
      this.pasted.value = "";
    }});
    const details = h("details", {className: "pmc2-settings", ontoggle: () => details.open && this.send({do: "link"})}, h("summary", {}, "Settings as a line: copy and paste"),
      line("python", "Python"), line("command", "command"), h("div", {className: "pmc2-row"}, labelled("paste", "paste", this.pasted)));
    return details;
  }
}

function inside([x, y], polygon) {
  let odd = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [xi, yi] = polygon[i], [xj, yj] = polygon[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) odd = !odd;
  }
  return odd;
}

// "Run All" of JupyterLab and Notebook scrolls to the last cell. Keep the view in sight until the first key, wheel or pointer event.
function keepInSight(root) {
  const kinds = ["wheel", "keydown", "pointerdown"], stop = () => {
    clearInterval(timer);
    for (const kind of kinds) window.removeEventListener(kind, stop, true);
  };
  const timer = setInterval(() => {
    const box = root.getBoundingClientRect();
    if (!root.isConnected) stop();
    else if (root.closest(".jp-Notebook") && box.width && (box.bottom < 80 || box.top > window.innerHeight - 80)) root.scrollIntoView({block: "start"});
  }, 300);
  for (const kind of kinds) window.addEventListener(kind, stop, true);
  setTimeout(stop, SIGHT_MS);
  return stop;
}

function render({model, el}) {
  const view = new View(model, el), age = Date.now() - 1000 * (view.options.began ?? 0);
  const stop = age < SIGHT_MS ? keepInSight(view.root) : () => {}; // a reopened or saved notebook stays as it is
  return () => { stop(); view.close(); };
}

export default {render};
