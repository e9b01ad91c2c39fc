/**
 * The protocol between the page and its worker. A call is `{id, method, args}`; it is answered by `accepted`, where it is a
 * request that the engine took, by any number of parts, and then by one value or one error. `{cancel: id}` ends a call early.
 * The worker's first message is `{ready}`; `{lock: name}` names a Web Lock that it holds for as long as it lives. `{progress}` says
 * how a model is loaded again after its GPU was lost, `{info}` that it runs on something else now, `{over}` that the worker is of no
 * use any more.
 */
import { cancelled, ForewordError, type ErrorData } from './error.js';
import { locks } from './locks.js';
import { randomId } from './platform.js';
import type { SessionMethods } from './sessions.js';
import type { BenchmarkOptions, BenchmarkResult, CachedModel, LoadOptions, LoadProgress, ModelInfo, Prefill, Speculation, Stats } from './types.js';

/** A model's files as the worker gets them. */
export type Input = { blob: Blob; sha256?: string } | Remote;

export interface Remote {
  url: string;
  /** Other addresses of the same file. */
  fallbacks: string[];
  /** What the file is known by in the cache. */
  id: string;
  /** In lower case. */
  sha256?: string;
  headers?: Record<string, string>;
}

export interface LoadArgs {
  inputs: Input[];
  name: string;
  backend: NonNullable<LoadOptions['backend']>;
  threads?: number;
  contextLength?: number;
  kvCache?: string;
  kvMemory?: number;
  speculate?: Speculation;
  /** Fields of requests that apply where one has not got them. */
  sampling?: Record<string, number | undefined>;
  early?: { sidecar: Input; prefill: Prefill };
  cache: boolean | 'cross-origin';
  /** Where the page makes requests in the worker's place; see `lend.ts`. */
  fetch?: MessagePort;
}

/** Arguments, parts and value of every method. */
export interface Methods extends SessionMethods {
  load: { args: LoadArgs; part: LoadProgress; value: ModelInfo };
  /** The request as JSON. */
  complete: { args: string; part: unknown; value: unknown };
  /** Tokens of a request's prompts. */
  count: { args: string; part: never; value: number };
  tokenize: { args: { text: string; special: boolean }; part: never; value: number[] };
  detokenize: { args: { tokens: number[] }; part: never; value: string };
  stats: { args: null; part: never; value: Stats };
  benchmark: { args: Omit<BenchmarkOptions, 'signal'>; part: never; value: BenchmarkResult };
  list: { args: null; part: never; value: CachedModel[] };
  remove: { args: { key: string }; part: never; value: boolean };
}

export type Method = keyof Methods;
export type Call = { id: number; method: Method; args: unknown } | { cancel: number };
export type Reply =
  | { ready: true }
  | { lock: string }
  | { progress: LoadProgress }
  | { info: ModelInfo }
  | { over: ErrorData }
  | { id: number; accepted: true }
  | { id: number; part: unknown }
  | { id: number; value: unknown }
  | { id: number; error: ErrorData };

/** Both ends of a worker look like this, in browsers and in Node. */
export interface Port {
  post(message: unknown, transfer?: Transferable[]): void;
  receive(listener: (message: any) => void): void;
}

/** One call under way, as the worker sees it. */
export interface CallContext<M extends Method> {
  accepted(): void;
  part(part: Methods[M]['part']): void;
  signal: AbortSignal;
}

export type Handlers = { [M in Method]: (args: Methods[M]['args'], context: CallContext<M>) => Promise<Methods[M]['value']> };

/** What the worker tells the page unasked. */
export interface Announce {
  progress(progress: LoadProgress): void;
  info(info: ModelInfo): void;
  over(error: ForewordError): void;
}

/** The worker's end. */
export function serve(port: Port, handlers: Handlers): Announce {
  const running = new Map<number, AbortController>();
  port.post({ ready: true });
  const name = `foreword worker ${randomId()}`;
  // Sandboxed pages have the interface, but are refused.
  void locks()?.request(name, () => (port.post({ lock: name }), new Promise(() => {}))).catch(() => {});
  port.receive(async (call: Call) => {
    if ('cancel' in call) return running.get(call.cancel)?.abort();
    const { id, method, args } = call;
    const controller = new AbortController();
    running.set(id, controller);
    try {
      const context = { accepted: () => port.post({ id, accepted: true }), part: (part: unknown) => port.post({ id, part }), signal: controller.signal };
      const value = await (handlers[method] as (args: unknown, context: unknown) => Promise<unknown>)(args, context);
      port.post({ id, value });
    } catch (error) {
      port.post({ id, error: ForewordError.toData(error) });
    } finally {
      running.delete(id);
    }
  });
  return { progress: (progress) => port.post({ progress }), info: (info) => port.post({ info }), over: (error) => port.post({ over: ForewordError.toData(error) }) };
}

interface Waiting {
  holder: object | undefined;
  accepted?: (() => void) | undefined;
  part?: ((part: any) => void) | undefined;
  resolve(value: any): void;
  reject(error: ForewordError): void;
}

export interface CallOptions<M extends Method> {
  signal?: AbortSignal | undefined;
  accepted?: () => void;
  part?: (part: Methods[M]['part']) => void;
  transfer?: Transferable[];
  /** Is not collected as garbage before the call is over. */
  holder?: object;
}

/** What the page hears unasked. */
export interface Listeners {
  ready(): void;
  lock(name: string): void;
  progress(progress: LoadProgress): void;
  info(info: ModelInfo): void;
  over(error: ForewordError): void;
}

/** What can be asked of whoever has a model. */
export interface Calls {
  call<M extends Method>(method: M, args: Methods[M]['args'], options?: CallOptions<M>): Promise<Methods[M]['value']>;
  on(listeners: Partial<Listeners>): void;
}

/** The page's end. */
export class Client implements Calls {
  readonly #port: Port;
  #next = 1;
  readonly #waiting = new Map<number, Waiting>();
  #over: ForewordError | undefined;
  #listeners: Partial<Listeners> = {};

  constructor(port: Port) {
    this.#port = port;
    port.receive((reply: Reply) => {
      if ('ready' in reply) return this.#listeners.ready?.();
      if ('lock' in reply) return this.#listeners.lock?.(reply.lock);
      if ('progress' in reply) return this.#listeners.progress?.(reply.progress);
      if ('info' in reply) return this.#listeners.info?.(reply.info);
      if ('over' in reply) return this.#listeners.over?.(ForewordError.fromData(reply.over));
      const waiting = this.#waiting.get(reply.id);
      if (!waiting) return;
      if ('accepted' in reply) waiting.accepted?.();
      else if ('part' in reply) waiting.part?.(reply.part);
      else if ('error' in reply) waiting.reject(ForewordError.fromData(reply.error));
      else waiting.resolve(reply.value);
    });
  }

  on(listeners: Partial<Listeners>): void {
    Object.assign(this.#listeners, listeners);
  }

  /** An aborted call fails at once; the worker may be deep in a step, and hears of it later. */
  call<M extends Method>(method: M, args: Methods[M]['args'], { signal, accepted, part, transfer, holder }: CallOptions<M> = {}): Promise<Methods[M]['value']> {
    if (this.#over) return Promise.reject(this.#over);
    if (signal?.aborted) return Promise.reject(cancelled(signal));
    const id = this.#next++;
    return new Promise<Methods[M]['value']>((resolve, reject) => {
      const settled = () => {
        this.#waiting.delete(id);
        signal?.removeEventListener('abort', abort);
      };
      const fail = (error: ForewordError) => (settled(), reject(error));
      const give = (error: ForewordError) => (this.#port.post({ cancel: id }), fail(error));
      const abort = () => give(cancelled(signal!));
      const guarded = part && ((value: Methods[M]['part']) => {
        try {
          part(value);
        } catch (cause) {
          give(new ForewordError('invalid_request', `onProgress threw: ${(cause as Error)?.message ?? cause}`, { cause }));
        }
      });
      this.#waiting.set(id, { holder, accepted, part: guarded, resolve: (value) => (settled(), resolve(value)), reject: fail });
      signal?.addEventListener('abort', abort, { once: true });
      try {
        this.#port.post({ id, method, args }, transfer);
      } catch (cause) {
        fail(new ForewordError('invalid_request', `The request cannot be sent to the worker: ${(cause as Error).message}`, { cause }));
      }
    });
  }

  /** Fails everything under way and everything to come. */
  end(error: ForewordError): void {
    const over = (this.#over ??= error);
    for (const waiting of [...this.#waiting.values()]) waiting.reject(over);
  }
}
