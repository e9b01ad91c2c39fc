/**
 * A URL to a complete, checked file. Bytes go straight to the store; a dropped connection, a reload or a closed tab only
 * costs what was not written yet.
 */
import { createSHA256, createXXHash64, type IHasher } from 'hash-wasm';
import { Arrival, type Arriving, arrived } from './arrival.js';
import { type ErrorCode, ForewordError, throwIfAborted } from './error.js';
import type { Input } from './rpc.js';
import { type Entry, MemoryFile, type Reader, type Store, type Writer } from './store.js';
import type { LoadProgress } from './types.js';

/** Connections that may fail in a row without a single new byte. */
const TRIES = 5;
/** Beside the model, the browser needs room for itself. */
const SPARE = 16 << 20;
const CHUNK = 4 << 20;
/** What is not kept: bytes of no use, and the beginning of a model that does not run here. */
const DAMAGED: ErrorCode[] = ['bad_file', 'checksum_mismatch'];
const REFUSED: ErrorCode[] = ['unsupported', 'out_of_memory'];
/** WASM has 32-bit addresses. */
export const MOST_BYTES = 4 * 2 ** 30;

type Remote = Extract<Input, { url: string }>;
type Report = (progress: LoadProgress) => void;

/** What is to be downloaded, and who is told. */
interface Order {
  input: Remote;
  report: Report;
  signal: AbortSignal;
  /** Called once, when the file can be read as far as it is here. */
  opened(file: Writer, size: number): Arrival;
}

/**
 * Opens a remote file, from the store if it is there whole, else as soon as the server announces it: it is read while it
 * arrives. Without a store nothing is kept.
 */
export function obtain(input: Remote, store: Store | undefined, report: Report, signal: AbortSignal): Promise<Arriving> {
  return new Promise((resolve, reject) => {
    const opened = (file: Writer, size: number) => {
      const arrival = new Arrival(file, size, finished);
      resolve(arrival);
      return arrival;
    };
    const order = { input, report, signal, opened };
    const finished = store ? locked(keyOf(input.url), signal, () => throughStore(order, store)) : fetchToMemory(order);
    finished.then((reader) => reader && resolve(arrived(reader, true)), reject);
  });
}

/** What is in the store, or nothing, after the download. */
async function throughStore(order: Order, store: Store): Promise<Reader | undefined> {
  const key = keyOf(order.input.url);
  const entry = await store.stat(key);
  if (entry?.complete) {
    const reader = await openChecked(store, entry, order.report, order.signal);
    if (reader) return reader;
    await store.remove(key);
  }
  await fetchToStore(order, key, store);
  return undefined;
}

/** Name of a file in the store: its own, and a hash of where it came from. */
export function keyOf(url: string): string {
  let [a, b] = [0x811c9dc5, 0x1b873593];
  for (const char of url) {
    a = Math.imul(a ^ char.codePointAt(0)!, 0x01000193);
    b = Math.imul(b ^ char.codePointAt(0)!, 0x85ebca6b) ^ (a >>> 13);
  }
  const name = decodeURIComponent(new URL(url).pathname.split('/').pop() ?? '').replace(/\.gguf$/, '');
  const hash = [a, b].map((n) => (n >>> 0).toString(16).padStart(8, '0')).join('');
  return `${name.replace(/[^\w.-]+/g, '_').slice(0, 80)}-${hash}.gguf`;
}

/** One download of a file at a time, over all tabs. */
function locked<T>(key: string, signal: AbortSignal, job: () => Promise<T>): Promise<T> {
  const locks = (globalThis.navigator as Navigator | undefined)?.locks;
  return locks ? (locks.request(`foreword ${key}`, { signal }, job) as Promise<T>) : job();
}

/** A cached file whose bytes are what was downloaded, or nothing. */
async function openChecked(store: Store, entry: Entry, report: Report, signal: AbortSignal): Promise<Reader | undefined> {
  const reader = await store.read(entry.key);
  const total = entry.totalBytes;
  if (reader.size === total) {
    const hasher = await createXXHash64();
    const progress = (loadedBytes: number) => report({ phase: 'verify', loadedBytes, totalBytes: total, cached: true });
    await feed(reader, total, [hasher], signal, progress);
    if (hasher.digest() === entry.checksum) return reader;
  }
  reader.close();
  return undefined;
}

async function feed(from: Pick<Reader, 'read'>, size: number, hashers: IHasher[], signal: AbortSignal, report?: (done: number) => void): Promise<void> {
  for (let at = 0; at < size; at += CHUNK) {
    throwIfAborted(signal);
    const bytes = await from.read(at, Math.min(CHUNK, size - at));
    hashers.forEach((hasher) => hasher.update(bytes));
    report?.(at + bytes.length);
  }
}

async function fetchToMemory(order: Order): Promise<undefined> {
  const file = new MemoryFile();
  const hashers = order.input.sha256 ? [await createSHA256()] : [];
  await transfer({ ...order, file, hashers, entry: { key: '', url: order.input.url, totalBytes: 0, complete: false } });
  checkHash(order.input, hashers[0]);
}

async function fetchToStore(order: Order, key: string, store: Store): Promise<void> {
  const { input, signal } = order;
  const file = await store.write(key).catch((error) => {
    throw new ForewordError('storage_failed', `The model cannot be stored: ${error.message}`, { cause: error });
  });
  const known = await store.stat(key);
  const entry: Entry = known ?? { key, url: input.url, totalBytes: 0, complete: false };
  const checksum = await createXXHash64();
  const hashers = input.sha256 ? [checksum, await createSHA256()] : [checksum];
  try {
    if (!known) await file.clear();
    await feed(file, file.size, hashers, signal);
    await transfer({ ...order, file, hashers, entry });
    checkHash(input, hashers[1]);
    await file.save({ ...entry, totalBytes: file.size, complete: true, checksum: checksum.digest() });
  } catch (error) {
    // Where the model was refused, the reason of the abort says why.
    const { code } = ForewordError.from(signal.aborted ? signal.reason : error);
    await file.close();
    if (DAMAGED.includes(code) || (!known && REFUSED.includes(code))) await store.remove(key);
    throw error;
  }
}

function checkHash(input: Remote, hasher: IHasher | undefined): void {
  if (!hasher || hasher.digest() === input.sha256!.toLowerCase()) return;
  throw new ForewordError('checksum_mismatch', `The download of ${input.url} is damaged: its SHA-256 is not the expected one. Load it again.`);
}

interface Transfer extends Order {
  file: Writer;
  hashers: IHasher[];
  entry: Entry;
  arrival?: Arrival;
}

/** Appends what is missing, over as many connections as it takes. */
async function transfer(job: Transfer): Promise<void> {
  let failures = 0;
  let urls = [job.input.url, ...job.input.fallbacks];
  for (;;) {
    const before = job.file.size;
    try {
      await connection(job, urls[0]!);
      // A file that was whole already, or of unknown size.
      job.arrival ??= job.opened(job.file, job.file.size);
      return;
    } catch (error) {
      throwIfAborted(job.signal);
      if (error instanceof ForewordError && error.code === 'not_found' && urls.length > 1) {
        urls = urls.slice(1);
        continue;
      }
      if (error instanceof ForewordError || (error as Error).name === 'QuotaExceededError') throw error;
      failures = job.file.size > before ? 1 : failures + 1;
      if (failures === TRIES || (failures > 1 && !job.file.size)) throw unreachable(urls[0]!, error as Error);
      await pause(250 * 2 ** failures, job.signal);
    }
  }
}

/** One connection, from where the file ends now. */
async function connection(job: Transfer, url: string): Promise<void> {
  const { file, entry, signal } = job;
  if (entry.totalBytes && file.size === entry.totalBytes) return;
  const headers: Record<string, string> = file.size ? { Range: `bytes=${file.size}-` } : {};
  const response = await fetch(url, { headers, signal, credentials: 'omit' });
  const etag = response.headers.get('etag') ?? response.headers.get('last-modified') ?? undefined;
  const total = totalOf(response);
  const same = response.status === 206 && etag === entry.etag && total === entry.totalBytes;
  if (file.size && !same && (response.ok || response.status === 416)) {
    // The file changed, or the server knows no ranges: from the beginning.
    await file.clear();
    job.arrival?.restarted();
    job.hashers.forEach((hasher) => hasher.init());
    if (response.status !== 200) {
      await response.body?.cancel();
      return connection(job, url);
    }
  }
  if (!response.ok) throw refused(url, response);
  await begin(job, total, etag);
  if (total) job.arrival ??= job.opened(file, total);
  const reader = response.body!.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (file.size < 4) checkMagic(url, file.size, value);
    await file.append(value);
    job.arrival?.grown();
    job.hashers.forEach((hasher) => hasher.update(value));
    job.report({ phase: 'download', loadedBytes: file.size, totalBytes: total, cached: false });
  }
  if (total && file.size < total) throw new Error('the connection ended early');
}

/** Refuses a model that no page could hold, before it is downloaded. */
export function checkSize(bytes: number): void {
  if (bytes <= MOST_BYTES) return;
  throw new ForewordError('out_of_memory', `The model has ${(bytes / 2 ** 30).toFixed(1)} GiB; a page can hold 4 GiB at most. Take a smaller or more strongly quantized one.`);
}

/** Before the first byte: is there room? */
async function begin(job: Transfer, total: number, etag: string | undefined): Promise<void> {
  const { file, entry } = job;
  Object.assign(entry, { totalBytes: total, etag });
  checkSize(total);
  if (file instanceof MemoryFile) return;
  const storage = (globalThis.navigator as Navigator | undefined)?.storage;
  const { quota, usage } = (await storage?.estimate?.()) ?? {};
  const missing = total - file.size;
  if (quota !== undefined && usage !== undefined && quota - usage < missing + SPARE) {
    throw new ForewordError(
      'quota_exceeded',
      `The model needs ${mib(missing)} of storage, but the browser gives this site only ${mib(Math.max(quota - usage, 0))} more. Delete cached models, free disk space, or take a smaller model.`,
    );
  }
  await file.save(entry);
}

function totalOf(response: Response): number {
  const range = /\/(\d+)$/.exec(response.headers.get('content-range') ?? '');
  if (range) return Number(range[1]);
  // The length of a compressed transfer is not that of the file.
  return response.headers.get('content-encoding') ? 0 : Number(response.headers.get('content-length') ?? 0);
}

function checkMagic(url: string, at: number, bytes: Uint8Array): void {
  const magic = [0x47, 0x47, 0x55, 0x46].slice(at);
  if (magic.slice(0, bytes.length).some((byte, i) => bytes[i] !== byte)) {
    throw new ForewordError('bad_file', `${url} is not a GGUF file. Check the address: it may lead to a web page instead of the file itself.`);
  }
}

function refused(url: string, response: Response): Error {
  const { status } = response;
  if (status === 404 || status === 410) return new ForewordError('not_found', `There is no file at ${url} (HTTP ${status}).`);
  if (status === 401 || status === 403) return new ForewordError('download_failed', `${new URL(url).host} does not allow the download of ${url} (HTTP ${status}).`);
  if (status < 500 && status !== 408 && status !== 429) return new ForewordError('download_failed', `The download of ${url} failed: HTTP ${status}.`);
  return new Error(`HTTP ${status}`);
}

function unreachable(url: string, cause: Error): ForewordError {
  const { onLine } = (globalThis.navigator as Navigator | undefined) ?? { onLine: true };
  if (onLine === false) return new ForewordError('offline', 'There is no network, and the model is not in the cache. Connect, and load it again.', { cause });
  const { host, origin } = new URL(url);
  const cors = globalThis.location && origin !== globalThis.location.origin ? ', or it does not allow downloads by other sites (CORS)' : '';
  return new ForewordError('download_failed', `The download from ${host} failed: the server cannot be reached${cors}. (${cause.message})`, { cause });
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

function mib(bytes: number): string {
  return `${Math.ceil(bytes / 1048576)} MiB`;
}
