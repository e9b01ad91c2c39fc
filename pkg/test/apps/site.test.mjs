// The documentation site: built, its links followed, its examples run. Screenshots lie in test/shots.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { launch } from '../browser.mjs';
import { modelPath, PKG, start } from '../server.mjs';

const SITE = path.join(PKG, '../www/site');
const SHOTS = path.join(PKG, 'test/shots');
const MODEL = 'SmolLM2-135M-Instruct.Q4_1.gguf';
const CORS = { 'access-control-allow-origin': '*' };
const dist = path.join(SITE, 'dist');
const pages = () => fs.readdirSync(dist, { recursive: true }).filter((name) => name.endsWith('.html') && name !== '404.html');

let browser, server;
before(async () => {
  if (!fs.existsSync(path.join(SITE, 'node_modules'))) execFileSync('npm', ['ci'], { cwd: SITE, stdio: 'inherit' });
  execFileSync('npm', ['run', 'build'], { cwd: SITE, stdio: 'inherit' });
  fs.mkdirSync(SHOTS, { recursive: true });
  // No headers: the site must isolate itself, as on a static host.
  server = await start({ folders: { site: dist }, isolated: false, more: CORS });
  browser = await launch();
});
after(async () => {
  await browser?.close();
  server?.close();
});

/** A page of the site, isolated, which gets the hub's model from the test's server. */
async function open(name, { context, ...options } = {}) {
  context ??= await browser.newContext(options);
  const errors = [];
  await context.route(/^https:/, (route) => {
    const isModel = new URL(route.request().url()).pathname.endsWith(`/${MODEL}`);
    return isModel ? route.fulfill({ status: 302, headers: { ...CORS, location: `${server.url}/${MODEL}` } }) : route.abort();
  });
  const page = await context.newPage();
  page.on('pageerror', (error) => errors.push(error.message));
  await page.goto(`${server.url}/site/${name}`);
  await page.waitForFunction('crossOriginIsolated');
  return { page, errors, close: () => context.close() };
}

test('no link within the site is dead', () => {
  const dead = [];
  const ids = new Map();
  const idsOf = (name) => {
    if (!ids.has(name)) ids.set(name, new Set([...fs.readFileSync(path.join(dist, name), 'utf8').matchAll(/ id="([^"]+)"/g)].map(([, id]) => id)));
    return ids.get(name);
  };
  let followed = 0;
  for (const page of pages()) {
    for (const [, link] of fs.readFileSync(path.join(dist, page), 'utf8').matchAll(/ (?:href|src)="([^"]+)"/g)) {
      const url = new URL(link.replaceAll('&amp;', '&'), `http://site/site/${page}`);
      if (url.host !== 'site') continue;
      followed++;
      const inside = /^\/site\/(.*)$/.exec(decodeURIComponent(url.pathname))?.[1];
      const name = inside?.replace(/(^|\/)$/, '$1index.html');
      const isThere = name !== undefined && fs.existsSync(path.join(dist, name));
      const hash = decodeURIComponent(url.hash.slice(1));
      if (!isThere || (hash && name.endsWith('.html') && !idsOf(name).has(hash))) dead.push(`${page}: ${link}`);
    }
  }
  assert.deepEqual(dead, []);
  assert.ok(followed > 1000, `${followed} links`);
});

test('everything that can be imported has a page in the reference', () => {
  const entries = { index: ['Foreword', 'ForewordError', 'Stream', 'LoadOptions', 'ChatCompletionRequest', 'ModelSource'], 'ai-sdk': ['aiSdk'], 'prompt-api': ['languageModel', 'LanguageModel'] };
  for (const [entry, expected] of Object.entries(entries)) {
    const names = fs.readdirSync(path.join(dist, 'api', entry), { recursive: true }).map((file) => path.basename(file, '.html'));
    for (const name of expected) assert.ok(names.includes(name), `${entry}: ${name}`);
  }
});

test('every live example of the site runs as it stands there', async () => {
  const context = await browser.newContext();
  const tried = [];
  for (const name of pages().filter((page) => fs.readFileSync(path.join(dist, page), 'utf8').includes('class="live"'))) {
    const { page, errors } = await open(name, { context });
    for (const example of await page.locator('.live').all()) {
      await example.locator('.live-run').click();
      await example.and(page.locator('[data-state=done], [data-state=failed]')).waitFor({ timeout: 240_000 });
      const text = await example.locator('output').innerText();
      assert.equal(await example.getAttribute('data-state'), 'done', `${name}: ${text}`);
      assert.ok(text.trim().split(/\s+/).length > 3, `${name}: ${text}`);
      tried.push(text);
    }
    assert.deepEqual(errors, []);
    await page.close();
  }
  await context.close();
  assert.ok(tried.length >= 5, `${tried.length} examples`);
});

test('an example that is changed runs as changed, and says what went wrong', async () => {
  const { page, close } = await open('docs/start.html');
  const example = page.locator('.live').first();
  await example.getByRole('button', { name: 'Edit' }).click();
  for (const [code, state, text] of [
    ["import { Foreword } from 'foreword';\noutput.append(Foreword.models[0].name);", 'done', 'smollm2-135m'],
    ["import { Foreword } from 'foreword';\nawait Foreword.load('nothing');", 'failed', /There is no file at .*nothing/],
  ]) {
    await example.locator('textarea').fill(code);
    await example.locator('.live-run').click();
    await example.and(page.locator(`[data-state=${state}]`)).waitFor({ timeout: 60_000 });
    assert.match(await example.locator('output').innerText(), new RegExp(text));
  }
  await close();
});

test('pages fit phones and desks, in light and dark', async () => {
  for (const [width, height] of [[360, 740], [1280, 800]]) {
    for (const colorScheme of ['light', 'dark']) {
      for (const name of ['', 'docs/start.html', 'docs/speed.html', 'api/index/interfaces/LoadOptions.html', 'pkg/index.html']) {
        const { page, close } = await open(name, { viewport: { width, height }, colorScheme });
        await page.screenshot({ path: path.join(SHOTS, `site-${name.replace(/\W/g, '-') || 'home'}-${width}-${colorScheme}.png`) });
        const wide = await page.evaluate(() => document.documentElement.scrollWidth);
        assert.ok(wide <= width, `${name} is ${wide} px wide in ${width}`);
        await close();
      }
    }
  }
});
