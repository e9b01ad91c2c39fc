// What masks cost in the browser: the time of a forward in answers that have a form, and in answers of any form, in turns. The forms
// leave nearly every token open, since a forced token takes no forward of its own.
//   node test/bench/constrain.mjs [--tokens 100] [--threads 2] [--reps 3]
import { parseArgs } from 'node:util';
import { HOUR_MS, inPage, launch, withPage } from '../browser.mjs';
import { start } from '../server.mjs';

const options = { tokens: { type: 'string', default: '100' }, threads: { type: 'string', default: '2' }, reps: { type: 'string', default: '3' } };
const { values } = parseArgs({ options });
const [tokens, threads, reps] = [values.tokens, values.threads, values.reps].map(Number);

const schema = (schema) => ({ response_format: { type: 'json_schema', json_schema: { name: 'answer', strict: true, schema } } });
const FORMS = {
  'a long string': schema({ type: 'string', minLength: 1000 }),
  'integers': schema({ type: 'array', items: { type: 'integer', minimum: 0, maximum: 99999 }, minItems: 1000 }),
  'any members': schema({ type: 'object', additionalProperties: { type: ['string', 'number', 'boolean'], minLength: 20 }, minProperties: 100 }),
  'a regular expression': { regex: '([A-Z][a-z]+( [a-z]+)*[.] )*' },
};

/** Runs in the page: the time of a forward behind the first one, and the share of forced tokens. */
async function answer(Foreword, { threads, ...request }) {
  globalThis.model ??= await Foreword.load('/smol.gguf', { backend: 'cpu', threads, contextLength: 1024 });
  const { usage } = await globalThis.model.completions.create({ prompt: 'Here is a long one:\n', temperature: 0.8, seed: 1, ignore_eos: true, ...request });
  const details = usage.completion_tokens_details;
  return { ms: usage.timings.decode_ms / (details.forwards - 1), forced: details.forced_tokens / usage.completion_tokens };
}

const median = (numbers) => numbers.sort((a, b) => a - b)[numbers.length >> 1];
const [browser, server] = await Promise.all([launch(), start()]);
try {
  await withPage(browser, server.url, async (page) => {
    const run = async (form) => {
      const run = await inPage(page, answer, { threads, max_tokens: tokens, ...form });
      if (run.code) throw new Error(run.message);
      return run;
    };
    for (const form of [{}, ...Object.values(FORMS)]) await run(form);
    for (const [name, form] of Object.entries(FORMS)) {
      const [ratios, forced] = [[], []];
      for (let rep = 0; rep < reps; rep++) {
        const [before, with_, after] = [await run({}), await run(form), await run({})];
        ratios.push((2 * with_.ms) / (before.ms + after.ms));
        forced.push(with_.forced);
      }
      console.log(`${name}: a forward takes ${(100 * (median(ratios) - 1)).toFixed(1)} % longer (${(100 * median(forced)).toFixed(0)} % of the tokens forced)`);
    }
  }, undefined, HOUR_MS);
} finally {
  await browser.close();
  server.close();
}
