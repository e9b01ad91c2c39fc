/** What the page knows, and how it is kept over reloads. */
import { del, entries, get, set, setMany, update } from 'idb-keyval';
import { t } from './strings.js';

export const DEFAULTS = { system: '', temperature: 0.7, top_p: 0.95, max_tokens: 512, backend: 'auto', threads: 0, contextLength: 4096, theme: 'auto', language: 'auto', early: false, guesses: false };

/** Settings of sampling, by what they are good for. */
export const PRESETS = { precise: { temperature: 0.2, top_p: 0.9 }, balanced: { temperature: 0.7, top_p: 0.95 }, inventive: { temperature: 1.1, top_p: 1 } };

/** What the playground begins with. */
const SCHEMA = JSON.stringify({ type: 'object', properties: { name: { type: 'string' }, age: { type: 'integer' } }, required: ['name', 'age'], additionalProperties: false }, null, 2);
const TOOLS = JSON.stringify([{ type: 'function', function: { name: 'weather', parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] } } }], null, 2);

export const state = {
  view: 'chat',
  /** The loaded model, or null. */
  model: null,
  modelName: '',
  /** What the model was loaded from. */
  source: null,
  /** `{label, phase, loadedBytes, totalBytes, speed}` while one is loading; the speed in bytes a second, once it is known. */
  loading: null,
  /** The same, of the model that takes over from its opener, while that one answers. */
  coming: null,
  error: null,
  /** What can be done about the error: `{label, act}`. */
  remedy: null,
  /** What was just done, and how it is undone, if it can be: `{label, act}`. */
  undo: null,
  /** Takes over the newer version of the page that waits for it. */
  update: null,
  cached: [],
  /** How much of a model is read here in a second, by what others were measured at; 0 before an answer was written. */
  bytesASecond: 0,
  /** The family of models that is shown; all of them without one. */
  family: '',
  chats: [],
  chat: null,
  /** What the chats are searched for. */
  query: '',
  /** The chat whose title is being changed. */
  renaming: null,
  /** AbortController of the answer that is being written. */
  answering: null,
  /** Resolves when that answer has ended. */
  ending: null,
  /** Index of the message that is being edited. */
  editing: -1,
  /** What a screen reader says: the answer, once it is complete. */
  announced: '',
  /** Text files that go with the next message: `{name, text, tokens}`. */
  files: [],
  menu: false,
  panel: false,
  settings: { ...DEFAULTS },
  usage: null,
  /** `{exact, predicted}`: how long the first word of the last long prompt took, `{tokens, ms}` each. */
  waits: {},
  memory: null,
  /** What guessing came to since the model was loaded. */
  speculation: null,
  /** `kind` is the form that is tried; `running` the AbortController of its answer. */
  playground: { kind: 'schema', schema: SCHEMA, tools: TOOLS, prompt: '', output: '', error: null, running: null },
  /** The second model, and the answers of both. */
  compare: { other: null, label: '', loading: null, part: 0, running: null, answers: [], error: null },
  bench: { running: false, result: null, kernels: null, copied: false },
};

let draw = () => {};
let queued = false;

/** Sets what draws the page. */
export function onChange(render) {
  draw = render;
}

/** Draws the page before the next frame. */
export function changed() {
  if (queued) return;
  queued = true;
  requestAnimationFrame(() => {
    queued = false;
    draw();
  });
}

/** Chats lie under a key each, so that tabs do not overwrite each other's. */
const KEY = 'chat:';

/** Tells the other tabs which chat has changed. */
const tabs = globalThis.BroadcastChannel && new BroadcastChannel('foreword-chats');
tabs?.addEventListener('message', ({ data }) => void reread(data).catch(() => {}));

/** What was kept, without touching what the user has begun meanwhile. */
export async function restore() {
  const [kept, settings] = await Promise.all([entries(), get('settings')]).catch(() => [[], null]);
  const chats = kept.filter(([key]) => String(key).startsWith(KEY)).map(([, chat]) => chat);
  // Pages of version 0.1.0 kept one list.
  const list = kept.find(([key]) => key === 'chats')?.[1] ?? [];
  const old = list.filter(({ id }) => !chats.some((chat) => chat.id === id)).map((chat) => ({ ...chat, revision: 1 }));
  chats.push(...old);
  if (list.length) await setMany(old.map((chat) => [KEY + chat.id, chat])).then(() => del('chats')).catch(() => {});
  state.chats = chats.sort((a, b) => b.updated - a.updated);
  Object.assign(state.settings, settings);
  if (!state.chat.messages.length) state.chat = chatAt(location.hash) ?? state.chats[0] ?? state.chat;
}

/** Takes over what another tab made of a chat, unless it is being answered here. */
async function reread(id) {
  if (state.answering && state.chat.id === id) return;
  const stored = await get(KEY + id);
  const known = state.chats.find((c) => c.id === id);
  if (stored && known) Object.assign(known, stored);
  else if (stored) state.chats.unshift(stored);
  else state.chats = state.chats.filter((c) => c.id !== id);
  if (!stored && state.chat.id === id) newChat();
  changed();
}

/** A chat's part of the page's address. */
export const addressOf = (chat) => (chat.messages.length ? `#${chat.id}` : '');
export const chatAt = (hash) => state.chats.find(({ id }) => `#${id}` === hash);

/** Insecure origins have no `randomUUID`. */
export const newId = () => crypto.getRandomValues(new Uint32Array(4)).join('-');

export function newChat() {
  state.chat = { id: newId(), title: '', messages: [], updated: Date.now(), revision: 0 };
  state.editing = -1;
  return state.chat;
}

/** Keeps a chat; an empty one is not worth it. Where another tab has gone on with it meanwhile, both are kept. It becomes the first in the list, unless it stays `inPlace`. */
export async function save(chat = state.chat, { inPlace = false } = {}) {
  if (!chat.messages.length) return;
  const [{ content, files }] = chat.messages;
  chat.title ||= (content || files?.[0].name || '').slice(0, 60);
  if (!inPlace) state.chats = [chat, ...state.chats.filter((c) => c.id !== chat.id)];
  let parted = false;
  const write = (old) => {
    parted = Boolean(old && old.revision !== chat.revision);
    if (parted) return old;
    chat.revision += 1;
    return structuredClone(chat);
  };
  // A private window may refuse; the chat then lasts as long as the page.
  await update(KEY + chat.id, write).catch(() => {});
  if (!parted) return tabs?.postMessage(chat.id);
  const theirs = chat.id;
  Object.assign(chat, { id: newId(), revision: 0, title: t.partedTitle(chat.title) });
  await save(chat);
  await reread(theirs).catch(() => {});
}

/** The chats that have all words of the search in their title or in a message, the pinned ones first. */
export function foundChats() {
  const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
  const has = (chat) => {
    const text = [chat.title, ...chat.messages.map((m) => m.content)].join('\n').toLowerCase();
    return words.every((word) => text.includes(word));
  };
  const found = words.length ? state.chats.filter(has) : state.chats;
  return [...found.filter(({ pinned }) => pinned), ...found.filter(({ pinned }) => !pinned)];
}

/** Forgets a chat in all tabs. */
export async function drop(chat) {
  state.chats = state.chats.filter((c) => c.id !== chat.id);
  await del(KEY + chat.id).catch(() => {});
  tabs?.postMessage(chat.id);
}

export function saveSettings() {
  return set('settings', { ...state.settings }).catch(() => {});
}

newChat();
