// The package in Firefox.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { launchFirefox } from './firefox.mjs';
import { PKG, start } from './server.mjs';

let browser, server, page;
before(async () => {
  // As Safari and Firefox for Android, which lack `credentialless`.
  [browser, server] = await Promise.all([launchFirefox({ 'browser.tabs.remote.coep.credentialless': false }), start()]);
  page = await browser.newTab(server.url);
});
after(async () => {
  await browser?.close();
  server?.close();
});

test('loads, answers, stops in the middle, and loads from the cache', async () => {
  const r = await page.evaluate(async () => {
    const { Foreword } = await import('/dist/index.js');
    step('load');
    const model = await Foreword.load('/smol.gguf', { threads: 2, contextLength: 512 });
    step('answer');
    const answer = await model.completions.create({ prompt: 'The capital of France is', max_tokens: 1, temperature: 0 });
    step('stop in the middle');
    const stop = new AbortController();
    const stream = await model.completions.create({ prompt: 'Once', max_tokens: 400, stream: true, ignore_eos: true }, { signal: stop.signal });
    let chunks = 0;
    for await (const _ of stream) {
      chunks++;
      stop.abort();
    }
    step('load from the cache');
    await model.dispose();
    const again = await Foreword.load('/smol.gguf', { threads: 2, contextLength: 512 });
    await again.dispose();
    return { text: answer.choices[0].text, chunks, device: model.info.device, threads: model.info.threads, cached: [model.info.cached, again.info.cached] };
  });
  assert.deepEqual(r, { text: ' Paris', chunks: 1, device: 'wasm-relaxed-simd', threads: 2, cached: [false, true] });
});

test('a model answers as a server does, and as the Prompt API does', async () => {
  const r = await page.evaluate(async () => {
    const { Foreword } = await import('/dist/index.js');
    const { languageModel } = await import('/dist/prompt-api.js');
    step('load');
    const model = await Foreword.load('/smol.gguf', { threads: 2, contextLength: 256 });
    step('requests');
    const body = { prompt: 'The capital of France is', max_tokens: 1, temperature: 0 };
    const ask = (more) => model.fetch('http://localhost/v1/completions', { method: 'POST', body: JSON.stringify({ ...body, ...more }) });
    const text = (await (await ask()).json()).choices[0].text;
    const events = await (await ask({ stream: true })).text();
    const { status } = await ask({ temperature: -1 });
    await model.dispose();
    step('session');
    const session = await languageModel('/smol.gguf', { threads: 2, contextLength: 256 }).create({ temperature: 0, topK: 1, initialPrompts: [{ role: 'user', content: 'What is the capital of Germany?' }, { role: 'assistant', content: 'Berlin.' }] });
    step('prompt');
    let answer = '';
    const reader = session.promptStreaming('What is the capital of France?').getReader();
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) answer += piece.value;
    session.destroy();
    return [text, events.endsWith('data: [DONE]\n\n'), status, answer];
  });
  assert.deepEqual(r, [' Paris', true, 400, 'Paris.']);
});

test('a missing file is a typed error, and the page goes on', async () => {
  const codes = await page.evaluate(async () => {
    const { Foreword } = await import('/dist/index.js');
    step('load what is missing');
    const failed = await Foreword.load('/none.gguf', { cache: false }).catch((e) => e.code);
    step('load what is there');
    const model = await Foreword.load('/smol.gguf', { threads: 1, contextLength: 256 });
    step('answer');
    const { usage } = await model.completions.create({ prompt: 'a', max_tokens: 2, ignore_eos: true });
    await model.dispose();
    return [failed, usage.completion_tokens];
  });
  assert.deepEqual(codes, ['not_found', 2]);
});

test('what hangs in the page fails here with the step at which it stood', async () => {
  const job = page.evaluate(async () => {
    step('before');
    await new Promise(() => {});
  }, 300);
  await assert.rejects(job, /not done after 0.3 s; the page's steps: \d+ ms: before$/);
});

test('coi.js isolates a page of a browser without credentialless', async () => {
  const script = fs.readFileSync(path.join(PKG, 'dist/coi.js'));
  const send = (type, body) => (_, response, headers) => response.writeHead(200, { ...headers, 'content-type': type }).end(body);
  const plain = await start({ isolated: false, routes: { '/coi/': send('text/html', '<!doctype html><script src="coi.js"></script>'), '/coi/coi.js': send('text/javascript', script) } });
  const tab = await browser.newTab(`${plain.url}/coi/`);
  try {
    const deadline = Date.now() + 20_000;
    // The page is loaded anew meanwhile.
    const isolated = () => tab.evaluate('crossOriginIsolated').catch(() => false);
    while (!(await isolated()) && Date.now() < deadline) await new Promise((go) => setTimeout(go, 100));
    assert.match(await tab.evaluate('navigator.serviceWorker.controller.scriptURL'), /embedder=require-corp$/);
    assert.equal(await isolated(), true);
  } finally {
    await tab.close();
    plain.close();
  }
});

test('tabs share a model, and an answer goes on when the tab that has it closes', async () => {
  const tabs = [];
  for (let i = 0; i < 2; i++) {
    const tab = await browser.newTab(server.url);
    await tab.evaluate(async () => {
      const { Foreword } = await import('/dist/index.js');
      step('load');
      globalThis.model = await Foreword.load('/smol.gguf', { shared: true, threads: 1, contextLength: 512 });
      globalThis.text = '';
    });
    tabs.push(tab);
  }
  const [leader, asking] = tabs;
  await asking.evaluate(() => {
    const messages = [{ role: 'user', content: 'Tell me about the sea.' }];
    globalThis.over = (async () => {
      for await (const chunk of await model.chat.completions.create({ messages, temperature: 0, max_tokens: 60, stream: true })) {
        globalThis.text += chunk.choices[0].delta.content ?? '';
        globalThis.finish = chunk.choices[0].finish_reason;
      }
      return finish;
    })();
  });
  await asking.waitFor('text.length > 20');
  const before = await asking.evaluate('text');
  await leader.close();
  assert.equal(await asking.evaluate('over'), 'length');
  const text = await asking.evaluate('text');
  assert.ok(text.startsWith(before) && text.length > before.length, text);
  await asking.close();
});
