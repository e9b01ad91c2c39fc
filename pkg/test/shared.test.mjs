// One model for all tabs of a site.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { browserUsage, inPage, launch, until } from './browser.mjs';
import { start } from './server.mjs';

let browser, server;
before(async () => {
  [browser, server] = await Promise.all([launch(), start()]);
});
after(async () => {
  await browser?.close();
  server?.close();
});

/** Runs a job with a fresh profile; its tabs load the shared model into `model`. */
async function withTabs(job) {
  const context = await browser.newContext();
  const tab = async (source = '/smol.gguf', options = {}) => {
    const page = await context.newPage();
    page.setDefaultTimeout(120_000);
    await page.goto(server.url);
    const info = await inPage(page, async (Foreword, { source, options }) => {
      const model = (globalThis.model = await Foreword.load(source, { shared: true, threads: 1, contextLength: 512, ...options }));
      return model.info;
    }, { source, options });
    assert.equal(info.code, undefined, info.message);
    return page;
  };
  try {
    await job(tab, context);
  } finally {
    await context.close();
  }
}
/** Begins an answer, whose words grow in `text`. */
const begin = (page, request = {}) =>
  page.evaluate((request) => {
    globalThis.text = '';
    globalThis.ids = new Set();
    globalThis.over = (async () => {
      const messages = [{ role: 'user', content: 'Tell me about the sea.' }];
      for await (const chunk of await model.chat.completions.create({ messages, temperature: 0, max_tokens: 90, stream: true, ...request })) {
        ids.add(chunk.id);
        globalThis.text += chunk.choices[0].delta.content ?? '';
        globalThis.finish = chunk.choices[0].finish_reason;
      }
      return { text, finish, ids: ids.size };
    })().catch(({ code }) => ({ code }));
  }, request);
const words = (page) => page.evaluate('text.length');
const over = (page) => page.evaluate('over');

test('three tabs have one worker, and each its own answers', () =>
  withTabs(async (tab) => {
    const tabs = [await tab(), await tab(), await tab()];
    await until(() => browserUsage().workers, 1);
    const prompts = ['The capital of France is', 'The capital of Italy is', 'The capital of Spain is'];
    const asked = await Promise.all(tabs.map((page, i) => page.evaluate(async (prompt) => (await model.completions.create({ prompt, max_tokens: 1, temperature: 0 })).choices[0].text, prompts[i])));
    assert.deepEqual(asked, [' Paris', ' Rome', ' Madrid']);
    for (const page of tabs) assert.deepEqual(await page.evaluate(async () => [await model.detokenize(await model.tokenize('The sea')), model.info.threads]), ['The sea', 1]);
  }));

test('an answer under way goes on in the tab that asked when the tab that leads is closed', () =>
  withTabs(async (tab) => {
    const [leader, asking, third] = [await tab(), await tab(), await tab()];
    await begin(asking);
    const whole = await over(asking);
    assert.equal(whole.finish, 'length');
    await begin(asking);
    await until(async () => (await words(asking)) > 20, true);
    await leader.close();
    const again = await over(asking);
    assert.deepEqual(again, { ...whole, text: again.text });
    // The words that were there are read again as a prompt, whose sums are others in the last digits: the beginning is the same.
    assert.equal(again.text.slice(0, 60), whole.text.slice(0, 60));
    assert.ok(again.text.length > 0.7 * whole.text.length && again.text.length < 1.4 * whole.text.length, again.text);
    await begin(third, { max_tokens: 4 });
    assert.equal((await over(third)).finish, 'length');
    await until(() => browserUsage().workers, 1);
  }));

test('an answer that is not streamed is written anew; one with log-probabilities fails in words; dispose passes the lead on', () =>
  withTabs(async (tab) => {
    const [leader, asking] = [await tab(), await tab()];
    await begin(asking, { logprobs: true, max_tokens: 300 });
    await until(async () => (await words(asking)) > 2, true);
    await asking.evaluate(() => {
      globalThis.whole = model.completions.create({ prompt: 'The sea', max_tokens: 40, temperature: 0 }).then(({ usage }) => usage.completion_tokens);
    });
    await leader.evaluate('model.dispose()');
    assert.deepEqual(await over(asking), { code: 'worker_lost' });
    assert.equal(await asking.evaluate('whole'), 40);
    assert.equal(await leader.evaluate(`model.tokenize('a').catch(({ code }) => code)`), 'disposed');
  }));

test('a tab that closes takes its answers with it', () =>
  withTabs(async (tab) => {
    const [leader, asking] = [await tab(), await tab()];
    await begin(asking, { max_tokens: 400, ignore_eos: true });
    await until(() => leader.evaluate(async () => (await model.stats()).running), 1);
    await asking.close();
    await until(() => leader.evaluate(async () => (await model.stats()).running), 0);
  }));

test('a cancelled answer ends in the tab that leads; models of other options are others', () =>
  withTabs(async (tab) => {
    const [leader, asking] = [await tab('/models/llama.gguf'), await tab('/models/llama.gguf')];
    const code = await asking.evaluate(async () => {
      const stop = new AbortController();
      const answer = model.completions.create({ prompt: 'a', max_tokens: 200, ignore_eos: true }, { signal: stop.signal }).catch((error) => error.code);
      stop.abort();
      return answer;
    });
    assert.equal(code, 'cancelled');
    await until(() => leader.evaluate(async () => (await model.stats()).running), 0);
    await tab('/models/llama.gguf', { contextLength: 128 });
    await until(() => browserUsage().workers, 2);
    const refused = await inPage(leader, (Foreword) => Foreword.load(new Blob(['GGUF']), { shared: true }));
    assert.equal(refused.code, 'invalid_request');
    const none = await inPage(leader, (Foreword) => Foreword.load('/models/nothing.gguf', { shared: true }));
    assert.equal(none.code, 'not_found');
  }));
