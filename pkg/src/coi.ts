/**
 * Cross-origin isolation where the host cannot set headers: a service worker adds them. Include as a classic script
 * before all others; it registers itself and reloads the page once. Browsers without `credentialless` (Safari, Firefox for
 * Android) are reloaded a second time, and take `require-corp`.
 */
const scope = globalThis as unknown as ServiceWorkerGlobalScope & typeof globalThis;

/** What the page was told to ask for, in the address of the service worker. */
const EMBEDDER = 'embedder';
/** Values of `Cross-Origin-Embedder-Policy`, the less strict one first. */
const POLICIES = ['credentialless', 'require-corp'];

/** Pages and workers need the headers; everything else is left to the browser. */
const needsHeaders = ({ mode, destination }: Request) => mode === 'navigate' || destination === 'worker' || destination === 'sharedworker';

function isolate(response: Response, embedder: string): Response {
  // Redirects of pages are opaque: the browser follows them itself.
  if (response.status === 0) return response;
  const headers = new Headers(response.headers);
  headers.set('cross-origin-opener-policy', 'same-origin');
  headers.set('cross-origin-embedder-policy', embedder);
  const body = [204, 205, 304].includes(response.status) ? null : response.body;
  return new Response(body, { status: response.status, statusText: response.statusText, headers });
}

function serveIsolated(): void {
  const embedder = new URL(location.href).searchParams.get(EMBEDDER) ?? POLICIES[0]!;
  scope.addEventListener('install', () => void scope.skipWaiting());
  scope.addEventListener('activate', (event) => event.waitUntil(scope.clients.claim()));
  scope.addEventListener('fetch', (event) => {
    if (needsHeaders(event.request)) event.respondWith(fetch(event.request).then((response) => isolate(response, embedder)));
  });
}

async function register(): Promise<void> {
  const script = document.currentScript as HTMLScriptElement | null;
  if (globalThis.crossOriginIsolated || !globalThis.isSecureContext || !navigator.serviceWorker || !script) return;
  const url = new URL(script.src);
  if (!location.href.startsWith(new URL('.', url).href)) {
    return console.warn(`coi.js cannot isolate ${location.href}: it lies at ${url.href}, and a service worker serves its own folder only.`);
  }
  const own = await navigator.serviceWorker.getRegistration();
  const other = own?.active && new URL(own.active.scriptURL);
  if (other && other.pathname !== url.pathname) {
    return console.warn(`coi.js does not replace the service worker ${other.href}: let that one send the headers.`);
  }
  // Each policy is tried once: a browser that stays unisolated would reload forever.
  const tried = Number(sessionStorage.getItem('foreword-coi') ?? 0);
  const policy = POLICIES[tried];
  if (!policy) return;
  sessionStorage.setItem('foreword-coi', String(tried + 1));
  url.searchParams.set(EMBEDDER, policy);
  const registration = await navigator.serviceWorker.register(url);
  // The second one takes the place of the first before the page is asked for again.
  for (let i = 0; i < 600 && registration.active?.scriptURL !== url.href; i++) await new Promise((resolve) => setTimeout(resolve, 50));
  location.reload();
}

if (typeof document === 'undefined') serveIsolated();
else void register().catch(() => {});
