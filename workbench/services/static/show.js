// The result of a picture on the page: its label, both pictures, the scores, the bytes, and the components of its time.

import { PARTS } from "./edge.js";

const TOP = 5;
const MOST_PAST = 24; // results of this visit that are kept

let last = null; // the displayed result

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

// Table rows of the nine components and their sum, with a bar each.
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

// Show a result. The label comes last, so that a screen reader announces it when everything else is in place.
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

// Show that a picture is being sent.
export function underWay(url) {
  picture(byId("sent"), url, "The picture that is being sent");
  picture(byId("seen"), null, "");
  for (const id of ["s1", "s2"]) byId(id).textContent = "–";
}

// Show that sending failed, and the previous result.
export function back() {
  if (last) show(last);
  else picture(byId("sent"), null, "");
}

// The pictures of this visit, latest first, each linked to its result.
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
