// Chromium for tests.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { chromium } from 'playwright-core';

const QUIET = ['--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run', '--disable-quic'];

/** Options of a browser whose GPU is a software one. */
export const GPU = ['--headless=new', '--no-sandbox', ...QUIET, '--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', '--enable-features=Vulkan'];

export function launch(options = {}) {
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
  return chromium.launch({ executablePath, args: ['--headless=new', '--no-sandbox', ...QUIET], ...options });
}

/** A test that takes longer hangs: slow machines need a minute or two. */
const PATIENCE_MS = 300_000;
/** For benchmarks. */
export const HOUR_MS = 3_600_000;

/**
 * Waits until `read` gives `expected` (a value, or a pattern): what an action leads to is seen some time after it, on a busy machine
 * later. An assertion that follows an action goes through here.
 */
export async function until(read, expected, patience = 60_000) {
  const deadline = Date.now() + patience;
  const fits = (seen) => (expected instanceof RegExp ? expected.test(seen) : isDeepStrictEqual(seen, expected));
  let seen = await read();
  while (!fits(seen) && Date.now() < deadline) {
    await new Promise((go) => setTimeout(go, 50));
    seen = await read();
  }
  if (expected instanceof RegExp) assert.match(String(seen), expected);
  else assert.deepEqual(seen, expected);
}

/** A page in a fresh profile; what `job` throws in it arrives here as `{code, message}`. */
export async function withPage(browser, url, job, context, patience = PATIENCE_MS) {
  const fresh = context ?? (await browser.newContext());
  const page = await fresh.newPage();
  page.setDefaultTimeout(120_000);
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(reject, patience, new Error(`not done after ${patience / 1000} s`))));
  try {
    await page.goto(url);
    return await Promise.race([job(page, fresh), late]);
  } finally {
    clearTimeout(timer);
    await (context ? page.close() : fresh.close());
  }
}

/** Runs a function in the page with the package; an error of the package becomes `{code, message}`. */
export function inPage(page, body, args = {}) {
  return page.evaluate(
    async ([source, values]) => {
      const { Foreword } = await import('/dist/index.js');
      try {
        return await new Function('Foreword', 'args', `return (${source})(Foreword, args)`)(Foreword, values);
      } catch (error) {
        return { code: error.code ?? error.name, message: error.message };
      }
    },
    [body.toString(), args],
  );
}

/**
 * Runs `code` first in every worker that the page starts, and `inner` in those that these start: to take from them what some
 * browsers lack.
 */
export function inWorkers(page, code, inner) {
  const wrap = (before) => `(${wrapWorkers})(${JSON.stringify(before)});`;
  return page.addInitScript(wrap(inner ? wrap(inner) + code : code));
}

function wrapWorkers(before) {
  const Original = Worker;
  globalThis.Worker = class extends Original {
    constructor(url, options) {
      // The import comes after the code, which a static one would not; messages that arrive meanwhile are kept.
      const script = `
        const early = []; const keep = (event) => early.push(event.data); addEventListener('message', keep);
        ${before};
        import(${JSON.stringify(new URL(url, location.href).href)}).then(() => {
          removeEventListener('message', keep);
          early.forEach((data) => dispatchEvent(new MessageEvent('message', { data })));
        });`;
      super(URL.createObjectURL(new Blob([script], { type: 'text/javascript' })), options);
    }
  };
}

/** What the processes of this test's browsers have (Linux): memory that only they have, in bytes, and threads of workers. */
export function browserUsage() {
  const read = (path) => {
    try {
      return fs.readFileSync(path, 'utf8');
    } catch {
      return ''; // It ended meanwhile.
    }
  };
  const processes = fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map((pid) => {
    const status = read(`/proc/${pid}/status`);
    const number = (key) => Number(new RegExp(`^${key}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0);
    return { pid: Number(pid), parent: number('PPid'), bytes: number('RssAnon') * 1024 };
  });
  const ours = new Set([process.pid]);
  for (let before = 0; before < ours.size; ) {
    before = ours.size;
    for (const { pid, parent } of processes) if (ours.has(parent)) ours.add(pid);
  }
  ours.delete(process.pid);
  const threads = (pid) => {
    try {
      return fs.readdirSync(`/proc/${pid}/task`);
    } catch {
      return [];
    }
  };
  const isWorker = (pid, thread) => read(`/proc/${pid}/task/${thread}/comm`).startsWith('DedicatedWorker');
  return {
    bytes: processes.filter(({ pid }) => ours.has(pid)).reduce((sum, { bytes }) => sum + bytes, 0),
    workers: [...ours].reduce((sum, pid) => sum + threads(pid).filter((thread) => isWorker(pid, thread)).length, 0),
  };
}
