/** Where messages are written. */
import { html, nothing } from 'lit-html';
import { button, icon } from '../shell/elements.js';
import { state } from '../state.js';
import { number, t } from '../strings.js';
import * as act from './actions.js';
import { attach, detach } from './files.js';

export function composer() {
  return html`<form class="composer" @submit=${submit}>
      ${state.files.length ? html`<ul class="files">${state.files.map(chip)}</ul>` : nothing}
      <div class="box">
        <label class="icon attach" title=${t.attach}>${icon('clip')}<input type="file" class="visually-hidden" multiple aria-label=${t.attach} @change=${chosen} /></label>
        <textarea id="prompt" name="text" rows="1" placeholder=${t.write} aria-label=${t.message} @keydown=${keydown} @input=${grow} @paste=${pasted}></textarea>
        ${state.answering ? button('stop', t.stop, (e) => (e.preventDefault(), act.stop()), 'round') : html`<button class="icon round send" aria-label=${t.send} title=${t.send}>${icon('send')}</button>`}
      </div>
      <p class="hint">${t.small} <span class="keys">${t.keysHint}</span></p>
    </form>`;
}

const chip = (file) => html`<li>${t.fileOf(file.name, number(file.tokens))}${button('close', t.detach(file.name), (e) => (e.preventDefault(), detach(file)), 'quiet')}</li>`;

function chosen({ target }) {
  void attach([...target.files]);
  target.value = '';
}

function pasted(event) {
  const { files } = event.clipboardData;
  if (!files.length) return;
  event.preventDefault();
  void attach([...files]);
}

function submit(event) {
  event.preventDefault();
  const field = event.target.elements.text;
  const text = field.value;
  if (!(text.trim() || state.files.length) || state.answering) return;
  field.value = '';
  grow({ target: field });
  void act.send(text);
}

export function keydown(event) {
  // Safari ends a composition with an Enter of this code.
  const sends = !event.shiftKey && !hasNoKeyboard() && !event.isComposing && event.keyCode !== 229;
  if (event.key === 'Enter' && sends) {
    event.preventDefault();
    event.target.form.requestSubmit();
  }
}

/** Keyboards on the screen have no easy Shift+Enter: there the button sends. */
const hasNoKeyboard = () => matchMedia('(hover: none) and (pointer: coarse)').matches;

function grow({ target }) {
  // Where the browser does not do it by itself (`field-sizing`).
  if (CSS.supports('field-sizing', 'content')) return;
  target.style.height = 'auto';
  target.style.height = `${target.scrollHeight}px`;
}
