// The package in a real browser.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { inPage, launch, withPage } from './browser.mjs';
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
const QUESTION = [{ role: 'user', content: 'What is 2+2?' }];

on('loads, answers, streams the same words, and counts', async (page) => {
  const r = await inPage(page, async (Foreword, { messages }) => {
    const phases = new Set();
    const model = await Foreword.load('/smol.gguf', { threads: 2, onProgress: (p) => phases.add(p.phase) });
    const request = { messages, temperature: 0, max_tokens: 12 };
    const whole = await model.chat.completions.create(request);
    let text = '';
    const chunks = [];
    for await (const chunk of await model.chat.completions.create({ ...request, stream: true })) {
      chunks.push(chunk);
      text += chunk.choices[0].delta.content ?? '';
    }
    const ids = await model.tokenize('Hello world');
    return { info: model.info, phases: [...phases], whole, text, chunks, ids, back: await model.detokenize(ids), stats: await model.stats() };
  }, { messages: QUESTION });
  assert.equal(r.code, undefined, r.message);
  assert.equal(r.info.device, 'wasm-relaxed-simd');
  assert.equal(r.info.threads, 2);
  assert.deepEqual(r.phases, ['download', 'load']);
  assert.equal(r.whole.object, 'chat.completion');
  assert.equal(r.whole.choices[0].message.content, r.text);
  assert.equal(r.chunks[0].choices[0].delta.role, 'assistant');
  assert.ok(['stop', 'length'].includes(r.chunks.at(-1).choices[0].finish_reason));
  const { usage } = r.chunks.at(-1);
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  assert.ok(usage.prompt_tokens_details.cached_tokens > 20, 'the second request reuses the prompt');
  assert.equal(r.back, 'Hello world');
  const { memory } = r.stats;
  assert.ok(memory.wasm <= 1.25 * memory.weights + memory.cache + 32 * 2 ** 20, JSON.stringify(memory));
});

on('log-probabilities are those of llama.cpp', async (page) => {
  const lines = fs.readFileSync(path.join(PKG, '../tests/data/smollm2-135m-instruct-q4_1-logprobs.jsonl'), 'utf8').trim().split('\n');
  const cases = lines.map((line) => JSON.parse(line)).filter((c) => c.steps).slice(0, 4);
  const got = await inPage(page, async (Foreword, { cases }) => {
    const model = await Foreword.load('/smol.gguf', { cache: false });
    const out = [];
    for (const { prompt_tokens } of cases) {
      out.push((await model.completions.create({ prompt: prompt_tokens, temperature: 0, max_tokens: 1, logprobs: 5 })).choices[0].logprobs);
    }
    return out;
  }, { cases });
  assert.equal(got.length, cases.length);
  got.forEach((logprobs, i) => {
    const expected = cases[i].steps[0].logprob;
    assert.ok(Math.abs(logprobs.token_logprobs[0] - expected) < 0.15, `${logprobs.token_logprobs[0]} for ${expected}`);
  });
});

on('an answer is aborted in the middle, and the model goes on', async (page) => {
  const r = await inPage(page, async (Foreword, { messages }) => {
    const model = await Foreword.load('/smol.gguf', { cache: false });
    const controller = new AbortController();
    let n = 0, code;
    try {
      const request = { messages, stream: true, max_tokens: 500, ignore_eos: true };
      for await (const _ of await model.chat.completions.create(request, { signal: controller.signal })) if (++n === 3) controller.abort();
    } catch (error) { code = error.code; }
    let left = 0;
    for await (const _ of await model.chat.completions.create({ messages, stream: true, max_tokens: 500, ignore_eos: true })) if (++left === 3) break;
    const after = await model.chat.completions.create({ messages, max_tokens: 3 });
    return { n, code, left, running: (await model.stats()).running, tokens: after.usage.completion_tokens };
  }, { messages: QUESTION });
  assert.equal(r.code, 'cancelled', r.message);
  assert.ok(r.n < 10);
  assert.deepEqual([r.left, r.running, r.tokens], [3, 0, 3]);
});

on('two models at once, from one download, and two requests at once', async (page) => {
  const r = await inPage(page, async (Foreword, { messages }) => {
    const models = await Promise.all([1, 2].map(() => Foreword.load('/smol.gguf?twice', { threads: 1, contextLength: 512 })));
    const request = { messages, temperature: 0, max_tokens: 8 };
    const answers = await Promise.all(models.flatMap((m) => [m.chat.completions.create(request), m.chat.completions.create(request)]));
    return { cached: models.map((m) => m.info.cached), texts: answers.map((a) => a.choices[0].message.content) };
  }, { messages: QUESTION });
  assert.deepEqual(r.cached?.sort(), [false, true], r.message);
  assert.equal(new Set(r.texts).size, 1);
  assert.equal(server.requests.filter((q) => q.url.endsWith('?twice')).length, 1);
});

test('a reload loads from the cache, a damaged entry is loaded again, and entries can be deleted', async () => {
  const context = await browser.newContext();
  const load = (page) => inPage(page, async (Foreword) => (await Foreword.load('/smol.gguf?reload')).info);
  const first = await withPage(browser, server.url, load, context);
  const second = await withPage(browser, server.url, load, context);
  assert.deepEqual([first.cached, second.cached], [false, true], first.message ?? second.message);
  const damaged = await withPage(browser, server.url, (page) => inPage(page, async (Foreword) => {
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('foreword');
    const [entry] = await Foreword.list();
    const file = await folder.getFileHandle(entry.key);
    const writable = await file.createWritable({ keepExistingData: true });
    await writable.write({ type: 'write', position: 50_000_000, data: new Uint8Array(16) });
    await writable.close();
    const model = await Foreword.load('/smol.gguf?reload');
    const deleted = [await Foreword.delete(entry), await Foreword.delete(entry)];
    return { cached: model.info.cached, deleted, left: (await Foreword.list()).length };
  }), context);
  assert.deepEqual(damaged, { cached: false, deleted: [true, false], left: 0 });
  assert.equal(server.requests.filter((q) => q.url.endsWith('?reload')).length, 2);
  await context.close();
});

on('a dropped connection is taken up again', async (page) => {
  const info = await inPage(page, async (Foreword) => (await Foreword.load('/smol.gguf?drop=30000000')).info);
  assert.equal(info.fileBytes, 98362432, info.message);
  const ranges = server.requests.filter((q) => q.url.includes('drop=')).map((q) => q.range);
  assert.equal(ranges[0], undefined);
  assert.match(ranges[1], /^bytes=\d{8}-$/);
});

test('a download goes on after the tab was closed', async () => {
  const context = await browser.newContext();
  const url = '/smol.gguf?slow&tab';
  const part = await withPage(browser, server.url, (page) => inPage(page, (Foreword, { url }) => new Promise((resolve) => {
    void Foreword.load(url, { onProgress: (p) => p.loadedBytes > 5e6 && resolve(p.loadedBytes) }).catch((e) => resolve(e.message));
  }), { url }), context);
  assert.ok(part > 5e6, String(part));
  const code = await withPage(browser, server.url, (page) => inPage(page, async (Foreword, { url }) => {
    const [entry] = await Foreword.list();
    const controller = new AbortController();
    const load = Foreword.load(url, { signal: controller.signal, onProgress: (p) => p.loadedBytes > entry.bytes && controller.abort() });
    return load.catch((e) => ({ code: e.code, complete: entry.complete, bytes: entry.bytes }));
  }, { url }), context);
  assert.equal(code.code, 'cancelled');
  assert.equal(code.complete, false);
  const requests = server.requests.filter((q) => q.url.endsWith('&tab'));
  assert.equal(requests[1]?.range, `bytes=${code.bytes}-`);
  await context.close();
});

on('too little room is found before the download, or when it runs out', async (page, context) => {
  const before = await inPage(page, (Foreword) => Foreword.load('/huge.gguf'));
  assert.equal(before.code, 'quota_exceeded', before.message);
  assert.match(before.message, /needs \d+ MiB/);
  const session = await context.newCDPSession(page);
  await session.send('Storage.overrideQuotaForOrigin', { origin: server.url, quotaSize: 40e6 });
  const during = await inPage(page, (Foreword) => Foreword.load('/smol.gguf'));
  assert.equal(during.code, 'quota_exceeded', during.message);
  await session.send('Storage.overrideQuotaForOrigin', { origin: server.url });
  const after = await inPage(page, async (Foreword) => (await Foreword.load('/smol.gguf')).info);
  assert.equal(after.cached, false, after.message);
});

on('bad input is a typed error, and the page goes on', async (page) => {
  const r = await inPage(page, async (Foreword, { foreign }) => {
    const codeOf = (job) => job.then(() => 'none', (error) => `${error.name} ${error.code}`);
    const codes = {};
    for (const url of ['/page.gguf', '/missing.gguf', '/cut.gguf', `${foreign}/smol.gguf`, 'http://127.0.0.1:9/x.gguf', 'hf:nobody']) {
      codes[url.replace(/:\d{4,}/, '')] = await codeOf(Foreword.load(url, { cache: false }));
    }
    codes.file = await codeOf(Foreword.load(new File(['This is no model.'], 'x.gguf')));
    codes.threads = await codeOf(Foreword.load('/smol.gguf', { threads: -1 }));
    const model = await Foreword.load('/smol.gguf', { contextLength: 64, cache: false });
    codes.long = await codeOf(model.completions.create({ prompt: 'word '.repeat(200) }));
    codes.temperature = await codeOf(model.completions.create({ prompt: 'a', temperature: -1 }));
    codes.empty = await codeOf(model.chat.completions.create({}));
    codes.after = (await model.completions.create({ prompt: 'a', max_tokens: 2 })).usage.completion_tokens;
    const lost = codeOf(model.completions.create({ prompt: 'a', max_tokens: 50, ignore_eos: true }));
    await model.dispose();
    codes.disposed = [await lost, await codeOf(model.completions.create({ prompt: 'a' }))];
    return codes;
  }, { foreign: (await start({ isolated: false }).then((s) => (after(() => s.close()), s.url))) });
  assert.deepEqual(r, {
    '/page.gguf': 'ForewordError bad_file',
    '/missing.gguf': 'ForewordError not_found',
    '/cut.gguf': 'ForewordError bad_file',
    'http://127.0.0.1/smol.gguf': 'ForewordError download_failed',
    'http://127.0.0.1:9/x.gguf': 'ForewordError download_failed',
    'hf:nobody': 'ForewordError invalid_request',
    file: 'ForewordError bad_file',
    threads: 'ForewordError invalid_request',
    long: 'ForewordError prompt_too_long',
    temperature: 'ForewordError invalid_request',
    empty: 'ForewordError invalid_request',
    after: 2,
    disposed: ['ForewordError disposed', 'ForewordError disposed'],
  });
});

test('one thread where the page is not isolated', async () => {
  const plain = await start({ isolated: false });
  const info = await withPage(browser, plain.url, (page) => inPage(page, async (Foreword) => {
    const model = await Foreword.load('/smol.gguf', { cache: false });
    await model.completions.create({ prompt: 'a', max_tokens: 2 });
    return model.info;
  }));
  plain.close();
  assert.deepEqual([info.threads, info.threadsLimitedBy], [1, 'not_isolated'], info.message);
});

on('a worker that dies fails its calls', async (page) => {
  const r = await inPage(page, async (Foreword, { messages }) => {
    // Worker scripts end with an error event when they throw; a kill by the system looks the same to the page.
    const workers = [];
    const Original = Worker;
    globalThis.Worker = class extends Original { constructor(...args) { super(...args); workers.push(this); } };
    const model = await Foreword.load('/smol.gguf', { cache: false });
    const answer = model.chat.completions.create({ messages, max_tokens: 400, ignore_eos: true }).catch((e) => e.code);
    workers[0].dispatchEvent(new ErrorEvent('error', { message: 'killed' }));
    return [await answer, await model.stats().catch((e) => e.code)];
  }, { messages: QUESTION });
  assert.deepEqual(r, ['worker_lost', 'worker_lost']);
});

on('loading and disposing twenty times takes no more memory', async (page, context) => {
  const session = await context.newCDPSession(page);
  const workers = async () => (await session.send('Target.getTargets').catch(() => ({ targetInfos: [] }))).targetInfos.length;
  const r = await inPage(page, async (Foreword) => {
    const sizes = [];
    for (let i = 0; i < 20; i++) {
      const model = await Foreword.load('/smol.gguf?twenty', { threads: 2, contextLength: 256 });
      sizes.push((await model.stats()).memory.wasm);
      await model.dispose();
    }
    return sizes;
  });
  assert.equal(r.length, 20, r.message);
  assert.equal(new Set(r).size, 1, r.join());
  assert.ok((await workers()) < 8);
});
