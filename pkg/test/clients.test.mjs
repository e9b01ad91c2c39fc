// The client of OpenAI, unmodified, over `model.fetch`: in Node and in a browser. And `fetch` itself, where that client does not look.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import * as esbuild from 'esbuild';
import OpenAI from 'openai';
import { Foreword } from '../dist/index.js';
import { inPage, launch, until, withPage } from './browser.mjs';
import { modelPath, PKG, start } from './server.mjs';

let browser, server, folder;
before(async () => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'foreword-clients-'));
  const stdin = { contents: "export { default } from 'openai';", resolveDir: PKG };
  await esbuild.build({ stdin, bundle: true, format: 'esm', outfile: path.join(folder, 'openai.js'), logLevel: 'error' });
  [browser, server] = await Promise.all([launch(), start({ folders: { clients: folder } })]);
});
after(async () => {
  await browser?.close();
  server?.close();
  fs.rmSync(folder, { recursive: true, force: true });
});

/** What the client makes of a model; runs in Node and in the page. */
async function uses(OpenAI, model) {
  const client = new OpenAI({ baseURL: 'http://localhost/v1', apiKey: 'none', fetch: model.fetch, dangerouslyAllowBrowser: true, maxRetries: 2 });
  const request = { model: 'mine', messages: [{ role: 'user', content: 'Name three fruits.' }], temperature: 0, max_tokens: 12 };
  const wanted = (await model.chat.completions.create(request)).choices[0].message.content;
  const out = {};
  const [{ id }] = (await client.models.list()).data;
  out.models = [id === model.info.name, (await client.models.retrieve(id)).id === id];
  const { data, response } = await client.chat.completions.create(request).withResponse();
  out.chat = [data.choices[0].message.content === wanted, data.model, data.usage.completion_tokens > 0, response.status];
  let text = '';
  let usage;
  for await (const chunk of await client.chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } })) {
    text += chunk.choices[0]?.delta.content ?? '';
    usage = chunk.usage ?? usage;
  }
  out.stream = [text === wanted, usage.total_tokens > 0];
  const deltas = [];
  const runner = client.chat.completions.stream(request).on('content', (delta) => deltas.push(delta));
  const final = await runner.finalChatCompletion();
  out.helper = [final.choices[0].message.content === wanted, deltas.join('') === wanted];
  out.completion = (await client.completions.create({ model: 'x', prompt: 'The capital of France is', max_tokens: 1, temperature: 0 })).choices[0].text;
  const failure = (job) => job.then(() => 'none', (e) => [e.constructor.name, e.status, e.code, e.param]);
  out.refused = await failure(client.chat.completions.create({ ...request, temperature: -1 }));
  out.refusedStream = await failure(client.chat.completions.create({ ...request, top_logprobs: 3, stream: true }));
  out.long = await failure(client.completions.create({ model: 'x', prompt: 'word '.repeat(2000) }));
  out.unknown = await failure(client.moderations.create({ input: 'x' }));
  out.noModel = await failure(client.models.retrieve('gpt'));
  // Aborted before, in the middle, and by leaving the loop.
  const endless = { ...request, max_tokens: 900, ignore_eos: true, stream: true };
  out.early = await failure(client.chat.completions.create(request, { signal: AbortSignal.abort() }));
  const stop = new AbortController();
  setTimeout(() => stop.abort(), 200);
  out.late = await failure(client.chat.completions.create({ ...endless, stream: false }, { signal: stop.signal }));
  const stream = await client.chat.completions.create(endless);
  let chunks = 0;
  for await (const _ of stream) if (++chunks === 3) stream.controller.abort();
  for await (const _ of await client.chat.completions.create(endless)) break;
  out.running = (await model.stats()).running;
  const [left, right] = (await client.chat.completions.create({ ...request, stream: true })).tee();
  const joined = async (half) => (await Array.fromAsync(half, (chunk) => chunk.choices[0]?.delta.content ?? '')).join('');
  out.tee = [(await joined(left)) === wanted, (await joined(right)) === wanted];
  await model.dispose();
  // Not tried again: it would fail again.
  let calls = 0;
  const counted = client.withOptions({ fetch: (...args) => (calls++, model.fetch(...args)) });
  out.disposed = [...(await failure(counted.chat.completions.create(request))), calls];
  return out;
}

const EXPECTED = {
  models: [true, true],
  chat: [true, 'mine', true, 200],
  stream: [true, true],
  helper: [true, true],
  completion: ' Paris',
  refused: ['BadRequestError', 400, 'invalid_request', 'temperature'],
  refusedStream: ['BadRequestError', 400, 'invalid_request', 'top_logprobs'],
  long: ['BadRequestError', 400, 'context_length_exceeded', null],
  unknown: ['NotFoundError', 404, 'unknown_url', null],
  noModel: ['NotFoundError', 404, 'model_not_found', 'model'],
  early: ['APIUserAbortError', undefined, undefined, undefined],
  late: ['APIUserAbortError', undefined, undefined, undefined],
  running: 0,
  tee: [true, true],
  disposed: ['InternalServerError', 503, 'disposed', null, 1],
};

test('the client of OpenAI runs on a model in Node', async () => {
  // Node 20 lacks it.
  Array.fromAsync ??= async (list, each) => {
    const out = [];
    for await (const item of list) out.push(each(item));
    return out;
  };
  assert.deepEqual(await uses(OpenAI, await Foreword.load(modelPath('smol.gguf'), { contextLength: 1024 })), EXPECTED);
});

test('the client of OpenAI runs on a model in the page', () =>
  withPage(browser, server.url, async (page) => {
    const r = await inPage(page, async (Foreword, { uses }) => {
      const { default: OpenAI } = await import('/clients/openai.js');
      return new Function('OpenAI', 'model', `return (${uses})(OpenAI, model)`)(OpenAI, await Foreword.load('/smol.gguf', { contextLength: 1024 }));
    }, { uses: uses.toString() });
    // What JSON has no word for comes back as null.
    assert.deepEqual(JSON.parse(JSON.stringify(r)), JSON.parse(JSON.stringify(EXPECTED)), r.message);
  }));

test('addresses, methods and bodies are answered as a server does', () =>
  withPage(browser, server.url, async (page) => {
    const r = await inPage(page, async (Foreword) => {
      const model = await Foreword.load('/tiny.gguf');
      const out = {};
      const ask = async (name, ...args) => {
        const response = await model.fetch(...args);
        out[name] = [response.status, (await response.json()).error?.code];
      };
      const post = (body, more) => ({ method: 'POST', body, ...more });
      const body = JSON.stringify({ prompt: 'a', max_tokens: 2, ignore_eos: true });
      await ask('relative', '/v1/completions', post(body));
      await ask('deep', new URL('https://x.test/a/b/openai/v1/completions/?key=1'), post(body));
      await ask('request', new Request('/v1/completions', post(body)));
      await ask('get', '/v1/completions');
      await ask('unknown', '/v1/files', post(body));
      await ask('no JSON', '/v1/completions', post('{'));
      await ask('null', '/v1/completions', post('null'));
      await ask('no body', '/v1/completions', post());
      await ask('other shape', '/v1/chat/completions', post(body));
      const streamed = await model.fetch('/v1/completions', post(JSON.stringify({ prompt: 'a', max_tokens: 3, ignore_eos: true, stream: true })));
      const text = await streamed.text();
      const events = text.split('\n\n');
      out.events = [streamed.headers.get('content-type'), events.at(-1), events.at(-2), events.slice(0, -2).every((e) => e.startsWith('data: {'))];
      const stop = new AbortController();
      const reason = new Error('mine');
      const response = await model.fetch('/v1/completions', post(JSON.stringify({ prompt: 'a', max_tokens: 60, ignore_eos: true, stream: true }), { signal: stop.signal }));
      const reader = response.body.getReader();
      await reader.read();
      stop.abort(reason);
      const drained = async () => ((await reader.read()).done ? 'done' : drained());
      out.aborted = await drained().catch((e) => e === reason);
      out.before = await model.fetch('/v1/completions', post(body, { signal: AbortSignal.abort(reason) })).catch((e) => e === reason);
      globalThis.model = model;
      return out;
    });
    assert.deepEqual(r, {
      relative: [200, undefined],
      deep: [200, undefined],
      request: [200, undefined],
      get: [405, 'method_not_allowed'],
      unknown: [404, 'unknown_url'],
      'no JSON': [400, 'invalid_request'],
      null: [400, 'invalid_request'],
      'no body': [400, 'invalid_request'],
      'other shape': [400, 'invalid_request'],
      events: ['text/event-stream; charset=utf-8', '', 'data: [DONE]', true],
      aborted: true,
      before: true,
    }, r.message);
    // A body that nobody reads ends its answer.
    await page.evaluate(() => void globalThis.model.fetch('/v1/completions', { method: 'POST', body: JSON.stringify({ prompt: 'a', max_tokens: 100, ignore_eos: true, stream: true }) }).then((response) => response.body.cancel()));
    await until(() => page.evaluate(async () => (await globalThis.model.stats()).running), 0);
  }));
