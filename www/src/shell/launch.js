/** What the page does as an installed app: it opens models that the system hands to it, and says when there is a newer version of it. */
import { load } from '../models/actions.js';
import { changed, state } from '../state.js';

/** A `.gguf` file that was opened with the app. */
globalThis.launchQueue?.setConsumer(async ({ files }) => {
  const file = await files[0]?.getFile();
  if (file) await load(file, file.name);
});

/** Offers a newer version, which waits until no tab shows the old one any more, or until it is asked for. */
export function watch(registration) {
  const offer = () => {
    // The first version of all replaces none.
    if (!registration.waiting || !navigator.serviceWorker.controller) return;
    state.update = () => {
      navigator.serviceWorker.addEventListener('controllerchange', () => location.reload(), { once: true });
      registration.waiting.postMessage('replace');
    };
    changed();
  };
  offer();
  registration.addEventListener('updatefound', () => registration.installing.addEventListener('statechange', offer));
  // Apps stay open for days.
  document.addEventListener('visibilitychange', () => document.visibilityState === 'visible' && void registration.update().catch(() => {}));
}
