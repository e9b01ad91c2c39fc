/** Small things that all views are made of. */
import { html } from 'lit-html';
import { state } from '../state.js';
import { number } from '../strings.js';

export const megabytes = (bytes) => `${number(bytes / 1e6, bytes < 1e7 ? 1 : 0)} MB`;
export const figure = (name, value, unit) => html`<div><dt>${name}</dt><dd>${value} <small>${unit}</small></dd></div>`;

const ICONS = {
  menu: 'M4 7h16M4 12h16M4 17h16',
  plus: 'M12 5v14M5 12h14',
  send: 'M12 19V5M6 11l6-6 6 6',
  stop: 'M8 8h8v8H8z',
  edit: 'M5 19h3L18 9l-3-3L5 16zM13 8l3 3',
  again: 'M19 12a7 7 0 1 1-2-5M19 4v4h-4',
  copy: 'M9 9h10v10H9zM5 15V5h10',
  bin: 'M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12',
  gear: 'M4 8h10M18 8h2M4 16h2M10 16h10M16 6v4M8 14v4',
  chart: 'M5 19V11M12 19V5M19 19v-6',
  close: 'M6 6l12 12M18 6L6 18',
  down: 'M7 10l5 5 5-5',
  braces: 'M9 4H8a2 2 0 0 0-2 2v4l-2 2 2 2v4a2 2 0 0 0 2 2h1M15 4h1a2 2 0 0 1 2 2v4l2 2-2 2v4a2 2 0 0 1-2 2h-1',
  columns: 'M4 5h7v14H4zM13 5h7v14h-7z',
  left: 'M14 7l-5 5 5 5',
  right: 'M10 7l5 5-5 5',
  clip: 'M20 11l-8.5 8.5a5 5 0 0 1-7-7L13 4a3.4 3.4 0 0 1 4.8 4.8l-8.4 8.4a1.7 1.7 0 0 1-2.4-2.4l7.4-7.4',
  search: 'M11 5a6 6 0 1 0 0 12 6 6 0 0 0 0-12zM20 20l-4.5-4.5',
  save: 'M12 4v11M7 11l5 5 5-5M5 20h14',
  book: 'M5 5a2 2 0 0 1 2-2h12v18H7a2 2 0 0 1-2-2zM5 18a2 2 0 0 1 2-2h12',
  lock: 'M6 11h12v9H6zM9 11V8a3 3 0 0 1 6 0v3',
  bolt: 'M13 3L6 13.5h5.5L11 21l7-10.5h-5.5z',
  pin: 'M9 4h6l-1 6 3 3v2H7v-2l3-3zM12 15v6',
  plane: 'M12 20h.01M8.5 16.4a5 5 0 0 1 7 0M5 12.9a10 10 0 0 1 5-2.7M19 12.9a10 10 0 0 0-2.4-1.7M2 9a15 15 0 0 1 4.2-2.7M22 9a15 15 0 0 0-11.3-3.7M3 3l18 18',
};
export const icon = (name) => html`<svg viewBox="0 0 24 24" aria-hidden="true"><path d=${ICONS[name]} /></svg>`;
export const button = (name, label, click, extra = '') =>
  html`<button class="icon ${extra}" aria-label=${label} title=${label} @click=${click}>${icon(name)}</button>`;

/** Radio buttons for a setting: `labels` by its values. */
export const choice = (key, legend, labels, choose, disabled = false) => html`<fieldset ?disabled=${disabled}>
  <legend>${legend}</legend>
  ${Object.entries(labels).map(([value, label]) => html`<label class="choice"><input type="radio" name=${key} .checked=${state.settings[key] === value} @change=${() => choose(value)} />${label}</label>`)}
</fieldset>`;
