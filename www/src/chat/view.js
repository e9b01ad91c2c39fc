/** A chat. */
import { html, nothing } from 'lit-html';
import { chooseModel, loadingView } from '../models/view.js';
import { copy } from '../shell/actions.js';
import { state } from '../state.js';
import { t } from '../strings.js';
import { send } from './actions.js';
import { composer } from './composer.js';
import { message } from './message.js';

export function chatView() {
  const { messages } = state.chat;
  return html`<section class="conversation" id="conversation" aria-label=${t.conversation} @click=${copyCode}>
      <div class="column">
        ${messages.length ? messages.map((m, i) => html`${i > 0 && i === state.chat.from ? html`<p class="soft forgotten">${t.forgotten}</p>` : nothing}${message(m, i)}`) : suggestions()}
        <div class="visually-hidden" aria-live="polite">${state.answering ? t.answering : state.announced}</div>
        <div class="end"></div>
      </div>
    </section>
    ${state.model ? composer() : readOnly()}`;
}

/** The buttons in blocks of code. */
function copyCode({ target }) {
  if (!target.matches('.copy-code')) return;
  void copy(target.closest('.code').querySelector('pre').textContent.replace(/\n$/, ''));
  target.textContent = t.copied;
  setTimeout(() => (target.textContent = t.copy), 1500);
}

/** In the composer's place while there is no model. */
function readOnly() {
  if (state.loading) return html`<div class="composer">${loadingView()}</div>`;
  return html`<div class="composer"><button class="primary wide" @click=${chooseModel}>${t.chooseToGoOn}</button></div>`;
}

function suggestions() {
  return html`<div class="empty">
    <h1>${t.whatToWrite}</h1>
    <div class="ideas">${t.ideas.map((idea) => html`<button @click=${() => send(idea)}>${idea}</button>`)}</div>
  </div>`;
}
