/**
 * Where downloads are kept: the origin-private file system, else the Cache API, else (in Node) a folder. Five verbs:
 * list, stat, read, write, remove. An entry is a file and what is known of it; a file that is not complete is kept, so
 * that its download can go on.
 */
import { ForewordError } from './error.js';
import { nodeModule } from './platform.js';
import { room } from './room.js';
import { CacheStore } from './store-cache.js';
import { FolderStore } from './store-folder.js';

/** What is known of a file. */
export interface Entry {
  key: string;
  url: string;
  /** Bytes in all; 0 when unknown. */
  totalBytes: number;
  complete: boolean;
  /** The server's mark of this version of the file. */
  etag?: string;
  /** XXH64 of the whole file: finds damage in the cache. */
  checksum?: string;
}

/** Bytes of a complete file. What is read is there until the next read. */
export interface Reader {
  size: number;
  read(offset: number, length: number): Uint8Array | Promise<Uint8Array>;
  close(): void;
}

/** A file that is being downloaded. */
export interface Writer {
  /** Bytes here. */
  readonly size: number;
  append(bytes: Uint8Array): void | Promise<void>;
  /** Reads back what was appended. */
  read(offset: number, length: number): Uint8Array | Promise<Uint8Array>;
  /** Throws away all bytes. */
  clear(): void | Promise<void>;
  /** Keeps what is known of the file. */
  save(entry: Entry): Promise<void>;
  close(): Promise<void>;
}

export interface Store {
  list(): Promise<(Entry & { bytes: number })[]>;
  stat(key: string): Promise<Entry | undefined>;
  read(key: string): Promise<Reader>;
  write(key: string): Promise<Writer>;
  remove(key: string): Promise<boolean>;
}

/** The best store that this platform has. */
export async function openStore(): Promise<Store | undefined> {
  if (nodeModule('fs')) return new FolderStore();
  const storage = (globalThis.navigator as Navigator | undefined)?.storage;
  if (storage?.getDirectory && 'createSyncAccessHandle' in (globalThis.FileSystemFileHandle?.prototype ?? {})) {
    try {
      const root = await storage.getDirectory();
      return new OpfsStore(await root.getDirectoryHandle('foreword', { create: true }));
    } catch {
      // Private windows of some browsers have the interface but refuse to open it.
    }
  }
  return globalThis.caches ? new CacheStore(await caches.open('foreword-models')) : undefined;
}

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

/** A download that is not kept: the pieces as they came. */
export class MemoryFile implements Reader, Writer {
  size = 0;
  #pieces: { at: number; bytes: Uint8Array }[] = [];
  readonly #room = room();

  append(bytes: Uint8Array): void {
    this.#pieces.push({ at: this.size, bytes });
    this.size += bytes.length;
  }

  read(offset: number, length: number): Uint8Array {
    const end = Math.min(offset + length, this.size);
    const out = this.#room(Math.max(end - offset, 0));
    for (let i = this.#pieceAt(offset), at = offset; at < end; i++) {
      const piece = this.#pieces[i]!;
      const part = piece.bytes.subarray(at - piece.at, end - piece.at);
      out.set(part, at - offset);
      at += part.length;
    }
    return out;
  }

  clear(): void {
    this.#pieces = [];
    this.size = 0;
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

type SyncHandle = {
  read(buffer: Uint8Array, options?: { at: number }): number;
  write(buffer: Uint8Array, options?: { at: number }): number;
  getSize(): number;
  truncate(size: number): void;
  flush(): void;
  close(): void;
};

function readsOf(handle: SyncHandle): Reader['read'] {
  const take = room();
  return (offset, length) => {
    const bytes = take(length);
    return bytes.subarray(0, handle.read(bytes, { at: offset }));
  };
}

/** Files that are being opened. Chromium never answers when the file's handle is collected as garbage meanwhile. */
const opening = new Set<FileSystemFileHandle>();

class OpfsStore implements Store {
  readonly #folder: FileSystemDirectoryHandle;

  constructor(folder: FileSystemDirectoryHandle) {
    this.#folder = folder;
  }

  async list(): Promise<(Entry & { bytes: number })[]> {
    const entries = [];
    for await (const name of (this.#folder as unknown as { keys(): AsyncIterable<string> }).keys()) {
      if (!name.endsWith('.json')) continue;
      const entry = await this.stat(name.slice(0, -5));
      const data = entry && (await this.#file(entry.key));
      if (data) entries.push({ ...entry, bytes: (await data.getFile()).size });
    }
    return entries;
  }

  async stat(key: string): Promise<Entry | undefined> {
    const file = await this.#file(`${key}.json`);
    if (!file) return undefined;
    try {
      return JSON.parse(await (await file.getFile()).text());
    } catch {
      return undefined;
    }
  }

  async read(key: string): Promise<Reader> {
    const file = await this.#file(key);
    if (!file) throw new ForewordError('storage_failed', 'The cached model went away.');
    const handle = await this.#open(file, 'read-only').catch(() => undefined);
    // Browsers without shared handles let one reader in at a time; the blob lets in all.
    if (!handle) return blobReader(await file.getFile());
    return {
      size: handle.getSize(),
      read: readsOf(handle),
      close: () => handle.close(),
    };
  }

  async write(key: string): Promise<Writer> {
    const handle = await this.#open(await this.#folder.getFileHandle(key, { create: true }));
    let size = handle.getSize();
    return {
      get size() {
        return size;
      },
      append: (bytes) => {
        // At the end of the quota Chromium returns neither an error nor a sound count.
        if (handle.write(bytes, { at: size }) !== bytes.length) {
          handle.truncate(size);
          throw new DOMException('the disk is full', 'QuotaExceededError');
        }
        size += bytes.length;
      },
      read: readsOf(handle),
      clear: () => {
        handle.truncate(0);
        size = 0;
      },
      save: (entry) => {
        handle.flush();
        return this.#save(entry);
      },
      close: async () => handle.close(),
    };
  }

  async remove(key: string): Promise<boolean> {
    const found = (await this.stat(key)) !== undefined;
    for (const name of [`${key}.json`, key]) await this.#folder.removeEntry(name).catch(() => {});
    return found;
  }

  async #save(entry: Entry): Promise<void> {
    const meta = await this.#open(await this.#folder.getFileHandle(`${entry.key}.json`, { create: true }));
    try {
      meta.truncate(0);
      meta.write(new TextEncoder().encode(JSON.stringify(entry)), { at: 0 });
      meta.flush();
    } finally {
      meta.close();
    }
  }

  async #file(name: string): Promise<FileSystemFileHandle | undefined> {
    return this.#folder.getFileHandle(name).catch(() => undefined);
  }

  async #open(file: FileSystemFileHandle, mode = 'readwrite'): Promise<SyncHandle> {
    const able = file as unknown as { createSyncAccessHandle(options?: { mode: string }): Promise<SyncHandle> };
    opening.add(file);
    try {
      return await able.createSyncAccessHandle({ mode });
    } finally {
      opening.delete(file);
    }
  }
}
