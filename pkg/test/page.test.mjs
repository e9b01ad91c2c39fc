// The demo page beyond chats: its languages, files, playground and comparison, who can use it, and how it looks.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import zlib from 'node:zlib';
import { serve } from '../../www/serve.mjs';
import { until } from './browser.mjs';
import { ask, demo, keep, texts, untilIdle, WWW } from './demo.mjs';

let site;
const AXE = fs.readFileSync(new URL(import.meta.resolve('axe-core/axe.min.js')), 'utf8');
/** With `SHOTS`, the views at all widths are kept here, to be looked at. */
const SHOTS = process.env.SHOTS && path.resolve(process.env.SHOTS);
const SOURCE = path.join(WWW, 'src');
before(async () => (site = await demo()));
beforeEach(() => site.fresh());
after(() => site?.close());

test('the page speaks German where the browser does, or where that was chosen, and has words in one file only', async () => {
  await site.fresh({ locale: 'de-AT' });
  const page = await site.tab(false);
  await page.getByRole('heading', { name: 'Ein Sprachmodell, direkt in dieser Seite.' }).waitFor();
  assert.equal(await page.evaluate(() => document.documentElement.lang), 'de');
  await page.getByRole('button', { name: 'Einstellungen' }).click();
  await page.getByLabel('English').check();
  await page.getByRole('heading', { name: 'A language model, right in this page.' }).waitFor();
  await page.reload();
  await page.getByRole('heading', { name: 'A language model, right in this page.' }).waitFor();
  assert.equal(await page.evaluate(() => document.documentElement.lang), 'en');
  // Words between tags, and attributes and messages that begin with a capital letter.
  const words = /<\/?\w[^<>]*>\s*[A-Za-z][^<>{}$`]*<\/|(?:aria-label|title|placeholder|alt)="[^"]+"|(?:setError|undoable|new Error)\(['`]/g;
  const files = fs.readdirSync(SOURCE, { recursive: true }).filter((name) => name.endsWith('.js') && name !== 'strings.js');
  const found = files.flatMap((name) => fs.readFileSync(path.join(SOURCE, name), 'utf8').match(words)?.map((text) => `${name}: ${text}`) ?? []);
  assert.deepEqual(found.filter((text) => !text.endsWith('<span>Foreword</')), []);
});

test('both languages have the same words: lists of one length, and functions for functions', async () => {
  const { STRINGS } = await import(path.join(SOURCE, 'strings.js'));
  const shape = (value) => (Array.isArray(value) ? value.map(shape) : value && typeof value === 'object' ? Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, shape(inner)])) : typeof value);
  for (const [key, words] of Object.entries(STRINGS)) {
    assert.equal(words.length, 2, key);
    // English descriptions of models come with the list of models.
    if (key !== 'abouts') assert.deepEqual(shape(words[1]), shape(words[0]), key);
  }
});

test('text files go with a message by button, drop and paste; what is no text or too long says so', async () => {
  const page = await site.tab();
  const file = (name, text) => ({ name, mimeType: 'text/plain', buffer: Buffer.from(text) });
  const chips = () => page.locator('.files li').allInnerTexts();
  await page.setInputFiles('.attach input', [file('notes.txt', 'apples ``` and pears')]);
  await until(async () => (await chips()).join(), /^notes\.txt · \d+ tokens$/);
  const give = (selector, kind, name, text) =>
    page.evaluate(
      ([selector, kind, name, text]) => {
        const data = new DataTransfer();
        data.items.add(new File([text], name));
        const event = kind === 'paste' ? new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true }) : new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true });
        document.querySelector(selector).dispatchEvent(event);
      },
      [selector, kind, name, text],
    );
  await give('#conversation', 'drop', 'dropped.md', '# one');
  await until(async () => (await chips()).length, 2);
  await give('#prompt', 'paste', 'pasted.csv', 'a,b');
  await until(async () => (await chips()).length, 3);
  const alert = page.locator('[role=alert]');
  await page.setInputFiles('.attach input', [file('long.txt', 'x'.repeat(20_000))]);
  await alert.getByText(/long\.txt is too long: [\d,]+ tokens/).waitFor();
  await page.setInputFiles('.attach input', [{ name: 'picture.png', mimeType: 'image/png', buffer: Buffer.from([137, 80, 0, 255]) }]);
  await alert.getByText('picture.png is no text file.').waitFor();
  await page.setInputFiles('.attach input', [file('huge.txt', 'x'.repeat(5_000_000))]);
  await alert.getByText(/huge\.txt is too large: 5\.0 MB/).waitFor();
  await page.getByRole('button', { name: 'Take pasted.csv away' }).click();
  await until(async () => (await chips()).length, 2);
  await ask(page, 'What is in it?');
  await until(chips, []);
  await until(async () => (await page.locator('.message.user .file-line').allInnerTexts()).join(), /^notes\.txt · \d+ tokens,dropped\.md · \d+ tokens$/);
  const [saved] = await Promise.all([page.waitForEvent('download'), page.click('[aria-label="Save the chat as Markdown"]')]);
  assert.match(fs.readFileSync(await saved.path(), 'utf8'), /notes\.txt:\n````\napples ``` and pears\n````\n\ndropped\.md:\n```\n# one\n```\n\nWhat is in it\?/);
  // An edit keeps the files.
  await page.locator('.message.user').hover();
  await page.locator('[aria-label=Edit]').click();
  await page.locator('.editing textarea').fill('And now?');
  await page.locator('.editing .primary').click();
  await until(() => page.locator('.message.user .file-line').count(), 2);
});

test('the page’s script is at most 120 KB with Brotli before what is loaded later', () => {
  const dist = path.join(WWW, 'dist');
  const loaded = new Set();
  const follow = (name) => {
    if (loaded.has(name)) return;
    loaded.add(name);
    // Static imports only: `import(…)` is for later.
    for (const [, next] of fs.readFileSync(path.join(dist, name), 'utf8').matchAll(/(?:from|import)"\.\/([^"]+)"/g)) follow(next);
  };
  follow('app.js');
  const size = [...loaded].reduce((sum, name) => sum + zlib.brotliCompressSync(fs.readFileSync(path.join(dist, name))).length, 0);
  assert.ok(size <= 120 * 1024, `${size} bytes in ${[...loaded].join(', ')}`);
});

/** A chat with everything that a message can have. */
const CHAT = {
  id: 'one',
  title: 'A chat with a title that is too long for the list of chats',
  updated: 1,
  revision: 1,
  messages: [
    { role: 'user', content: 'What is in it?', files: [{ name: 'a-file-with-a-rather-long-name-2026-11-27.txt', text: 'x', tokens: 1234 }], others: [[{ role: 'user', content: 'other' }]], place: 0 },
    {
      role: 'assistant',
      thoughts: 'Hm.',
      content: '# Title\n\nSome **words**, `code` and a [link](https://example.org).\n\n```js\nconst long = "a line that is much longer than any telephone is wide, so that it has to be scrolled"; // 1\n```\n\n| Language | Year | Typing | Author |\n|---|---|---|---|\n| JavaScript | 1995 | dynamic | Brendan Eich |\n\n- one\n- two\n\n> quoted\n\n$$\\frac{a}{b}$$',
      guessed: [[10, 20]],
      finish: 'length',
      figures: { by: 'tiny.gguf', ms: 1234, speed: 12.3, read: 100, reused: 50, predicted: 1, written: 100, guessed: 20 },
    },
  ],
};

/** Ways to every view, from the chat, by what German and English share: classes and places. */
const VIEWS = {
  chat: async () => {},
  models: (page) => page.locator('.topbar .model').click(),
  settings: (page) => page.evaluate(() => document.querySelector('#settings').showModal()),
  statistics: (page) => page.keyboard.press('Control+Shift+S'),
  menu: (page) => page.evaluate(() => document.querySelector('.menu-button').click()),
  benchmark: (page) => page.evaluate(() => document.querySelectorAll('.foot button')[0].click()),
  playground: (page) => page.evaluate(() => document.querySelectorAll('.foot button')[1].click()),
  compare: (page) => page.evaluate(() => document.querySelectorAll('.foot button')[2].click()),
};

/** Shows each view in turn, in a page that has a model and a chat. */
async function eachView(options, job) {
  await site.fresh({ reducedMotion: 'reduce', ...options });
  const first = await site.tab();
  await keep(first, 'chat:one', CHAT);
  await first.close();
  for (const [view, open] of Object.entries(VIEWS)) {
    const page = await site.tab();
    await page.waitForSelector('.message.assistant');
    await page.waitForSelector('#prompt');
    await open(page);
    await page.evaluate(() => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go))));
    await job(page, view);
    await page.close();
  }
}

/** What is wrong with each view, found in one pass: by axe in light and dark, with controls that no key reaches, and with what does not fit. */
const looked = {};
async function look(locale) {
  const found = { axe: [], keys: [], width: [] };
  await eachView({ locale, hasTouch: true }, async (page, view) => {
    await page.evaluate(AXE);
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme });
      const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ['violations'] }));
      for (const { id, nodes } of violations) found.axe.push(...nodes.map(({ html, any }) => `${view}, ${colorScheme}: ${id}: ${html.slice(0, 160)} ${any[0]?.message ?? ''}`));
    }
    const controls = await page.evaluate(mark);
    const reached = new Set();
    for (let i = 0; i < controls.length + 12 && reached.size < controls.length; i++) {
      await page.keyboard.press('Tab');
      const at = await page.evaluate(() => document.activeElement.dataset.n);
      if (at) reached.add(at);
    }
    found.keys.push(...controls.filter((_, i) => !reached.has(String(i))).map((html) => `${view}: ${html}`));
    for (const width of [360, 390, 768, 1280, 1920]) {
      await page.setViewportSize({ width, height: width < 700 ? 780 : 900 });
      await page.evaluate(() => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go))));
      found.width.push(...(await page.evaluate(outside)).map((text) => `${view}, ${width}: ${text}`));
      for (const colorScheme of SHOTS ? ['light', 'dark'] : []) {
        await page.emulateMedia({ colorScheme });
        await page.screenshot({ path: path.join(SHOTS, `${view}-${width}-${locale.slice(0, 2)}-${colorScheme}.png`) });
      }
    }
  });
  return found;
}

for (const locale of ['en-GB', 'de-DE']) {
  const found = async (what) => (await (looked[locale] ??= look(locale)))[what];
  test(`axe finds nothing in any view, light and dark, ${locale}`, async () => assert.deepEqual(await found('axe'), []));
  test(`every control of every view is reached by the tabulator key, ${locale}`, async () => assert.deepEqual(await found('keys'), []));
  test(`every view fits from 360 to 1920 pixels, ${locale}`, async () => assert.deepEqual(await found('width'), []));
}

/** In the page: numbers what a key has to reach, and lists it. */
function mark() {
  const scope = document.querySelector('dialog[open]') ?? document;
  const controls = [...scope.querySelectorAll('button, input, textarea, select, a[href], summary')];
  // Of radio buttons, the chosen one is reached, and the arrows lead to the others.
  const reachable = controls.filter((e) => e.checkVisibility({ visibilityProperty: true }) && !e.disabled && !e.closest('[inert]') && !(e.type === 'radio' && !e.checked));
  reachable.forEach((e, i) => (e.dataset.n = i));
  document.activeElement.blur();
  return reachable.map((e) => e.outerHTML.slice(0, 120));
}

/** In the page: what makes it, or one of its parts that scroll down only, wider than it is. */
function outside() {
  const parts = [document.documentElement, ...document.querySelectorAll('main, .conversation, .column, .welcome, .lab, .bench, .panel, dialog[open], .sidebar, .composer, .topbar')];
  return parts.filter((part) => part.checkVisibility() && part.scrollWidth > part.clientWidth + 1).map((part) => `${part.tagName}.${part.className}: ${part.scrollWidth} in ${part.clientWidth}`);
}

test('nothing moves where less motion was asked for, and scripts come from this page only', async () => {
  await site.fresh({ reducedMotion: 'reduce' });
  const page = await site.tab();
  const moving = () =>
    page.evaluate(() => {
      const dots = Object.assign(document.createElement('span'), { className: 'thinking' });
      dots.append(document.createElement('i'));
      document.querySelector('main').append(dots);
      const { length } = dots.getAnimations({ subtree: true });
      dots.remove();
      return length;
    });
  assert.equal(await moving(), 0);
  await page.emulateMedia({ reducedMotion: 'no-preference' });
  assert.equal(await moving(), 1);
  const refused = (body) => page.evaluate((body) => new Promise((done) => {
    try { done(Function.prototype.call.call({ html: () => (document.querySelector('main').innerHTML = '<i></i>'), worker: () => new Worker('https://example.org/x.js') }[body]) && ''); } catch (error) { done(error.name); }
  }), body);
  assert.equal(await refused('html'), 'TypeError');
  assert.equal(await refused('worker'), 'TypeError');
  site.errors.length = 0;
});

test('while an answer grows, neither the former ones nor the whole page are drawn anew', async () => {
  const first = await site.tab();
  await keep(first, 'chat:one', CHAT);
  await first.close();
  const page = await site.tab();
  await page.waitForSelector('#prompt');
  await page.locator('.message.assistant .hljs-keyword').waitFor();
  await page.evaluate(() => {
    globalThis.changes = [];
    const observer = new MutationObserver((list) => changes.push(...list.map(({ target }) => target.nodeName)));
    for (const text of document.querySelectorAll('.message .text')) observer.observe(text, { subtree: true, childList: true, characterData: true, attributes: true });
    // The whole page is styled anew for these.
    observer.observe(document.documentElement, { attributes: true });
  });
  await ask(page, 'And now?');
  assert.equal((await texts(page, 'assistant')).length, 2);
  assert.deepEqual(await page.evaluate('changes'), []);
});

test('the end of a long chat is in view, and stays so while an answer grows, unless the reader has scrolled up; what is far is not laid out', async () => {
  const first = await site.tab();
  // Tall, and short to read for a model whose context is small.
  const messages = Array.from({ length: 8 }, () => [{ role: 'user', content: 'q' }, { role: 'assistant', content: '- a\n'.repeat(30), guessed: [] }]).flat();
  await keep(first, 'chat:one', { ...CHAT, messages });
  await first.close();
  const page = await site.tab();
  await page.waitForSelector('#prompt');
  const isAtEnd = () => page.locator('#conversation').evaluate((view) => view.scrollHeight - view.scrollTop - view.clientHeight < 2);
  const isLaidOut = (place) => page.locator('.message.assistant .tools').nth(place).evaluate((tools) => tools.checkVisibility({ contentVisibilityAuto: true }));
  await until(isAtEnd, true);
  assert.deepEqual([await isLaidOut(0), await isLaidOut(-1)], [false, true]);
  await ask(page, 'And now?');
  await until(isAtEnd, true);
  await page.locator('#conversation').evaluate((view) => (view.scrollTop = 0));
  await until(() => isLaidOut(0), true);
  await ask(page, 'And then?');
  assert.equal(await page.locator('#conversation').evaluate((view) => view.scrollTop), 0);
});

test('an answer fits a schema in the playground, and what cannot be says so', async () => {
  const page = await site.tab();
  await page.getByRole('button', { name: 'Playground' }).click();
  const schema = page.locator('.source');
  await schema.fill('{"type":"object","properties":{"n":{"enum":[1,2]}},"required":["n"],"additionalProperties":false}');
  await page.locator('.lab .primary').click();
  await until(() => page.locator('.lab pre').innerText(), /^\{\s*"n": [12]\s*\}$/);
  await schema.fill('{');
  await page.locator('.lab .primary').click();
  await page.getByRole('alert').getByText('This is no JSON').waitFor();
  // This model was not made for chats, and so not for tools.
  await page.getByRole('button', { name: 'Tools' }).click();
  await page.locator('.lab .primary').click();
  await page.getByRole('alert').getByText('chat template').waitFor();
});

test('a newer version of the page waits until the reader takes it', async () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'foreword-page-'));
  fs.cpSync(path.join(WWW, 'dist'), folder, { recursive: true });
  const server = await serve({ folder });
  try {
    const page = await site.context.newPage();
    await page.goto(`http://127.0.0.1:${server.address().port}/`);
    await page.waitForFunction(() => navigator.serviceWorker.controller);
    assert.equal(await page.getByText('newer version').count(), 0);
    fs.appendFileSync(path.join(folder, 'sw.js'), '// newer');
    await page.evaluate(async () => (await navigator.serviceWorker.ready).update());
    await page.getByText('There is a newer version of this page.').waitFor();
    await page.evaluate('globalThis.old = true');
    await page.getByRole('button', { name: 'Reload' }).click();
    await page.waitForFunction(() => !globalThis.old);
    await page.waitForSelector('.card');
    assert.equal(await page.evaluate(async () => (await navigator.serviceWorker.ready).waiting), null);
    assert.equal(await page.getByText('newer version').count(), 0);
  } finally {
    server.closeAllConnections();
    server.close();
    fs.rmSync(folder, { recursive: true });
  }
});

test('a model that is opened with the installed page is loaded', async () => {
  const { file_handlers: handlers } = JSON.parse(fs.readFileSync(path.join(WWW, 'dist/manifest.webmanifest'), 'utf8'));
  assert.deepEqual(handlers, [{ action: './', accept: { 'application/octet-stream': ['.gguf'] } }]);
  // The system hands files to installed pages only.
  await site.context.addInitScript(() => Object.defineProperty(globalThis, 'launchQueue', { value: { setConsumer: (consumer) => (globalThis.launch = consumer) } }));
  const page = await site.tab(false);
  await page.evaluate(async () => {
    const file = new File([await (await fetch('models/tiny.gguf')).blob()], 'opened.gguf');
    void launch({ files: [{ getFile: async () => file }] });
  });
  await until(() => page.locator('.topbar .name').innerText(), 'opened.gguf');
  await page.waitForSelector('#prompt');
});

test('two models answer beside each other', async () => {
  const page = await site.tab();
  await page.locator('.topbar .model').click();
  await page.fill('#url', `${site.origin}models/other.gguf`);
  await page.keyboard.press('Enter');
  await until(() => page.locator('.topbar .name').innerText(), 'other.gguf');
  await page.waitForSelector('#prompt');
  await page.getByRole('button', { name: 'Compare' }).click();
  await page.locator('.lab select').selectOption({ label: 'tiny.gguf' });
  await page.getByRole('button', { name: 'Load' }).click();
  await page.locator('.both').waitFor();
  await page.getByRole('button', { name: 'Send' }).click();
  await until(() => page.locator('.side .soft').count(), 2);
  assert.deepEqual(await page.locator('.side h2').allInnerTexts(), ['other.gguf', 'tiny.gguf']);
  const sides = await page.locator('.side .text').allInnerTexts();
  assert.ok(sides.every((text) => text.length > 0));
  await page.getByRole('button', { name: 'Unload' }).click();
  await until(() => page.locator('.side').count(), 0);
});

test('nothing was reported in the console', () => {
  assert.deepEqual(site.errors.filter((text) => !text.includes('404')), []);
});
