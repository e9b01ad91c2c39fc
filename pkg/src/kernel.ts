/** Which build of the core runs here, and starting it with its threads. */
import initRelaxed, { Session as RelaxedSession, trial as trialRelaxed } from '../build/relaxed.js';
import initSimd, { Session as SimdSession, trial as trialSimd } from '../build/simd.js';
import initWebGpu, { Session as WebGpuSession, trial as trialWebGpu } from '../build/webgpu.js';
import { ForewordError } from './error.js';
import { compile, isNode, spawn } from './platform.js';
import type { ModelInfo } from './types.js';

/** The smallest module that uses SIMD; valid only where the engine has it. */
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
/**
 * Exports `f() = dot(splat(-3), splat(5))[0]` by the relaxed instruction `i32x4.relaxed_dot_i8x16_i7x16_add_s`. Node 20
 * has a draft of it behind a flag that computes something else.
 */
const RELAXED = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 127, 3, 2, 1, 0, 7, 5, 1, 1, 102, 0, 0, 10, 22, 1, 20, 0, 65, 125, 253, 15, 65, 5, 253, 15,
  65, 0, 253, 17, 253, 147, 2, 253, 27, 0, 11,
];

const isValid = (module: number[]) => WebAssembly.validate(new Uint8Array(module));

function hasRelaxed(): boolean {
  if (!isValid(RELAXED)) return false;
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(new Uint8Array(RELAXED)));
  return (exports['f'] as () => number)() === -60;
}

export type Session = SimdSession;

/** A core, ready to load a model. */
export interface Kernel {
  backend: 'cpu' | 'webgpu';
  Session: typeof SimdSession;
  /** Milliseconds for a short trial, to be compared with another kernel's. */
  trial(): Promise<number>;
  memory: WebAssembly.Memory;
  threads: number;
  limitedBy?: NonNullable<ModelInfo['threadsLimitedBy']>;
  /** Sends a helper thread to the pool at this address. Threads of a pool that is freed serve the next one. */
  start(address: number): void;
  /** Ends the helper threads. */
  stop(): void;
}

/** Starts the best build for the processor, with `wanted` threads where that is possible. */
export async function startCpu(wanted: number | undefined): Promise<Kernel> {
  if (typeof WebAssembly === 'undefined' || !isValid(SIMD)) {
    throw new ForewordError('unsupported_browser', 'This browser has no WebAssembly SIMD. Use a current version of Chrome, Edge, Firefox or Safari.');
  }
  const memory = hasRelaxed() ? sharedMemory() : undefined;
  if (!memory) return startSimd(wanted);
  const threads = threadsFor(wanted);
  const module = await compile(new URL('./relaxed.wasm', import.meta.url));
  await initRelaxed({ module_or_path: module, memory });
  const helpers = await Promise.all(Array.from({ length: threads - 1 }, () => startHelper(module, memory)));
  let next = 0;
  const start = (address: number) => helpers[next++ % helpers.length]!.post({ address });
  return {
    backend: 'cpu',
    Session: RelaxedSession as unknown as typeof SimdSession,
    trial: () => trialRelaxed('cpu', threads, start),
    memory,
    threads,
    ...(!isIsolated() && { limitedBy: 'not_isolated' as const }),
    start,
    stop: () => helpers.forEach((helper) => helper.terminate()),
  };
}

const isIsolated = () => isNode || globalThis.crossOriginIsolated === true;

/** Threads that run where `wanted` are asked for. */
export function threadsFor(wanted: number | undefined): number {
  const cores = globalThis.navigator?.hardwareConcurrency ?? 1;
  return isIsolated() ? Math.max(1, Math.min(wanted ?? cores, wanted ? 64 : 8)) : 1;
}

async function startSimd(wanted: number | undefined): Promise<Kernel> {
  const module = await compile(new URL('./simd.wasm', import.meta.url));
  const { memory } = await initSimd({ module_or_path: module });
  const limit = wanted !== 1 && { limitedBy: 'no_relaxed_simd' as const };
  return { backend: 'cpu', Session: SimdSession, trial: () => trialSimd('cpu', 1, () => {}), memory, threads: 1, ...limit, start() {}, stop() {} };
}

/** Starts the build for WebGPU. */
export async function startWebGpu(): Promise<Kernel> {
  const { memory } = await initWebGpu({ module_or_path: await compile(new URL('./webgpu.wasm', import.meta.url)) });
  const Session = WebGpuSession as unknown as typeof SimdSession;
  return { backend: 'webgpu', Session, trial: () => trialWebGpu('webgpu', 1, () => {}), memory, threads: 1, start() {}, stop() {} };
}

/** In pages of 64 KiB. A shared memory's most is reserved when it is made, and phones refuse the 4 GiB of WASM. */
const MOST_PAGES = [65536, 32768, 16384, 8192];
/** More than the core is linked with. */
const FIRST_PAGES = 64;

/** The largest memory to be had; some engines make one even where it cannot be sent to other threads. */
function sharedMemory(): WebAssembly.Memory | undefined {
  for (const maximum of MOST_PAGES) {
    try {
      return new WebAssembly.Memory({ initial: FIRST_PAGES, maximum, shared: true });
    } catch {
      // A smaller one, or none.
    }
  }
  return undefined;
}

/** A worker on the same memory. It must run before the pool is used: a worker that spins cannot start another. */
function startHelper(module: WebAssembly.Module, memory: WebAssembly.Memory) {
  const worker = spawn(
    new URL('./thread.js', import.meta.url),
    () => new Worker(new URL('./thread.js', import.meta.url), { type: 'module', name: 'foreword-thread' }),
  );
  return new Promise<typeof worker>((resolve, reject) => {
    const failed = (message: string) => reject(new ForewordError('internal', `A thread could not be started: ${message}. Close other tabs, or take fewer threads.`));
    worker.onFailure(failed);
    worker.receive(({ failure }: { failure?: string }) => (failure ? failed(failure) : resolve(worker)));
    worker.post({ module, memory });
  });
}
