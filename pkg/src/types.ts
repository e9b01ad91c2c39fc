import type { ErrorCode } from './error.js';

/** What a model can be loaded from. Strings: a registry name, `hf:owner/repo/file.gguf`, a URL, in Node also a path. */
export type ModelSource = string | URL | Blob | (string | URL)[];

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
  /** Guess the next tokens and check them together: the same answers, sooner where the text repeats itself. Off by default. */
  speculate?: 'auto' | false | Speculation;
  /** A sidecar of this model: with it, answers to long prompts can begin early. */
  sidecar?: string | URL | Blob;
  /** How prompts are read whose request does not say; `auto` with a sidecar, otherwise `exact`. */
  prefill?: Prefill;
  onProgress?: (progress: LoadProgress) => void;
  /** Cancels the load; a partial download is kept and resumed by the next one. */
  signal?: AbortSignal;
  /** Keep downloads for the next visit (default). */
  cache?: boolean;
  /** A folder of one's own where models of the registry lie; looked in before other places. */
  mirror?: string | URL;
  /** SHA-256 that a download must have, in hex. */
  sha256?: string;
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
  /** `download`: bytes arrive; `verify`: a cached file is checked; `load`: tensors go into memory. */
  phase: 'download' | 'verify' | 'load';
  loadedBytes: number;
  /** 0 when unknown. */
  totalBytes: number;
  /** Whether the file was in the cache. */
  cached: boolean;
}

export interface ModelInfo {
  name: string;
  architecture: string;
  contextLength: number;
  trainedContextLength: number;
  vocabulary: number;
  layers: number;
  dimension: number;
  /** Whether the file has a chat template. */
  chat: boolean;
  backend: 'cpu' | 'webgpu';
  /** For people: why it runs there. */
  backendReason: string;
  /** Instruction set, or the GPU. */
  device: string;
  threads: number;
  /** The sidecar, if one was loaded, and whether it was made for this very quantization of the model. */
  sidecar?: { sameQuantization: boolean };
  /** Why only one thread runs, where more were possible in another setting. */
  threadsLimitedBy?: 'not_isolated' | 'no_relaxed_simd';
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
  url: string;
  /** Bytes here. */
  bytes: number;
  /** Bytes in all; 0 when unknown. */
  totalBytes: number;
  complete: boolean;
}

export interface TextPart {
  type: 'text';
  text: string;
}

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant' | 'tool' | (string & {});
  content: string | TextPart[] | null;
  [key: string]: unknown;
}

export interface SamplingOptions {
  max_tokens?: number;
  max_completion_tokens?: number;
  stop?: string | string[];
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  typical_p?: number;
  repetition_penalty?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  logit_bias?: Record<string, number>;
  seed?: number;
  model?: string;
  n?: 1;
  stream_options?: { include_usage?: boolean };
  ignore_eos?: boolean;
  /** See {@link LoadOptions.prefill}. */
  prefill?: Prefill;
  /** `false`: this answer without guesses, where the model was loaded with `speculate`. */
  speculate?: boolean;
}

export interface ChatCompletionRequest extends SamplingOptions {
  messages: ChatMessage[];
  stream?: boolean;
  logprobs?: boolean;
  top_logprobs?: number;
  tools?: unknown[];
  chat_template_kwargs?: Record<string, unknown>;
}

export interface CompletionRequest extends SamplingOptions {
  prompt: string | number[] | string[] | number[][];
  stream?: boolean;
  logprobs?: number;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  /** Tokens of the prompt that an earlier answer left in the KV cache; tokens that were predicted when the answer began. */
  prompt_tokens_details: { cached_tokens: number; predicted_tokens: number };
  /**
   * Guesses that became part of the answer, those that did not, whether the drafter failed, so that the answer went on without it,
   * and forwards that gave tokens of the answer.
   */
  completion_tokens_details: { accepted_prediction_tokens: number; rejected_prediction_tokens: number; drafter_failed: boolean; forwards: number };
  timings: { ttft_ms: number; decode_ms: number; prefill_tok_s: number; decode_tok_s: number };
}

export interface TokenLogprob {
  token: string;
  logprob: number;
  bytes: number[];
}

export interface ChatLogprobs {
  content: (TokenLogprob & { top_logprobs: TokenLogprob[] })[];
}

export interface TextLogprobs {
  tokens: string[];
  token_logprobs: number[];
  top_logprobs: Record<string, number>[];
}

export type FinishReason = 'stop' | 'length';

interface Envelope {
  id: string;
  created: number;
  model: string;
}

export interface ChatCompletion extends Envelope {
  object: 'chat.completion';
  choices: {
    index: number;
    message: { role: 'assistant'; content: string };
    logprobs: ChatLogprobs | null;
    finish_reason: FinishReason;
  }[];
  usage: Usage;
}

/** What the choice of a chunk has beside OpenAI's fields. */
export interface Origin {
  /**
   * There where an accepted guess (`speculate`) wrote the chunk's text. No chunk mixes: text that was held back, as the beginning
   * of a stop text, comes in several chunks if it has to. A character of several tokens belongs to the last of them.
   */
  accepted?: true;
}

export interface ChatCompletionChunk extends Envelope {
  object: 'chat.completion.chunk';
  choices: (Origin & {
    index: number;
    delta: { role?: 'assistant'; content?: string };
    logprobs: ChatLogprobs | null;
    finish_reason: FinishReason | null;
  })[];
  /** In the last chunk. */
  usage?: Usage;
}

export interface Completion extends Envelope {
  object: 'text_completion';
  choices: (Origin & { index: number; text: string; logprobs: TextLogprobs | null; finish_reason: FinishReason | null })[];
  usage?: Usage;
}

export interface RequestOptions {
  signal?: AbortSignal;
}

/** Chunks of an answer. Leaving the loop early cancels the answer. */
export interface Stream<T> extends AsyncIterable<T> {
  /** Cancels the answer. */
  abort(): void;
}

export type { ErrorCode };
