/** A model on a server, as whoever answers the calls of a loaded one. */
import type { Connection } from './client.js';
import { type ConnectOptions, reach } from './connect.js';
import { cancelled, ForewordError } from './error.js';
import type { Opening } from './open.js';
import type { Calls, CallOptions, Method, Methods } from './rpc.js';
import type { ModelInfo } from './types.js';

/** Where requests go, by the field that they have. */
const PATHS = { messages: '/chat/completions', prompt: '/completions', input: '/embeddings', documents: '/rerank' };

/** Asks a server for its model. */
export function reachOut({ signal, ...options }: ConnectOptions): Opening {
  const end = new AbortController();
  const begun = performance.now();
  const within = (outer?: AbortSignal) => (outer ? AbortSignal.any([outer, end.signal]) : end.signal);
  const reached = reach({ ...options, signal: within(signal) });
  const host = () => new URL(options.baseURL).host;
  const info = reached.then(({ name }): ModelInfo => ({ ...UNKNOWN, name, backendReason: `it runs on ${host()}`, device: host(), loadMs: performance.now() - begun }));

  async function complete(json: string, { signal: outer, accepted = () => {}, part = () => {} }: CallOptions<'complete'>): Promise<unknown> {
    const { wire, name } = await reached;
    const body = JSON.parse(json);
    const [, path] = Object.entries(PATHS).find(([field]) => body[field] !== undefined)!;
    const named = JSON.stringify({ ...body, model: name });
    return body.stream ? wire.stream(path, named, { accepted, part, signal: within(outer) }) : wire.whole(path, named, within(outer));
  }
  async function call<M extends Method>(method: M, args: Methods[M]['args'], callOptions: CallOptions<M> = {}): Promise<Methods[M]['value']> {
    if (callOptions.signal?.aborted) throw cancelled(callOptions.signal);
    if (method === 'complete') return complete(args as string, callOptions as CallOptions<'complete'>) as Promise<Methods[M]['value']>;
    throw new ForewordError('unsupported', `The model runs on ${host()}, where ${method} cannot be asked for.`);
  }
  const client: Calls = { call, on: () => {} };
  const connection: Connection = { client, close: (error) => end.abort(error) };
  return { connection, info, ready: info };
}

/** What a server does not say. */
const UNKNOWN = { architecture: '', contextLength: 0, trainedContextLength: 0, vocabulary: 0, layers: 0, dimension: 0, chat: true, backend: 'remote', threads: 0, fileBytes: 0, cached: false } as const;
