// The page of `foreword serve` at FOREWORD_URL in Chromium. The packages of pkg/ have to be installed.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { launch, until } from '../../../pkg/test/browser.mjs';

test('the program shows a page that chats', async () => {
  const browser = await launch();
  try {
    const page = await browser.newPage();
    const fetched = [];
    page.on('request', (request) => fetched.push(new URL(request.url()).pathname));
    page.on('dialog', (dialog) => dialog.accept('secret'));
    await page.goto(process.env.FOREWORD_URL);
    await page.fill('#prompt', 'Name three fruits.');
    await page.keyboard.press('Enter');
    await page.waitForSelector('[aria-label="Write anew"]');
    await until(async () => (await page.locator('.message.assistant .text').innerText()).length > 0, true);
    assert.deepEqual(fetched.filter((path) => /wasm|worker|gguf/.test(path)), []);
  } finally {
    await browser.close();
  }
});
