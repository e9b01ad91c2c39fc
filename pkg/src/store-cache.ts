/** Downloads in the Cache API: a file is a row of pieces, so that a download can go on where it ended. */
import type { Entry, Listed, Reader, Store, Writer } from './store.js';

const PIECE = 4 << 20;
const BASE = 'https://foreword.invalid/';

export class CacheStore implements Store {
  readonly #cache: Cache;

  constructor(cache: Cache) {
    this.#cache = cache;
  }

  async list(): Promise<Listed[]> {
    const urls = (await this.#cache.keys()).map((request) => request.url);
    const keys = new Set(urls.map((url) => url.slice(BASE.length, url.lastIndexOf('/'))));
    return Promise.all([...keys].map(async (key) => ({ key, entry: await this.stat(key), bytes: (await this.#size(key)) || undefined })));
  }

  async stat(key: string): Promise<Entry | undefined> {
    return (await this.#cache.match(`${BASE}${key}/entry`))?.json();
  }

  async read(key: string): Promise<Reader | undefined> {
    const size = await this.#size(key);
    return size ? this.#reader(key, size) : undefined;
  }

  async write(key: string): Promise<Writer> {
    // Only whole pieces are taken over.
    let size = Math.floor((await this.#size(key)) / PIECE) * PIECE;
    let piece = new Uint8Array(PIECE);
    let filled = 0;
    const put = async () => {
      const number = Math.floor((size - 1) / PIECE);
      await this.#cache.put(`${BASE}${key}/${number}`, new Response(piece.slice(0, filled)));
    };
    const cache = this.#cache;
    const pieces = () => this.#pieces(key);
    return {
      get size() {
        return size;
      },
      append: async (bytes) => {
        for (let at = 0; at < bytes.length; ) {
          const n = Math.min(bytes.length - at, PIECE - filled);
          piece.set(bytes.subarray(at, at + n), filled);
          filled += n;
          size += n;
          at += n;
          if (filled === PIECE) {
            await put();
            filled = 0;
          }
        }
      },
      read: async (offset, length) => {
        const stored = size - filled;
        const [from, to] = [offset, offset + length].map((at) => Math.max(at - stored, 0));
        // Taken before anything waits: the piece is written over.
        const rest = piece.slice(from, Math.min(to!, filled));
        const begin = await this.#reader(key, stored).read(offset, length);
        return rest.length ? join(begin, rest) : begin;
      },
      clear: async () => {
        for (const url of await pieces()) await cache.delete(url);
        size = filled = 0;
        piece = new Uint8Array(PIECE);
      },
      save: async (entry) => {
        if (filled) await put();
        await cache.put(`${BASE}${key}/entry`, Response.json(entry));
      },
      close: async () => {},
    };
  }

  async remove(key: string): Promise<boolean> {
    const pieces = await this.#pieces(key);
    for (const url of pieces) await this.#cache.delete(url);
    return (await this.#cache.delete(`${BASE}${key}/entry`)) || pieces.length > 0;
  }

  #reader(key: string, size: number): Reader {
    return {
      size,
      read: async (offset, length) => {
        const end = Math.min(offset + length, size);
        const out = new Uint8Array(Math.max(end - offset, 0));
        for (let at = offset; at < end; ) {
          const number = Math.floor(at / PIECE);
          const blob = await (await this.#cache.match(`${BASE}${key}/${number}`))?.blob();
          const from = at - number * PIECE;
          const part = new Uint8Array((await blob?.slice(from, from + end - at).arrayBuffer()) ?? new ArrayBuffer(0));
          if (!part.length) return out.subarray(0, at - offset);
          out.set(part, at - offset);
          at += part.length;
        }
        return out;
      },
      close() {},
    };
  }

  async #pieces(key: string): Promise<string[]> {
    const urls = (await this.#cache.keys()).map((request) => request.url);
    return urls.filter((url) => url.startsWith(`${BASE}${key}/`) && !url.endsWith('/entry'));
  }

  async #size(key: string): Promise<number> {
    const n = (await this.#pieces(key)).length;
    const last = n && (await this.#cache.match(`${BASE}${key}/${n - 1}`));
    return last ? (n - 1) * PIECE + (await last.blob()).size : 0;
  }
}

function join(a: Uint8Array, b: Uint8Array): Uint8Array {
  const out = new Uint8Array(a.length + b.length);
  out.set(a);
  out.set(b, a.length);
  return out;
}
