/** Text files that go with a message. */
import { setError } from '../shell/actions.js';
import { changed, state } from '../state.js';
import { number, t } from '../strings.js';

/** More than any model here reads. */
const MOST_BYTES = 4e6;

/** Of a token, roughly. */
const CHARACTERS = 4;

/** Takes in files that were chosen, dropped or pasted; says why one cannot be. */
export async function attach(files) {
  setError(null);
  for (const file of files) {
    try {
      state.files = [...state.files, await read(file)];
    } catch (error) {
      setError(error.message);
    }
  }
  changed();
}

export function detach(file) {
  state.files = state.files.filter((other) => other !== file);
  changed();
}

async function read(file) {
  // A server says neither how long its context is, nor how many tokens a text has.
  const { contextLength = Infinity } = state.model.info;
  // The question and the answer need room, too.
  const room = Math.max(contextLength - state.settings.max_tokens, contextLength / 2) - state.files.reduce((sum, { tokens }) => sum + tokens, 0);
  if (file.size > MOST_BYTES) throw new Error(t.fileTooLarge(file.name, number(file.size / 1e6, 1)));
  const text = textIn(await file.arrayBuffer());
  if (text === undefined) throw new Error(t.noText(file.name));
  const tokens = state.model.tokenize ? (await state.model.tokenize(text)).length : Math.ceil(text.length / CHARACTERS);
  if (tokens > room) throw new Error(t.fileTooLong(file.name, number(tokens), number(Math.max(0, Math.floor(room)))));
  return { name: file.name, text, tokens };
}

function textIn(bytes) {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    return text.includes('\0') ? undefined : text;
  } catch {
    return undefined;
  }
}

/** What the model reads of a message: its files, each in a fence that it does not contain, and its words. */
export function textOf({ content, files = [] }) {
  const fenced = files.map(({ name, text }) => {
    const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([ticks]) => ticks.length));
    const fence = '`'.repeat(longest + 1);
    return `${name}:\n${fence}\n${text}\n${fence}`;
  });
  return [...fenced, content].filter(Boolean).join('\n\n');
}
