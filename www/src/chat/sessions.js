/** What the model has read of the chats is kept, so that none is read again after a reload. Where that cannot be, a chat is read as any other. */
import { state } from '../state.js';

/** Of all chats together: the oldest go first. */
const MOST_BYTES = 512 * 2 ** 20;

/** A chat is kept once nothing was answered for so long, or the tab is left. */
const IDLE_MS = 5000;

const PREFIX = 'chat ';
const nameOf = (chat) => PREFIX + chat.id;

/** By chat, what is to be kept: the model that answered, and its request with the answer. */
const due = new Map();
let timer;

/** By model, the chats that it has answered in, or was given. */
const known = new WeakMap();

/** Gives the model what was kept of a chat, unless it knows the chat. */
export async function recall(model, chat) {
  // An opener's successor could not go on with it.
  if (!model.sessions || state.coming) return;
  const chats = known.get(model) ?? new Set();
  known.set(model, chats);
  if (chats.has(chat.id)) return;
  chats.add(chat.id);
  if (chat.messages.length > 1) await model.sessions.open(nameOf(chat)).catch(() => {});
}

/** Sees to it that an answered request is kept. */
export function keep(model, chat, request) {
  if (!model.sessions || state.coming) return;
  due.set(chat, { model, request });
  clearTimeout(timer);
  timer = setTimeout(keepAll, IDLE_MS);
}
addEventListener('visibilitychange', () => document.hidden && keepAll());

async function keepAll() {
  // The end of the answer calls for it again.
  if (state.answering) return;
  clearTimeout(timer);
  for (const [chat, { model, request }] of due) {
    due.delete(chat);
    // What would be taken away at once is not written.
    const isUseful = model === state.model && !chat.deleted && !(state.memory?.cache > MOST_BYTES);
    if (isUseful) await model.sessions.save(nameOf(chat), request).catch(() => {});
  }
  await tidy();
}

/** Takes away what was kept of chats that are gone, and the oldest of what is too much. */
export async function tidy() {
  const { sessions } = state.model ?? {};
  let sum = 0;
  for (const { name, bytes } of (await sessions?.list().catch(() => [])) ?? []) {
    if (!name.startsWith(PREFIX)) continue;
    sum += bytes;
    if (sum > MOST_BYTES || !state.chats.some((chat) => nameOf(chat) === name)) await sessions.delete(name).catch(() => {});
  }
}
