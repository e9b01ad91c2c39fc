// A server for tests: the package and the models, with whatever misbehaviour a test asks for.
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';

export const PKG = path.resolve(import.meta.dirname, '..');
const MODELS = { 'smol.gguf': 'SmolLM2-135M-Instruct.Q4_1.gguf', 'gemma.gguf': 'gemma-3-270m-q4_k_m.gguf' };
const CLAIMS = { '/large.gguf': 3e9, '/huge.gguf': 2e13 };
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.wasm': 'application/wasm', '.json': 'application/json', '.svg': 'image/svg+xml' };

/** A model of 150 KB with random weights. */
export const tiny = fs.readFileSync(path.join(PKG, '../tests/data/models/llama.gguf'));

/** A model of the command line's cache. */
export function modelPath(name) {
  const base = process.env.XDG_CACHE_HOME ?? path.join(os.homedir(), '.cache');
  const folders = [process.env.FOREWORD_MODELS, process.env.FOREWORD_CACHE, path.join(base, 'foreword')].filter(Boolean);
  const found = folders.map((folder) => path.join(folder, MODELS[name])).find((file) => fs.existsSync(file));
  if (!found) throw new Error(`${MODELS[name]} is not in ${folders.join(', ')}: run ./test, which fetches it`);
  return found;
}

/**
 * Starts a server. `/page.gguf` is a web page, `/cut.gguf` the beginning of a model, `/large.gguf` claims 3 GB and `/huge.gguf` 20 TB;
 * `/smol.gguf?drop=N` closes the first connection after N bytes; `?slow` sends 2 MiB a second, `?slow=50` ten times as much;
 * `?rate=N` sends N bytes a second, and `?hold` half of the file until `release()`; `/models/NAME.gguf` are the tiny ones of the repository;
 * `?norange` knows no ranges; `?etag` is a new version at every request. `requests` lists them with their ranges, those of models also with the bytes sent.
 * `more` are further headers of everything; `routes` maps paths to `(request, response, headers)`.
 */
export async function start({ isolated = true, folders = {}, more = {}, routes = {} } = {}) {
  const requests = [];
  const dropped = new Set();
  /** Answers that wait for `release()`. */
  const held = new Set();
  const headers = {
    ...(isolated && { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' }),
    ...more,
  };
  const server = http.createServer((request, response) => {
    const url = new URL(request.url, 'http://x');
    if (url.pathname in routes) {
      requests.push({ url: request.url, range: request.headers.range, headers: request.headers });
      return routes[url.pathname](request, response, headers);
    }
    if (url.pathname === '/tiny.gguf') {
      requests.push({ url: request.url, range: request.headers.range });
      return response.writeHead(200, { ...headers, 'content-length': tiny.length, etag: '"1"' }).end(tiny);
    }
    if (url.pathname === '/') return response.writeHead(200, { ...headers, 'content-type': 'text/html' }).end('<title>test</title>');
    if (url.pathname === '/page.gguf') return response.writeHead(200, headers).end('<!doctype html>');
    if (url.pathname in CLAIMS && request.method === 'HEAD') return response.writeHead(200, { ...headers, 'content-length': CLAIMS[url.pathname] }).end();
    if (url.pathname in CLAIMS) return response.writeHead(200, { ...headers, 'content-length': CLAIMS[url.pathname] }).write('GGUF');
    if (url.pathname === '/cut.gguf') return sendCut(response, headers);
    const inFolder = url.pathname.split('/')[1] in folders;
    if (inFolder || !url.pathname.endsWith('.gguf')) return sendFile(url.pathname, response);
    const count = { url: request.url, range: request.headers.range, sent: 0 };
    requests.push(count);
    const tinyFile = path.join(PKG, '../tests/data', url.pathname);
    const file = url.pathname.startsWith('/models/') && fs.existsSync(tinyFile) ? tinyFile : modelFile(path.basename(url.pathname));
    if (!file || !fs.existsSync(file)) return response.writeHead(404, headers).end();
    sendModel(url, request, response, file, count);
  });

  function modelFile(name) {
    const short = Object.keys(MODELS).find((key) => key === name || MODELS[key] === name);
    return short && modelPath(short);
  }

  function sendFile(name, response) {
    const [, first, rest] = /^\/([^/]+)\/?(.*)$/.exec(name);
    const file = first in folders ? path.join(folders[first], rest || 'index.html') : path.join(PKG, name);
    if (!fs.statSync(file, { throwIfNoEntry: false })?.isFile()) return response.writeHead(404, headers).end();
    response.writeHead(200, { ...headers, 'content-type': TYPES[path.extname(file)] ?? 'application/octet-stream' });
    fs.createReadStream(file).pipe(response);
  }

  function sendCut(response, extra) {
    const bytes = fs.readFileSync(modelFile('smol.gguf')).subarray(0, 3 << 20);
    response.writeHead(200, { ...extra, 'content-length': bytes.length }).end(bytes);
  }

  function sendModel(url, request, response, file, count) {
    const { size } = fs.statSync(file);
    const match = url.searchParams.has('norange') ? null : /^bytes=(\d+)-$/.exec(request.headers.range ?? '');
    const from = Number(match?.[1] ?? 0);
    response.writeHead(match ? 206 : 200, {
      ...headers,
      'content-length': size - from,
      etag: `"${url.searchParams.has('etag') ? requests.length : 1}"`,
      ...(match && { 'content-range': `bytes ${from}-${size - 1}/${size}` }),
    });
    const rate = Number(url.searchParams.get('rate') ?? 0);
    const half = url.searchParams.has('hold') ? size >> 1 : 0;
    const stream = fs.createReadStream(file, { start: from, highWaterMark: rate ? Math.ceil(rate / 20) : half || 1 << 20 });
    const drop = Number(url.searchParams.get('drop') ?? 0);
    stream.on('data', (chunk) => {
      count.sent += chunk.length;
      if (drop && !dropped.has(request.url) && count.sent > drop) {
        dropped.add(request.url);
        stream.destroy();
        return response.destroy();
      }
      const isWritten = response.write(chunk);
      if (half && from + count.sent >= half) {
        stream.pause();
        held.add(() => stream.resume());
      } else if (!isWritten || rate || url.searchParams.has('slow')) {
        stream.pause();
        if (rate) setTimeout(() => stream.resume(), (1000 * chunk.length) / rate);
        else if (url.searchParams.has('slow')) setTimeout(() => stream.resume(), Number(url.searchParams.get('slow')) || 500);
        else response.once('drain', () => stream.resume());
      }
    });
    stream.on('end', () => response.end());
    response.on('close', () => stream.destroy());
  }

  server.listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const url = `http://127.0.0.1:${server.address().port}`;
  const release = () => {
    held.forEach((go) => go());
    held.clear();
  };
  return { url, requests, release, close: () => (server.closeAllConnections(), server.close()) };
}
