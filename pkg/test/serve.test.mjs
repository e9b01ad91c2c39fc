// The demo's server, without a browser.
import assert from 'node:assert/strict';
import http from 'node:http';
import { test } from 'node:test';
import { serve } from '../../www/serve.mjs';

test('addresses that are none are not found, and the server goes on', async () => {
  const server = await serve({ folder: import.meta.dirname, models: {} });
  const status = (path) =>
    new Promise((resolve, reject) => {
      http.get({ port: server.address().port, host: '127.0.0.1', path }, (response) => (response.resume(), resolve(response.statusCode))).on('error', reject);
    });
  try {
    for (const path of ['/%', '//', '//x', '/%00', '/models/constructor', '/models/%', '/..%2f..%2fetc/passwd']) assert.equal(await status(path), 404, path);
    assert.equal(await status('/serve.test.mjs'), 200);
  } finally {
    server.close();
  }
});
