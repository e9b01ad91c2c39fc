/** Models on a server that speaks OpenAI's API: `foreword serve`, vLLM, SGLang, llama-server. */
import { requestOf, signalOf } from './checks.js';
import { cancelled, type ErrorCode, ForewordError } from './error.js';
import type { Create, Foreword } from './index.js';
import { type Hooks, streamOf } from './stream.js';
import type { Embeddings, EmbeddingRequest, Ranking, RerankRequest, RequestOptions } from './types.js';

export interface ConnectOptions {
  /** Where the API's addresses begin, as `http://127.0.0.1:8080/v1`. */
  baseURL: string;
  apiKey?: string;
  /** Answers where a request names no model; by default the first one that the server lists. */
  model?: string;
  /** Sent with every request. */
  headers?: Record<string, string>;
  /** Makes the requests in place of the page's own. */
  fetch?: typeof fetch;
  /** Aborting it gives connecting up. */
  signal?: AbortSignal | undefined;
}

/** What answers, for whoever shows it. */
export interface RemoteInfo {
  /** The model. */
  name: string;
  backend: 'remote';
  /** For people: where it runs. */
  backendReason: string;
}

/** A model on a server: answers as a loaded model does; conversations leave the device. */
export class Remote {
  readonly chat: Foreword['chat'];
  readonly completions: Foreword['completions'];
  readonly embeddings: Foreword['embeddings'];
  /** A `fetch` whose requests to addresses of OpenAI's API, at any host, go to the server, with its key. */
  readonly fetch: typeof fetch;
  readonly info: RemoteInfo;
  readonly ready: Promise<RemoteInfo>;
  readonly #wire: Wire;
  readonly #disposed = new AbortController();

  constructor(wire: Wire, name: string) {
    this.#wire = wire;
    this.info = { name, backend: 'remote', backendReason: `It runs on ${new URL(wire.base).host}.` };
    this.ready = Promise.resolve(this.info);
    this.chat = { completions: { create: this.#creator('/chat/completions', 'messages') } };
    this.completions = { create: this.#creator('/completions', 'prompt') };
    this.embeddings = { create: (request: EmbeddingRequest, options?: RequestOptions): Promise<Embeddings> => this.#whole('/embeddings', request, 'input', options) };
    this.fetch = async (input, init) => {
      const request = new Request(input, init);
      const path = new URL(request.url).pathname.replace(/^.*?\/v1(?=\/)/, '');
      const body = /^(GET|HEAD)$/.test(request.method) ? {} : { body: await request.text() };
      return wire.fetch(wire.base + path, { method: request.method, headers: wire.headers, signal: this.#signal(request.signal), ...body });
    };
  }

  /** Scores of documents for a query, the best first, where the server ranks. */
  rerank(request: RerankRequest, options?: RequestOptions): Promise<Ranking> {
    return this.#whole('/rerank', request, 'documents', options);
  }

  /** Ends the answers under way; they fail with the code `disposed`. */
  async dispose(): Promise<void> {
    this.#disposed.abort(new ForewordError('disposed', 'The connection was disposed of.'));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #signal(signal: AbortSignal | undefined): AbortSignal {
    return signal ? AbortSignal.any([signal, this.#disposed.signal]) : this.#disposed.signal;
  }

  /** The request's JSON, with the model's name where it has none. */
  #named(request: unknown, needed: string): { json: string; stream: boolean } {
    const { json, stream } = requestOf(request, needed);
    const body = JSON.parse(json);
    return { json: JSON.stringify({ ...body, model: body.model ?? this.info.name }), stream };
  }

  async #whole(path: string, request: unknown, needed: string, options?: RequestOptions): Promise<any> {
    const { json } = this.#named(request, needed);
    return this.#wire.whole(path, json, this.#signal(signalOf(options?.signal)));
  }

  #creator(path: string, needed: string): Create<any, any, any> {
    return (async (request: unknown, options?: RequestOptions) => {
      const { json, stream } = this.#named(request, needed);
      if (!stream) return this.#whole(path, request, needed, options);
      const start = (hooks: Hooks<unknown>) => this.#wire.stream(path, json, { ...hooks, signal: this.#signal(hooks.signal) });
      return streamOf(start, signalOf(options?.signal));
    }) as Create<any, any, any>;
  }
}

/** Asks a server what models it has. Throws a {@link ForewordError}: `offline` where it is not reached, `not_found` for a model that it lacks. */
export async function connect(options: ConnectOptions): Promise<Remote> {
  const { wire, name } = await reach(options);
  return new Remote(wire, name);
}

/** The server, and the name of the model that answers there. */
export async function reach({ baseURL, apiKey, model, headers, fetch, signal }: ConnectOptions): Promise<{ wire: Wire; name: string }> {
  if (!URL.canParse(baseURL)) throw new ForewordError('invalid_request', `baseURL is ${JSON.stringify(baseURL)}; it must be an address, such as http://127.0.0.1:8080/v1.`, { param: 'baseURL' });
  const wire = new Wire(baseURL.replace(/\/+$/, ''), { 'content-type': 'application/json', ...(apiKey && { authorization: `Bearer ${apiKey}` }), ...headers }, fetch ?? globalThis.fetch.bind(globalThis));
  const asked = signalOf(signal) ?? new AbortController().signal;
  const response = await wire.send('/models', undefined, asked);
  const { data } = await wire.read(() => response.json(), asked);
  const ids: string[] = Array.isArray(data) ? data.map(({ id }) => String(id)) : [];
  const name = model ?? ids[0];
  if (name === undefined || !ids.includes(name)) {
    throw new ForewordError('not_found', `${baseURL} has ${name === undefined ? 'no model' : `no model ${name}`}; it has ${ids.join(', ') || 'none'}.`, { param: 'model' });
  }
  return { wire, name };
}

/** A server, and what goes with every request to it. */
export class Wire {
  constructor(
    readonly base: string,
    readonly headers: Record<string, string>,
    readonly fetch: typeof globalThis.fetch,
  ) {}

  /** A response with a status that says that all is well. */
  async send(path: string, json: string | undefined, signal: AbortSignal): Promise<Response> {
    const init = { headers: this.headers, signal, ...(json !== undefined && { method: 'POST', body: json }) };
    const response = await this.read(() => this.fetch(this.base + path, init), signal);
    if (!response.ok) throw refusalOf(response.status, await response.text().catch(() => ''));
    return response;
  }

  /** The answer to a request, in one piece. */
  async whole(path: string, json: string, signal: AbortSignal): Promise<any> {
    const response = await this.send(path, json, signal);
    return this.read(() => response.json(), signal);
  }

  /** The chunks of an answer. */
  async stream(path: string, json: string, { accepted, part, signal }: Hooks<unknown>): Promise<void> {
    const response = await this.send(path, json, signal);
    accepted();
    await this.read(() => chunksOf(response, part), signal);
  }

  /** What `job` reads from the network; failures are this package's errors. */
  async read<T>(job: () => Promise<T>, signal: AbortSignal): Promise<T> {
    try {
      return await job();
    } catch (cause) {
      if (signal.aborted) throw signal.reason instanceof ForewordError ? signal.reason : cancelled(signal);
      if (cause instanceof ForewordError) throw cause;
      if (cause instanceof SyntaxError) throw new ForewordError('internal', `${this.base} answered something that is no JSON; is it an address of OpenAI’s API?`, { cause });
      throw new ForewordError('offline', `${this.base} cannot be reached, or the connection broke off. Is the server running, and does it let this page in (CORS)?`, { cause });
    }
  }
}

/** Reads server-sent events to their end; each one's data is a chunk. */
async function chunksOf(response: Response, part: (chunk: unknown) => void): Promise<void> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let text = ''; ; ) {
      const { value, done } = await reader.read();
      // The end without its sign is none.
      if (done) throw new ForewordError('offline', 'The connection broke off in the middle of the answer.');
      const lines = (text + value).split(/\r?\n/);
      text = lines.pop()!;
      for (const line of lines.filter((line) => line.startsWith('data:'))) {
        const data = line.slice(5).trim();
        if (data === '[DONE]') return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw refusalOf(Number(chunk.error.status) || 500, data);
        part(chunk);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Codes of this package for statuses of a server; its own code where it is one of these. */
const CODES: Record<number, ErrorCode> = { 400: 'invalid_request', 401: 'invalid_request', 403: 'invalid_request', 404: 'not_found', 413: 'invalid_request', 422: 'invalid_request', 429: 'busy', 503: 'busy', 504: 'busy' };
const OWN = new Set<string>(['context_length_exceeded', 'out_of_memory', 'invalid_request']);

function refusalOf(status: number, body: string): ForewordError {
  const { message, code, param } = errorIn(body);
  const known = OWN.has(code as string) ? (code as ErrorCode) : (CODES[status] ?? (status < 500 ? 'invalid_request' : 'internal'));
  return new ForewordError(known, typeof message === 'string' ? message : `The server answered with status ${status}.`, { param: typeof param === 'string' ? param : undefined });
}

function errorIn(body: string): { message?: unknown; code?: unknown; param?: unknown } {
  try {
    return Object(Object(JSON.parse(body)).error);
  } catch {
    return {};
  }
}
