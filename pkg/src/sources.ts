/** What a model is asked for by, to the files that it is. */
import { addressOf, decoded, folderOf } from './address.js';
import { ForewordError } from './error.js';
import models from './models.json' with { type: 'json' };
import { isNode, nodeModule } from './platform.js';
import type { Input } from './rpc.js';
import type { CachedModel, LoadOptions, ModelSource, RegistryModel } from './types.js';

/** Address of the model hub, from its own package at build time. */
declare const HUB_URL: string;

/** The built-in list of models. */
export const registry: readonly RegistryModel[] = models.map(({ sha256, sources, ...model }) => model as RegistryModel);

/** The files of a model, the name that answers carry, and its maker's settings where the list of models has them. */
export function resolve(source: ModelSource, options: Pick<LoadOptions, 'mirror' | 'sha256' | 'cacheKey' | 'headers' | 'token'>): { inputs: Input[]; name: string; sampling?: Record<string, number | undefined> } {
  if (source instanceof Blob) return { inputs: [{ blob: source, ...hashesOf(options, 1)[0] }], name: nameOf((source as File).name ?? 'model') };
  const given = (Array.isArray(source) ? source : [source]).map(textOf);
  if (!given.length || given.some((s) => !s.trim())) throw new ForewordError('invalid_request', 'No model was named.');
  const [first] = given;
  const entry = given.length === 1 ? models.find((m) => m.name === first) : undefined;
  if (entry) {
    const urls = entry.sources.flatMap((s) => ('hub' in s && s.hub ? [hubUrl(s.hub)] : []));
    if (options.mirror) urls.unshift(new URL(entry.file, folderOf(options.mirror)).href);
    const [url, ...fallbacks] = urls;
    return { inputs: [{ url: url!, fallbacks, id: options.cacheKey ?? url!, sha256: entry.sha256, ...headersOf(options, url!) }], name: entry.name, ...(entry.sampling && { sampling: entry.sampling }) };
  }
  const urls = given.map(toUrl).flatMap((url) => (given.length === 1 ? pieces(url) : [url]));
  const hashes = hashesOf(options, urls.length);
  const idOf = (url: string, i: number) => (options.cacheKey ? `${options.cacheKey}${i ? `#${i}` : ''}` : url);
  const inputs = urls.map((url, i) => ({ url, fallbacks: [], id: idOf(url, i), ...hashes[i], ...headersOf(options, url) }));
  return { inputs, name: nameOf(new URL(urls[0]!).pathname) };
}

/** Whether something in the cache is a file of this model. */
export function matcher(model: ModelSource | CachedModel, options: Pick<LoadOptions, 'mirror' | 'cacheKey'>): (cached: CachedModel) => boolean {
  if (typeof (model as CachedModel | undefined)?.key === 'string') return ({ key }) => key === (model as CachedModel).key;
  const { inputs } = resolve(model as ModelSource, options);
  const addresses = new Set(inputs.flatMap((input) => ('url' in input ? [input.id, input.url, ...input.fallbacks] : [])));
  // A model of the registry may have come from any mirror.
  const file = models.find(({ name }) => name === model)?.file;
  return ({ key, url }) => addresses.has(url) || key === model || url === model || (file !== undefined && url.endsWith(`/${file}`));
}

/** The SHA-256 of each file. */
function hashesOf({ sha256 }: Pick<LoadOptions, 'sha256'>, n: number): { sha256?: string }[] {
  if (!sha256) return [];
  const hashes = Array.isArray(sha256) ? sha256 : [sha256];
  if (hashes.some((hash) => typeof hash !== 'string' || !/^[0-9a-f]{64}$/i.test(hash))) throw new ForewordError('invalid_request', 'sha256 must be 64 hexadecimal digits, or a list of such.', { param: 'sha256' });
  if (hashes.length !== n) throw new ForewordError('invalid_request', `The model has ${n} files, but sha256 has ${hashes.length} hashes; give one for each file.`, { param: 'sha256' });
  return hashes.map((hash) => ({ sha256: hash.toLowerCase() }));
}

/** What is sent with requests of a file; the token to the hub only. */
function headersOf({ headers, token }: Pick<LoadOptions, 'headers' | 'token'>, url: string): { headers?: Record<string, string> } {
  let all: Headers;
  try {
    all = new Headers(headers);
  } catch (cause) {
    throw new ForewordError('invalid_request', `headers cannot be sent: ${(cause as Error).message}`, { param: 'headers', cause });
  }
  if (token && url.startsWith(`${HUB_URL}/`)) all.set('authorization', `Bearer ${token}`);
  const list = Object.fromEntries(all);
  return Object.keys(list).length ? { headers: list } : {};
}

/** What is no address, in the words of what would be one. */
const INSTEAD: Record<string, string> = {
  ArrayBuffer: 'new Blob([buffer])',
  Uint8Array: 'new Blob([bytes])',
  Response: 'await response.blob(), or its address',
  FileSystemFileHandle: 'await handle.getFile()',
  Blob: 'one Blob, not a list',
  File: 'one File, not a list',
};

function textOf(source: unknown): string {
  if (typeof source === 'string' || source instanceof URL) return String(source);
  const kind = (typeof source === 'object' && source?.constructor?.name) || String(source);
  const instead = INSTEAD[kind] ?? 'a URL, a Blob or the name of a known model';
  throw new ForewordError('invalid_request', `A model cannot be loaded from ${kind}; give ${instead}.`);
}

function toUrl(text: string): string {
  if (text.startsWith('hf:')) return hubUrl(text.slice(3));
  const isPath = isNode && !/^[a-z][a-z+.-]+:/i.test(text);
  if (isPath) return nodeModule('url').pathToFileURL(text).href;
  const url = addressOf(text, `, nor the name of a model in Foreword.models`);
  url.hash = '';
  return url.href;
}

/** `owner/repo/file`, or `owner/repo@revision/file`. */
function hubUrl(path: string): string {
  const [owner, named, ...file] = path.split('/');
  const [repo, revision = 'main'] = (named ?? '').split('@');
  if (!owner || !repo || !revision || !file.length) throw new ForewordError('invalid_request', `hf:${path} should be hf:owner/repo/file.gguf, or hf:owner/repo@revision/file.gguf.`);
  return `${HUB_URL}/${owner}/${repo}/resolve/${encodeURIComponent(decoded(revision))}/${file.map(encodeURIComponent).join('/')}`;
}

/** All files of a model that was split by the usual tool: `…-00001-of-00003.gguf`. */
function pieces(url: string): string[] {
  const match = /-00001-of-(\d{5})\.gguf(?=$|\?)/.exec(url);
  if (!match) return [url];
  return Array.from({ length: Number(match[1]) }, (_, i) => url.replace(match[0], `-${String(i + 1).padStart(5, '0')}-of-${match[1]}.gguf`));
}

function nameOf(path: string): string {
  return (decoded(path).split('/').pop() || 'model').replace(/\.gguf$/, '');
}
