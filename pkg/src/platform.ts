/** Workers and files, which browsers and Node spell differently. */
import { ForewordError } from './error.js';
import { blockedByPolicy } from './policy.js';
import type { Port } from './rpc.js';

type NodeProcess = { type?: string; versions?: { node?: string }; getBuiltinModule?: (name: string) => any };

/** A module of Node, or undefined in browsers; bundlers never see an import. Windows of Electron have Node, but not its workers. */
export function nodeModule<T = any>(name: string): T | undefined {
  const { process } = globalThis as { process?: NodeProcess };
  const isWindow = process?.type === 'renderer' || process?.type === 'worker';
  return process?.versions?.node && !isWindow ? process.getBuiltinModule?.(`node:${name}`) : undefined;
}

export const isNode = nodeModule('worker_threads') !== undefined;

/** A started worker. */
export interface Spawned extends Port {
  terminate(): void;
  onFailure(listener: (message: string) => void): void;
}

/** Wraps a worker of either kind; `make` holds the literal `new Worker(new URL(…))` that bundlers look for. */
export function spawn(url: URL, make: () => Worker): Spawned {
  const threads = nodeModule('worker_threads');
  if (threads) {
    const worker = new threads.Worker(url);
    return {
      post: (message, transfer) => worker.postMessage(message, transfer),
      receive: (listener) => worker.on('message', listener),
      terminate: () => void worker.terminate(),
      onFailure: (listener) => {
        worker.on('error', (error: Error) => listener(error.message));
        worker.on('exit', () => listener('it ended'));
      },
    };
  }
  if (typeof Worker === 'undefined') throw new ForewordError('unsupported_browser', withoutWorkers());
  const worker = make();
  return {
    post: (message, transfer) => worker.postMessage(message, transfer ?? []),
    receive: (listener) => worker.addEventListener('message', (event) => listener(event.data)),
    terminate: () => worker.terminate(),
    onFailure: (listener) => {
      worker.addEventListener('error', (event) => listener(event.message || 'its script could not be loaded'));
      worker.addEventListener('messageerror', () => listener('a message could not be read'));
    },
  };
}

function withoutWorkers(): string {
  if ('ServiceWorkerGlobalScope' in globalThis) return 'Service workers, such as the background of an extension, cannot start workers; load the model in a page or in an offscreen document.';
  if (globalThis.navigator?.userAgent === 'Cloudflare-Workers') return 'Cloudflare Workers cannot start workers and have too little memory for a model; load it in the browser, or in Node.';
  return 'This browser has no web workers; Foreword needs them.';
}

/** Whether scripts of this address are refused to `new Worker`: browsers start workers from their own origin only. */
export function isForeign(url: string | URL): boolean {
  const { protocol, origin } = new URL(url);
  return /^https?:$/.test(protocol) && origin !== globalThis.origin;
}

/** A script of this origin that imports one of another. Sandboxed frames have no origin, and start no worker from a blob. */
export function importing(url: URL): string {
  const script = `import ${JSON.stringify(url.href)};`;
  if (globalThis.origin === 'null') return `data:text/javascript,${encodeURIComponent(script)}`;
  return URL.createObjectURL(new Blob([script], { type: 'text/javascript' }));
}

/** 128 random bits; pages without HTTPS have no `crypto.randomUUID`. */
export function randomId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** The worker's own end. */
export function ownPort(): Port {
  const parent = nodeModule('worker_threads')?.parentPort;
  if (parent) {
    return { post: (message, transfer) => parent.postMessage(message, transfer), receive: (listener) => parent.on('message', listener) };
  }
  const scope = globalThis as unknown as Worker;
  return {
    post: (message, transfer) => scope.postMessage(message, transfer ?? []),
    receive: (listener) => scope.addEventListener('message', (event) => listener(event.data)),
  };
}

/** Gives messages that wait their turn; a timer would cost 4 ms. */
export function breathe(): Promise<void> {
  const { port1, port2 } = new MessageChannel();
  return new Promise((resolve) => {
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/** Compiles a `.wasm` file. */
export async function compile(url: URL, integrity: string): Promise<WebAssembly.Module> {
  const fs = nodeModule('fs');
  if (fs && url.protocol === 'file:') return WebAssembly.compile(fs.readFileSync(url));
  const response = await fetch(url, { integrity }).catch((error: Error) => unavailable(url, error.message, error));
  if (!response.ok) return unavailable(url, `HTTP ${response.status}`);
  // Servers that send a wrong type are common; the slower way does not care.
  if (response.headers.get('content-type')?.startsWith('application/wasm')) return WebAssembly.compileStreaming(response);
  return WebAssembly.compile(await response.arrayBuffer());
}

async function unavailable(url: URL, reason: string, cause?: Error): Promise<never> {
  const policy = await blockedByPolicy(url.href);
  const why = policy ? `the page's Content-Security-Policy forbids it: ${policy} has to allow it` : `${reason}. It may be missing, or belong to another version of Foreword than the scripts beside it`;
  throw new ForewordError('download_failed', `Foreword's own file ${url} cannot be loaded: ${why}.`, { cause });
}
