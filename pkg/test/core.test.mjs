// The core's own tests (op tests, tensor types, families, golden log-probabilities), compiled to WASM by wasm-bindgen-test
// and run in a browser. `run.mjs` compiles them before, which takes minutes and has no limit of time.
import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { GPU, launch, withPage } from './browser.mjs';
import { BUILDS, OUT, ROOT } from './core.mjs';
import { start } from './server.mjs';

/** The software GPU compiles some hundred kernels for the op tests, one a second: as long as several tests in a page. */
const PATIENCE_MS = 600_000;

let browser, server;
before(async () => {
  server = await start({ folders: { core: OUT, data: path.join(ROOT, 'tests/data') } });
  browser = await launch({ args: GPU });
});
after(async () => {
  await browser?.close();
  server?.close();
});

for (const [name, { files }] of Object.entries(BUILDS)) {
  for (const file of files) {
    test(`${file}, ${name}`, { timeout: PATIENCE_MS }, () =>
      withPage(browser, server.url, async (page) => {
        page.setDefaultTimeout(0);
        const result = await page.evaluate(
          (url) =>
            new Promise((resolve) => {
              const worker = new Worker(url, { type: 'module' });
              worker.onmessage = ({ data }) => resolve(data);
              worker.onerror = (event) => resolve({ passed: false, n: 0, text: event.message });
            }),
          `/core/${name}-${file}-worker.js`,
        );
        assert.ok(result.passed && result.n > 0, result.text);
      }, undefined, PATIENCE_MS),
    );
  }
}
