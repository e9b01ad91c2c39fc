// Types of the package `openai` fit where Foreword's are asked for, and the reverse. Checked by the compiler, never run.
import type OpenAI from 'openai';
import type { ChatCompletion, ChatCompletionChunk, ChatCompletionRequest, ChatMessage, Completion, CompletionRequest, EmbeddingRequest, Embeddings, Foreword, ForewordError, Stream } from '../../dist/index.js';

/** Compiles where a `From` may be given for a `To`. */
type Fits<From extends To, To> = From;

export type Requests = [
  Fits<OpenAI.ChatCompletionMessageParam[], ChatMessage[]>,
  Fits<OpenAI.ChatCompletionCreateParams, ChatCompletionRequest>,
  Fits<OpenAI.ChatCompletionCreateParamsNonStreaming, ChatCompletionRequest>,
  Fits<OpenAI.ChatCompletionCreateParamsStreaming, ChatCompletionRequest>,
  Fits<OpenAI.CompletionCreateParams, CompletionRequest>,
  Fits<OpenAI.EmbeddingCreateParams, EmbeddingRequest>,
];
export type Answers = [
  Fits<ChatCompletion, OpenAI.ChatCompletion>,
  Fits<ChatCompletionChunk, OpenAI.ChatCompletionChunk>,
  Fits<Completion, OpenAI.Completion>,
  Fits<Embeddings, OpenAI.CreateEmbeddingResponse>,
  Fits<ChatCompletion['choices'][0]['message'], OpenAI.ChatCompletionMessageParam>,
  Fits<ChatCompletion['choices'][0]['message'], ChatMessage>,
];
export type Errors = Fits<ForewordError, Pick<InstanceType<typeof OpenAI.APIError>, 'message' | 'status' | 'param'> & { code: string }>;

/** `model.fetch` may be given to the client. */
export type Fetches = Fits<Foreword['fetch'], NonNullable<NonNullable<ConstructorParameters<typeof OpenAI>[0]>['fetch']>>;

export async function use(model: Foreword, params: OpenAI.ChatCompletionCreateParams): Promise<void> {
  const whole: ChatCompletion = await model.chat.completions.create({ messages: [{ role: 'user', content: 'Hi' }], stream: null });
  const stream: Stream<ChatCompletionChunk> = await model.chat.completions.create({ messages: [whole.choices[0]!.message], stream: true });
  const either: ChatCompletion | Stream<ChatCompletionChunk> = await model.chat.completions.create(params, { signal: null });
  // @ts-expect-error A role that is none.
  await model.chat.completions.create({ messages: [{ role: 'asistant', content: 'Hi' }] });
  // @ts-expect-error A field that is none.
  await model.chat.completions.create({ messages: [{ role: 'user', contnet: 'Hi' }] });
  // @ts-expect-error A user says something.
  await model.chat.completions.create({ messages: [{ role: 'user' }] });
  // @ts-expect-error A field that is none.
  await model.chat.completions.create({ messages: [], temprature: 1 });
  void [stream, either];
}
