// backend: 'auto' in a real browser, whose GPU is a software one: a trial by the clock says what runs a model.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { GPU, inPage, inWorkers, launch, withPage } from './browser.mjs';
import { ask, SMALL, TINY } from './gpu.mjs';
import { start } from './server.mjs';

let browser, server;
before(async () => {
  [browser, server] = await Promise.all([launch({ args: GPU }), start()]);
});
after(async () => {
  await browser?.close();
  server?.close();
});

/** A software GPU that says it were none. */
const HARDWARE = `Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', { get: () => false });`;

test('auto takes what is faster, remembers it, and falls back', { timeout: 120_000 }, () =>
  withPage(browser, server.url, async (page) => {
    const software = await inPage(page, ask, { url: TINY });
    assert.equal(software.infos[0].backend, 'cpu');
    assert.match(software.infos[0].backendReason, /^WASM: .*swiftshader is a software GPU/i);
    await inWorkers(page, HARDWARE);
    await page.reload();
    const slow = await inPage(page, ask, { url: TINY });
    assert.equal(slow.code, undefined, slow.message);
    assert.equal(slow.infos[0].backend, 'cpu');
    assert.match(slow.infos[0].backendReason, /^WASM: \d+\.\d times as fast as WebGPU in a short trial on .*swiftshader/i);
    // Had the trial ended otherwise:
    await page.evaluate(async () => {
      const trials = await caches.open('foreword-trials');
      const [key] = await trials.keys();
      await trials.put(key, Response.json({ cpu: 30, gpu: 10 }));
    });
    const fast = await inPage(page, ask, { url: TINY });
    assert.equal(fast.infos[0].backend, 'webgpu');
    assert.match(fast.infos[0].backendReason, /^WebGPU: 3\.0 times as fast as WASM/);
    assert.deepEqual(fast.texts, slow.texts);
    await inWorkers(page, SMALL);
    await page.reload();
    const small = await inPage(page, ask, {});
    assert.equal(small.infos[0].backend, 'cpu');
    assert.match(small.infos[0].backendReason, /^WASM: the GPU has no room/);
  }));

test('a trial that failed is not remembered', { timeout: 120_000 }, () =>
  withPage(browser, server.url, async (page) => {
    await inWorkers(page, `${HARDWARE}
      const { fetch } = self;
      self.fetch = (url, ...rest) => (String(url).endsWith('webgpu.wasm') ? Promise.reject(new TypeError('no network')) : fetch(url, ...rest));`);
    await page.reload();
    const { infos, message } = await inPage(page, ask, { url: TINY });
    assert.match(infos?.[0].backendReason ?? message, /^WASM: WebGPU failed on .*no network/);
    assert.equal(await page.evaluate(async () => (await (await caches.open('foreword-trials')).keys()).length), 0);
  }));
