// OpenAI's and Anthropic's clients for Node, and instructor-js, over a server at FOREWORD_URL.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import Instructor from '@instructor-ai/instructor';
import OpenAI from 'openai';
import { z } from 'zod/v3';

const URL = process.env.FOREWORD_URL;
const CHAT = { model: 'smol', messages: [{ role: 'user', content: 'Name three fruits.' }], temperature: 0, max_tokens: 12 };
const SCHEMA = { type: 'object', properties: { x: { type: 'integer' } }, required: ['x'] };
// The model is too small to call tools by itself.
const regex = String.raw`<tool_call>\{"name": "add", "arguments": \{"x": [0-9]\}\}</tool_call>`;

test('openai', async () => {
  const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: 'secret', maxRetries: 0 });
  const answer = await client.chat.completions.create(CHAT);
  const text = answer.choices[0].message.content;
  let streamed = '';
  for await (const chunk of await client.chat.completions.create({ ...CHAT, stream: true })) streamed += chunk.choices[0]?.delta.content ?? '';
  assert.equal(streamed, text);
  const helper = client.chat.completions.stream(CHAT);
  assert.equal(await helper.finalContent(), text);
  const { data } = await client.embeddings.create({ model: 'bert', input: ['a', 'b'] });
  assert.equal(data.length, 2);
  assert.ok(data[0].embedding.every(Number.isFinite));
  const tools = [{ type: 'function', function: { name: 'add', parameters: SCHEMA } }];
  const called = await client.chat.completions.create({ ...CHAT, max_tokens: 60, tools, regex, parallel_tool_calls: false });
  assert.equal(called.choices[0].message.tool_calls[0].function.name, 'add');
  const response = client.responses.stream({ model: 'smol', input: 'Name three fruits.', temperature: 0, max_output_tokens: 12 });
  assert.equal((await response.finalResponse()).output_text, text);
  await assert.rejects(client.chat.completions.create({ ...CHAT, model: 'gpt' }), OpenAI.NotFoundError);
});

for (const mode of ['TOOLS', 'JSON_SCHEMA']) {
  test(`instructor-js, ${mode}`, async () => {
    const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: 'secret', maxRetries: 0 });
    const instructor = Instructor({ client, mode });
    const schema = z.object({ name: z.string(), age: z.number().int().min(0).max(120) });
    const ask = { model: 'smol', messages: [{ role: 'user', content: 'Tom is 42.' }], temperature: 0, max_tokens: 100, max_retries: 0, response_model: { schema, name: 'User' } };
    const user = await instructor.chat.completions.create(ask);
    assert.ok(schema.safeParse(user).success, JSON.stringify(user));
    let last;
    for await (const part of await instructor.chat.completions.create({ ...ask, stream: true })) last = part;
    assert.deepEqual([last.name, last.age], [user.name, user.age]);
  });
}

test('@anthropic-ai/sdk', async () => {
  const client = new Anthropic({ baseURL: URL, apiKey: 'secret', maxRetries: 0 });
  const answer = await client.messages.create(CHAT);
  const stream = client.messages.stream(CHAT);
  assert.equal(await stream.finalText(), answer.content[0].text);
  assert.equal((await stream.finalMessage()).usage.output_tokens, 12);
  const tools = [{ name: 'add', input_schema: SCHEMA }];
  const one = { type: 'auto', disable_parallel_tool_use: true };
  const called = await client.messages.stream({ ...CHAT, max_tokens: 60, tools, tool_choice: one, regex }).finalMessage();
  assert.equal(called.stop_reason, 'tool_use');
  assert.ok(Number.isInteger(called.content[0].input.x));
  await assert.rejects(client.messages.create({ ...CHAT, model: 'claude' }), Anthropic.NotFoundError);
});
