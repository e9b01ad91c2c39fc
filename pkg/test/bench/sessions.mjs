// A chat of 4,096 tokens with SmolLM2 after a reload: read again, and opened from the origin-private file system; then with the command line.
//   node test/bench/sessions.mjs [--tokens 4096] [--threads 2] [--reps 3] [--foreword target/release/foreword]
// The first word of the next turn is counted in: with a session it is what opening takes, and reading the new message.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { HOUR_MS, inPage, launch, withPage } from '../browser.mjs';
import { modelPath, start } from '../server.mjs';

const { values } = parseArgs({
  options: {
    tokens: { type: 'string', default: '4096' },
    threads: { type: 'string', default: '2' },
    reps: { type: 'string', default: '3' },
    foreword: { type: 'string' },
  },
});
const tokens = Number(values.tokens);
const threads = Number(values.threads);
const reps = Number(values.reps);
const median = (list) => list.sort((a, b) => a - b)[list.length >> 1];

/** Runs in a page: has a chat of so many tokens, and keeps it. */
async function keep(Foreword, { tokens, threads }) {
  const model = await Foreword.load('/smol.gguf', { threads, contextLength: tokens + 128 });
  const words = await model.detokenize(Array.from({ length: tokens - 40 }, (_, i) => 1000 + ((i * 7919) % 20_000)));
  const messages = [{ role: 'user', content: words }];
  while ((await model.countTokens({ messages })) > tokens) messages[0].content = messages[0].content.slice(0, -50);
  const { choices, usage } = await model.chat.completions.create({ messages, max_tokens: 1 });
  messages.push(choices[0].message);
  const begun = performance.now();
  const { bytes } = await model.sessions.save('bench', { messages });
  return { messages, bytes, readMs: usage.timings.ttft_ms, read: usage.prompt_tokens, saveMs: performance.now() - begun };
}

/** Runs in another page: goes on with the chat. */
async function reopen(Foreword, { tokens, threads, messages }) {
  const model = await Foreword.load('/smol.gguf', { threads, contextLength: tokens + 128 });
  const begun = performance.now();
  const opened = await model.sessions.open('bench');
  const openMs = performance.now() - begun;
  const { usage } = await model.chat.completions.create({ messages: [...messages, { role: 'user', content: 'Go on.' }], max_tokens: 1 });
  return { openMs, tokens: opened.tokens, cached: usage.prompt_tokens_details.cached_tokens, wordMs: usage.timings.ttft_ms };
}

const [browser, server] = await Promise.all([launch(), start()]);
try {
  await withPage(browser, server.url, async (page) => {
    const args = { tokens, threads };
    const runs = { keep: [], reopen: [] };
    const run = async (job, more = {}) => {
      await page.reload();
      const result = await inPage(page, job, { ...args, ...more });
      if (result.code) throw new Error(result.message);
      return result;
    };
    // The first round warms up.
    for (let round = 0; round <= reps; round++) {
      const kept = await run(keep);
      const opened = await run(reopen, { messages: kept.messages });
      if (round) (runs.keep.push(kept), runs.reopen.push(opened));
    }
    const of = (name, key) => Math.round(median(runs[name].map((r) => r[key])));
    const [{ bytes, read }, { tokens: known, cached }] = [runs.keep[0], runs.reopen[0]];
    console.log(`Chromium, ${threads} threads, ${read} tokens; the session has ${known}, of which the next turn used ${cached}, in ${(bytes / 2 ** 20).toFixed(1)} MiB`);
    console.log(`| reading | saving | opening | next first word, opened |\n|---|---|---|---|\n| ${of('keep', 'readMs')} ms | ${of('keep', 'saveMs')} ms | ${of('reopen', 'openMs')} ms | ${of('reopen', 'wordMs')} ms |`);
  }, undefined, HOUR_MS);
} finally {
  await browser.close();
  server.close();
}

if (values.foreword) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'sessions-'));
  const [kept, file] = ['kept', 'again'].map((name) => path.join(folder, name));
  const chat = (session, input) => {
    const args = ['chat', modelPath('smol.gguf'), '--context', String(tokens + 128), '--threads', String(threads), '--max-tokens', '1', '--session', session];
    return spawnSync(values.foreword, args, { input: `${input}\n`, encoding: 'utf8' }).stderr;
  };
  try {
    const first = chat(kept, 'one two three four five six seven eight nine ten '.repeat((tokens - 40) / 10));
    const [, readMs, read] = /first word after (\d+) ms \((\d+) prompt tokens/.exec(first);
    const opened = Array.from({ length: reps + 1 }, () => {
      fs.copyFileSync(kept, file);
      return Number(/ tokens in (\d+) ms/.exec(chat(file, 'Go on.'))[1]);
    });
    console.log(`\nforeword chat --session, ${threads} threads: ${read} tokens are read in ${readMs} ms, opened in ${median(opened.slice(1))} ms`);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}
