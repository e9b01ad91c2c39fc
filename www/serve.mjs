// Serves dist/ with the headers of cross-origin isolation, and models/ from the command line's cache.
// `--build` builds everything first; `--port N` (default 8080).
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { parseArgs } from 'node:util';

const here = import.meta.dirname;
const root = path.resolve(here, '..');
const DEFAULT_MODEL = 'smollm2-135m';
const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm',
  '.webmanifest': 'application/manifest+json',
};

function run(command, args, options = {}) {
  const { status, stdout } = spawnSync(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'], encoding: 'utf8', ...options });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed`);
  return stdout?.trim();
}

/** The page of `folder` and the models of `models` (file names to paths). Resolves to the listening server. */
export async function serve({ folder = path.join(here, 'dist'), models = {}, port = 0, isolated = true } = {}) {
  const headers = isolated ? { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' } : {};
  const server = http.createServer((request, response) => {
    const file = fileOf(request.url, folder, models);
    const stat = file && fs.statSync(file, { throwIfNoEntry: false });
    if (!stat?.isFile()) return response.writeHead(404, headers).end();
    send(request, response, file, stat, headers);
  });
  server.listen(port, '127.0.0.1');
  await new Promise((resolve, reject) => server.once('listening', resolve).once('error', reject));
  return server;
}

/** The file of an address; nothing where that is none. */
function fileOf(address, folder, models) {
  try {
    const name = decodeURIComponent(new URL(`http://x${address}`).pathname);
    if (name.includes('\0')) return undefined;
    if (name.startsWith('/models/')) return Object.hasOwn(models, name.slice(8)) ? models[name.slice(8)] : undefined;
    return path.join(folder, path.normalize(name.endsWith('/') ? `${name}index.html` : name));
  } catch {
    return undefined;
  }
}

function send(request, response, file, stat, headers) {
  const [, from] = /^bytes=(\d+)-$/.exec(request.headers.range ?? '') ?? [];
  const start = Number(from ?? 0);
  if (start >= stat.size && from) return response.writeHead(416, { ...headers, 'content-range': `bytes */${stat.size}` }).end();
  response.writeHead(from ? 206 : 200, {
    ...headers,
    'content-type': TYPES[path.extname(file)] ?? 'application/octet-stream',
    'content-length': stat.size - start,
    'accept-ranges': 'bytes',
    'cache-control': 'no-cache',
    etag: `"${stat.size}-${stat.mtimeMs}"`,
    ...(from && { 'content-range': `bytes ${start}-${stat.size - 1}/${stat.size}` }),
  });
  if (request.method === 'HEAD') return response.end();
  fs.createReadStream(file, { start }).pipe(response);
}

/** The default model, from the cache of the command line, which downloads it where it is missing. */
export function pull(name = DEFAULT_MODEL) {
  const file = run('cargo', ['run', '--release', '--quiet', '-p', 'foreword-cli', '--', 'pull', name]);
  return { [path.basename(file)]: file };
}

/** The sidecars of the repository. */
export function sidecars(folder = path.join(root, 'models')) {
  const names = fs.existsSync(folder) ? fs.readdirSync(folder).filter((name) => name.endsWith('.sidecar.gguf')) : [];
  return Object.fromEntries(names.map((name) => [name, path.join(folder, name)]));
}

async function main() {
  const { values } = parseArgs({ options: { build: { type: 'boolean' }, port: { type: 'string', default: '8080' } } });
  if (values.build) {
    const shown = { stdio: ['ignore', 'inherit', 'inherit'] };
    run('npm', ['--prefix', 'pkg', 'ci'], shown);
    run('npm', ['--prefix', 'pkg', 'run', 'build'], shown);
    run('npm', ['--prefix', 'www', 'ci'], shown);
    run('npm', ['--prefix', 'www', 'run', 'build'], shown);
  }
  try {
    await serve({ models: { ...pull(), ...sidecars() }, port: Number(values.port) });
  } catch (error) {
    if (error.code !== 'EADDRINUSE') throw error;
    console.error(`error: port ${values.port} is taken\nhint: npm --prefix www run demo -- --port ${Number(values.port) + 1}`);
    process.exitCode = 1;
    return;
  }
  console.log(`Foreword's demo: http://localhost:${values.port}/`);
}

if (process.argv[1] === import.meta.filename) await main();
