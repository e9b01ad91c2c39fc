// Foreword.connect: a model on a server, and servers that fail. `./test apps` has it talk to `foreword serve`.
import assert from 'node:assert/strict';
import http from 'node:http';
import { after, before, test } from 'node:test';
import { Foreword, ForewordError } from '../dist/index.js';

/** What the server answers next, and what it was asked. */
let answer, asked, server, baseURL, closed;
before(async () => {
  server = http.createServer(async (request, response) => {
    let body = '';
    for await (const piece of request) body += piece;
    asked = { url: request.url, method: request.method, headers: request.headers, body: body && JSON.parse(body) };
    response.on('close', () => closed?.());
    if (request.url === '/v1/models' && answer === undefined) response.end(JSON.stringify({ data: [{ id: 'a' }, { id: 'b' }] }));
    else answer(response);
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  baseURL = `http://127.0.0.1:${server.address().port}/v1/`;
});
after(() => {
  server.closeAllConnections();
  server.close();
});

const connected = async (options) => {
  answer = undefined;
  return Foreword.connect({ baseURL, ...options });
};
const json = (value, status = 200) => (response) => response.writeHead(status).end(JSON.stringify(value));
const events = (...pieces) => (response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  pieces.forEach((piece) => response.write(piece));
  response.end();
};
const refused = (code, words = /./) => (error) => error instanceof ForewordError && error.code === code && words.test(error.message);
const HI = { messages: [{ role: 'user', content: 'Hi' }] };

test('a model of a server answers as a loaded one', async () => {
  const model = await connected({ apiKey: 'secret', headers: { 'x-team': 'blue' } });
  assert.deepEqual([model.info.name, model.info.backend, (await model.ready).name], ['a', 'remote', 'a']);
  answer = json({ choices: [{ message: { content: 'Hello' } }] });
  const whole = await model.chat.completions.create(HI);
  assert.equal(whole.choices[0].message.content, 'Hello');
  assert.deepEqual([asked.url, asked.method, asked.body], ['/v1/chat/completions', 'POST', { ...HI, model: 'a' }]);
  assert.deepEqual([asked.headers.authorization, asked.headers['x-team']], ['Bearer secret', 'blue']);
  answer = json({ data: [] });
  await model.embeddings.create({ input: 'x', model: 'b' });
  assert.deepEqual([asked.url, asked.body.model], ['/v1/embeddings', 'b']);
  answer = json({ results: [] });
  await model.rerank({ query: 'x', documents: ['y'] });
  assert.equal(asked.url, '/v1/rerank');
  answer = json({ text: 'x' });
  assert.deepEqual(await (await model.fetch('http://localhost/v1/completions', { method: 'POST', body: '{}' })).json(), { text: 'x' });
  assert.deepEqual([asked.url, asked.headers.authorization], ['/v1/completions', 'Bearer secret']);
});

test('streams are read however they are cut', async () => {
  const model = await connected();
  const chunk = (text) => ({ choices: [{ delta: { content: text } }] });
  const all = `: hello\r\ndata: ${JSON.stringify(chunk('é1'))}\r\n\r\nevent: x\ndata:${JSON.stringify(chunk('2'))}\n\ndata: [DONE]\n\n`;
  const bytes = Buffer.from(all);
  for (const size of [1, 7, bytes.length]) {
    answer = events(...Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => bytes.subarray(i * size, (i + 1) * size)));
    let text = '';
    for await (const { choices } of await model.chat.completions.create({ ...HI, stream: true })) text += choices[0].delta.content;
    assert.equal(text, 'é12');
  }
});

test('an answer that breaks off is an error', async () => {
  const model = await connected();
  const read = async () => {
    for await (const _ of await model.chat.completions.create({ ...HI, stream: true }));
  };
  answer = events('data: {"choices":[]}\n\n');
  await assert.rejects(read, refused('offline', /broke off/));
  answer = (response) => {
    response.writeHead(200);
    response.write('data: {"choices":[]}\n\n', () => response.destroy());
  };
  await assert.rejects(read, refused('offline'));
  answer = events('data: {"error":{"message":"No memory","code":"out_of_memory"}}\n\n');
  await assert.rejects(read, refused('out_of_memory', /No memory/));
  answer = events('data: {{{\n\n');
  await assert.rejects(read, refused('internal', /no JSON/));
});

test('refusals have the codes of this package', async () => {
  const model = await connected();
  for (const [status, error, code] of [
    [400, { message: 'x', code: 'context_length_exceeded' }, 'context_length_exceeded'],
    [400, { message: 'x', param: 'messages' }, 'invalid_request'],
    [404, { message: 'x' }, 'not_found'],
    [429, { message: 'x', code: 'rate_limit_exceeded' }, 'busy'],
    [503, 'not an object', 'busy'],
    [500, null, 'internal'],
  ]) {
    answer = json({ error }, status);
    await assert.rejects(model.chat.completions.create(HI), refused(code));
    await assert.rejects(model.chat.completions.create({ ...HI, stream: true }), refused(code));
  }
  answer = (response) => response.end('<html>');
  await assert.rejects(model.chat.completions.create(HI), refused('internal', /no JSON/));
  await assert.rejects(model.chat.completions.create({}), refused('invalid_request', /messages/));
});

test('leaving, aborting and disposing end the request at the server', async () => {
  const model = await connected();
  const endless = (response) => {
    response.writeHead(200);
    response.write('data: {"choices":[]}\n\n');
  };
  answer = endless;
  const ends = () => new Promise((done) => (closed = done));
  let end = ends();
  for await (const _ of await model.chat.completions.create({ ...HI, stream: true })) break;
  await end;
  end = ends();
  const stop = new AbortController();
  for await (const _ of await model.chat.completions.create({ ...HI, stream: true }, { signal: stop.signal })) stop.abort();
  await end;
  answer = () => {};
  end = ends();
  const whole = model.chat.completions.create(HI, { signal: AbortSignal.timeout(50) });
  await assert.rejects(whole, (error) => error.name === 'AbortError' && error.code === 'cancelled');
  await end;
  end = ends();
  const waiting = model.chat.completions.create(HI);
  await model.dispose();
  await assert.rejects(waiting, refused('disposed'));
  await assert.rejects(model.chat.completions.create(HI), refused('disposed'));
});

test('a server that is none is said so', async () => {
  await assert.rejects(Foreword.connect({ baseURL: 'nowhere' }), refused('invalid_request', /address/));
  await assert.rejects(Foreword.connect({ baseURL: 'http://127.0.0.1:9/v1' }), refused('offline', /cannot be reached/));
  await assert.rejects(connected({ model: 'c' }), refused('not_found', /has no model c; it has a, b/));
  answer = (response) => response.writeHead(404).end();
  await assert.rejects(Foreword.connect({ baseURL }), refused('not_found', /404/));
  answer = json([]);
  await assert.rejects(Foreword.connect({ baseURL }), refused('not_found', /no model/));
});
