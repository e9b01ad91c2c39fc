// The first word of a page with an empty cache over links of several speeds, with and without an opener, and how far the estimate of the
// model's speed was off: SmolLM2 135M as the opener of Gemma 3 270M.
//   node pkg/test/bench/ladder.mjs [MBIT_A_SECOND …]
import { HOUR_MS, inPage, launch, withPage } from '../browser.mjs';
import { start } from '../server.mjs';

const links = process.argv.length > 2 ? process.argv.slice(2).map(Number) : [20, 50, 200];
const server = await start();
const browser = await launch();

async function measure(Foreword, { rate, opener }) {
  const begun = performance.now();
  const since = () => ((performance.now() - begun) / 1000).toFixed(1);
  const model = await Foreword.load(`/gemma.gguf?rate=${rate}`, { contextLength: 1024, ...(opener && { opener: `/smol.gguf?rate=${rate}` }) });
  const own = { prompt: 'Once upon a time there was', max_tokens: 48, temperature: 0, ignore_eos: true };
  const stream = await model.completions.create({ ...own, stream: true });
  let first;
  for await (const _ of stream) first ??= since();
  const estimate = opener && (await Foreword.estimate(`/gemma.gguf?rate=${rate}`));
  await model.ready;
  const ready = since();
  const { timings } = (await model.completions.create(own)).usage;
  await model.dispose();
  return { first, ready, ...(opener && { estimated: estimate.tokensPerSecond?.toFixed(1), measured: timings.decode_tok_s.toFixed(1) }) };
}

for (const mbit of links) {
  for (const opener of [true, false]) {
    const result = await withPage(browser, server.url, (page) => inPage(page, measure, { rate: (mbit * 1e6) / 8, opener }), undefined, HOUR_MS);
    console.log(`${mbit} Mbit/s, ${opener ? 'with' : 'without'} opener:`, JSON.stringify(result));
  }
}
await browser.close();
server.close();
