// The demo page, end to end, with screenshots in test/shots.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { launch, until } from './browser.mjs';
import { buildPage, WWW } from './demo.mjs';
import { modelPath } from './server.mjs';

const SHOTS = path.join(import.meta.dirname, 'shots');
const FILE = 'SmolLM2-135M-Instruct.Q4_1.gguf';

let browser, server, context, page;
const errors = [];
/** Waits until the menu has slid in or out. */
const still = () => until(() => page.evaluate(() => document.querySelector('.sidebar').getAnimations().length), 0);
const shot = (name) => page.screenshot({ path: path.join(SHOTS, `${name}.png`) });

before(async () => {
  buildPage();
  fs.mkdirSync(SHOTS, { recursive: true });
  const { serve, sidecars } = await import(path.join(WWW, 'serve.mjs'));
  // No headers: the page must isolate itself, as on a static host.
  server = await serve({ models: { [FILE]: modelPath('smol.gguf'), ...sidecars() }, isolated: false });
  browser = await launch();
  context = await browser.newContext({ viewport: { width: 1280, height: 800 }, permissions: ['clipboard-read', 'clipboard-write'] });
  page = await context.newPage();
  page.setDefaultTimeout(25_000);
  page.on('pageerror', (error) => errors.push(error.message));
  page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
  page.on('request', (request) => assert.ok(request.url().startsWith(origin()) || request.url().startsWith('data:') || request.url().startsWith('blob:'), request.url()));
});
after(async () => {
  await browser?.close();
  server?.closeAllConnections();
  server?.close();
});
const origin = () => `http://127.0.0.1:${server.address().port}/`;
/** Sends a message and waits for the end of its answer: for a button that was not there before. */
async function answered(send) {
  await page.evaluate(() => document.querySelectorAll('[aria-label="Answer again"]').forEach((button) => (button.dataset.old = '')));
  await send();
  await page.waitForSelector('[aria-label="Answer again"]:not([data-old])');
}
async function ask(text) {
  await page.fill('#prompt', text);
  await answered(() => page.keyboard.press('Enter'));
}
const texts = (role) => page.locator(`.message.${role} .text`).allInnerTexts();

test('a model is picked and loaded', async () => {
  await page.goto(origin());
  await page.waitForFunction(() => globalThis.crossOriginIsolated);
  await page.waitForSelector('.card');
  await shot('welcome');
  await page.click('.card');
  await page.waitForSelector('#prompt');
});

test('an answer is written, and its figures are shown', async () => {
  await page.click('[aria-label=Statistics]');
  await ask('Name three fruits.');
  assert.equal((await texts('assistant')).length, 1);
  await page.locator('.panel', { hasText: /Decode\s*[\d.]+ tok\/s/ }).waitFor();
  await shot('chat');
  await page.emulateMedia({ colorScheme: 'dark' });
  await shot('chat-dark');
  await page.click('[aria-label="Close the statistics"]');
});

test('an answer is stopped, and a message edited', async () => {
  await page.fill('#prompt', 'Write a long story about a lighthouse.');
  await page.keyboard.press('Enter');
  await page.click('[aria-label=Stop]');
  await page.waitForSelector('[aria-label=Send]');
  await page.locator('.message.user').last().hover();
  await page.locator('[aria-label=Edit]').last().click();
  await page.locator('.editing textarea').fill('Say hello.');
  await answered(() => page.locator('.editing .primary').click());
  await until(async () => (await texts('user')).at(-1), 'Say hello.');
});

test('the first word of a long prompt comes early where that was switched on', async () => {
  const set = async (system, longest, early) => {
    await page.getByRole('button', { name: 'New chat' }).first().click();
    await page.getByRole('button', { name: 'Settings' }).click();
    await page.getByLabel('System message').fill(system);
    await page.getByRole('slider', { name: 'Longest answer' }).fill(String(longest));
    await page.locator('input[name=early]').setChecked(early);
    await page.locator('#settings [aria-label=Close]').click();
  };
  const waits = async (figures) => {
    await ask(`Summarise: ${'The lighthouse keeper counted the ships that passed in the fog, and wrote them down. '.repeat(24)}`);
    await page.locator('.waits', { hasText: figures }).waitFor();
  };
  await page.click('[aria-label=Statistics]');
  // The system message comes first: with another one, nothing of the prompt is in the cache.
  await set('Be kind.', 16, false);
  await waits(/Read exactly\s*\d+ ms for \d+ tokens\s*Predicted first\s*–/);
  await set('Be brief.', 16, true);
  await waits(/Read exactly\s*\d+ ms for \d+ tokens\s*Predicted first\s*\d+ ms for \d+ tokens/);
  await shot('early');
  await page.click('[aria-label="Close the statistics"]');
  await set('', 512, false);
});

test('guessed words have a colour where that was switched on, and their figures are shown', async () => {
  const set = async (temperature, longest, guesses) => {
    await page.getByRole('button', { name: 'Settings' }).click();
    await page.getByRole('slider', { name: 'Temperature' }).fill(String(temperature));
    await page.getByRole('slider', { name: 'Longest answer' }).fill(String(longest));
    await page.locator('input[name=guesses]').setChecked(guesses);
    await page.locator('#settings [aria-label=Close]').click();
  };
  await page.getByRole('button', { name: 'New chat' }).first().click();
  await page.click('[aria-label=Statistics]');
  await set(0, 96, false);
  await ask('Correct the spelling: The lighthouse keeper counted the ships that past in the fog. He wrote there names into a large book, and the book was never red by anyone.');
  const marks = page.locator('.message.assistant mark');
  const plain = await texts('assistant');
  assert.equal(await marks.count(), 0);
  await page.locator('.guesses', { hasText: /Tokens a forward\s*\d\.\d+ \(\d\.\d+\)\s*Guesses\s*\d+ \(\d+\)\s*Right\s*\d+ % \(\d+ %\)/ }).waitFor();
  await set(0, 96, true);
  await marks.first().waitFor();
  await until(() => texts('assistant'), plain);
  const colour = (selector) => page.locator(selector).first().evaluate((e) => getComputedStyle(e).color);
  assert.notEqual(await colour('.message.assistant mark'), await colour('.message.assistant .text'));
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    await shot(`guesses-${colorScheme}`);
  }
  await set(0.7, 512, true);
  await page.click('[aria-label="Close the statistics"]');
});

test('colours find their words in Markdown, and nothing harmful gets in by them', async () => {
  const { build } = await import(path.join(WWW, 'node_modules/esbuild/lib/main.js'));
  const bundle = await build({ entryPoints: [path.join(WWW, 'src/chat/markdown.js')], bundle: true, format: 'iife', globalName: 'markdown', write: false });
  const blank = await browser.newPage();
  await blank.addScriptTag({ content: bundle.outputFiles[0].text });
  const html = (text, ...words) => {
    const coloured = words.map((word) => [text.lastIndexOf(word), text.lastIndexOf(word) + word.length]);
    return blank.evaluate((args) => markdown.toHtml(...args), [text, coloured]);
  };
  const plain = '**bold** and `code`';
  assert.equal(await html(plain), '<p><strong>bold</strong> and <code>code</code></p>\n');
  assert.equal(await html(plain, '**bo', ' and `co'), '<p><strong><mark>bo</mark>ld</strong><mark> and </mark><code><mark>co</mark>de</code></p>\n');
  assert.match(await html('1. one\n\n   ```x\n   let x;\n   }\n   ```\n', 'x;\n   }'), /let <mark>x;<\/mark>\n<mark>}<\/mark>/);
  assert.match(await html('[here](https://x.y/here) here', ' here'), />here<\/a><mark> here<\/mark>/);
  assert.match(await html('| a | b |\n|---|---|\n| c \\*d | e |', 'd | e'), /c \*<mark>d<\/mark><\/td>\s*<td><mark>e<\/mark>/);
  const evil = '<img src=x onerror=alert(1)>\ue000<mark>a</mark> [b](javascript:alert(1)) `<i>`';
  const safe = '<p><mark>\ufffd</mark><mark>a</mark><mark> </mark><a target="_blank" rel="noopener noreferrer"><mark>b</mark></a><mark> </mark><code><mark>&lt;i&gt;</mark></code></p>\n';
  assert.equal(await html(evil, evil), safe);
  await blank.close();
});

test('the keyboard is enough', async () => {
  await page.locator('#prompt').focus();
  await page.keyboard.type('Count to ninety.');
  await page.keyboard.press('Enter');
  await page.waitForSelector('[aria-label=Stop]');
  await page.keyboard.press('Escape');
  await page.waitForSelector('[aria-label=Send]');
  await until(() => page.evaluate(() => document.activeElement.id), 'prompt');
  // Every control has a name that a screen reader can say.
  const unnamed = await page.evaluate(() =>
    [...document.querySelectorAll('button, input, textarea, a')].filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).map((e) => e.outerHTML),
  );
  assert.deepEqual(unnamed, []);
});

test('the chat survives a reload, without a network', async () => {
  const before = await texts('user');
  await context.setOffline(true);
  await page.reload();
  await page.waitForSelector('#prompt');
  await until(() => texts('user'), before);
  await ask('And once more.');
  // What is not on the device cannot be had now, and the page says why.
  await page.locator('.topbar .model').click();
  await page.locator('.card', { hasText: 'Gemma 3 270M' }).click();
  await page.locator('[role=alert]', { hasText: 'no network' }).waitFor();
  await page.locator('.card', { hasText: 'SmolLM2 135M' }).click();
  await page.waitForSelector('#prompt');
  await context.setOffline(false);
});

test('a phone', async () => {
  await page.setViewportSize({ width: 390, height: 844 });
  await page.waitForFunction(() => document.documentElement.scrollWidth <= innerWidth);
  await still();
  await shot('phone-dark');
  await page.click('[aria-label=Menu]');
  await page.waitForSelector('.menu-open');
  await still();
  await shot('phone-menu');
  await page.locator('.sidebar .primary').click();
  await page.emulateMedia({ colorScheme: 'light' });
  await page.waitForSelector('.shell:not(.menu-open)');
  await still();
  await shot('phone');
});

test('the benchmark can be copied as Markdown', async () => {
  await page.setViewportSize({ width: 1280, height: 800 });
  await page.getByText('Benchmark').click();
  await page.locator('.bench .primary').click();
  // It reads 2048 tokens in all, which takes a busy machine longer than anything else here.
  await page.getByText('Copy as Markdown').click({ timeout: 120_000 });
  await until(() => page.evaluate(() => navigator.clipboard.readText()), /^\| model \| backend/);
  await shot('bench');
});

test('another backend is chosen where it is measured', async () => {
  await page.locator('.bench').getByText('CPU', { exact: true }).click();
  await page.getByText('WASM was asked for').first().waitFor();
  await page.locator('.bench .primary').waitFor();
});

test('a wrong address says so, and the page goes on', async () => {
  await page.locator('.topbar .model').click();
  await page.fill('#url', `${origin()}models/none.gguf`);
  await page.keyboard.press('Enter');
  await page.locator('[role=alert]', { hasText: 'no file' }).waitFor();
  await page.click('.card');
  await page.waitForSelector('#prompt');
});

test('nothing was reported in the console', () => {
  assert.deepEqual(errors.filter((e) => !/404|ERR_INTERNET_DISCONNECTED/.test(e)), []);
});
