/** A URL to a complete, checked file: from the cache, or by a download that goes into it. */
import { createSHA256, createXXHash64, type IHasher, sha256 } from 'hash-wasm';
import { decoded } from './address.js';
import { Arrival, type Arriving, arrived } from './arrival.js';
import { sharedFile, shareFile } from './cross-origin.js';
import { type ErrorCode, ForewordError, throwIfAborted } from './error.js';
import { blobReader, MemoryFile } from './files.js';
import { locked } from './locks.js';
import type { Remote } from './rpc.js';
import type { Entry, Reader, Store, Writer } from './store.js';
import { stored, transfer } from './transfer.js';
import type { LoadProgress } from './types.js';

const CHUNK = 4 << 20;
/** What is not kept: bytes of no use, and the beginning of a model that does not run here. */
const DAMAGED: ErrorCode[] = ['bad_file', 'checksum_mismatch'];
const REFUSED: ErrorCode[] = ['unsupported', 'out_of_memory'];

/** What is to be downloaded, and who is told. */
export interface Order {
  input: Remote;
  report(progress: LoadProgress): void;
  signal: AbortSignal;
  fetch: typeof globalThis.fetch;
  /** Whether all of the file is wanted more than once, also where nothing is stored. */
  keep: boolean;
  /** Whether other sites may have the file, and get it. */
  share: boolean;
  /** Called once, when the file can be read as far as it is here. */
  opened(file: Writer, size: number): Arrival;
}

/**
 * Opens a remote file, from the store if it is there whole, else as soon as its first bytes are here: it is read while it
 * arrives. Without a store nothing is kept.
 */
export async function obtain(input: Remote, store: Store | undefined, { report, signal, fetch, keep, share }: Omit<Order, 'input' | 'opened'>): Promise<Arriving> {
  const key = await keyOf(input.id);
  const alone = <T>(job: () => Promise<T>) => locked(key, signal, () => report({ phase: 'waiting', loadedBytes: 0, totalBytes: 0, cached: false }), job);
  const evict = async () => store && alone(() => store.remove(key));
  return new Promise((resolve, reject) => {
    const opened = (file: Writer, size: number) => {
      const arrival = new Arrival(file, size, finished, evict);
      resolve(arrival);
      return arrival;
    };
    const order = { input, report, signal, fetch, keep, share, opened };
    const finished = store ? alone(() => throughStore(order, key, store)) : shared(order).then((reader) => reader ?? fetchToMemory(order));
    finished.then((reader) => reader && resolve(arrived(reader, true, evict)), reject);
  });
}

/** What is in the store, or nothing, after the download. */
async function throughStore(order: Order, key: string, store: Store): Promise<Reader | undefined> {
  const entry = await store.stat(key);
  if (entry?.complete && entry.url === order.input.id) {
    const reader = await openChecked(store, entry, order);
    if (reader) return reader;
  }
  if (entry?.complete) await store.remove(key);
  const reader = await shared(order);
  if (!reader) await fetchToStore(order, key, store);
  return reader;
}

/** The file from another site, once it is checked: what promises its hash may be an extension. */
async function shared({ share, input, report, signal }: Order): Promise<Reader | undefined> {
  const blob = share && input.sha256 && (await sharedFile(input.sha256));
  if (!blob) return undefined;
  const reader = blobReader(blob);
  try {
    await checked(reader, input, report, signal);
    return reader;
  } catch {
    throwIfAborted(signal);
    return undefined;
  }
}

/** Name of a file in the store: its own, and a hash of what it is known by, a URL as a rule. */
export async function keyOf(id: string): Promise<string> {
  const name = decoded(id.replace(/[?#].*$/, '').split('/').pop()!).replace(/\.gguf$/, '');
  return `${name.replace(/[^\w.-]+/g, '_').slice(0, 80)}-${(await sha256(id)).slice(0, 32)}.gguf`;
}

/** A cached file whose bytes are what was downloaded and what is wanted, or nothing. */
async function openChecked(store: Store, entry: Entry, { input, report, signal }: Order): Promise<Reader | undefined> {
  const wanted = input.sha256;
  if (wanted && entry.sha256 && wanted !== entry.sha256) return undefined;
  const total = entry.totalBytes;
  let reader: Reader | undefined;
  try {
    reader = await store.read(entry.key);
    if (reader?.size === total) {
      const checksum = await createXXHash64();
      const sha = wanted && !entry.sha256 ? await createSHA256() : undefined;
      const progress = (loadedBytes: number) => report({ phase: 'verify', loadedBytes, totalBytes: total, cached: true });
      await feed(reader, total, sha ? [checksum, sha] : [checksum], signal, progress);
      if (checksum.digest() === entry.checksum && (!sha || sha.digest() === wanted)) return reader;
    }
  } catch {
    // What cannot be read is downloaded anew.
    throwIfAborted(signal);
  }
  reader?.close();
  return undefined;
}

/** A file that needs no download, once it is checked. */
export async function checked(reader: Reader, { sha256 }: { sha256?: string }, report: Order['report'], signal: AbortSignal): Promise<Arriving> {
  if (sha256) {
    const sha = await createSHA256();
    await feed(reader, reader.size, [sha], signal, (loadedBytes) => report({ phase: 'verify', loadedBytes, totalBytes: reader.size, cached: false }));
    if (sha.digest() !== sha256) throw new ForewordError('checksum_mismatch', 'The file is not the expected one: its SHA-256 is another.');
  }
  return arrived(reader, false);
}

async function feed(from: Pick<Reader, 'read'>, size: number, hashers: IHasher[], signal: AbortSignal, report?: (done: number) => void): Promise<void> {
  for (let at = 0; at < size; at += CHUNK) {
    throwIfAborted(signal);
    const bytes = await from.read(at, Math.min(CHUNK, size - at));
    if (!bytes.length) throw new ForewordError('storage_failed', 'The cached file ended early.');
    hashers.forEach((hasher) => hasher.update(bytes));
    report?.(at + bytes.length);
  }
}

async function fetchToMemory(order: Order): Promise<undefined> {
  const sha = order.input.sha256 ? await createSHA256() : undefined;
  const entry = { key: '', url: order.input.id, totalBytes: 0, complete: false };
  await transfer({ ...order, file: new MemoryFile(order.keep), hashers: sha ? [sha] : [], sha, entry });
}

async function fetchToStore(order: Order, key: string, store: Store): Promise<void> {
  const { input, signal } = order;
  const file = await stored(() => store.write(key));
  let known: Entry | undefined;
  try {
    const found = await store.stat(key);
    known = found?.url === input.id ? found : undefined;
    const entry: Entry = known ?? { key, url: input.id, totalBytes: 0, complete: false };
    const checksum = await createXXHash64();
    const sha = input.sha256 ? await createSHA256() : undefined;
    const hashers = sha ? [checksum, sha] : [checksum];
    if (!known) await stored(() => file.clear());
    await stored(() => feed(file, file.size, hashers, signal));
    await transfer({ ...order, file, hashers, sha, entry });
    await stored(() => file.save({ ...entry, totalBytes: file.size, complete: true, checksum: checksum.digest(), ...(input.sha256 && { sha256: input.sha256 }) }));
    if (order.share && input.sha256) await shareFile(input.sha256, file, signal);
  } catch (error) {
    // Where the model was refused, the reason of the abort says why.
    const { code } = ForewordError.from(signal.aborted ? signal.reason : error);
    await file.close();
    if (DAMAGED.includes(code) || (!known && REFUSED.includes(code))) await store.remove(key).catch(() => {});
    throw error;
  }
}
