/**
 * A model of this package for the AI SDK, by version 4 of its LanguageModel specification:
 *
 * ```ts
 * const { text } = await generateText({ model: aiSdk(model), prompt: 'Why is the sky blue?' });
 * ```
 */
import type { ChatCompletion, ChatCompletionChunk, ChatCompletionRequest, ChatFinishReason, Foreword, ForewordError, FunctionCall, ToolCallDelta, Usage } from './index.js';

/** What of the AI SDK's call options a model here can do something with; `providerOptions.foreword` has further fields of requests. */
export interface CallOptions {
  prompt: Message[];
  maxOutputTokens?: number | undefined;
  temperature?: number | undefined;
  stopSequences?: string[] | undefined;
  topP?: number | undefined;
  topK?: number | undefined;
  presencePenalty?: number | undefined;
  frequencyPenalty?: number | undefined;
  responseFormat?: { type: 'text' } | { type: 'json'; schema?: unknown; name?: string; description?: string } | undefined;
  seed?: number | undefined;
  tools?: Tool[] | undefined;
  toolChoice?: { type: 'auto' | 'none' | 'required' } | { type: 'tool'; toolName: string } | undefined;
  abortSignal?: AbortSignal | undefined;
  includeRawChunks?: boolean | undefined;
  providerOptions?: Record<string, Record<string, unknown>> | undefined;
}

type Tool = { type: 'function'; name: string; description?: string; inputSchema: unknown } | { type: 'provider'; name: string };
type Message = { role: 'system'; content: string } | { role: 'user' | 'assistant' | 'tool'; content: Part[] };
interface Part {
  type: string;
  text?: string;
  toolCallId?: string;
  toolName?: string;
  input?: unknown;
  output?: { type: string; value?: unknown; reason?: string };
}

export interface Warning {
  type: 'unsupported';
  feature: string;
  details?: string;
}

export interface Outcome {
  finishReason: { unified: 'stop' | 'length' | 'tool-calls' | 'other'; raw: string | undefined };
  usage: {
    inputTokens: { total: number; noCache: number; cacheRead: number; cacheWrite: undefined };
    outputTokens: { total: number; text: number; reasoning: number };
  };
}

export type Content = { type: 'text'; text: string } | { type: 'reasoning'; text: string } | { type: 'tool-call'; toolCallId: string; toolName: string; input: string };

export type StreamPart =
  | { type: 'stream-start'; warnings: Warning[] }
  | { type: 'response-metadata'; id: string; timestamp: Date; modelId: string }
  | { type: 'text-start' | 'text-end' | 'reasoning-start' | 'reasoning-end'; id: string }
  | { type: 'text-delta' | 'reasoning-delta'; id: string; delta: string }
  | { type: 'tool-call'; toolCallId: string; toolName: string; input: string }
  | ({ type: 'finish' } & Outcome)
  | { type: 'raw'; rawValue: unknown }
  | { type: 'error'; error: unknown };

/** A model as `generateText`, `streamText` and the like take it. */
export interface AiSdkModel {
  readonly specificationVersion: 'v4';
  readonly provider: 'foreword';
  readonly modelId: string;
  readonly supportedUrls: Record<string, RegExp[]>;
  doGenerate(options: CallOptions): Promise<{ content: Content[]; warnings: Warning[]; response: { id: string; timestamp: Date; modelId: string } } & Outcome>;
  doStream(options: CallOptions): Promise<{ stream: ReadableStream<StreamPart> }>;
}

export function aiSdk(model: Foreword): AiSdkModel {
  return {
    specificationVersion: 'v4',
    provider: 'foreword',
    modelId: model.info.name,
    supportedUrls: {},
    async doGenerate(options) {
      const { request, warnings } = requestOf(options);
      const answer = await unlessAborted(model.chat.completions.create({ ...request, stream: false }, { signal: options.abortSignal ?? null }), options);
      const choice = answer.choices[0]!;
      return { content: contentOf(choice.message), warnings, response: metadataOf(answer), ...outcomeOf(choice.finish_reason, answer.usage) };
    },
    async doStream(options) {
      const { request, warnings } = requestOf(options);
      const chunks = await unlessAborted(model.chat.completions.create({ ...request, stream: true }, { signal: options.abortSignal ?? null }), options);
      const parts = partsOf(chunks, warnings, options);
      return {
        stream: new ReadableStream<StreamPart>({
          async pull(controller) {
            const { value, done } = await parts.next();
            if (done) controller.close();
            else controller.enqueue(value);
          },
          async cancel() {
            await parts.return(undefined);
          },
        }),
      };
    },
  };
}

/** The AI SDK knows aborts by the signal's reason. */
function unlessAborted<T>(job: Promise<T>, { abortSignal }: CallOptions): Promise<T> {
  return job.catch((error: ForewordError) => {
    abortSignal?.throwIfAborted();
    throw error;
  });
}

function requestOf(options: CallOptions): { request: ChatCompletionRequest; warnings: Warning[] } {
  const { prompt, maxOutputTokens, temperature, stopSequences, topP, topK, presencePenalty, frequencyPenalty, responseFormat, seed, tools, toolChoice, providerOptions } = options;
  const warnings: Warning[] = [];
  const functions = tools?.flatMap((tool) => {
    if (tool.type === 'function') return [{ type: 'function', function: { name: tool.name, ...(tool.description && { description: tool.description }), parameters: tool.inputSchema } }];
    warnings.push({ type: 'unsupported', feature: `the provider's tool ${tool.name}` });
    return [];
  });
  const given = {
    max_tokens: maxOutputTokens,
    temperature,
    stop: stopSequences?.length ? stopSequences : undefined,
    top_p: topP,
    top_k: topK,
    presence_penalty: presencePenalty,
    frequency_penalty: frequencyPenalty,
    seed,
    response_format: responseFormat?.type === 'json' ? formatOf(responseFormat) : undefined,
    tools: functions?.length ? functions : undefined,
    tool_choice: functions?.length && toolChoice ? (toolChoice.type === 'tool' ? { type: 'function', function: { name: toolChoice.toolName } } : toolChoice.type) : undefined,
    ...providerOptions?.['foreword'],
  };
  const known = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  return { request: { ...known, messages: prompt.flatMap(messagesOf) }, warnings };
}

function formatOf({ schema, name = 'answer', description }: { schema?: unknown; name?: string; description?: string }): unknown {
  if (!schema) return { type: 'json_object' };
  return { type: 'json_schema', json_schema: { name, ...(description && { description }), schema, strict: true } };
}

/** A message of the prompt; one with results of several tools is several. */
function messagesOf(message: Message): ChatCompletionRequest['messages'] {
  if (message.role === 'system') return [message];
  const text = textsOf(message.content, 'text');
  if (message.role === 'user') return [{ role: 'user', content: text }];
  if (message.role === 'tool') {
    return message.content.flatMap(({ type, toolCallId, output }) => (type === 'tool-result' ? [{ role: 'tool' as const, tool_call_id: toolCallId!, content: resultOf(output!) }] : []));
  }
  const reasoning = textsOf(message.content, 'reasoning');
  const calls = message.content.flatMap(({ type, toolCallId, toolName, input }) =>
    type === 'tool-call' ? [{ id: toolCallId!, type: 'function' as const, function: { name: toolName!, arguments: JSON.stringify(input) } }] : [],
  );
  return [{ role: 'assistant', content: calls.length && !text ? null : text, ...(reasoning && { reasoning_content: reasoning }), ...(calls.length && { tool_calls: calls }) }];
}

function textsOf(parts: Part[], type: 'text' | 'reasoning'): string {
  const file = parts.find((part) => part.type === 'file');
  if (file) throw new TypeError('The models of this package take texts, but no files.');
  return parts.flatMap((part) => (part.type === type ? [part.text ?? ''] : [])).join('');
}

function resultOf({ type, value, reason }: NonNullable<Part['output']>): string {
  if (type === 'execution-denied') return reason ?? 'The call was denied.';
  return typeof value === 'string' ? value : JSON.stringify(value);
}

function contentOf({ content, reasoning_content, tool_calls }: ChatCompletion['choices'][number]['message']): Content[] {
  return [
    ...(reasoning_content ? [{ type: 'reasoning' as const, text: reasoning_content }] : []),
    ...(content ? [{ type: 'text' as const, text: content }] : []),
    ...(tool_calls ?? []).map(callOf),
  ];
}

const callOf = ({ id, function: called }: FunctionCall) => ({ type: 'tool-call' as const, toolCallId: id, toolName: called.name, input: called.arguments });

const metadataOf = ({ id, created, model }: ChatCompletion | ChatCompletionChunk) => ({ id, timestamp: new Date(created * 1000), modelId: model });

function outcomeOf(raw: ChatFinishReason | null, { prompt_tokens: total, prompt_tokens_details, completion_tokens, completion_tokens_details }: Usage): Outcome {
  const cacheRead = prompt_tokens_details.cached_tokens;
  const reasoning = completion_tokens_details.reasoning_tokens;
  return {
    finishReason: { unified: raw === 'tool_calls' ? 'tool-calls' : (raw ?? 'other'), raw: raw ?? undefined },
    usage: {
      inputTokens: { total, noCache: total - cacheRead, cacheRead, cacheWrite: undefined },
      outputTokens: { total: completion_tokens, text: completion_tokens - reasoning, reasoning },
    },
  };
}

/** The parts of a stream: a block of reasoning, blocks of text, whole calls of tools, and the end. */
async function* partsOf(chunks: AsyncIterable<ChatCompletionChunk>, warnings: Warning[], options: CallOptions): AsyncGenerator<StreamPart, undefined, undefined> {
  yield { type: 'stream-start', warnings };
  const calls: FunctionCall[] = [];
  let open: 'text' | 'reasoning' | undefined;
  let first = true;
  let finish: ChatFinishReason | null = null;
  let usage: Usage | undefined;
  try {
    for await (const chunk of chunks) {
      if (options.includeRawChunks) yield { type: 'raw', rawValue: chunk };
      if (first) yield { type: 'response-metadata', ...metadataOf(chunk) };
      first = false;
      usage = chunk.usage ?? usage;
      const [choice] = chunk.choices;
      finish = choice?.finish_reason ?? finish;
      const delta = choice?.delta ?? {};
      for (const [type, text] of [['reasoning', delta.reasoning_content], ['text', delta.content]] as const) {
        if (!text) continue;
        if (open !== type) {
          if (open) yield { type: `${open}-end`, id: open };
          yield { type: `${type}-start`, id: type };
          open = type;
        }
        yield { type: `${type}-delta`, id: type, delta: text };
      }
      delta.tool_calls?.forEach((piece) => join(calls, piece));
    }
    options.abortSignal?.throwIfAborted();
    if (open) yield { type: `${open}-end`, id: open };
    for (const call of calls) yield callOf(call);
    if (usage) yield { type: 'finish', ...outcomeOf(finish, usage) };
  } catch (error) {
    yield { type: 'error', error: options.abortSignal?.aborted ? options.abortSignal.reason : error };
  }
  return undefined;
}

/** Takes a piece of a call into the list of calls. */
function join(calls: FunctionCall[], { index, id = '', function: { name = '', arguments: text = '' } }: ToolCallDelta): void {
  const call = (calls[index] ??= { id, type: 'function', function: { name, arguments: '' } });
  call.function.arguments += text;
}
