/**
 * The bytes of a file from its server to the store. A dropped connection, a reload or a closed tab only costs what was not
 * written yet.
 */
import type { IHasher } from 'hash-wasm';
import type { Arrival } from './arrival.js';
import type { Order } from './download.js';
import { type ErrorCode, ForewordError, throwIfAborted } from './error.js';
import { MemoryFile } from './files.js';
import { blockedByPolicy } from './policy.js';
import type { Remote } from './rpc.js';
import { type Entry, OVERLAP, type Writer } from './store.js';

/** Connections that may fail in a row without a single new byte: some 45 s in all. */
const TRIES = 8;
/** While nothing is here at all; a server that is busy is waited for. */
const FIRST_TRIES = 2;
const LONGEST_PAUSE_S = 60;
/** A connection without a byte for so long is given up, and another one made. */
const SILENCE_S = 15;
/** A download without a network waits for it so long. */
const OFFLINE_S = 600;
/** Beside the model, the browser needs room for itself. */
const SPARE = 16 << 20;
/** WASM has 32-bit addresses. */
export const MOST_BYTES = 4 * 2 ** 30;
/** Failures that another address of the same file may not have. */
const ELSEWHERE: ErrorCode[] = ['not_found', 'bad_file', 'download_failed', 'checksum_mismatch'];

export interface Transfer extends Order {
  file: Writer;
  hashers: IHasher[];
  /** That of the hashers that the expected SHA-256 is compared with. */
  sha: IHasher | undefined;
  entry: Entry;
  arrival?: Arrival;
  /** Whether there was a connection before. */
  again?: boolean;
}

/** Transfers into the store that are under way: each needs room for what it has not got yet. */
const running = new Set<Transfer>();

/** Appends what is missing, over as many connections as it takes. */
export async function transfer(job: Transfer): Promise<void> {
  try {
    await overConnections(job);
  } finally {
    running.delete(job);
  }
}

async function overConnections(job: Transfer): Promise<void> {
  const urls = [job.input.url, ...job.input.fallbacks];
  let failures = 0;
  for (;;) {
    const before = job.file.size;
    try {
      await connection(job, urls[0]!);
      checkHash(job.input, job.sha);
      // A file that was whole already, or of unknown size.
      job.arrival ??= job.opened(job.file, job.file.size);
      return;
    } catch (error) {
      throwIfAborted(job.signal);
      const known = error instanceof ForewordError;
      if (known && !ELSEWHERE.includes(error.code)) throw error;
      failures = job.file.size > before ? 1 : failures + 1;
      if (!known && failures < (job.file.size || error instanceof Busy || error instanceof Changed ? TRIES : FIRST_TRIES)) {
        if (job.file.size && isOffline()) await backOnline(job);
        else await pause((error as Partial<Busy>).retryAfter ?? Math.min(2 ** failures / 4, SILENCE_S), job.signal);
        continue;
      }
      const failure = known ? error : await unreachable(urls[0]!, error as Error);
      urls.shift();
      // Without a network no other address is better.
      if (!urls.length || isOffline()) throw failure;
      if (failure.code === 'checksum_mismatch') await restart(job);
      failures = 0;
    }
  }
}

function checkHash({ url, sha256 }: Remote, sha: IHasher | undefined): void {
  if (!sha || sha.digest() === sha256) return;
  throw new ForewordError('checksum_mismatch', `The download of ${url} is damaged: its SHA-256 is not the expected one. Load it again.`);
}

/** Throws away what is here. */
async function restart(job: Transfer): Promise<void> {
  await stored(() => job.file.clear());
  job.arrival?.restarted();
  job.hashers.forEach((hasher) => hasher.init());
}

/** One connection, from where the file ends now. */
async function connection(job: Transfer, url: string): Promise<void> {
  const { file, entry, input, fetch } = job;
  if (entry.totalBytes && file.size === entry.totalBytes) return;
  // A file whose version the server names is compared by that name, another one by its bytes.
  const overlap = entry.etag ? 0 : Math.min(OVERLAP, file.size);
  const from = file.size - overlap;
  const watch = new Watch(job.signal);
  try {
    const headers = { ...(url === input.url && input.headers), ...(from && { Range: `bytes=${from}-` }) };
    // The browser's own cache goes on with what was cut, too, and fails where servers answer such requests otherwise than it likes.
    const cache = job.again || from ? 'no-store' : 'default';
    job.again = true;
    const response = await fetch(url, { headers, cache, signal: watch.signal, credentials: 'omit' });
    const etag = response.headers.get('etag') ?? response.headers.get('last-modified') ?? undefined;
    const { at, total: announced } = extentOf(response, from);
    const goesOn = response.status === 206 && at === from && etag === entry.etag && (!announced || announced === entry.totalBytes);
    const total = announced || (goesOn ? entry.totalBytes : 0);
    if (file.size && !goesOn && (response.ok || response.status === 416)) {
      // The file changed, or the server knows no ranges: from the beginning.
      await restart(job);
      if (!response.ok || at) {
        await response.body?.cancel();
        return connection(job, url);
      }
    }
    if (!response.ok) throw refused(url, response);
    if (!file.size && at) throw new Error('the server sent another part of the file');
    await begin(job, total, etag);
    const known = file.size ? Uint8Array.from(await file.read(from, overlap)) : new Uint8Array(0);
    await receive(job, url, response.body!.getReader(), total, known, watch);
    if (total && file.size < total) throw new Error('the connection ended early');
  } finally {
    watch.stop();
  }
}

/** Appends a body that begins with `known`, which is here already. */
async function receive(job: Transfer, url: string, reader: ReadableStreamDefaultReader<Uint8Array>, total: number, known: Uint8Array, watch: Watch): Promise<void> {
  const { file } = job;
  let compared = 0;
  for (;;) {
    const { done, value } = await watch.over(reader.read());
    if (done) return;
    const n = Math.min(known.length - compared, value.length);
    if (value.subarray(0, n).some((byte, i) => byte !== known[compared + i])) {
      await restart(job);
      throw new Changed();
    }
    compared += n;
    const bytes = value.subarray(n);
    if (!bytes.length) continue;
    if (file.size < 4) checkMagic(url, file.size, bytes);
    await stored(() => file.append(bytes));
    job.hashers.forEach((hasher) => hasher.update(bytes));
    // What was announced was the length of a compressed transfer.
    if (total && file.size > total) job.arrival?.restarted();
    else if (total && file.size >= 4) job.arrival ??= job.opened(file, total);
    job.arrival?.grown();
    job.report({ phase: 'download', loadedBytes: file.size, totalBytes: total, cached: false });
  }
}

/** Ends a connection that falls silent. Counts seconds in which this thread was free: it may be busy building the model. */
class Watch {
  readonly #controller = new AbortController();
  readonly #outer: AbortSignal;
  readonly #cancel = () => this.#controller.abort(this.#outer.reason);
  readonly #timer: ReturnType<typeof setInterval>;
  #silent = 0;

  constructor(outer: AbortSignal) {
    this.#outer = outer;
    outer.addEventListener('abort', this.#cancel);
    if (outer.aborted) this.#cancel();
    this.#timer = setInterval(() => {
      if (++this.#silent >= SILENCE_S) this.#controller.abort(new Error(`the server sent nothing for ${SILENCE_S} seconds`));
    }, 1000);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  async over<T>(job: Promise<T>): Promise<T> {
    this.#silent = 0;
    return job;
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#outer.removeEventListener('abort', this.#cancel);
  }
}

/** Refuses a model that no page could hold, before it is downloaded. */
export function checkSize(bytes: number): void {
  if (bytes <= MOST_BYTES) return;
  throw new ForewordError('out_of_memory', `The model has ${(bytes / 2 ** 30).toFixed(1)} GiB; a page can hold 4 GiB at most. Take a smaller or more strongly quantized one.`);
}

/** Before the first byte: is there room? */
async function begin(job: Transfer, total: number, etag: string | undefined): Promise<void> {
  const { file, entry } = job;
  entry.totalBytes = total;
  if (etag) entry.etag = etag;
  else delete entry.etag;
  checkSize(total);
  if (file instanceof MemoryFile) return;
  running.add(job);
  const storage = (globalThis.navigator as Navigator | undefined)?.storage;
  const { quota, usage } = (await storage?.estimate?.().catch(() => undefined)) ?? {};
  const missing = [...running].reduce((sum, { entry, file }) => sum + Math.max(entry.totalBytes - file.size, 0), 0);
  if (quota !== undefined && usage !== undefined && quota - usage < missing + SPARE) {
    throw new ForewordError(
      'quota_exceeded',
      `The model needs ${mib(missing)} of storage, but the browser gives this site only ${mib(Math.max(quota - usage, 0))} more. Delete cached models, free disk space, or take a smaller model.`,
    );
  }
  await stored(() => file.save(entry));
}

/** Where a body begins in the file, and how long the file is; 0 when unknown. Other sites seldom show `Content-Range`. */
function extentOf(response: Response, from: number): { at: number; total: number } {
  const [, first, size] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers.get('content-range') ?? '') ?? [];
  const at = response.status !== 206 ? 0 : Number(first ?? from);
  if (size && size !== '*') return { at, total: Number(size) };
  // The length of a compressed transfer is not that of the file.
  const length = response.headers.get('content-encoding') ? 0 : Number(response.headers.get('content-length') ?? 0);
  return { at, total: length && at + length };
}

function checkMagic(url: string, at: number, bytes: Uint8Array): void {
  const magic = [0x47, 0x47, 0x55, 0x46].slice(at);
  if (magic.slice(0, bytes.length).some((byte, i) => bytes[i] !== byte)) {
    throw new ForewordError('bad_file', `${url} is not a GGUF file. Check the address: it may lead to a web page instead of the file itself.`);
  }
}

/** What is here is of another version than what the server sends. */
class Changed extends Error {
  override readonly message = 'the file changed on its server';
}

/** A server that asks to come again. */
class Busy extends Error {
  /** In seconds. */
  readonly retryAfter: number | undefined;

  constructor(response: Response) {
    super(`HTTP ${response.status}`);
    const wish = response.headers.get('retry-after');
    const seconds = wish ? (/^\d+$/.test(wish.trim()) ? Number(wish) : (Date.parse(wish) - Date.now()) / 1000) : NaN;
    this.retryAfter = seconds >= 0 ? seconds : undefined;
  }
}

function refused(url: string, response: Response): Error {
  const { status } = response;
  const { host } = new URL(url);
  if (status === 404 || status === 410) return new ForewordError('not_found', `There is no file at ${url} (HTTP ${status}).`);
  if (status === 401 || status === 403) return new ForewordError('download_failed', `${host} does not allow the download of ${url} (HTTP ${status}).`);
  if (status === 429 || status === 503) {
    const busy = new Busy(response);
    if ((busy.retryAfter ?? 0) <= LONGEST_PAUSE_S) return busy;
    return new ForewordError('download_failed', `${host} is busy (HTTP ${status}) and asks to come again in ${Math.ceil(busy.retryAfter! / 60)} minutes.`);
  }
  if (status < 500 && status !== 408) return new ForewordError('download_failed', `The download of ${url} failed: HTTP ${status}.`);
  return new Error(`HTTP ${status}`);
}

async function unreachable(url: string, cause: Error): Promise<ForewordError> {
  if (isOffline()) return new ForewordError('offline', 'There is no network, and the model is not in the cache. Connect, and load it again.', { cause });
  const { host, origin } = new URL(url);
  const policy = await blockedByPolicy(url);
  if (policy) return new ForewordError('download_failed', `The download from ${host} is forbidden by the page's Content-Security-Policy: ${policy} has to allow it.`, { cause });
  if (cause.message.startsWith('HTTP ')) return new ForewordError('download_failed', `The download from ${host} failed: the server answers ${cause.message}.`, { cause });
  const foreign = globalThis.location && origin !== globalThis.origin;
  const cors = foreign ? ', or it does not allow downloads by other sites (CORS)' : '';
  return new ForewordError('download_failed', `The download from ${host} failed: the server cannot be reached${cors}. (${cause.message})`, { cause });
}

const isOffline = () => (globalThis.navigator as Navigator | undefined)?.onLine === false;

/** Waits for the network. */
async function backOnline({ signal, report, file, entry }: Transfer): Promise<void> {
  report({ phase: 'waiting', loadedBytes: file.size, totalBytes: entry.totalBytes, cached: false });
  for (let s = 0; isOffline() && s < OFFLINE_S; s++) await pause(1, signal);
}

function pause(seconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const over = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', over);
      if (signal.aborted) reject(signal.reason);
      else resolve();
    };
    const timer = setTimeout(over, seconds * 1000);
    signal.addEventListener('abort', over);
  });
}

/** Runs what writes to the store: its errors are not the network's. */
export async function stored<T>(job: () => T | Promise<T>): Promise<T> {
  try {
    return await job();
  } catch (error) {
    const failure = ForewordError.from(error);
    if (failure.code !== 'internal') throw failure;
    throw new ForewordError('storage_failed', `The model cannot be stored: ${failure.message}. Load it again, or with cache: false.`, { cause: error });
  }
}

function mib(bytes: number): string {
  return `${Math.ceil(bytes / 1048576)} MiB`;
}
