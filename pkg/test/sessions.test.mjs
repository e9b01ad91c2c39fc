// Conversations that are kept: in Node, in a browser, and by the demo page. Another worker, as after a reload, goes on from them.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { Foreword, ForewordError } from '../dist/index.js';
import { inPage, inWorkers, launch, until, withPage } from './browser.mjs';
import { ask, demo, keep } from './demo.mjs';
import { modelPath, PKG, start } from './server.mjs';

const TINY = path.join(PKG, '../tests/data/models/llama.gguf');
const said = (role, content) => ({ role, content });
const refused = (code) => (error) => error instanceof ForewordError && error.code === code;

/** Sessions lie beside the models. */
let folder, former, browser, server;
before(async () => {
  former = process.env.FOREWORD_CACHE;
  process.env.FOREWORD_CACHE = folder = fs.mkdtempSync(path.join(os.tmpdir(), 'sessions-'));
  [browser, server] = await Promise.all([launch(), start()]);
});
after(async () => {
  if (former === undefined) delete process.env.FOREWORD_CACHE;
  else process.env.FOREWORD_CACHE = former;
  fs.rmSync(folder, { recursive: true });
  await browser?.close();
  server?.close();
});

const load = (options) => Foreword.load(modelPath('smol.gguf'), { contextLength: 512, ...options });
const answer = async (model, messages) => {
  const { choices, usage } = await model.chat.completions.create({ messages, max_tokens: 24, temperature: 0 });
  return { said: choices[0].message, cached: usage.prompt_tokens_details.cached_tokens, read: usage.prompt_tokens };
};

test('in Node: a conversation that was kept goes on in another worker without being read again', async () => {
  const first = await load();
  const messages = [said('user', 'Tell me of a lighthouse by the sea, and of the old man who lived in it for forty years.')];
  messages.push((await answer(first, messages)).said, said('user', 'And then?'));
  const wanted = await answer(first, messages);
  const kept = { messages: messages.slice(0, 2) };
  // Under way at the same time: saving waits for the answer.
  const beside = answer(first, [said('user', 'Hi.')]);
  const saved = await first.sessions.save('a chat/with any name?', kept);
  assert.ok(saved.bytes > 60 * 23_040 && Date.now() - saved.savedAt < 60_000, JSON.stringify(saved));
  await beside;
  await first.dispose();

  const second = await load();
  assert.deepEqual(await second.sessions.list(), [saved]);
  const opened = await second.sessions.open(saved.name);
  assert.deepEqual(opened.request, kept);
  assert.ok(opened.tokens > 60, `${opened.tokens} tokens`);
  const again = await answer(second, messages);
  assert.deepEqual(again.said, wanted.said);
  assert.ok(again.cached >= opened.tokens - 1 && again.cached > again.read / 2, `${again.cached} of ${again.read}, ${opened.tokens} were opened`);

  const file = await second.sessions.export(saved.name);
  assert.equal(file.size, saved.bytes);
  const third = await load();
  assert.deepEqual(await third.sessions.open(file), opened, 'a file of another device');
  await third.sessions.save(saved.name, { prompt: 'Another text' });
  const list = await third.sessions.list();
  assert.deepEqual([list.length, list[0].name], [1, saved.name], 'the older one went');
  assert.deepEqual((await second.sessions.open(saved.name)).request, { prompt: 'Another text' });
  assert.equal(fs.readdirSync(path.join(folder, 'sessions')).length, 2, 'a file, and what is known of it');
  assert.ok(await third.sessions.delete(saved.name));
  assert.equal(await third.sessions.delete(saved.name), false);
  assert.deepEqual(await second.sessions.list(), []);
  await Promise.all([second.dispose(), third.dispose()]);
});

test('in Node: what is no session of this model is refused, and nothing is lost', async () => {
  const model = await load();
  const messages = [said('user', 'Say hello.')];
  messages.push((await answer(model, messages)).said);
  await model.sessions.save('kept', { messages });
  const bytes = new Uint8Array(await (await model.sessions.export('kept')).arrayBuffer());
  const flipped = (at) => bytes.with(at, bytes[at] ^ 1);
  for (const wrong of [flipped(bytes.length - 20), flipped(200), bytes.slice(0, -1), bytes.slice(0, 20), new Uint8Array(), 'my shopping list']) {
    await assert.rejects(model.sessions.open(new Blob([wrong])), refused('bad_file'));
  }
  await assert.rejects(model.sessions.open(new Blob([flipped(8)])), (error) => refused('unsupported')(error) && /version 3; 2 is known/.test(error.message));
  await assert.rejects(model.sessions.open('another'), refused('not_found'));
  for (const name of ['', undefined, 7, 'x'.repeat(501)]) await assert.rejects(model.sessions.save(name, { messages }), refused('invalid_request'));
  for (const request of [{}, null, { messages: 1 }, { messages, nonsense: 1 }, { prompt: ['one', 'two'] }]) await assert.rejects(model.sessions.save('kept', request), refused('invalid_request'));
  assert.deepEqual((await model.sessions.list()).map(({ name }) => name), ['kept'], 'what is refused leaves the former one');
  for (const [other, why] of [[await load({ kvCache: 'q8_0' }), /load the model with that type/], [await Foreword.load(TINY), /not with this file/], [await load({ contextLength: 16 }), /load a longer one/]]) {
    await assert.rejects(other.sessions.open('kept'), (error) => refused('invalid_request')(error) && why.test(error.message));
    await other.dispose();
  }
  assert.ok((await model.sessions.open('kept')).tokens > 0);
  // A file whose worker ended in the middle of it is no session, and goes later.
  const folderOf = path.join(folder, 'sessions');
  fs.writeFileSync(path.join(folderOf, 'half.json'), JSON.stringify({ key: 'half', url: 'kept', totalBytes: 0, complete: false, savedAt: 1 }));
  fs.writeFileSync(path.join(folderOf, 'half'), 'half');
  assert.equal((await model.sessions.list()).length, 1);
  await model.sessions.save('kept', { messages });
  assert.equal(fs.readdirSync(folderOf).length, 2);
  await model.dispose();
  await assert.rejects(model.sessions.list(), refused('disposed'));
});

/** What a tiny model reads, which is not cached, so that the site's storage has sessions only. */
const PROMPT = 'Once upon a time there was a lighthouse by the sea. '.repeat(2);
const TINY_ONE = { url: '/tiny.gguf', options: { cache: false, threads: 1 }, prompt: PROMPT };

/** Runs in a page: keeps a text that the model has gone on with. */
async function saveOne(Foreword, { url, options, prompt, name = 'story', more = '' }) {
  const model = await Foreword.load(url, options);
  const { choices } = await model.completions.create({ prompt, max_tokens: 8, temperature: 0 });
  const text = prompt + choices[0].text + more;
  const saved = await model.sessions.save(name, { prompt: text }).catch(({ code }) => ({ code }));
  return { text, ...saved, list: await model.sessions.list() };
}

/** Runs in a page: opens what was kept, and how much of it need not be read. */
async function openOne(Foreword, { url, options, name = 'story' }) {
  const model = await Foreword.load(url, options);
  const { request, tokens } = await model.sessions.open(name);
  const { usage } = await model.completions.create({ prompt: `${request.prompt} And then`, max_tokens: 1 });
  const file = await model.sessions.export(name);
  return { text: request.prompt, tokens, cached: usage.prompt_tokens_details.cached_tokens, bytes: file.size, list: await model.sessions.list() };
}

/** Names of the files. */
const filesOf = (page) =>
  page.evaluate(async () => {
    const names = [];
    for await (const name of (await (await navigator.storage.getDirectory()).getDirectoryHandle('foreword-sessions')).keys()) names.push(name);
    return names;
  });

/** How many sessions are whole, by the entries beside them. */
const wholeOnes = (page) =>
  page.evaluate(async () => {
    let whole = 0;
    for await (const file of (await (await navigator.storage.getDirectory()).getDirectoryHandle('foreword-sessions')).values()) {
      const { size, slice } = await file.getFile().then((f) => ({ size: f.size, slice: f.slice(0, 4096) }));
      if (size < 4096 && (await slice.text()).includes('"complete":true')) whole++;
    }
    return whole;
  });

const on = (name, job) => test(`in a browser: ${name}`, () => withPage(browser, server.url, job));

for (const [where, before] of [['in the origin-private file system', ''], ['in the Cache API', 'delete FileSystemFileHandle.prototype.createSyncAccessHandle']]) {
  on(`a session is kept over a reload, ${where}`, async (page) => {
    await inWorkers(page, before);
    await page.reload();
    const kept = await inPage(page, saveOne, TINY_ONE);
    await page.reload();
    const { list, ...opened } = await inPage(page, openOne, TINY_ONE);
    assert.ok(opened.tokens > 40 && opened.cached >= opened.tokens - 1, JSON.stringify(opened));
    assert.deepEqual([opened.text, opened.bytes, list], [kept.text, kept.bytes, kept.list]);
  });
}

on('tabs that save one name at the same time keep one of theirs whole, and tabs with one model save by it', async (one, context) => {
  const two = await context.newPage();
  await two.goto(server.url);
  const all = await Promise.all([one, two, one, two].map((page, i) => inPage(page, saveOne, { ...TINY_ONE, more: ` ${i}` })));
  const opened = await inPage(two, openOne, TINY_ONE);
  assert.ok(all.some(({ text }) => text === opened.text), JSON.stringify([opened, all]));
  assert.equal(opened.list.length, 1);
  const shared = { ...TINY_ONE, options: { threads: 1, shared: true } };
  await inPage(one, saveOne, shared);
  const { text } = await inPage(two, saveOne, { ...shared, more: ' of the other' });
  assert.equal((await inPage(one, openOne, shared)).text, text);
  assert.deepEqual((await filesOf(one)).length, 2, 'no file is left');
});

on('a file that another tab removes while they are listed is not listed', async (page) => {
  await inPage(page, saveOne, TINY_ONE);
  await inWorkers(page, `const { getFile } = FileSystemFileHandle.prototype;
    FileSystemFileHandle.prototype.getFile = function () {
      return this.name.includes('.json') ? getFile.call(this) : Promise.reject(new DOMException('gone', 'NotFoundError'));
    }`);
  await page.reload();
  const list = await inPage(page, async (Foreword, { url, options }) => ({ list: await (await Foreword.load(url, options)).sessions.list() }), TINY_ONE);
  assert.deepEqual(list, { list: [] });
});

on('a worker that ends while it saves loses nothing of what was kept', async (page) => {
  // Everything behind the beginning of a certain text waits for ever.
  await inWorkers(page, `const { write } = FileSystemSyncAccessHandle.prototype;
    let held = false;
    FileSystemSyncAccessHandle.prototype.write = function (bytes, options) {
      if (held) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
      held = new TextDecoder().decode(bytes).includes('hold here');
      return write.call(this, bytes, options);
    }`);
  await page.reload();
  const kept = await inPage(page, saveOne, TINY_ONE);
  const saving = inPage(page, saveOne, { ...TINY_ONE, more: 'hold here' }).catch(() => {});
  await until(async () => (await filesOf(page)).length, 4);
  await page.reload();
  await saving;
  const opened = await inPage(page, openOne, TINY_ONE);
  assert.deepEqual([opened.text, opened.list], [kept.text, kept.list]);
  const { text } = await inPage(page, saveOne, { ...TINY_ONE, more: ' again' });
  assert.equal((await inPage(page, openOne, TINY_ONE)).text, text);
});

on('a site whose storage is full keeps the former session', async (page, context) => {
  const kept = await inPage(page, saveOne, TINY_ONE);
  const session = await context.newCDPSession(page);
  await session.send('Storage.overrideQuotaForOrigin', { origin: server.url, quotaSize: 1.5 * kept.bytes });
  const { code, list } = await inPage(page, saveOne, { ...TINY_ONE, more: ' again' });
  assert.deepEqual([code, list], ['quota_exceeded', kept.list]);
  assert.equal((await inPage(page, openOne, TINY_ONE)).text, kept.text);
  assert.equal((await filesOf(page)).length, 2, 'nothing is left of what had no room');
});

on('where nothing can be kept, that is said', async (page) => {
  await inWorkers(page, 'StorageManager.prototype.getDirectory = async () => { throw new DOMException("private", "SecurityError"); }; Object.defineProperty(globalThis, "caches", { value: undefined })');
  await page.reload();
  const { code, list } = await inPage(page, saveOne, TINY_ONE);
  assert.deepEqual([code, list], ['storage_failed', []]);
  assert.equal((await inPage(page, openOne, TINY_ONE)).code, 'not_found');
});

test('the demo page goes on with a chat after a reload without reading it again, and forgets it with the chat', async () => {
  const site = await demo();
  try {
    await site.fresh();
    const page = await site.tab();
    // The tiny model's context is short.
    await keep(page, 'settings', { max_tokens: 16 });
    await page.reload();
    await page.waitForSelector('#prompt');
    const leave = () => page.evaluate(() => (Object.defineProperty(document, 'hidden', { value: true, configurable: true }), document.dispatchEvent(new Event('visibilitychange', { bubbles: true }))));
    const reused = () => page.locator('.under').last().innerText();
    await ask(page, 'Tell me of a lighthouse by the sea, and of the old man who lived in it.');
    await leave();
    await until(() => wholeOnes(page).catch(() => 0), 1);
    await page.reload();
    await page.waitForSelector('#prompt');
    await ask(page, 'And then?');
    assert.match(await reused(), /of the chat was known already/);
    await page.locator('.chats li').first().hover();
    await page.locator('.chats [aria-label^="Delete"]').first().click();
    await until(async () => (await filesOf(page)).length, 0);
    assert.deepEqual(site.errors, []);
  } finally {
    await site.close();
  }
});
