// Servers that misbehave, caches that are damaged, tabs that are in each other's way: in a real browser, with a tiny model.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, test } from 'node:test';
import { inPage, inWorkers, launch, withPage } from './browser.mjs';
import { start, tiny } from './server.mjs';

/** The same model, but for the order of its weights. */
const other = Buffer.from(tiny);
for (let at = 40_000; at + 8 <= tiny.length; at += 8) (tiny.copy(other, at, at + 4, at + 8), tiny.copy(other, at + 4, at, at + 4));

const LARGE = 100_000;
const held = [];
const seen = {};
/** Whether a path is asked for the first time. */
const first = ({ url, headers: { host } }) => (seen[host + url] = (seen[host + url] ?? 0) + 1) === 1;
const fromOf = ({ headers }) => Number(/^bytes=(\d+)-$/.exec(headers.range ?? '')?.[1] ?? 0);
const whole = (response, headers, bytes = tiny) => response.writeHead(200, { ...headers, 'content-length': bytes.length }).end(bytes);
/** Sends `LARGE` bytes and drops the connection. */
function drop(response, headers) {
  response.writeHead(200, { ...headers, 'content-length': tiny.length }).write(tiny.subarray(0, LARGE));
  // Bytes that a busy page has not read by then are lost to it.
  setTimeout(() => response.destroy(), 1000);
}
function rest(request, response, headers, bytes = tiny) {
  const from = fromOf(request);
  response.writeHead(206, { ...headers, 'content-length': bytes.length - from, 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` }).end(bytes.subarray(from));
}
const busy = (status, more, forMs) => {
  let begun;
  return (_, response, headers) => (Date.now() - (begun ??= Date.now()) < forMs ? response.writeHead(status, { ...headers, ...more }).end('busy') : whole(response, headers));
};

const routes = {
  '/other.gguf': (_, response, headers) => whole(response, headers, other),
  // A range request is answered by the whole file.
  '/lie.gguf': (request, response, headers) => {
    if (!request.headers.range) return drop(response, { ...headers, etag: '"1"' });
    response.writeHead(206, { ...headers, etag: '"1"', 'content-length': tiny.length, 'content-range': `bytes 0-${tiny.length - 1}/${tiny.length}` }).end(tiny);
  },
  '/dropped.gguf': (request, response, headers) => (first(request) ? drop(response, headers) : rest(request, response, headers)),
  // Another file of the same size, and nothing says so.
  '/changed.gguf': (request, response, headers) => {
    if (first(request)) return drop(response, headers);
    if (request.headers.range) return rest(request, response, headers, other);
    whole(response, headers, other);
  },
  // The end of the connection is the end of the file, and the first one ends early.
  '/closed.gguf': (request, response) => {
    const head = 'HTTP/1.0 200 OK\r\nCross-Origin-Resource-Policy: cross-origin\r\nConnection: close\r\n\r\n';
    response.socket.write(head);
    response.socket.end(first(request) ? tiny.subarray(0, LARGE) : tiny);
  },
  '/short.gguf': (request, response, headers) => whole(response, headers, first(request) ? tiny.subarray(0, 1000) : tiny),
  '/429.gguf': busy(429, { 'retry-after': '1' }, 900),
  '/503.gguf': busy(503, {}, 900),
  '/never.gguf': busy(429, { 'retry-after': '7200' }, Infinity),
  '/silent.gguf': (request, response, headers) => {
    if (!first(request)) return rest(request, response, headers);
    response.writeHead(200, { ...headers, 'content-length': tiny.length }).write(tiny.subarray(0, LARGE));
  },
  // Its end comes when the page asks for `/release`.
  '/held.gguf': (_, response, headers) => {
    response.writeHead(200, { ...headers, 'content-length': tiny.length }).write(tiny.subarray(0, LARGE));
    held.push(response);
  },
  '/release': (_, response, headers) => {
    held.splice(0).forEach((waiting) => waiting.end(tiny.subarray(LARGE)));
    response.writeHead(200, headers).end();
  },
  '/slow.gguf': (_, response, headers) => {
    response.writeHead(200, { ...headers, 'content-length': tiny.length }).write(tiny.subarray(0, LARGE));
    setTimeout(() => response.end(tiny.subarray(LARGE)), 500);
  },
  '/split-00001-of-00002.gguf': (_, response, headers) => whole(response, headers),
  '/split-00002-of-00002.gguf': (request, response, headers) => (first(request) ? response.writeHead(404, headers).end() : whole(response, headers)),
  '/mirror/SmolLM2-135M-Instruct.Q4_1.gguf': (_, response, headers) => response.writeHead(200, { ...headers, 'content-type': 'text/html' }).end('<!doctype html>'),
  '/signed.gguf': (_, response, headers) => whole(response, headers),
};

let browser, server, foreign;
before(async () => {
  const cors = { 'access-control-allow-origin': '*', 'cross-origin-resource-policy': 'cross-origin' };
  [browser, server, foreign] = await Promise.all([launch(), start({ routes }), start({ routes, more: cors })]);
});
after(async () => {
  await browser?.close();
  server?.close();
  foreign?.close();
});

/** In the page: loads and says what the model writes, or its error's code. */
const TOOLS = `
globalThis.load = async (source, options) => {
  const { Foreword } = await import('/dist/index.js');
  return Foreword.load(source, { threads: 1, contextLength: 64, ...options }).then(async (model) => {
    const { choices } = await model.completions.create({ prompt: 'a', max_tokens: 8, temperature: 0, ignore_eos: true, logprobs: 0 });
    await model.dispose();
    return JSON.stringify([choices[0].logprobs.tokens, model.info.cached]);
  }, (error) => error.code + ': ' + error.message);
};`;

/** A test in a fresh profile; `code` runs first in every worker. */
const on = (name, job, code) =>
  test(name, () =>
    withPage(browser, server.url, async (page, context) => {
      await page.addInitScript(TOOLS);
      if (code) await inWorkers(page, code);
      await page.reload();
      return job(page, context);
    }),
  );
const rangesOf = (place, path) => place.requests.filter((q) => q.url.startsWith(path)).map((q) => q.range);

on('servers that misbehave', async (page) => {
  const r = await inPage(page, async (_, { foreign }) => {
    const out = { tiny: await load('/tiny.gguf'), other: await load('/other.gguf') };
    const note = async (path) => (out[path.replace(foreign, 'foreign')] = await load(path));
    await Promise.all(['/closed.gguf', '/short.gguf', '/429.gguf', '/503.gguf', '/never.gguf'].map(note));
    for (const path of ['/lie.gguf', '/dropped.gguf', '/changed.gguf', `${foreign}/dropped.gguf`]) await note(path);
    out.again = [await load('/closed.gguf'), await load('/short.gguf'), await load('/lie.gguf')];
    return out;
  }, { foreign: foreign.url });
  assert.equal(r.code, undefined, r.message);
  assert.match(r.tiny, /^\[\["/);
  assert.notEqual(r.tiny, r.other);
  for (const path of ['/lie.gguf', '/dropped.gguf', '/429.gguf', '/503.gguf', 'foreign/dropped.gguf']) assert.equal(r[path], r.tiny, path);
  assert.equal(r['/changed.gguf'], r.other);
  assert.match(r['/never.gguf'], /^download_failed: .*120 minutes/);
  // What was damaged on the server is not kept, and loads when it is repaired.
  for (const path of ['/closed.gguf', '/short.gguf']) assert.match(r[path], /^bad_file/);
  assert.deepEqual(r.again, [r.tiny, r.tiny, r.tiny.replace('false', 'true')]);
  // Other sites show no Content-Range: the download goes on all the same, a little before its end, as no version is named.
  assert.deepEqual(rangesOf(foreign, '/dropped'), [undefined, `bytes=${LARGE - 65536}-`]);
});

on('connections that fall silent, and networks that go away', async (page) => {
  const r = await inPage(page, async (Foreword) => {
    const phases = [];
    const silent = await load('/silent.gguf', { onProgress: (p) => phases.push(p.phase) });
    return { silent, tiny: await load('/tiny.gguf'), phases: [...new Set(phases)] };
  });
  assert.match(r.silent, /^\[\[/, r.message);
  assert.equal(r.silent, r.tiny);
  assert.deepEqual(r.phases, ['download', 'waiting', 'load']);
  assert.equal(rangesOf(server, '/silent').length, 2);
  // Seconds are shorter there, and when the connection is given up there is no network for a while.
}, `const every = setInterval, after = setTimeout;
    self.setInterval = (f, ms) => every(f, ms / 20);
    self.setTimeout = (f, ms) => after(f, ms / 5);
    let ended = 0;
    const { fetch } = self;
    self.fetch = (...args) => (args[1]?.signal?.addEventListener('abort', () => (ended = Date.now())), fetch(...args));
    Object.defineProperty(navigator, 'onLine', { get: () => Date.now() - ended > 500 });`);

on('what the cache has is what is asked for', async (page) => {
  const r = await inPage(page, async (Foreword, { hash }) => {
    const folder = async () => (await navigator.storage.getDirectory()).getDirectoryHandle('foreword');
    const names = async () => (await Array.fromAsync((await folder()).keys())).length;
    const out = {};
    out.first = await load('/tiny.gguf');
    out.right = await load('/tiny.gguf', { sha256: hash.toUpperCase() });
    out.wrong = await load('/tiny.gguf', { sha256: '0'.repeat(64) });
    out.after = [await load('/tiny.gguf'), await load('/tiny.gguf')];
    // One half of an entry is gone, then the other.
    const [{ key }] = await Foreword.list();
    await (await folder()).removeEntry(key);
    out.gone = await load('/tiny.gguf');
    await (await folder()).removeEntry(`${key}.json`);
    out.orphan = [(await Foreword.list()).length, await names()];
    await load('/tiny.gguf');
    await (await folder()).removeEntry(key);
    out.half = [(await Foreword.list()).length, await names()];
    // Files that are not downloaded are checked, too.
    const blob = await (await fetch('/tiny.gguf')).blob();
    out.blobs = [await load(blob, { sha256: hash }), await load(blob, { sha256: '0'.repeat(64) })];
    // Signed addresses differ from visit to visit.
    out.signed = [await load('/signed.gguf?a', { cacheKey: 'mine' }), await load('/signed.gguf?b', { cacheKey: 'mine' })];
    out.deleted = [await Foreword.delete('mine'), await Foreword.delete('mine')];
    return out;
  }, { hash: createHash('sha256').update(tiny).digest('hex') });
  const cached = r.first.replace('false', 'true');
  assert.equal(r.right, cached);
  assert.match(r.wrong, /^checksum_mismatch/);
  assert.deepEqual(r.after, [r.first, cached]);
  assert.equal(r.gone, r.first);
  assert.deepEqual([r.orphan, r.half], [[0, 0], [0, 0]]);
  assert.equal(r.blobs[0], r.first);
  assert.match(r.blobs[1], /^checksum_mismatch/);
  assert.deepEqual(r.signed, [r.first, cached]);
  assert.deepEqual(r.deleted, [true, false]);
});

on('a model is deleted whole, but not while it is in use', async (page, context) => {
  const r = await inPage(page, async (Foreword) => {
    const out = {};
    const phases = [];
    let begun;
    const started = new Promise((go) => (begun = go));
    const loading = load('/held.gguf', { onProgress: begun });
    await started;
    let waits;
    const waiting = new Promise((go) => (waits = go));
    const second = load('/held.gguf', { onProgress: (p) => (phases.push(p.phase), waits()) });
    await waiting;
    out.busy = await Foreword.delete('/held.gguf').then(() => 'deleted', (e) => e.message);
    await fetch('/release');
    out.loaded = [await loading, await second];
    out.phases = phases[0];
    out.free = [await Foreword.delete('held.gguf'), (await Foreword.list()).length];
    out.split = await load('/split-00001-of-00002.gguf');
    await load('/split-00002-of-00002.gguf');
    out.before = (await Foreword.list()).length;
    out.after = [await Foreword.delete('/split-00001-of-00002.gguf'), (await Foreword.list()).length];
    // Of a model of several files the share that is here never shrinks.
    const shares = [];
    await load(['/tiny.gguf', '/slow.gguf'], { onProgress: (p) => p.phase === 'download' && p.totalBytes && shares.push(p.loadedBytes / p.totalBytes) });
    out.shrinks = shares.some((share, i) => share < (shares[i - 1] ?? 0));
    return out;
  });
  assert.match(r.busy, /in use/);
  assert.match(r.loaded[0], /^\[\[.*false\]$/);
  assert.match(r.loaded[1], /^\[\[.*true\]$/);
  assert.equal(r.phases, 'waiting');
  assert.deepEqual(r.free, [true, 0]);
  assert.match(r.split, /^not_found/);
  assert.deepEqual([r.before, r.after, r.shrinks], [2, [true, 0], false]);
});

on('a file that is open is not half deleted', async (page) => {
  const r = await inPage(page, async (Foreword) => {
    await load('/tiny.gguf');
    const [entry] = await Foreword.list();
    const source = `onmessage = async ({ data }) => {
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('foreword');
      self.handle = await (await folder.getFileHandle(data)).createSyncAccessHandle();
      postMessage('open');
    }`;
    const holder = new Worker(URL.createObjectURL(new Blob([source])));
    await new Promise((go) => ((holder.onmessage = go), holder.postMessage(entry.key)));
    const refused = await Foreword.delete(entry).then(() => 'deleted', (e) => `${e.code} ${e.message}`);
    const left = (await Foreword.list()).length;
    holder.terminate();
    // The browser lets go of the file some time after.
    const deadline = Date.now() + 30_000;
    const deleted = () => Foreword.delete(entry).catch((error) => (Date.now() < deadline ? deleted() : Promise.reject(error)));
    return { refused, left, deleted: await deleted(), after: (await Foreword.list()).length };
  });
  assert.match(r.refused, /^storage_failed .*in use/);
  assert.deepEqual([r.left, r.deleted, r.after], [1, true, 0]);
});

on('storage that fails is called so, and the server is not asked again', async (page) => {
  const r = await inPage(page, () => load('/signed.gguf?storage'));
  assert.match(r, /^storage_failed: The model cannot be stored/);
  assert.equal(rangesOf(server, '/signed.gguf?storage').length, 1);
}, `const { write } = FileSystemSyncAccessHandle.prototype;
    FileSystemSyncAccessHandle.prototype.write = function (bytes, options) {
      if (bytes.length > 2000) throw new DOMException('site data was cleared', 'InvalidStateError');
      return write.call(this, bytes, options);
    };`);

on('a worker that ends while it notes what it has leaves the download usable', async (page) => {
  const r = await inPage(page, async (Foreword) => {
    const ended = await load('/signed.gguf?crash');
    const kept = await Foreword.list();
    return { ended, kept: kept.map((m) => [m.bytes, m.complete, m.url.endsWith('crash')]) };
  });
  assert.match(r.ended, /^(worker_lost|storage_failed)/);
  assert.deepEqual(r.kept, [[tiny.length, true, true]]);
}, `const { truncate } = FileSystemSyncAccessHandle.prototype, { createSyncAccessHandle } = FileSystemFileHandle.prototype;
    let notes = 0;
    FileSystemFileHandle.prototype.createSyncAccessHandle = async function (options) {
      const handle = await createSyncAccessHandle.call(this, options);
      // The second time it is the note that the download is complete.
      if (this.name.endsWith('.json') && ++notes === 2) handle.truncate = (n) => (truncate.call(handle, n), handle.flush(), self.close());
      if (this.name.endsWith('.json') && notes === 2) handle.write = () => { throw new Error('the worker has ended'); };
      return handle;
    };`);

on('where storage is refused, a model is loaded all the same', async (page) => {
  assert.match(await inPage(page, () => load('/tiny.gguf')), /^\[\[/);
}, `StorageManager.prototype.getDirectory = async () => { throw new DOMException('private', 'SecurityError'); };
    CacheStorage.prototype.open = async () => { throw new DOMException('private', 'SecurityError'); };
    StorageManager.prototype.estimate = async () => { throw new TypeError('private'); };`);

on('room is counted for all files of a model together', async (page) => {
  assert.match(await inPage(page, () => load('/tiny.gguf')), /^\[\[/);
  assert.match(await inPage(page, () => load(['/slow.gguf', '/other.gguf'])), /^quota_exceeded/);
}, 'StorageManager.prototype.estimate = async () => ({ quota: (16 << 20) + 180_000, usage: 0 });');

on('the browser’s estimate may fail', async (page) => {
  assert.match(await inPage(page, () => load('/tiny.gguf')), /^\[\[/);
}, 'StorageManager.prototype.estimate = async () => { throw new TypeError("private"); };');

on('requests of the caller’s own, headers, tokens, revisions, and a mirror that answers with its page', async (page) => {
  const r = await inPage(page, async (Foreword) => {
    const asked = [];
    const own = (url, init) => {
      asked.push([url, new Headers(init.headers).get('authorization'), new Headers(init.headers).get('x-mine')]);
      return fetch(new URL(url).origin === location.origin ? url : '/tiny.gguf', init);
    };
    const out = {};
    const options = { cache: false, fetch: own, token: 'secret', headers: { 'x-mine': '1' } };
    out.revision = await load('hf:owner/repo@v1.0/file.gguf', options);
    out.branch = await load('hf:owner/repo@refs%2Fpr%2F1/file.gguf', options);
    out.own = await load('/tiny.gguf', options);
    out.plain = await load('/signed.gguf?headers', { cache: false, headers: { 'x-mine': '2' } });
    out.broken = await load('/tiny.gguf', { cache: false, fetch: async () => { throw new Error('mine'); } });
    out.aborted = await new Promise((resolve) => {
      const stop = new AbortController();
      const hang = (_, { signal }) => (setTimeout(() => stop.abort(), 100), new Promise((_, no) => signal.addEventListener('abort', () => no(signal.reason))));
      load('/tiny.gguf', { cache: false, fetch: hang, signal: stop.signal }).then(resolve);
    });
    // The mirror answers every address with a page; the hub has the model.
    const hub = (url, init) => (asked.push([url]), fetch(new URL(url).origin === location.origin ? url : '/smol.gguf', init));
    out.mirrored = await load('smollm2-135m', { cache: false, fetch: hub, mirror: '/mirror' });
    return { out, asked };
  });
  const { out, asked } = r;
  for (const name of ['revision', 'branch', 'own', 'plain']) assert.match(out[name] ?? r.message, /^\[\[/, name);
  assert.match(asked[0][0], /^https:.*\/owner\/repo\/resolve\/v1\.0\/file\.gguf$/);
  assert.match(asked[1][0], /\/owner\/repo\/resolve\/refs%2Fpr%2F1\/file\.gguf$/);
  assert.deepEqual([asked[0].slice(1), asked[2].slice(1)], [['Bearer secret', '1'], [null, '1']]);
  assert.equal(server.requests.find((q) => q.url === '/signed.gguf?headers').headers['x-mine'], '2');
  assert.match(out.broken, /^download_failed: .*mine/);
  assert.match(out.aborted, /^cancelled/);
  assert.match(out.mirrored, /^\[\[/);
  assert.deepEqual(asked.slice(-2).map(([url]) => new URL(url).origin === server.url), [true, false]);
});
