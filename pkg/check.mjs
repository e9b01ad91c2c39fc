// Checks the built package: its types against openai's, its tarball against what bundlers and compilers expect of one.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

const here = import.meta.dirname;
const at = (...parts) => path.join(here, ...parts);
const bin = (name, ...args) => run(at('node_modules/.bin', name), args);

function run(command, args, stdio = 'inherit') {
  const { status } = spawnSync(command, args, { cwd: here, stdio });
  if (status !== 0) process.exitCode = 1;
}

if (!['dist/index.d.ts', 'node_modules/openai', 'node_modules/publint'].every((name) => fs.existsSync(at(name)))) {
  console.error('note: only the sources were checked; npm ci and npm run build make what else there is to check');
  process.exit();
}
for (const project of ['tsconfig.json', 'plain.tsconfig.json']) bin('tsc', '-p', at('test/types', project));
bin('publint', '--strict', '--pack', 'npm');
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'foreword-pack-'));
run('npm', ['pack', '--silent', '--pack-destination', folder], 'ignore');
const [tarball] = fs.readdirSync(folder);
bin('attw', path.join(folder, tarball), '--profile', 'esm-only', '--quiet', '--exclude-entrypoints', 'models.json', 'coi.js', 'worker.js', 'thread.js');
fs.rmSync(folder, { recursive: true });
