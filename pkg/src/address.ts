/** Addresses as callers write them. */
import { ForewordError } from './error.js';

/** An address that may be relative: to what `fetch` resolves it against. */
export function addressOf(text: string | URL, or = ''): URL {
  const words = String(text);
  try {
    return new URL(words, base(words));
  } catch (cause) {
    throw new ForewordError('invalid_request', `${JSON.stringify(words)} is not an absolute URL${or}, and there is nothing here that it could be relative to.`, { cause });
  }
}

function base(words: string): string | undefined {
  if (typeof document !== 'undefined') return document.baseURI;
  const { href } = (globalThis.location ?? {}) as { href?: string };
  // A worker that came from a blob has no folder, but it has an origin.
  return href?.startsWith('blob:') ? (words.startsWith('/') ? globalThis.origin : undefined) : href;
}

/** An address that stands for a folder. */
export const folderOf = (text: string | URL) => addressOf(`${text}`.replace(/\/?$/, '/'));

/** The name in a path; `%` need not begin an escape there. */
export function decoded(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}
