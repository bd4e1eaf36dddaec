// The service worker: caches the page's own files, so that the page opens without the edge. Nothing else is cached or read:
// no response, no picture, no token. While the edge is reachable, its files come from it, so that the page is never outdated.

const KEPT = "pmc2-page-1";
const FILES = [
  "/", "/phone.css", "/phone.js", "/edge.js", "/pictures.js", "/encoder.js", "/camera.js", "/show.js", "/batch.js",
  "/waiting.js", "/trust.js", "/icon.svg", "/manifest.webmanifest",
];
const PATIENCE = 4000; // milliseconds until a silent network counts as offline

self.addEventListener("install", (event) => {
  const fresh = FILES.map((path) => new Request(path, { cache: "reload" }));
  event.waitUntil(caches.open(KEPT).then((kept) => kept.addAll(fresh)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const old = async () => {
    for (const name of await caches.keys()) if (name !== KEPT) await caches.delete(name);
    await self.clients.claim();
  };
  event.waitUntil(old());
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  const own = url.origin === self.location.origin && !url.search && FILES.includes(url.pathname);
  if (own && event.request.method === "GET") event.respondWith(answer(event.request, url.pathname));
});

async function answer(request, path) {
  const kept = await caches.open(KEPT);
  try {
    const found = await fetch(request, { signal: AbortSignal.timeout(PATIENCE) });
    if (found.ok) await kept.put(path, found.clone());
    return found;
  } catch {
    return (await kept.match(path)) ?? Response.error();
  }
}
