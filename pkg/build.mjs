// Builds the package into dist/: three builds of the core, three scripts, types. `--js` leaves the core as it is.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import zlib from 'node:zlib';
import { HUB_URL } from '@huggingface/hub';
import * as esbuild from 'esbuild';

const here = import.meta.dirname;
const root = path.resolve(here, '..');
const at = (...parts) => path.join(here, ...parts);
const KiB = 1024;

// What a page may be made to download, in bytes.
const BUDGET = { wasm: 2_500_000, wasmBrotli: 900 * KiB, js: 60 * KiB };

/** A shared memory is an import, and every thread sets up its own thread-local variables and stack in it. */
const SHARED = ['--shared-memory', '--import-memory', '--max-memory=4294967296']
  .concat(['__wasm_init_tls', '__tls_size', '__tls_align', '__tls_base', '__heap_base'].map((name) => `--export=${name}`))
  .map((arg) => `-Clink-arg=${arg}`);

// The standard library that comes with Rust has no atomics, so the build with threads makes its own; that option of Cargo
// is one for nightly compilers, which RUSTC_BOOTSTRAP=1 opens in a stable one.
const BUILDS = {
  simd: { flags: ['-Ctarget-feature=+simd128,+bulk-memory'], cargo: [], env: {} },
  // Fetched only where WebGPU is asked for.
  webgpu: { flags: ['-Ctarget-feature=+simd128,+bulk-memory'], cargo: ['--features', 'webgpu'], env: {} },
  relaxed: {
    flags: ['-Ctarget-feature=+simd128,+relaxed-simd,+atomics,+bulk-memory,+mutable-globals', ...SHARED],
    cargo: ['-Zbuild-std=std,panic_abort'],
    env: { RUSTC_BOOTSTRAP: '1' },
  },
};

function run(command, args, options = {}) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed: ${error ?? `status ${status}`}`);
}

function buildCore() {
  const target = path.resolve(root, process.env.CARGO_TARGET_DIR ?? 'target');
  run('rustup', ['target', 'add', 'wasm32-unknown-unknown']);
  run('rustup', ['component', 'add', 'rust-src']);
  run('cargo', ['build', '--locked', '-p', 'foreword-bindgen']);
  for (const [name, { flags, cargo, env }] of Object.entries(BUILDS)) {
    const args = ['build', '--locked', '-p', 'foreword-web', '--profile', 'wasm', '--target', 'wasm32-unknown-unknown'];
    run('cargo', [...args, ...cargo], { env: { ...process.env, ...env, RUSTFLAGS: flags.join(' ') } });
    const wasm = path.join(target, 'wasm32-unknown-unknown/wasm/foreword_web.wasm');
    run(path.join(target, 'debug/foreword-bindgen'), [wasm, at('build'), name]);
  }
}

async function buildScripts() {
  fs.rmSync(at('dist'), { recursive: true, force: true });
  fs.mkdirSync(at('dist'), { recursive: true });
  const common = { bundle: true, format: 'esm', target: 'es2022', minify: true, legalComments: 'none', define: { HUB_URL: JSON.stringify(HUB_URL) }, logLevel: 'warning' };
  // Three files that share nothing: bundlers that meet a worker want it in one piece.
  for (const name of ['index', 'worker', 'thread']) {
    await esbuild.build({ ...common, entryPoints: [at('src', `${name}.ts`)], outfile: at('dist', `${name}.js`) });
  }
  await esbuild.build({ ...common, format: 'iife', entryPoints: [at('src/coi.ts')], outfile: at('dist/coi.js') });
  fs.copyFileSync(at('src/models.json'), at('dist/models.json'));
  for (const name of Object.keys(BUILDS)) fs.copyFileSync(at('build', `${name}_bg.wasm`), at('dist', `${name}.wasm`));
  run(process.execPath, [at('node_modules/typescript/bin/tsc'), '-p', at('tsconfig.json')]);
}

function checkBudget() {
  const brotli = (file) => zlib.brotliCompressSync(fs.readFileSync(at('dist', file))).length;
  let js = 0;
  for (const file of fs.readdirSync(at('dist')).filter((f) => /\.(js|wasm)$/.test(f))) {
    const [size, small] = [fs.statSync(at('dist', file)).size, brotli(file)];
    console.log(`${file.padEnd(14)} ${(size / KiB).toFixed(0).padStart(6)} KiB ${(small / KiB).toFixed(0).padStart(5)} KiB with Brotli`);
    if (file.endsWith('.js')) js += small;
    else if (size > BUDGET.wasm || small > BUDGET.wasmBrotli) throw new Error(`${file} is over its budget`);
  }
  if (js > BUDGET.js) throw new Error(`the scripts take ${js} bytes, over their budget`);
}

if (!process.argv.includes('--js')) buildCore();
await buildScripts();
checkBudget();
