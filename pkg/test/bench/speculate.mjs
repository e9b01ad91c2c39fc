// Plain decoding and `speculate: 'auto'` in the browser, category by category. Only the time from the first token to the last counts.
//   node test/bench/speculate.mjs PROMPTS.jsonl [--per-category 3] [--tokens 64] [--temperature 0] [--threads 2]
// Lines are Spec-Bench's: {category, turns}; the first turn is asked.
import fs from 'node:fs';
import { parseArgs } from 'node:util';
import { HOUR_MS, inPage, launch, withPage } from '../browser.mjs';
import { start } from '../server.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    'per-category': { type: 'string', default: '3' },
    tokens: { type: 'string', default: '64' },
    temperature: { type: 'string', default: '0' },
    threads: { type: 'string', default: '2' },
  },
});
const [tokens, temperature, threads] = [values.tokens, values.temperature, values.threads].map(Number);
const lines = fs.readFileSync(positionals[0], 'utf8').split('\n').filter(Boolean).map((line) => JSON.parse(line));
const prompts = (name) => lines.filter(({ category }) => category === name).map(({ turns }) => turns[0]).slice(0, Number(values['per-category']));
const categories = [...new Set(lines.map(({ category }) => category))];

/** Runs in the page: loads the model, and lets the browser compile what is hot. */
async function load(Foreword, { threads }) {
  const model = (globalThis.model = await Foreword.load('/smol.gguf', { backend: 'cpu', threads, contextLength: 4096, speculate: 'auto' }));
  for (const speculate of [false, true]) await model.completions.create({ prompt: 'one two three four. '.repeat(12), speculate, temperature: 0, max_tokens: 64, ignore_eos: true });
  return model.info;
}

/** Runs in the page: one answer. The first of a prompt leaves it in the cache for the others. */
async function answer(_, request) {
  const { choices, usage } = await globalThis.model.chat.completions.create(request);
  const details = usage.completion_tokens_details;
  return {
    text: choices[0].message.content,
    // What the first token took is reading.
    tokens: usage.completion_tokens - 1,
    forwards: details.forwards - 1,
    ms: usage.timings.decode_ms,
    accepted: details.accepted_prediction_tokens,
    guessed: details.accepted_prediction_tokens + details.rejected_prediction_tokens,
  };
}

/** The answers to one prompt: plain ones before and after, so that a machine that grows slower is no advantage to anyone. */
async function measure(page, prompt, seed) {
  const request = { messages: [{ role: 'user', content: prompt }], max_tokens: tokens, temperature, seed };
  const runs = [];
  for (const speculate of [false, true, false]) {
    const run = await inPage(page, answer, { ...request, speculate });
    if (run.code) throw new Error(run.message);
    runs.push(run);
  }
  return { plain: [runs[0], runs[2]], auto: [runs[1]], same: runs.every((run) => run.text === runs[0].text) };
}

const sum = (runs, key) => runs.reduce((n, run) => n + run[key], 0);

function summary(name, answers) {
  const [plain, auto] = ['plain', 'auto'].map((way) => answers.flatMap((a) => a[way]));
  const speed = (runs) => (1000 * sum(runs, 'tokens')) / sum(runs, 'ms');
  return {
    name,
    answers: answers.length,
    perForward: sum(auto, 'tokens') / sum(auto, 'forwards'),
    accepted: sum(auto, 'accepted') / (sum(auto, 'guessed') || 1),
    plain: speed(plain),
    speedup: speed(auto) / speed(plain),
    different: answers.filter((a) => !a.same).length,
  };
}

const [browser, server] = await Promise.all([launch(), start()]);
try {
  const rows = await withPage(browser, server.url, async (page) => {
    const info = await inPage(page, load, { threads });
    if (info.code) throw new Error(info.message);
    console.error(`${info.device}, ${info.threads} threads`);
    const rows = [];
    for (const name of categories) {
      const answers = [];
      for (const [i, prompt] of prompts(name).entries()) answers.push(await measure(page, prompt, i));
      rows.push(summary(name, answers));
      console.error(`${name} done`);
    }
    return rows;
  }, undefined, HOUR_MS);
  console.log('| category | answers | tokens a forward | accepted | plain tok/s | speed-up |\n|---|---|---|---|---|---|');
  for (const r of rows) console.log(`| ${r.name} | ${r.answers} | ${r.perForward.toFixed(2)} | ${(100 * r.accepted).toFixed(0)} % | ${r.plain.toFixed(1)} | ${r.speedup.toFixed(2)} x |`);
  console.log(`\nMean speed-up of the categories: ${(sum(rows, 'speedup') / rows.length).toFixed(2)} x`);
  const different = sum(rows, 'different');
  if (temperature === 0) console.log(`Prompts whose answers differ: ${different} of ${sum(rows, 'answers')}`);
  if (temperature === 0 && different) process.exitCode = 1;
} finally {
  await browser.close();
  server.close();
}
