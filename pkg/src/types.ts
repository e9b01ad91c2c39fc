import type { ConnectOptions } from './connect.js';
import type { ErrorCode } from './error.js';
import type { ChatCompletionRequest, CompletionRequest, Usage } from './openai.js';

export type * from './openai.js';

/** What a model can be loaded from. Strings: a registry name, `hf:owner/repo/file.gguf` (`hf:owner/repo@revision/file.gguf`), a URL, in Node also a path. */
export type ModelSource = string | URL | Blob | (string | URL)[];

/** A model that can be asked for by name. */
export interface RegistryModel {
  name: string;
  title: string;
  family: string;
  parameters: number;
  /** What it is listed for. */
  use: 'chat' | 'reasoning' | 'code' | 'tools';
  /** What it is good at, in a few words. */
  about: string;
  license: string;
  /** Tokens that it was trained for. */
  context: number;
  /** What its maker advises. */
  sampling?: { temperature?: number; top_p?: number; top_k?: number };
  /** Whether this very file was run and compared; of the others, only their architecture was. */
  tested: boolean;
  file: string;
  bytes: number;
}

export interface LoadOptions {
  /**
   * `cpu`: WASM. `webgpu`: any GPU that the browser offers, a software one included. `auto` (default): WebGPU where it is the
   * faster one in a short trial, which is held once for a GPU and not for software ones, else WASM.
   */
  backend?: 'auto' | 'cpu' | 'webgpu';
  /** Threads; by default the number of cores, at most 8. More than one needs a cross-origin isolated page. */
  threads?: number;
  /** Longest conversation in tokens; by default what the model was trained for, at most 8192. */
  contextLength?: number;
  /** Number format of the KV cache. */
  kvCache?: 'f16' | 'q8_0';
  /**
   * Most bytes of KV cache, which grows with the conversation. Where they are used up, what is kept of earlier ones gives way; then
   * prompts are refused as `context_length_exceeded`, and answers end.
   */
  kvMemory?: number;
  /** Guess the next tokens and check them together: the same answers, sooner where the text repeats itself. Off by default. */
  speculate?: 'auto' | false | Speculation;
  /** A sidecar of this model: with it, answers to long prompts can begin early. */
  sidecar?: string | URL | Blob;
  /**
   * A small model that answers while this one is downloaded, with the options of this one but `sha256`, `cacheKey`, `headers`, `sidecar`
   * and `prefill`; `true`: the smallest of the list of models, where this is a much larger one of it. It is not loaded where the model is in the
   * cache. `load` is done when the opener answers, and {@link Foreword.ready} when the model does; an answer under way is ended by
   * whoever began it. `signal` cancels what is not loaded yet.
   */
  opener?: ModelSource | boolean;
  /**
   * One model for all tabs of this site that load it with the same options: one of them has the worker, and another one takes over when
   * that closes. Needs Web Locks, so HTTPS; elsewhere each tab has its own.
   */
  shared?: boolean;
  /**
   * A server that answers in the device's place where that cannot, or should not. Without it nothing leaves the device; with it,
   * conversations may. Whichever fails, the other one takes over, in the middle of an answer, too.
   */
  remote?: ConnectOptions;
  /**
   * Who answers first where there is a `remote`. `auto` (default): the device, unless the model does not fit there or answers would be
   * slow (see {@link Foreword.estimate}). The server is not asked before it is needed, and the model is not downloaded before.
   */
  prefer?: 'device' | 'remote' | 'auto';
  /** Told who answers from now on, where there is a `remote`; `choice` says why. */
  onSwitch?: (info: ModelInfo) => void;
  /** How prompts are read whose request does not say; `auto` with a sidecar, otherwise `exact`. */
  prefill?: Prefill;
  /** Told how the load goes on; also when the model is loaded again because its GPU was lost, with `cache: false` by a new download. */
  onProgress?: (progress: LoadProgress) => void;
  /** Cancels the load; a partial download is kept and resumed by the next one. */
  signal?: AbortSignal;
  /**
   * Keep downloads for the next visit (default). `cross-origin`: also share files whose SHA-256 is known with other sites, by
   * Cross-Origin Storage, where the browser has that and the user agrees.
   */
  cache?: boolean | 'cross-origin';
  /** Ask the browser, at the first download, not to tidy the cache up; some ask the user. Off by default. */
  persist?: boolean;
  /** A folder of one's own where models of the registry lie; looked in before other places. */
  mirror?: string | URL;
  /** SHA-256 that the file must have, in hex; of a model of several files a list. */
  sha256?: string | string[];
  /** What the model is known by in the cache; by default its address, which is another one each time where addresses are signed. */
  cacheKey?: string;
  /** Sent with every request of the model's files, but not to the fallbacks of a model of the registry. */
  headers?: HeadersInit;
  /** Makes the requests of the model's files in place of the page's `fetch`. */
  fetch?: typeof fetch;
  /** Access token of the model hub, for models that need one; sent to the hub only. */
  token?: string;
  /** Where this package's `worker.js` and `.wasm` files lie, if the bundler does not find them (esbuild). */
  assets?: string | URL;
}

/**
 * `exact`: by the whole model. `fast`: the answer begins early, from a predicted cache. `progressive`: the same, and the exact
 * reading goes on behind the first words. `auto`: progressive where it saves much time.
 */
export type Prefill = 'exact' | 'fast' | 'progressive' | 'auto';

export interface Speculation {
  /** What guesses: the text itself (default), or the model's first layers. */
  drafter?: 'ngram' | `layers:${number}`;
  /** Form of the tree of guesses; by default chosen anew in each step, by what pays. */
  method?: 'auto' | 'rsd-s' | 'rsd-c' | 'chain';
  /** Guesses a step; not with `auto`. */
  budget?: number;
}

export interface LoadProgress {
  /**
   * `waiting`: for another tab that downloads the same file, or for the network; `download`: bytes arrive; `verify`: a cached file is
   * checked; `load`: tensors go into memory.
   */
  phase: 'waiting' | 'download' | 'verify' | 'load';
  loadedBytes: number;
  /** 0 when unknown. */
  totalBytes: number;
  /** Whether the file was in the cache. */
  cached: boolean;
  /** That of the opener. */
  opener?: true;
}

/** What a model will need and how it will run here. */
export interface Estimate {
  /** Of its files; 0 when unknown. */
  bytes: number;
  /** Of these, what is not in the cache. */
  downloadBytes: number;
  /**
   * Bytes of memory with a conversation of 2,048 tokens, or of `contextLength` where that is less, and at most `kvMemory` for it. Roughly:
   * what a token takes is another with each family. 0 when unknown.
   */
  memory: number;
  /** Whether that is less than a page gets here, as far as the browser tells. */
  fits: boolean;
  /** Of an answer, from what other models were measured at here; not there where none has written an answer yet. */
  tokensPerSecond?: number;
  /** The wait for the first word behind 128 tokens of a prompt; likewise. */
  firstWordMs?: number;
}

/** A conversation that is kept; see `sessions`. */
export interface SavedSession {
  name: string;
  /** Of its file. */
  bytes: number;
  /** When, in milliseconds since 1970. */
  savedAt: number;
}

/** A conversation that was opened. */
export interface OpenedSession {
  /** What was saved. */
  request: ChatCompletionRequest | CompletionRequest;
  /** How many tokens of it need not be read again. */
  tokens: number;
}

export interface ModelInfo {
  name: string;
  architecture: string;
  contextLength: number;
  trainedContextLength: number;
  /** That this is the opener, and the model itself is on its way. */
  opener?: true;
  vocabulary: number;
  layers: number;
  dimension: number;
  /** Whether the file has a chat template. */
  chat: boolean;
  /** `remote`: on a server, which does not say what is 0 or empty here. */
  backend: 'cpu' | 'webgpu' | 'remote';
  /** For people: why it runs there. */
  backendReason: string;
  /** For people, where a `remote` was given: why the device or the server answers. */
  choice?: string;
  /** Instruction set, the GPU, or the server. */
  device: string;
  threads: number;
  /** The sidecar, if one was loaded, and whether it was made for this very quantization of the model. */
  sidecar?: { sameQuantization: boolean };
  /** Why only one thread runs, where more were possible in another setting. */
  threadsLimitedBy?: 'not_isolated' | 'no_relaxed_simd' | 'no_workers';
  fileBytes: number;
  cached: boolean;
  loadMs: number;
}

export interface Stats {
  /** Bytes. */
  memory: { weights: number; cache: number; buffers: number; wasm: number };
  /** Of a GPU with timestamps: time and runs of each kernel since the model was loaded, in the steps that were measured. */
  kernels?: { kernel: string; ms: number; runs: number }[];
  /** Of a GPU: milliseconds that compiling kernels took while bytes of the model were awaited. */
  compileMs?: number;
  /** Requests under way. */
  running: number;
  /** Of the last answer. */
  last?: Usage;
  /** Where the model was loaded with `speculate`. */
  speculation?: SpeculationStats;
}

/** Of all answers since the model was loaded, cancelled ones included, those of `benchmark()` not. */
export interface SpeculationStats {
  /** Tokens that were guessed, and those of them that became part of an answer. */
  guessed: number;
  accepted: number;
  /** Forwards that gave tokens of answers. */
  forwards: number;
  /** Tokens of the answers by these forwards: 1 without guesses, 0 before the first answer. */
  tokensPerForward: number;
}

export interface BenchmarkOptions {
  promptTokens?: number;
  genTokens?: number;
  reps?: number;
  signal?: AbortSignal;
}

export interface BenchmarkResult {
  backend: string;
  device: string;
  threads: number;
  load_ms: number;
  prompt_tokens: number;
  gen_tokens: number;
  /** Medians over the repetitions. */
  prefill_tok_s: number;
  decode_tok_s: number;
  ttft_ms: number;
}

export interface CachedModel {
  key: string;
  /** Its address, or the `cacheKey` that it was loaded with. */
  url: string;
  /** Bytes here. */
  bytes: number;
  /** Bytes in all; 0 when unknown. */
  totalBytes: number;
  complete: boolean;
}

export interface RequestOptions {
  /** Aborting it cancels the answer. */
  signal?: AbortSignal | null;
}

export type { ErrorCode };
