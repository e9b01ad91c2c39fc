// Libraries that people build on, unchanged, over a model in Node: LangChain.js, instructor-js and the AI SDK. `./test apps` installs and runs them.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import Instructor from '@instructor-ai/instructor';
import { ChatOpenAI } from '@langchain/openai';
import { generateText, streamText } from 'ai';
import OpenAI from 'openai';
import { z } from 'zod';
import { aiSdk } from '../../dist/ai-sdk.js';
import { Foreword } from '../../dist/index.js';
import { modelPath } from '../server.mjs';

const PROMPT = 'Name three fruits.';
let model, wanted;
before(async () => {
  model = await Foreword.load(modelPath('smol.gguf'), { contextLength: 1024 });
  wanted = (await model.chat.completions.create({ messages: [{ role: 'user', content: PROMPT }], temperature: 0, max_tokens: 12 })).choices[0].message.content;
});
after(() => model?.dispose());

const joined = async (pieces) => {
  let text = '';
  for await (const piece of pieces) text += piece.content ?? piece;
  return text;
};

test('LangChain.js', async () => {
  const chat = new ChatOpenAI({ model: 'x', apiKey: 'none', temperature: 0, maxTokens: 12, maxRetries: 0, configuration: { baseURL: 'http://localhost/v1', fetch: model.fetch } });
  const answer = await chat.invoke(PROMPT);
  assert.equal(answer.content, wanted);
  assert.equal(answer.usage_metadata.output_tokens, 12);
  assert.equal(await joined(await chat.stream(PROMPT)), wanted);
  await assert.rejects(chat.invoke('word '.repeat(2000)), (error) => error.status === 400 || error.code === 'context_length_exceeded');
});

test('instructor-js', async () => {
  const client = new OpenAI({ baseURL: 'http://localhost/v1', apiKey: 'none', fetch: model.fetch, maxRetries: 0 });
  // The model's own template has no calls, which the mode TOOLS forces; `tests/apps/serve` has one that does.
  const instructor = Instructor({ client, mode: 'JSON_SCHEMA' });
  const schema = z.object({ name: z.string(), age: z.number().int().min(0).max(120) });
  const ask = { model: 'x', messages: [{ role: 'user', content: 'Tom is 42.' }], temperature: 0, max_tokens: 100, max_retries: 0, response_model: { schema, name: 'User' } };
  const user = await instructor.chat.completions.create(ask);
  assert.ok(schema.safeParse(user).success, JSON.stringify(user));
  let last;
  for await (const part of await instructor.chat.completions.create({ ...ask, stream: true })) last = part;
  assert.deepEqual([last.name, last.age], [user.name, user.age]);
});

for (const [name, of] of [
  ['the AI SDK over model.fetch', () => createOpenAICompatible({ name: 'foreword', baseURL: 'http://localhost/v1', fetch: model.fetch })('x')],
  ['the AI SDK over foreword/ai-sdk', () => aiSdk(model)],
]) {
  test(name, async () => {
    const options = { model: of(), prompt: PROMPT, temperature: 0, maxOutputTokens: 12, maxRetries: 0 };
    const { text, usage, finishReason } = await generateText(options);
    assert.deepEqual([text, usage.outputTokens, finishReason], [wanted, 12, 'length']);
    const streamed = streamText(options);
    assert.equal(await joined(streamed.textStream), wanted);
    assert.equal((await streamed.usage).outputTokens, 12);
    assert.equal(await streamed.finishReason, 'length');
    const system = await generateText({ ...options, prompt: undefined, messages: [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: [{ type: 'text', text: PROMPT }] }, { role: 'assistant', content: 'Plums.' }, { role: 'user', content: 'More.' }], allowSystemInMessages: true });
    assert.ok(system.text.length > 0);
    await assert.rejects(generateText({ ...options, prompt: 'word '.repeat(2000) }), /context/);
    const stop = new AbortController();
    const endless = streamText({ ...options, maxOutputTokens: 900, abortSignal: stop.signal, onError() {} });
    let pieces = 0;
    for await (const part of endless.fullStream) {
      if (part.type === 'text-delta' && ++pieces === 2) stop.abort();
      if (part.type === 'abort') break;
    }
    assert.ok(pieces >= 2 && pieces < 100, String(pieces));
    while ((await model.stats()).running) await new Promise((go) => setTimeout(go, 20));
  });
}
