// Every folder of pkg/examples, installed from the packed tarball and the registry, built, and driven in a browser or run.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { serve } from '../../../www/serve.mjs';
import { launch } from '../browser.mjs';
import { modelPath, PKG, start } from '../server.mjs';

const EXAMPLES = path.join(PKG, 'examples');
const MODEL = modelPath('smol.gguf');
const CORS = { 'access-control-allow-origin': '*', 'cross-origin-resource-policy': 'cross-origin' };
const AT_LEAST = /(\w+\W+){3}/;

let folder, tarball, browser, cdn;
const servers = [];
before(async () => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'foreword-examples-'));
  const [{ filename }] = JSON.parse(execFileSync('npm', ['pack', '--json', '--pack-destination', folder], { cwd: PKG, encoding: 'utf8' }));
  tarball = path.join(folder, filename);
  fs.mkdirSync(path.join(folder, 'foreword'));
  execFileSync('tar', ['-xzf', tarball, '--strip-components=1', '-C', path.join(folder, 'foreword')]);
  browser = await launch();
  cdn = await start({ isolated: false, more: CORS, folders: { foreword: path.join(folder, 'foreword') } });
});
after(async () => {
  await browser?.close();
  cdn?.close();
  servers.forEach((server) => (server.closeAllConnections(), server.close()));
  if (folder) fs.rmSync(folder, { recursive: true, force: true });
});

/** A copy of an example with its packages, built where it has a build. */
function installed(name) {
  const here = path.join(folder, name);
  fs.cpSync(path.join(EXAMPLES, name), here, { recursive: true });
  const manifest = JSON.parse(fs.readFileSync(path.join(here, 'package.json'), 'utf8'));
  manifest.dependencies.foreword = `file:${tarball}`;
  fs.writeFileSync(path.join(here, 'package.json'), JSON.stringify(manifest));
  // Vite's dev server has a NODE_ENV of its own, which is not for others.
  const { NODE_ENV, ...env } = process.env;
  const npm = (...args) => execFileSync('npm', args, { cwd: here, stdio: ['ignore', 'ignore', 'inherit'], env: { ...env, NEXT_TELEMETRY_DISABLED: '1' } });
  npm('install', '--no-audit', '--no-fund', '--silent');
  if (manifest.scripts?.build) npm('run', 'build', '--silent');
  return here;
}

/** Opens a page, and waits until its `selector` has an answer. */
async function answers(url, { context, selector = 'output' } = {}) {
  const fresh = context ?? (await browser.newContext());
  const page = await fresh.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(error.message));
  await page.goto(url);
  const text = page.locator(selector, { hasText: AT_LEAST });
  await text.waitFor({ timeout: 90_000 }).catch((error) => assert.fail([error.message, ...errors].join('\n')));
  assert.deepEqual(errors, []);
  const isIsolated = await page.evaluate('crossOriginIsolated');
  await fresh.close();
  return isIsolated;
}

async function hosted(out, isolated = true) {
  const server = await serve({ folder: out, models: { 'smol.gguf': MODEL }, isolated });
  servers.push(server);
  return `http://127.0.0.1:${server.address().port}/?model=/models/smol.gguf`;
}

test('a plain page', async () => {
  assert.equal(await answers(await hosted(installed('page'))), true);
});

for (const isolated of [true, false]) {
  test(`a page ${isolated ? 'with' : 'without'} isolation, with the package on another site`, async () => {
    const here = path.join(folder, `cdn-${isolated}`);
    fs.mkdirSync(here);
    const html = fs.readFileSync(path.join(EXAMPLES, 'cdn/index.html'), 'utf8');
    fs.writeFileSync(path.join(here, 'index.html'), html.replace('https://cdn.example/foreword@0.1.0', `${cdn.url}/foreword`));
    assert.equal(await answers(await hosted(here, isolated)), isolated);
  });
}

for (const name of ['README.md', 'pkg/README.md']) {
  test(`the first lines of ${name}, pasted into a page beside another site`, async () => {
    const [, code] = /```js\n([^]*?)```/.exec(fs.readFileSync(path.join(PKG, '..', name), 'utf8'));
    const here = path.join(folder, `lines-${name.length}`);
    fs.mkdirSync(here);
    const own = code.replace("'foreword'", `'${cdn.url}/foreword/dist/index.js'`).replace('https://example.com/model.gguf', '/models/smol.gguf');
    assert.equal((own.match(/\/(dist|models)\//g) ?? []).length, 2);
    fs.writeFileSync(path.join(here, 'index.html'), `<!doctype html><body></body><script type="module">${own}</script>`);
    await answers(await hosted(here), { selector: 'body' });
  });
}

test('Vite 7, built and in its dev server', async () => {
  const here = installed('vite');
  assert.equal(await answers(await hosted(path.join(here, 'dist'))), true);
  const { createServer, version } = await import(pathToFileURL(path.join(here, 'node_modules/vite/dist/node/index.js')));
  assert.match(version, /^7\./);
  const model = { name: 'model', configureServer: ({ middlewares }) => void middlewares.use('/models', (_, response) => fs.createReadStream(MODEL).pipe(response)) };
  const server = await createServer({ root: here, logLevel: 'warn', plugins: [model], server: { host: '127.0.0.1', port: 0 } });
  try {
    await server.listen();
    assert.equal(await answers(`http://127.0.0.1:${server.httpServer.address().port}/?model=/models/smol.gguf`), true);
  } finally {
    await server.close();
  }
});

test('webpack', async () => {
  assert.equal(await answers(await hosted(installed('webpack'))), true);
});

test('Next', async () => {
  assert.equal(await answers(await hosted(path.join(installed('next'), 'out'))), true);
});

test('SvelteKit', async () => {
  assert.equal(await answers(await hosted(path.join(installed('sveltekit'), 'build'))), true);
});

test('an extension of Chromium', async () => {
  const here = path.join(folder, 'extension');
  fs.cpSync(path.join(EXAMPLES, 'extension'), here, { recursive: true });
  fs.cpSync(path.join(folder, 'foreword/dist'), path.join(here, 'foreword'), { recursive: true });
  const args = ['--headless=new', '--no-sandbox', `--disable-extensions-except=${here}`, `--load-extension=${here}`];
  const context = await browser.browserType().launchPersistentContext(path.join(folder, 'profile'), { executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args });
  const background = context.serviceWorkers()[0] ?? (await context.waitForEvent('serviceworker'));
  assert.equal(await answers(new URL(`page.html?model=${cdn.url}/smol.gguf`, background.url()).href, { context }), true);
});

test('Node, Deno and Bun', () => {
  const here = installed('script');
  const bin = (name) => path.join(here, 'node_modules/.bin', name);
  for (const [command, ...args] of [[process.execPath], [bin('deno'), 'run', '--allow-all'], [bin('bun')]]) {
    const { stdout, stderr, status } = spawnSync(command, [...args, 'main.js', MODEL], { cwd: here, encoding: 'utf8', timeout: 120_000 });
    assert.match(stdout, AT_LEAST, `${command}: ${stderr}`);
    // Deno 2.9 crashes now and then while it ends, behind the answer, where workers have asked for a GPU.
    if (!command.endsWith('deno')) assert.equal(status, 0, `${command}: ${stderr}`);
  }
});
