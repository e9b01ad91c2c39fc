/** The demo page. */
import { render } from 'lit-html';
import { open } from './chat/actions.js';
import { follow } from './chat/follow.js';
import { whenLoaded } from './chat/parts.js';
import { cutOff } from './crash.js';
import './keys.js';
import { isBegun, load, recover, refreshCached } from './models/actions.js';
import { isServed } from './served.js';
import { watch } from './shell/launch.js';
import { page } from './shell/page.js';
import { plots } from './shell/plots.js';
import { addressOf, changed, chatAt, onChange, restore, state } from './state.js';
import { language, speak, t } from './strings.js';

/** Trusted Types: scripts and workers come from this page's own origin only. */
globalThis.trustedTypes?.createPolicy('default', {
  createScriptURL: (address) => (new URL(address, document.baseURI).origin === location.origin ? address : null),
});

const root = document.querySelector('#app');

onChange(() => {
  speak(state.settings.language);
  dress(document.documentElement);
  render(page(), root);
  follow(document.querySelector('#conversation'));
  showAddress();
  if (state.panel) plots.mount(document.querySelector('#plot-speed'), document.querySelector('#plot-memory'));
});

/** Sets theme and language where they are others: browsers style the whole page anew for an attribute of its root, also for the same value. */
function dress(root) {
  if (root.dataset.theme !== state.settings.theme) root.dataset.theme = state.settings.theme;
  if (root.lang !== language) root.lang = language;
}

whenLoaded(changed);

let restored = false;
/** The open chat stands in the page's address, so that it can be linked to and gone back to. */
function showAddress() {
  const address = addressOf(state.chat);
  if (!restored || location.hash === address) return;
  history[chatAt(location.hash) ? 'pushState' : 'replaceState'](null, '', address || location.pathname + location.search);
}
addEventListener('hashchange', () => {
  const chat = chatAt(location.hash);
  if (chat && chat !== state.chat) open(chat);
});

/** How long the page waits for its service worker before it goes on without isolation, with one thread. */
const WAIT_MS = 6000;

/** Offline use, and isolation on hosts that cannot set headers: the first visit reloads once for it, unless the user has begun. */
async function isolate() {
  if (!navigator.serviceWorker) return;
  const ready = navigator.serviceWorker.register('sw.js', { type: 'module' }).then((registration) => (watch(registration), navigator.serviceWorker.ready));
  if (crossOriginIsolated || sessionStorage.getItem('isolating')) return;
  const late = new Promise((resolve) => setTimeout(resolve, WAIT_MS, null));
  const begun = () => state.loading || state.model || document.querySelector('#url')?.value;
  if (!(await Promise.race([ready, late])) || begun()) return;
  sessionStorage.setItem('isolating', '1');
  location.reload();
  await new Promise(() => {});
}

changed();
await restore();
restored = true;
changed();
if (!isServed) await isolate().catch(() => {});
await refreshCached();
// Only what was asked for before: nobody wants a download unasked.
const ended = await cutOff().catch(() => null);
if (ended) recover(ended);
const last = JSON.parse(localStorage.getItem('model') ?? 'null');
if (isServed) void load(last?.source ?? '', t.theServer);
else if (!ended && last && !state.loading && !state.model && isBegun(last.source)) void load(last.source, last.label);
changed();
