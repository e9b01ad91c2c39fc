/** The page's side: starts the worker and speaks with it. */
import { ForewordError } from './error.js';
import { spawn } from './platform.js';
import { Client } from './rpc.js';
import type { Stream } from './types.js';

/** A worker and the calls to it. */
export interface Connection {
  client: Client;
  close(error: ForewordError): void;
}

/** Starts a worker. `assets` is where its files lie, if not beside this one. */
export function connect(assets?: string | URL): Connection {
  const folder = assets && new URL(`${assets}`.replace(/\/?$/, '/'), globalThis.location?.href);
  const worker = folder
    ? spawn(new URL('worker.js', folder), () => foreignWorker(new URL('worker.js', folder)))
    : spawn(new URL('./worker.js', import.meta.url), () => {
        const foreign = globalThis.location && !import.meta.url.startsWith(`${location.origin}/`) && /^https?:/.test(import.meta.url);
        if (foreign) return foreignWorker(new URL(/* @vite-ignore */ 'worker.js', import.meta.url));
        return new Worker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'foreword' });
      });
  const client = new Client(worker);
  const close = (error: ForewordError) => {
    client.end(error);
    worker.terminate();
  };
  const lost = (message: string) =>
    close(new ForewordError('worker_lost', `Foreword's worker ended: ${message}. Load the model again; if it happens again, the device may have too little memory.`));
  worker.onFailure(lost);
  // A worker that the browser kills sends no event. But it holds a lock all its life, and this is who gets it next.
  client.onLock((name) => void navigator.locks.request(name, () => lost('the browser stopped it')).catch(() => {}));
  return { client, close };
}

/** Browsers start workers from their own origin only; a blob of that origin may import from elsewhere. */
function foreignWorker(url: URL): Worker {
  if (url.origin === location.origin) return new Worker(url, { type: 'module', name: 'foreword' });
  const blob = URL.createObjectURL(new Blob([`import ${JSON.stringify(url.href)};`], { type: 'text/javascript' }));
  return new Worker(blob, { type: 'module', name: 'foreword' });
}

/** The parts of a call as an async iterable. */
export function streamOf<T>(start: (part: (value: T) => void, signal: AbortSignal) => Promise<unknown>, outer?: AbortSignal): Stream<T> {
  const controller = new AbortController();
  const abort = () => controller.abort();
  if (outer?.aborted) abort();
  outer?.addEventListener('abort', abort, { once: true });
  const queue: T[] = [];
  let over = false;
  let failure: unknown;
  let wake = () => {};
  const finished = start((value) => (queue.push(value), wake()), controller.signal)
    .then(
      (value) => void (value && queue.push(value as T)),
      (error) => (failure = error),
    )
    .finally(() => {
      over = true;
      outer?.removeEventListener('abort', abort);
      wake();
    });
  async function* iterate(): AsyncGenerator<T> {
    try {
      for (;;) {
        while (queue.length) yield queue.shift()!;
        if (over) break;
        await new Promise<void>((resolve) => (wake = resolve));
      }
      if (failure) throw failure;
    } finally {
      if (!over) {
        abort();
        await finished;
      }
    }
  }
  return { [Symbol.asyncIterator]: iterate, abort };
}
