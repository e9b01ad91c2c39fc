import fs from 'node:fs';
import path from 'node:path';
import { defineConfig } from 'vitepress';

const base = process.env.BASE ?? '/site/';
const api = path.resolve(import.meta.dirname, '../pages/api');

const items = (pages) => Object.entries(pages).map(([text, link]) => ({ text, link }));
const group = (text, pages) => ({ text, items: items(pages) });

const GUIDES = [
  group('Start', { 'First steps': '/docs/start', 'The package': '/pkg/', 'The command line': '/docs/command-line' }),
  group('Guides', {
    Models: '/docs/models',
    Requests: '/docs/api',
    'OpenAI, AI SDK, Prompt API': '/docs/clients',
    'Chat templates': '/docs/templates',
    Memory: '/docs/memory',
    Speed: '/docs/speed',
    WebGPU: '/docs/webgpu',
    'NVIDIA GPUs': '/docs/cuda',
  }),
  group('Methods', {
    'KV prediction': '/docs/kv-prediction',
    'Packing prompts': '/docs/packing',
    'Speculative decoding': '/docs/speculation',
  }),
  group('The project', {
    Architecture: '/ARCHITECTURE',
    Contributing: '/CONTRIBUTING',
    Changes: '/CHANGELOG',
    Sidecars: '/models/',
    'Training sidecars': '/train/',
  }),
];

const KINDS = ['classes', 'functions', 'interfaces', 'type-aliases', 'variables'];

/** TypeDoc writes a folder for each entry of the package, and in it one for each kind of declaration. */
const REFERENCE = Object.entries({ index: 'foreword', 'ai-sdk': 'foreword/ai-sdk', 'prompt-api': 'foreword/prompt-api' }).map(([entry, name]) => {
  const names = KINDS.filter((kind) => fs.existsSync(path.join(api, entry, kind))).flatMap((kind) =>
    fs.readdirSync(path.join(api, entry, kind)).map((file) => [path.basename(file, '.md'), `/api/${entry}/${kind}/${path.basename(file, '.md')}`]),
  );
  return { ...group(name, Object.fromEntries(names)), collapsed: entry !== 'index' };
});

/** A block of JavaScript marked `live` gets a button that runs it; indented blocks look as fenced ones. */
function blocks(md) {
  const { fence } = md.renderer.rules;
  md.renderer.rules.code_block = fence;
  md.renderer.rules.fence = (tokens, i, ...rest) => {
    const block = fence(tokens, i, ...rest);
    return /^js live\b/.test(tokens[i].info) ? `<Live code="${encodeURIComponent(tokens[i].content)}">${block}</Live>` : block;
  };
}

export default defineConfig({
  base,
  lang: 'en',
  title: 'Foreword',
  description: 'Language models on the device of whoever asks: in a browser tab, in an app, in a terminal',
  srcDir: 'pages',
  outDir: 'dist',
  head: [
    ['link', { rel: 'icon', href: `${base}icon.svg`, type: 'image/svg+xml' }],
    // Threads need an isolated page, and most static hosts cannot send headers.
    ['script', { src: `${base}coi.js` }],
  ],
  // Addresses of the reader's own machine.
  ignoreDeadLinks: 'localhostLinks',
  markdown: { config: blocks },
  themeConfig: {
    logo: '/icon.svg',
    search: { provider: 'local' },
    nav: items({ 'First steps': '/docs/start', 'The package': '/pkg/', 'API reference': '/api/' }),
    sidebar: { '/api/': [{ text: 'API reference', link: '/api/' }, ...REFERENCE], '/': [...GUIDES, { text: 'API reference', link: '/api/' }] },
    outline: [2, 3],
  },
});
