// Builds the documentation site into dist/: pages from the repository's Markdown, the reference from the package's types, and the
// package itself, which the live examples run. `npm --prefix pkg run build` comes first. `BASE` is where the site will lie (/site/).
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { build } from 'vitepress';

const here = import.meta.dirname;
const root = path.resolve(here, '../..');
const pages = path.join(here, 'pages');

const isPage = (name) => name.endsWith('.md');
/** What becomes a page, under the path that it has in the repository, so that links from one to another hold. */
const SOURCES = ['ARCHITECTURE.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'pkg/README.md', 'models/README.md', 'train/README.md']
  .concat(fs.readdirSync(path.join(root, 'docs'), { recursive: true }).map((name) => path.join('docs', name)))
  .filter((name) => /\.(md|svg|png)$/.test(name));

/** Links to what is no page (sources, folders) become their words; a folder's README is its index. */
function withLinks(text, from) {
  return text.replace(/(!?)\[([^\]]*)\]\(([^)\s:#]+)(#[^)\s]*)?\)/g, (link, image, words, target, hash = '') => {
    const name = path.normalize(path.join(path.dirname(from), target));
    if (image) return link;
    if (name !== 'README.md' && !SOURCES.includes(name)) return words;
    return `[${words}](${target.replace(/README\.md$/, 'index.md')}${hash})`;
  });
}

function copyPages() {
  fs.rmSync(pages, { recursive: true, force: true });
  for (const name of SOURCES) {
    const to = path.join(pages, name.replace(/README\.md$/, 'index.md'));
    fs.mkdirSync(path.dirname(to), { recursive: true });
    if (isPage(name)) fs.writeFileSync(to, withLinks(fs.readFileSync(path.join(root, name), 'utf8'), name));
    else fs.copyFileSync(path.join(root, name), to);
  }
  fs.copyFileSync(path.join(here, 'home.md'), path.join(pages, 'index.md'));
}

function copyPackage() {
  const dist = path.join(root, 'pkg/dist');
  if (!fs.existsSync(path.join(dist, 'index.js'))) throw new Error('there is no pkg/dist; run npm --prefix pkg ci && npm --prefix pkg run build');
  const files = fs.readdirSync(dist).filter((name) => /\.(js|wasm)$/.test(name));
  fs.mkdirSync(path.join(pages, 'public/foreword'), { recursive: true });
  for (const name of files) fs.copyFileSync(path.join(dist, name), path.join(pages, 'public/foreword', name));
  fs.copyFileSync(path.join(dist, 'coi.js'), path.join(pages, 'public/coi.js'));
  fs.copyFileSync(path.join(root, 'www/icon.svg'), path.join(pages, 'public/icon.svg'));
}

function makeReference() {
  const { status } = spawnSync(process.execPath, [path.join(here, 'node_modules/typedoc/bin/typedoc')], { cwd: here, stdio: 'inherit' });
  if (status !== 0) throw new Error('TypeDoc failed');
}

copyPages();
copyPackage();
makeReference();
await build(here);
