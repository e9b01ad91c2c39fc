// Runs all tests of the package, each file in a process of its own. Most keep one core busy at a time, so that two files run side by side.
//   node test/run.mjs [FILE …] [--beside=FILE | --alone] [--test-name-pattern=PATTERN]
// `--beside` runs those that may run beside other work: one after the other, and two at a time once that file is there, which says
// that the other work is done. `--alone` runs the rest.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { build } from './core.mjs';
import { buildPage } from './demo.mjs';

const here = import.meta.dirname;
const of = (...names) => names.map((name) => `${name}.test.mjs`);
/** What has the machine to itself: what packs the package anew, trials by the clock, and clocks that run faster than others. */
const ALONE = of('apps', 'auto', 'repairs');
/** What looks at the demo page, which is built once for all of them. */
const OF_PAGE = of('chats', 'demo', 'ladder', 'page', 'served', 'sessions');
/** Those that take longest begin first, so that no lane is left with one of them. */
const FIRST = of('core', 'webgpu', 'package', 'page', 'downloads', 'chats', 'firefox', 'demo', 'prompt-api', 'shared', 'calls', 'ladder');

const wanted = process.argv.slice(2).filter((arg) => !arg.startsWith('-'));
const options = process.argv.slice(2).filter((arg) => arg.startsWith('--test'));
const alone = process.argv.includes('--alone');
const beside = process.argv.find((arg) => arg.startsWith('--beside='))?.slice('--beside='.length);
const isChosen = (name) => (!wanted.length || wanted.some((w) => name.includes(w))) && (ALONE.includes(name) ? !beside : !alone);
const files = fs.readdirSync(here).filter((name) => name.endsWith('.test.mjs') && isChosen(name));
if (files.includes('core.test.mjs')) build();
if (files.some((name) => OF_PAGE.includes(name))) {
  buildPage();
  process.env.FOREWORD_PAGE_BUILT = '1';
}

/** Runs a file; what it says comes in one piece. */
async function run(name) {
  const begun = Date.now();
  // The limit is one for a whole file, and there so that a test that hangs ends at all: slow machines need some minutes.
  const args = ['--test', '--test-timeout=900000', '--test-reporter=spec', ...options, path.join(here, name)];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (said += text));
  const status = await new Promise((resolve) => child.once('close', resolve));
  console.log(`${said}== ${name}: ${Math.round((Date.now() - begun) / 1000)} s${status === 0 ? '' : ', FAILED'}\n`);
  if (status !== 0) process.exitCode = 1;
}

/** The other work is done, or nothing is left to do beside it. */
async function isOver(queue) {
  while (beside && queue.length && !fs.existsSync(beside)) await setTimeout(1000);
}

async function lane(queue) {
  for (let name = queue.shift(); name; name = queue.shift()) await run(name);
}

const rank = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);
const together = files.filter((name) => !ALONE.includes(name)).sort((a, b) => rank(a) - rank(b));
await Promise.all([lane(together), isOver(together).then(() => lane(together))]);
await lane(files.filter((name) => ALONE.includes(name)));
