// The demo page's chats: what two tabs, deletions, edits and reloads make of them. A tiny model of random weights answers at once.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { until } from './browser.mjs';
import { ask, demo, keep, texts, titles, untilIdle, untilTitles, WWW } from './demo.mjs';

let site;
before(async () => (site = await demo()));
beforeEach(() => site.fresh());
after(() => site?.close());
const tab = (loaded) => site.tab(loaded);

test('two tabs keep each other’s chats, and see them at once', async () => {
  const [one, two] = [await tab(), await tab()];
  await ask(one, 'the first');
  await ask(two, 'the other');
  for (const page of [one, two]) await untilTitles(page, 'the first', 'the other');
  await one.reload();
  await untilTitles(one, 'the first', 'the other');
});

test('a chat that goes on in two tabs at the same time is kept twice', async () => {
  const one = await tab();
  await ask(one, 'thing');
  // What another tab wrote without telling this one.
  await keep(one, await one.evaluate(() => new Promise((resolve) => {
    const opening = indexedDB.open('keyval-store');
    opening.onsuccess = () => (opening.result.transaction('keyval').objectStore('keyval').getAllKeys().onsuccess = (e) => resolve(e.target.result.find((key) => key.startsWith('chat:'))));
  })), { id: 'x', title: 'thing', messages: [{ role: 'user', content: 'thing' }, { role: 'assistant', content: 'theirs', guessed: [] }], updated: 1, revision: 99 });
  await ask(one, 'more');
  await one.reload();
  await untilTitles(one, 'thing', 'thing (here)');
});

test('chats of an earlier version are read, also without a model', async () => {
  const page = await tab(false);
  const table = '| a | b |\n|---|---|\n| Language | 1991 |';
  await keep(page, 'chats', [{ id: 'old', title: 'old chat', updated: 1, messages: [{ role: 'user', content: 'q' }, { role: 'assistant', content: table, guessed: [] }] }]);
  await page.reload();
  await page.locator('.chats .title', { hasText: 'old chat' }).click();
  await page.waitForSelector('.message.assistant td');
  assert.equal(await page.evaluate(() => getComputedStyle(document.querySelector('.text td')).overflowWrap), 'normal', 'words of a table stay whole');
  await page.getByText('Choose a model to go on').click();
  await page.waitForSelector('.card');
});

test('a deleted chat comes back, also one that is being answered', async () => {
  const page = await tab();
  await ask(page, 'thing');
  const before = await texts(page, 'assistant');
  await page.locator('.chats li').first().hover();
  await page.locator('.chats [aria-label^="Delete"]').first().click();
  await untilTitles(page);
  await page.locator('.undo button').click();
  await until(() => texts(page, 'assistant'), before);
  // Deleted in the middle of an answer: the composer is free at once.
  await page.fill('#prompt', 'other');
  await page.keyboard.press('Enter');
  await page.locator('.chats [aria-label^="Delete"]').first().click({ force: true });
  await untilTitles(page);
  await untilIdle(page);
  await ask(page, 'next');
  await untilTitles(page, 'next');
});

test('an edit and an answer given again keep the former ones as versions, over a reload, too', async () => {
  const page = await tab();
  await ask(page, 'thing');
  await ask(page, 'other');
  const shown = async () => [await texts(page, 'user'), await texts(page, 'assistant')];
  const former = await shown();
  await page.locator('.message.user').first().hover();
  await page.locator('[aria-label=Edit]').first().click();
  await page.locator('.editing textarea').fill('another');
  await page.locator('.editing .primary').click();
  await until(() => texts(page, 'user'), ['another']);
  await untilIdle(page);
  await page.waitForSelector('[aria-label="Answer again"]');
  const edited = await shown();
  await until(() => page.locator('.versions').innerText(), /2\/2/);
  await page.click('[aria-label="Former version"]');
  await until(shown, former);
  // A version of an answer, in the middle of which the user stops it, inside a version of a question.
  await page.click('[aria-label="Answer again"]');
  await until(() => page.locator('.versions').last().innerText(), /2\/2/);
  await page.waitForSelector('[aria-label="Answer again"]');
  const again = await shown();
  await page.locator('[aria-label="Former version"]').last().click();
  await until(shown, former);
  await page.locator('[aria-label="Next version"]').first().click();
  await until(shown, edited);
  await page.reload();
  await page.waitForSelector('[aria-label="Answer again"]');
  await until(shown, edited);
  await page.click('[aria-label="Former version"]');
  await until(shown, former);
  await page.locator('[aria-label="Next version"]').last().click();
  await until(shown, again);
});

test('versions of messages are put in and taken out without a loss', async () => {
  const { addVersion, dropVersion, showVersion, versionsOf } = await import(path.join(WWW, 'src/chat/versions.js'));
  const said = (content) => ({ role: 'user', content });
  const messages = ['a', 'b', 'c'].map(said);
  const shown = () => messages.map(({ content }) => content).join('');
  addVersion(messages, 1, said('B'));
  messages.push(said('C'));
  addVersion(messages, 2, said('D'));
  addVersion(messages, 1, said('x'));
  assert.equal(shown(), 'ax');
  assert.equal(versionsOf(messages[1]), 3);
  showVersion(messages, 1, 1);
  assert.equal(shown(), 'aBD');
  showVersion(messages, 2, 0);
  assert.equal(shown(), 'aBC');
  showVersion(messages, 1, 0);
  assert.equal(shown(), 'abc');
  showVersion(messages, 1, 2);
  dropVersion(messages, 1);
  assert.equal(shown(), 'aBC');
  dropVersion(messages, 1);
  assert.equal(shown(), 'abc');
  assert.deepEqual(messages[1], said('b'), 'a single version has no place');
  dropVersion(messages, 1);
  assert.equal(shown(), 'a');
});

test('a chat that has outgrown the context goes on without its oldest messages', async () => {
  const settings = await tab(false);
  await keep(settings, 'settings', { contextLength: 256 });
  await settings.close();
  const page = await tab();
  // 256 tokens of a byte each.
  await ask(page, 'a'.repeat(100));
  assert.equal(await page.locator('.forgotten').count(), 0);
  await ask(page, 'b'.repeat(100));
  await page.waitForSelector('.forgotten');
  assert.equal(await page.locator('.message.assistant').count(), 2);
});

test('an answer that became too long is gone on with', async () => {
  const settings = await tab(false);
  await keep(settings, 'settings', { max_tokens: 16, temperature: 0 });
  await settings.close();
  const page = await tab();
  await ask(page, 'thing');
  const [before] = await texts(page, 'assistant');
  await page.locator('.go-on').click();
  await until(async () => ((now) => now.length > before.length && now.startsWith(before.trimEnd().slice(0, -1)))((await texts(page, 'assistant'))[0]), true);
  await untilIdle(page);
  assert.equal(await page.locator('.message').count(), 2);
});

test('what a model thought is apart from its answer', async () => {
  const page = await tab(false);
  await keep(page, 'chat:one', { id: 'one', title: 'one', updated: 1, revision: 1, messages: [{ role: 'user', content: 'q' }, { role: 'assistant', thoughts: 'hm <b>', content: 'yes', guessed: [] }] });
  await page.reload();
  await until(() => texts(page, 'assistant'), ['yes']);
  await page.locator('.thoughts summary').click();
  await page.locator('.thoughts div', { hasText: 'hm <b>' }).waitFor();
});

test('a selection survives an answer', async () => {
  const page = await tab();
  await ask(page, 'thing');
  await page.evaluate(() => {
    document.activeElement.blur();
    getSelection().selectAllChildren(document.querySelector('.message.assistant .text'));
  });
  const selected = await page.evaluate(() => String(getSelection()));
  await page.evaluate(() => {
    document.querySelector('#prompt').value = 'other';
    document.querySelector('.composer').requestSubmit();
  });
  await page.waitForFunction(() => document.querySelectorAll('.message.assistant').length === 2 && document.querySelector('[aria-label=Send]'));
  assert.ok(selected.length > 0);
  assert.equal(await page.evaluate(() => String(getSelection())), selected);
});

/** Opens the only chat of a page without a model: one whose answer is this Markdown. */
async function answered(content) {
  const page = await tab(false);
  await keep(page, 'chat:one', { id: 'one', title: 'one', updated: 1, revision: 1, messages: [{ role: 'user', content: 'q' }, { role: 'assistant', content, guessed: [] }] });
  await page.reload();
  await page.locator('.message.assistant').waitFor();
  return page;
}

test('code has colours and a button that copies it; what is no code has none', async () => {
  const code = 'def f(x):\n    return "<b>" + x  # not <i>bold</i>';
  await site.context.grantPermissions(['clipboard-read', 'clipboard-write']);
  const page = await answered(`- in a list\n\n  \`\`\`python\n  def f(): pass\n  \`\`\`\n\n\`\`\`python\n${code}\n\`\`\`\n\n\`\`\`\nplain\n\`\`\`\n\n<span class="hljs-keyword wide">x</span><pre class="wide">y</pre>`);
  await page.locator('.code .hljs-keyword', { hasText: 'return' }).waitFor();
  await until(() => page.locator('.text li .hljs-keyword').count(), 2);
  assert.deepEqual(await page.locator('.code-head span').allInnerTexts(), ['python', 'python', '', '']);
  assert.equal(await page.locator('.text .wide').count(), 0);
  await page.locator('.copy-code').nth(1).click();
  await until(() => page.evaluate(() => navigator.clipboard.readText()), code);
  await page.locator('.copy-code', { hasText: 'Copied' }).waitFor();
});

test('formulas are drawn, prices are not, and nothing harmful gets in by them', async () => {
  const page = await answered('$5 and $6, $x^2$ and \\(y\\), $\\notacommand{$\n\n$$\n\\frac{a}{b}\n$$\n\nso \\[ \\sum_i i \\] $\\href{javascript:alert(1)}{x}$ $\\text{<img src=x>}$');
  await page.locator('.text math mfrac').waitFor();
  assert.equal(await page.locator('.text math').count(), 5);
  assert.equal(await page.locator('.text math[display=block]').count(), 2);
  assert.match(await page.locator('.text').last().innerText(), /\$5 and \$6/);
  assert.equal(await page.locator('.text :is(img, a, [style])').count(), 0);
});

test('an answer that begins with a list begins where others do', async () => {
  const top = async (content) => {
    const page = await answered(content);
    const gap = await page.evaluate(() => document.querySelector('.assistant .text :is(li, p)').getBoundingClientRect().top - document.querySelector('.user .text').getBoundingClientRect().bottom);
    await page.close();
    return gap;
  };
  const [text, list, loose] = [await top('words'), await top('- one\n- two'), await top('- one\n\n- two')];
  assert.ok(Math.abs(list - text) < 6 && Math.abs(loose - text) < 6 && text < 30, [text, list, loose].join());
});

test('chats are searched, renamed, and started by the keyboard', async () => {
  const page = await tab();
  await ask(page, 'apples and pears');
  await page.keyboard.press('Control+Shift+O');
  await page.locator('.empty').waitFor();
  await ask(page, 'Bread');
  await page.keyboard.press('Control+K');
  await until(() => page.evaluate(() => document.activeElement.id), 'search');
  await page.keyboard.type('PEARS app');
  await untilTitles(page, 'apples and pears');
  await page.keyboard.type('x');
  await untilTitles(page);
  await page.keyboard.press('Escape');
  await untilTitles(page, 'apples and pears', 'Bread');
  await page.locator('.chats li', { hasText: 'Bread' }).hover();
  await page.locator('.chats [aria-label="Rename the chat Bread"]').click();
  await page.locator('.renaming input').fill('Bakery');
  await page.keyboard.press('Enter');
  await untilTitles(page, 'apples and pears', 'Bakery');
  await page.reload();
  await untilTitles(page, 'apples and pears', 'Bakery');
  // The last message of the user's opens from an empty field.
  await page.locator('#prompt').press('ArrowUp');
  await page.locator('.editing textarea').waitFor();
});

test('chats go out as JSON and Markdown, and come back', async () => {
  const page = await answered('**yes**');
  const [markdown] = await Promise.all([page.waitForEvent('download'), page.click('[aria-label="Save the chat as Markdown"]')]);
  assert.equal(markdown.suggestedFilename(), 'one.md');
  assert.equal(fs.readFileSync(await markdown.path(), 'utf8'), '# one\n\n## You\n\nq\n\n## Model\n\n**yes**\n');
  await page.getByRole('button', { name: 'Settings' }).click();
  const [json] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Export' }).click()]);
  const bytes = fs.readFileSync(await json.path());
  const bring = async (buffer, said) => {
    await page.setInputFiles('#settings input[type=file]', { name: 'chats.json', mimeType: 'application/json', buffer: Buffer.from(buffer) });
    await page.locator(':is(.undo, .error)', { hasText: said }).waitFor();
  };
  await bring(bytes, '0 of 1 chats');
  await bring(bytes.toString().replace('**yes**', 'no'), '1 of 1 chats');
  await untilTitles(page, 'one', 'one');
  for (const bad of ['{', '[]', '{"foreword":1,"chats":[{"messages":[{"role":"system","content":"x"}]}]}', '{"foreword":2,"chats":[]}']) await bring(bad, 'cannot be imported');
  await page.locator('#settings [aria-label=Close]').click();
  await page.locator('.chats [aria-label^="Delete"]').first().click({ force: true });
  await untilTitles(page, 'one');
  await page.locator('.chats [aria-label^="Delete"]').first().click({ force: true });
  await untilTitles(page);
  await bring(bytes, '1 of 1 chats');
  await page.reload();
  await untilTitles(page, 'one');
});

test('a download says how fast it is, from its last seconds', async () => {
  const { duration, speedometer } = await import(path.join(WWW, 'src/models/speed.js'));
  let now = 0;
  const meter = speedometer(() => now);
  const speeds = [[0, 0], [500, 1e6], [1000, 2e6], [2000, 4e6], [9000, 4e6], [10_000, 5e6]].map(([at, bytes]) => ((now = at), meter(bytes)));
  assert.deepEqual(speeds, [0, 0, 2e6, 2e6, 0, 1e6]);
  assert.deepEqual([0.2, 89, 90, 3600, 7200].map(duration), ['1 s', '89 s', '2 min', '60 min', '2.0 h']);
});

test('on a phone, what deletes a chat can be seen, and Enter starts a line', async () => {
  await site.fresh({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
  const page = await tab();
  await page.locator('#prompt').pressSequentially('one');
  await page.keyboard.press('Enter');
  await page.keyboard.type('two');
  await until(() => page.inputValue('#prompt'), 'one\ntwo');
  await page.click('[aria-label=Send]');
  await until(() => texts(page, 'user'), ['one\ntwo']);
  await untilIdle(page);
  await page.click('[aria-label=Menu]');
  const bin = page.locator('.chats [aria-label^="Delete"]').first();
  assert.deepEqual(await bin.evaluate((e) => [e, e.parentElement].map((each) => getComputedStyle(each).opacity)), ['1', '1']);
});

test('the page is drawn without its service worker', async () => {
  const page = await site.context.newPage();
  await site.context.route('**/sw.js', (route) => route.fulfill({ status: 500, body: '' }));
  await page.goto(site.origin);
  await page.waitForSelector('.card');
});

test('the licences of what the page contains lie beside it', () => {
  const text = fs.readFileSync(path.join(WWW, 'dist/THIRD-PARTY.txt'), 'utf8');
  for (const name of ['dompurify', 'highlight.js', 'idb-keyval', 'lit-html', 'marked', 'temml', 'uplot', 'hash-wasm', 'minijinja']) assert.match(text, new RegExp(`^${name} \\d`, 'm'), name);
});

test('a chat has an address, and can be pinned; figures stand under an answer', async () => {
  const page = await tab();
  await ask(page, 'The first.');
  await until(() => page.locator('.under').innerText(), /^tiny\.gguf: first word after [\d.]+ s, then [\d.]+ tokens a second/);
  const first = page.url();
  assert.match(first, /#[\d-]+$/);
  await page.getByRole('button', { name: 'New chat' }).click();
  await until(() => page.url(), site.origin);
  await ask(page, 'The second.');
  await until(() => titles(page), ['The second.', 'The first.']);
  await page.goBack();
  await until(() => texts(page, 'user'), ['The first.']);
  assert.equal(page.url(), first);
  await page.getByRole('button', { name: 'Pin the chat The first.' }).click();
  await until(() => titles(page), ['The first.', 'The second.']);
  const other = await site.context.newPage();
  await other.goto(first);
  await until(() => texts(other, 'user'), ['The first.']);
  await until(() => titles(other), ['The first.', 'The second.']);
  await other.getByRole('button', { name: 'Unpin the chat The first.' }).click();
  await until(() => titles(page), ['The second.', 'The first.']);
});

test('the models can be narrowed to a family, and say how fast they will be once one has answered', async () => {
  const page = await tab();
  await page.locator('.topbar .model').click();
  const cards = () => page.locator('.card strong').allInnerTexts();
  await page.getByRole('button', { name: 'Gemma 3', exact: true }).click();
  await until(async () => [...new Set((await cards()).map((name) => name.split(' ').slice(0, 2).join(' ')))], ['Gemma 3']);
  await page.getByRole('button', { name: 'All', exact: true }).click();
  await until(async () => (await cards()).length > 10, true);
  await page.locator('.topbar .model').click();
  await ask(page, 'Hello.');
  await page.reload();
  await page.waitForSelector('#prompt');
  await page.locator('.topbar .model').click();
  await page.locator('.card', { hasText: /About [\d.]+ tokens a second here/ }).first().waitFor();
  await page.getByRole('button', { name: 'Settings' }).click();
  await page.getByRole('button', { name: 'Precise' }).click();
  await until(() => page.getByRole('slider', { name: 'Temperature' }).inputValue(), '0.2');
  await page.setViewportSize({ width: 360, height: 740 });
  await until(() => page.locator('#settings').evaluate((dialog) => dialog.scrollWidth <= dialog.clientWidth), true);
});

test('a page that the browser ended while it loaded or answered says so at the next visit', async () => {
  const page = await tab();
  // The answer is over too soon to be cut off: its note is kept.
  await page.evaluate(() => (Storage.prototype.removeItem = () => {}));
  await ask(page, 'Hello.');
  const crashed = page.waitForEvent('crash');
  void page.goto('chrome://crash').catch(() => {});
  await crashed;
  const next = await tab(false);
  await next.getByRole('alert').getByText(/ended this page while tiny\.gguf was answering/).waitFor();
  await next.getByRole('button', { name: 'Load it with a context of 2048' }).click();
  await next.waitForSelector('#prompt');
  // A page that is left as pages are left says nothing.
  await next.reload();
  await next.waitForSelector('#prompt');
  assert.equal(await next.getByRole('alert').count(), 0);
});
