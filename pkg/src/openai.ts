/** Requests and answers in OpenAI's shapes: types of the package `openai` fit where these are asked for, and the reverse. */
import type { Prefill } from './types.js';

export interface TextPart {
  type: 'text';
  text: string;
}

/** Parts of other kinds than text are for models that this package does not run; they are refused. */
export interface OtherPart {
  type: 'image_url' | 'input_audio' | 'file' | 'refusal';
}

export type ToolCall =
  | { id: string; type: 'function'; function: { name: string; arguments: string } }
  | { id: string; type: 'custom'; custom: { name: string; input: string } };

export interface SystemMessage {
  role: 'system' | 'developer';
  content: string | TextPart[];
  name?: string;
}

export interface UserMessage {
  role: 'user';
  content: string | (TextPart | OtherPart)[];
  name?: string;
}

export interface AssistantMessage {
  role: 'assistant';
  content?: string | (TextPart | OtherPart)[] | null;
  reasoning_content?: string | null;
  refusal?: string | null;
  name?: string;
  tool_calls?: ToolCall[];
}

export interface ToolMessage {
  role: 'tool';
  content: string | TextPart[];
  tool_call_id: string;
}

export interface FunctionMessage {
  role: 'function';
  content: string | null;
  name: string;
}

export type ChatMessage = SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage;

/** Fields of both kinds of requests. */
export interface SamplingOptions {
  /** The name that the answer carries; by default the loaded model's. */
  model?: string;
  /** Most tokens of the answer; by default what the context has room for. */
  max_tokens?: number | null;
  /** The newer name of `max_tokens`. */
  max_completion_tokens?: number | null;
  /** Texts that end the answer, and are not part of it. */
  stop?: string | string[] | null;
  /**
   * Divides the logits: 0 always takes the most probable token, 1 draws as the model was trained. The default of this field and the next
   * ones is what the model's maker says, in its file or in the built-in list; else it is the one that is named here. Here it is 1.
   */
  temperature?: number | null;
  /** Only the most probable tokens that together have this probability; 1 (default) takes all. */
  top_p?: number | null;
  /** Only so many of the most probable tokens; 0 (default) takes all. */
  top_k?: number | null;
  /** Only tokens at least so probable, measured by the most probable one; 0 (default) takes all. */
  min_p?: number | null;
  /** Only tokens about as surprising as expected, which together have this probability; 1 (default) takes all. */
  typical_p?: number | null;
  /** Divides the logits of tokens that were there; 1 (default) leaves them. */
  repetition_penalty?: number | null;
  /** Taken from the logits of tokens that were in the answer. */
  presence_penalty?: number | null;
  /** The same, once for each time. */
  frequency_penalty?: number | null;
  /** DRY: what is taken from the logit of a token that would lengthen a repetition; 0 (default) takes nothing. */
  dry_multiplier?: number | null;
  /** DRY takes so many times as much for each further token of the repetition; 1.75 by default. */
  dry_base?: number | null;
  /** Tokens of a repetition from which on DRY acts; 2 by default. */
  dry_allowed_length?: number | null;
  /** How many tokens DRY looks back; -1 (default) is all. */
  dry_penalty_last_n?: number | null;
  /** Texts that end a repetition; line ends, colons, quotes and asterisks by default. */
  dry_sequence_breakers?: string[] | null;
  /** Only tokens whose logits are at most so many standard deviations below the largest; 0 (default) takes all. */
  top_n_sigma?: number | null;
  /** XTC: how often the tokens at least as probable as `xtc_threshold` are left out, but for the last of them; 0 by default. */
  xtc_probability?: number | null;
  /** 0.1 by default. */
  xtc_threshold?: number | null;
  /** The temperature is from so much below to so much above itself, by the entropy; 0 by default. */
  dynatemp_range?: number | null;
  /** 1 by default. */
  dynatemp_exponent?: number | null;
  /** 2: tokens are cut off by Mirostat 2, and by nothing else; 0 (default) does without. */
  mirostat?: 0 | 2 | null;
  /** The surprise, in bits, that Mirostat keeps to; 5 by default. */
  mirostat_tau?: number | null;
  /** How fast; 0.1 by default. */
  mirostat_eta?: number | null;
  /** `false`: an answer that says a run of a dozen words three times goes on. Chats end it by default (`stop_reason`). */
  stop_at_repetition?: boolean | null;
  /** What becomes of a chat that is longer than the context: `error`, or `shift`, which leaves the oldest turns out (`dropped_messages`). */
  overflow?: 'error' | 'shift' | null;
  /** What the answer is expected to be: it comes sooner where it is. */
  prediction?: { type: 'content'; content: string | TextPart[] } | null;
  /** Numbers of tokens to what is added to their logits. */
  logit_bias?: Record<string, number> | null;
  /** Makes the choice of tokens repeatable. */
  seed?: number | null;
  /** Answers to a prompt, which is read once; 1 by default. Their seeds follow one another. */
  n?: number | null;
  /** Whether chunks are wanted as they are written. */
  stream?: boolean | null;
  /** `include_usage`: a last chunk with the usage and no choice. The last chunk has the usage anyway. */
  stream_options?: { include_usage?: boolean; include_obfuscation?: boolean } | null;
  /** Who asks; not used. */
  user?: string;
  /** What the answer has to look like: JSON that fits a schema, or any JSON object. */
  response_format?: ResponseFormat | null;
  /** A grammar in llguidance's dialect of Lark that the answer fits. */
  grammar?: string | null;
  /** A regular expression that the whole answer matches. */
  regex?: string | null;
  /** Goes on after the token that ends answers. */
  ignore_eos?: boolean;
  /** Requests with higher numbers are read and answered first; 0 by default. */
  priority?: number | null;
  /** See `prefill` of {@link LoadOptions}. */
  prefill?: Prefill | null;
  /** `false`: this answer without guesses, where the model was loaded with `speculate`. */
  speculate?: boolean | null;
}

export type ResponseFormat =
  | { type: 'text' }
  | { type: 'json_object'; schema?: { [key: string]: unknown } }
  | { type: 'json_schema'; json_schema: { name: string; description?: string; schema?: { [key: string]: unknown }; strict?: boolean | null } };

/** What an answer is to differ from, as a negative prompt: it is answered beside, and what it makes probable is taken off. */
export interface Contrast {
  /** How much is taken off, 0 to 10; 0.7 by default, 0.5 of logits. */
  weight?: number | null;
  /** Only where the squares of all probabilities sum up to less; 0.8 by default, 1 (always) for logits. */
  when?: number | null;
  /** `prob` (default): `p - weight * p_other`. `logit`: classifier-free guidance of strength `1 + weight`. */
  mode?: 'prob' | 'logit' | null;
}

export interface ChatCompletionRequest extends SamplingOptions {
  messages: ChatMessage[];
  /** Another conversation that the answer is to differ from. */
  contrast?: (Contrast & { messages: ChatMessage[] }) | null;
  /** Whether the answer has the log-probability of each token. */
  logprobs?: boolean | null;
  /** How many other tokens are listed beside each, at most 20. */
  top_logprobs?: number | null;
  /** What the model may call; for its chat template. */
  tools?: unknown[];
  /** `none` keeps the tools from the model, `required` makes it call some, `{ type: 'function', function: { name } }` this one. */
  tool_choice?: unknown;
  /** `false`: one call at most. */
  parallel_tool_calls?: boolean;
  /** How much the model thinks, where its chat template has a switch for that; `none` is not at all. */
  reasoning_effort?: 'none' | 'minimal' | 'low' | 'medium' | 'high' | 'xhigh' | 'max' | (string & {}) | null;
  /** Most tokens of a thought; it is ended then. */
  thinking_token_budget?: number | null;
  /** `true`: the last message, the assistant's, is gone on with. */
  continue_final_message?: boolean | null;
  /** `false`: the prompt ends behind the last message, not where an answer begins. */
  add_generation_prompt?: boolean | null;
  /** Notes of the caller's; not used. */
  metadata?: Record<string, string> | null;
  /** Not used: nothing is stored. */
  store?: boolean | null;
  /** Further variables for the chat template. */
  chat_template_kwargs?: Record<string, unknown>;
}

export interface CompletionRequest extends SamplingOptions {
  /** Text or tokens to go on with; of several each has a choice in the answer. */
  prompt: string | number[] | string[] | number[][] | null;
  /** Another prompt that the answer is to differ from. */
  contrast?: (Contrast & { prompt: string | number[] }) | null;
  /** How many tokens are listed for each place, at most 20. */
  logprobs?: number | null;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  /**
   * Tokens of the prompt that an earlier answer left in the KV cache; tokens that were predicted when the answer began; how many messages
   * behind the system's were left out (`overflow`).
   */
  prompt_tokens_details: { cached_tokens: number; predicted_tokens: number; dropped_messages?: number };
  /**
   * Guesses that became part of the answer, those that did not, tokens that what the answer has to look like forced, tokens of thoughts,
   * whether the drafter failed, so that the answer went on without it, and forwards that gave the other tokens of the answer.
   */
  completion_tokens_details: {
    accepted_prediction_tokens: number;
    rejected_prediction_tokens: number;
    forced_tokens: number;
    reasoning_tokens: number;
    drafter_failed: boolean;
    forwards: number;
  };
  timings: { ttft_ms: number; decode_ms: number; prefill_tok_s: number; decode_tok_s: number };
}

export interface TokenLogprob {
  token: string;
  logprob: number;
  bytes: number[];
}

export interface ChatLogprobs {
  content: (TokenLogprob & { top_logprobs: TokenLogprob[] })[];
  refusal: null;
}

export interface TextLogprobs {
  tokens: string[];
  token_logprobs: number[];
  top_logprobs: Record<string, number>[];
}

export type FinishReason = 'stop' | 'length';

export type ChatFinishReason = FinishReason | 'tool_calls';

export interface FunctionCall {
  id: string;
  type: 'function';
  /** Arguments are JSON, as far as the model wrote JSON. */
  function: { name: string; arguments: string };
}

interface Envelope {
  id: string;
  /** In seconds since 1970. */
  created: number;
  model: string;
}

export interface ChatCompletion extends Envelope {
  object: 'chat.completion';
  choices: {
    index: number;
    /** Null is the content beside calls without a word. What the model thought before it answered is in `reasoning_content`. */
    message: { role: 'assistant'; content: string | null; reasoning_content?: string; tool_calls?: FunctionCall[]; refusal: null };
    logprobs: ChatLogprobs | null;
    finish_reason: ChatFinishReason;
    /** There where the answer was ended because it went in circles. */
    stop_reason?: 'repetition';
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

/** A call begins with its id and name; pieces of its arguments follow. */
export interface ToolCallDelta {
  index: number;
  id?: string;
  type?: 'function';
  function: { name?: string; arguments?: string };
}

export interface ChatCompletionChunk extends Envelope {
  object: 'chat.completion.chunk';
  choices: (Origin & {
    index: number;
    delta: { role?: 'assistant'; content?: string; reasoning_content?: string; tool_calls?: ToolCallDelta[] };
    logprobs: ChatLogprobs | null;
    finish_reason: ChatFinishReason | null;
    stop_reason?: 'repetition';
  })[];
  /** In the last chunk. */
  usage?: Usage;
}

export interface Completion extends Envelope {
  object: 'text_completion';
  choices: { index: number; text: string; logprobs: TextLogprobs | null; finish_reason: FinishReason }[];
  usage: Usage;
}

export interface CompletionChunk extends Envelope {
  object: 'text_completion';
  choices: (Origin & { index: number; text: string; logprobs: TextLogprobs | null; finish_reason: FinishReason | null })[];
  /** In the last chunk. */
  usage?: Usage;
}

export interface EmbeddingRequest {
  /** A text or its tokens, or several of them. */
  input: string | string[] | number[] | number[][];
  /** The name that the answer carries; by default the loaded model's. */
  model?: string;
  /** Cuts vectors to so many values, for models that were trained for it. */
  dimensions?: number | null;
  /** `base64`: the bytes of 32-bit floats, the lowest first. `float` by default. */
  encoding_format?: 'float' | 'base64' | null;
  /** Who asks; not used. */
  user?: string;
}

export interface Embeddings {
  object: 'list';
  /** In the order of the input; vectors are of length 1. Base64 where the request asks for it. */
  data: { object: 'embedding'; index: number; embedding: number[] }[];
  model: string;
  usage: { prompt_tokens: number; total_tokens: number };
}

export interface RerankRequest {
  query: string;
  documents: (string | { text: string })[];
  model?: string;
  /** Only so many of the best. */
  top_n?: number | null;
  /** Whether the documents come back with their scores. */
  return_documents?: boolean | null;
}

export interface Ranking {
  object: 'list';
  /** The best first; `index` is that of the document in the request, scores are from 0 to 1. */
  results: { index: number; relevance_score: number; document?: { text: string } }[];
  model: string;
  usage: { prompt_tokens: number; total_tokens: number };
}
