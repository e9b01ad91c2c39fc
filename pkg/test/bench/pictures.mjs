// Takes the pictures of README, on a machine that has nothing else to do: docs/demo.png and docs/demo-phone.png of the page, docs/terminal.svg of the
// command. One of both kinds is made by its name.
//   npm --prefix www run build && FOREWORD=target/release/foreword node pkg/test/bench/pictures.mjs [page | terminal]
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { serve } from '../../../www/serve.mjs';
import { launch, until } from '../browser.mjs';
import { modelPath, PKG } from '../server.mjs';

const ROOT = path.join(PKG, '..');
const FILE = 'SmolLM2-135M-Instruct.Q4_1.gguf';
const COLUMNS = 110;
const COMMANDS = ['foreword run smollm2-135m "Name three fruits." --temperature 0', 'foreword tokenize smollm2-135m --text "Hello, world!"'];
const CELL = { width: 8.43, height: 19 };
const PADDING = 20;

/** What a command writes to a terminal, colours included. */
function written(command) {
  const own = command.replace(/^foreword/, path.resolve(process.env.FOREWORD ?? path.join(ROOT, 'target/release/foreword')));
  return execFileSync('script', ['-qec', `stty cols ${COLUMNS}; ${own}`, '/dev/null'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] }).replace(/\r/g, '').trimEnd();
}

const escaped = (text) => text.replace(/[&<>]/g, (c) => `&#${c.codePointAt(0)};`);

/** A line with its weights; colours are left to the reader's theme. */
function line(text, row) {
  const spans = text.split(/(?=\x1b\[)/).map((part) => {
    const [, codes = '', words] = /^(?:\x1b\[([\d;]*)m)?([^]*)$/.exec(part);
    const kind = codes.split(';').includes('1') ? ' class="bold"' : codes.split(';').includes('2') ? ' class="dim"' : '';
    return `<tspan${kind}>${escaped(words)}</tspan>`;
  });
  return `<text x="${PADDING}" y="${(PADDING + (row + 0.8) * CELL.height).toFixed(1)}">${spans.join('')}</text>`;
}

function drawTerminal() {
  const lines = COMMANDS.flatMap((command, i) => [...(i ? [''] : []), `\x1b[2m$\x1b[0m \x1b[1m${command}`, ...written(command).split('\n')]);
  const [width, height] = [Math.ceil(COLUMNS * CELL.width) + 2 * PADDING, lines.length * CELL.height + 2 * PADDING];
  const style = 'text { font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, monospace; fill: #e9e6df; white-space: pre } .bold { font-weight: 700 } .dim { fill: #9c988e }';
  const svg = [`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}">`, `<style>${style}</style>`, `<rect width="100%" height="100%" rx="12" fill="#15161a"/>`, ...lines.map(line), '</svg>', ''];
  fs.writeFileSync(path.join(ROOT, 'docs/terminal.svg'), svg.join('\n'));
}

/** The page of a visitor who has loaded the model and asks. */
async function chat(browser, url, options, texts, prepare = async () => {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  await page.goto(url);
  await page.locator('.card').first().click();
  await page.waitForSelector('#prompt');
  // The same words at every taking.
  await page.evaluate(() => document.querySelector('#settings').showModal());
  await page.getByRole('slider', { name: 'Temperature' }).fill('0');
  await page.locator('#settings [aria-label=Close]').click();
  await prepare(page);
  for (const [i, text] of texts.entries()) {
    if (i) await page.getByRole('button', { name: 'New chat' }).first().click();
    await page.fill('#prompt', text);
    await page.locator('.send').click();
    await page.waitForSelector('.under');
  }
  return page;
}

async function photographPage() {
  const server = await serve({ folder: path.join(ROOT, 'www/dist'), models: { [FILE]: modelPath('smol.gguf') } });
  const url = `http://127.0.0.1:${server.address().port}/`;
  const browser = await launch();
  const code = 'Write a Python function that reverses a string.';
  const desktop = await chat(browser, url, { viewport: { width: 1280, height: 800 } }, ['Explain photosynthesis to a child.', code], (page) => page.click('[aria-label=Statistics]'));
  await until(() => desktop.locator('.code .hljs-keyword').count().then(Boolean), true);
  await desktop.mouse.move(700, 600);
  await desktop.screenshot({ path: path.join(ROOT, 'docs/demo.png') });
  const phone = await chat(browser, url, { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true }, [code]);
  await until(() => phone.locator('.code .hljs-keyword').count().then(Boolean), true);
  await phone.screenshot({ path: path.join(ROOT, 'docs/demo-phone.png') });
  await browser.close();
  server.closeAllConnections();
  server.close();
}

const [, , only] = process.argv;
if (only !== 'page') drawTerminal();
if (only !== 'terminal') await photographPage();
