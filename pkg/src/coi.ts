/**
 * Cross-origin isolation where the host cannot set headers: a service worker adds them. Include as a classic script
 * before all others; it registers itself and reloads the page once.
 */
const scope = globalThis as unknown as ServiceWorkerGlobalScope & typeof globalThis;

function isolate(response: Response): Response {
  // Opaque responses cannot be read, hence not changed.
  if (response.status === 0) return response;
  const headers = new Headers(response.headers);
  headers.set('cross-origin-opener-policy', 'same-origin');
  headers.set('cross-origin-embedder-policy', 'credentialless');
  headers.set('cross-origin-resource-policy', 'cross-origin');
  const body = [204, 304].includes(response.status) ? null : response.body;
  return new Response(body, { status: response.status, statusText: response.statusText, headers });
}

function serveIsolated(): void {
  scope.addEventListener('install', () => void scope.skipWaiting());
  scope.addEventListener('activate', (event) => event.waitUntil(scope.clients.claim()));
  scope.addEventListener('fetch', (event) => {
    const { request } = event;
    if (request.cache === 'only-if-cached' && request.mode !== 'same-origin') return;
    event.respondWith(fetch(request).then(isolate));
  });
}

async function register(): Promise<void> {
  const script = document.currentScript as HTMLScriptElement | null;
  if (globalThis.crossOriginIsolated || !globalThis.isSecureContext || !navigator.serviceWorker || !script) return;
  await navigator.serviceWorker.register(script.src);
  await navigator.serviceWorker.ready;
  // Once only: a browser that stays unisolated would reload forever.
  if (sessionStorage.getItem('foreword-coi')) return;
  sessionStorage.setItem('foreword-coi', '1');
  location.reload();
}

if (typeof document === 'undefined') serveIsolated();
else void register().catch(() => {});
