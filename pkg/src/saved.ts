/** Where sessions are kept, for the worker: a file each, which nobody changes once it is whole. */
import type { Runner } from './engine.js';
import { ForewordError } from './error.js';
import { blobReader } from './files.js';
import { randomId } from './platform.js';
import { type Listed, openStore, type Reader, type Store, type Writer } from './store.js';
import type { OpenedSession, SavedSession } from './types.js';

/** Bytes of a file that are copied at a time. */
const PIECE = 4 << 20;

/** A file that is not whole after this time never will be: whoever wrote it has ended. */
const LEFT_MS = 600_000;

const isWhole = ({ entry, bytes }: Listed) => Boolean(entry?.complete && entry.totalBytes === bytes);
const savedAt = ({ entry }: Listed) => entry?.savedAt ?? 0;

/** Whole files, the newest of each name, the newest first. */
async function newest(store: Store | undefined): Promise<Listed[]> {
  const whole = ((await store?.list()) ?? []).filter(isWhole).sort((a, b) => savedAt(b) - savedAt(a));
  return whole.filter(({ entry }, i) => whole.findIndex((other) => other.entry!.url === entry!.url) === i);
}

async function find(name: string): Promise<Reader> {
  const store = await openStore('sessions');
  const found = (await newest(store)).find(({ entry }) => entry!.url === name);
  const reader = found && (await store!.read(found.key));
  if (!reader) throw new ForewordError('not_found', `No session is kept under the name ${JSON.stringify(name)}.`);
  return reader;
}

/** Writes a new file; what it replaces goes when that is whole. */
export function saveSession(runner: Runner, name: string, body: string): Promise<SavedSession> {
  return runner.alone(async (engine) => {
    const store = await openStore('sessions');
    if (!store) throw new ForewordError('storage_failed', 'This page has no place where a session could be kept; a private window may be the reason.');
    const files = await store.list();
    const former = files.filter(({ entry }) => entry?.url === name && entry.complete);
    const left = files.filter((file) => !isWhole(file) && savedAt(file) < Date.now() - LEFT_MS);
    const entry = { key: randomId(), url: name, totalBytes: 0, complete: false, savedAt: Math.max(Date.now(), ...former.map((file) => savedAt(file) + 1)) };
    const writer = await store.write(entry.key);
    try {
      await writer.save(entry);
      const { write, end } = inTurn(writer);
      // What went wrong in writing says more than that the engine could not write.
      await engine.save(body, write).finally(end);
      entry.totalBytes = writer.size;
      await writer.save({ ...entry, complete: true });
      await writer.close();
    } catch (error) {
      await writer.close();
      await store.remove(entry.key).catch(() => {});
      throw error;
    }
    // What another tab reads cannot be removed; the next time it can.
    for (const { key } of [...former, ...left]) await store.remove(key).catch(() => {});
    return { name, bytes: entry.totalBytes, savedAt: entry.savedAt };
  });
}

/** Gives pieces to a writer, which wait for one another where that takes its time; `end` fails with what the first of them failed with. */
function inTurn(writer: Writer) {
  const failed: unknown[] = [];
  let behind: Promise<void> | void;
  const write = (bytes: Uint8Array) => {
    try {
      behind = behind ? behind.then(() => writer.append(bytes)) : writer.append(bytes);
    } catch (error) {
      failed.push(error);
      throw error;
    }
    behind = behind?.catch((error) => void failed.push(error));
  };
  const end = async () => {
    await behind;
    if (failed.length) throw failed[0];
  };
  return { write, end };
}

export async function openSession(runner: Runner, from: string | Blob): Promise<OpenedSession> {
  const reader = typeof from === 'string' ? await find(from) : blobReader(from);
  try {
    const ready = await atOnce(reader);
    return await runner.alone(async (engine) => JSON.parse(engine.open(ready)));
  } finally {
    reader.close();
  }
}

/** A reader whose reads do not have to be awaited. */
async function atOnce(reader: Reader): Promise<Pick<Reader, 'size' | 'read'>> {
  const { size } = reader;
  if (!(reader.read(0, 1) instanceof Promise)) return reader;
  const bytes = await reader.read(0, size);
  return { size, read: (offset, length) => bytes.subarray(offset, offset + length) };
}

export async function listSessions(): Promise<SavedSession[]> {
  const files = await newest(await openStore('sessions'));
  return files.map((file) => ({ name: file.entry!.url, bytes: file.bytes!, savedAt: savedAt(file) }));
}

export async function deleteSession(name: string): Promise<boolean> {
  const store = await openStore('sessions');
  const own = ((await store?.list()) ?? []).filter(({ entry }) => entry?.url === name && entry.complete);
  return (await Promise.all(own.map(({ key }) => store!.remove(key)))).some(Boolean);
}

export async function exportSession(name: string): Promise<Blob> {
  const reader = await find(name);
  const pieces: Uint8Array[] = [];
  try {
    for (let at = 0; at < reader.size; at += PIECE) pieces.push((await reader.read(at, Math.min(PIECE, reader.size - at))).slice());
  } finally {
    reader.close();
  }
  return new Blob(pieces as BlobPart[]);
}
