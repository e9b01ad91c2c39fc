/** Files that need no store. */
import { ForewordError } from './error.js';
import { room } from './room.js';
import { OVERLAP, type Reader, type Writer } from './store.js';

/** A blob, which may be a file of the user's. */
export function blobReader(blob: Blob): Reader {
  const sync = typeof FileReaderSync === 'undefined' ? undefined : new FileReaderSync();
  return {
    size: blob.size,
    read: (offset, length) => {
      const part = blob.slice(offset, offset + length);
      return sync ? new Uint8Array(sync.readAsArrayBuffer(part)) : part.arrayBuffer().then((buffer) => new Uint8Array(buffer));
    },
    close() {},
  };
}

/** A download that is not kept: the pieces as they came. What the model took of them is given up, so that no file lies whole here beside it. */
export class MemoryFile implements Writer {
  size = 0;
  /** Whether something was wanted that had been given up. */
  lost = false;
  #pieces: { at: number; bytes: Uint8Array }[] = [];
  /** End of the header: of what was taken from the beginning on in one go. Headers are read with more behind them, which is taken again. */
  #header = 0;
  /** Ranges that were taken, but are still needed as the file's end. */
  #taken: { from: number; to: number }[] = [];
  readonly #room = room();
  readonly #keep: boolean;

  /** `keep`: gives nothing up. */
  constructor(keep: boolean) {
    this.#keep = keep;
  }

  append(bytes: Uint8Array): void {
    this.#pieces.push({ at: this.size, bytes });
    this.size += bytes.length;
  }

  read(offset: number, length: number): Uint8Array {
    const end = Math.min(offset + length, this.size);
    const out = this.#room(Math.max(end - offset, 0));
    for (let i = this.#pieceAt(offset), at = offset; at < end; i++) {
      const piece = this.#pieces[i];
      const part = piece && piece.at <= at ? piece.bytes.subarray(at - piece.at, end - piece.at) : undefined;
      if (!part?.length) {
        this.lost = true;
        throw new ForewordError('storage_failed', 'A part of the file that is not kept was wanted again.');
      }
      out.set(part, at - offset);
      at += part.length;
    }
    return out;
  }

  take(offset: number, length: number): Uint8Array {
    const bytes = this.read(offset, length);
    if (offset === this.#header) this.#header += length;
    if (this.#keep || offset + length <= this.#header) return bytes;
    this.#taken.push({ from: Math.max(offset, this.#header), to: offset + length });
    const [over, rest] = [true, false].map((old) => this.#taken.filter(({ to }) => to <= this.size - OVERLAP === old));
    this.#taken = rest!;
    over!.forEach(({ from, to }) => this.#giveUp(from, to));
    return bytes;
  }

  #giveUp(from: number, to: number): void {
    const first = this.#pieceAt(from);
    let end = first;
    while (this.#pieces[end] && this.#pieces[end]!.at < to) end++;
    const rest = this.#pieces.slice(first, end).flatMap(({ at, bytes }) => [
      { at, bytes: bytes.subarray(0, Math.max(from - at, 0)) },
      { at: Math.max(at, to), bytes: bytes.subarray(Math.max(to - at, 0)) },
    ]);
    this.#pieces.splice(first, end - first, ...rest.filter(({ bytes }) => bytes.length));
  }

  clear(): void {
    this.#pieces = [];
    this.#taken = [];
    this.#header = 0;
    this.size = 0;
    this.lost = false;
  }

  async save(): Promise<void> {}

  async close(): Promise<void> {
    this.clear();
  }

  /** The last piece that begins at `offset` or before. */
  #pieceAt(offset: number): number {
    let [low, high] = [0, this.#pieces.length];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.#pieces[middle]!.at <= offset) low = middle;
      else high = middle;
    }
    return low;
  }
}
