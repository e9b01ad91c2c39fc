// Compiles the core's own tests to WASM: with relaxed SIMD, and without. The latter build has the WebGPU backend, for the op tests.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { PKG } from './server.mjs';

export const ROOT = path.join(PKG, '..');
const TARGET = path.resolve(ROOT, process.env.CARGO_TARGET_DIR ?? 'target');
/** Where modules and their workers lie. */
export const OUT = path.join(TARGET, 'test-web');
/** Features and tests of each; relaxed SIMD is in kernels only. */
export const BUILDS = {
  simd: { features: ['+simd128', '--features=wgpu'], files: ['ops', 'quant', 'families', 'golden'] },
  relaxed: { features: ['+simd128,+relaxed-simd'], files: ['ops', 'golden'] },
};

/** Runs in a worker: files are read synchronously there. */
const WORKER = (module) => `
import init, * as bindings from './${module}.js';
const lines = [];
self.__wbg_test_invoke = (f) => f();
self.__wbg_test_output_writeln = (...args) => lines.push(args.map(String).join(' '));
for (const method of ['debug', 'log', 'info', 'warn', 'error']) {
  console[method] = (...args) => bindings['__wbgtest_console_' + method](args);
}
self.testFile = (name) => {
  const request = new XMLHttpRequest();
  request.open('GET', '/' + name, false);
  request.responseType = 'arraybuffer';
  request.send();
  if (request.status !== 200) throw new Error(name + ': HTTP ' + request.status);
  return new Uint8Array(request.response);
};
try {
  const wasm = await init({ module_or_path: new URL('./${module}_bg.wasm', import.meta.url) });
  const context = new bindings.WasmBindgenTestContext(false);
  const names = Object.keys(wasm).filter((name) => name.startsWith('__wbgt_'));
  const passed = await context.run(names.map((name) => wasm[name]));
  postMessage({ passed, n: names.length, text: lines.join('\\n') });
} catch (error) {
  postMessage({ passed: false, n: 0, text: [...lines, error.stack].join('\\n') });
}
`;

/** Compiles the tests as one build has them. */
function compile(name, { features: [features, ...options], files }) {
  const env = { ...process.env, RUSTFLAGS: `-Ctarget-feature=${features}` };
  const args = ['test', '--locked', '-p', 'foreword', '--target', 'wasm32-unknown-unknown', ...options];
  args.push('--no-run', '--message-format=json', ...files.flatMap((file) => ['--test', file]));
  const messages = execFileSync('cargo', args, { cwd: ROOT, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], maxBuffer: 1 << 28 });
  const built = messages.split('\n').filter(Boolean).map((line) => JSON.parse(line)).filter((m) => m.executable && files.includes(m.target?.name));
  for (const { executable, target } of built) {
    execFileSync(path.join(TARGET, 'debug/foreword-bindgen'), [executable, OUT, `${name}-${target.name}`, '--tests'], { stdio: 'inherit' });
    fs.writeFileSync(path.join(OUT, `${name}-${target.name}-worker.js`), WORKER(`${name}-${target.name}`));
  }
  assert.equal(built.length, files.length);
}

/** Compiles all. */
export function build() {
  fs.rmSync(OUT, { recursive: true, force: true });
  execFileSync('cargo', ['build', '--locked', '-p', 'foreword-bindgen'], { cwd: ROOT, stdio: 'inherit' });
  for (const [name, build] of Object.entries(BUILDS)) compile(name, build);
}
