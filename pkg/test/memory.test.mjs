// Devices with little memory: workers get a WebAssembly.Memory that is refused, or ends, early.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { inPage, inWorkers, launch, withPage } from './browser.mjs';
import { start } from './server.mjs';

let browser, server;
before(async () => {
  [browser, server] = await Promise.all([launch(), start()]);
});
after(async () => {
  await browser?.close();
  server?.close();
});

/** A test in a page whose workers make memories by a constructor that begins with `body`, over the wanted `limits`. */
const withMemory = (name, body, job) =>
  test(name, () =>
    withPage(browser, server.url, async (page) => {
      await inWorkers(page, `WebAssembly.Memory = class extends WebAssembly.Memory { constructor(limits) { ${body}; super(limits); } }`);
      await page.reload();
      return job(page);
    }),
  );

const refuse = 'if (limits.maximum > 20000) throw new RangeError("WebAssembly.Memory(): could not allocate memory")';
withMemory('a device that cannot reserve 4 GiB takes less, and keeps its threads', refuse, async (page) => {
  const r = await inPage(page, async (Foreword) => {
    const { info, completions } = await Foreword.load('/smol.gguf', { cache: false, threads: 2, contextLength: 256 });
    const answer = await completions.create({ prompt: 'The capital of France is', max_tokens: 1, temperature: 0 });
    return [answer.choices[0].text, info.device, info.threads];
  });
  assert.deepEqual(r, [' Paris', 'wasm-relaxed-simd', 2], r.message);
});

const cap = 'limits = { ...limits, maximum: 2000 }';
withMemory('where memory ends while a prompt is read, that request fails, and shorter ones are answered', cap, async (page) => {
  const r = await inPage(page, async (Foreword) => {
    const model = await Foreword.load('/smol.gguf', { threads: 2, contextLength: 8192 });
    const ask = (prompt) => model.completions.create({ prompt, max_tokens: 2, ignore_eos: true });
    const error = await ask('Once upon a time '.repeat(1000)).then(() => ({}), (e) => e);
    const { usage } = await ask('Once');
    return { name: error.name, code: error.code, message: error.message, after: usage.completion_tokens };
  });
  assert.deepEqual([r.name, r.code, r.after], ['ForewordError', 'out_of_memory', 2], r.message);
  assert.match(r.message, /shorter context/);
});

test('a thread that does not start is an error', () =>
  withPage(browser, server.url, async (page) => {
    await inWorkers(page, `
      const { postMessage } = Worker.prototype;
      const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
      Worker.prototype.postMessage = function (message, ...rest) { postMessage.call(this, message.memory ? { ...message, memory } : message, ...rest); };`);
    await page.reload();
    const load = (threads) => inPage(page, async (Foreword, { threads }) => (await Foreword.load('/smol.gguf', { cache: false, threads, contextLength: 256 })).info.threads, { threads });
    const failed = await load(2);
    assert.equal(failed.code, 'internal', failed.message);
    assert.match(failed.message, /thread could not be started: .+ take fewer threads/);
    assert.equal(await load(1), 1);
  }));

/** A thread's life as a trap ends it: it enters the first region that opens, and never leaves. */
const TRAP = `
  const { instantiate } = WebAssembly;
  WebAssembly.instantiate = async (...args) => {
    const instance = await instantiate(...args);
    const worker_main = (address) => {
      // The pool's word that counts the workers in a region; negative while there is none.
      const words = new Int32Array(instance.exports.memory.buffer);
      let inside = address / 4;
      while (words[inside] !== -(2 ** 31)) inside++;
      for (;;) {
        while (Atomics.load(words, inside) < 0);
        if (Atomics.add(words, inside, 1) >= 0) throw new WebAssembly.RuntimeError('unreachable');
        Atomics.sub(words, inside, 1);
      }
    };
    return Object.defineProperty(instance, 'exports', { value: { ...instance.exports, worker_main } });
  };`;

test('a thread that traps is an error, and nobody waits for it', () =>
  withPage(browser, server.url, async (page) => {
    await inWorkers(page, '', TRAP);
    await page.reload();
    const load = (threads) => inPage(page, async (Foreword, { threads }) => (await Foreword.load('/smol.gguf', { cache: false, threads, contextLength: 256 })).info.threads, { threads });
    const failed = await load(2);
    assert.equal(failed.code, 'internal', failed.message);
    assert.equal(await load(1), 1);
  }));
