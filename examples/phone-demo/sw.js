/**
 * Keeps the page and the engine at once, and the bundles as the page fetches them, so that all works offline after the first load.
 * `FILES` and `BUILD` are put here by build.mjs: a new build is a new cache, and the old one is deleted.
 */
const BUILD = "__BUILD__";
const FILES = ["__FILES__"];

self.addEventListener("install", (event) => {
  event.waitUntil(
    (async () => {
      const cache = await caches.open(BUILD);
      for (const file of FILES)
        await cache.add(new Request(file, { cache: "reload" }));
      await self.skipWaiting();
    })(),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    (async () => {
      for (const name of await caches.keys())
        if (name.startsWith("phone-demo-") && name !== BUILD)
          await caches.delete(name);
      await self.clients.claim();
    })(),
  );
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (
    request.method !== "GET" ||
    new URL(request.url).origin !== location.origin
  )
    return;
  event.respondWith(
    (async () => {
      const cache = await caches.open(BUILD);
      let found = await cache.match(request, { ignoreSearch: true });
      if (found === undefined) {
        found = await fetch(request);
        // A copy that breaks off in the middle is not kept: `put` refuses it.
        if (found.ok)
          event.waitUntil(
            cache.put(request, found.clone()).catch(() => undefined),
          );
      }
      return isolated(found);
    })(),
  );
});

/** With the headers that let a page have threads, which a plain file server does not send. */
function isolated(response) {
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  return new Response(response.body, {
    status: response.status,
    statusText: response.statusText,
    headers,
  });
}
