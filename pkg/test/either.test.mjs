// Foreword.load with a remote: the device or a server answers, and the other one where that fails. In Node, over a server that stands in.
import assert from 'node:assert/strict';
import http from 'node:http';
import path from 'node:path';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { Foreword, ForewordError } from '../dist/index.js';
import { PKG, start } from './server.mjs';

const TINY = path.join(PKG, '../tests/data/models/llama.gguf');
const MISSING = path.join(PKG, '../tests/data/models/none.gguf');

/** What the server does with a request for an answer, and what it was asked, models included. */
let answer, asked, server, remote;
before(async () => {
  server = http.createServer(async (request, response) => {
    let body = '';
    for await (const piece of request) body += piece;
    asked.push({ url: request.url, body: body && JSON.parse(body) });
    if (request.url === '/v1/models') return json({ data: [{ id: 'far' }] })(response);
    answer(response);
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  remote = { baseURL: `http://127.0.0.1:${server.address().port}/v1` };
});
after(() => {
  server.closeAllConnections();
  server.close();
});

/** The workers that were started, so that a test can end one, as a browser does that is short of memory. */
const threads = process.getBuiltinModule('node:worker_threads');
const Plain = threads.Worker;
let workers;
beforeEach(() => {
  asked = [];
  workers = [];
  answer = json({ choices: [{ index: 0, text: 'far', message: { content: 'far' } }] });
  threads.Worker = class extends Plain {
    constructor(...args) {
      super(...args);
      workers.push(this);
    }
  };
});
afterEach(() => void (threads.Worker = Plain));

const json = (value, status = 200) => (response) => response.writeHead(status).end(JSON.stringify(value));
const chunk = (text) => `data: ${JSON.stringify({ id: 'far-1', created: 1, choices: [{ index: 0, text }] })}\n\n`;
const HI = { messages: [{ role: 'user', content: 'Hi' }, { role: 'assistant', content: 'Hello' }, { role: 'user', content: 'More' }] };
const ASK = { prompt: 'Hello', max_tokens: 6, temperature: 0, ignore_eos: true };
const refused = (code, words = /./) => (error) => error instanceof ForewordError && error.code === code && words.test(error.message);
const textOf = async (stream) => {
  let text = '';
  for await (const { choices } of stream) text += choices[0]?.text ?? '';
  return text;
};

test('nothing leaves the device that has a model, with a remote or without', async () => {
  for (const options of [{}, { remote }, { remote, prefer: 'auto' }, { remote, prefer: 'device' }]) {
    const model = await Foreword.load(TINY, options);
    assert.equal(model.info.backend, 'cpu');
    assert.match(model.info.choice ?? '', options.prefer === 'device' ? /preferred/ : options.remote ? /This device writes|fits into/ : /^$/);
    assert.equal((await model.completions.create(ASK)).usage.completion_tokens, 6);
    await model.dispose();
  }
  assert.deepEqual(asked, []);
});

test('a server answers where it is preferred, and no model is loaded', async () => {
  const told = [];
  const model = await Foreword.load(MISSING, { remote, prefer: 'remote', onSwitch: ({ backend, choice }) => told.push([backend, choice]) });
  assert.deepEqual([model.info.name, model.info.backend, model.info.choice], ['far', 'remote', 'The server was preferred.']);
  assert.equal((await model.ready).name, 'far');
  assert.deepEqual(told, [['remote', 'The server was preferred.']]);
  assert.equal((await model.chat.completions.create({ ...HI, model: 'any' })).choices[0].message.content, 'far');
  assert.deepEqual(asked.at(-1), { url: '/v1/chat/completions', body: { ...HI, model: 'far' } });
  answer = (response) => response.end(`${chunk('a')}${chunk('b')}data: [DONE]\n\n`);
  assert.equal(await textOf(await model.completions.create({ ...ASK, stream: true })), 'ab');
  answer = json({ data: [] });
  await model.embeddings.create({ input: 'x' });
  assert.equal(asked.at(-1).url, '/v1/embeddings');
  await assert.rejects(model.countTokens(HI), refused('unsupported', /127.0.0.1/));
  answer = json({ error: { message: 'no' } }, 400);
  await assert.rejects(model.chat.completions.create(HI), refused('invalid_request', /no/));
  assert.equal(workers.length, 0);
  answer = () => {};
  const waiting = model.chat.completions.create(HI);
  await model.dispose();
  await assert.rejects(waiting, refused('disposed'));
});

test('a model that does not fit is left to the server', async () => {
  const files = await start();
  try {
    const { memory, fits } = await Foreword.estimate(`${files.url}/huge.gguf`);
    assert.ok(!fits && memory > 2e13);
    const model = await Foreword.load(`${files.url}/huge.gguf`, { remote });
    assert.ok(model.info.choice.includes(`needs ${(memory / 1e9).toFixed(1)} GB of memory, more than`), model.info.choice);
    assert.ok(files.requests.length === 0, 'it is not downloaded');
    await model.dispose();
  } finally {
    files.close();
  }
});

test('a model that cannot be loaded is left to the server, and a server that is not there to the device', async () => {
  const first = await Foreword.load(MISSING, { remote });
  assert.deepEqual([first.info.backend, /^This device failed: .*none\.gguf/.test(first.info.choice)], ['remote', true], first.info.choice);
  await first.dispose();
  const nobody = { baseURL: 'http://127.0.0.1:9/v1' };
  const second = await Foreword.load(TINY, { remote: nobody, prefer: 'remote' });
  assert.deepEqual([second.info.backend, /^The server failed: .*cannot be reached/.test(second.info.choice)], ['cpu', true], second.info.choice);
  await second.dispose();
  await assert.rejects(Foreword.load(MISSING, { remote: nobody }), refused('offline'));
  await assert.rejects(Foreword.load(MISSING, { remote: nobody, prefer: 'remote' }), refused('not_found'));
});

test('mistakes of the caller are told, not fallen back from', async () => {
  await assert.rejects(Foreword.load(TINY, { prefer: 'remote' }), refused('invalid_request', /remote/));
  await assert.rejects(Foreword.load(TINY, { remote, prefer: 'cloud' }), refused('invalid_request', /cloud/));
  await assert.rejects(Foreword.load(TINY, { remote: { baseURL: 'nowhere' }, prefer: 'remote' }), refused('invalid_request', /address/));
  await assert.rejects(Foreword.load(TINY, { remote, threads: -1 }), refused('invalid_request', /threads/));
  await assert.rejects(Foreword.load(TINY, { remote, onSwitch: 1 }), refused('invalid_request', /onSwitch/));
  const gone = AbortSignal.abort();
  for (const prefer of ['device', 'remote']) await assert.rejects(Foreword.load(TINY, { remote, prefer, signal: gone }), refused('cancelled'));
  assert.deepEqual(asked, []);
});

test('the server takes a conversation over whose worker ends', async () => {
  const told = [];
  const model = await Foreword.load(TINY, { remote, prefer: 'device', onSwitch: ({ backend }) => told.push(backend) });
  await model.completions.create(ASK);
  await workers[0].terminate();
  const { choices } = await model.chat.completions.create(HI);
  assert.equal(choices[0].message.content, 'far');
  assert.deepEqual(asked.at(-1).body.messages, HI.messages, 'all of it');
  assert.deepEqual([told, model.info.backend], [['cpu', 'remote'], 'remote']);
  assert.match(model.info.choice, /^This device failed: .*worker ended/);
  await model.dispose();
});

test('the device goes on with an answer that breaks off at the server', async () => {
  const model = await Foreword.load(TINY, { remote, prefer: 'remote' });
  answer = (response) => {
    response.writeHead(200);
    response.write(chunk(' wor') + chunk('ld'), () => setTimeout(() => response.destroy(), 50));
  };
  const chunks = [];
  for await (const piece of await model.completions.create({ ...ASK, stream: true })) chunks.push(piece);
  const alone = await Foreword.load(TINY);
  const rest = await alone.completions.create({ ...ASK, prompt: 'Hello world', max_tokens: 4 });
  assert.equal(chunks.map(({ choices }) => choices[0]?.text ?? '').join(''), ` world${rest.choices[0].text}`);
  assert.deepEqual([...new Set(chunks.map(({ id }) => id))], ['far-1'], 'one answer');
  assert.deepEqual([model.info.backend, /broke off/.test(model.info.choice)], ['cpu', true], model.info.choice);
  await Promise.all([model.dispose(), alone.dispose()]);
});

test('a server that is busy is not asked again, and a later failure of the device brings it back', async () => {
  const model = await Foreword.load(TINY, { remote, prefer: 'remote' });
  answer = json({ error: { message: 'full' } }, 429);
  assert.equal((await model.completions.create(ASK)).usage.completion_tokens, 6);
  assert.match(model.info.choice, /^The server failed: full/);
  const before = asked.length;
  await model.completions.create(ASK);
  assert.equal(asked.length, before);
  answer = json({ choices: [{ index: 0, text: 'back' }] });
  await workers.at(-1).terminate();
  assert.equal((await model.completions.create(ASK)).choices[0].text, 'back');
  await model.dispose();
});

test('where both fail the first failure is told, and the next call tries again', async () => {
  const model = await Foreword.load(MISSING, { remote, prefer: 'remote' });
  answer = json({ error: { message: 'full' } }, 503);
  await assert.rejects(model.chat.completions.create(HI), refused('busy', /full/));
  answer = json({ choices: [{ message: { content: 'far' } }] });
  assert.equal((await model.chat.completions.create(HI)).choices[0].message.content, 'far');
  await model.dispose();
});
