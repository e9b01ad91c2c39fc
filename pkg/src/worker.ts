/** The worker: one model, its downloads and its loop of steps. */
import type { Arriving } from './arrival.js';
import { listModels, removeModel } from './cache.js';
import { choose, type Chosen } from './choose.js';
import { checked, obtain } from './download.js';
import { type RunContext, Runner } from './engine.js';
import { ForewordError, throwIfAborted } from './error.js';
import { blobReader } from './files.js';
import { type Kernel, loadGrammars, type Session, startCpu } from './kernel.js';
import { borrow } from './lend.js';
import { isNode, ownPort, randomId } from './platform.js';
import { explained } from './policy.js';
import { type CallContext, type Input, type LoadArgs, serve } from './rpc.js';
import { deleteSession, exportSession, listSessions, openSession, saveSession } from './saved.js';
import { noteSpeed } from './speeds.js';
import { openStore, type Store } from './store.js';
import { fileReader } from './store-folder.js';
import { checkSize, MOST_BYTES } from './transfer.js';
import type { BenchmarkOptions, BenchmarkResult, LoadProgress, ModelInfo, Stats, Usage } from './types.js';

type LoadContext = Pick<CallContext<'load'>, 'part' | 'signal'>;

let kernel: Kernel | undefined;
let runner: Runner | undefined;
let loaded: ModelInfo | undefined;
let origin: LoadArgs | undefined;
/** What requests the model's files. */
let request = globalThis.fetch;
/** Whether this model's files are read more than once while it is loaded. */
let kept = false;

const announce = serve(ownPort(), {
  load: (args, context) => load(args, context).catch((error) => Promise.reject(explained(error))),
  complete: async (body, context) => {
    await constrain(body);
    const value = await engine().run(context, (s) => s.submit(body, randomId(), Math.floor(Date.now() / 1000), randomSeed()));
    void noteSpeed(loaded!, runner!.last);
    return value;
  },
  count: (body) => engine().enter((s) => s.count_tokens(body)),
  tokenize: ({ text, special }) => engine().enter((s) => Array.from(s.tokenize(text, special))),
  detokenize: ({ tokens }) => engine().enter((s) => s.detokenize(Uint32Array.from(tokens))),
  stats: () => engine().enterCounted(stats),
  saveSession: ({ name, body }) => saveSession(engine(), name, body),
  openSession: ({ from }) => openSession(engine(), from),
  listSessions,
  deleteSession: ({ name }) => deleteSession(name),
  exportSession: ({ name }) => exportSession(name),
  benchmark,
  list: listModels,
  remove: ({ key }) => removeModel(key),
});

function engine(): Runner {
  if (!runner) throw new ForewordError('invalid_request', 'No model is loaded.');
  return runner;
}

/** The model whose answers can be kept to what they have to look like. */
let constrained: Session | undefined;

/** Sees to it that a request can be honoured which says what its answer has to look like. */
async function constrain(body: string): Promise<void> {
  if (engine().session === constrained || !kernel!.Session.is_constrained(body)) return;
  const vocabulary = await loadGrammars();
  await engine().enter((s) => {
    s.constrain(vocabulary);
    constrained = s;
  });
}

async function load(args: LoadArgs, context: LoadContext): Promise<ModelInfo> {
  const begun = performance.now();
  if (args.fetch) request = borrow(args.fetch);
  const starting = choose(args.backend, args.threads);
  // Its failure is reported below, when the files are there.
  starting.catch(() => {});
  const info = await attempt(args, context, starting).catch((error) => {
    if (!(error instanceof Again)) throw error;
    kept ||= error.keep;
    return attempt(args, context, starting);
  });
  loaded = { ...info, loadMs: performance.now() - begun };
  origin = args;
  return loaded;
}

/** A load that may go well with a new download. */
class Again extends ForewordError {
  /** Whether all of it has to be kept until the model is there. */
  readonly keep: boolean;

  constructor({ code, message, cause }: ForewordError, keep: boolean) {
    super(code, message, { cause });
    this.keep = keep;
  }
}

async function attempt(args: LoadArgs, { part, signal }: LoadContext, starting: Promise<Chosen>): Promise<ModelInfo> {
  const stop = new AbortController();
  const cancel = () => stop.abort(signal.reason);
  signal.addEventListener('abort', cancel);
  const files: Arriving[] = [];
  let session: Session | undefined;
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
    runner = new Runner(session, { lost: (error) => restore(runner!.session, error), broken });
    return { ...JSON.parse(session.info()), ...own, fileBytes: sizeOf(files), cached };
  } catch (error) {
    stop.abort(error);
    // A refused model's download is thrown away by now, and nobody writes to the store any more.
    await Promise.allSettled(files.map((file) => file.finished));
    const failure = ForewordError.from(error);
    if (files.some((file) => file.lost)) throw new Again(failure, true);
    if (session || failure.code !== 'bad_file') throw error;
    await evict(files);
    // The file may have been damaged when it went into the cache, and be whole at its server.
    throw files.some((file) => file.cached) ? new Again(failure, false) : failure;
  } finally {
    signal.removeEventListener('abort', cancel);
    files.forEach((file) => file.close());
  }
}

/** Takes damaged files out of the cache. */
async function evict(files: Arriving[]): Promise<void> {
  for (const file of files) {
    await file.close();
    // What is in use elsewhere stays; it is found out there, too.
    await file.evict?.().catch(() => {});
  }
}

const sizeOf = (files: Arriving[]) => files.reduce((sum, file) => sum + file.size, 0);

/** What a GPU may fail by where the processor does not. */
const GPU_FAULTS = ['unsupported', 'out_of_memory', 'device_lost', 'device_fault', 'internal'];

/** Builds on the chosen kernel; with `auto` on the processor what the GPU cannot take. */
async function buildOn(chosen: Chosen, files: Arriving[], args: LoadArgs, context: LoadContext): Promise<Session> {
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

async function build({ backend, Session, threads, start }: Kernel, files: Arriving[], args: LoadArgs, { part, signal }: LoadContext): Promise<Session> {
  const options = JSON.stringify({ backend, threads, contextLength: args.contextLength, kvCache: args.kvCache, kvMemory: args.kvMemory, speculate: args.speculate, sampling: args.sampling, name: args.name });
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
    throw ofTrap(error, 'There is not enough memory for this model. Close other tabs, ask for a shorter context, or take a smaller model.');
  }
}

/** Adds the model's sidecar; it is small, so there is no progress to show. */
async function addSidecar(session: Session, { sidecar, prefill }: NonNullable<LoadArgs['early']>, cache: LoadArgs['cache'], signal: AbortSignal): Promise<boolean> {
  const file = await openOne(sidecar, cache ? await openStore() : undefined, () => {}, signal, false, true);
  try {
    await file.finished;
    return await session.add_sidecar(file, prefill);
  } catch (error) {
    if (ForewordError.from(error).code === 'bad_file') await evict([file]);
    throw error;
  } finally {
    await file.close();
  }
}

/** Opens the files of a model, into `files`. */
async function openAll(args: LoadArgs, { part, signal }: LoadContext, files: Arriving[]): Promise<void> {
  const store = args.cache ? await openStore() : undefined;
  const progress: LoadProgress[] = [];
  for (const [i, input] of args.inputs.entries()) {
    const report = (p: LoadProgress) => {
      progress[i] = p;
      const sum = (key: 'loadedBytes' | 'totalBytes') => progress.reduce((n, file) => n + file[key], 0);
      // How much it is in all is known when every file was announced.
      const known = progress.filter((file) => file?.totalBytes).length === args.inputs.length;
      part({ ...p, loadedBytes: sum('loadedBytes'), totalBytes: known ? sum('totalBytes') : 0 });
    };
    files.push(await openOne(input, store, throttled(report), signal, args.cache === 'cross-origin'));
  }
}

async function openOne(input: Input, store: Store | undefined, report: (p: LoadProgress) => void, signal: AbortSignal, share: boolean, keep = kept): Promise<Arriving> {
  if ('blob' in input) return checked(blobReader(input.blob), input, report, signal);
  if (isNode && input.url.startsWith('file:')) return checked(fileReader(new URL(input.url)), input, report, signal);
  return obtain(input, store, { report, signal, fetch: request, keep, share });
}

/** Leaves reports out that say nothing but a few more bytes. */
function throttled(report: (p: LoadProgress) => void): (p: LoadProgress) => void {
  let shown = -Infinity;
  let phase: LoadProgress['phase'] | undefined;
  return (p) => {
    const now = performance.now();
    if (now - shown < 50 && p.phase === phase && p.loadedBytes !== p.totalBytes) return;
    shown = now;
    phase = p.phase;
    report(p);
  };
}

/**
 * Loads the model again: on a new device, or on this thread, if that fails, or the old one never made a step or refused a command,
 * as the new one would.
 */
async function restore(s: Session, lost: ForewordError): Promise<void> {
  const { signal } = new AbortController();
  let failure: unknown = lost;
  for (const backend of runner!.proven && lost.code === 'device_lost' ? ['webgpu', 'cpu'] : ['cpu']) {
    const files: Arriving[] = [];
    try {
      await openAll(origin!, { part: announce.progress, signal }, files);
      if (sizeOf(files) !== loaded!.fileBytes) throw new Error('the file has changed');
      await Promise.all([s.restore(files, backend, () => {}), ...files.map((file) => file.finished)]);
      if (origin!.early) await addSidecar(s, origin!.early, origin!.cache, signal);
      runner!.proven = false;
      const backendReason = backend === 'webgpu' ? 'WebGPU: the GPU was lost, and opened again' : `WASM: ${lost.message}`;
      const { device } = backend === 'webgpu' ? loaded! : JSON.parse(s.info());
      loaded = { ...loaded!, ...JSON.parse(s.info()), device, backendReason };
      return announce.info(loaded!);
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

/** The engine is of no use any more: the page ends this worker, which frees its memory. */
function broken(error: unknown): ForewordError {
  const failure = ofTrap(error, 'There was not enough memory to go on. Load the model again, with a shorter context.');
  announce.over(failure);
  return failure;
}

/** What a trap means. */
function ofTrap(error: unknown, outOfMemory: string): ForewordError {
  if (!(error instanceof WebAssembly.RuntimeError)) return ForewordError.from(error);
  // Rust aborts when memory cannot be had; the trap itself does not say so, the memory does.
  if (kernel && isFull(kernel.memory)) return new ForewordError('out_of_memory', outOfMemory, { cause: error });
  return new ForewordError('internal', `Foreword's core failed: ${error.message}. Load the model again.`, { cause: error });
}

function isFull(memory: WebAssembly.Memory): boolean {
  if (memory.buffer.byteLength > 0.75 * MOST_BYTES) return true;
  try {
    memory.grow(1024);
    return false;
  } catch {
    return true;
  }
}

function stats(s: Session): Stats {
  const memory = { ...JSON.parse(s.memory()), wasm: kernel!.memory.buffer.byteLength };
  const kernels = JSON.parse(s.kernels());
  const compileMs = s.compile_ms();
  const { last, running, written } = runner!;
  const { tokens, ...counts } = written;
  const speculation = origin?.speculate && { ...counts, tokensPerForward: counts.forwards ? tokens / counts.forwards : 0 };
  return { memory, ...(kernels.length && { kernels }), ...(compileMs && { compileMs }), running, ...(last && { last }), ...(speculation && { speculation }) };
}

async function benchmark(args: Omit<BenchmarkOptions, 'signal'>, { signal }: CallContext<'benchmark'>): Promise<BenchmarkResult> {
  const { promptTokens = 512, genTokens = 64, reps = 3 } = args;
  const context: RunContext = { part() {}, signal };
  const once = async (gen: number) => (await engine().benchmark<{ usage: Usage }>(context, promptTokens, gen)).usage;
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
