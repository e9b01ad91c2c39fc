/** Workers and files, which browsers and Node spell differently. */
import { ForewordError } from './error.js';
import type { Port } from './rpc.js';

type NodeProcess = { getBuiltinModule?: (name: string) => any };

/** A module of Node, or undefined in browsers; bundlers never see an import. */
export function nodeModule<T = any>(name: string): T | undefined {
  const { process } = globalThis as { process?: NodeProcess & { versions?: { node?: string } } };
  return process?.versions?.node ? process.getBuiltinModule?.(`node:${name}`) : undefined;
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
  if (typeof Worker === 'undefined') {
    throw new ForewordError('unsupported_browser', 'This browser has no web workers; Foreword needs them.');
  }
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
export async function compile(url: URL): Promise<WebAssembly.Module> {
  const fs = nodeModule('fs');
  if (fs && url.protocol === 'file:') return WebAssembly.compile(fs.readFileSync(url));
  const response = await fetch(url);
  if (!response.ok) throw new ForewordError('internal', `Foreword's own file ${url} cannot be loaded: HTTP ${response.status}.`);
  // Servers that send a wrong type are common; the slower way does not care.
  if (response.headers.get('content-type')?.startsWith('application/wasm')) return WebAssembly.compileStreaming(response);
  return WebAssembly.compile(await response.arrayBuffer());
}
