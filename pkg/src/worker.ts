/** The worker: one model, its downloads and its loop of steps. */
import { type Arriving, arrived } from './arrival.js';
import { choose, type Chosen } from './choose.js';
import { checkSize, MOST_BYTES, obtain } from './download.js';
import { ForewordError, throwIfAborted } from './error.js';
import { type Kernel, type Session, startCpu } from './kernel.js';
import { breathe, ownPort } from './platform.js';
import { type CallContext, type Input, type LoadArgs, serve } from './rpc.js';
import { blobReader, openStore } from './store.js';
import { fileReader } from './store-folder.js';
import type { BenchmarkOptions, BenchmarkResult, LoadProgress, ModelInfo, Stats, Usage } from './types.js';

/** A request in the engine. */
interface Open {
  part(chunk: unknown): void;
  resolve(value: unknown): void;
  reject(error: ForewordError): void;
}

interface StepEvent {
  id: number;
  value?: { usage?: Usage };
  done?: boolean;
  error?: { code: ForewordError['code']; message: string };
}

let kernel: Kernel | undefined;
let session: Session | undefined;
let loaded: ModelInfo | undefined;
let origin: LoadArgs | undefined;
/** Whether the device has made a step since it was opened. */
let proven = false;
let last: Usage | undefined;
/** Of all answers but the benchmark's. */
const written = { tokens: 0, forwards: 0, guessed: 0, accepted: 0 };
/** The benchmark's last request. */
let benchmarked = -1;
let pumping = false;
const open = new Map<number, Open>();
/** What has to wait for the end of a step: the engine cannot be entered twice. */
const waiting: (() => void)[] = [];

const announce = serve(ownPort(), {
  load,
  complete: (body, context) => run(context, (s) => s.submit(JSON.stringify(body), crypto.randomUUID(), Math.floor(Date.now() / 1000), randomSeed())),
  tokenize: ({ text, special }) => enter((s) => Array.from(s.tokenize(text, special))),
  detokenize: ({ tokens }) => enter((s) => s.detokenize(Uint32Array.from(tokens))),
  stats: () => enter(stats),
  benchmark,
  list: async () => {
    const entries = (await (await openStore())?.list()) ?? [];
    return entries.map(({ key, url, bytes, totalBytes, complete }) => ({ key, url, bytes, totalBytes, complete }));
  },
  remove: async ({ key }) => (await (await openStore())?.remove(key)) ?? false,
});

async function load(args: LoadArgs, { part, signal }: CallContext<'load'>): Promise<ModelInfo> {
  const begun = performance.now();
  const starting = choose(args.backend, args.threads);
  // Its failure is reported below, when the files are there.
  starting.catch(() => {});
  const stop = new AbortController();
  const cancel = () => stop.abort(signal.reason);
  signal.addEventListener('abort', cancel);
  const files: Arriving[] = [];
  try {
    throwIfAborted(signal);
    const context = { part, signal: stop.signal };
    await openAll(args, context, files);
    const chosen = await starting;
    checkSize(sizeOf(files));
    session = await buildOn(chosen, files, args, context);
    const sidecar = args.early && { sidecar: { sameQuantization: await addSidecar(session, args.early, args.cache, context.signal) } };
    const limit = chosen.kernel.limitedBy;
    const cached = files.every((file) => file.cached);
    const own = { backendReason: chosen.reason, ...(kernel!.backend === 'webgpu' && { device: chosen.gpu }), ...sidecar, ...(limit && { threadsLimitedBy: limit }) };
    loaded = { ...JSON.parse(session.info()), ...own, fileBytes: sizeOf(files), cached, loadMs: performance.now() - begun };
    origin = args;
    return loaded!;
  } catch (error) {
    stop.abort(error);
    // A refused model's download is thrown away by now, and nobody writes to the store any more.
    await Promise.allSettled(files.map((file) => file.finished));
    throw error;
  } finally {
    signal.removeEventListener('abort', cancel);
    files.forEach((file) => file.close());
  }
}

const sizeOf = (files: Arriving[]) => files.reduce((sum, file) => sum + file.size, 0);

/** What a GPU may fail by where the processor does not. */
const GPU_FAULTS = ['unsupported', 'out_of_memory', 'device_lost', 'device_fault', 'internal'];

/** Builds on the chosen kernel; with `auto` on the processor what the GPU cannot take. */
async function buildOn(chosen: Chosen, files: Arriving[], args: LoadArgs, context: CallContext<'load'>): Promise<Session> {
  kernel = chosen.kernel;
  try {
    return await whole(files, () => build(kernel!, files, args, context));
  } catch (error) {
    const { code, message } = ForewordError.from(error);
    if (args.backend !== 'auto' || kernel.backend === 'cpu' || !GPU_FAULTS.includes(code)) throw error;
    chosen.kernel = kernel = await startCpu(args.threads);
    chosen.reason = `WASM: ${message}`;
    return whole(files, () => build(kernel!, files, args, context));
  }
}

/** Builds while the files arrive; again, where one became another file on the way. */
async function whole(files: Arriving[], build: () => Promise<Session>): Promise<Session> {
  const finished = Promise.all(files.map((file) => file.finished));
  // A download that fails does so before the reads that wait for it: its error is the one that is seen.
  const outcome = await Promise.all([build(), finished]).catch((error) => {
    if (!files.some((file) => file.changed)) throw error;
  });
  if (outcome && !files.some((file) => file.changed)) return outcome[0];
  outcome?.[0].free();
  await finished;
  files.forEach((file) => file.renew?.());
  return build();
}

async function build({ backend, Session, threads, start }: Kernel, files: Arriving[], args: LoadArgs, { part, signal }: CallContext<'load'>): Promise<Session> {
  const options = JSON.stringify({ backend, threads, contextLength: args.contextLength, kvCache: args.kvCache, speculate: args.speculate, name: args.name });
  const cached = files.every((file) => file.cached);
  let shown = -Infinity;
  const progress = (loadedBytes: number, totalBytes: number) => {
    throwIfAborted(signal);
    const now = performance.now();
    // What is awaited is the download, as long as there is one.
    if (loadedBytes < totalBytes && (now - shown < 30 || files.some((file) => file.arriving))) return;
    shown = now;
    part({ phase: 'load', loadedBytes, totalBytes, cached });
  };
  try {
    return await Session.load(files, options, start, progress);
  } catch (error) {
    throw fatal(error, 'There is not enough memory for this model. Close other tabs, ask for a shorter context, or take a smaller model.');
  }
}

/** Adds the model's sidecar; it is small, so there is no progress to show. */
async function addSidecar(session: Session, { sidecar, prefill }: NonNullable<LoadArgs['early']>, cache: boolean, signal: AbortSignal): Promise<boolean> {
  const file = await openOne(sidecar, () => {}, signal, cache ? await openStore() : undefined);
  try {
    await file.finished;
    return await session.add_sidecar(file, prefill);
  } finally {
    file.close();
  }
}

/** Opens the files of a model, into `files`. */
async function openAll(args: LoadArgs, { part, signal }: CallContext<'load'>, files: Arriving[]): Promise<void> {
  const store = args.cache ? await openStore() : undefined;
  const progress: LoadProgress[] = [];
  for (const [i, input] of args.inputs.entries()) {
    const report = (p: LoadProgress) => {
      progress[i] = p;
      const sum = (key: 'loadedBytes' | 'totalBytes') => progress.reduce((n, file) => n + file[key], 0);
      part({ ...p, loadedBytes: sum('loadedBytes'), totalBytes: sum('totalBytes') });
    };
    files.push(await openOne(input, throttled(report), signal, store));
  }
}

async function openOne(input: Input, report: (p: LoadProgress) => void, signal: AbortSignal, store: Awaited<ReturnType<typeof openStore>>): Promise<Arriving> {
  if ('blob' in input) return arrived(blobReader(input.blob), false);
  if (input.url.startsWith('file:')) return arrived(fileReader(new URL(input.url)), false);
  return obtain(input, store, report, signal);
}

function throttled(report: (p: LoadProgress) => void): (p: LoadProgress) => void {
  let shown = -Infinity;
  return (p) => {
    const now = performance.now();
    if (now - shown < 50 && p.loadedBytes !== p.totalBytes) return;
    shown = now;
    report(p);
  };
}

/** Runs `job` on the engine, between steps. */
function enter<T>(job: (session: Session) => T): Promise<T> {
  return new Promise((resolve, reject) => {
    const go = () => {
      try {
        if (!session) throw new ForewordError('invalid_request', 'No model is loaded.');
        resolve(job(session));
      } catch (error) {
        reject(error);
      }
    };
    if (pumping) waiting.push(go);
    else go();
  });
}

/** Submits a request, and follows it to its end. */
async function run<T>({ part, signal }: { part(chunk: unknown): void; signal: AbortSignal }, submit: (session: Session) => number): Promise<T> {
  throwIfAborted(signal);
  const id = await enter(submit);
  const answer = new Promise<T>((resolve, reject) => open.set(id, { part, resolve: resolve as (value: unknown) => void, reject }));
  const cancel = () => {
    open.get(id)?.reject(new ForewordError('cancelled', 'The answer was cancelled.'));
    open.delete(id);
    void enter((s) => s.cancel(id)).catch(() => {});
  };
  signal.addEventListener('abort', cancel, { once: true });
  void pump();
  return answer.finally(() => signal.removeEventListener('abort', cancel));
}

/** Steps while there is something to do. */
async function pump(): Promise<void> {
  if (pumping) return;
  pumping = true;
  try {
    while (session && !session.is_idle()) {
      await step(session);
      await breathe();
      waiting.splice(0).forEach((job) => job());
    }
  } catch (error) {
    const failure = fatal(error, 'There was not enough memory to go on. Load the model again, with a shorter context.');
    open.forEach((request, id) => {
      request.reject(failure);
      session?.cancel(id);
    });
    open.clear();
  } finally {
    pumping = false;
    waiting.splice(0).forEach((job) => job());
  }
}

/** One step; when the device is lost or refuses commands, the answers go on elsewhere. */
async function step(s: Session): Promise<void> {
  try {
    (JSON.parse(await s.step()) as StepEvent[]).forEach(deliver);
    proven = true;
  } catch (error) {
    const lost = ForewordError.from(error);
    if (lost.code !== 'device_lost' && lost.code !== 'device_fault') throw error;
    await restore(s, lost);
  }
}

/**
 * Loads the model again: on a new device, or on this thread, if that fails, or the old one never made a step or refused a command,
 * as the new one would.
 */
async function restore(s: Session, lost: ForewordError): Promise<void> {
  const { signal } = new AbortController();
  let failure: unknown = lost;
  for (const backend of proven && lost.code === 'device_lost' ? ['webgpu', 'cpu'] : ['cpu']) {
    const files: Arriving[] = [];
    try {
      await openAll(origin!, { part() {}, signal }, files);
      if (sizeOf(files) !== loaded!.fileBytes) throw new Error('the file has changed');
      await Promise.all([s.restore(files, backend, () => {}), ...files.map((file) => file.finished)]);
      if (origin!.early) await addSidecar(s, origin!.early, origin!.cache, signal);
      proven = false;
      const backendReason = backend === 'webgpu' ? 'WebGPU: the GPU was lost, and opened again' : `WASM: ${lost.message}`;
      const { device } = backend === 'webgpu' ? loaded! : JSON.parse(s.info());
      loaded = { ...loaded!, ...JSON.parse(s.info()), device, backendReason };
      return announce(loaded!);
    } catch (error) {
      // After a trap the core is of no use.
      if (error instanceof WebAssembly.RuntimeError) throw error;
      failure = error;
    } finally {
      files.forEach((file) => file.close());
    }
  }
  throw new ForewordError(lost.code, `${lost.message}, and the model could not be loaded again: ${ForewordError.from(failure).message}`, { cause: failure });
}

function deliver({ id, value, done, error }: StepEvent): void {
  if (value?.usage && id !== benchmarked) count(value.usage);
  const request = open.get(id);
  if (!request) return;
  if (error) request.reject(new ForewordError(error.code, error.message));
  else if (value?.usage) last = value.usage;
  if (done) request.resolve(value);
  else if (!error) request.part(value);
  if (done || error) open.delete(id);
}

function count({ completion_tokens, completion_tokens_details: details }: Usage): void {
  written.tokens += completion_tokens;
  written.forwards += details.forwards;
  written.guessed += details.accepted_prediction_tokens + details.rejected_prediction_tokens;
  written.accepted += details.accepted_prediction_tokens;
}

/** A trap leaves the engine in an unknown state: it is not used again. */
function fatal(error: unknown, outOfMemory: string): ForewordError {
  if (!(error instanceof WebAssembly.RuntimeError)) return ForewordError.from(error);
  session = undefined;
  // Rust aborts when memory cannot be had; the trap itself does not say so, the size of the memory does.
  const full = (kernel?.memory.buffer.byteLength ?? 0) > 0.75 * MOST_BYTES || /memory/.test(error.message);
  return full ? new ForewordError('out_of_memory', outOfMemory) : new ForewordError('internal', `Foreword's core failed: ${error.message}. Load the model again.`);
}

function stats(s: Session): Stats {
  const memory = { ...JSON.parse(s.memory()), wasm: kernel!.memory.buffer.byteLength };
  const kernels = JSON.parse(s.kernels());
  const compileMs = s.compile_ms();
  const { tokens, ...counts } = written;
  const speculation = origin?.speculate && { ...counts, tokensPerForward: counts.forwards ? tokens / counts.forwards : 0 };
  return { memory, ...(kernels.length && { kernels }), ...(compileMs && { compileMs }), running: open.size, ...(last && { last }), ...(speculation && { speculation }) };
}

async function benchmark(args: Omit<BenchmarkOptions, 'signal'>, { signal }: CallContext<'benchmark'>): Promise<BenchmarkResult> {
  const { promptTokens = 512, genTokens = 64, reps = 3 } = args;
  const context = { part() {}, signal };
  const once = async (gen: number) => (await run<{ usage: Usage }>(context, (s) => (benchmarked = s.submit_benchmark(promptTokens, gen)))).usage;
  // The first run warms up: the browser compiles hot code a second time.
  await once(Math.min(genTokens, 8));
  const runs: Usage[] = [];
  for (let i = 0; i < reps; i++) runs.push(await once(genTokens));
  const median = (key: keyof Usage['timings']) => runs.map((u) => u.timings[key]).sort((a, b) => a - b)[runs.length >> 1]!;
  const { backend, device, threads, loadMs } = loaded!;
  return {
    backend,
    device,
    threads,
    load_ms: loadMs,
    prompt_tokens: promptTokens,
    gen_tokens: genTokens,
    prefill_tok_s: median('prefill_tok_s'),
    decode_tok_s: median('decode_tok_s'),
    ttft_ms: median('ttft_ms'),
  };
}

function randomSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0]!;
}
