// The package in Node.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ForewordError, Foreword } from '../dist/index.js';
import { modelPath } from './server.mjs';

test('loads a file and answers', async () => {
  const model = await Foreword.load(modelPath('smol.gguf'), { contextLength: 256 });
  const answer = await model.chat.completions.create({ messages: [{ role: 'user', content: 'Hi' }], max_tokens: 4, temperature: 0 });
  assert.equal(answer.usage.completion_tokens, 4);
  let n = 0;
  for await (const chunk of await model.completions.create({ prompt: 'Once upon a time', max_tokens: 4, stream: true })) n += chunk.object === 'text_completion';
  assert.ok(n >= 2);
  await model.dispose();
  await assert.rejects(model.stats(), (e) => e instanceof ForewordError && e.code === 'disposed');
});

test('a missing file is a typed error', async () => {
  await assert.rejects(Foreword.load('/no/such/file.gguf'), (e) => e instanceof ForewordError);
});
