/** The page's side: starts the worker and speaks with it. */
import { ForewordError } from './error.js';
import { isForeign, importing, spawn } from './platform.js';
import { type Calls, Client } from './rpc.js';

/** A worker and the calls to it. */
export interface Connection {
  client: Calls;
  close(error: ForewordError): void;
  /** Told once when it ends, for whatever reason. */
  onEnd?: (error: ForewordError) => void;
}

/** Starts a worker. `assets` is the folder where its files lie, if not beside this one. */
export function connect(assets?: URL): Connection {
  const url = assets ? new URL('worker.js', assets) : new URL('./worker.js', import.meta.url);
  const worker = spawn(url, () => {
    if (assets) return startAt(url);
    // Bundlers rewrite the literal below, and then the worker lies where they put it.
    if (isForeign(import.meta.url)) return startAt(new URL(/* @vite-ignore */ 'worker.js', import.meta.url));
    return new Worker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'foreword' });
  });
  const client = new Client(worker);
  const close = (error: ForewordError) => {
    client.end(error);
    worker.terminate();
    connection.onEnd?.(error);
    delete connection.onEnd;
  };
  const connection: Connection = { client, close };
  let started = false;
  const lost = (message: string) => close(started ? ended(message) : unstartable(url, message));
  worker.onFailure(lost);
  client.on({
    ready: () => (started = true),
    over: close,
    // A worker that the browser kills sends no event. But it holds a lock all its life, and this is who gets it next.
    lock: (name) => void navigator.locks.request(name, () => lost('the browser stopped it')).catch(() => {}),
  });
  return connection;
}

const startAt = (url: URL) => new Worker(isForeign(url) ? importing(url) : url, { type: 'module', name: 'foreword' });

function ended(message: string): ForewordError {
  return new ForewordError('worker_lost', `Foreword's worker ended: ${message}. Load the model again; if it happens again, the device may have too little memory.`);
}

function unstartable(url: URL, message: string): ForewordError {
  const words = `Foreword's worker could not be started: ${message}. Its script ${url.href} may be missing, or the page's Content-Security-Policy (worker-src, script-src) forbids it.`;
  return new ForewordError('worker_lost', words);
}
