/** What callers give, checked before it goes to the worker: types are not checked by WASM, nor by most callers. */
import { ForewordError } from './error.js';

const refuse = (message: string, options?: { param?: string; cause?: unknown }) => new ForewordError('invalid_request', message, options);

/** A value in the words of an error. */
function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 40));
  if (typeof value === 'object' && value) return Array.isArray(value) ? 'a list' : `a ${value.constructor?.name ?? 'object'}`;
  return String(value);
}

/** A request as JSON, as it would go over the wire, and whether it asks for a stream. */
export function requestOf(request: unknown, needed: string): { json: string; stream: boolean } {
  try {
    const { toJSON } = (request ?? {}) as { toJSON?: unknown };
    const body = typeof toJSON === 'function' ? toJSON.call(request) : request;
    if (typeof body !== 'object' || !body || Array.isArray(body)) throw refuse(`The request is ${shown(body)}; it must be an object with ${needed}.`);
    if (body[needed] === undefined) throw refuse(`The request has no ${needed}.`, { param: needed });
    return { json: wellFormed(JSON.stringify(body)), stream: Boolean(body.stream) };
  } catch (cause) {
    if (cause instanceof ForewordError) throw cause;
    throw refuse(`The request cannot be written as JSON: ${(cause as Error)?.message ?? cause}`, { cause });
  }
}

/** JSON has lone halves of surrogate pairs, as in a text that was cut within an emoji, as escapes; U+FFFD stands for them, as in UTF-8. */
function wellFormed(json: string): string {
  return json.replace(/\\(\\|ud[89a-f][0-9a-f]{2})/g, (escape) => (escape === '\\\\' ? escape : '\ufffd'));
}

export function textOf(text: unknown): string {
  if (typeof text !== 'string') throw refuse(`tokenize() takes a string; it was given ${shown(text)}.`);
  return text;
}

export function tokensOf(tokens: unknown): number[] {
  const list = Array.isArray(tokens) ? tokens : ArrayBuffer.isView(tokens) && !(tokens instanceof DataView) ? Array.from(tokens as Uint32Array) : undefined;
  if (!list) throw refuse(`detokenize() takes a list of tokens; it was given ${shown(tokens)}.`);
  const wrong = list.findIndex((token) => !(Number.isInteger(token) && token >= 0 && token < 2 ** 32));
  if (wrong >= 0) throw refuse(`Token ${wrong} is ${shown(list[wrong])}; tokens are whole numbers from 0 on.`);
  return list;
}

export function nameOf(name: unknown): string {
  if (typeof name !== 'string' || !name || name.length > 500) throw refuse(`The name of a session is ${shown(name)}; it must be a text of 1 to 500 characters.`, { param: 'name' });
  return name;
}

/** `null` is openai's way to say none. */
export function signalOf(signal: unknown): AbortSignal | undefined {
  if (signal === undefined || signal === null) return undefined;
  const { aborted, addEventListener } = signal as Partial<AbortSignal>;
  if (typeof aborted !== 'boolean' || typeof addEventListener !== 'function') throw refuse(`signal is ${shown(signal)}; it must be an AbortSignal.`);
  return signal as AbortSignal;
}

/** Whole numbers from 1 to `most`. */
export function checkCounts(values: Record<string, unknown>, most = 2 ** 31 - 1): void {
  for (const [name, value] of Object.entries(values)) {
    if (value === undefined || (Number.isInteger(value) && (value as number) > 0 && (value as number) <= most)) continue;
    throw refuse(`${name} is ${shown(value)}; it must be a whole number from 1 to ${most}.`, { param: name });
  }
}

export function checkFunctions(values: Record<string, unknown>): void {
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined && typeof value !== 'function') throw refuse(`${name} is ${shown(value)}; it must be a function.`, { param: name });
  }
}
