// Builds the page into dist/, as any app that imports the package would.
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import zlib from 'node:zlib';
import * as esbuild from 'esbuild';
import { noticesOf } from '../pkg/notices.mjs';
import { STRINGS } from './src/strings.js';

const here = import.meta.dirname;
const dist = path.join(here, 'dist');
const common = { bundle: true, format: 'esm', target: 'es2022', minify: true, legalComments: 'none', logLevel: 'warning' };

/** What the package loads by itself at run time lies beside the page's script. */
const PACKAGE = ['worker.js', 'thread.js', 'simd.wasm', 'relaxed.wasm', 'webgpu.wasm', 'grammar.wasm'];
/** Kept for offline use not before it has been asked for. */
const isLater = (name) => ['served.html', 'simd.wasm', 'webgpu.wasm', 'grammar.wasm'].includes(name) || /^(highlight|maths)-/.test(name);
/** What a page may be made to download before it is drawn, in bytes with Brotli. */
const BUDGET = 120 * 1024;
/** The documentation, where `npm --prefix www/site run build` has made it: the page links to it. */
const SITE = path.join(here, 'site/dist');
const OWN = ['index.html', 'icon.svg', 'manifest.webmanifest'];

export async function build() {
  fs.rmSync(dist, { recursive: true, force: true });
  fs.mkdirSync(dist, { recursive: true });
  const hasSite = fs.existsSync(SITE);
  await esbuild.build({ ...common, define: { HAS_SITE: String(hasSite) }, entryPoints: [path.join(here, 'src/app.js'), path.join(here, 'src/app.css')], outdir: dist, splitting: true, chunkNames: '[name]-[hash]' });
  for (const name of PACKAGE) fs.copyFileSync(path.join(here, 'node_modules/foreword/dist', name), path.join(dist, name));
  for (const name of OWN) fs.writeFileSync(path.join(dist, name), filled(fs.readFileSync(path.join(here, name), 'utf8')));
  writeServed();
  const files = fs.readdirSync(dist).sort();
  const hash = createHash('sha256');
  files.forEach((name) => hash.update(fs.readFileSync(path.join(dist, name))));
  const define = { FILES: JSON.stringify(['./', ...files.filter((name) => !isLater(name))]), VERSION: JSON.stringify(hash.digest('hex').slice(0, 12)) };
  const size = zlib.brotliCompressSync(fs.readFileSync(path.join(dist, 'app.js'))).length;
  if (size > BUDGET) throw new Error(`the page's script takes ${size} bytes, over its budget`);
  await esbuild.build({ ...common, entryPoints: [path.join(here, 'src/sw.js')], outfile: path.join(dist, 'sw.js'), define });
  writeNotices();
  if (hasSite) fs.cpSync(SITE, path.join(dist, 'site'), { recursive: true });
}

/** The page that `foreword serve` shows, whose models are the server's: what says so is the only difference. */
function writeServed() {
  const page = fs.readFileSync(path.join(dist, 'index.html'), 'utf8');
  const head = '<meta charset="utf-8" />';
  if (!page.includes(head)) throw new Error(`index.html has no ${head}`);
  fs.writeFileSync(path.join(dist, 'served.html'), page.replace(head, `${head}\n    <meta name="foreword-server" content="v1" />`));
}

/** What is shown before the script runs: by then no language is chosen. */
const filled = (text) => text.replace(/\{\{(\w+)\}\}/g, (_, key) => STRINGS[key].join(' · '));

function writeNotices() {
  const modules = path.join(here, 'node_modules');
  const { dependencies } = JSON.parse(fs.readFileSync(path.join(here, 'package.json'), 'utf8'));
  const names = Object.keys(dependencies).filter((name) => name !== 'foreword');
  const ofPackage = fs.readFileSync(path.join(modules, 'foreword/dist/THIRD-PARTY.txt'), 'utf8');
  fs.writeFileSync(path.join(dist, 'THIRD-PARTY.txt'), `${noticesOf(modules, names)}\n${ofPackage}`);
}

if (process.argv[1] === import.meta.filename) await build();
