/**
 * Which build of the core runs a model. With `auto` WebGPU does where it is the faster one in a short trial; its outcome is
 * remembered for this GPU.
 */
import { ForewordError } from './error.js';
import { type Kernel, startCpu, startWebGpu, threadsFor } from './kernel.js';
import type { LoadOptions } from './types.js';

/** A started kernel, and for people why it is this one. */
export interface Chosen {
  kernel: Kernel;
  reason: string;
  /** Name of the GPU; the core is not told. */
  gpu?: string;
}

/** Milliseconds of both in the trial; no `gpu` where WebGPU failed, and why. */
interface Outcome {
  cpu: number;
  gpu?: number;
  failure?: string;
}

interface Adapter {
  info?: { vendor?: string; architecture?: string; device?: string; description?: string; isFallbackAdapter?: boolean };
}

/** To be raised when kernels change so much that trials have to be held again. */
const VERSION = 1;
/** A GPU that does not answer for so long is none. */
const PATIENCE_MS = 15_000;

export async function choose(backend: NonNullable<LoadOptions['backend']>, threads: number | undefined): Promise<Chosen> {
  if (backend === 'cpu') return { kernel: await startCpu(threads), reason: 'WASM was asked for' };
  const adapter = await findAdapter();
  const gpu = typeof adapter === 'string' ? undefined : nameOf(adapter);
  if (backend === 'webgpu') {
    if (!gpu) throw new ForewordError('unsupported', `${adapter}. Use a current browser on a page served by HTTPS, or backend: 'cpu'.`);
    return { kernel: await startWebGpu(), reason: 'WebGPU was asked for', gpu };
  }
  if (!gpu) return { kernel: await startCpu(threads), reason: `WASM: ${lowerFirst(adapter as string)}` };
  // A trial would only tell at length what is known: WASM uses the processor better.
  if (isSoftware(adapter as Adapter)) return { kernel: await startCpu(threads), reason: `WASM: ${gpu} is a software GPU` };
  const key = `${VERSION} ${threadsFor(threads)} ${gpu} ${navigator.userAgent}`;
  const known = await recall(key);
  if (known) return { kernel: await (isGpu(known) ? startWebGpu() : startCpu(threads)), reason: reasonOf(known, gpu), gpu };
  return { ...(await compare(key, gpu, threads)), gpu };
}

/** The adapter, or in words why there is none. Where there is none, nothing is fetched. */
async function findAdapter(): Promise<Adapter | string> {
  const gpu = (globalThis.navigator as { gpu?: { requestAdapter(options: object): Promise<Adapter | null> } } | undefined)?.gpu;
  if (!gpu) return 'There is no WebGPU here';
  const found = gpu.requestAdapter({ powerPreference: 'high-performance' }).catch(() => null);
  return (await inTime(found, null)) ?? 'The browser offers no GPU to WebGPU';
}

function nameOf({ info }: Adapter): string {
  const { vendor, architecture, device, description } = info ?? {};
  return [...new Set([vendor, architecture, device, description])].filter(Boolean).join(' ') || 'an unnamed GPU';
}

/** Whether the processor serves as the GPU. */
const isSoftware = ({ info }: Adapter) => info?.isFallbackAdapter === true;

/** Holds the trial; the loser is given up. */
async function compare(key: string, name: string, threads: number | undefined): Promise<Chosen> {
  const cpu = await startCpu(threads);
  const outcome: Outcome = { cpu: await cpu.trial() };
  let gpu: Kernel | undefined;
  try {
    gpu = await startWebGpu();
    const ms = await inTime(gpu.trial(), Infinity);
    if (Number.isFinite(ms)) outcome.gpu = ms;
    else outcome.failure = 'it did not answer in time';
  } catch (error) {
    outcome.failure = ForewordError.from(error).message;
  }
  // What failed may work the next time: the file may have been out of reach, or the GPU busy.
  if (outcome.gpu !== undefined) await remember(key, outcome);
  const reason = reasonOf(outcome, name);
  if (!gpu || !isGpu(outcome)) return { kernel: cpu, reason };
  cpu.stop();
  return { kernel: gpu, reason };
}

const isGpu = ({ cpu, gpu }: Outcome) => gpu !== undefined && gpu < cpu;

function reasonOf({ cpu, gpu, failure }: Outcome, name: string): string {
  if (gpu === undefined) return `WASM: WebGPU failed on ${name}: ${failure}`;
  const [winner, loser, times] = gpu < cpu ? ['WebGPU', 'WASM', cpu / gpu] : ['WASM', 'WebGPU', gpu / cpu];
  return `${winner}: ${times.toFixed(1)} times as fast as ${loser} in a short trial on ${name}`;
}

/** Workers have no other small store that is kept; without one the trial is held at every load. */
const trials = () => globalThis.caches?.open('foreword-trials');
const addressOf = (key: string) => `https://foreword.invalid/${encodeURIComponent(key)}`;

async function recall(key: string): Promise<Outcome | undefined> {
  try {
    return await (await (await trials())?.match(addressOf(key)))?.json();
  } catch {
    return undefined;
  }
}

async function remember(key: string, outcome: Outcome): Promise<void> {
  try {
    await (await trials())?.put(addressOf(key), Response.json(outcome));
  } catch {
    // Private windows of some browsers keep nothing.
  }
}

function inTime<T>(job: Promise<T>, otherwise: T): Promise<T> {
  let timer: ReturnType<typeof setTimeout>;
  const late = new Promise<T>((resolve) => (timer = setTimeout(resolve, PATIENCE_MS, otherwise)));
  return Promise.race([job, late]).finally(() => clearTimeout(timer));
}

const lowerFirst = (text: string) => text[0]!.toLowerCase() + text.slice(1);
