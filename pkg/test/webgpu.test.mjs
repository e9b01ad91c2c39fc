// backend: 'webgpu' in a real browser, on its software adapter, and what becomes of lost and full devices.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import puppeteer from 'puppeteer-core';
import { GPU, inPage, inWorkers, launch, withPage } from './browser.mjs';
import { ask, SMALL, TINY } from './gpu.mjs';
import { modelPath, PKG, start } from './server.mjs';

let browser, server;
before(async () => {
  [browser, server] = await Promise.all([launch({ args: GPU }), start()]);
});
after(async () => {
  await browser?.close();
  server?.close();
});

/** Code for workers that does `fault(device)` behind submit number `at[i]` of device `i`. */
const faulty = (at, fault) => `
  const request = GPUAdapter.prototype.requestDevice;
  const at = ${JSON.stringify(at)};
  GPUAdapter.prototype.requestDevice = async function (...args) {
    const device = await request.apply(this, args);
    const submit = device.queue.submit.bind(device.queue);
    let left = at.shift() ?? Infinity;
    device.queue.submit = (list) => {
      submit(list);
      if (list.length && --left === 0) (${fault})(device);
    };
    return device;
  };`;
const destroy = 'device => device.destroy()';
const misuse = 'device => device.createBuffer({ size: 16, usage: 0 })';
const exhaust = `device => device.dispatchEvent(new GPUUncapturedErrorEvent('uncapturederror', { error: new GPUOutOfMemoryError('full') }))`;

async function withWorkers(code, body, args) {
  return withPage(browser, server.url, async (page) => {
    await inWorkers(page, code);
    await page.reload();
    return inPage(page, body, args);
  });
}

/** What it writes on the processor. */
let tiny;
const tinyTexts = () => (tiny ??= withPage(browser, server.url, (page) => inPage(page, ask, { backend: 'cpu', url: TINY, turns: 2 })).then(({ texts }) => texts));

let wanted;
test('webgpu writes what the CPU writes', { timeout: 120_000 }, () =>
  withPage(browser, server.url, async (page) => {
    wanted = await inPage(page, ask, { backend: 'cpu', turns: 2 });
    const gpu = await inPage(page, ask, { backend: 'webgpu', url: '/smol.gguf?slow=50', turns: 2 });
    assert.equal(gpu.code, undefined, gpu.message);
    assert.deepEqual([wanted.infos[0].backend, gpu.infos[0].backend], ['cpu', 'webgpu']);
    assert.match(gpu.infos[0].device, /swiftshader/i);
    assert.ok(wanted.texts.every((text) => text.length > 0));
    assert.deepEqual(gpu.texts, wanted.texts);
    // Kernels compile while bytes are awaited.
    assert.ok(gpu.stats.compileMs > 0 && wanted.stats.compileMs === undefined, JSON.stringify(gpu.stats));
  }));

test('an answer goes on in a tab in the background', { timeout: 120_000 }, async () => {
  // Playwright makes every page believe that it is in front.
  const tabs = await puppeteer.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: GPU, headless: true });
  try {
    const page = await tabs.newPage();
    await page.goto(server.url);
    const answer = inPage(page, ask, { backend: 'webgpu', turns: 2 });
    await tabs.newPage();
    assert.equal(await page.evaluate(() => document.visibilityState), 'hidden');
    const { texts, message } = await answer;
    assert.deepEqual(texts, wanted.texts, message);
  } finally {
    await tabs.close();
  }
});

/** Differences of natural log-probabilities along llama.cpp's answers, each step on llama.cpp's own text so far. */
const follow = async (Foreword, { url, prompt_tokens, steps }) => {
  const model = await Foreword.load(url, { backend: 'webgpu', cache: false, contextLength: 256 });
  const diffs = [];
  let agreed = 0;
  for (const [i, { id, logprob, top }] of steps.entries()) {
    const prompt = [...prompt_tokens, ...steps.slice(0, i).map((step) => step.id)];
    const { choices } = await model.completions.create({ prompt, max_tokens: 1, temperature: 0, logprobs: 10, ignore_eos: true });
    const { tokens, top_logprobs } = choices[0].logprobs;
    diffs.push(Math.abs((top_logprobs[0][await model.detokenize([id])] ?? -Infinity) - logprob));
    agreed += tokens[0] === (await model.detokenize([top[0][0]])) ? 1 : 0;
  }
  await model.dispose();
  return { worst: Math.max(...diffs), mean: diffs.reduce((a, b) => a + b) / diffs.length, agreement: agreed / diffs.length };
};

for (const [url, golden, n] of [
  ['/smol.gguf', 'smollm2-135m-instruct-q4_1', 24],
  ['/gemma.gguf', 'gemma-3-270m-q4_k_m', 12],
]) {
  // The bounds of tests/golden.rs.
  test(`log-probabilities of ${golden} on webgpu are those of llama.cpp`, { timeout: 120_000 }, () =>
    withPage(browser, server.url, async (page) => {
      const text = fs.readFileSync(path.join(PKG, `../tests/data/${golden}-logprobs.jsonl`), 'utf8');
      const { prompt_tokens, steps } = JSON.parse(text.split('\n')[1]);
      const d = await inPage(page, follow, { url, prompt_tokens, steps: steps.slice(0, n) });
      assert.ok(d.mean <= 0.05 && d.worst <= 0.3 && d.agreement >= 0.95, JSON.stringify(d));
    }));
}

test('an answer goes on when the device is lost', { timeout: 120_000 }, async () => {
  const result = await withWorkers(faulty([4], destroy), ask, { backend: 'webgpu', url: TINY, turns: 2, cache: true });
  assert.deepEqual(result.texts, await tinyTexts(), result.message);
  assert.equal(result.infos[1].backend, 'webgpu');
  assert.match(result.infos[1].backendReason, /opened again/);
});

for (const [name, at, fault, reason] of [
  ['when a second device is lost at once', [4, 1], destroy, /^WASM: the GPU went away/],
  ['when a device refuses a command', [4], misuse, /^WASM: the GPU refused a command/],
]) {
  test(`${name}, the answer goes on without one`, { timeout: 120_000 }, async () => {
    const result = await withWorkers(faulty(at, fault), ask, { backend: 'webgpu', url: TINY, turns: 2 });
    assert.deepEqual(result.texts, await tinyTexts(), result.message);
    assert.equal(result.infos[1].backend, 'cpu');
    assert.match(result.infos[1].backendReason, reason);
    // Nothing was kept, and the page is told what that costs.
    assert.deepEqual(result.again, ['download']);
  });
}

test('a GPU that runs out of memory in an answer fails that answer', { timeout: 120_000 }, async () => {
  const result = await withWorkers(faulty([4], exhaust), ask, { backend: 'webgpu', url: TINY, turns: 2 });
  assert.equal(result.texts[0].code, 'out_of_memory', result.message);
  assert.match(result.texts[0].message, /the GPU is out of memory/);
  assert.ok(result.texts[1].length > 0);
});

test('a model that the GPU has no room for is refused before its download', { timeout: 60_000 }, async () => {
  const asked = server.requests.length;
  const refusal = async (Foreword) => {
    const { code, message } = await Foreword.load('/smol.gguf?slow', { backend: 'webgpu', contextLength: 256 }).catch((error) => error);
    return { code, message, left: await Foreword.list() };
  };
  const small = await withWorkers(SMALL, refusal);
  assert.equal(small.code, 'out_of_memory', small.message);
  assert.match(small.message, /no room for \d+ MiB of weights/);
  assert.deepEqual(small.left, [], 'what was downloaded of it is not kept');
  const long = await withWorkers('', ask, { backend: 'webgpu', url: '/smol.gguf?slow', contextLength: 6_000_000 });
  assert.equal(long.code, 'out_of_memory', long.message);
  assert.match(long.message, /shorter context/);
  for (const { sent } of server.requests.slice(asked)) assert.ok(sent < fs.statSync(modelPath('smol.gguf')).size / 2, `${sent} bytes were sent`);
});

for (const [name, code] of [
  ['without WebGPU', "Object.defineProperty(navigator, 'gpu', { value: undefined })"],
  ['without an adapter', 'navigator.gpu.requestAdapter = async () => null'],
]) {
  test(`${name}, webgpu is refused and auto runs`, async () => {
    const refused = await withWorkers(code, ask, { backend: 'webgpu', url: TINY });
    assert.equal(refused.code, 'unsupported', refused.message);
    assert.match(refused.message, /backend: 'cpu'/);
    const { infos } = await withWorkers(code, ask, { backend: 'auto', url: TINY });
    assert.equal(infos[0].backend, 'cpu');
    assert.match(infos[0].backendReason, /^WASM: the(re is no WebGPU| browser offers no GPU)/);
  });
}
