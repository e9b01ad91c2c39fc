// The package in Node.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { ForewordError, Foreword } from '../dist/index.js';
import { modelPath, PKG, start } from './server.mjs';

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

test('embeddings and scores', async () => {
  const encoder = (name) => Foreword.load(path.join(PKG, `../tests/data/encoders/${name}.gguf`));
  const model = await encoder('bert');
  const input = ['the dog runs', 'unaffable cats'];
  const { data, usage } = await model.embeddings.create({ input });
  assert.deepEqual(data.map(({ index, embedding }) => [index, embedding.length]), [[0, 32], [1, 32]]);
  assert.equal(usage.prompt_tokens, usage.total_tokens);
  const [cut] = (await model.embeddings.create({ input: input[0], dimensions: 8, encoding_format: 'base64' })).data;
  const floats = new Float32Array(Uint8Array.from(Buffer.from(cut.embedding, 'base64')).buffer);
  const scale = Math.hypot(...data[0].embedding.slice(0, 8));
  floats.forEach((v, i) => assert.ok(Math.abs(v - data[0].embedding[i] / scale) < 1e-6));
  await assert.rejects(model.chat.completions.create({ messages: [{ role: 'user', content: 'Hi' }] }), (e) => e instanceof ForewordError && e.code === 'invalid_request' && e.param === 'model');
  await assert.rejects(model.embeddings.create({ input: [] }), (e) => e.param === 'input');
  assert.equal((await model.stats()).last, undefined);
  await model.dispose();
  const ranker = await encoder('bert-rank');
  const { results } = await ranker.rerank({ query: 'the dog', documents: ['cats', 'the dog runs', 'able'], top_n: 2 });
  assert.ok(results.length === 2 && results[0].relevance_score >= results[1].relevance_score);
  await ranker.dispose();
});

test('an answer has the form that was asked for', async () => {
  const model = await Foreword.load(modelPath('smol.gguf'), { contextLength: 256 });
  const schema = { type: 'object', properties: { city: { type: 'string', maxLength: 12 }, warm: { type: 'boolean' } }, required: ['city', 'warm'], additionalProperties: false };
  const response_format = { type: 'json_schema', json_schema: { name: 'weather', strict: true, schema } };
  const { choices, usage } = await model.chat.completions.create({ messages: [{ role: 'user', content: 'The weather?' }], response_format, temperature: 1, max_tokens: 100 });
  const { city, warm } = JSON.parse(choices[0].message.content);
  assert.ok(typeof city === 'string' && typeof warm === 'boolean', choices[0].message.content);
  assert.ok(usage.completion_tokens_details.forced_tokens > 5, JSON.stringify(usage));
  const wrong = { type: 'json_schema', json_schema: { name: 'weather', strict: true, schema: { properties: { a: { type: 'thing' } } } } };
  await assert.rejects(model.completions.create({ prompt: 'Hi', response_format: wrong }), (e) => e.code === 'invalid_request' && e.message.includes('/properties/a/type'));
  await model.dispose();
});

test('a missing file is a typed error', async () => {
  for (const name of ['/no/such/file.gguf', './none.gguf']) {
    await assert.rejects(Foreword.load(name), (e) => e instanceof ForewordError && e.code === 'not_found' && e.message.includes(path.basename(name)));
  }
  await assert.rejects(Foreword.load(os.tmpdir()), (e) => e instanceof ForewordError && e.code !== 'internal');
  await assert.rejects(Foreword.load(modelPath('smol.gguf'), { sha256: '0'.repeat(64) }), (e) => e.code === 'checksum_mismatch');
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
    // The folder may have models of the command line's, too.
    const stranger = path.join(process.env.FOREWORD_CACHE, 'stranger.gguf');
    fs.writeFileSync(stranger, 'GGUF');
    const [entry] = await Foreword.list();
    assert.deepEqual([entry.bytes, entry.complete], [98362432, true]);
    assert.ok(fs.existsSync(stranger));
    // Requests of the caller's own, which go through the worker's port.
    let asked = 0;
    const own = await Foreword.load(`${server.url}/tiny.gguf`, { fetch: (...args) => (asked++, fetch(...args)) });
    await own.dispose();
    assert.equal(asked, 1);
    assert.equal(await Foreword.delete(`${server.url}/tiny.gguf`), true);
    assert.equal(await Foreword.delete(entry), true);
    assert.deepEqual(await Foreword.list(), []);
    await assert.rejects(Foreword.load(`${server.url}/missing.gguf`), (e) => e.code === 'not_found');
  } finally {
    server.close();
    fs.rmSync(process.env.FOREWORD_CACHE, { recursive: true });
  }
});
