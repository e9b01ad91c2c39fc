/** The models to choose from, and one that is on its way. */
import { Foreword } from 'foreword';
import { html, nothing } from 'lit-html';
import { isServed, servedModels } from '../served.js';
import { button, icon, megabytes } from '../shell/elements.js';
import { changed, state } from '../state.js';
import { number, t } from '../strings.js';
import * as act from './actions.js';
import { duration } from './speed.js';

/** Shows the models; the one that is loaded stays until another one is chosen. Once more goes back. */
export function chooseModel() {
  state.view = state.view === 'models' ? 'chat' : 'models';
  changed();
}

/** Groups of models by the bytes of their download; the first one needs no title. */
const SIZES = [[0, 5e8], [5e8, 1.3e9], [1.3e9, Infinity]];

function tokensASecond({ bytes }) {
  const n = state.bytesASecond / bytes;
  return number(n, n < 10 ? 1 : 0);
}

/** Chips that leave one family of models in the list. */
function families() {
  const names = ['', ...new Set(Foreword.models.map(({ family }) => family))];
  return html`<div class="families" role="group" aria-label=${t.families}>
    ${names.map((name) => html`<button aria-pressed=${state.family === name} @click=${() => ((state.family = name), changed())}>${name || t.all}</button>`)}
  </div>`;
}

function card(model, here) {
  const [name, quantization] = model.title.split(', ');
  return html`<li>
    <button class="card" @click=${() => act.load(model.name, model.title)}>
      <strong>${name}</strong>
      <span>${t.abouts[model.name] ?? model.about}</span>
      <span>${[quantization, megabytes(model.bytes), model.license].join(' · ')}</span>
      ${state.bytesASecond ? html`<span>${t.speedHere(tokensASecond(model))}</span>` : nothing}
      <em>${here ? t.here : t.download}</em>
    </button>
    ${here ? button('bin', t.deleteModel(model.title), () => act.forget(here), 'quiet') : nothing}
  </li>`;
}

export function welcome() {
  if (isServed) return servedModels(act.load);
  const isHere = (model) => state.cached.find((c) => c.complete && c.url.endsWith(`/${model.file}`));
  const other = state.cached.filter((c) => !Foreword.models.some((m) => c.url.endsWith(`/${m.file}`)));
  return html`<section class="welcome">
    <h1>${t.welcome[0]}<br />${t.welcome[1]}</h1>
    <p class="lead">${t.lead}</p>
    <ul class="facts">
      ${t.facts.map(
        ([name, title, text]) => html`<li>${icon(name)}<strong>${title}</strong><span>${text}</span></li>`,
      )}
    </ul>
    <h2 class="visually-hidden">${t.models}</h2>
    ${families()}
    ${(state.family ? [[0, Infinity]] : SIZES).map(([from, to], i) => {
      const models = Foreword.models.filter(({ bytes, family }) => bytes >= from && bytes < to && family.includes(state.family)).sort((a, b) => a.bytes - b.bytes);
      const cards = html`<ul class="cards">${models.map((model) => card(model, isHere(model)))}</ul>`;
      return i ? html`<details ?open=${models.some(isHere)}><summary>${t.sizes[i]}</summary>${cards}</details>` : cards;
    })}
    <form class="url" @submit=${submitUrl}>
      <label for="url">${t.elsewhere}</label>
      <div class="row">
        <input id="url" name="url" placeholder=${t.addressHint} autocomplete="off" spellcheck="false" />
        <button class="primary">${t.load}</button>
      </div>
      <label class="file">${t.fileChoice[0]}<span>${t.fileChoice[1]}</span>${t.fileChoice[2]}<input type="file" accept=".gguf" @change=${(e) => e.target.files[0] && act.load(e.target.files[0], e.target.files[0].name)} /></label>
    </form>
    ${other.length
      ? html`<h2>${t.alsoHere}</h2>
          <ul class="cached">
            ${other.map(
              (c) => html`<li><button class="title" @click=${() => act.load(c.url, c.url.split('/').pop())}>${c.url.split('/').pop()}</button
                ><span>${megabytes(c.bytes)}${c.complete ? '' : `, ${t.partial}`}</span>${button('bin', t.remove, () => act.forget(c), 'quiet')}</li>`,
            )}
          </ul>`
      : nothing}
  </section>`;
}

function submitUrl(event) {
  event.preventDefault();
  const url = new FormData(event.target).get('url').trim();
  if (url) void act.load(url, url.split('/').pop());
}

export function loadingView() {
  const { label, phase, loadedBytes, totalBytes, speed, opener } = state.loading;
  const words = t.phases[phase === 'download' && !loadedBytes ? 'starting' : phase];
  return html`<section class="loading" aria-live="polite">
    <h2>${label}</h2>
    ${opener ? html`<p>${t.openerFirst}</p>` : nothing}
    <progress max="1" value=${totalBytes ? loadedBytes / totalBytes : nothing} aria-label=${words}></progress>
    <p>${words}${loadedBytes ? html` · ${t.bytesOf(megabytes(loadedBytes), totalBytes && megabytes(totalBytes))}` : nothing}${speed && phase === 'download' ? html`<span class="speed"> · ${megabytes(speed)}/s${totalBytes ? html` · ${t.left(duration((totalBytes - loadedBytes) / speed))}` : nothing}</span>` : nothing}</p>
    <button @click=${act.cancelLoad}>${t.cancel}</button>
  </section>`;
}
