/** Notices at the next visit that the browser ended the page while it was loading or answering, which it does where memory is short. */
import { newId } from './state.js';

const KEY = 'busy';
const id = newId();

/** A tab that lives holds this lock. */
const lock = (of) => `foreword page ${of}`;
void navigator.locks?.request(lock(id), () => new Promise(() => {})).catch(() => {});

/** Pages that may keep nothing have no notes. */
function stored(job) {
  try {
    if (navigator.locks) job();
  } catch {}
}

/** Says what the page is about to do, `{what: 'load' | 'answer', source, label, contextLength}`. */
export const busy = (note) => stored(() => localStorage.setItem(KEY, JSON.stringify({ ...note, id })));

/** It is done, or the page is left as pages are. */
export const idle = () => stored(() => JSON.parse(localStorage.getItem(KEY) ?? '{}').id === id && localStorage.removeItem(KEY));
addEventListener('pagehide', idle);

/** What the page was busy with when it was ended; nothing where that was not so, or another tab is busy now. */
export async function cutOff() {
  const note = JSON.parse(localStorage.getItem(KEY) ?? 'null');
  if (!note || !navigator.locks) return null;
  const { held } = await navigator.locks.query();
  if (held.some(({ name }) => name === lock(note.id))) return null;
  localStorage.removeItem(KEY);
  return note;
}
