/** What the user can do anywhere on the page. */
import { stop } from '../chat/actions.js';
import { changed, state } from '../state.js';
import { plots } from './plots.js';

/** Says what went wrong, and what can be done about it. */
export function setError(message, remedy = null) {
  Object.assign(state, { error: message, remedy });
}

/** For so long something can be undone. */
const UNDO_MS = 12_000;

/** Says what was just done, and offers to undo it where that can be. */
export function undoable(label, act) {
  const undo = (state.undo = { label, ...(act && { act: async () => ((state.undo = null), await act(), changed()) }) });
  setTimeout(() => state.undo === undo && ((state.undo = null), changed()), UNDO_MS);
  changed();
}

/** Leaves whatever is open, the innermost first. */
export function escape() {
  if (state.renaming) state.renaming = null;
  else if (state.query && document.activeElement.id === 'search') state.query = '';
  else if (state.answering) stop();
  else if (state.editing >= 0) state.editing = -1;
  else if (state.menu) state.menu = false;
  else if (state.view === 'models') state.view = 'chat';
  else return;
  changed();
  focus('#prompt');
}

/** Puts the cursor into a field that the next frame shows. */
export function focus(field) {
  requestAnimationFrame(() => requestAnimationFrame(() => document.querySelector(field)?.focus()));
}

/** Asks the model for its figures. */
export async function measure() {
  const stats = await state.model?.stats().catch(() => null);
  state.memory = stats?.memory ?? null;
  state.speculation = stats?.speculation ?? null;
  plots.memory(state.memory);
  changed();
}

/** Puts the cursor into the search. */
export function search() {
  // Where the chats are a menu of their own.
  state.menu = getComputedStyle(document.querySelector('.menu-button')).display !== 'none';
  changed();
  focus('#search');
}

export function togglePanel() {
  state.panel = !state.panel;
  changed();
  void measure();
}

export async function copy(text) {
  await navigator.clipboard?.writeText(text).catch(() => {});
}
