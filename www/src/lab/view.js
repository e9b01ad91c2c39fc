/** The playground for forms of answers, and the comparison of two models. */
import { Foreword } from 'foreword';
import { html, nothing } from 'lit-html';
import { unsafeHTML } from 'lit-html/directives/unsafe-html.js';
import { blocks } from '../chat/markdown.js';
import { figuresLine } from '../chat/message.js';
import { changed, state } from '../state.js';
import { t } from '../strings.js';
import * as act from './actions.js';

const field = (event, name) => new FormData(event.target).get(name);

export function playgroundView() {
  const { playground: lab } = state;
  const { kind, prompt, output, error, running } = lab;
  const run = (event) => (event.preventDefault(), act.tryOut(field(event, 'prompt')));
  return html`<section class="lab">
    <h1>${t.playground}</h1>
    <p class="soft">${t.playgroundLead}</p>
    <div class="families" role="group" aria-label=${t.form}>
      ${['schema', 'tools'].map((each) => html`<button aria-pressed=${kind === each} @click=${() => ((lab.kind = each), changed())}>${t.forms[each]}</button>`)}
    </div>
    <form @submit=${run}>
      <label>${t.forms[kind]}<textarea rows="9" spellcheck="false" class="source" .value=${lab[kind]} @input=${(e) => (lab[kind] = e.target.value)}></textarea></label>
      <label>${t.prompt}<textarea name="prompt" rows="2" .value=${prompt || t.playgroundPrompt}></textarea></label>
      <div class="row">${running ? html`<button type="button" @click=${() => running.abort()}>${t.stop}</button>` : html`<button class="primary">${t.run}</button>`}</div>
    </form>
    ${error ? html`<p class="failed" role="alert">${error}</p>` : nothing}
    ${output ? html`<div class="code"><pre tabindex="0" role="region" aria-label=${t.answer}>${pretty(output)}</pre></div>` : nothing}
  </section>`;
}

/** JSON that is complete, in lines. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Models on this device, as what they are loaded from and a title. */
function onDevice() {
  return state.cached.filter(({ complete }) => complete).map(({ url }) => {
    const known = Foreword.models.find(({ file }) => url.endsWith(`/${file}`));
    return known ? [known.name, known.title] : [url, url.split('/').pop()];
  });
}

export function compareView() {
  const { other, label, loading, part, running, answers, error } = state.compare;
  const choices = onDevice();
  const load = (event) => {
    event.preventDefault();
    const [source, title] = choices[field(event, 'other')];
    void act.loadOther(source, title);
  };
  const run = (event) => (event.preventDefault(), act.compareOn(field(event, 'prompt')));
  return html`<section class="lab wide">
    <h1>${t.compare}</h1>
    <p class="soft">${t.compareLead}</p>
    <form class="row" @submit=${load}>
      <label class="grow">${t.secondModel}<select name="other">${choices.map(([, title], i) => html`<option value=${i}>${title}</option>`)}</select></label>
      ${loading || other ? html`<button type="button" @click=${act.leaveOther}>${loading ? t.cancel : t.unload}</button>` : html`<button class="primary" ?disabled=${!choices.length}>${t.load}</button>`}
    </form>
    ${loading ? html`<progress max="1" value=${part || nothing} aria-label=${t.downloadOf(label)}></progress>` : nothing}
    ${error ? html`<p class="failed" role="alert">${error}</p>` : nothing}
    ${other
      ? html`<form @submit=${run}>
          <label>${t.prompt}<textarea name="prompt" rows="2">${t.ideas[0]}</textarea></label>
          <div class="row">${running ? html`<button type="button" @click=${() => running.abort()}>${t.stop}</button>` : html`<button class="primary">${t.send}</button>`}</div>
        </form>`
      : nothing}
    ${other ? html`<div class="both">${[state.modelName, label].map((name, i) => side(name, answers[i]))}</div>` : nothing}
  </section>`;
}

const side = (name, answer) => html`<article class="side">
  <h2>${name}</h2>
  <div class="text" dir="auto">${answer ? blocks(answer, false).map((block) => unsafeHTML(block)) : nothing}</div>
  ${answer?.figures ? html`<p class="soft">${figuresLine(answer.figures)}</p>` : nothing}
</article>`;
