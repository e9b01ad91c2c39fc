// The packed tarball in small apps built with Vite, webpack and esbuild, and without any bundler.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import * as esbuild from 'esbuild';
import { build as vite, createServer } from 'vite';
import webpack from 'webpack';
import { launch, withPage } from './browser.mjs';
import { modelPath, PKG, start } from './server.mjs';

const APP = `
import { Foreword } from 'foreword';
const model = await Foreword.load('/smol.gguf', { contextLength: 128, cache: false, ...globalThis.OPTIONS });
const answer = await model.completions.create({ prompt: 'The capital of France is', max_tokens: 1, temperature: 0 });
globalThis.answer = answer.choices[0].text + ' ' + model.info.threads;
`;

let folder, browser;
before(async () => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'foreword-app-'));
  const [{ filename }] = JSON.parse(execFileSync('npm', ['pack', '--json', '--pack-destination', folder], { cwd: PKG, encoding: 'utf8' }));
  fs.mkdirSync(path.join(folder, 'node_modules/foreword'), { recursive: true });
  execFileSync('tar', ['-xzf', path.join(folder, filename), '--strip-components=1', '-C', path.join(folder, 'node_modules/foreword')]);
  fs.writeFileSync(path.join(folder, 'package.json'), '{"type":"module"}');
  fs.writeFileSync(path.join(folder, 'main.js'), APP);
  fs.writeFileSync(path.join(folder, 'index.html'), '<script type="module" src="./main.js"></script>');
  browser = await launch();
});
after(async () => {
  await browser?.close();
  if (folder) fs.rmSync(folder, { recursive: true, force: true });
});

async function answers(out, init = '') {
  const server = await start({ folders: { app: out } });
  try {
    await answersAt(`${server.url}/app/`, init);
  } finally {
    server.close();
  }
}

async function answersAt(url, init = '') {
  const context = await browser.newContext();
  if (init) await context.addInitScript(init);
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(error.message));
  await page.goto(url);
  await page.waitForFunction('globalThis.answer', undefined, { timeout: 60_000 }).catch((e) => assert.fail([e.message, ...errors].join('\n')));
  assert.match(await page.evaluate('globalThis.answer'), /^ Paris [1-8]$/);
  await context.close();
}

test('the tarball has what an app, its bundler and its lawyer ask for', () => {
  const { resolve } = createRequire(path.join(folder, 'main.js'));
  for (const name of ['worker.js', 'thread.js', 'coi.js', 'models.json', 'relaxed.wasm', 'simd.wasm', 'webgpu.wasm', 'grammar.wasm', 'package.json', 'ai-sdk', 'prompt-api']) assert.ok(fs.existsSync(resolve(`foreword/${name}`)), name);
  const at = (name) => path.join(folder, 'node_modules/foreword', name);
  for (const name of ['README.md', 'LICENSE']) assert.ok(fs.statSync(at(name)).size > 1000, name);
  assert.match(fs.readFileSync(at('dist/THIRD-PARTY.txt'), 'utf8'), /hash-wasm [\s\S]+minijinja /);
  assert.deepEqual(fs.readdirSync(at('dist')).filter((name) => name.endsWith('.d.ts')).sort(), ['ai-sdk.d.ts', 'connect.d.ts', 'error.d.ts', 'index.d.ts', 'openai.d.ts', 'prompt-api.d.ts', 'sessions.d.ts', 'stream.d.ts', 'types.d.ts']);
});

test('Vite', async () => {
  const outDir = path.join(folder, 'vite');
  await vite({ root: folder, base: './', configFile: false, logLevel: 'warn', build: { outDir, target: 'es2022' } });
  await answers(outDir);
});

test('the dev server of Vite', async () => {
  const model = { name: 'model', configureServer: ({ middlewares }) => void middlewares.use('/smol.gguf', (_, response) => fs.createReadStream(modelPath('smol.gguf')).pipe(response)) };
  const headers = { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' };
  const server = await createServer({ root: folder, configFile: false, logLevel: 'warn', plugins: [model], server: { host: '127.0.0.1', port: 0, headers } });
  try {
    await server.listen();
    await answersAt(`http://127.0.0.1:${server.httpServer.address().port}/`);
  } finally {
    await server.close();
  }
});

test('webpack', async () => {
  const out = path.join(folder, 'webpack');
  const stats = await new Promise((resolve, reject) =>
    webpack({ context: folder, mode: 'production', entry: './main.js', output: { path: out, publicPath: 'auto', filename: 'main.js', module: true }, experiments: { outputModule: true } }, (error, s) => (error ? reject(error) : resolve(s))),
  );
  assert.ok(!stats.hasErrors(), stats.toString());
  fs.writeFileSync(path.join(out, 'index.html'), '<script type="module" src="./main.js"></script>');
  await answers(out);
});

test('esbuild, told where the assets lie', async () => {
  const out = path.join(folder, 'esbuild');
  await esbuild.build({ entryPoints: [path.join(folder, 'main.js')], bundle: true, format: 'esm', target: 'es2022', outdir: out });
  fs.cpSync(path.join(folder, 'node_modules/foreword/dist'), path.join(out, 'assets'), { recursive: true });
  fs.writeFileSync(path.join(out, 'index.html'), '<script type="module" src="./main.js"></script>');
  await answers(out, 'globalThis.OPTIONS = { assets: "/app/assets/" }');
});

test('no bundler', async () => {
  const out = path.join(folder, 'plain');
  fs.cpSync(path.join(folder, 'node_modules/foreword'), path.join(out, 'foreword'), { recursive: true });
  fs.writeFileSync(path.join(out, 'main.js'), APP.replace("'foreword'", "'./foreword/dist/index.js'"));
  fs.writeFileSync(path.join(out, 'index.html'), '<script type="module" src="./main.js"></script>');
  await answers(out);
});
