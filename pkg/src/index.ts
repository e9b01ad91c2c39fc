/// <reference lib="esnext.disposable" preserve="true" />
/**
 * Language models in the browser and in Node, from GGUF files.
 *
 * ```ts
 * const model = await Foreword.load('smollm2-135m', { onProgress: console.log });
 * const stream = await model.chat.completions.create({ messages: [{ role: 'user', content: 'Hi!' }], stream: true });
 * for await (const chunk of stream) show(chunk.choices[0].delta.content ?? '');
 * ```
 */
import { checkCounts, checkFunctions, requestOf, signalOf, textOf, tokensOf } from './checks.js';
import type { Connection } from './client.js';
import { connect } from './connect.js';
import { choose, either } from './either.js';
import { ForewordError } from './error.js';
import { estimate } from './estimate.js';
import { fetchOf } from './fetch.js';
import { climb, openerOf, openerOptions } from './ladder.js';
import { type Opening, open, orderOf, start } from './open.js';
import { reachOut } from './remote.js';
import { Sessions } from './sessions.js';
import { share } from './shared.js';
import { matcher, registry, resolve } from './sources.js';
import { type Stream, streamOf } from './stream.js';
import type {
  BenchmarkOptions,
  BenchmarkResult,
  CachedModel,
  ChatCompletion,
  ChatCompletionChunk,
  ChatCompletionRequest,
  Completion,
  CompletionChunk,
  CompletionRequest,
  EmbeddingRequest,
  Embeddings,
  Estimate,
  LoadOptions,
  ModelInfo,
  ModelSource,
  Ranking,
  RequestOptions,
  RerankRequest,
  Stats,
} from './types.js';

export type { ConnectOptions, Remote, RemoteInfo } from './connect.js';
export { ForewordError } from './error.js';
export type { Sessions } from './sessions.js';
export { Stream } from './stream.js';
export type * from './types.js';

/** OpenAI's `create`: a stream where `stream` is true, else the whole answer. */
export interface Create<Request, Whole, Chunk> {
  (request: Request & { stream: true }, options?: RequestOptions): Promise<Stream<Chunk>>;
  (request: Request & { stream?: false | null }, options?: RequestOptions): Promise<Whole>;
  (request: Request, options?: RequestOptions): Promise<Whole | Stream<Chunk>>;
}

/** A loaded model, in a worker of its own; with `remote`, perhaps one on a server. */
export class Foreword {
  /** Models that can be loaded by name. */
  static readonly models = registry;

  /** A model on a server that speaks OpenAI's API, which answers as a loaded one does. Conversations leave the device. */
  static readonly connect: typeof connect = connect;

  readonly chat: { completions: { create: Create<ChatCompletionRequest, ChatCompletion, ChatCompletionChunk> } };
  readonly completions: { create: Create<CompletionRequest, Completion, CompletionChunk> };
  readonly embeddings: { create(request: EmbeddingRequest, options?: RequestOptions): Promise<Embeddings> };
  /** Conversations that are kept with what the model has read of them. */
  readonly sessions: Sessions;
  /**
   * A `fetch` that answers the addresses of OpenAI's API from this model: `new OpenAI({ baseURL: 'http://localhost/v1', apiKey: '',
   * fetch: model.fetch, dangerouslyAllowBrowser: true })`. The host is of no account, and nothing goes over a network.
   */
  readonly fetch: typeof fetch;
  /**
   * Fulfilled when the model that was asked for answers, which is at once where it has no opener. Where it cannot be loaded, this fails,
   * and the opener goes on answering.
   */
  readonly ready: Promise<ModelInfo>;
  readonly #connection: Connection;
  #info: ModelInfo;

  private constructor(connection: Connection, info: ModelInfo, ready: Promise<ModelInfo>) {
    this.#connection = connection;
    this.#info = info;
    this.ready = ready;
    // No function here may name `this`: the listener below, which outlives the model, would keep it.
    const self = new WeakRef(this);
    connection.client.on({
      info: (now) => {
        const model = self.deref();
        if (model) model.#info = now;
      },
    });
    forgotten.register(this, connection);
    this.chat = { completions: { create: this.#creator('messages') } };
    this.completions = { create: this.#creator('prompt') };
    this.embeddings = { create: this.#embedder() };
    this.sessions = this.#keeper();
    this.fetch = fetchOf(this);
  }

  /** What answers and what it runs on; that changes when the model takes over from its opener, or a GPU is lost. */
  get info(): ModelInfo {
    return this.#info;
  }

  /** Loads a model, or with `opener` its opener first. Throws a {@link ForewordError}. */
  static async load(source: ModelSource, options: LoadOptions = {}): Promise<Foreword> {
    const { connection, info, ready } = await begin(source, options ?? {});
    return new Foreword(connection, await info, ready);
  }

  /** Models in the cache, whole and partial ones. */
  static async list(options: Pick<LoadOptions, 'assets'> = {}): Promise<CachedModel[]> {
    return briefly(options, ({ client }) => client.call('list', null));
  }

  /** Whether a model can be loaded without a download. */
  static async availability(source: ModelSource, options: LoadOptions = {}): Promise<'available' | 'downloadable'> {
    const ids = resolve(source, options ?? {}).inputs.flatMap((input) => ('url' in input && !input.url.startsWith('file:') ? [input.id] : []));
    const here = ids.length ? (await Foreword.list(options)).filter(({ complete }) => complete) : [];
    return ids.every((id) => here.some(({ url }) => url === id)) ? 'available' : 'downloadable';
  }

  /** What a model will need and how it will run here, before it is downloaded; a server is asked for the size only where nobody here knows it. */
  static async estimate(source: ModelSource, options: LoadOptions = {}): Promise<Estimate> {
    return estimate(source, options ?? {}, await Foreword.list(options));
  }

  /** Deletes a model, all its files, from the cache; `false` when it was not there. Takes what `load` takes, a `cacheKey`, or an entry of `list`. */
  static async delete(model: ModelSource | CachedModel, options: Pick<LoadOptions, 'assets' | 'mirror' | 'cacheKey'> = {}): Promise<boolean> {
    const isOurs = matcher(model, options ?? {});
    return briefly(options, async ({ client }) => {
      const found = (await client.call('list', null)).filter(isOurs);
      const removed = await Promise.all(found.map(({ key }) => client.call('remove', { key })));
      return removed.some(Boolean);
    });
  }

  /** Text to tokens, without a begin-of-text token. With `special`, control tokens in the text are recognised. */
  async tokenize(text: string, options?: { special?: boolean }): Promise<number[]> {
    return this.#connection.client.call('tokenize', { text: textOf(text), special: Boolean(options?.special) }, { holder: this });
  }

  /** How many tokens the prompt of a request has, the chat template's included. */
  async countTokens(request: ChatCompletionRequest | CompletionRequest): Promise<number> {
    const { json } = requestOf(request, 'prompt' in Object(request) ? 'prompt' : 'messages');
    return this.#connection.client.call('count', json, { holder: this });
  }

  async detokenize(tokens: ArrayLike<number>): Promise<string> {
    return this.#connection.client.call('detokenize', { tokens: tokensOf(tokens) }, { holder: this });
  }

  /** Scores of documents for a query, the best first, by a model that ranks. */
  rerank(request: RerankRequest, options?: RequestOptions): Promise<Ranking> {
    return this.#whole(request, 'documents', options);
  }

  stats(): Promise<Stats> {
    return this.#connection.client.call('stats', null, { holder: this });
  }

  /** Reads and writes tokens for a while; medians over the repetitions. */
  async benchmark(wanted: BenchmarkOptions = {}): Promise<BenchmarkResult> {
    const { signal, promptTokens, genTokens, reps } = wanted ?? {};
    checkCounts({ promptTokens, genTokens, reps });
    const options = { ...(promptTokens && { promptTokens }), ...(genTokens && { genTokens }), ...(reps && { reps }) };
    return this.#connection.client.call('benchmark', options, { signal: signalOf(signal), holder: this });
  }

  /** Ends the worker and frees all memory. Answers under way fail with the code `disposed`. */
  async dispose(): Promise<void> {
    this.#connection.close(new ForewordError('disposed', 'The model was disposed of.'));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #whole(request: unknown, needed: string, options?: RequestOptions): Promise<any> {
    const { json } = requestOf(request, needed);
    return this.#connection.client.call('complete', json, { signal: signalOf(options?.signal), holder: this });
  }

  #embedder(): Foreword['embeddings']['create'] {
    return (request, options) => this.#whole(request, 'input', options);
  }

  #keeper(): Sessions {
    return new Sessions((method, args) => this.#connection.client.call(method, args, { holder: this }));
  }

  #creator(needed: string): any {
    return async (request: unknown, options?: RequestOptions) => {
      const { json, stream } = requestOf(request, needed);
      const signal = signalOf(options?.signal);
      const { client } = this.#connection;
      if (!stream) return client.call('complete', json, { signal, holder: this });
      return streamOf((hooks) => client.call('complete', json, { ...hooks, holder: this }), signal);
    };
  }
}

/** Begins to have a model: here, or where a server is named there. */
async function begin(source: ModelSource, options: LoadOptions): Promise<Opening> {
  const { remote, prefer = remote ? 'auto' : 'device', signal, onSwitch } = options;
  if (!['device', 'remote', 'auto'].includes(prefer)) throw new ForewordError('invalid_request', `There is no side ${JSON.stringify(prefer)}; take 'device', 'remote' or 'auto'.`, { param: 'prefer' });
  checkFunctions({ onSwitch });
  if (!remote && prefer === 'remote') throw new ForewordError('invalid_request', "prefer: 'remote' needs the server: remote: { baseURL }.", { param: 'remote' });
  if (!remote) return beginHere(source, options);
  const sides = { device: () => beginHere(source, options), remote: () => reachOut({ ...remote, signal: signalOf(signal) ?? remote.signal }) };
  return either(sides, await choose(prefer, () => Foreword.estimate(source, options)), onSwitch);
}

/** Begins to load a model; where it has to be downloaded, its opener answers until it is here. */
async function beginHere(source: ModelSource, options: LoadOptions): Promise<Opening> {
  const order = orderOf(source, options);
  const opener = openerOf(source, options);
  const first = opener && orderOf(opener, openerOptions(options));
  const isHere = first && (await Foreword.availability(source, options)) === 'available';
  const own = options.shared ? share : open;
  return first && !isHere ? climb(order, first, own) : own(order);
}

export default Foreword;

/** Ends the workers of models that nobody has any more. */
const forgotten = new FinalizationRegistry<Connection>((connection) => connection.close(new ForewordError('disposed', 'The model was forgotten.')));

async function briefly<T>(options: Pick<LoadOptions, 'assets'> | undefined, job: (connection: Connection) => Promise<T>): Promise<T> {
  const connection = start(options?.assets);
  try {
    return await job(connection);
  } finally {
    connection.close(new ForewordError('disposed', 'The worker was ended.'));
  }
}
