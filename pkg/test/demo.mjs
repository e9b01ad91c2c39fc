// The demo page for tests: a browser, its server, and tabs with a tiny model of random weights, which answers at once.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { launch, until } from './browser.mjs';
import { PKG } from './server.mjs';

export const WWW = path.join(PKG, '../www');
const TINY = path.join(PKG, '../tests/data/models/llama.gguf');

/** Builds the page into www/dist, unless `run.mjs` has done so for all files. */
export function buildPage() {
  if (process.env.FOREWORD_PAGE_BUILT) return;
  if (!fs.existsSync(path.join(WWW, 'node_modules'))) execFileSync('npm', ['ci'], { cwd: WWW, stdio: 'inherit' });
  execFileSync('npm', ['run', 'build'], { cwd: WWW, stdio: 'inherit' });
}

/** Builds the page, serves it and starts a browser. `options` are those of its contexts; `context` is replaced by `fresh`. */
export async function demo(options = {}) {
  buildPage();
  const { serve } = await import(path.join(WWW, 'serve.mjs'));
  const server = await serve({ models: { 'tiny.gguf': TINY, 'other.gguf': TINY }, isolated: true });
  const browser = await launch();
  const origin = `http://127.0.0.1:${server.address().port}/`;
  const self = {
    browser,
    origin,
    context: undefined,
    /** What pages reported in the console. */
    errors: [],
    /** Another profile. */
    async fresh(more = {}) {
      await self.context?.close();
      self.context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options, ...more });
      self.context.setDefaultTimeout(25_000);
    },
    /** A tab, with a model where `loaded`. */
    async tab(loaded = true) {
      const page = await self.context.newPage();
      page.on('pageerror', (error) => self.errors.push(error.message));
      page.on('console', (message) => message.type() === 'error' && self.errors.push(message.text()));
      await page.goto(origin);
      // A second tab loads by itself what the first one has kept.
      if (loaded && !(await page.evaluate(() => localStorage.getItem('model')))) {
        await page.fill('#url', `${origin}models/tiny.gguf`);
        await page.keyboard.press('Enter');
      }
      if (loaded) await page.waitForSelector('#prompt');
      return page;
    },
    async close() {
      await browser.close();
      server.closeAllConnections();
      server.close();
    },
  };
  return self;
}

export async function ask(page, text) {
  const n = await page.locator('.message.assistant').count();
  await page.fill('#prompt', text);
  await page.keyboard.press('Enter');
  await page.waitForFunction((n) => document.querySelectorAll('.message.assistant').length > n && document.querySelector('.send'), n);
}
export const titles = (page) => page.locator('.chats .title').allInnerTexts();
/** Waits for chats of these titles, in any order. */
export const untilTitles = (page, ...expected) => until(async () => (await titles(page)).sort(), expected.sort());
/** Waits until nothing is being answered. */
export const untilIdle = (page) => page.waitForSelector('.send');
export const texts = (page, role) => page.locator(`.message.${role} .text`).allInnerTexts();
/** Puts a value into the page's store, as an earlier visit would have. */
export const keep = (page, key, value) =>
  page.evaluate(
    ([key, value]) =>
      new Promise((resolve, reject) => {
        const opening = indexedDB.open('keyval-store');
        opening.onupgradeneeded = () => opening.result.createObjectStore('keyval');
        opening.onsuccess = () => {
          const writing = opening.result.transaction('keyval', 'readwrite');
          writing.objectStore('keyval').put(value, key);
          writing.oncomplete = () => (opening.result.close(), resolve());
          writing.onerror = reject;
        };
      }),
    [key, value],
  );
