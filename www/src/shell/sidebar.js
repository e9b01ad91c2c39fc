/** The list of chats, and the ways to everything else. */
import { html, nothing } from 'lit-html';
import * as act from '../chat/actions.js';
import { isServed } from '../served.js';
import { changed, foundChats, state } from '../state.js';
import { t } from '../strings.js';
import { button, icon } from './elements.js';

export function sidebar() {
  const found = foundChats();
  return html`<nav class="sidebar" aria-label=${t.chats}>
    <div class="brand"><img src="icon.svg" alt="" width="28" height="28" /><span>Foreword</span></div>
    <button class="primary wide" @click=${act.startNew}>${icon('plus')} ${t.newChat}</button>
    ${state.chats.length ? html`<label class="search">${icon('search')}<input id="search" type="search" placeholder=${t.search} aria-label=${t.searchChats} .value=${state.query} @input=${(e) => ((state.query = e.target.value), changed())} /></label>` : nothing}
    <ul class="chats">
      ${found.map(chatItem)}
    </ul>
    ${state.query && !found.length ? html`<p class="soft none">${t.noneFound}</p>` : nothing}
    <div class="foot">
      ${[['bench', 'chart', t.benchmark, state.model?.benchmark], ['playground', 'braces', t.playground, state.model], ['compare', 'columns', t.compare, state.model && !isServed]].map(([view, sign, label, can]) => html`<button aria-current=${state.view === view ? 'page' : nothing} @click=${() => ((state.view = view), (state.menu = false), changed())} ?disabled=${!can}>${icon(sign)} ${label}</button>`)}
      <button @click=${() => document.querySelector('#settings').showModal()}>${icon('gear')} ${t.settings}</button>
      ${HAS_SITE && !isServed ? html`<a class="button" href="site/">${icon('book')} ${t.documentation}</a>` : nothing}
      <p>${isServed ? t.onServer(location.host) : t.onDevice}</p>
    </div>
  </nav>`;
}

function chatItem(chat) {
  if (state.renaming === chat) {
    return html`<li class="renaming"><form @submit=${(e) => (e.preventDefault(), act.rename(chat, new FormData(e.target).get('title')))}>
      <input name="title" aria-label=${t.chatTitle} .value=${chat.title} autocomplete="off" @blur=${(e) => state.renaming === chat && act.rename(chat, e.target.value)} />
    </form></li>`;
  }
  const isCurrent = chat.id === state.chat.id && state.view === 'chat';
  return html`<li class="${isCurrent ? 'current' : ''} ${chat.pinned ? 'pinned' : ''}">
    <button class="title" aria-current=${isCurrent ? 'page' : nothing} @click=${() => act.open(chat)} @dblclick=${() => act.startRenaming(chat)}>${chat.title || t.newChat}</button>
    <span class="chat-tools">${button('pin', (chat.pinned ? t.unpinChat : t.pinChat)(chat.title), () => act.pin(chat), 'quiet')}${button('edit', t.renameChat(chat.title), () => act.startRenaming(chat), 'quiet')}${button('bin', t.deleteChat(chat.title), () => act.remove(chat), 'quiet')}</span>
  </li>`;
}
