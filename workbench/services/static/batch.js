// The batch test: pictures, repeated up to the given number, compressed and sent in requests, two at a time.

import * as edge from "./edge.js";
import { jpegAgain, squaresOf } from "./pictures.js";

const AT_ONCE = 2;
const PART = 0.75; // of the most bytes that a request may have, for all of its pictures but the last

// Send `n` pictures made from `files`. `tell` is called with the progress. An abort ends the test with the result so far.
// A request has at most `size` pictures and `mostBytes` bytes.
//
// Returns n, seconds, s1 and s2 (total bytes), encoding (total ms), parts (total ms by name), labels (number of each),
// whether it was cancelled, and an error, if one ended it.
export async function run({ files, n, size, mostBytes, side, quality, signal, tell }) {
  const squares = await squaresOf(files, side, signal);
  const sum = { n: 0, s1: 0, s2: 0, encoding: 0, parts: {}, labels: new Map(), cancelled: false, error: null };
  const stop = new AbortController();
  const enough = AbortSignal.any([signal, stop.signal]);
  const start = performance.now();
  const passed = () => (performance.now() - start) / 1000;
  let next = 0;

  // Send the pictures from `first` on, at most up to `last`. Returns the first one that was left out.
  async function request(first, last) {
    const jpegs = [];
    let [bytes, encoding] = [0, 0];
    const began = performance.now();
    while (first + jpegs.length < last && bytes < PART * mostBytes) {
      enough.throwIfAborted();
      const made = await jpegAgain(squares[(first + jpegs.length) % squares.length], { side, quality });
      encoding += made.milliseconds;
      bytes += made.jpeg.size;
      jpegs.push(made.jpeg);
    }
    const packing = performance.now() - began - encoding;
    const { answer, passed: waited } = await edge.recognise(jpegs, { patient: true, signal: enough });
    const parts = edge.partsOf(answer, waited, encoding, packing);
    for (const [name, value] of Object.entries(parts)) sum.parts[name] = (sum.parts[name] ?? 0) + value;
    for (const { label } of answer.results) sum.labels.set(label, (sum.labels.get(label) ?? 0) + 1);
    sum.n += jpegs.length;
    sum.s1 += bytes;
    sum.s2 += answer.payload_bytes;
    sum.encoding += encoding;
    tell(sum.n, passed());
    return first + jpegs.length;
  }

  async function lane() {
    while (next < n) {
      let first = next;
      const last = Math.min(n, first + size);
      next = last;
      while (first < last) first = await request(first, last);
    }
  }

  const ends = await Promise.allSettled(Array.from({ length: AT_ONCE }, () => lane().catch((error) => {
    stop.abort(error); // the other lane's request is useless now
    throw error;
  })));
  const failed = ends.find(({ status }) => status === "rejected");
  sum.cancelled = signal.aborted;
  sum.error = failed && !signal.aborted ? stop.signal.reason : null;
  sum.seconds = passed();
  squares.forEach((square) => square.close());
  return sum;
}

// The battery's level in percent and whether it is charging; null if the browser does not report it.
export async function battery() {
  try {
    const { level, charging } = await navigator.getBattery();
    return { level: 100 * level, charging };
  } catch {
    return null;
  }
}
