// wllama and Foreword on the same file, in the same browser, one after the other.
//   node test/bench/bench.mjs [MODEL.gguf …] [--threads 1,2] [--gpu] [--gen 48] [--reps 3] [--only ENGINE] [--json]
// --gpu: both on WebGPU, on the browser's software adapter; and 'auto', what a page there gets that asks for nothing.
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { GPU, launch } from '../browser.mjs';
import { modelPath, PKG } from '../server.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string', default: '1,2' },
    gen: { type: 'string', default: '48' },
    reps: { type: 'string', default: '3' },
    'prompt-chars': { type: 'string', default: '3000' },
    only: { type: 'string' },
    gpu: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
});
const models = positionals.length ? positionals : [modelPath('smol.gguf'), modelPath('gemma.gguf')];
// Plain English that never changes.
const text = path.join(PKG, '../LICENSE');
const prompt = fs.readFileSync(text, 'utf8').slice(0, Number(values['prompt-chars']));
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.wasm': 'application/wasm' };

function serve(model) {
  const server = http.createServer((request, response) => {
    const name = decodeURIComponent(new URL(request.url, 'http://x').pathname);
    const file = name === '/model.gguf' ? model : path.join(PKG, name === '/' ? 'test/bench/page.html' : name);
    const stat = fs.statSync(file, { throwIfNoEntry: false });
    if (!stat?.isFile()) return response.writeHead(404).end();
    const headers = { 'content-type': TYPES[path.extname(file)] ?? 'application/octet-stream', 'content-length': stat.size };
    response.writeHead(200, { ...headers, 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' });
    if (request.method === 'HEAD') return response.end();
    fs.createReadStream(file).pipe(response);
  });
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)));
}

/** One engine on one file: a fresh browser each, so that nothing is warm. */
async function measure(engine, model, threads) {
  const server = await serve(model);
  const browser = await launch(values.gpu ? { args: GPU } : {});
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(0);
    await page.goto(`http://127.0.0.1:${server.address().port}/`);
    await page.waitForFunction('window.ready');
    const options = { threads, gpu: values.gpu, prompt, gen: Number(values.gen), reps: Number(values.reps) };
    const { runs, ...rest } = await page.evaluate(([name, o]) => window[name](o), [engine, options]);
    const median = (key) => runs.map((run) => run[key]).sort((a, b) => a - b)[runs.length >> 1];
    return {
      engine,
      model: path.basename(model),
      backend: rest.backend,
      threads: rest.threads,
      load_ms: Math.round(rest.load_ms),
      prompt_tokens: median('prompt_tokens'),
      prefill_tok_s: Number(median('prefill_tok_s').toFixed(2)),
      decode_tok_s: Number(median('decode_tok_s').toFixed(2)),
      ttft_ms: Math.round(median('ttft_ms')),
    };
  } finally {
    await browser.close();
    server.closeAllConnections();
    server.close();
  }
}

const rows = [];
for (const model of models) {
  for (const threads of values.threads.split(',').map(Number)) {
    for (const engine of ['wllama', 'foreword', ...(values.gpu ? ['auto'] : [])].filter((e) => !values.only || e === values.only)) {
      rows.push(await measure(engine, model, threads));
      if (values.json) console.log(JSON.stringify(rows.at(-1)));
    }
  }
}
if (!values.json) {
  console.log('| model | threads | engine | prefill tok/s | decode tok/s | first token ms | load ms |\n|---|---|---|---|---|---|---|');
  for (const r of rows) {
    const other = r.engine !== 'wllama' && rows.find((o) => o.engine === 'wllama' && o.model === r.model && o.threads === r.threads);
    const times = (key, down = false) => (other ? ` (${(down ? other[key] / r[key] : r[key] / other[key]).toFixed(1)} ×)` : '');
    console.log(
      `| ${r.model} | ${r.threads} | ${r.engine} | ${r.prefill_tok_s}${times('prefill_tok_s')} | ${r.decode_tok_s}${times('decode_tok_s')} | ${r.ttft_ms}${times('ttft_ms', true)} | ${r.load_ms}${times('load_ms', true)} |`,
    );
  }
}
