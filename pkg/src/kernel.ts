/** Which build of the core runs here, and starting it with its threads. */
import initRelaxed, { Session as RelaxedSession } from '../build/relaxed.js';
import initSimd, { Session as SimdSession } from '../build/simd.js';
import initWebGpu, { Session as WebGpuSession } from '../build/webgpu.js';
import { ForewordError } from './error.js';
import { compile, isNode, spawn } from './platform.js';
import type { LoadArgs } from './rpc.js';
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
  Session: typeof SimdSession;
  memory: WebAssembly.Memory;
  threads: number;
  limitedBy?: NonNullable<ModelInfo['threadsLimitedBy']>;
  /** Sends a helper thread to the pool at this address. */
  start(address: number): void;
}

/** Starts the build for `backend`; on the CPU the best one, with `wanted` threads where that is possible. */
export async function startKernel(backend: LoadArgs['backend'], wanted: number | undefined): Promise<Kernel> {
  if (typeof WebAssembly === 'undefined' || !isValid(SIMD)) {
    throw new ForewordError('unsupported_browser', 'This browser has no WebAssembly SIMD. Use a current version of Chrome, Edge, Firefox or Safari.');
  }
  if (backend === 'webgpu') return startWebGpu();
  const isolated = isNode || globalThis.crossOriginIsolated === true;
  const memory = hasRelaxed() ? sharedMemory() : undefined;
  if (!memory) return startSimd(wanted);
  const cores = globalThis.navigator?.hardwareConcurrency ?? 1;
  const threads = isolated ? Math.max(1, Math.min(wanted ?? cores, wanted ? 64 : 8)) : 1;
  const module = await compile(new URL('./relaxed.wasm', import.meta.url));
  await initRelaxed({ module_or_path: module, memory });
  const helpers = await Promise.all(Array.from({ length: threads - 1 }, () => startHelper(module, memory)));
  return {
    Session: RelaxedSession as unknown as typeof SimdSession,
    memory,
    threads,
    ...(!isolated && { limitedBy: 'not_isolated' as const }),
    start: (address) => helpers.pop()?.post({ address }),
  };
}

async function startSimd(wanted: number | undefined): Promise<Kernel> {
  const module = await compile(new URL('./simd.wasm', import.meta.url));
  const { memory } = await initSimd({ module_or_path: module });
  return { Session: SimdSession, memory, threads: 1, ...(wanted !== 1 && { limitedBy: 'no_relaxed_simd' as const }), start() {} };
}

/** Asks for the adapter first: where there is none, nothing is fetched. */
async function startWebGpu(): Promise<Kernel> {
  const gpu = (globalThis.navigator as { gpu?: { requestAdapter(): Promise<unknown> } } | undefined)?.gpu;
  if (!gpu) throw new ForewordError('unsupported', "There is no WebGPU here. Use a current browser on a page served by HTTPS, or backend: 'cpu'.");
  if (!(await gpu.requestAdapter())) throw new ForewordError('unsupported', "The browser offers no GPU to WebGPU. Use backend: 'cpu'.");
  const { memory } = await initWebGpu({ module_or_path: await compile(new URL('./webgpu.wasm', import.meta.url)) });
  return { Session: WebGpuSession as unknown as typeof SimdSession, memory, threads: 1, start() {} };
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
    worker.onFailure((message) => reject(new ForewordError('internal', `A thread could not be started: ${message}`)));
    worker.receive(() => resolve(worker));
    worker.post({ module, memory });
  });
}
