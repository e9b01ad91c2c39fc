// Downloads and the cache, in a real browser.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, test } from 'node:test';
import { inPage, inWorkers, launch, withPage } from './browser.mjs';
import { start, tiny } from './server.mjs';

const tinySha = createHash('sha256').update(tiny).digest('hex');

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

on('files open while garbage is collected', async (page) => {
  // Chromium forgets the opening of a file whose handle nobody holds.
  await inWorkers(page, `
    const { createSyncAccessHandle } = FileSystemFileHandle.prototype;
    FileSystemFileHandle.prototype.createSyncAccessHandle = function (options) {
      const opened = createSyncAccessHandle.call(this, options);
      queueMicrotask(() => { for (let i = 0; i < 20; i++) self.garbage = [new ArrayBuffer(4 << 20), Array.from({ length: 20_000 }, (_, k) => ({ k }))]; });
      return opened;
    };`);
  await page.reload();
  const cached = await inPage(page, async (Foreword) => {
    const cached = [];
    for (let i = 0; i < 4; i++) {
      const model = await Foreword.load('/smol.gguf?garbage', { contextLength: 256 });
      cached.push(model.info.cached);
      await model.dispose();
    }
    return cached;
  });
  assert.deepEqual(cached, [false, true, true, true], cached.message);
});

on('too little room is found before the download', async (page) => {
  await inWorkers(page, 'navigator.storage.estimate = async () => ({ quota: 1e9, usage: 2e8 })');
  await page.reload();
  const r = await inPage(page, (Foreword) => Foreword.load('/large.gguf'));
  assert.equal(r.code, 'quota_exceeded', r.message);
  assert.match(r.message, /needs 2862 MiB of storage.*gives this site only 763 MiB more.*take a smaller model/);
});

on('storage that runs out is an error, and the page goes on', async (page, context) => {
  const session = await context.newCDPSession(page);
  await session.send('Storage.overrideQuotaForOrigin', { origin: server.url, quotaSize: 40e6 });
  const during = await inPage(page, (Foreword) => Foreword.load('/smol.gguf?full'));
  assert.equal(during.code, 'quota_exceeded', during.message);
  assert.match(during.message, /Delete cached models/);
  await session.send('Storage.overrideQuotaForOrigin', { origin: server.url });
  const after = await inPage(page, async (Foreword) => (await Foreword.load('/smol.gguf?full')).info);
  assert.equal(after.cached, false, after.message);
});

on('a file of the user, and a model by its name from a mirror', async (page) => {
  const r = await inPage(page, async (Foreword) => {
    const blob = await (await fetch('/smol.gguf')).blob();
    const model = await Foreword.load(new File([blob], 'mine.gguf'), { contextLength: 256 });
    const answer = await model.completions.create({ prompt: 'The capital of France is', max_tokens: 1, temperature: 0 });
    await model.dispose();
    const named = await Foreword.load('smollm2-135m', { mirror: '/mirror/', contextLength: 256 });
    const left = await Foreword.list();
    const deleted = await Foreword.delete('smollm2-135m');
    return { text: answer.choices[0].text, model: answer.model, cached: named.info.cached, left: left.map((m) => [m.url.split('/').pop(), m.complete]), deleted };
  });
  assert.deepEqual(r, { text: ' Paris', model: 'mine', cached: false, left: [['SmolLM2-135M-Instruct.Q4_1.gguf', true]], deleted: true });
});

on('a server without ranges, or with a new version, is read from the beginning', async (page) => {
  for (const kind of ['norange', 'etag']) {
    const info = await inPage(page, async (Foreword, { url }) => (await Foreword.load(url, { sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53' })).info, { url: `/smol.gguf?drop=20000000&${kind}` });
    assert.equal(info.fileBytes, 98362432, info.message);
  }
  const wrong = await inPage(page, (Foreword) => Foreword.load('/smol.gguf?hash', { sha256: '0'.repeat(64) }));
  assert.equal(wrong.code, 'checksum_mismatch', wrong.message);
  const left = await inPage(page, async (Foreword) => (await Foreword.list()).filter((m) => m.url.endsWith('?hash')).length);
  assert.equal(left, 0, 'a damaged download is not kept');
});

on('without a private file system the Cache API keeps models', async (page) => {
  await inWorkers(page, 'delete FileSystemFileHandle.prototype.createSyncAccessHandle');
  await page.reload();
  const cached = await inPage(page, async (Foreword) => {
    const loads = [];
    for (let i = 0; i < 2; i++) {
      const model = await Foreword.load('/smol.gguf?drop=30000000&cacheapi', { contextLength: 256 });
      loads.push(model.info.cached);
      await model.dispose();
    }
    const [entry] = await Foreword.list();
    return [...loads, entry.bytes, (await caches.keys()).length, await Foreword.delete(entry), (await Foreword.list()).length];
  });
  assert.deepEqual(cached, [false, true, 98362432, 1, true, 0], cached.message);
});

test('where nothing is kept, what the model took of a file is given up', async () => {
  const collecting = await launch({ args: ['--headless=new', '--no-sandbox', '--js-flags=--expose-gc'] });
  try {
    await withPage(collecting, server.url, async (page) => {
      // Counts what is alive of all that came from the server.
      await inWorkers(page, `
        const { read } = ReadableStreamDefaultReader.prototype;
        const buffers = [];
        let fresh = 0;
        self.most = 0;
        ReadableStreamDefaultReader.prototype.read = async function () {
          const result = await read.call(this);
          const size = result.value?.length ?? 0;
          buffers.push([new WeakRef(result.value?.buffer ?? {}), size]);
          if ((fresh += size) < 8e6) return result;
          fresh = 0;
          gc();
          self.most = Math.max(self.most, buffers.reduce((sum, [buffer, size]) => sum + (buffer.deref() ? size : 0), 0));
          return result;
        };`);
      await page.reload();
      const answer = await inPage(page, async (Foreword) => {
        const model = (globalThis.kept = await Foreword.load('/smol.gguf?slow=50', { cache: false, threads: 1, contextLength: 256 }));
        return (await model.completions.create({ prompt: 'The capital of France is', max_tokens: 1, temperature: 0 })).choices[0].text;
      });
      assert.equal(answer, ' Paris', answer.message);
      const most = await page.workers()[0].evaluate(() => self.most);
      assert.ok(most > 0 && most < 40e6, `${most} bytes of 98 million lay in memory at once`);
    });
  } finally {
    await collecting.close();
  }
});

on('where nothing is kept, a file is downloaded once, however fast it comes', async (page) => {
  const asked = server.requests.length;
  const failed = await inPage(page, async (Foreword) => {
    await (await Foreword.load('/smol.gguf', { cache: false, threads: 1, contextLength: 256 })).dispose();
  });
  assert.equal(failed?.code, undefined, failed?.message);
  assert.equal(server.requests.slice(asked).filter(({ sent }) => sent !== undefined).length, 1);
});

/** Cross-Origin Storage, as the draft has it, in a folder of this site's own; `__asked` are the requests. No browser has it. */
const SHARED = `
  navigator.crossOriginStorage = {
    async requestFileHandle({ algorithm, value }, { create = false } = {}) {
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('stand-in', { create: true });
      const kept = await folder.getFileHandle('asked', { create: true }).then(async (handle) => ({ handle, before: await (await handle.getFile()).text() }));
      const note = await kept.handle.createWritable();
      await note.write(kept.before + algorithm + ' ' + value.slice(0, 4) + (create ? ' create' : '') + ';');
      await note.close();
      return folder.getFileHandle(value, { create });
    },
  };`;

on('a file is shared with other sites where the browser has Cross-Origin Storage and that was asked for', async (page) => {
  await inWorkers(page, SHARED);
  await page.reload();
  const r = await inPage(page, async (Foreword, { sha256 }) => {
    const folder = async () => (await navigator.storage.getDirectory()).getDirectoryHandle('stand-in', { create: true });
    const asked = async () => (await (await (await folder()).getFileHandle('asked', { create: true })).getFile()).text();
    const load = async (url, options) => {
      const model = await Foreword.load(url, { sha256, contextLength: 128, ...options });
      await model.dispose();
      return model.info.cached;
    };
    const out = { plain: [await load('/tiny.gguf?plain'), await asked()] };
    out.first = [await load('/tiny.gguf?first', { cache: 'cross-origin' }), await asked()];
    // As another site, which knows the file by another address and has no copy of its own.
    for (const entry of await Foreword.list()) await Foreword.delete(entry);
    out.other = [await load('/tiny.gguf?other', { cache: 'cross-origin' }), (await Foreword.list()).length];
    // What is there under the hash is something else.
    const broken = await (await (await folder()).getFileHandle(sha256)).createWritable();
    await broken.write('nonsense');
    await broken.close();
    out.broken = await load('/tiny.gguf?broken', { cache: 'cross-origin' });
    return out;
  }, { sha256: tinySha });
  const start = tinySha.slice(0, 4);
  assert.deepEqual(r, { plain: [false, ''], first: [false, `SHA-256 ${start};SHA-256 ${start} create;`], other: [true, 0], broken: false }, r.message);
  const fetched = server.requests.map(({ url }) => url).filter((url) => /^\/tiny\.gguf\?(plain|first|other|broken)$/.test(url));
  assert.deepEqual(fetched, ['/tiny.gguf?plain', '/tiny.gguf?first', '/tiny.gguf?broken']);
});

on('a browser without Cross-Origin Storage, and one that refuses, download as always', async (page) => {
  const load = () => inPage(page, async (Foreword, { sha256 }) => {
    const model = await Foreword.load('/tiny.gguf?refused', { sha256, cache: 'cross-origin', contextLength: 128 });
    await Foreword.delete('/tiny.gguf?refused').catch(() => {});
    return model.info.cached;
  }, { sha256: tinySha });
  assert.equal(await load(), false);
  await inWorkers(page, `navigator.crossOriginStorage = { requestFileHandle: async () => { throw new DOMException('no', 'NotAllowedError'); } };`);
  await page.reload();
  assert.equal(await load(), false);
});
