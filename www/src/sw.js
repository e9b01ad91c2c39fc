/** Keeps the page for offline use, and adds the headers of cross-origin isolation where the host sends none. */
/* global FILES, VERSION */
const CACHE = `foreword-page-${VERSION}`;

addEventListener('install', (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES.map((file) => new Request(file, { cache: 'reload' })))));
});

addEventListener('activate', (event) => {
  const old = async () => {
    const names = (await caches.keys()).filter((name) => name.startsWith('foreword-page-') && name !== CACHE);
    await Promise.all(names.map((name) => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(old());
});

// The page waits for its user's word: what it shows and what it fetches later are of one version.
addEventListener('message', ({ data }) => data === 'replace' && skipWaiting());

function isolated(response) {
  if (response.status === 0) return response;
  const headers = new Headers(response.headers);
  headers.set('cross-origin-opener-policy', 'same-origin');
  headers.set('cross-origin-embedder-policy', 'require-corp');
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

/** From the network; what not every visitor needs is kept from then on. */
async function fetched(request) {
  const response = await fetch(request);
  if (response.ok && /(\.wasm|\/(highlight|maths)-[^/]+)$/.test(request.url)) await (await caches.open(CACHE)).put(request, response.clone());
  return response;
}

addEventListener('fetch', (event) => {
  const url = new URL(event.request.url);
  const own = event.request.method === 'GET' && url.origin === location.origin;
  // Models have a store of their own.
  if (!own || url.pathname.includes('/models/')) return;
  const answer = async () => isolated((await caches.match(event.request, { cacheName: CACHE, ignoreSearch: true })) ?? (await fetched(event.request)));
  event.respondWith(answer());
});
