/** What the page knows, and how it is kept over reloads. */
import { get, set } from 'idb-keyval';

export const DEFAULTS = { system: '', temperature: 0.7, top_p: 0.95, max_tokens: 512, backend: 'auto', threads: 0, contextLength: 4096, theme: 'auto', early: false, guesses: false };

export const state = {
  view: 'chat',
  /** The loaded model, or null. */
  model: null,
  modelName: '',
  /** What the model was loaded from. */
  source: null,
  /** `{label, phase, loadedBytes, totalBytes}` while one is loading. */
  loading: null,
  error: null,
  cached: [],
  chats: [],
  chat: null,
  /** AbortController of the answer that is being written. */
  answering: null,
  /** Index of the message that is being edited. */
  editing: -1,
  /** What a screen reader says: the answer, once it is complete. */
  announced: '',
  menu: false,
  panel: false,
  settings: { ...DEFAULTS },
  usage: null,
  /** `{exact, predicted}`: how long the first word of the last long prompt took, `{tokens, ms}` each. */
  waits: {},
  memory: null,
  /** What guessing came to since the model was loaded. */
  speculation: null,
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

export async function restore() {
  const [chats, settings] = await Promise.all([get('chats'), get('settings')]).catch(() => []);
  state.chats = chats ?? [];
  Object.assign(state.settings, settings);
  state.chat = state.chats[0] ?? newChat();
}

export function newChat() {
  state.chat = { id: crypto.randomUUID(), title: '', messages: [], updated: Date.now() };
  state.editing = -1;
  return state.chat;
}

/** Keeps the chats; empty ones are not worth it. */
export async function save() {
  const { chat } = state;
  if (chat.messages.length) {
    chat.title ||= chat.messages[0].content.slice(0, 60);
    state.chats = [chat, ...state.chats.filter((c) => c.id !== chat.id)];
  }
  // A private window may refuse; the chat then lasts as long as the page.
  await set('chats', structuredClone(state.chats)).catch(() => {});
}

export function saveSettings() {
  return set('settings', { ...state.settings }).catch(() => {});
}
