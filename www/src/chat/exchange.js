/** Chats as files: JSON for this page, Markdown for people. */
import { setError, undoable } from '../shell/actions.js';
import { changed, newId, save, state } from '../state.js';
import { t } from '../strings.js';
import { textOf } from './files.js';

/** Of the JSON that is written. */
const VERSION = 1;

/** A chat as Markdown. */
export function toMarkdown({ title, messages }) {
  const turns = messages.map((m) => `## ${m.role === 'user' ? t.you : t.model}\n\n${textOf(m).trim()}\n`);
  return [`# ${title}\n`, ...turns].join('\n');
}

export function exportChat(chat) {
  download(`${chat.title.replace(/[^\p{L}\p{N} _-]+/gu, ' ').trim().slice(0, 60) || t.chatFile}.md`, 'text/markdown', toMarkdown(chat));
}

export function exportAll() {
  const chats = state.chats.map(({ id, title, updated, messages }) => ({ id, title, updated, messages: messages.map(plain) }));
  download('foreword-chats.json', 'application/json', JSON.stringify({ foreword: VERSION, chats }, null, 1));
}

function download(name, type, text) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Takes in the chats of a file that `exportAll` wrote; those that are here already stay as they are. */
export async function importChats(file) {
  try {
    const chats = chatsOf(JSON.parse(await file.text()));
    const isHere = (chat) => state.chats.some(({ id, messages }) => id === chat.id && JSON.stringify(messages.map(plain)) === JSON.stringify(chat.messages));
    const fresh = chats.filter((chat) => !isHere(chat)).sort((a, b) => a.updated - b.updated);
    for (const chat of fresh) await save({ ...chat, id: state.chats.some(({ id }) => id === chat.id) ? newId() : chat.id, revision: 0 });
    state.chats.sort((a, b) => b.updated - a.updated);
    undoable(t.takenIn(fresh.length, chats.length));
  } catch (error) {
    setError(t.notImported(file.name, error.message));
  }
  changed();
}

/** What is kept of a message, its versions included. */
function plain({ role, content, files, others, place }) {
  return { role, content, ...(files && { files: files.map(({ name, text, tokens }) => ({ name, text, tokens })) }), ...(others && { others: others.map((tail) => tail.map(plain)), place }) };
}

const isFile = ({ name, text, tokens }) => typeof name === 'string' && typeof text === 'string' && Number.isFinite(tokens);
const isMessage = ({ role, content, files, others, place }) =>
  ['user', 'assistant'].includes(role) &&
  typeof content === 'string' &&
  (files === undefined || files.every(isFile)) &&
  (others === undefined || (others.length > 0 && Number.isInteger(place) && place >= 0 && place <= others.length && others.every((tail) => tail.length > 0 && tail.every(isMessage))));

/** Chats of a file, checked: anybody may have written it. */
function chatsOf({ foreword, chats }) {
  if (foreword !== VERSION || !Array.isArray(chats)) throw new Error(t.noChatsInFile);
  return chats.map(({ id, title, updated, messages }, i) => {
    if (!Array.isArray(messages) || !messages.length || !messages.every(isMessage)) throw new Error(t.chatDamaged(i + 1));
    return {
      id: typeof id === 'string' ? id : newId(),
      title: String(title ?? '').slice(0, 200),
      updated: Number.isFinite(updated) ? updated : 0,
      messages: messages.map(plain),
    };
  });
}
