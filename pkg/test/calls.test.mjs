// How calls end: what callers give, aborts, streams, and a core that traps.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { ForewordError } from '../dist/index.js';
import { inPage, launch, until, withPage } from './browser.mjs';
import { PKG, start } from './server.mjs';

let browser, server;
before(async () => {
  [browser, server] = await Promise.all([launch(), start()]);
});
after(async () => {
  await browser?.close();
  server?.close();
});

/** A test in a fresh profile. */
const on = (name, job) => test(name, () => withPage(browser, server.url, job));

test('errors have the status of the core’s table', () => {
  const table = fs.readFileSync(path.join(PKG, '../src/error.rs'), 'utf8');
  const rows = [...table.matchAll(/Kind::\w+ => \("(\w+)", (\d+), \d+\)/g)];
  assert.ok(rows.length >= 10);
  for (const [, code, status] of rows) {
    const error = new ForewordError(code, 'x');
    assert.deepEqual([code, error.status, error.type, error.param], [code, Number(status), status < 500 ? 'invalid_request_error' : 'server_error', null]);
  }
});

on('arguments of a wrong kind are refused, and the model goes on', async (page) => {
  const r = await inPage(page, async (Foreword) => {
    const { ForewordError } = await import('/dist/index.js');
    const codes = {};
    const tried = async (name, job) => {
      codes[name] = await job().then(() => 'answered', (error) => (error instanceof ForewordError ? error.code : `${error.name}: ${error.message}`));
    };
    const load = (source, options) => () => Foreword.load(source, options);
    const sources = { undefined: undefined, null: null, number: 42, object: {}, ArrayBuffer: new ArrayBuffer(8), bytes: new Uint8Array(8), Response: await fetch('/'), blobs: [new Blob(['GGUF'])], empty: ' ', none: [] };
    for (const [name, source] of Object.entries(sources)) await tried(`load ${name}`, load(source));
    const folder = await navigator.storage.getDirectory();
    await tried('load FileSystemFileHandle', load(await folder.getFileHandle('x', { create: true })));
    const options = {
      signal: {}, onProgress: 'x', sha256: 'abc', contextLength: 1e15, threads: '2', mirror: 'http://', assets: 'http://', headers: { 'bad name': 'x' },
    };
    for (const [name, value] of Object.entries(options)) await tried(`load with ${name}`, load(name === 'mirror' ? 'smollm2-135m' : '/tiny.gguf', { [name]: value }));
    await tried('load with 2^32 + 8', load('/tiny.gguf', { contextLength: 2 ** 32 + 8 }));
    await tried('load percent', load('/100%.gguf'));
    const model = await Foreword.load('/tiny.gguf', { threads: 2 });
    for (const text of [42, {}, undefined, null, true, ['a']]) await tried(`tokenize ${JSON.stringify(text)}`, () => model.tokenize(text));
    await tried('tokenize, options', () => model.tokenize('a', { special: 'yes' }));
    for (const tokens of [undefined, null, 'abc', 5, ['a', NaN], [1.5], [-1], [2 ** 32], [1e6], {}]) await tried(`detokenize ${JSON.stringify(tokens)}`, () => model.detokenize(tokens));
    await tried('detokenize typed', () => model.detokenize(Uint32Array.of(1, 2)));
    for (const request of ['hi', null, undefined, 5, [], {}, { prompt: null }]) await tried(`create ${JSON.stringify(request)}`, () => model.completions.create(request));
    for (const signal of [{}, 'x', 5]) await tried(`signal ${JSON.stringify(signal)}`, () => model.completions.create({ prompt: 'a', max_tokens: 1 }, { signal }));
    await tried('no signal', () => model.completions.create({ prompt: 'a', max_tokens: 1 }, { signal: null }));
    await tried('no options', () => model.completions.create({ prompt: 'a', max_tokens: 1 }, null));
    await tried('benchmark', () => model.benchmark({ promptTokens: -1 }));
    await tried('delete', () => Foreword.delete(42));
    await tried('after', () => model.completions.create({ prompt: 'a', max_tokens: 1 }));
    return codes;
  });
  const fine = ['tokenize, options', 'detokenize typed', 'no signal', 'no options', 'after'];
  const elsewhere = { 'load percent': 'not_found' };
  for (const [name, code] of Object.entries(r)) assert.equal(code, fine.includes(name) ? 'answered' : (elsewhere[name] ?? 'invalid_request'), name);
});

on('requests are what JSON.stringify makes of them', async (page) => {
  const r = await inPage(page, async (Foreword) => {
    const model = await Foreword.load('/smol.gguf', { contextLength: 256 });
    const said = { role: 'user', content: 'Name three fruits.' };
    const ask = (more) => model.chat.completions.create({ messages: [said], max_tokens: 6, temperature: 0, ...more }).then((a) => a.choices[0].message.content, (e) => e.code);
    const wanted = await ask();
    class Json { toJSON() { return said; } }
    const got = {};
    got.proxy = await ask({ messages: new Proxy([new Proxy(said, {})], {}) });
    got.json = await ask({ messages: [new Json()] });
    got.method = await ask({ messages: [{ ...said, render() {} }] });
    got.whole = await model.chat.completions.create(new Proxy({ messages: [said], max_tokens: 6, temperature: 0 }, {})).then((a) => a.choices[0].message.content, (e) => e.code);
    got.toJSON = await model.chat.completions.create({ toJSON: () => ({ messages: [said], max_tokens: 6, temperature: 0 }) }).then((a) => a.choices[0].message.content, (e) => e.code);
    const cycle = { ...said };
    cycle.self = cycle;
    const limits = { safe: await ask({ max_tokens: Number.MAX_SAFE_INTEGER, stop: ['\n'] }), wide: await ask({ max_tokens: 2 ** 32, stop: ['\n'] }) };
    const refused = { bigint: await ask({ seed: 5n }), cycle: await ask({ messages: [cycle] }), getter: await model.chat.completions.create({ get messages() { throw new Error('mine'); } }).catch((e) => e.code) };
    const cut = 'I like it \u{1F600}'.slice(0, -1);
    const texts = { content: await ask({ messages: [{ role: 'user', content: cut }] }), whole: await ask({ messages: [{ role: 'user', content: 'I like it \ufffd' }] }), stop: await ask({ stop: [cut.slice(-1)] }) };
    // What looks like half of a pair, but is text.
    const ids = await Promise.all(['\\ud83d', cut, 'I like it \ufffd'].map((text) => model.tokenize(text)));
    const used = async (prompt) => (await model.completions.create({ prompt, max_tokens: 1 })).usage.prompt_tokens;
    const chat = { messages: [{ role: 'system', content: 'Be brief.' }, said] };
    const counts = [await model.countTokens(chat), (await model.chat.completions.create({ ...chat, max_tokens: 1 })).usage.prompt_tokens, await model.countTokens({ prompt: ['a', 'b c'], n: 2 })];
    const uncounted = await Promise.all([{}, null, { messages: [] }, { messages: 5 }].map((request) => model.countTokens(request).then(() => 'counted', (e) => e.code)));
    const lengths = [await used('\\ud83d \\\\ud83d'), (await model.tokenize('\\ud83d \\\\ud83d')).length];
    return { wanted, got, limits, refused, texts, ids, lengths, counts, uncounted };
  });
  assert.equal(r.code, undefined, r.message);
  for (const [name, text] of Object.entries(r.got)) assert.equal(text, r.wanted, name);
  for (const [name, text] of Object.entries(r.limits)) assert.ok(text.startsWith(r.wanted.split('\n')[0]), `${name}: ${text}`);
  assert.deepEqual(r.refused, { bigint: 'invalid_request', cycle: 'invalid_request', getter: 'invalid_request' });
  assert.equal(r.texts.content, r.texts.whole);
  assert.equal(r.texts.stop, r.wanted);
  assert.deepEqual(r.ids[1], r.ids[2]);
  assert.equal(r.lengths[0], r.lengths[1]);
  assert.equal(r.counts[0], r.counts[1]);
  assert.equal(r.counts[2], 3);
  assert.deepEqual(r.uncounted, Array(4).fill('invalid_request'));
});

on('an abort is heard at once, also while another answer is written, and says why', async (page) => {
  const r = await inPage(page, async (Foreword) => {
    const model = await Foreword.load('/smol.gguf', { contextLength: 512, threads: 1 });
    const other = model.completions.create({ prompt: 'Once upon a time', max_tokens: 40, ignore_eos: true });
    await new Promise((go) => setTimeout(go, 100));
    const stop = new AbortController();
    const reason = new Error('the user typed on');
    const answers = [
      model.completions.create({ prompt: 'never', max_tokens: 300, ignore_eos: true }, { signal: stop.signal }),
      model.completions.create({ prompt: 'never', max_tokens: 300, ignore_eos: true, stream: true }, { signal: stop.signal }),
    ].map((answer) => answer.catch((e) => ({ name: e.name, code: e.code, cause: e.cause === reason })));
    stop.abort(reason);
    const cancelled = await Promise.race([Promise.all(answers), other]);
    const { usage } = await other;
    const stats = await model.stats();
    return { cancelled, usage, last: stats.last.completion_tokens, running: stats.running };
  });
  const error = { name: 'AbortError', code: 'cancelled', cause: true };
  assert.deepEqual(r.cancelled, [error, error], r.message);
  assert.deepEqual([r.usage.completion_tokens, r.last, r.running], [40, 40, 0]);
});

on('streams do what openai’s do', async (page) => {
  const r = await inPage(page, async (Foreword) => {
    const { Stream } = await import('/dist/index.js');
    const model = await Foreword.load('/smol.gguf', { contextLength: 256 });
    const request = { prompt: 'One, two,', max_tokens: 8, temperature: 0, ignore_eos: true, stream: true };
    const textOf = async (chunks) => {
      let text = '';
      for await (const chunk of chunks) text += chunk.choices[0].text;
      return text;
    };
    const out = {};
    const wanted = await textOf(await model.completions.create(request));
    // A request that cannot be is refused by create() itself.
    out.refused = await model.completions.create({ ...request, prompt: 'word '.repeat(400) }).catch((e) => [e.code, e.status]);
    const stream = await model.completions.create(request);
    out.isStream = stream instanceof Stream && stream.controller instanceof AbortController;
    out.once = (await textOf(stream)) === wanted;
    out.twice = await textOf(stream).catch((e) => e.code);
    const [left, right] = (await model.completions.create(request)).tee();
    out.tee = (await Promise.all([textOf(left), textOf(right)])).every((text) => text === wanted);
    const lines = await new Response((await model.completions.create(request)).toReadableStream()).text();
    out.lines = lines.trim().split('\n').map((line) => JSON.parse(line).choices[0].text).join('') === wanted;
    // Stopped from outside the loop: it ends, without an error.
    const stopped = await model.completions.create({ ...request, max_tokens: 200 });
    let chunks = 0;
    for await (const _ of stopped) if (++chunks === 2) stopped.controller.abort();
    out.stopped = chunks;
    const reader = (await model.completions.create({ ...request, max_tokens: 200 })).toReadableStream().getReader();
    await reader.read();
    await reader.cancel();
    out.running = (await model.stats()).running;
    out.early = await model.completions.create(request, { signal: AbortSignal.abort() }).catch((e) => [e.name, e.code]);
    return out;
  });
  assert.deepEqual(r, {
    refused: ['context_length_exceeded', 400], isStream: true, once: true, twice: 'invalid_request', tee: true, lines: true, stopped: 2, running: 0, early: ['AbortError', 'cancelled'],
  });
});

on('answers whose streams nobody has any more end, the others not', async (page) => {
  const begun = await inPage(page, async (Foreword) => {
    const model = (globalThis.model = await Foreword.load('/smol.gguf', { contextLength: 4096 }));
    const start = () => model.completions.create({ prompt: 'Once upon a time', max_tokens: 4000, ignore_eos: true, stream: true });
    const read = async (iterator) => (await iterator.next(), iterator);
    await start();
    await read((await start())[Symbol.asyncIterator]());
    await (await start()).toReadableStream().getReader().read();
    await Promise.all((await start()).tee().map((half) => read(half[Symbol.asyncIterator]())));
    globalThis.kept = await read((await start())[Symbol.asyncIterator]());
    return (await model.stats()).running;
  });
  assert.equal(begun, 5, begun.message);
  const running = () => page.evaluate(async () => (await globalThis.model.stats()).running);
  await until(async () => (await page.requestGC(), await running()), 1);
  assert.equal(await page.evaluate(async () => (await globalThis.kept.next()).done), false);
  await page.evaluate(() => globalThis.kept.return());
  await until(running, 0);
});

on('a trap ends the model: no call hangs, and its memory is given back', async (page) => {
  const r = await inPage(page, async (Foreword) => {
    // The package itself sends no such thing.
    const { postMessage } = Worker.prototype;
    Worker.prototype.postMessage = function (message, ...rest) {
      if (message.args?.text === 'TRAP') message = { ...message, args: { text: 42 } };
      postMessage.call(this, message, ...rest);
    };
    const out = [];
    for (const busy of [false, true]) {
      const model = await Foreword.load('/tiny.gguf', { threads: 2 });
      const soon = (job) => Promise.race([job.then(() => 'answered', (e) => `${e.name} ${e.code}`), new Promise((go) => setTimeout(go, 20_000, 'hangs'))]);
      const before = busy ? [soon(model.completions.create({ prompt: 'a', max_tokens: 200, ignore_eos: true }))] : [];
      const failed = [...before, soon(model.tokenize('TRAP')), soon(model.tokenize('hello'))];
      out.push(await Promise.all(failed));
      out.push(await Promise.all([soon(model.completions.create({ prompt: 'a', stream: true })), soon(model.stats()), soon(model.dispose())]));
    }
    const again = await Foreword.load('/tiny.gguf', { threads: 2 });
    out.push((await again.completions.create({ prompt: 'a', max_tokens: 2, ignore_eos: true })).usage.completion_tokens);
    await again.dispose();
    return out;
  });
  const over = 'ForewordError internal';
  assert.deepEqual(r, [[over, over], [over, over, 'answered'], [over, over, over], [over, over, 'answered'], 2], r.message);
  await until(() => page.workers().length, 0);
});

on('onProgress that throws fails the load', async (page) => {
  const r = await inPage(page, async (Foreword) => {
    const mine = new Error('mine');
    const failed = await Foreword.load('/tiny.gguf', { onProgress() { throw mine; } }).catch((e) => [e.code, e.cause === mine]);
    return [failed, (await Foreword.load('/tiny.gguf')).info.name];
  });
  assert.deepEqual(r, [['invalid_request', true], 'tiny random model'], r.message);
});

on('the browser is asked to keep the cache only where the caller wants that', async (page) => {
  const r = await inPage(page, async (Foreword) => {
    let asked = 0;
    StorageManager.prototype.persist = async () => (asked++, true);
    const counts = [];
    for (const persist of [undefined, true]) {
      await (await Foreword.load(`/tiny.gguf?persist=${persist}`, { persist })).dispose();
      counts.push(asked);
    }
    return counts;
  });
  assert.deepEqual(r, [0, 1], r.message);
});
