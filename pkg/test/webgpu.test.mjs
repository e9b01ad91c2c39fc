// backend: 'webgpu' in a real browser, on its software adapter.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { inPage, inWorkers, launch, withPage } from './browser.mjs';
import { start } from './server.mjs';

const GPU = ['--headless=new', '--no-sandbox', '--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', '--enable-features=Vulkan'];

let browser, server;
before(async () => {
  [browser, server] = await Promise.all([launch({ args: GPU }), start()]);
});
after(async () => {
  await browser?.close();
  server?.close();
});

const ask = async (Foreword, { backend }) => {
  const model = await Foreword.load('/smol.gguf', { backend, cache: false });
  const messages = [{ role: 'user', content: 'What is 2+2?' }];
  const answer = await model.chat.completions.create({ messages, temperature: 0, max_tokens: 12 });
  return { info: model.info, text: answer.choices[0].message.content, timings: answer.usage.timings };
};

test('webgpu writes what the CPU writes', { timeout: 120_000 }, () =>
  withPage(browser, server.url, async (page) => {
    const cpu = await inPage(page, ask, { backend: 'cpu' });
    const gpu = await inPage(page, ask, { backend: 'webgpu' });
    assert.equal(gpu.code, undefined, gpu.message);
    assert.equal(gpu.info.backend, 'webgpu');
    assert.equal(cpu.info.backend, 'cpu');
    assert.ok(cpu.text.length > 0);
    assert.equal(gpu.text, cpu.text);
  }));

for (const [name, code] of [
  ['without WebGPU', "Object.defineProperty(navigator, 'gpu', { value: undefined })"],
  ['without an adapter', 'navigator.gpu.requestAdapter = async () => null'],
]) {
  test(`${name}, webgpu is refused and auto runs`, () =>
    withPage(browser, server.url, async (page) => {
      await inWorkers(page, code);
      await page.reload();
      const refused = await inPage(page, ask, { backend: 'webgpu' });
      assert.equal(refused.code, 'unsupported', refused.message);
      assert.match(refused.message, /backend: 'cpu'/);
      assert.equal((await inPage(page, ask, { backend: 'auto' })).info.backend, 'cpu');
    }));
}
