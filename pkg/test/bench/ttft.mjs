// The first word of a long prompt in the browser: read exactly, predicted, and predicted with the exact reading behind it.
//   node test/bench/ttft.mjs [--prompt-tokens 512,1024] [--threads 2] [--reps 3] [--gpu]
// --gpu: on WebGPU, on the browser's software adapter.
import path from 'node:path';
import { parseArgs } from 'node:util';
import { GPU, HOUR_MS, inPage, launch, withPage } from '../browser.mjs';
import { PKG, start } from '../server.mjs';

const { values } = parseArgs({
  options: {
    'prompt-tokens': { type: 'string', default: '512,1024' },
    threads: { type: 'string', default: '2' },
    reps: { type: 'string', default: '3' },
    gpu: { type: 'boolean', default: false },
  },
});

/** Runs in the page; the modes take turns. */
async function measure(Foreword, { lengths, threads, reps, backend }) {
  const sidecar = await (await fetch('/models/smollm2-135m.sidecar.gguf')).blob();
  const model = await Foreword.load('/smol.gguf', { threads, backend, contextLength: Math.max(...lengths) + 64, sidecar, prefill: 'exact' });
  const modes = ['exact', 'fast', 'progressive'];
  const rows = [];
  let run = 1000;
  for (const length of lengths) {
    const times = Object.fromEntries(modes.map((mode) => [mode, []]));
    // The first round warms up.
    for (let round = 0; round <= reps; round++) {
      for (const prefill of modes) {
        // With a first token of its own, no run finds the beginning of an earlier one in the cache.
        const prompt = [run++, ...Array.from({ length: length - 1 }, (_, i) => (Math.imul(i, 2654435761) >>> 0) % 40_000)];
        const { usage } = await model.completions.create({ prompt, prefill, max_tokens: 2, temperature: 0, ignore_eos: true });
        if (round) times[prefill].push(usage.timings.ttft_ms);
      }
    }
    for (const mode of modes) rows.push({ device: model.info.device, prompt_tokens: length, mode, ttft_ms: times[mode].sort((a, b) => a - b)[reps >> 1] });
  }
  return rows;
}

const [browser, server] = await Promise.all([launch(values.gpu ? { args: GPU } : {}), start({ folders: { models: path.join(PKG, '../models') } })]);
try {
  const args = { lengths: values['prompt-tokens'].split(',').map(Number), threads: Number(values.threads), reps: Number(values.reps), backend: values.gpu ? 'webgpu' : 'cpu' };
  const rows = await withPage(browser, server.url, (page) => inPage(page, measure, args), undefined, HOUR_MS);
  if (rows.code) throw new Error(rows.message);
  console.log('| device | prompt tokens | mode | first word ms | of exact |\n|---|---|---|---|---|');
  for (const r of rows) {
    const exact = rows.find((o) => o.mode === 'exact' && o.prompt_tokens === r.prompt_tokens);
    console.log(`| ${r.device} | ${r.prompt_tokens} | ${r.mode} | ${Math.round(r.ttft_ms)} | ${(r.ttft_ms / exact.ttft_ms).toFixed(2)} |`);
  }
} finally {
  await browser.close();
  server.close();
}
