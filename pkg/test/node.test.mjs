// The package in Node.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { ForewordError, Foreword } from '../dist/index.js';
import { modelPath, start } from './server.mjs';

test('loads a file and answers', async () => {
  const model = await Foreword.load(modelPath('smol.gguf'), { contextLength: 256 });
  const answer = await model.chat.completions.create({ messages: [{ role: 'user', content: 'Hi' }], max_tokens: 4, temperature: 0 });
  assert.equal(answer.usage.completion_tokens, 4);
  let n = 0;
  for await (const chunk of await model.completions.create({ prompt: 'Once upon a time', max_tokens: 4, stream: true })) n += chunk.object === 'text_completion';
  assert.ok(n >= 2);
  // Several prompts at once are answered as each alone.
  const request = { max_tokens: 3, temperature: 0 };
  const prompts = ['One', 'Two, three', 'Once upon a time'];
  const together = await model.completions.create({ ...request, prompt: prompts });
  const alone = await Promise.all(prompts.map((prompt) => model.completions.create({ ...request, prompt })));
  assert.deepEqual(together.choices.map((c) => c.index), [0, 1, 2]);
  assert.deepEqual(together.choices.map((c) => c.text), alone.map((a) => a.choices[0].text));
  assert.equal(together.usage.completion_tokens, 9);
  await model.dispose();
  await assert.rejects(model.stats(), (e) => e instanceof ForewordError && e.code === 'disposed');
});

test('a missing file is a typed error', async () => {
  await assert.rejects(Foreword.load('/no/such/file.gguf'), (e) => e instanceof ForewordError);
});

test('a download is kept in a folder', async () => {
  // The server goes on finding the models where they are.
  process.env.FOREWORD_MODELS = path.dirname(modelPath('smol.gguf'));
  process.env.FOREWORD_CACHE = fs.mkdtempSync(path.join(os.tmpdir(), 'foreword-cache-'));
  const server = await start();
  try {
    const url = `${server.url}/smol.gguf?drop=30000000`;
    for (const cached of [false, true]) {
      const model = await Foreword.load(url, { contextLength: 256 });
      assert.equal(model.info.cached, cached);
      await model.dispose();
    }
    const [entry] = await Foreword.list();
    assert.deepEqual([entry.bytes, entry.complete], [98362432, true]);
    assert.equal(await Foreword.delete(entry), true);
    assert.deepEqual(await Foreword.list(), []);
    await assert.rejects(Foreword.load(`${server.url}/missing.gguf`), (e) => e.code === 'not_found');
  } finally {
    server.close();
    fs.rmSync(process.env.FOREWORD_CACHE, { recursive: true });
  }
});
