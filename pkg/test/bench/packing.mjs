// Ways to read many prompts, in the browser: padded, sorted by length and padded, one at a time, prepacked.
//   node test/bench/packing.mjs PROMPTS.jsonl [--batch 8,16,32] [--batches 4] [--longest 64] [--threads 2]
import fs from 'node:fs';
import { parseArgs } from 'node:util';
import { HOUR_MS, inPage, launch, withPage } from '../browser.mjs';
import { start } from '../server.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    batch: { type: 'string', default: '8,16,32' },
    batches: { type: 'string', default: '4' },
    longest: { type: 'string', default: '64' },
    threads: { type: 'string', default: '2' },
  },
});
const lines = fs.readFileSync(positionals[0], 'utf8').split('\n').filter(Boolean).map((line) => JSON.parse(line));
const texts = lines.map((line) => (typeof line === 'string' ? line : (line.prompt ?? line.question ?? line.text ?? line.turns[0])));

/** Runs in the page. The ways take turns, and another one begins every time. */
async function measure(Foreword, { texts, size, batches, longest, threads }) {
  const model = await Foreword.load('/smol.gguf', { threads, contextLength: 2048 });
  const all = (await Promise.all(texts.map((text) => model.tokenize(text)))).filter((p) => p.length && p.length <= longest);
  // A fixed random order, as they might come in.
  let state = 1;
  const random = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
  const prompts = all.map((p) => [random(), p]).sort((a, b) => a[0] - b[0]).map(([, p]) => p).slice(0, size * batches);
  const sorted = [...prompts].sort((a, b) => a.length - b.length);
  // No run may find the beginnings of an earlier one in the cache: each has a first token of its own.
  let run = 1000;
  const fresh = (batch) => (run++, batch.map((p) => [run, ...p.slice(1)]));
  const pad = (batch) => {
    const most = Math.max(...batch.map((p) => p.length));
    return batch.map((p) => [...p, ...Array(most - p.length).fill(11)]);
  };
  const read = (prompt) => model.completions.create({ prompt, max_tokens: 1, temperature: 0, ignore_eos: true });
  const together = (batch) => read(fresh(batch));
  const alone = async (batch) => {
    for (const prompt of fresh(batch)) await read(prompt);
  };
  const ways = { padded: [prompts, (b) => together(pad(b))], length_sorted: [sorted, (b) => together(pad(b))], one_at_a_time: [prompts, alone], prepacked: [prompts, together] };
  const names = Object.keys(ways);
  const ms = Object.fromEntries(names.map((name) => [name, 0]));
  await together(prompts.slice(0, size));
  for (let at = 0; at < prompts.length; at += size) {
    for (let i = 0; i < names.length; i++) {
      const name = names[(at / size + i) % names.length];
      const [from, go] = ways[name];
      const begun = performance.now();
      await go(from.slice(at, at + size));
      ms[name] += performance.now() - begun;
    }
  }
  const tokens = prompts.reduce((n, p) => n + p.length, 0);
  return names.map((method) => ({ method, backend: model.info.device, threads: model.info.threads, batch: size, prompt_tok_s: Math.round((tokens / ms[method]) * 1000) }));
}

const [browser, server] = await Promise.all([launch(), start()]);
try {
  for (const size of values.batch.split(',').map(Number)) {
    const args = { texts, size, batches: Number(values.batches), longest: Number(values.longest), threads: Number(values.threads) };
    const rows = await withPage(browser, server.url, (page) => inPage(page, measure, args), undefined, HOUR_MS);
    if (rows.message) throw new Error(rows.message);
    console.log(JSON.stringify({ rows }));
  }
} finally {
  await browser.close();
  server.close();
}
