/**
 * The ladder: a small model, the opener, answers while the one that was asked for is on its way. Requests go to the opener until
 * the model is there, and to the model from then on; the opener's worker ends behind the last answer that it has begun.
 */
import type { Connection } from './client.js';
import { ForewordError } from './error.js';
import { type Opening, open, type Order } from './open.js';
import { registry } from './sources.js';
import type { Calls, CallOptions, Listeners, Method, Methods } from './rpc.js';
import type { LoadOptions, ModelInfo, ModelSource } from './types.js';

/** A model that is not at least so many times as large as the opener is not worth one. */
const WORTH = 3;

/** The opener that was asked for: a model, or with `true` the smallest chat model of the registry, for a much larger one of it. */
export function openerOf(source: ModelSource, { opener }: LoadOptions): ModelSource | undefined {
  if (opener !== true) return opener || undefined;
  const [smallest] = registry.filter(({ use }) => use === 'chat').sort((a, b) => a.bytes - b.bytes);
  const { bytes } = registry.find(({ name }) => name === source) ?? { bytes: 0 };
  return smallest && bytes >= WORTH * smallest.bytes ? smallest.name : undefined;
}

/** The options but those that speak of the model itself. */
export function openerOptions({ opener, sha256, cacheKey, headers, sidecar, prefill, ...options }: LoadOptions): LoadOptions {
  return options;
}

/** Loads the opener, and behind its download, which it would make longer, by `own` the model. An opener that cannot be had is done without. */
export function climb(order: Order, opener: Order, own: (order: Order) => Opening): Opening {
  const ladder = new Ladder();
  let follow = () => {};
  const here = new Promise<void>((resolve) => (follow = resolve));
  const onProgress: Order['onProgress'] = (progress) => {
    if (progress.phase === 'load') follow();
    order.onProgress?.({ ...progress, opener: true });
  };
  const first = open({ ...opener, onProgress });
  ladder.begin(first.connection);
  const opened = first.info.then((info) => ({ ...info, opener: true as const })).finally(follow);
  const ready = here.then(() => {
    const { connection, info } = ladder.unlessOver(() => own(order));
    ladder.next = connection;
    return info.then((own) => (ladder.handOver(own), own));
  });
  ready.catch(() => {});
  return { connection: ladder, info: opened.catch(() => ready), ready };
}

class Ladder implements Connection {
  readonly client: Calls = { call: (...args) => this.#call(...args), on: (listeners) => this.#on(listeners) };
  /** The model, from the moment that its load begins. */
  next: Connection | undefined;
  #opener!: Connection;
  #handedOver = false;
  /** Calls that the opener has not answered yet. */
  #open = 0;
  /** The last request, as JSON. */
  #asked: string | undefined;
  #listeners: Partial<Listeners> = {};
  #over: ForewordError | undefined;

  begin(opener: Connection): void {
    this.#opener = opener;
  }

  unlessOver<T>(job: () => T): T {
    if (this.#over) throw this.#over;
    return job();
  }

  handOver(info: ModelInfo): void {
    this.#handedOver = true;
    this.next!.client.on(this.#listeners);
    this.#listeners.info?.(info);
    this.#read();
    this.#endOpener();
  }

  /** The model reads what was asked last: the next request mostly goes on from there, and then waits for what is new only. */
  #read(): void {
    if (!this.#asked) return;
    const { stream, stream_options, n, max_completion_tokens, ...body } = JSON.parse(this.#asked);
    // Embeddings have nothing that could be gone on with.
    if (body.messages || body.prompt) this.next!.client.call('complete', JSON.stringify({ ...body, max_tokens: 1 })).catch(() => {});
  }

  close(error: ForewordError): void {
    this.#over ??= error;
    this.#opener.close(error);
    this.next?.close(error);
  }

  #on(listeners: Partial<Listeners>): void {
    Object.assign(this.#listeners, listeners);
    const { info } = listeners;
    if (this.#handedOver) this.next!.client.on(listeners);
    else this.#opener.client.on({ ...listeners, ...(info && { info: (now) => !this.#handedOver && info({ ...now, opener: true }) }) });
  }

  async #call<M extends Method>(method: M, args: Methods[M]['args'], options?: CallOptions<M>): Promise<Methods[M]['value']> {
    if (this.#handedOver) return this.next!.client.call(method, args, options);
    if (method === 'complete') this.#asked = args as string;
    this.#open += 1;
    try {
      return await this.#opener.client.call(method, args, options);
    } finally {
      this.#open -= 1;
      this.#endOpener();
    }
  }

  #endOpener(): void {
    if (this.#handedOver && !this.#open) this.#opener.close(new ForewordError('disposed', 'The opener is not needed any more.'));
  }
}
