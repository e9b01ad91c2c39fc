// The package in Firefox.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import puppeteer from 'puppeteer-core';
import { start } from './server.mjs';

let browser, server, page;
before(async () => {
  const executablePath = process.env.FIREFOX ?? '/usr/bin/firefox-esr';
  [browser, server] = await Promise.all([puppeteer.launch({ browser: 'firefox', executablePath, headless: true }), start()]);
  page = await browser.newPage();
  await page.goto(server.url);
});
after(async () => {
  await browser?.close();
  server?.close();
});

test('loads, answers, stops in the middle, and loads from the cache', async () => {
  const r = await page.evaluate(async () => {
    const { Foreword } = await import('/dist/index.js');
    const model = await Foreword.load('/smol.gguf', { threads: 2, contextLength: 512 });
    const answer = await model.completions.create({ prompt: 'The capital of France is', max_tokens: 1, temperature: 0 });
    const stop = new AbortController();
    const stream = await model.completions.create({ prompt: 'Once', max_tokens: 400, stream: true, ignore_eos: true }, { signal: stop.signal });
    let error;
    try {
      for await (const _ of stream) stop.abort();
    } catch (e) {
      error = e.code;
    }
    await model.dispose();
    const again = await Foreword.load('/smol.gguf', { threads: 2, contextLength: 512 });
    await again.dispose();
    return { text: answer.choices[0].text, error, device: model.info.device, threads: model.info.threads, cached: [model.info.cached, again.info.cached] };
  });
  assert.deepEqual(r, { text: ' Paris', error: 'cancelled', device: 'wasm-relaxed-simd', threads: 2, cached: [false, true] });
});

test('a missing file is a typed error, and the page goes on', async () => {
  const codes = await page.evaluate(async () => {
    const { Foreword } = await import('/dist/index.js');
    const failed = await Foreword.load('/none.gguf', { cache: false }).catch((e) => e.code);
    const model = await Foreword.load('/smol.gguf', { threads: 1, contextLength: 256 });
    const { usage } = await model.completions.create({ prompt: 'a', max_tokens: 2, ignore_eos: true });
    await model.dispose();
    return [failed, usage.completion_tokens];
  });
  assert.deepEqual(codes, ['not_found', 2]);
});
