// Runs all tests of the package, one file after the other: they load models, and would only slow each other down.
//   node test/run.mjs [FILE …] [--test-name-pattern=PATTERN]
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

const here = import.meta.dirname;
const wanted = process.argv.slice(2).filter((arg) => !arg.startsWith('-'));
const options = process.argv.slice(2).filter((arg) => arg.startsWith('--test'));
const files = fs.readdirSync(here).filter((name) => name.endsWith('.test.mjs') && (!wanted.length || wanted.some((w) => name.includes(w))));
// The limit is one for a whole file, and there so that a test that hangs ends at all: slow machines need some minutes.
const args = ['--test', '--test-concurrency=1', '--test-timeout=900000', '--test-reporter=spec', ...options, ...files.map((name) => path.join(here, name))];
process.exit(spawnSync(process.execPath, args, { stdio: 'inherit' }).status ?? 1);
