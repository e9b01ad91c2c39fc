/** From what `load` is told to a worker that loads the model. */
import { folderOf } from './address.js';
import { checkCounts, checkFunctions, signalOf } from './checks.js';
import { connect, type Connection } from './client.js';
import { ForewordError } from './error.js';
import { lend } from './lend.js';
import type { LoadArgs } from './rpc.js';
import { resolve } from './sources.js';
import type { LoadOptions, LoadProgress, ModelInfo, ModelSource } from './types.js';

/** What is to be loaded, checked. */
export interface Order {
  args: LoadArgs;
  transfer: Transferable[];
  assets: LoadOptions['assets'];
  onProgress: LoadOptions['onProgress'];
  persist: boolean;
  signal: AbortSignal | undefined;
}

/** A model on its way. */
export interface Opening {
  connection: Connection;
  /** Of what answers first. Where it fails, the connection is closed. */
  info: Promise<ModelInfo>;
  /** Of the model that was asked for. */
  ready: Promise<ModelInfo>;
}

/** Checks what `load` was told. */
export function orderOf(source: ModelSource, options: LoadOptions): Order {
  const { backend = 'auto', threads, contextLength, kvCache, kvMemory, speculate, sidecar, prefill, onProgress, cache = true, assets, persist } = options;
  if (!['auto', 'cpu', 'webgpu'].includes(backend)) throw new ForewordError('unsupported', `There is no backend ${JSON.stringify(backend)}; take 'auto', 'cpu' or 'webgpu'.`);
  checkCounts({ threads, contextLength });
  checkCounts({ kvMemory }, 2 ** 32 - 1);
  checkFunctions({ onProgress, fetch: options.fetch });
  if (!sidecar && (prefill === 'fast' || prefill === 'progressive')) throw new ForewordError('invalid_request', `prefill ${JSON.stringify(prefill)} needs the model's sidecar.`);
  const early = sidecar && { sidecar: resolve(sidecar, {}).inputs[0]!, prefill: prefill ?? 'auto' };
  const signal = signalOf(options.signal);
  const port = options.fetch && lend(options.fetch);
  const args: LoadArgs = {
    ...resolve(source, options),
    cache: cache === 'cross-origin' ? cache : Boolean(cache),
    backend,
    ...(threads && { threads }),
    ...(contextLength && { contextLength }),
    ...(kvCache && { kvCache }),
    ...(kvMemory && { kvMemory }),
    ...(speculate && { speculate: speculate === 'auto' ? {} : { ...speculate } }),
    ...(early && { early }),
    ...(port && { fetch: port }),
  };
  return { args, transfer: port ? [port] : [], assets, onProgress, persist: Boolean(persist), signal };
}

/** Starts a worker that loads a model. */
export function open({ args, transfer, assets, onProgress, persist, signal }: Order): Opening {
  const connection = start(assets);
  let asked = !persist;
  const part = (progress: LoadProgress) => {
    // At the first download, when it is clear what for; workers cannot ask. A refusal only means that the browser may tidy up.
    if (!asked && progress.phase === 'download') void globalThis.navigator?.storage?.persist?.().catch(() => false);
    asked ||= progress.phase === 'download';
    onProgress?.(progress);
  };
  const loaded = connection.client.call('load', args, { signal, part, transfer });
  const info = loaded.then(
    (info) => (connection.client.on({ progress: part }), info),
    (error) => {
      // The worker may be deep in a synchronous stretch: its end is the quickest way out, and what was downloaded stays.
      const failure = ForewordError.from(error);
      connection.close(failure);
      throw failure;
    },
  );
  return { connection, info, ready: info };
}

/** Browsers refuse workers to some pages, by errors of their own. */
export function start(assets: LoadOptions['assets']): Connection {
  try {
    return connect(assets ? folderOf(assets) : undefined);
  } catch (error) {
    if (error instanceof ForewordError) throw error;
    throw new ForewordError('worker_lost', `Foreword's worker could not be started: ${(error as Error).message}`, { cause: error });
  }
}
