/**
 * Language models in the browser and in Node, from GGUF files.
 *
 * ```ts
 * const model = await Foreword.load('smollm2-135m', { onProgress: console.log });
 * const stream = await model.chat.completions.create({ messages: [{ role: 'user', content: 'Hi!' }], stream: true });
 * for await (const chunk of stream) show(chunk.choices[0].delta.content ?? '');
 * ```
 */
import { connect, type Connection, streamOf } from './client.js';
import { ForewordError } from './error.js';
import { registry, resolve } from './sources.js';
import type {
  BenchmarkOptions,
  BenchmarkResult,
  CachedModel,
  ChatCompletion,
  ChatCompletionChunk,
  ChatCompletionRequest,
  Completion,
  CompletionRequest,
  LoadOptions,
  ModelInfo,
  ModelSource,
  RequestOptions,
  Stats,
  Stream,
} from './types.js';

export { ForewordError } from './error.js';
export type { RegistryModel } from './sources.js';
export type * from './types.js';

/** OpenAI's `create`: a stream where `stream` is true, else the whole answer. */
export interface Create<Request, Whole, Chunk> {
  (request: Request & { stream: true }, options?: RequestOptions): Promise<Stream<Chunk>>;
  (request: Request & { stream?: false }, options?: RequestOptions): Promise<Whole>;
  (request: Request, options?: RequestOptions): Promise<Whole | Stream<Chunk>>;
}

/** A loaded model, in a worker of its own. */
export class Foreword {
  /** Models that can be loaded by name. */
  static readonly models = registry;

  readonly chat: { completions: { create: Create<ChatCompletionRequest, ChatCompletion, ChatCompletionChunk> } };
  readonly completions: { create: Create<CompletionRequest, Completion, Completion> };
  readonly #connection: Connection;
  #info: ModelInfo;

  private constructor(connection: Connection, info: ModelInfo) {
    this.#connection = connection;
    this.#info = info;
    connection.client.onInfo((now) => (this.#info = now));
    this.chat = { completions: { create: this.#creator('messages') } };
    this.completions = { create: this.#creator('prompt') };
  }

  /** What the model is and what it runs on; that may change when a GPU is lost. */
  get info(): ModelInfo {
    return this.#info;
  }

  /** Loads a model. Throws a {@link ForewordError}. */
  static async load(source: ModelSource, options: LoadOptions = {}): Promise<Foreword> {
    const { backend = 'auto', threads, contextLength, kvCache, speculate, sidecar, prefill, onProgress, signal, cache = true, assets } = options;
    if (!['auto', 'cpu', 'webgpu'].includes(backend)) throw new ForewordError('unsupported', `There is no backend ${JSON.stringify(backend)}; take 'auto', 'cpu' or 'webgpu'.`);
    for (const [name, value] of Object.entries({ threads, contextLength })) {
      if (value !== undefined && !(Number.isInteger(value) && value > 0)) throw new ForewordError('invalid_request', `${name} is ${value}; it must be a whole number above 0.`);
    }
    if (!sidecar && (prefill === 'fast' || prefill === 'progressive')) throw new ForewordError('invalid_request', `prefill ${JSON.stringify(prefill)} needs the model's sidecar.`);
    const { inputs, name } = resolve(source, options);
    const early = sidecar && { sidecar: resolve(sidecar, {}).inputs[0]!, prefill: prefill ?? 'auto' };
    const connection = connect(assets);
    const args = { inputs, name, cache, backend, ...(threads && { threads }), ...(contextLength && { contextLength }), ...(kvCache && { kvCache }), ...(speculate && { speculate: speculate === 'auto' ? {} : speculate }), ...(early && { early }) };
    const over = () => connection.close(new ForewordError('cancelled', 'Loading was cancelled.'));
    // The worker may be deep in a synchronous stretch: its end is the quickest way out, and what was downloaded stays.
    signal?.addEventListener('abort', over, { once: true });
    try {
      const info = await connection.client.call('load', args, {
        signal,
        part: (progress) => {
          if (progress.phase === 'download' && cache) keep();
          onProgress?.(progress);
        },
      });
      return new Foreword(connection, info);
    } catch (error) {
      const failure = ForewordError.from(error);
      connection.close(failure);
      throw failure;
    } finally {
      signal?.removeEventListener('abort', over);
    }
  }

  /** Models in the cache, whole and partial ones. */
  static async list(options: Pick<LoadOptions, 'assets'> = {}): Promise<CachedModel[]> {
    return briefly(options, ({ client }) => client.call('list', null));
  }

  /** Deletes a model from the cache; `false` when it was not there. */
  static async delete(model: string | CachedModel, options: Pick<LoadOptions, 'assets'> = {}): Promise<boolean> {
    return briefly(options, async ({ client }) => {
      if (typeof model !== 'string') return client.call('remove', { key: model.key });
      const file = registry.find((m) => m.name === model)?.file;
      const found = (await client.call('list', null)).filter((m) => m.key === model || m.url === model || (file && m.url.endsWith(`/${file}`)));
      const removed = await Promise.all(found.map(({ key }) => client.call('remove', { key })));
      return removed.some(Boolean);
    });
  }

  /** Text to tokens, without a begin-of-text token. With `special`, control tokens in the text are recognised. */
  tokenize(text: string, { special = false } = {}): Promise<number[]> {
    return this.#connection.client.call('tokenize', { text, special });
  }

  detokenize(tokens: number[]): Promise<string> {
    return this.#connection.client.call('detokenize', { tokens });
  }

  stats(): Promise<Stats> {
    return this.#connection.client.call('stats', null);
  }

  /** Reads and writes tokens for a while; medians over the repetitions. */
  benchmark({ signal, ...options }: BenchmarkOptions = {}): Promise<BenchmarkResult> {
    return this.#connection.client.call('benchmark', options, { signal });
  }

  /** Ends the worker and frees all memory. Answers under way fail with the code `disposed`. */
  async dispose(): Promise<void> {
    this.#connection.close(new ForewordError('disposed', 'The model was disposed of.'));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #creator(needed: string): any {
    return async (request: { stream?: boolean }, { signal }: RequestOptions = {}) => {
      if (!request || !(needed in request)) throw new ForewordError('invalid_request', `The request has no ${needed}.`);
      const { client } = this.#connection;
      if (!request.stream) return client.call('complete', request, { signal });
      return streamOf((part, ended) => client.call('complete', request, { signal: ended, part }), signal);
    };
  }
}

export default Foreword;

let kept = false;

/** Asks that the cache be kept: at the first download, when it is clear what for. Workers cannot ask. */
function keep(): void {
  if (kept) return;
  kept = true;
  // A refusal only means that the browser may tidy up.
  void globalThis.navigator?.storage?.persist?.().catch(() => false);
}

async function briefly<T>({ assets }: Pick<LoadOptions, 'assets'>, job: (connection: Connection) => Promise<T>): Promise<T> {
  const connection = connect(assets);
  try {
    return await job(connection);
  } finally {
    connection.close(new ForewordError('disposed', 'The worker was ended.'));
  }
}
