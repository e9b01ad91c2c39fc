// The page that `foreword serve` shows, over a server that stands in for it. `./test apps` tries it over the program itself.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { launch, until } from './browser.mjs';
import { buildPage, WWW } from './demo.mjs';
import { start } from './server.mjs';

const KEY = 'secret';

let browser, server, page;
const asked = [];
const json = (response, value, status = 200) => response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
const isLetIn = ({ headers }) => headers.authorization === `Bearer ${KEY}`;

async function answer(request, response) {
  let text = '';
  for await (const piece of request) text += piece;
  asked.push(JSON.parse(text));
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  for (const content of ['Hello ', 'there']) response.write(`data: ${JSON.stringify({ choices: [{ index: 0, delta: { content } }] })}\n\n`);
  response.end('data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n');
}

before(async () => {
  buildPage();
  const files = fs.readdirSync(path.join(WWW, 'dist'), { withFileTypes: true }).filter((entry) => entry.isFile());
  const type = (name) => ({ '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' })[path.extname(name)] ?? 'text/plain';
  const send = (name) => (request, response) => response.writeHead(200, { 'content-type': type(name) }).end(fs.readFileSync(path.join(WWW, 'dist', name)));
  const routes = Object.fromEntries(files.map(({ name }) => [`/${name}`, send(name)]));
  server = await start({
    isolated: false,
    routes: {
      ...routes,
      '/': send('served.html'),
      '/v1/models': (request, response) => (isLetIn(request) ? json(response, { data: [{ id: 'first' }, { id: 'second' }] }) : json(response, { error: { message: 'no key' } }, 401)),
      '/v1/chat/completions': answer,
    },
  });
  browser = await launch();
  page = await browser.newPage();
  page.setDefaultTimeout(25_000);
});
after(async () => {
  await browser?.close();
  server?.close();
});

test('the page asks for a key, chats with the model of the server and downloads no WASM', async () => {
  const prompts = [];
  page.on('dialog', (dialog) => (prompts.push(dialog.message()), dialog.accept(prompts.length > 1 ? KEY : 'wrong')));
  await page.goto(server.url);
  await page.waitForSelector('#prompt');
  assert.equal(prompts.length, 2, 'a wrong key is asked for again');
  await page.fill('#prompt', 'Hi');
  await page.keyboard.press('Enter');
  await until(async () => (await page.locator('.message.assistant .text').allInnerTexts()).at(-1)?.trim(), 'Hello there');
  const { model, messages, stream } = asked.at(-1);
  assert.deepEqual({ model, messages, stream }, { model: 'first', messages: [{ role: 'user', content: 'Hi' }], stream: true });
  const fetched = server.requests.map(({ url }) => url).filter((url) => /\.wasm|worker|sw\.js|models\/|^\/(?!v1\/).*gguf/.test(url));
  assert.deepEqual(fetched, []);
});

test('another model of the server is chosen, and is there again after a reload', async () => {
  await page.click('.model');
  await page.locator('.card', { hasText: 'second' }).click();
  await until(() => page.locator('.model .name').innerText(), 'second');
  await page.reload();
  await until(() => page.locator('.model .name').innerText(), 'second');
  await page.locator('.message.assistant .text', { hasText: 'Hello there' }).waitFor();
  await page.fill('#prompt', 'More');
  await page.keyboard.press('Enter');
  await until(() => asked.at(-1).messages.length, 3);
  assert.equal(asked.at(-1).model, 'second');
});
