// Pages where browsers allow less: without HTTPS, with the package on another site, in frames, under strict policies.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { inWorkers, launch, withPage } from './browser.mjs';
import { PKG, start } from './server.mjs';

const CORS = { 'access-control-allow-origin': '*', 'cross-origin-resource-policy': 'cross-origin' };
const html = (body) => (_, response, headers) => response.writeHead(200, { ...headers, 'content-type': 'text/html' }).end(`<!doctype html>${body}`);
const missing = (_, response, headers) => response.writeHead(404, headers).end();
const file = (name, change = (bytes) => bytes) => (_, response, headers) => {
  const type = name.endsWith('.js') ? 'text/javascript' : 'application/wasm';
  response.writeHead(200, { ...headers, 'content-type': type }).end(change(fs.readFileSync(path.join(PKG, 'dist', name))));
};
const patched = (bytes) => (bytes.writeUInt8(bytes.at(-1) ^ 1, bytes.length - 1), bytes);

let browser, isolated, cdn, plain;
const servers = [];
const serve = async (options) => {
  servers.push(await start(options));
  return servers.at(-1);
};
before(async () => {
  browser = await launch({ args: ['--headless=new', '--no-sandbox', '--host-resolver-rules=MAP *.test 127.0.0.1'] });
  isolated = await serve({ routes: { '/models/': html('<base href="/app/">'), '/app/tiny.gguf': (_, response, headers) => response.writeHead(302, { ...headers, location: '/tiny.gguf' }).end() } });
  cdn = await serve({ isolated: false, more: CORS });
  plain = await serve({ isolated: false, routes: { '/coi/': html('<script src="coi.js"></script>'), '/coi/coi.js': file('coi.js'), '/coi/data': html('') } });
});
after(async () => {
  await browser?.close();
  servers.forEach((server) => server.close());
});

/** What a load comes to in the page of `url`, with the package of `from`: threads and what limits them, or the error. */
const outcome = (url, { from = '', source = '/tiny.gguf', options = {}, prepare } = {}) =>
  withPage(browser, url, async (page) => {
    await prepare?.(page);
    if (prepare) await page.reload();
    return page.evaluate(LOAD, [from, source, options]);
  });
const LOAD = async ([from, source, options]) => {
  const { Foreword, ForewordError } = await import(`${from}/dist/index.js`);
  try {
    const model = await Foreword.load(source, { threads: 2, ...options });
    const { usage } = await model.completions.create({ prompt: 'a', max_tokens: 2, ignore_eos: true });
    await model.dispose();
    return [usage.completion_tokens, model.info.threads, model.info.threadsLimitedBy];
  } catch (error) {
    return error instanceof ForewordError ? `${error.code}: ${error.message}` : `a stranger: ${error}`;
  }
};

test('a page without HTTPS runs one thread and keeps nothing', async () => {
  const url = plain.url.replace('127.0.0.1', 'plain.test');
  assert.deepEqual(await outcome(url), [2, 1, 'not_isolated']);
});

test('a package on another site runs with all threads where the page is isolated', async () => {
  const from = cdn.url.replace('127.0.0.1', 'cdn.test');
  assert.deepEqual(await outcome(isolated.url, { from }), [2, 2, undefined]);
  assert.deepEqual(await outcome(plain.url, { from }), [2, 1, 'not_isolated']);
  assert.deepEqual(await outcome(plain.url, { options: { assets: `${from}/dist` } }), [2, 1, 'not_isolated']);
});

test('addresses are relative to what fetch takes them relative to', async () => {
  assert.deepEqual(await outcome(`${isolated.url}/models/`, { source: 'tiny.gguf', options: { assets: '/dist' } }), [2, 2, undefined]);
  const r = await withPage(browser, isolated.url, (page) =>
    page.evaluate(async (load) => {
      const framed = (attributes) =>
        new Promise((resolve) => {
          addEventListener('message', ({ data }) => resolve(data), { once: true });
          const frame = document.createElement('iframe');
          Object.assign(frame, attributes);
          frame.srcdoc = `<script type="module">parent.postMessage(await (${load})([${JSON.stringify(location.origin)}, '/tiny.gguf', {}]), '*')</script>`;
          document.body.append(frame);
        });
      const worker = (source) =>
        new Promise((resolve) => {
          const script = `(${load})([${JSON.stringify(location.origin)}, ${JSON.stringify(source)}, {}]).then(postMessage)`;
          new Worker(URL.createObjectURL(new Blob([script], { type: 'text/javascript' })), { type: 'module' }).onmessage = ({ data }) => resolve(data);
        });
      return { frame: await framed({}), rooted: await worker('/tiny.gguf'), relative: await worker('tiny.gguf') };
    }, LOAD.toString()),
  );
  assert.deepEqual(r.frame, [2, 2, undefined]);
  assert.deepEqual(r.rooted, [2, 2, undefined]);
  assert.match(r.relative, /^invalid_request: "tiny\.gguf" is not an absolute URL/);
});

test('a sandboxed frame loads, or says why not', async () => {
  const r = await withPage(browser, cdn.url, (page) =>
    page.evaluate((load) => new Promise((resolve) => {
      addEventListener('message', ({ data }) => resolve(data), { once: true });
      const frame = document.createElement('iframe');
      frame.sandbox = 'allow-scripts';
      frame.srcdoc = `<script type="module">parent.postMessage(await (${load})(['${location.origin}', '${location.origin}/tiny.gguf', {}]), '*')</script>`;
      document.body.append(frame);
    }), LOAD.toString()),
  );
  assert.deepEqual(r, [2, 1, 'not_isolated']);
});

for (const [name, policy, said] of [
  ['without wasm-unsafe-eval', "script-src 'self' 'unsafe-inline'", /^unsupported: .*Content-Security-Policy.*wasm-unsafe-eval/],
  ['that allows no requests', "connect-src 'none'", /^download_failed: .*Content-Security-Policy.*connect-src/],
  ['that allows no workers', "worker-src 'none'", /^worker_lost: .*could not be started.*Content-Security-Policy.*worker-src/],
]) {
  test(`a policy ${name} is named`, async () => {
    const server = await serve({ more: { 'content-security-policy': policy } });
    assert.match(String(await outcome(server.url)), said);
  });
}

test('a policy that an extension has is enough', async () => {
  const server = await serve({ more: { 'content-security-policy': "script-src 'self' 'wasm-unsafe-eval'; object-src 'self'" } });
  assert.deepEqual(await outcome(server.url), [2, 2, undefined]);
});

test('files of the package that are missing or of another version', async () => {
  const server = (routes) => serve({ routes }).then(({ url }) => url);
  assert.match(await outcome(await server({ '/dist/worker.js': missing })), /^worker_lost: .*could not be started.*dist\/worker\.js/);
  assert.match(await outcome(await server({ '/dist/relaxed.wasm': missing })), /^download_failed: .*relaxed\.wasm.*missing/);
  assert.match(await outcome(await server({ '/dist/relaxed.wasm': file('relaxed.wasm', patched) })), /^download_failed: .*relaxed\.wasm.*another version/);
  assert.deepEqual(await outcome(await server({ '/dist/thread.js': missing })), [2, 1, 'no_workers']);
});

test('windows of Electron are browsers; places without workers are told so', async () => {
  const electron = (type) => `globalThis.process = { type: '${type}', versions: { node: '20.16.0' }, getBuiltinModule: () => ({}) };`;
  const prepare = async (page) => {
    await inWorkers(page, electron('worker'));
    await page.addInitScript(electron('renderer'));
  };
  assert.deepEqual(await outcome(isolated.url, { prepare }), [2, 2, undefined]);
  const without = (code) => ({ prepare: (page) => page.addInitScript(`delete globalThis.Worker; ${code}`) });
  assert.match(await outcome(isolated.url, without('globalThis.ServiceWorkerGlobalScope = class {}')), /^unsupported_browser: .*offscreen document/);
  assert.match(await outcome(isolated.url, without('Object.defineProperty(navigator, "userAgent", { value: "Cloudflare-Workers" })')), /^unsupported_browser: Cloudflare/);
});

test('coi.js isolates a page, and leaves everything else alone', () =>
  withPage(browser, `${plain.url}/coi/`, async (page) => {
    await page.waitForFunction('crossOriginIsolated');
    const headers = await page.evaluate(async () => [...(await fetch('/coi/data')).headers.keys()].filter((name) => name.startsWith('cross-origin')));
    assert.deepEqual(headers, []);
    assert.match(await page.evaluate('navigator.serviceWorker.controller.scriptURL'), /coi\.js\?embedder=credentialless$/);
  }));
