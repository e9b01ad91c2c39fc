// What a page downloads before the model, of this package and its peers: prints the table of docs/speed.md.
//   node pkg/test/bench/size.mjs
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import zlib from 'node:zlib';
import * as esbuild from 'esbuild';
import { PKG } from '../server.mjs';

/**
 * `with` are packages that the first one imports, of the versions that it names. `scripts` are bundled and minified, each for itself;
 * `wasm` is the one that a current browser takes.
 */
const PACKAGES = [
  { title: 'Foreword', from: PKG, name: 'foreword', scripts: ['index', 'worker', 'thread'].map((name) => `foreword/dist/${name}.js`), wasm: 'foreword/dist/relaxed.wasm' },
  { title: 'wllama', name: '@wllama/wllama', scripts: ['@wllama/wllama'], wasm: '@wllama/wllama/esm/wasm/wllama.wasm' },
  { title: 'WebLLM', name: '@mlc-ai/web-llm', with: ['loglevel'], scripts: ['@mlc-ai/web-llm'] },
  { title: 'transformers.js', name: '@huggingface/transformers', with: ['@huggingface/jinja', '@huggingface/tokenizers', 'onnxruntime-web', 'onnxruntime-common'], scripts: ['@huggingface/transformers'], wasm: 'onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify.wasm' },
];

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'foreword-size-'));
const modules = path.join(folder, 'node_modules');
const brotli = (bytes) => zlib.brotliCompressSync(bytes).length;
const sizes = (list) => (list.length ? [list.reduce((sum, bytes) => sum + bytes.length, 0), list.reduce((sum, bytes) => sum + brotli(bytes), 0)] : undefined);
const shown = (pair) => (pair ? pair.map((n) => (n / 1000).toLocaleString('en', { maximumFractionDigits: 0 })).join(' / ') : '');

/** A package without what it depends on, unpacked; the size of its tarball. */
function unpack(name, from = name) {
  const [{ filename, size, version }] = JSON.parse(execFileSync('npm', ['pack', '--json', '--ignore-scripts', from, '--pack-destination', folder], { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }));
  const to = path.join(modules, name);
  fs.mkdirSync(to, { recursive: true });
  execFileSync('tar', ['-xzf', path.join(folder, filename), '--strip-components=1', '-C', to]);
  return { size, version, dependencies: JSON.parse(fs.readFileSync(path.join(to, 'package.json'))).dependencies };
}

async function bundled(script) {
  const entry = script.endsWith('.js') ? path.join(modules, script) : path.join(folder, 'entry.js');
  if (!script.endsWith('.js')) fs.writeFileSync(entry, `export * from '${script}';`);
  const { outputFiles } = await esbuild.build({ entryPoints: [entry], bundle: true, minify: true, format: 'esm', platform: 'browser', target: 'es2022', write: false, legalComments: 'none', logLevel: 'error', external: ['node:*', 'fs', 'path', 'url', 'perf_hooks', 'ws', 'crypto'] });
  return outputFiles[0].contents;
}

console.log('| thousand bytes | tarball | scripts / with Brotli | `.wasm` / with Brotli | to download before a model |\n|---|---|---|---|---|');
for (const { title, name, from, with: others = [], scripts, wasm } of PACKAGES) {
  const { size, version, dependencies } = unpack(name, from);
  let tarball = size;
  for (const other of others) tarball += unpack(other, `${other}@${dependencies[other] ?? 'latest'}`).size;
  const js = sizes(await Promise.all(scripts.map(bundled)));
  const core = sizes(wasm ? [fs.readFileSync(path.join(modules, wasm))] : []);
  console.log(`| ${title} ${version} | ${shown([tarball])} | ${shown(js)} | ${shown(core)} | ${shown([js[1] + (core?.[1] ?? 0)])} |`);
}
fs.rmSync(folder, { recursive: true });
