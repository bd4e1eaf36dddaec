// The page: its controls, sent and waiting pictures, and status messages.

import { battery, run } from "./batch.js";
import { Camera, there, why } from "./camera.js";
import * as edge from "./edge.js";
import { bitmapOf, jpegOf } from "./pictures.js";
import { back, bytesOf, count, hops, make, millis, Past, percent, show, underWay } from "./show.js";
import { attest, attestAgain, describe } from "./trust.js";
import { Waiting } from "./waiting.js";

const AGAIN = [1000, 2000, 4000, 8000, 15000]; // milliseconds between two attempts to reach the edge
const MOST_CHOSEN = 24;

const byId = (id) => document.getElementById(id);
const camera = new Camera(byId("video"));
const past = new Past();
const waiting = new Waiting(tellWaiting);
let about = null; // the edge's description, from the last contact
let reached = false;
let looks = 0;
let timer = 0;
let sending = false;
let testing = null; // aborts the running batch test

// --- the edge: reachable, ready, and admitting -----------------------------------------------------------------------------

const may = () => reached && about.ready && about.admitted;

async function look() {
  clearTimeout(timer);
  const before = reached ? about.admitted : null;
  try {
    if (!navigator.onLine) throw new edge.Unreachable("offline");
    about = await edge.about();
    reached = true;
  } catch {
    reached = false;
  }
  tellState();
  if (reached && about.admitted !== before) {
    tellAdmission();
    if (about.admitted) tellMost(about.most);
    describe(about);
    attest(about);
  }
  looks = reached && about.ready ? 0 : looks + 1;
  if (looks) timer = setTimeout(look, AGAIN[Math.min(looks, AGAIN.length) - 1]);
  else if (may()) flush();
}

function tellState() {
  const state = !navigator.onLine ? "offline" : !reached ? "gone" : !about.ready ? "waiting" : about.admitted ? "ready" : "asks";
  const words = { offline: "Offline", gone: "No edge", waiting: "Edge not ready", ready: "Edge ready", asks: "Token wanted" };
  if (byId("state").dataset.state !== state) {
    byId("state").dataset.state = state;
    byId("state").textContent = words[state];
  }
  const away = {
    offline: "You are offline.",
    gone: "The edge cannot be reached.",
    waiting: "The edge is not ready: it does not know its cloud yet.",
  }[state];
  byId("offline").hidden = !away;
  const said = away ? `${away} Pictures wait in this page's memory and are sent as soon as that has changed.` : "";
  if (byId("offline").textContent !== said) byId("offline").textContent = said;
  byId("go").disabled = !may() || testing !== null;
}

function tellAdmission() {
  byId("admission").hidden = about.admitted;
  byId("admission-why").textContent = about.admitted
    ? ""
    : about.token
      ? "Show the token that its owner gave you, or a certificate of this browser's."
      : `It takes a client's certificate alone (${about.why}): put one into this browser, and open the page anew.`;
  byId("token-form").hidden = !about.token;
}

async function useToken(event) {
  event.preventDefault();
  const [field, said] = [byId("token"), byId("token-error")];
  said.textContent = "";
  try {
    edge.setToken(field.value.trim(), byId("keep").checked);
    await look();
    if (reached && !about.admitted) {
      edge.setToken("", false);
      throw new Error("This is not the edge's token: paste it once more");
    }
    field.value = "";
    if (reached) byId("capture").scrollIntoView({ block: "nearest" });
  } catch (error) {
    said.textContent = error.message;
    field.focus();
  }
}

function fail(text) {
  byId("error").textContent = text;
  byId("error").hidden = !text;
}

// --- pictures --------------------------------------------------------------------------------------------------------------

const settings = () => ({ quality: Number(byId("quality").value), side: Number(byId("side").value) });

function tellSettings() {
  const { quality, side } = settings();
  byId("quality-now").textContent = String(quality);
  byId("side-now").textContent = `${side} px`;
  byId("settings-now").textContent = `quality ${quality}, ${side} × ${side} pixels`;
}

// Compress a picture, and send or queue it. `began` is the time of its capture, `bitmapSoon` a promise of its bitmap.
async function take(bitmapSoon, began) {
  fail("");
  try {
    const bitmap = await bitmapSoon;
    const { jpeg, milliseconds } = await jpegOf(bitmap, settings());
    const shot = { jpeg, encoding: milliseconds, began };
    if (may() && !sending && !waiting.length) await send(shot);
    else waiting.add(shot);
  } catch (error) {
    fail(`${error.message}.`);
  }
  await flush(); // pictures that were taken meanwhile, even if this one failed
}

// Send a picture and show its result. If the edge is unreachable, the picture returns to the queue.
async function send(shot) {
  sending = true;
  const asked = byId("show").checked;
  shot.url ??= URL.createObjectURL(shot.jpeg);
  underWay(shot.url);
  byId("result").setAttribute("aria-busy", "true");
  attestAgain(about);
  try {
    const { answer, passed } = await edge.recognise([shot.jpeg], { show: asked });
    const rest = performance.now() - shot.began - shot.encoding - passed;
    const [found] = answer.results;
    const png = asked && answer.cloud_picture?.length ? pngOf(answer.cloud_picture[0]) : null;
    const result = {
      label: found.label, scores: found.scores, classes: about.classes, jpeg: shot.jpeg, s1: shot.jpeg.size, s2: answer.payload_bytes,
      parts: edge.partsOf(answer, passed, shot.encoding, rest), client: { encoding: shot.encoding, rest: Math.max(0, rest) },
      sentUrl: shot.url, seenUrl: png && URL.createObjectURL(png),
    };
    show(result);
    past.add(result);
    return true;
  } catch (error) {
    back();
    const later = error instanceof edge.Unreachable || (error instanceof edge.Refused && error.status === 401);
    if (!later) throw error;
    waiting.again(shot);
    reached = reached && !(error instanceof edge.Unreachable);
    look();
    return false;
  } finally {
    sending = false;
    byId("result").removeAttribute("aria-busy");
  }
}

function pngOf(text) {
  return new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type: "image/png" });
}

// Send the queued pictures, one after another, while the edge accepts them. Their time in the queue is not counted.
async function flush() {
  while (waiting.length && may() && !sending) {
    const shot = waiting.take();
    shot.began = performance.now() - shot.encoding;
    try {
      if (!(await send(shot))) return;
    } catch (error) {
      fail(`${error.message}. The picture was left out.`);
    }
  }
}

function tellWaiting() {
  const n = waiting.length;
  byId("waiting").hidden = n === 0;
  const said = n === 1 ? "1 picture waits for the edge" : `${count(n)} pictures wait for the edge`;
  byId("waiting-text").textContent = n ? said : "";
}

async function choose(event) {
  const files = [...event.target.files];
  event.target.value = "";
  for (const file of files.slice(0, MOST_CHOSEN)) await take(bitmapOf(file), performance.now());
  if (files.length > MOST_CHOSEN) {
    fail(`The first ${MOST_CHOSEN} of ${count(files.length)} pictures were taken: for more there is "Send many".`);
  }
}

// --- the camera ------------------------------------------------------------------------------------------------------------

function tellCamera() {
  byId("finder").dataset.on = String(camera.on);
  byId("video").hidden = !camera.on;
  byId("finder-empty").hidden = camera.on;
  byId("shutter").disabled = byId("stop").disabled = !camera.on;
}

async function startCamera() {
  fail("");
  byId("start").disabled = true;
  try {
    await camera.start(stopCamera);
    tellCamera();
    byId("shutter").focus();
  } catch (error) {
    camera.stop();
    tellCamera();
    fail(`${why(error)}.`);
  } finally {
    byId("start").disabled = false;
  }
}

function stopCamera() {
  camera.stop();
  tellCamera();
  byId("start").focus();
}

// --- the batch test --------------------------------------------------------------------------------------------------------

function whole(id, title) {
  const field = byId(id);
  const value = Number(field.value);
  if (!Number.isInteger(value) || value < Number(field.min) || value > Number(field.max)) {
    field.focus();
    throw new Error(`${title} is a whole number from ${field.min} to ${count(Number(field.max))}, not ${field.value || "nothing"}`);
  }
  return value;
}

async function test() {
  const said = byId("batch-said");
  said.textContent = "";
  byId("batch-result").hidden = true;
  try {
    const [n, size] = [whole("n", "Pictures in all"), whole("size", "In one request")];
    const files = byId("batch-files").files.length ? [...byId("batch-files").files] : past.jpegs;
    if (!files.length) throw new Error("There is no picture yet: choose some, or take one");
    testing = new AbortController();
    tellTest(0, n, 0);
    byId("batch-progress").hidden = byId("cancel").hidden = false;
    byId("go").hidden = true;
    byId("cancel").focus();
    const before = await battery();
    const tell = (done, seconds) => tellTest(done, n, seconds);
    const sum = await run({ files, n, size, mostBytes: about.most_bytes, ...settings(), signal: testing.signal, tell });
    tellTested(sum, n, size, before, await battery());
  } catch (error) {
    said.textContent = testing?.signal.aborted ? "Cancelled before the first picture." : `${error.message}.`;
  } finally {
    const held = document.activeElement === byId("cancel");
    testing = null;
    byId("batch-progress").hidden = byId("cancel").hidden = true;
    byId("go").hidden = false;
    tellState();
    if (held) byId("go").focus();
  }
}

// The edge's largest batch: a request has no more pictures.
function tellMost(most) {
  const field = byId("size");
  field.max = String(Math.min(256, most));
  if (Number(field.value) > Number(field.max)) field.value = field.max;
}

function tellTest(done, n, seconds) {
  byId("bar").max = n;
  byId("bar").value = done;
  const pace = seconds ? `, ${(done / seconds).toFixed(0)} a second` : "";
  byId("batch-count").textContent = `${count(done)} of ${count(n)}${pace}`;
}

function tellTested(sum, n, size, before, after) {
  const end = sum.cancelled ? "Cancelled" : sum.error ? `${sum.error.message}. Ended` : "Done";
  byId("batch-said").textContent = `${end}: ${count(sum.n)} of ${count(n)} pictures in ${sum.seconds.toFixed(1)} s.`;
  if (!sum.n) return;
  const labels = [...sum.labels].sort(([, a], [, b]) => b - a).slice(0, 4);
  const rows = [
    ["Throughput", `${(sum.n / sum.seconds).toFixed(1)} pictures a second`],
    ["S1, to the edge", `${bytesOf(sum.s1 / sum.n)} a picture`],
    ["S2, to the cloud", `${bytesOf(sum.s2 / sum.n)} a picture, ${bytesOf(sum.s2)} in all`],
    ["This page's work", `${millis(sum.encoding / sum.n)} ms for the JPEG of a picture`],
    ["Labels", labels.map(([label, times]) => `${label} ${percent(times / sum.n)}`).join(", ")],
    ["Battery", batteryOf(before, after)],
    ["Settings", `${size} in a request, two requests at a time; quality ${settings().quality}, ${settings().side} px`],
  ];
  hops(byId("batch-hops"), Object.fromEntries(Object.entries(sum.parts).map(([name, value]) => [name, value / sum.n])));
  byId("batch-facts").replaceChildren(...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  byId("batch-result").hidden = false;
}

function batteryOf(before, after) {
  if (!before || !after) return "this browser does not tell its level";
  const charging = before.charging || after.charging ? ", charging" : "";
  return `${before.level.toFixed(0)} % before, ${after.level.toFixed(0)} % after${charging}`;
}

function tellBatchFiles() {
  const n = byId("batch-files").files.length;
  byId("batch-note").textContent = n ? `${count(n)} chosen.` : "Without a choice it sends the pictures of this visit.";
}

// --- start -----------------------------------------------------------------------------------------------------------------

byId("token-form").addEventListener("submit", useToken);
byId("start").addEventListener("click", startCamera);
byId("stop").addEventListener("click", stopCamera);
byId("shutter").addEventListener("click", () => take(camera.frame(), performance.now()));
byId("files").addEventListener("change", choose);
byId("snap").addEventListener("change", choose);
byId("quality").addEventListener("input", tellSettings);
byId("side").addEventListener("input", tellSettings);
byId("waiting-discard").addEventListener("click", () => waiting.clear());
byId("batch-files").addEventListener("change", tellBatchFiles);
byId("go").addEventListener("click", test);
byId("cancel").addEventListener("click", () => testing?.abort(new DOMException("cancelled", "AbortError")));
byId("attest").addEventListener("click", () => attest(about));
window.addEventListener("online", look);
window.addEventListener("offline", look);
if (!there()) {
  byId("start").hidden = byId("shutter").hidden = byId("stop").hidden = true;
  byId("snap-box").hidden = false;
}
tellCamera();
tellSettings();
describe(null);
attest(null);
navigator.serviceWorker?.register("/worker.js", { updateViaCache: "none" }).catch(() => {}); // without it, the page only opens while the edge is reachable
look();
