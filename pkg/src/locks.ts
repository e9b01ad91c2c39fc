/** One writer of a cached file at a time, over all tabs. */
import { ForewordError } from './error.js';

/** Insecure pages and Node 20 have no locks. */
export function locks(): LockManager | undefined {
  return (globalThis.navigator as Navigator | undefined)?.locks;
}

const nameOf = (key: string) => `foreword ${key}`;

/** Runs `job` alone on the file of this key. `waiting` is called where another tab has it. */
export async function locked<T>(key: string, signal: AbortSignal, waiting: () => void, job: () => Promise<T>): Promise<T> {
  const outcome = await unlessBusy(key, job);
  if (outcome) return outcome.value;
  waiting();
  return locks()!.request(nameOf(key), { signal }, job) as Promise<T>;
}

/** Runs `job` alone on the file of this key; nothing where somebody else has it. */
export async function unlessBusy<T>(key: string, job: () => Promise<T>): Promise<{ value: T } | undefined> {
  const manager = locks();
  let begun = false;
  const run = async (lock: unknown) => {
    if (!lock) return undefined;
    begun = true;
    return { value: await job() };
  };
  if (!manager) return run(true);
  try {
    return await manager.request(nameOf(key), { ifAvailable: true }, run);
  } catch (error) {
    // Sandboxed pages have the interface, but are refused.
    if (begun || (error as Error).name !== 'SecurityError') throw error;
    return run(true);
  }
}

export function inUse(cause?: unknown): ForewordError {
  return new ForewordError('storage_failed', 'The file is in use, perhaps in another tab: it is being downloaded, loaded or opened. Delete it when that is done.', { cause });
}
