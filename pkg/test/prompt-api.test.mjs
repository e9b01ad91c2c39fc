// `foreword/prompt-api` does what the Prompt API's specification says, in a real browser.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, until, withPage } from './browser.mjs';
import { start } from './server.mjs';

let browser, server;
before(async () => {
  [browser, server] = await Promise.all([launch(), start()]);
});
after(async () => {
  await browser?.close();
  server?.close();
});

/** A test in a fresh profile. `body(LanguageModel, failure)` runs in the page; `failure` says how a promise failed. */
const on = (name, body, expected, load = '/smol.gguf') =>
  test(name, () =>
    withPage(browser, server.url, async (page) => {
      const r = await page.evaluate(
        async ([source, load]) => {
          const { languageModel } = await import('/dist/prompt-api.js');
          const failure = (job) => Promise.resolve(job).then(() => 'none', (error) => `${error.constructor.name} ${error.name}`);
          return new Function('LanguageModel', 'failure', `return (${source})(LanguageModel, failure)`)(languageModel(load, { contextLength: 512 }), failure);
        },
        [body.toString(), load],
      );
      await expected(r, page);
    }),
  );

on('a session is created with its download told, prompts, streams, and remembers', async (LanguageModel) => {
  const out = { before: await LanguageModel.availability() };
  const told = [];
  const creating = LanguageModel.create({
    monitor: (monitor) => monitor.addEventListener('downloadprogress', ({ loaded, total }) => told.push([loaded, total])),
    initialPrompts: [
      { role: 'system', content: 'You answer with one word.' },
      { role: 'user', content: 'What is the capital of Germany?' },
      { role: 'assistant', content: [{ type: 'text', value: 'Berlin.' }] },
    ],
    temperature: 0,
    topK: 1,
  });
  out.during = await LanguageModel.availability();
  const session = await creating;
  out.after = await LanguageModel.availability();
  out.told = [told[0], told.at(-1), told.every(([loaded], i) => i === 0 || loaded >= told[i - 1][0])];
  out.usage = [session.contextUsage > 0, session.contextWindow, session.inputUsage === session.contextUsage, session.inputQuota];
  const begun = session.contextUsage;
  const answer = await session.prompt('What is the capital of France?');
  out.answer = answer;
  const used = session.contextUsage;
  const pieces = [];
  for await (const piece of session.promptStreaming([{ role: 'user', content: [{ type: 'text', value: 'What is the capital of Italy?' }] }])) pieces.push(piece);
  out.streamed = [pieces.length > 1, pieces.join('')];
  out.grows = begun < used && used < session.contextUsage;
  out.prefixed = await session.prompt([{ role: 'user', content: 'What is the capital of Spain?' }, { role: 'assistant', content: 'Mad', prefix: true }]);
  // What it will cost is what it costs.
  const cost = await session.measureContextUsage('A third question');
  const at = session.contextUsage;
  await session.append('A third question');
  out.measured = [cost, session.contextUsage - at, await session.measureInputUsage('x') > 0];
  return out;
}, (r) => {
  assert.equal(r.before, 'downloadable');
  assert.equal(r.during, 'downloading');
  assert.equal(r.after, 'available');
  assert.deepEqual(r.told, [[0, 1], [1, 1], true]);
  assert.deepEqual(r.usage, [true, 512, true, 512]);
  assert.equal(r.answer, 'Paris.');
  assert.deepEqual([r.streamed, r.grows], [[true, 'Rome.'], true]);
  assert.equal(r.prefixed, 'rid.');
  assert.deepEqual(r.measured, [r.measured[1], r.measured[0], true]);
});

on('clones go their own ways; the last session ends the model', async (LanguageModel) => {
  const session = await LanguageModel.create({ temperature: 0, topK: 1 });
  await session.append([{ role: 'user', content: 'What is the capital of Germany?' }, { role: 'assistant', content: 'Berlin.' }]);
  const clone = await session.clone();
  const out = [clone.contextUsage === session.contextUsage];
  const [one, two] = await Promise.all([session.prompt('What is the capital of France?'), clone.prompt('What is the capital of France?')]);
  out.push(one === two);
  await clone.append('more');
  out.push(clone.contextUsage > session.contextUsage);
  session.destroy();
  session.destroy();
  out.push(typeof (await clone.prompt('What is the capital of France?')));
  clone.destroy();
  return out;
}, async (r, page) => {
  assert.deepEqual(r, [true, true, true, 'string']);
  await until(() => page.workers().length, 0);
});

on('aborts and ends are heard, and sessions go on after an abort', async (LanguageModel, failure) => {
  const out = {};
  const reason = new Error('mine');
  out.create = await LanguageModel.create({ signal: AbortSignal.abort(reason) }).catch((e) => e === reason);
  const late = new AbortController();
  const loading = LanguageModel.create({ signal: late.signal, monitor: (m) => m.addEventListener('downloadprogress', () => late.abort()) });
  out.loading = await failure(loading);
  const session = await LanguageModel.create({ temperature: 0, topK: 1, initialPrompts: [{ role: 'user', content: 'What is the capital of Germany?' }, { role: 'assistant', content: 'Berlin.' }] });
  out.prompt = await failure(session.prompt('x', { signal: AbortSignal.abort() }));
  const stop = new AbortController();
  const before = session.contextUsage;
  const long = session.prompt('Write a long story about a lighthouse.', { signal: stop.signal });
  // Calls wait for their turn, and can be given up while they do.
  const waiting = new AbortController();
  const second = session.prompt('never', { signal: waiting.signal });
  waiting.abort();
  out.second = await failure(second);
  stop.abort(reason);
  out.long = await long.catch((e) => e === reason);
  out.unchanged = session.contextUsage === before;
  const reader = session.promptStreaming('Write a long story about a ship.').getReader();
  await reader.read();
  await reader.cancel();
  out.after = typeof (await session.prompt('What is the capital of France?'));
  const dying = failure(session.prompt('Write a long story about a lighthouse.'));
  await new Promise((go) => setTimeout(go, 50));
  session.destroy();
  out.dying = await dying;
  out.destroyed = [await failure(session.prompt('x')), await failure(session.clone()), await failure(session.append('x')), await failure(session.measureContextUsage('x'))];
  return out;
}, (r) => {
  const [aborted, destroyed] = ['DOMException AbortError', 'DOMException InvalidStateError'];
  assert.deepEqual(r, { create: true, loading: aborted, prompt: aborted, second: aborted, long: true, unchanged: true, after: 'string', dying: aborted, destroyed: Array(4).fill(destroyed) });
});

on('a conversation that outgrows the context forgets its oldest turns, and what can never fit is refused', async (LanguageModel) => {
  const session = await LanguageModel.create({ initialPrompts: [{ role: 'system', content: 'You answer with one word.' }], temperature: 0, topK: 1 });
  let overflows = 0;
  session.oncontextoverflow = () => overflows++;
  for (let i = 0; i < 4; i++) await session.append([{ role: 'user', content: 'word '.repeat(100) }, { role: 'assistant', content: `answer ${i}` }]);
  const none = overflows;
  await session.append('word '.repeat(100));
  const reader = session.promptStreaming('Go on.').getReader();
  const after = typeof (await reader.read()).value;
  await reader.cancel();
  const refused = (job) => job.then(() => 'none', ({ name, requested, quota }) => [name, requested > quota, quota]);
  return {
    overflows: [none, overflows],
    fits: session.contextUsage < session.contextWindow,
    long: await refused(session.prompt('word '.repeat(600))),
    initial: await refused(LanguageModel.create({ initialPrompts: [{ role: 'system', content: 'word '.repeat(600) }] })),
    after,
  };
}, (r) => {
  const refused = ['QuotaExceededError', true, 512];
  assert.deepEqual(r, { overflows: [0, 1], fits: true, long: refused, initial: refused, after: 'string' });
});

on('what is not supported is refused by the names of the specification', async (LanguageModel, failure) => {
  const out = {};
  out.images = [await LanguageModel.availability({ expectedInputs: [{ type: 'image' }] }), await failure(LanguageModel.create({ expectedInputs: [{ type: 'image' }] }))];
  out.texts = await LanguageModel.availability({ expectedInputs: [{ type: 'text', languages: ['en'] }], expectedOutputs: [{ type: 'text' }] });
  out.tools = await failure(LanguageModel.create({ tools: [{ name: 'x' }] }));
  out.late = await failure(LanguageModel.create({ initialPrompts: [{ role: 'user', content: 'a' }, { role: 'system', content: 'b' }] }));
  out.monitor = await failure(LanguageModel.create({ monitor() { throw new RangeError('mine'); } }));
  const session = await LanguageModel.create();
  out.system = await failure(session.prompt([{ role: 'system', content: 'x' }]));
  out.prefix = await failure(session.prompt([{ role: 'assistant', content: 'y', prefix: true }, { role: 'user', content: 'x' }]));
  out.part = await failure(session.prompt([{ role: 'user', content: [{ type: 'image', value: new Blob() }] }]));
  out.regex = await failure(session.prompt('x', { responseConstraint: /a/ }));
  return out;
}, (r) => {
  const no = 'DOMException NotSupportedError';
  assert.deepEqual(r, { images: ['unavailable', no], texts: 'downloadable', tools: no, late: 'TypeError TypeError', monitor: 'RangeError RangeError', system: no, prefix: 'DOMException SyntaxError', part: no, regex: no });
}, '/smol.gguf');
