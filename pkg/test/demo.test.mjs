// The demo page, end to end, with screenshots in test/shots.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { launch } from './browser.mjs';
import { modelPath, PKG } from './server.mjs';

const WWW = path.join(PKG, '../www');
const SHOTS = path.join(import.meta.dirname, 'shots');
const FILE = 'SmolLM2-135M-Instruct.Q4_1.gguf';

let browser, server, context, page;
const errors = [];
const shot = (name) => page.screenshot({ path: path.join(SHOTS, `${name}.png`) });

before(async () => {
  if (!fs.existsSync(path.join(WWW, 'node_modules'))) execFileSync('npm', ['ci'], { cwd: WWW, stdio: 'inherit' });
  execFileSync('npm', ['run', 'build'], { cwd: WWW, stdio: 'inherit' });
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
  await page.evaluate(() => document.querySelectorAll('[aria-label="Write anew"]').forEach((button) => (button.dataset.old = '')));
  await send();
  await page.waitForSelector('[aria-label="Write anew"]:not([data-old])');
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
  assert.equal((await texts('user')).at(-1), 'Say hello.');
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

test('the keyboard is enough', async () => {
  await page.locator('#prompt').focus();
  await page.keyboard.type('Count to ninety.');
  await page.keyboard.press('Enter');
  await page.waitForSelector('[aria-label=Stop]');
  await page.keyboard.press('Escape');
  await page.waitForSelector('[aria-label=Send]');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'prompt');
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
  assert.deepEqual(await texts('user'), before);
  await ask('And once more.');
  // What is not on the device cannot be had now, and the page says why.
  await page.locator('.topbar .model').click();
  await page.locator('.card', { hasText: 'Gemma' }).click();
  assert.match(await page.locator('[role=alert]').innerText(), /no network/);
  await page.locator('.card', { hasText: 'SmolLM2' }).click();
  await page.waitForSelector('#prompt');
  await context.setOffline(false);
});

test('a phone', async () => {
  await page.setViewportSize({ width: 390, height: 844 });
  await page.waitForFunction(() => document.documentElement.scrollWidth <= innerWidth);
  await shot('phone-dark');
  await page.click('[aria-label=Menu]');
  await page.waitForTimeout(400);
  await shot('phone-menu');
  await page.locator('.sidebar .primary').click();
  await page.emulateMedia({ colorScheme: 'light' });
  await page.waitForTimeout(400);
  await shot('phone');
});

test('the benchmark can be copied as Markdown', async () => {
  await page.setViewportSize({ width: 1280, height: 800 });
  await page.getByText('Benchmark').click();
  await page.locator('.bench .primary').click();
  await page.getByText('Copy as Markdown').click();
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^\| model \| backend/);
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
  assert.match(await page.locator('[role=alert]').innerText(), /no file/);
  await page.click('.card');
  await page.waitForSelector('#prompt');
});

test('nothing was reported in the console', () => {
  assert.deepEqual(errors.filter((e) => !/404|ERR_INTERNET_DISCONNECTED/.test(e)), []);
});
