/** Which build of the core runs here, and starting it with its threads. */
import type * as Grammars from '../build/grammar.js';
import instance from '../build/grammar.js';
import initRelaxed, { Session as RelaxedSession, trial as trialRelaxed } from '../build/relaxed.js';
import initSimd, { Session as SimdSession, trial as trialSimd } from '../build/simd.js';
import initWebGpu, { Session as WebGpuSession, trial as trialWebGpu } from '../build/webgpu.js';
import { ForewordError, isTrap } from './error.js';
import { compile, importing, isForeign, isNode, type Spawned, spawn } from './platform.js';
import type { ModelInfo } from './types.js';

/** Hashes of the `.wasm` files, from the build: no other version of them is run, nor what a server made of them. */
declare const WASM_INTEGRITY: Record<'simd' | 'webgpu' | 'relaxed' | 'grammar', string>;

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

/** Fails the call to the core that is under way. */
let failCall: (trap: unknown) => void = () => {};

/** Makes a call fail when the core traps. Its future runs in microtasks, so that a trap reaches events, not who waits for it. */
function settling<A extends unknown[], T>(call: (...args: A) => Promise<T>): (...args: A) => Promise<T> {
  return function (this: unknown, ...args) {
    return new Promise((resolve, reject) => {
      failCall = reject;
      call.apply(this, args).then(resolve, reject);
    });
  };
}

function onTrap(event: Event, reason: unknown): void {
  if (!isTrap(reason)) return;
  event.preventDefault();
  failCall(reason);
}
// Node has no such events: a trap ends the worker there, and with it all calls.
globalThis.addEventListener?.('error', (event) => onTrap(event, event.error));
globalThis.addEventListener?.('unhandledrejection', (event) => onTrap(event, event.reason));

for (const Session of [SimdSession, RelaxedSession as unknown as typeof SimdSession, WebGpuSession as unknown as typeof SimdSession]) {
  Session.load = settling(Session.load);
  const calls = Session.prototype;
  calls.step = settling(calls.step);
  calls.restore = settling(calls.restore);
  calls.save = settling(calls.save);
  calls.add_sidecar = settling(calls.add_sidecar);
}

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
  const module = await compile(new URL('./relaxed.wasm', import.meta.url), WASM_INTEGRITY.relaxed);
  await initRelaxed({ module_or_path: module, memory });
  const wished = threadsFor(wanted);
  const helpers = await startHelpers(wished - 1, module, memory);
  const threads = helpers.length + 1;
  const limitedBy = !isIsolated() ? 'not_isolated' : threads < wished ? 'no_workers' : undefined;
  let next = 0;
  const start = (address: number) => helpers[next++ % helpers.length]!.post({ address });
  return {
    backend: 'cpu',
    Session: RelaxedSession as unknown as typeof SimdSession,
    trial: () => settling(trialRelaxed)('cpu', threads, start),
    memory,
    threads,
    ...(limitedBy && { limitedBy }),
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
  const module = await compile(new URL('./simd.wasm', import.meta.url), WASM_INTEGRITY.simd);
  const { memory } = await initSimd({ module_or_path: module });
  const limit = wanted !== 1 && { limitedBy: 'no_relaxed_simd' as const };
  return { backend: 'cpu', Session: SimdSession, trial: () => settling(trialSimd)('cpu', 1, () => {}), memory, threads: 1, ...limit, start() {}, stop() {} };
}

/** Starts the build for WebGPU. */
export async function startWebGpu(): Promise<Kernel> {
  const { memory } = await initWebGpu({ module_or_path: await compile(new URL('./webgpu.wasm', import.meta.url), WASM_INTEGRITY.webgpu) });
  const Session = WebGpuSession as unknown as typeof SimdSession;
  return { backend: 'webgpu', Session, trial: () => settling(trialWebGpu)('webgpu', 1, () => {}), memory, threads: 1, start() {}, stop() {} };
}

/** Loads what compiles grammars; it makes vocabularies for {@link Session.constrain}, each in an instance of its own. */
export async function loadGrammars(): Promise<(...args: ConstructorParameters<typeof Grammars.Vocabulary>) => Grammars.Vocabulary> {
  const module = await compile(new URL('./grammar.wasm', import.meta.url), WASM_INTEGRITY.grammar);
  return (...args) => {
    // The build makes a function of this file, whose types are those of what it returns.
    const { initSync, Vocabulary } = (instance as unknown as () => typeof Grammars)();
    initSync({ module });
    return new Vocabulary(...args);
  };
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

/** Starts helper threads; fewer, or none, where the page may not start the workers for them. */
async function startHelpers(n: number, module: WebAssembly.Module, memory: WebAssembly.Memory): Promise<Spawned[]> {
  const started = await Promise.allSettled(Array.from({ length: n }, async () => startHelper(module, memory)));
  const helpers = started.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []));
  const failure = started.flatMap((each) => (each.status === 'rejected' && each.reason instanceof ForewordError ? [each.reason] : []))[0];
  if (!failure) return helpers;
  helpers.forEach((helper) => helper.terminate());
  throw failure;
}

/**
 * A worker on the same memory. It must run before the pool is used: a worker that spins cannot start another. Fails with a
 * ForewordError where it began to run.
 */
function startHelper(module: WebAssembly.Module, memory: WebAssembly.Memory): Promise<Spawned> {
  const foreign = isForeign(import.meta.url) && importing(new URL(/* @vite-ignore */ 'thread.js', import.meta.url));
  const worker = spawn(new URL('./thread.js', import.meta.url), () =>
    foreign ? new Worker(foreign, { type: 'module', name: 'foreword-thread' }) : new Worker(new URL('./thread.js', import.meta.url), { type: 'module', name: 'foreword-thread' }),
  );
  return new Promise((resolve, reject) => {
    worker.onFailure((message) => reject(new Error(message)));
    worker.receive(({ failure }: { failure?: string }) => {
      if (!failure) resolve(worker);
      else reject(new ForewordError('internal', `A thread could not be started: ${failure}. Close other tabs, or take fewer threads.`));
    });
    worker.post({ module, memory });
  });
}
