/** A file that is read while it is still on its way, so that a model is in memory soon after its last byte is here. */
import { ForewordError } from './error.js';
import type { Reader, Writer } from './store.js';

/** A file of a model. */
export interface Arriving extends Omit<Reader, 'close'> {
  cached: boolean;
  /** Settles when the whole file is here and checked; fails when that cannot be had. */
  finished: Promise<unknown>;
  /** Whether bytes are missing yet. */
  readonly arriving?: boolean;
  /** Whether the server changed the file after it was opened; reads fail then, until `renew` is called after `finished`. */
  readonly changed?: boolean;
  renew?(): void;
  /** Whether the model wanted bytes a second time that are not kept: they have to be downloaded again. */
  readonly lost?: boolean | undefined;
  close(): void | Promise<void>;
  /** Takes the file, which is closed, out of the cache: it turned out to be damaged. */
  evict?(): Promise<unknown>;
}

/** A file that is all there. */
export function arrived(reader: Reader, cached: boolean, evict?: () => Promise<unknown>): Arriving {
  return Object.assign(reader, { cached, finished: Promise.resolve(), ...(evict && { evict }) });
}

interface Waiting {
  end: number;
  go(): void;
}

/** The reading side of a download that `finished` stands for. */
export class Arrival implements Arriving {
  readonly cached = false;
  changed = false;
  size: number;
  readonly finished: Promise<unknown>;
  readonly evict: () => Promise<unknown>;
  readonly #file: Writer;
  #waiting: Waiting[] = [];

  /** `size` as the server announced it. */
  constructor(file: Writer, size: number, finished: Promise<unknown>, evict: () => Promise<unknown>) {
    this.#file = file;
    this.size = size;
    this.finished = finished;
    this.evict = evict;
  }

  get arriving(): boolean {
    return this.#file.size < this.size;
  }

  get lost(): boolean | undefined {
    return this.#file.lost;
  }

  /** Waits until these bytes are here. */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const end = Math.min(offset + length, this.size);
    if (end > this.#file.size && !this.changed) {
      await Promise.race([this.finished, new Promise<void>((go) => this.#waiting.push({ end, go }))]);
    }
    if (this.changed) throw new ForewordError('download_failed', 'The file changed on its server during the download.');
    try {
      return await (this.#file.take?.(offset, length) ?? this.#file.read(offset, length));
    } catch (error) {
      // A download that failed in the end closed its file: its own error says why.
      await this.finished;
      throw error;
    }
  }

  /** Bytes were appended. */
  grown(): void {
    const here = this.#waiting.filter(({ end }) => end <= this.#file.size);
    if (!here.length) return;
    this.#waiting = this.#waiting.filter(({ end }) => end > this.#file.size);
    here.forEach(({ go }) => go());
  }

  /** The bytes so far were thrown away, or are more than was announced: what was read is worth nothing. */
  restarted(): void {
    this.changed = true;
    this.#waiting.splice(0).forEach(({ go }) => go());
  }

  renew(): void {
    this.changed = false;
    this.size = this.#file.size;
  }

  close(): Promise<void> {
    // A download that failed closed its file itself.
    return this.finished.then(() => this.#file.close(), () => {});
  }
}
