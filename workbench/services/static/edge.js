// Requests to the edge: credentials, pictures in, labels and times out, evidence. All of them go to the page's own origin.

const KEY = "pmc2-token";
const PATIENCE = 30; // seconds for a response, retries included
const ASKED = 8000; // milliseconds for a request without a picture

let token = sessionStorage.getItem(KEY) ?? "";

// The edge was unreachable: the request may be repeated.
export class Unreachable extends Error {}

// The edge refused; `status` is the HTTP status.
export class Refused extends Error {
  constructor(status, text, after) {
    super(text);
    this.status = status;
    this.after = after;
  }
}

// Store a token in memory and, with `keep`, in the tab's storage. An empty one deletes it.
export function setToken(text, keep) {
  if (!/^[\x21-\x7e]*$/.test(text)) throw new Error("A token has letters, digits and signs, and no spaces: paste it once more");
  token = text;
  if (keep && text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

async function ask(path, options, signal) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let response;
  let text;
  try {
    response = await fetch(path, { ...options, headers, signal, cache: "no-store", redirect: "error" });
    text = await response.text();
  } catch (error) {
    if (signal.aborted && signal.reason?.name !== "TimeoutError") throw signal.reason;
    throw new Unreachable("The edge cannot be reached");
  }
  let told = null;
  try {
    told = JSON.parse(text);
  } catch {
    // a response without JSON is reported by its status
  }
  if (!response.ok || told === null || typeof told !== "object") {
    const why = typeof told?.error === "string" ? told.error : `the edge answered with status ${response.status}`;
    throw new Refused(response.status, why, Number(response.headers.get("Retry-After")) || 1);
  }
  return told;
}

// The edge's description, and whether this page may send pictures.
export const about = () => ask("/page.json", {}, AbortSignal.timeout(ASKED));

// The evidence of the edge's guest, for this page's nonce.
export function evidence() {
  const nonce = [...crypto.getRandomValues(new Uint8Array(32))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return ask(`/attestation?nonce=${nonce}`, {}, AbortSignal.timeout(2 * ASKED));
}

// Send JPEG files. Returns the response, and the milliseconds until it was complete. The request is repeated, under the same
// id, if the edge has no room and, with `patient`, if it is unreachable.
export async function recognise(files, { show = false, patient = false, signal = new AbortController().signal } = {}) {
  const id = idOf();
  const until = performance.now() + 1000 * PATIENCE;
  const headers = { "X-Request-Id": id, "X-Timeout": String(PATIENCE), ...(show ? { "X-Show": "cloud" } : {}) };
  for (;;) {
    let body = files[0];
    if (files.length > 1) {
      body = new FormData();
      files.forEach((file, index) => body.append("picture", file, `${index}.jpg`));
    }
    const start = performance.now();
    try {
      const enough = AbortSignal.any([signal, AbortSignal.timeout(1000 * PATIENCE)]);
      const answer = await ask("/recognize", { method: "POST", body, headers }, enough);
      return { answer, passed: performance.now() - start };
    } catch (error) {
      const busy = error instanceof Unreachable ? patient : error.status === 429 || error.status === 503;
      const wait = 1000 * (error.after ?? 1);
      if (!busy || performance.now() + wait > until) throw error;
      await pause(wait, signal);
    }
  }
}

function idOf() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}

// The nine components of a picture's time, in the paper's order. Each: its key, its place, its title.
export const PARTS = [
  ["client_compression", "phone", "Phone: compression"],
  ["network_client_edge", "net", "Network: phone, edge"],
  ["generator", "edge", "Edge: generator"],
  ["compression", "edge", "Edge: compression"],
  ["edge_other", "edge", "Edge, phone: others"],
  ["network_edge_cloud", "net", "Network: edge, cloud"],
  ["decompression", "cloud", "Cloud: decompression"],
  ["classifier", "cloud", "Cloud: classifier"],
  ["cloud_other", "cloud", "Cloud: others"],
];

// The milliseconds of all nine: as reported by the edge, and this page's encoding, waiting and remaining time.
export function partsOf(answer, passed, encoding, rest) {
  const told = Object.values(answer.milliseconds).reduce((sum, value) => sum + value, 0);
  const parts = Object.fromEntries(PARTS.map(([name]) => [name, answer.milliseconds[name] ?? 0]));
  parts.client_compression = encoding;
  parts.network_client_edge = Math.max(0, passed - told);
  parts.edge_other += Math.max(0, rest);
  return parts;
}
