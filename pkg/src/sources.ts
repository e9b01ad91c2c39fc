/** What a model is asked for by, to the files that it is. */
import { ForewordError } from './error.js';
import models from './models.json' with { type: 'json' };
import { isNode, nodeModule } from './platform.js';
import type { Input } from './rpc.js';
import type { LoadOptions, ModelSource } from './types.js';

/** Address of the model hub, from its own package at build time. */
declare const HUB_URL: string;

/** A model that can be asked for by name. */
export interface RegistryModel {
  name: string;
  title: string;
  license: string;
  file: string;
  bytes: number;
}

/** The built-in list of models. */
export const registry: readonly RegistryModel[] = models.map(({ name, title, license, file, bytes }) => ({ name, title, license, file, bytes }));

/** The files of a model, and the name that answers carry. */
export function resolve(source: ModelSource, options: Pick<LoadOptions, 'mirror' | 'sha256'>): { inputs: Input[]; name: string } {
  if (source instanceof Blob) return { inputs: [{ blob: source }], name: nameOf((source as File).name ?? 'model') };
  const given = Array.isArray(source) ? source.map(String) : [String(source)];
  if (!given.length || given.some((s) => !s.trim())) throw new ForewordError('invalid_request', 'No model was named.');
  const [first] = given;
  const entry = given.length === 1 ? models.find((m) => m.name === first) : undefined;
  if (entry) {
    const urls = entry.sources.flatMap((s) => ('hub' in s && s.hub ? [hubUrl(s.hub)] : []));
    if (options.mirror) urls.unshift(new URL(entry.file, folderUrl(options.mirror)).href);
    const [url, ...fallbacks] = urls;
    return { inputs: [{ url: url!, fallbacks, sha256: entry.sha256, bytes: entry.bytes }], name: entry.name };
  }
  const urls = given.map(toUrl).flatMap((url) => (given.length === 1 ? pieces(url) : [url]));
  const sha256 = urls.length === 1 && options.sha256 ? { sha256: options.sha256 } : {};
  return { inputs: urls.map((url) => ({ url, fallbacks: [], ...sha256 })), name: nameOf(new URL(urls[0]!).pathname) };
}

function toUrl(text: string): string {
  if (text.startsWith('hf:')) return hubUrl(text.slice(3));
  const path = isNode && !/^[a-z][a-z+.-]+:/i.test(text);
  try {
    return path ? nodeModule('url').pathToFileURL(text).href : new URL(text, globalThis.location?.href).href;
  } catch (cause) {
    const names = models.map((m) => m.name).join(', ');
    throw new ForewordError('invalid_request', `${JSON.stringify(text)} is neither a URL nor the name of a known model (${names}).`, { cause });
  }
}

function hubUrl(path: string): string {
  const [owner, repo, ...file] = path.split('/');
  if (!owner || !repo || !file.length) throw new ForewordError('invalid_request', `hf:${path} should be hf:owner/repo/file.gguf.`);
  return `${HUB_URL}/${owner}/${repo}/resolve/main/${file.map(encodeURIComponent).join('/')}`;
}

/** All files of a model that was split by the usual tool: `…-00001-of-00003.gguf`. */
function pieces(url: string): string[] {
  const match = /-00001-of-(\d{5})\.gguf(?=$|\?)/.exec(url);
  if (!match) return [url];
  return Array.from({ length: Number(match[1]) }, (_, i) => url.replace(match[0], `-${String(i + 1).padStart(5, '0')}-of-${match[1]}.gguf`));
}

function folderUrl(mirror: string | URL): string {
  const url = new URL(mirror, globalThis.location?.href).href;
  return url.endsWith('/') ? url : `${url}/`;
}

function nameOf(path: string): string {
  return (decodeURIComponent(path).split('/').pop() || 'model').replace(/\.gguf$/, '');
}
