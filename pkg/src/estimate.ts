/** What a model will need and how it will run here, before it is downloaded. */
import type { Input, Remote } from './rpc.js';
import { registry, resolve } from './sources.js';
import { knownSpeed } from './speeds.js';
import type { CachedModel, Estimate, LoadOptions, ModelSource } from './types.js';

/** Weights are repacked, and the core and work memory come on top. */
const WEIGHTS = 1.05;
const BESIDE = 24e6;
/** Bytes of a token in the KV cache: of small models, and of larger ones by each byte of the file. Families differ by two times and more. */
const TOKEN = 21e3;
const TOKEN_OF_FILE = 5e-5;
/** What q8_0 takes of f16. */
const Q8_0 = 34 / 64;
/** Tokens of the conversation that memory is counted for, where the context is not shorter: the cache grows with what is said. */
const CONVERSATION = 2048;
/** A page has 4 GiB of WASM, and of the device's memory not more than about half. */
const MOST = 4 * 2 ** 30;
const SHARE = 0.5;
/** A server that does not answer for so long is not waited for. */
const PATIENCE_MS = 10_000;
/** The prompt whose first word is estimated. */
const PROMPT = 128;

export async function estimate(source: ModelSource, options: LoadOptions, cached: CachedModel[]): Promise<Estimate> {
  const { inputs } = resolve(source, options);
  const listed = registry.find(({ name }) => name === source);
  const cachedAs = (input: Input) => ('blob' in input ? undefined : cached.find(({ url }) => url === input.id));
  const sizeOf = (input: Input) => ('blob' in input ? input.blob.size : listed?.bytes || cachedAs(input)?.totalBytes || announced(input));
  const sizes = await Promise.all(inputs.map(sizeOf));
  const bytes = sizes.every(Boolean) ? sizes.reduce((sum, size) => sum + size, 0) : 0;
  const here = inputs.reduce((sum, input) => sum + ('blob' in input ? input.blob.size : (cachedAs(input)?.bytes ?? 0)), 0);
  const tokens = Math.min(CONVERSATION, options.contextLength ?? Infinity, listed?.context ?? Infinity);
  const token = Math.max(TOKEN, TOKEN_OF_FILE * bytes) * (options.kvCache === 'q8_0' ? Q8_0 : 1);
  const memory = bytes && WEIGHTS * bytes + BESIDE + Math.min(tokens * token, options.kvMemory ?? Infinity);
  // In GiB, at most 8 and only in some browsers.
  const { deviceMemory = 8 } = (globalThis.navigator ?? {}) as { deviceMemory?: number };
  const speed = bytes ? await knownSpeed() : undefined;
  return {
    bytes,
    downloadBytes: Math.max(0, bytes - here),
    memory,
    fits: memory <= Math.min(MOST, SHARE * deviceMemory * 2 ** 30),
    ...(speed?.decode && { tokensPerSecond: speed.decode / bytes }),
    ...(speed?.prefill && { firstWordMs: (1000 * PROMPT * bytes) / speed.prefill + (1000 * bytes) / speed.decode }),
  };
}

/** What a file's server says of its size; 0 where it says nothing. */
async function announced({ url, headers }: Remote): Promise<number> {
  const response = await fetch(url, { method: 'HEAD', headers: headers ?? {}, credentials: 'omit', signal: AbortSignal.timeout(PATIENCE_MS) }).catch(() => undefined);
  return response?.ok ? Number(response.headers.get('content-length') ?? 0) : 0;
}
