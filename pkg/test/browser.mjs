// Chromium for tests.
import { chromium } from 'playwright-core';

const QUIET = ['--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run', '--disable-quic'];

export function launch(options = {}) {
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
  return chromium.launch({ executablePath, args: ['--headless=new', '--no-sandbox', ...QUIET], ...options });
}

/** A page in a fresh profile; what `job` throws in it arrives here as `{code, message}`. */
export async function withPage(browser, url, job, context) {
  const fresh = context ?? (await browser.newContext());
  const page = await fresh.newPage();
  page.setDefaultTimeout(120_000);
  try {
    await page.goto(url);
    return await job(page, fresh);
  } finally {
    await (context ? page.close() : fresh.close());
  }
}

/** Runs a function in the page with the package; an error of the package becomes `{code, message}`. */
export function inPage(page, body, args = {}) {
  return page.evaluate(
    async ([source, values]) => {
      const { Foreword } = await import('/dist/index.js');
      try {
        return await new Function('Foreword', 'args', `return (${source})(Foreword, args)`)(Foreword, values);
      } catch (error) {
        return { code: error.code ?? error.name, message: error.message };
      }
    },
    [body.toString(), args],
  );
}
