// The ladder: a small model answers while the one that was asked for is downloaded.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { browserUsage, inPage, inWorkers, launch, until, withPage } from './browser.mjs';
import { buildPage, WWW } from './demo.mjs';
import { PKG, start } from './server.mjs';

const SHOTS = path.join(import.meta.dirname, 'shots');

let browser, server;
before(async () => {
  [browser, server] = await Promise.all([launch(), start()]);
});
beforeEach(() => server.release());
after(async () => {
  await browser?.close();
  server?.close();
});

const on = (name, job) => test(name, () => withPage(browser, server.url, job));

/** Loads a model with an opener into the page's `model`, and keeps there what was told; `ask` answers by who is there. */
function climb(page, options = {}, big = '/models/gemma3.gguf?hold') {
  return inPage(page, async (Foreword, { big, options }) => {
    const kept = (globalThis.kept = { phases: [], stop: new AbortController() });
    const onProgress = ({ phase, opener }) => kept.phases.push(`${opener ? 'opener' : 'model'} ${phase}`);
    const model = (kept.model = await Foreword.load(big, { opener: '/models/llama.gguf', threads: 1, signal: kept.stop.signal, onProgress, ...options }));
    model.ready.then(() => (kept.ready = 'loaded'), ({ code }) => (kept.ready = code));
    globalThis.ask = async (max_tokens = 4) => (await model.completions.create({ prompt: 'Hello', max_tokens, temperature: 0 })).model;
    return { ...model.info };
  }, { big, options });
}
const ask = (page) => page.evaluate('ask()');
const seen = (page, what) => page.evaluate(`kept.${what}`);

on('the opener answers until the model is there, and then the model', async (page) => {
  const info = await climb(page);
  assert.equal(info.code, undefined, info.message);
  assert.equal(info.opener, true);
  assert.equal(await ask(page), 'llama');
  assert.equal(await seen(page, 'ready'), undefined);
  await until(() => browserUsage().workers, 2);
  server.release();
  await until(() => seen(page, 'ready'), 'loaded');
  assert.equal(await ask(page), 'gemma3');
  assert.equal(await seen(page, 'model.info.opener'), undefined);
  assert.equal(await seen(page, 'model.info.architecture'), 'gemma3');
  await until(() => browserUsage().workers, 1);
  const phases = await seen(page, 'phases');
  assert.deepEqual([...new Set(phases)], ['opener download', 'opener load', 'model download', 'model load']);
});

on('the model is asked for when the opener is here', async (page) => {
  const from = server.requests.length;
  const loading = climb(page, { opener: '/models/llama.gguf?hold' });
  // A connection that is held is given up after a while, and made again.
  const asked = () => [...new Set(server.requests.slice(from).map(({ url }) => url))];
  await until(asked, ['/models/llama.gguf?hold']);
  server.release();
  assert.equal((await loading).opener, true);
  await until(asked, ['/models/llama.gguf?hold', '/models/gemma3.gguf?hold']);
});

on('an answer under way at the hand-over is ended by the opener', async (page) => {
  await climb(page);
  await page.evaluate(async () => {
    const stream = await kept.model.completions.create({ prompt: 'Hello', max_tokens: 200, temperature: 0, ignore_eos: true, stream: true });
    kept.iterator = stream[Symbol.asyncIterator]();
    kept.first = (await kept.iterator.next()).value;
  });
  server.release();
  await until(() => seen(page, 'ready'), 'loaded');
  const rest = await page.evaluate(async () => {
    const models = new Set([kept.first.model]);
    let last;
    for await (last of { [Symbol.asyncIterator]: () => kept.iterator }) models.add(last.model);
    return { models: [...models], finish: last.choices[0].finish_reason };
  });
  assert.deepEqual(rest, { models: ['llama'], finish: 'length' });
  assert.equal(await ask(page), 'gemma3');
});

on('the model has read what was asked last when it takes over', async (page) => {
  await climb(page);
  const prompt = 'The lighthouse keeper counted the ships that passed in the fog. '.repeat(2);
  const reused = (text) => page.evaluate(async (prompt) => (await kept.model.completions.create({ prompt, max_tokens: 1 })).usage.prompt_tokens_details.cached_tokens, text);
  assert.equal(await reused(prompt), 0);
  server.release();
  await until(() => seen(page, 'ready'), 'loaded');
  await until(() => page.evaluate(async () => (await kept.model.stats()).running), 0);
  assert.ok((await reused(`${prompt}And he`)) > 20);
});

on('a model that is in the cache needs no opener', async (page) => {
  await climb(page, {}, '/models/gemma3.gguf');
  await until(() => seen(page, 'ready'), 'loaded');
  await page.evaluate('kept.model.dispose()');
  const info = await climb(page, {}, '/models/gemma3.gguf');
  assert.equal(info.opener, undefined);
  assert.ok((await seen(page, 'phases')).every((phase) => phase.startsWith('model')));
});

on('a reload in the middle: the opener answers at once, and the download goes on', async (page) => {
  await climb(page);
  // What has arrived is written at intervals.
  await until(() => page.evaluate(async () => (await (await import('/dist/index.js')).Foreword.list()).some(({ url, bytes }) => url.includes('gemma3') && bytes > 0)), true);
  await page.reload();
  const from = server.requests.length;
  await climb(page);
  assert.equal(await ask(page), 'llama');
  server.release();
  await until(() => seen(page, 'ready'), 'loaded');
  const ranges = server.requests.slice(from).filter(({ url }) => url.includes('gemma3')).map(({ range }) => range);
  assert.ok(ranges.length && ranges.every((range) => /^bytes=\d+-$/.test(range)), String(ranges));
  assert.ok((await seen(page, 'phases')).includes('opener verify'));
});

on('without a network in the middle the opener goes on, and the download behind it', async (page) => {
  // The browser's own switch does not reach workers that run already. Each says when it has heard of the change: the server's bytes
  // go another way, on which they may be faster.
  await inWorkers(page, `let online = true; Object.defineProperty(navigator, 'onLine', { get: () => online });
    const network = new BroadcastChannel('network'), heard = new BroadcastChannel('heard');
    network.onmessage = ({ data }) => { online = data; heard.postMessage(data); };`);
  await page.reload();
  const network = (online) => page.evaluate(async (online) => {
    const heard = new BroadcastChannel('heard');
    let workers = 2; // The opener's and the model's.
    const all = new Promise((resolve) => (heard.onmessage = () => --workers || resolve()));
    new BroadcastChannel('network').postMessage(online);
    await all;
    heard.close();
  }, online);
  await climb(page, {}, '/models/gemma3.gguf?hold&drop=200000');
  await until(async () => (await seen(page, 'phases')).at(-1), 'model download');
  await network(false);
  await until(async () => (server.release(), (await seen(page, 'phases')).at(-1)), 'model waiting');
  assert.equal(await ask(page), 'llama');
  await network(true);
  await until(() => (server.release(), seen(page, 'ready')), 'loaded');
  assert.equal(await ask(page), 'gemma3');
});

on('the signal cancels what is not loaded yet; dispose ends both', async (page) => {
  await climb(page);
  await page.evaluate('kept.stop.abort()');
  await until(() => seen(page, 'ready'), 'cancelled');
  assert.equal(await ask(page), 'llama');
  await page.evaluate('kept.model.dispose()');
  await until(() => browserUsage().workers, 0);
  await page.reload();
  await climb(page);
  await page.evaluate('kept.model.dispose()');
  await until(() => seen(page, 'ready'), 'disposed');
  await until(() => browserUsage().workers, 0);
  await page.reload();
  assert.equal((await page.evaluate(async () => {
    const { Foreword } = await import('/dist/index.js');
    const stop = new AbortController();
    const loading = Foreword.load('/models/gemma3.gguf?hold&1', { opener: '/models/llama.gguf?hold&1', signal: stop.signal }).catch(({ code }) => ({ code }));
    stop.abort();
    return loading;
  })).code, 'cancelled');
  await until(() => browserUsage().workers, 0);
});

on('an opener that cannot be had is done without; a model that cannot be had leaves the opener', async (page) => {
  const alone = await climb(page, { opener: '/models/nothing.gguf' }, '/models/gemma3.gguf?1');
  assert.equal(alone.architecture, 'gemma3');
  assert.equal(await ask(page), 'gemma3');
  await page.evaluate('kept.model.dispose()');
  const left = await climb(page, {}, '/models/nothing.gguf');
  assert.equal(left.opener, true);
  await until(() => seen(page, 'ready'), 'not_found');
  assert.equal(await ask(page), 'llama');
  const none = await climb(page, { opener: '/models/nothing.gguf' }, '/models/neither.gguf');
  assert.equal(none.code, 'not_found');
  assert.match(none.message, /neither/);
});

on('the list of models names an opener for large models only', async (page) => {
  const openers = async (source, options) => {
    const names = [];
    await page.route(/\.gguf$/, (route) => (names.push(new URL(route.request().url()).pathname.split('/').pop()), route.abort()));
    await inPage(page, (Foreword, { source, options }) => Foreword.load(source, options), { source, options: { opener: true, mirror: server.url, cache: false, ...options } });
    await page.unroute(/\.gguf$/);
    return names[0];
  };
  assert.match(await openers('qwen3-0.6b'), /SmolLM2-135M/);
  assert.match(await openers(`${server.url}/own.gguf`), /own/);
  assert.match(await openers(`${server.url}/own.gguf`, { opener: 'gemma3-270m' }), /gemma-3-270m/);
  assert.match(await openers('gemma3-270m'), /gemma-3-270m/);
});

test('the page says in one line who answers, and a chat goes on over a reload and the hand-over', async () => {
  const models = JSON.parse(fs.readFileSync(path.join(PKG, 'src/models.json'), 'utf8'));
  const [small, large] = ['smollm2-135m', 'qwen3-0.6b'].map((name) => models.find((model) => model.name === name));
  const files = ['llama', 'gemma3'].map((name) => fs.readFileSync(path.join(PKG, `../tests/data/models/${name}.gguf`)));
  const send = (response, headers, bytes) => response.writeHead(200, { ...headers, 'content-length': bytes.length, etag: '"1"' }).write(bytes.subarray(0, bytes.length / 2));
  let open = false;
  const rests = new Set();
  const routes = {
    [`/site/models/${small.file}`]: (_, response, headers) => (send(response, headers, files[0]), response.end(files[0].subarray(files[0].length / 2))),
    [`/site/models/${large.file}`]: (_, response, headers) => {
      send(response, headers, files[1]);
      const rest = () => response.end(files[1].subarray(files[1].length / 2));
      if (open) rest();
      else rests.add(rest);
    },
  };
  buildPage();
  const site = await start({ folders: { site: path.join(WWW, 'dist') }, routes });
  const context = await browser.newContext({ viewport: { width: 390, height: 844 }, serviceWorkers: 'block' });
  const page = await context.newPage();
  page.setDefaultTimeout(25_000);
  // Small files stand for those of the list.
  await page.route(/app\.js$/, async (route) => {
    const response = await route.fetch();
    const sha = (bytes) => createHash('sha256').update(bytes).digest('hex');
    await route.fulfill({ response, body: (await response.text()).replace(small.sha256, sha(files[0])).replace(large.sha256, sha(files[1])) });
  });
  const say = async (text) => {
    const n = await page.locator('.message.assistant').count();
    await page.fill('#prompt', text);
    await page.keyboard.press('Enter');
    await page.waitForFunction((n) => document.querySelectorAll('.message.assistant').length > n && document.querySelector('[aria-label=Send]'), n);
  };
  const lines = () => page.locator('.coming').allInnerTexts();
  try {
    await page.goto(`${site.url}/site/`);
    await page.locator('summary').first().click();
    await page.locator('.card', { hasText: large.title.split(',')[0] }).click();
    await say('The first.');
    await until(async () => (await lines())[0], /^tiny random model answers; Qwen3 0\.6B.* is on its way, 50 %/);
    fs.mkdirSync(SHOTS, { recursive: true });
    await page.screenshot({ path: path.join(SHOTS, 'ladder-390.png') });
    await page.setViewportSize({ width: 1280, height: 800 });
    await page.screenshot({ path: path.join(SHOTS, 'ladder-1280.png') });
    await page.reload();
    await page.waitForSelector('.coming');
    await say('The second.');
    open = true;
    rests.forEach((rest) => rest());
    await until(lines, []);
    await until(() => page.locator('.topbar .name').innerText(), large.title);
    await say('The third.');
    assert.deepEqual(await page.locator('.message.user .text').allInnerTexts(), ['The first.', 'The second.', 'The third.']);
    assert.equal(await page.locator('.message.assistant').count(), 3);
    assert.equal(await page.locator('[role=alert]').count(), 0);
  } finally {
    await context.close();
    site.close();
  }
});
