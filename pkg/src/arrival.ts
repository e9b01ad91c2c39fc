/** A file that is read while it is still on its way, so that a model is in memory soon after its last byte is here. */
import { ForewordError } from './error.js';
import type { Reader, Writer } from './store.js';

/** A file of a model. */
export interface Arriving extends Reader {
  cached: boolean;
  /** Settles when the whole file is here and checked; fails when that cannot be had. */
  finished: Promise<unknown>;
  /** Whether bytes are missing yet. */
  readonly arriving?: boolean;
  /** Whether the server changed the file after it was opened; reads fail then, until `renew` is called after `finished`. */
  readonly changed?: boolean;
  renew?(): void;
}

/** A file that is all there. */
export function arrived(reader: Reader, cached: boolean): Arriving {
  return Object.assign(reader, { cached, finished: Promise.resolve() });
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
  readonly #file: Writer;
  #waiting: Waiting[] = [];

  /** `size` as the server announced it. */
  constructor(file: Writer, size: number, finished: Promise<unknown>) {
    this.#file = file;
    this.size = size;
    this.finished = finished;
  }

  get arriving(): boolean {
    return this.#file.size < this.size;
  }

  /** Waits until these bytes are here. */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const end = Math.min(offset + length, this.size);
    if (end > this.#file.size && !this.changed) {
      await Promise.race([this.finished, new Promise<void>((go) => this.#waiting.push({ end, go }))]);
    }
    if (this.changed) throw new ForewordError('download_failed', 'The file changed on its server during the download.');
    try {
      return await this.#file.read(offset, length);
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

  /** The bytes so far were thrown away: what was read of them is worth nothing. */
  restarted(): void {
    this.changed = true;
    this.#waiting.splice(0).forEach(({ go }) => go());
  }

  renew(): void {
    this.changed = false;
    this.size = this.#file.size;
  }

  close(): void {
    // A download that failed closed its file itself.
    this.finished.then(() => this.#file.close(), () => {});
  }
}
