/** Downloads in the origin-private file system: a file, and beside it what is known of it as JSON. */
import { blobReader } from './files.js';
import { inUse } from './locks.js';
import { room } from './room.js';
import type { Entry, Listed, Reader, Store, Writer } from './store.js';

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

export class OpfsStore implements Store {
  readonly #folder: FileSystemDirectoryHandle;

  constructor(folder: FileSystemDirectoryHandle) {
    this.#folder = folder;
  }

  async list(): Promise<Listed[]> {
    const keys = new Set<string>();
    for await (const name of (this.#folder as unknown as { keys(): AsyncIterable<string> }).keys()) {
      keys.add(name.replace(/\.json(\.new)?$/, ''));
    }
    return Promise.all(
      [...keys].map(async (key) => {
        const blob = await this.#blob(await this.#file(key));
        return { key, entry: await this.stat(key), bytes: blob?.size };
      }),
    );
  }

  async stat(key: string): Promise<Entry | undefined> {
    return (await this.#parse(`${key}.json`)) ?? this.#parse(`${key}.json.new`);
  }

  async read(key: string): Promise<Reader | undefined> {
    const file = await this.#file(key);
    if (!file) return undefined;
    const handle = await this.#open(file, 'read-only').catch(() => undefined);
    // Browsers without shared handles let one reader in at a time; the blob lets in all.
    if (!handle) {
      const blob = await this.#blob(file);
      return blob && blobReader(blob);
    }
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
    const removed = [];
    for (const name of [key, `${key}.json`, `${key}.json.new`]) removed.push(await this.#remove(name));
    return removed.some(Boolean);
  }

  /** Written twice: a browser that ends in the middle leaves one of the two whole. */
  async #save(entry: Entry): Promise<void> {
    await this.#write(`${entry.key}.json.new`, JSON.stringify(entry));
    await this.#write(`${entry.key}.json`, JSON.stringify(entry));
    await this.#remove(`${entry.key}.json.new`);
  }

  async #write(name: string, text: string): Promise<void> {
    const handle = await this.#open(await this.#folder.getFileHandle(name, { create: true }));
    try {
      handle.truncate(0);
      handle.write(new TextEncoder().encode(text), { at: 0 });
      handle.flush();
    } finally {
      handle.close();
    }
  }

  async #parse(name: string): Promise<Entry | undefined> {
    try {
      return JSON.parse(await (await (await this.#folder.getFileHandle(name)).getFile()).text());
    } catch {
      return undefined;
    }
  }

  async #remove(name: string): Promise<boolean> {
    try {
      await this.#folder.removeEntry(name);
      return true;
    } catch (error) {
      if ((error as Error).name === 'NotFoundError') return false;
      throw inUse(error);
    }
  }

  async #file(name: string): Promise<FileSystemFileHandle | undefined> {
    return this.#folder.getFileHandle(name).catch(() => undefined);
  }

  /** What is in a file, if another tab has not removed it meanwhile. */
  async #blob(file: FileSystemFileHandle | undefined): Promise<File | undefined> {
    return file?.getFile().catch(() => undefined);
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
