/**
 * Where downloads and sessions are kept: the origin-private file system, else the Cache API, else (in Node) a folder. Five verbs:
 * list, stat, read, write, remove. An entry is a file and what is known of it; a file that is not complete is kept, so
 * that its download can go on.
 */
import { nodeModule } from './platform.js';
import { CacheStore } from './store-cache.js';
import { FolderStore } from './store-folder.js';
import { OpfsStore } from './store-opfs.js';

/** What is known of a file. */
export interface Entry {
  key: string;
  /** What the file is known by: its address, or the caller's name for it. */
  url: string;
  /** Bytes in all; 0 when unknown. */
  totalBytes: number;
  complete: boolean;
  /** The server's mark of this version of the file. */
  etag?: string;
  /** XXH64 of the whole file: finds damage in the cache. */
  checksum?: string;
  /** SHA-256 of the whole file, where the download was checked against one. */
  sha256?: string;
  /** When a session was kept, in milliseconds since 1970. */
  savedAt?: number;
}

/** What the store has under a key; where one half is missing, the other is of no use. */
export interface Listed {
  key: string;
  entry: Entry | undefined;
  bytes: number | undefined;
}

/** Bytes of a complete file. What is read is there until the next read. */
export interface Reader {
  size: number;
  read(offset: number, length: number): Uint8Array | Promise<Uint8Array>;
  close(): void;
}

/** So much of a file's end is compared where a download goes on, and the server names no version of the file. */
export const OVERLAP = 64 << 10;

/** A file that is being written. */
export interface Writer {
  /** Bytes here. */
  readonly size: number;
  append(bytes: Uint8Array): void | Promise<void>;
  /** Reads back what was appended. */
  read(offset: number, length: number): Uint8Array | Promise<Uint8Array>;
  /** `read` for the model, which takes a byte once: where nothing is stored, the byte is given up then. */
  take?(offset: number, length: number): Uint8Array;
  /** Whether bytes were wanted that had been given up. */
  readonly lost?: boolean;
  /** Throws away all bytes. */
  clear(): void | Promise<void>;
  /** Keeps what is known of the file. */
  save(entry: Entry): Promise<void>;
  close(): Promise<void>;
}

export interface Store {
  list(): Promise<Listed[]>;
  stat(key: string): Promise<Entry | undefined>;
  /** The file, or nothing where it is gone. */
  read(key: string): Promise<Reader | undefined>;
  write(key: string): Promise<Writer>;
  /** Removes the file first, and what is known of it last: what fails on the way can be done again. `false` when there was nothing. */
  remove(key: string): Promise<boolean>;
}

/** What is kept, each kind in a place of its own. */
export type Kind = 'models' | 'sessions';

/** The best store that this platform has. Private windows and sandboxes have interfaces, but refuse to open them. */
export async function openStore(kind: Kind = 'models'): Promise<Store | undefined> {
  const storage = (globalThis.navigator as Navigator | undefined)?.storage;
  const hasHandles = 'createSyncAccessHandle' in (globalThis.FileSystemFileHandle?.prototype ?? {});
  try {
    if (nodeModule('fs')) return new FolderStore(kind);
    if (storage?.getDirectory && hasHandles) {
      const root = await storage.getDirectory();
      return new OpfsStore(await root.getDirectoryHandle(kind === 'models' ? 'foreword' : `foreword-${kind}`, { create: true }));
    }
  } catch {
    // The next one.
  }
  try {
    return globalThis.caches && new CacheStore(await caches.open(`foreword-${kind}`));
  } catch {
    return undefined;
  }
}
