/** Measuring. */
import { load } from '../models/actions.js';
import { setError } from '../shell/actions.js';
import { changed, saveSettings, state } from '../state.js';
import { t } from '../strings.js';

/** Takes another backend, and loads the model again for it. */
export async function runOn(backend) {
  state.settings.backend = backend;
  void saveSettings();
  await load(state.source, state.modelName, state.view);
}

/** The standard benchmark. */
export async function runBench() {
  const { bench, model } = state;
  Object.assign(bench, { running: true, copied: false });
  changed();
  try {
    bench.result = { model: state.modelName, ...(await model.benchmark({ promptTokens: 512, genTokens: 64, reps: 3 })) };
    bench.kernels = (await model.stats()).kernels ?? null;
  } catch (error) {
    setError(t.error(error));
  }
  bench.running = false;
  changed();
}

/** The benchmark's result as a Markdown table. */
export function benchMarkdown(r) {
  return [
    `| ${t.benchColumns.join(' | ')} |`,
    '|---|---|---|---|---|---|---|',
    `| ${r.model} | ${r.backend} (${r.device}) | ${r.threads} | ${r.prefill_tok_s.toFixed(1)} | ${r.decode_tok_s.toFixed(1)} | ${r.ttft_ms.toFixed(0)} ms | ${r.load_ms.toFixed(0)} ms |`,
    '',
    `${t.benchOf(r.prompt_tokens, r.gen_tokens)}; ${navigator.userAgent}`,
  ].join('\n');
}
