// Builds the package into dist/: three builds of the core, what compiles grammars, scripts, types. `--js` leaves
// these files as they are; names of builds make only these anew: `node build.mjs relaxed`.
import { spawnSync } from 'node:child_process';
import crypto from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import zlib from 'node:zlib';
import { HUB_URL } from '@huggingface/hub';
import * as esbuild from 'esbuild';
import { notices } from './notices.mjs';

const here = import.meta.dirname;
const root = path.resolve(here, '..');
const at = (...parts) => path.join(here, ...parts);
const KiB = 1024;

// What a page may be made to download, in bytes.
const BUDGET = { wasm: 2_300_000, wasmBrotli: 580_000, js: 60 * KiB };

/** What can be imported beside the package itself, as `foreword/prompt-api`. */
const EXTRAS = ['ai-sdk', 'prompt-api'];

/** A shared memory is an import, and every thread sets up its own thread-local variables and stack in it. */
const SHARED = ['--shared-memory', '--import-memory', '--max-memory=4294967296']
  .concat(['__wasm_init_tls', '__tls_size', '__tls_align', '__tls_base', '__heap_base'].map((name) => `--export=${name}`))
  .map((arg) => `-Clink-arg=${arg}`);

// Each build makes its own standard library: the one that comes with Rust has no atomics, and sorts by code that takes 100 KB
// here. That option of Cargo is one for nightly compilers, which RUSTC_BOOTSTRAP=1 opens in a stable one.
const STD = ['-Zbuild-std=std,panic_abort', '-Zbuild-std-features=optimize_for_size'];
// What a page downloads counts. A panic is a trap and says nothing, which takes the texts of all out of the files, 16 KB with Brotli;
// and inlined is what asks for it, as kernels do, and not what merely could be, 25 KB.
const SMALL = ['-Cpanic=immediate-abort', '-Zunstable-options', '-Cllvm-args=-inline-threshold=5'];
const SIMD = ['-Ctarget-feature=+simd128,+bulk-memory', ...SMALL];

const BUILDS = {
  simd: { crate: 'foreword-web', flags: SIMD, cargo: [] },
  // Fetched only where WebGPU is asked for; the processor computes there only while a lost GPU is opened anew, so its kernels are
  // small, too.
  webgpu: {
    crate: 'foreword-web',
    flags: SIMD,
    cargo: ['--features', 'webgpu', '--config', 'profile.wasm.package.foreword.opt-level="z"'],
  },
  relaxed: {
    crate: 'foreword-web',
    flags: ['-Ctarget-feature=+simd128,+relaxed-simd,+atomics,+bulk-memory,+mutable-globals', ...SMALL, ...SHARED],
    cargo: [],
  },
  // Fetched with the first request that says what its answer has to look like.
  grammar: { crate: 'foreword-constrain', flags: SIMD, cargo: [] },
};

function run(command, args, options = {}) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed: ${error ?? `status ${status}`}`);
}

function buildCore(names) {
  const target = path.resolve(root, process.env.CARGO_TARGET_DIR ?? 'target');
  run('rustup', ['target', 'add', 'wasm32-unknown-unknown']);
  run('rustup', ['component', 'add', 'rust-src']);
  run('cargo', ['build', '--locked', '-p', 'foreword-bindgen']);
  for (const name of names) {
    const { crate, flags, cargo } = BUILDS[name];
    const args = ['rustc', '--locked', '-p', crate, '--lib', '--crate-type', 'cdylib', '--profile', 'wasm', '--target', 'wasm32-unknown-unknown'];
    run('cargo', [...args, ...STD, ...cargo], { env: { ...process.env, RUSTC_BOOTSTRAP: '1', RUSTFLAGS: flags.join(' ') } });
    const wasm = path.join(target, `wasm32-unknown-unknown/wasm/${crate.replaceAll('-', '_')}.wasm`);
    run(path.join(target, 'debug/foreword-bindgen'), [wasm, at('build'), name]);
    if (name === 'grammar') makeFactory(at('build', 'grammar.js'));
  }
}

/** Makes a function of a script of wasm-bindgen's: what a call returns has an instance of its own, so that one may trap. */
function makeFactory(file) {
  const script = fs.readFileSync(file, 'utf8');
  const inner = script.replace(/^export (?=class|function)/gm, '').replace(/^export \{[^}]*\};$/m, 'return { initSync, Vocabulary };');
  fs.writeFileSync(file, `export default function instance() {\n${inner}}\n`);
}

async function buildScripts() {
  fs.rmSync(at('dist'), { recursive: true, force: true });
  fs.mkdirSync(at('dist'), { recursive: true });
  const integrity = (name) => `sha384-${crypto.createHash('sha384').update(fs.readFileSync(at('build', `${name}_bg.wasm`))).digest('base64')}`;
  const hashes = Object.fromEntries(Object.keys(BUILDS).map((name) => [name, integrity(name)]));
  const define = { HUB_URL: JSON.stringify(HUB_URL), WASM_INTEGRITY: JSON.stringify(hashes) };
  const common = { bundle: true, format: 'esm', target: 'es2022', minify: true, legalComments: 'none', define, logLevel: 'warning' };
  // Three files that share nothing: bundlers that meet a worker want it in one piece.
  for (const name of ['index', 'worker', 'thread']) {
    await esbuild.build({ ...common, entryPoints: [at('src', `${name}.ts`)], outfile: at('dist', `${name}.js`) });
  }
  // Ways to a model that is loaded by the package itself.
  for (const name of EXTRAS) {
    await esbuild.build({ ...common, entryPoints: [at('src', `${name}.ts`)], outfile: at('dist', `${name}.js`), external: ['./index.js'] });
  }
  await esbuild.build({ ...common, format: 'iife', entryPoints: [at('src/coi.ts')], outfile: at('dist/coi.js') });
  fs.copyFileSync(at('src/models.json'), at('dist/models.json'));
  for (const name of Object.keys(BUILDS)) fs.copyFileSync(at('build', `${name}_bg.wasm`), at('dist', `${name}.wasm`));
  fs.copyFileSync(path.join(root, 'LICENSE'), at('LICENSE'));
  fs.writeFileSync(at('dist/THIRD-PARTY.txt'), notices());
  buildTypes();
}

/** Declarations of what can be imported, without the package's inner ones. */
function buildTypes() {
  run(process.execPath, [at('node_modules/typescript/bin/tsc'), '-p', at('tsconfig.json')]);
  const reached = new Set();
  const visit = (name) => {
    if (reached.has(name)) return;
    reached.add(name);
    for (const [, next] of fs.readFileSync(at('dist', name), 'utf8').matchAll(/from '\.\/([\w-]+)\.js'/g)) visit(`${next}.d.ts`);
  };
  for (const name of ['index', ...EXTRAS]) visit(`${name}.d.ts`);
  for (const name of fs.readdirSync(at('dist'))) if (name.endsWith('.d.ts') && !reached.has(name)) fs.rmSync(at('dist', name));
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

const named = Object.keys(BUILDS).filter((name) => process.argv.includes(name));
if (!process.argv.includes('--js')) buildCore(named.length ? named : Object.keys(BUILDS));
await buildScripts();
checkBudget();
