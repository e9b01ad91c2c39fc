/** The page, as a function of the state. */
import { html, nothing } from 'lit-html';
import { benchView } from '../bench/view.js';
import { exportChat } from '../chat/exchange.js';
import { attach } from '../chat/files.js';
import { chatView } from '../chat/view.js';
import { compareView, playgroundView } from '../lab/view.js';
import { cancelLoad, load } from '../models/actions.js';
import { duration } from '../models/speed.js';
import { chooseModel, loadingView, welcome } from '../models/view.js';
import { changed, state } from '../state.js';
import { t } from '../strings.js';
import { togglePanel } from './actions.js';
import { button, icon } from './elements.js';
import { panel } from './panel.js';
import { settingsDialog } from './settings.js';
import { sidebar } from './sidebar.js';

export function page() {
  return html`
    <a class="skip" href="#main">${t.skip}</a>
    <div class="shell ${state.menu ? 'menu-open' : ''} ${state.panel ? 'panel-open' : ''}">
      ${sidebar()}
      <button class="scrim" aria-label=${t.closeMenu} @click=${() => ((state.menu = false), changed())}></button>
      <main id="main" tabindex="-1" @dragover=${(e) => e.preventDefault()} @drop=${dropped}>
        ${topbar()} ${state.coming ? comingLine() : nothing} ${state.error ? errorBar() : nothing} ${state.undo ? undoBar() : nothing} ${state.update ? updateBar() : nothing}
        ${mainView()}
      </main>
      ${panel()}
    </div>
    ${settingsDialog()}
  `;
}

/** A model is loaded, any other file goes with the next message. */
function dropped(event) {
  event.preventDefault();
  const files = [...event.dataTransfer.files];
  const model = files.find(({ name }) => name.endsWith('.gguf'));
  if (model) void load(model, model.name);
  else if (state.model && files.length) void attach(files);
}

/** What is there only with a model. */
const VIEWS = { bench: benchView, playground: playgroundView, compare: compareView };

/** A chat can be read whether or not a model is there. */
function mainView() {
  if (state.view === 'models') return state.loading ? loadingView() : welcome();
  if (state.model && VIEWS[state.view]) return VIEWS[state.view]();
  if (state.model || state.chat.messages.length) return chatView();
  return state.loading ? loadingView() : welcome();
}

function topbar() {
  return html`<header class="topbar">
    ${button('menu', t.menu, () => ((state.menu = !state.menu), changed()), 'menu-button')}
    <button class="model" @click=${chooseModel} aria-expanded=${state.view === 'models'} title=${t.chooseAnother}>
      <span class="dot ${state.model ? 'on' : ''}"></span><span class="name">${state.model ? state.modelName : t.noModel}</span>${icon('down')}
    </button>
    <span class="spacer"></span>
    ${state.model ? html`<span class="badge">${state.model.info.device}${state.model.info.backend === 'cpu' ? ` · ${t.threadCount(state.model.info.threads)}` : nothing}</span>` : nothing}
    ${state.chat.messages.length && state.view === 'chat' ? button('save', t.saveChat, () => exportChat(state.chat)) : nothing}
    ${button('chart', t.statistics, togglePanel)}
  </header>`;
}

function errorBar() {
  return html`<div class="error" role="alert"><span>${state.error}</span>${state.remedy ? html`<button @click=${state.remedy.act}>${state.remedy.label}</button>` : nothing}${button('close', t.dismiss, () => ((state.error = null), changed()), 'quiet')}</div>`;
}

function undoBar() {
  return html`<div class="undo" role="status"><span>${state.undo.label}</span>${state.undo.act ? html`<button @click=${state.undo.act}>${t.undo}</button>` : nothing}</div>`;
}

function updateBar() {
  return html`<div class="undo" role="status"><span>${t.newVersion}</span><button @click=${state.update}>${t.reload}</button>${button('close', t.dismiss, () => ((state.update = null), changed()), 'quiet')}</div>`;
}

/** One quiet line: who answers, and who is on the way. */
function comingLine() {
  const { label, loadedBytes, totalBytes, speed, phase } = state.coming;
  const left = speed && totalBytes ? `, ${t.left(duration((totalBytes - loadedBytes) / speed))}` : '';
  const percent = totalBytes ? `, ${Math.floor((100 * loadedBytes) / totalBytes)} %` : '';
  const words = (t.coming[phase] ?? t.coming.download)(percent, left);
  return html`<p class="coming"><span><strong>${state.modelName}</strong> ${t.answersNow} <strong>${label}</strong> ${words}.</span>${button('close', t.doWithout(label), cancelLoad, 'quiet')}
    <progress max="1" value=${totalBytes ? loadedBytes / totalBytes : nothing} aria-label=${t.downloadOf(label)}></progress></p>`;
}
