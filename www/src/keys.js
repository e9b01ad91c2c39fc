/** Keyboard shortcuts. */
import { editLast, startNew } from './chat/actions.js';
import { escape, search, togglePanel } from './shell/actions.js';

/** What each does, by its name among the strings, as the settings list it. Control is Command on Apple's keyboards. */
export const SHORTCUTS = [
  ['Ctrl K', 'search'],
  ['Ctrl Shift O', 'startNew'],
  ['Ctrl Shift S', 'togglePanel'],
  ['↑', 'editLast'],
  ['Escape', 'escape'],
];

/** Handles a key; says whether it was one of these. */
function handle(event) {
  const control = (event.ctrlKey || event.metaKey) && !event.altKey;
  const key = event.key.toLowerCase();
  if (event.key === 'Escape') return escape();
  if (control && !event.shiftKey && key === 'k') return search();
  if (control && event.shiftKey && key === 'o') return startNew();
  if (control && event.shiftKey && key === 's') return togglePanel();
  if (event.key === 'ArrowUp' && event.target.id === 'prompt' && !event.target.value) return editLast();
  return false;
}

addEventListener('keydown', (event) => {
  if (!event.isComposing && handle(event) !== false && event.key !== 'Escape') event.preventDefault();
});
