// The result of a picture on the page: its label, both pictures, the scores, the bytes, and where the time went.

import { PARTS } from "./edge.js";

const TOP = 5;
const MOST_PAST = 24; // pictures of this visit that stay

let last = null; // the result that is shown

const byId = (id) => document.getElementById(id);
const bytes = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const count = (n) => n.toLocaleString("en");
export const bytesOf = (n) => `${bytes.format(n)} B`;
export const percent = (share) => `${(100 * share).toFixed(1)} %`;
export const millis = (value) => (value < 0.005 ? "0" : value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0));

// A table's rows of the nine parts and their sum, with a bar each.
export function hops(table, parts) {
  const total = PARTS.reduce((sum, [name]) => sum + parts[name], 0);
  const most = Math.max(...PARTS.map(([name]) => parts[name]), 1e-6);
  const rows = PARTS.map(([name, who, title]) => {
    const bar = make("span", { class: `bar ${who}`, "aria-hidden": "true" });
    bar.style.setProperty("--share", parts[name] / most);
    return make("tr", {}, make("th", { scope: "row" }, title, bar), make("td", {}, millis(parts[name])));
  });
  table.tBodies[0].replaceChildren(...rows);
  table.tFoot.replaceChildren(make("tr", {}, make("th", { scope: "row" }, "Total, ms"), make("td", {}, millis(total))));
  return total;
}

function stack(parts) {
  const pieces = PARTS.map(([name, who]) => {
    const piece = make("i", { class: who });
    piece.style.flexGrow = String(Math.max(parts[name], 1e-3));
    return piece;
  });
  byId("stack").replaceChildren(...pieces);
}

function scores(result) {
  const order = result.scores.map((score, index) => [score, result.classes[index] ?? `class ${index}`]).sort(([a], [b]) => b - a);
  const rows = order.slice(0, TOP).map(([score, name]) => {
    const bar = make("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", score);
    return make("li", {}, make("span", { class: "name" }, name), bar, make("span", { class: "figure" }, percent(score)));
  });
  byId("scores").replaceChildren(...rows);
}

function picture(image, url, text) {
  image.hidden = !url;
  if (url) image.src = url;
  else image.removeAttribute("src");
  image.alt = text;
}

// Show a result; the label last, so that whoever hears it finds the rest in its place.
export function show(result) {
  last = result;
  picture(byId("sent"), result.sentUrl, "The picture that was sent");
  picture(byId("seen"), result.seenUrl, "What the cloud saw of it");
  byId("seen-caption").textContent = result.seenUrl ? "What the cloud saw" : "Not asked what the cloud saw";
  byId("s1").textContent = bytesOf(result.s1);
  byId("s2").textContent = bytesOf(result.s2);
  byId("details").hidden = false;
  scores(result);
  stack(result.parts);
  const total = hops(byId("hops"), result.parts);
  const { encoding, rest } = result.client;
  byId("client").textContent = `Work of this page: ${millis(encoding)} ms for the JPEG, ${millis(rest)} ms for the rest.`;
  const fewer = result.s1 / result.s2;
  byId("verdict").textContent =
    `Score ${percent(Math.max(...result.scores))}, in ${total.toFixed(0)} ms. ${bytesOf(result.s2)} went to the cloud` +
    (fewer >= 2 ? `, ${count(Math.round(fewer))} times less than the JPEG.` : ".");
  byId("label").textContent = result.label;
}

// Say that a picture is on its way.
export function underWay(url) {
  picture(byId("sent"), url, "The picture that is being sent");
  picture(byId("seen"), null, "");
  for (const id of ["s1", "s2"]) byId(id).textContent = "–";
}

// Say that it did not arrive: what was shown before it is shown again.
export function back() {
  if (last) show(last);
  else picture(byId("sent"), null, "");
}

// The pictures of this visit: the latest first, each with its result behind it.
export class Past {
  #results = [];

  get jpegs() {
    return this.#results.map(({ jpeg }) => jpeg);
  }

  add(result) {
    this.#results.unshift(result);
    for (const old of this.#results.splice(MOST_PAST)) {
      URL.revokeObjectURL(old.sentUrl);
      if (old.seenUrl) URL.revokeObjectURL(old.seenUrl);
    }
    byId("past").hidden = this.#results.length < 2;
    const items = this.#results.map((each, index) => {
      const image = make("img", { src: each.sentUrl, alt: "", width: "56", height: "56" });
      const button = make("button", { type: "button", "aria-pressed": String(index === 0) }, image, make("span", {}, each.label));
      button.addEventListener("click", () => {
        byId("strip").querySelectorAll("button").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
        show(each);
      });
      return make("li", {}, button);
    });
    byId("strip").replaceChildren(...items);
  }
}
