/** A message. */
import { html, nothing } from 'lit-html';
import { unsafeHTML } from 'lit-html/directives/unsafe-html.js';
import { copy } from '../shell/actions.js';
import { button, icon } from '../shell/elements.js';
import { changed, state } from '../state.js';
import { number, t } from '../strings.js';
import * as act from './actions.js';
import { keydown } from './composer.js';
import { blocks } from './markdown.js';
import { versionsOf } from './versions.js';

export function message(m, i) {
  const last = i === state.chat.messages.length - 1;
  const writing = last && state.answering && m.role === 'assistant';
  if (m.role === 'user' && state.editing === i) return editor(m, i);
  return html`<article class="message ${m.role}">
    <h3 class="visually-hidden">${m.role === 'user' ? t.you : t.model}</h3>
    ${m.thoughts ? html`<details class="thoughts"><summary>${writing && !m.content ? t.thinking : t.thoughts}</summary><div dir="auto">${m.thoughts}</div></details>` : nothing}
    <div class="text ${writing ? 'writing' : ''}" dir="auto">${m.role === 'user' ? html`${m.files?.map(fileLine)}${m.content}` : m.content ? blocks(m, state.settings.guesses).map((block) => unsafeHTML(block)) : html`<span class="thinking" role="img" aria-label=${t.reading}><i></i><i></i><i></i></span>`}</div>
    ${writing
      ? nothing
      : html`<div class="tools">
          ${button('copy', t.copy, () => copy(m.content), 'quiet')}
          ${m.role === 'user' && state.model && !state.answering ? button('edit', t.edit, () => act.startEditing(i), 'quiet') : nothing}
          ${versionsOf(m) > 1 ? versions(m, i) : nothing}
          ${last && m.role === 'assistant' && state.model && !state.answering ? button('again', t.again, act.regenerate, 'quiet') : nothing}
          ${last && m.finish === 'length' && state.model && !state.answering ? html`<button class="go-on" @click=${act.goOn}>${t.goOn}</button>` : nothing}
          ${m.figures ? html`<p class="under">${figuresLine(m.figures)}</p>` : nothing}
        </div>`}
  </article>`;
}

const fileLine = ({ name, tokens }) => html`<span class="file-line">${icon('clip')}${t.fileOf(name, number(tokens))}</span>`;

/** Which version of a message is shown, and the ways to its neighbours. */
function versions(m, i) {
  const to = (name, label, place) => html`<button class="icon quiet" aria-label=${label} title=${label} ?disabled=${state.answering || place < 0 || place > m.others.length} @click=${() => act.turnTo(i, place)}>${icon(name)}</button>`;
  return html`<span class="versions">${to('left', t.formerVersion, m.place - 1)}<span>${m.place + 1}/${versionsOf(m)}</span>${to('right', t.nextVersion, m.place + 1)}</span>`;
}

function editor(m, i) {
  return html`<form class="message user editing" @submit=${(e) => (e.preventDefault(), act.edit(i, new FormData(e.target).get('text')))}>
    <textarea name="text" aria-label=${t.editMessage} rows="3" .value=${m.content} @keydown=${keydown}></textarea>
    <div class="row"><button type="button" @click=${() => ((state.editing = -1), changed())}>${t.cancel}</button><button class="primary">${t.send}</button></div>
  </form>`;
}

/** In plain words who wrote an answer, how fast, and why it was fast. */
export function figuresLine({ by, ms, speed, read, reused, predicted, written, guessed }) {
  const share = (part, whole) => (part ? `${Math.round((100 * part) / whole)} %` : '');
  const wait = `${number(ms / 1000, ms < 1000 ? 2 : 1)} s`;
  return t.figures({ by, wait, speed: number(speed, speed < 10 ? 1 : 0), reused: share(reused, read), predicted, guessed: share(guessed, written) });
}
