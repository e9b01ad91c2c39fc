/**
 * The protocol between the page and its worker. A call is `{id, method, args}`; it is answered by any number of parts
 * and then by one value or one error. `{cancel: id}` ends a call early; it is still answered. The worker's first message
 * is `{lock: name}`, a Web Lock that it holds for as long as it lives. `{info}` says that the model runs on something else now.
 */
import { ForewordError, type ErrorData } from './error.js';
import type { BenchmarkOptions, BenchmarkResult, CachedModel, LoadOptions, LoadProgress, ModelInfo, Prefill, Speculation, Stats } from './types.js';

/** A model's files as the worker gets them. */
export type Input = { blob: Blob } | { url: string; fallbacks: string[]; sha256?: string; bytes?: number };

export interface LoadArgs {
  inputs: Input[];
  name: string;
  backend: NonNullable<LoadOptions['backend']>;
  threads?: number;
  contextLength?: number;
  kvCache?: string;
  speculate?: Speculation;
  early?: { sidecar: Input; prefill: Prefill };
  cache: boolean;
}

/** Arguments, parts and value of every method. */
export interface Methods {
  load: { args: LoadArgs; part: LoadProgress; value: ModelInfo };
  complete: { args: object; part: unknown; value: unknown };
  tokenize: { args: { text: string; special: boolean }; part: never; value: number[] };
  detokenize: { args: { tokens: number[] }; part: never; value: string };
  stats: { args: null; part: never; value: Stats };
  benchmark: { args: Omit<BenchmarkOptions, 'signal'>; part: never; value: BenchmarkResult };
  list: { args: null; part: never; value: CachedModel[] };
  remove: { args: { key: string }; part: never; value: boolean };
}

export type Method = keyof Methods;
export type Call = { id: number; method: Method; args: unknown } | { cancel: number };
export type Reply = { lock: string } | { info: ModelInfo } | { id: number; part: unknown } | { id: number; value: unknown } | { id: number; error: ErrorData };

/** Both ends of a worker look like this, in browsers and in Node. */
export interface Port {
  post(message: unknown, transfer?: Transferable[]): void;
  receive(listener: (message: any) => void): void;
}

/** One call under way, as the worker sees it. */
export interface CallContext<M extends Method> {
  part(part: Methods[M]['part']): void;
  signal: AbortSignal;
}

export type Handlers = { [M in Method]: (args: Methods[M]['args'], context: CallContext<M>) => Promise<Methods[M]['value']> };

/** The worker's end; returns what tells the page that the model runs on something else now. */
export function serve(port: Port, handlers: Handlers): (info: ModelInfo) => void {
  const running = new Map<number, AbortController>();
  const name = `foreword worker ${crypto.randomUUID()}`;
  void locks()?.request(name, () => (port.post({ lock: name }), new Promise(() => {})));
  port.receive(async (call: Call) => {
    if ('cancel' in call) return running.get(call.cancel)?.abort();
    const { id, method, args } = call;
    const controller = new AbortController();
    running.set(id, controller);
    try {
      const context = { part: (part: unknown) => port.post({ id, part }), signal: controller.signal };
      const value = await (handlers[method] as (args: unknown, context: unknown) => Promise<unknown>)(args, context);
      port.post({ id, value });
    } catch (error) {
      port.post({ id, error: ForewordError.toData(error) });
    } finally {
      running.delete(id);
    }
  });
  return (info) => port.post({ info });
}

/** Insecure pages and Node 20 have none. */
function locks(): LockManager | undefined {
  return (globalThis.navigator as Navigator | undefined)?.locks;
}

interface Waiting {
  part?: (part: any) => void;
  resolve(value: any): void;
  reject(error: ForewordError): void;
}

/** The page's end. */
export class Client {
  #port: Port;
  #next = 1;
  #waiting = new Map<number, Waiting>();
  #over: ForewordError | undefined;
  #locked: (name: string) => void = () => {};
  #moved: (info: ModelInfo) => void = () => {};

  constructor(port: Port) {
    this.#port = port;
    port.receive((reply: Reply) => {
      if ('lock' in reply) return this.#locked(reply.lock);
      if ('info' in reply) return this.#moved(reply.info);
      const waiting = this.#waiting.get(reply.id);
      if (!waiting) return;
      if ('part' in reply) return waiting.part?.(reply.part);
      this.#waiting.delete(reply.id);
      if ('error' in reply) waiting.reject(new ForewordError(reply.error.code, reply.error.message));
      else waiting.resolve(reply.value);
    });
  }

  call<M extends Method>(
    method: M,
    args: Methods[M]['args'],
    options: { signal?: AbortSignal | undefined; part?: (part: Methods[M]['part']) => void } = {},
  ): Promise<Methods[M]['value']> {
    const { signal } = options;
    if (this.#over) return Promise.reject(this.#over);
    if (signal?.aborted) return Promise.reject(new ForewordError('cancelled', 'The operation was cancelled.'));
    const id = this.#next++;
    const cancel = () => this.#port.post({ cancel: id });
    return new Promise<Methods[M]['value']>((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, ...(options.part && { part: options.part }) });
      signal?.addEventListener('abort', cancel, { once: true });
      try {
        this.#port.post({ id, method, args });
      } catch (error) {
        this.#waiting.delete(id);
        reject(new ForewordError('invalid_request', `The request cannot be sent to the worker: ${(error as Error).message}`));
      }
    }).finally(() => signal?.removeEventListener('abort', cancel));
  }

  /** Tells the name of the lock that the worker holds. */
  onLock(listener: (name: string) => void): void {
    this.#locked = listener;
  }

  /** Tells what the model runs on when that has changed. */
  onInfo(listener: (info: ModelInfo) => void): void {
    this.#moved = listener;
  }

  /** Fails everything under way and everything to come. */
  end(error: ForewordError): void {
    this.#over ??= error;
    for (const waiting of this.#waiting.values()) waiting.reject(this.#over);
    this.#waiting.clear();
  }
}
