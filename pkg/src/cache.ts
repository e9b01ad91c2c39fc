/** The models in the cache, for people to see and to delete. */
import { inUse, unlessBusy } from './locks.js';
import { openStore } from './store.js';
import type { CachedModel } from './types.js';

export async function listModels(): Promise<CachedModel[]> {
  const store = await openStore();
  const models: CachedModel[] = [];
  for (const { key, entry, bytes } of (await store?.list()) ?? []) {
    if (entry && bytes !== undefined) {
      const { url, totalBytes, complete } = entry;
      models.push({ key, url, bytes, totalBytes, complete });
    } else {
      // Bytes that nothing is known of, or the reverse. A download that has just begun holds its lock.
      await unlessBusy(key, () => store!.remove(key)).catch(() => {});
    }
  }
  return models;
}

/** Deletes a model; `false` when it was not there. */
export async function removeModel(key: string): Promise<boolean> {
  const store = await openStore();
  if (!store) return false;
  const removed = await unlessBusy(key, () => store.remove(key));
  if (!removed) throw inUse();
  return removed.value;
}
