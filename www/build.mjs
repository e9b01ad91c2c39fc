// Builds the page into dist/, as any app that imports the package would.
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import * as esbuild from 'esbuild';

const here = import.meta.dirname;
const dist = path.join(here, 'dist');
const common = { bundle: true, format: 'esm', target: 'es2022', minify: true, legalComments: 'none', logLevel: 'warning' };

/** What the package loads by itself at run time lies beside the page's script. */
const PACKAGE = ['worker.js', 'thread.js', 'simd.wasm', 'relaxed.wasm', 'webgpu.wasm'];
/** Kept for offline use not before it has been asked for. */
const LATER = ['webgpu.wasm'];
const OWN = ['index.html', 'icon.svg', 'manifest.webmanifest'];

export async function build() {
  fs.rmSync(dist, { recursive: true, force: true });
  fs.mkdirSync(dist, { recursive: true });
  await esbuild.build({ ...common, entryPoints: [path.join(here, 'src/app.js'), path.join(here, 'src/app.css')], outdir: dist });
  for (const name of PACKAGE) fs.copyFileSync(path.join(here, 'node_modules/foreword/dist', name), path.join(dist, name));
  for (const name of OWN) fs.copyFileSync(path.join(here, name), path.join(dist, name));
  const files = fs.readdirSync(dist).sort();
  const hash = createHash('sha256');
  files.forEach((name) => hash.update(fs.readFileSync(path.join(dist, name))));
  const define = { FILES: JSON.stringify(['./', ...files.filter((name) => !LATER.includes(name))]), VERSION: JSON.stringify(hash.digest('hex').slice(0, 12)) };
  await esbuild.build({ ...common, entryPoints: [path.join(here, 'src/sw.js')], outfile: path.join(dist, 'sw.js'), define });
}

if (process.argv[1] === import.meta.filename) await build();
