// The licences of what is compiled into the package: crates of the core, and modules of the scripts.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

const here = import.meta.dirname;
/** Bundled into the scripts. */
const MODULES = ['hash-wasm'];

/** The crates that the core is compiled from, its own aside. */
function crates() {
  const args = ['metadata', '--format-version=1', '--locked', '--filter-platform=wasm32-unknown-unknown', '--features=webgpu'];
  const { packages, resolve } = JSON.parse(execFileSync('cargo', args, { cwd: path.join(here, 'wasm'), encoding: 'utf8', maxBuffer: 1 << 28 }));
  const nodes = new Map(resolve.nodes.map((node) => [node.id, node]));
  const reached = new Set();
  const visit = (id) => {
    if (reached.has(id)) return;
    reached.add(id);
    // Crates that only run while the core is built are no part of it.
    for (const { pkg, dep_kinds: kinds } of nodes.get(id).deps) if (kinds.some(({ kind }) => !kind)) visit(pkg);
  };
  visit(resolve.root);
  return packages.filter(({ id, source }) => reached.has(id) && source).map(({ name, version, license, manifest_path: manifest }) => ({ name, version, license, folder: path.dirname(manifest) }));
}

/** Packages of a folder of modules. */
function modules(folder, names) {
  return names.map((name) => {
    const { version, license } = JSON.parse(fs.readFileSync(path.join(folder, name, 'package.json'), 'utf8'));
    return { name, version, license, folder: path.join(folder, name) };
  });
}

/** Each licence's text once, with the names of all that come under it. */
function texts(packages) {
  const texts = new Map();
  for (const { name, version, license, folder } of packages) {
    const files = fs.readdirSync(folder).filter((file) => /^(licen[cs]e|copying|notice)/i.test(file) && fs.statSync(path.join(folder, file)).isFile());
    // Of a choice the one that is not Apache-2.0, whose text is in LICENSE already.
    const chosen = files.length > 1 ? files.filter((file) => !/apache/i.test(file)) : files;
    const text = chosen.map((file) => fs.readFileSync(path.join(folder, file), 'utf8').trim()).join('\n\n') || `(${license}; the package has no text of it)`;
    texts.set(text, [...(texts.get(text) ?? []), `${name} ${version} (${license})`]);
  }
  return [...texts].map(([text, names]) => `${names.join('\n')}\n\n${text}\n`);
}

const RULE = `\n${'-'.repeat(80)}\n\n`;

/** The package's. */
export function notices() {
  const head = 'Foreword contains compiled code of these packages, and of the Rust standard library (MIT OR Apache-2.0).\n';
  return [head, ...texts([...modules(path.join(here, 'node_modules'), MODULES), ...crates()])].join(RULE);
}

/** Those of the modules that an app's scripts contain besides. */
export function noticesOf(folder, names) {
  return ['The scripts of this page contain code of these packages.\n', ...texts(modules(folder, names))].join(RULE);
}
