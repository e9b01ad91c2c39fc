/** The demo page. */
import { render } from 'lit-html';
import { escape, load, refreshCached } from './actions.js';
import { changed, onChange, restore, state } from './state.js';
import { plots } from './stats.js';
import { page } from './views.js';

const root = document.querySelector('#app');

onChange(() => {
  const view = document.querySelector('#conversation');
  // Follows the answer, unless the reader has scrolled up.
  const follow = !view || view.scrollHeight - view.scrollTop - view.clientHeight < 120;
  document.documentElement.dataset.theme = state.settings.theme;
  render(page(), root);
  const shown = document.querySelector('#conversation');
  if (shown && follow) shown.scrollTop = shown.scrollHeight;
  if (state.panel) plots.mount(document.querySelector('#plot-speed'), document.querySelector('#plot-memory'));
});

addEventListener('keydown', (event) => event.key === 'Escape' && !event.isComposing && escape());

/** Offline use, and isolation on hosts that cannot set headers: the first visit reloads once for it. */
async function registerServiceWorker() {
  if (!navigator.serviceWorker) return;
  await navigator.serviceWorker.register('sw.js', { type: 'module' });
  await navigator.serviceWorker.ready;
  if (!crossOriginIsolated && !sessionStorage.getItem('isolating')) {
    sessionStorage.setItem('isolating', '1');
    location.reload();
    await new Promise(() => {});
  }
}

await registerServiceWorker().catch(() => {});
await restore();
changed();
await refreshCached();
const last = JSON.parse(localStorage.getItem('model') ?? 'null');
if (last && state.cached.length) void load(last.source, last.label);
