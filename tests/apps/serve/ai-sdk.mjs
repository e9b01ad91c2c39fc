// The AI SDK over a server at FOREWORD_URL, by its providers for OpenAI's and Anthropic's APIs.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { embedMany, generateText, Output, streamText, tool } from 'ai';
import { z } from 'zod';

const URL = process.env.FOREWORD_URL;
const regex = String.raw`<tool_call>\{"name": "add", "arguments": \{"x": [0-9]\}\}</tool_call>`;
const foreword = createOpenAICompatible({ name: 'foreword', baseURL: `${URL}/v1`, apiKey: 'secret', supportsStructuredOutputs: true, includeUsage: true });
const ASK = { model: foreword('smol'), prompt: 'Name three fruits.', temperature: 0, maxOutputTokens: 12, maxRetries: 0 };

test('text, whole and streamed', async () => {
  const { text, usage, finishReason } = await generateText(ASK);
  assert.deepEqual([usage.outputTokens, finishReason], [12, 'length']);
  const stream = streamText(ASK);
  let streamed = '';
  for await (const piece of stream.textStream) streamed += piece;
  assert.equal(streamed, text);
  assert.equal((await stream.usage).outputTokens, 12);
});

test('objects', async () => {
  const schema = z.object({ name: z.string(), ripe: z.boolean() });
  const { output } = await generateText({ ...ASK, prompt: 'Describe a fruit.', maxOutputTokens: 200, output: Output.object({ schema }) });
  assert.equal(typeof output.ripe, 'boolean');
});

test('tools', async () => {
  const add = tool({ description: 'Adds one.', inputSchema: z.object({ x: z.number() }), execute: async ({ x }) => x + 1 });
  const { toolCalls, toolResults } = await generateText({ ...ASK, prompt: 'Add one to 2.', maxOutputTokens: 60, tools: { add }, providerOptions: { foreword: { regex, parallel_tool_calls: false } } });
  assert.equal(toolCalls[0].toolName, 'add');
  assert.equal(toolResults[0].output, toolCalls[0].input.x + 1);
});

test('embeddings', async () => {
  const { embeddings } = await embedMany({ model: foreword.embeddingModel('bert'), values: ['a', 'b'] });
  assert.equal(embeddings.length, 2);
});

test('an abort ends the answer', async () => {
  const stop = new AbortController();
  const stream = streamText({ ...ASK, maxOutputTokens: 1500, abortSignal: stop.signal, onError() {} });
  for await (const _ of stream.textStream) stop.abort();
  const key = { headers: { 'x-api-key': 'secret' } };
  for (let n; n !== 0; ) n = Number(/^foreword_queue_requests (\d+)/m.exec(await (await fetch(`${URL}/metrics`, key)).text())[1]);
});

test("Anthropic's API", async () => {
  const anthropic = createAnthropic({ baseURL: `${URL}/v1`, apiKey: 'secret' });
  const { text } = await generateText({ ...ASK, model: anthropic('smol') });
  assert.ok(text);
});
