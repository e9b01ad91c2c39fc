/**
 * Cross-Origin Storage, a draft of the WICG (wicg.github.io/cross-origin-storage): files that all sites share, known by their hash. Where
 * the browser does not have it, or refuses, nothing is there.
 */
import { throwIfAborted } from './error.js';
import type { Writer } from './store.js';

interface Handle {
  getFile(): Promise<Blob>;
  createWritable(): Promise<FileSystemWritableFileStream>;
}

interface Manager {
  requestFileHandle(hash: { algorithm: 'SHA-256'; value: string }, options?: { create: boolean }): Promise<Handle>;
}

const CHUNK = 4 << 20;

const handleOf = async (sha256: string, options?: { create: boolean }): Promise<Handle | undefined> => {
  const { crossOriginStorage } = (globalThis.navigator ?? {}) as { crossOriginStorage?: Manager };
  return crossOriginStorage?.requestFileHandle({ algorithm: 'SHA-256', value: sha256 }, options);
};

/** A file that this or another site has put there. */
export async function sharedFile(sha256: string): Promise<Blob | undefined> {
  try {
    return await (await handleOf(sha256))?.getFile();
  } catch {
    return undefined;
  }
}

/** Puts a file there; where that fails, other sites download it for themselves. */
export async function shareFile(sha256: string, file: Writer, signal: AbortSignal): Promise<void> {
  let writable: FileSystemWritableFileStream | undefined;
  try {
    writable = await (await handleOf(sha256, { create: true }))?.createWritable();
    if (!writable) return;
    for (let at = 0; at < file.size; at += CHUNK) {
      throwIfAborted(signal);
      // A copy: the store gives the same memory at every read.
      await writable.write((await file.read(at, CHUNK)).slice());
    }
    await writable.close();
  } catch {
    await writable?.abort().catch(() => {});
  }
}
