/** The page, as a function of the state. */
import { Foreword } from 'foreword';
import { html, nothing } from 'lit-html';
import { unsafeHTML } from 'lit-html/directives/unsafe-html.js';
import * as act from './actions.js';
import { toHtml } from './markdown.js';
import { changed, saveSettings, state } from './state.js';

const mib = (bytes) => `${(bytes / 1048576).toFixed(bytes < 10485760 ? 1 : 0)} MB`;

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
  lock: 'M6 11h12v9H6zM9 11V8a3 3 0 0 1 6 0v3',
  bolt: 'M13 3L6 13.5h5.5L11 21l7-10.5h-5.5z',
  plane: 'M12 20h.01M8.5 16.4a5 5 0 0 1 7 0M5 12.9a10 10 0 0 1 5-2.7M19 12.9a10 10 0 0 0-2.4-1.7M2 9a15 15 0 0 1 4.2-2.7M22 9a15 15 0 0 0-11.3-3.7M3 3l18 18',
};
const icon = (name) => html`<svg viewBox="0 0 24 24" aria-hidden="true"><path d=${ICONS[name]} /></svg>`;
const button = (name, label, click, extra = '') =>
  html`<button class="icon ${extra}" aria-label=${label} title=${label} @click=${click}>${icon(name)}</button>`;

export function page() {
  return html`
    <a class="skip" href="#prompt">Skip to the conversation</a>
    <div class="shell ${state.menu ? 'menu-open' : ''} ${state.panel ? 'panel-open' : ''}">
      ${sidebar()}
      <button class="scrim" aria-label="Close the menu" @click=${() => ((state.menu = false), changed())}></button>
      <main>
        ${topbar()} ${state.error ? errorBar() : nothing}
        ${state.loading ? loadingView() : !state.model ? welcome() : state.view === 'bench' ? benchView() : chatView()}
      </main>
      ${panel()}
    </div>
    ${settingsDialog()}
  `;
}

function sidebar() {
  return html`<nav class="sidebar" aria-label="Chats">
    <div class="brand"><img src="icon.svg" alt="" width="28" height="28" /><span>Foreword</span></div>
    <button class="primary wide" @click=${act.startNew}>${icon('plus')} New chat</button>
    <ul class="chats">
      ${state.chats.map(
        (chat) => html`<li class=${chat.id === state.chat.id && state.view === 'chat' ? 'current' : ''}>
          <button class="title" @click=${() => act.open(chat)}>${chat.title || 'New chat'}</button>
          ${button('bin', `Delete the chat ${chat.title}`, () => act.remove(chat), 'quiet')}
        </li>`,
      )}
    </ul>
    <div class="foot">
      <button @click=${() => ((state.view = 'bench'), (state.menu = false), changed())} ?disabled=${!state.model}>${icon('chart')} Benchmark</button>
      <button @click=${() => document.querySelector('#settings').showModal()}>${icon('gear')} Settings</button>
      <p>Runs on your device. Nothing you write leaves it.</p>
    </div>
  </nav>`;
}

function topbar() {
  return html`<header class="topbar">
    ${button('menu', 'Menu', () => ((state.menu = !state.menu), changed()), 'menu-button')}
    <button class="model" @click=${switchModel} ?disabled=${!state.model} title="Choose another model">
      <span class="dot ${state.model ? 'on' : ''}"></span><span class="name">${state.model ? state.modelName : 'No model'}</span>
    </button>
    <span class="spacer"></span>
    ${state.model ? html`<span class="badge">${state.model.info.device}${state.model.info.backend === 'cpu' ? ` · ${state.model.info.threads} ${state.model.info.threads === 1 ? 'thread' : 'threads'}` : nothing}</span>` : nothing}
    ${button('chart', 'Statistics', () => ((state.panel = !state.panel), changed(), void act.measure()))}
  </header>`;
}

async function switchModel() {
  act.stop();
  await state.model?.dispose();
  state.model = null;
  localStorage.removeItem('model');
  changed();
}

function errorBar() {
  return html`<div class="error" role="alert"><span>${state.error}</span>${button('close', 'Dismiss', () => ((state.error = null), changed()), 'quiet')}</div>`;
}

function welcome() {
  const isHere = (model) => state.cached.find((c) => c.complete && c.url.endsWith(`/${model.file}`));
  const other = state.cached.filter((c) => !Foreword.models.some((m) => c.url.endsWith(`/${m.file}`)));
  return html`<section class="welcome" @dragover=${(e) => e.preventDefault()} @drop=${drop}>
    <h1>A language model,<br />right in this page.</h1>
    <p class="lead">Pick a model and start to chat. No account, no server, nothing to install.</p>
    <ul class="facts">
      ${[['lock', 'Private', 'What you write never leaves this device.'], ['bolt', 'Fast', 'Kernels of its own, on all your cores.'], ['plane', 'Offline', 'One download, then no network at all.']].map(
        ([name, title, text]) => html`<li>${icon(name)}<strong>${title}</strong><span>${text}</span></li>`,
      )}
    </ul>
    <h2 class="visually-hidden">Models</h2>
    <ul class="cards">
      ${Foreword.models.map(
        (model) => html`<li>
          <button class="card" @click=${() => act.load(model.name, model.title)}>
            <strong>${model.title.split(', ')[0]}</strong>
            <span>${[...model.title.split(', ').slice(1), mib(model.bytes), model.license].join(' · ')}</span>
            <em>${isHere(model) ? 'On this device' : 'Download and start'}</em>
          </button>
          ${isHere(model) ? button('bin', `Delete ${model.title} from this device`, () => act.forget(isHere(model)), 'quiet') : nothing}
        </li>`,
      )}
    </ul>
    <form class="url" @submit=${submitUrl}>
      <label for="url">Or a GGUF file from elsewhere</label>
      <div class="row">
        <input id="url" name="url" placeholder="https://… or hf:owner/repo/file.gguf" autocomplete="off" spellcheck="false" />
        <button class="primary">Load</button>
      </div>
      <label class="file">… or <span>choose a file</span> from this device (you can also drop it here)<input type="file" accept=".gguf" @change=${(e) => e.target.files[0] && act.load(e.target.files[0], e.target.files[0].name)} /></label>
    </form>
    ${other.length
      ? html`<h2>Also on this device</h2>
          <ul class="cached">
            ${other.map(
              (c) => html`<li><button class="title" @click=${() => act.load(c.url, c.url.split('/').pop())}>${c.url.split('/').pop()}</button
                ><span>${mib(c.bytes)}${c.complete ? '' : ', partial'}</span>${button('bin', 'Delete', () => act.forget(c), 'quiet')}</li>`,
            )}
          </ul>`
      : nothing}
  </section>`;
}

function drop(event) {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) void act.load(file, file.name);
}

function submitUrl(event) {
  event.preventDefault();
  const url = new FormData(event.target).get('url').trim();
  if (url) void act.load(url, url.split('/').pop());
}

function loadingView() {
  const { label, phase, loadedBytes, totalBytes } = state.loading;
  const words = { download: loadedBytes ? 'Downloading' : 'Starting', verify: 'Checking the copy on this device', load: 'Loading into memory' }[phase];
  return html`<section class="loading" aria-live="polite">
    <h2>${label}</h2>
    <progress max="1" value=${totalBytes ? loadedBytes / totalBytes : nothing} aria-label=${words}></progress>
    <p>${words}${loadedBytes ? html` · ${mib(loadedBytes)}${totalBytes ? html` of ${mib(totalBytes)}` : nothing}` : nothing}</p>
    <button @click=${act.cancelLoad}>Cancel</button>
  </section>`;
}

function chatView() {
  const { messages } = state.chat;
  return html`<section class="conversation" id="conversation" aria-label="Conversation">
      <div class="column">
        ${messages.length ? messages.map(message) : suggestions()}
        <div class="visually-hidden" aria-live="polite">${state.answering ? 'The model is answering' : state.announced}</div>
      </div>
    </section>
    <form class="composer" @submit=${submit}>
      <div class="box">
        <textarea id="prompt" name="text" rows="1" placeholder="Write a message" aria-label="Message" @keydown=${keydown} @input=${grow}></textarea>
        ${state.answering ? button('stop', 'Stop', (e) => (e.preventDefault(), act.stop()), 'round') : html`<button class="icon round" aria-label="Send" title="Send">${icon('send')}</button>`}
      </div>
      <p class="hint">Small models make things up. <span class="keys">Enter sends, Shift+Enter starts a line, Escape stops.</span></p>
    </form>`;
}

function suggestions() {
  const ideas = ['Write a short poem about the sea.', 'Explain photosynthesis to a child.', 'Give me three names for a bakery.', 'Write a Python function that reverses a string.'];
  return html`<div class="empty">
    <h1>What shall we write?</h1>
    <div class="ideas">${ideas.map((idea) => html`<button @click=${() => act.send(idea)}>${idea}</button>`)}</div>
  </div>`;
}

function message(m, i) {
  const last = i === state.chat.messages.length - 1;
  const writing = last && state.answering && m.role === 'assistant';
  if (m.role === 'user' && state.editing === i) return editor(m, i);
  return html`<article class="message ${m.role}">
    <h3 class="visually-hidden">${m.role === 'user' ? 'You' : 'Model'}</h3>
    <div class="text ${writing ? 'writing' : ''}">${m.role === 'user' ? m.content : m.content ? unsafeHTML(toHtml(m.content, state.settings.guesses ? m.guessed : [])) : html`<span class="thinking" aria-label="Reading"><i></i><i></i><i></i></span>`}</div>
    ${writing
      ? nothing
      : html`<div class="tools">
          ${button('copy', 'Copy', () => act.copy(m.content), 'quiet')}
          ${m.role === 'user' && !state.answering ? button('edit', 'Edit', () => act.startEditing(i), 'quiet') : nothing}
          ${last && m.role === 'assistant' && !state.answering ? button('again', 'Write anew', act.regenerate, 'quiet') : nothing}
        </div>`}
  </article>`;
}

function editor(m, i) {
  return html`<form class="message user editing" @submit=${(e) => (e.preventDefault(), act.edit(i, new FormData(e.target).get('text')))}>
    <textarea name="text" aria-label="Edit the message" rows="3" .value=${m.content} @keydown=${keydown}></textarea>
    <div class="row"><button type="button" @click=${() => ((state.editing = -1), changed())}>Cancel</button><button class="primary">Send</button></div>
  </form>`;
}

function submit(event) {
  event.preventDefault();
  const field = event.target.elements.text;
  const text = field.value;
  if (!text.trim() || state.answering) return;
  field.value = '';
  grow({ target: field });
  void act.send(text);
}

function keydown(event) {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    event.target.form.requestSubmit();
  }
}

function grow({ target }) {
  target.rows = Math.min(8, target.value.split('\n').length);
}

function benchView() {
  const { running, result, kernels } = state.bench;
  return html`<section class="bench">
    <h1>Benchmark</h1>
    <p>Reads 512 tokens and writes 64, three times; the medians count.</p>
    ${backendChoice(act.runOn, running)}
    <p class="soft">${state.model.info.backendReason}.</p>
    <div class="row">
      <button class="primary" ?disabled=${running} @click=${act.runBench}>${running ? 'Running …' : 'Run'}</button>
      ${result ? html`<button @click=${() => (act.copy(act.benchMarkdown(result)), (state.bench.copied = true), changed())}>${state.bench.copied ? 'Copied' : 'Copy as Markdown'}</button>` : nothing}
    </div>
    ${running ? html`<p role="status">This takes some seconds; the page stays usable.</p>` : nothing}
    ${result
      ? html`<dl class="figures" role="status">
          ${figure('Prefill', result.prefill_tok_s.toFixed(1), 'tokens/s')} ${figure('Decode', result.decode_tok_s.toFixed(1), 'tokens/s')}
          ${figure('First token', result.ttft_ms.toFixed(0), 'ms')} ${figure('Load', result.load_ms.toFixed(0), 'ms')}
          ${figure('Threads', result.threads, '')} ${figure('Backend', result.backend, result.device)}
        </dl>`
      : nothing}
    ${result && kernels?.length ? kernelChart(kernels) : nothing}
  </section>`;
}

/** Where the GPU's time goes. */
function kernelChart(kernels) {
  const sorted = kernels.toSorted((a, b) => b.ms - a.ms);
  const all = sorted.reduce((sum, { ms }) => sum + ms, 0);
  return html`<h2>Time on the GPU, by kernel</h2>
    <table class="kernels">
      ${sorted.map(
        ({ kernel, ms, runs }) => html`<tr>
          <th scope="row">${kernel}</th>
          <td><meter min="0" max=${sorted[0].ms} value=${ms} aria-label="Share of ${kernel}"></meter></td>
          <td>${((100 * ms) / all).toFixed(0)} %</td>
          <td>${((1000 * ms) / runs).toFixed(0)} µs each</td>
        </tr>`,
      )}
    </table>
    <p class="soft">Sampled: some steps have been measured since the model was loaded.</p>`;
}

const BACKENDS = { auto: 'auto', webgpu: 'WebGPU', cpu: 'CPU' };

function backendChoice(choose, disabled = false) {
  return html`<fieldset ?disabled=${disabled}>
    <legend>Backend</legend>
    ${Object.entries(BACKENDS).map(
      ([value, label]) => html`<label class="choice"><input type="radio" name="backend" .checked=${state.settings.backend === value} @change=${() => choose(value)} />${label}</label>`,
    )}
  </fieldset>`;
}

const figure = (name, value, unit) => html`<div><dt>${name}</dt><dd>${value} <small>${unit}</small></dd></div>`;

function panel() {
  const { usage, memory, model } = state;
  const t = usage?.timings;
  return html`<aside class="panel" aria-label="Statistics" ?inert=${!state.panel}>
    <header><h2>Statistics</h2>${button('close', 'Close the statistics', () => ((state.panel = false), changed()), 'quiet')}</header>
    <dl class="figures small">
      ${figure('First token', t ? t.ttft_ms.toFixed(0) : '–', 'ms')} ${figure('Prefill', t ? t.prefill_tok_s.toFixed(1) : '–', 'tok/s')}
      ${figure('Decode', t ? t.decode_tok_s.toFixed(1) : '–', 'tok/s')} ${figure('Prompt', usage?.prompt_tokens ?? '–', usage ? `${usage.prompt_tokens_details.cached_tokens} reused${usage.prompt_tokens_details.predicted_tokens ? `, ${usage.prompt_tokens_details.predicted_tokens} predicted` : ''}` : 'tokens')}
    </dl>
    ${waits()} ${guesses()}
    <h3>Tokens a second</h3>
    <div class="plot" id="plot-speed"></div>
    <h3>Memory, MiB</h3>
    <div class="plot" id="plot-memory"></div>
    <dl class="list">
      ${memory ? html`<dt>Weights</dt><dd>${mib(memory.weights)}</dd><dt>KV cache</dt><dd>${mib(memory.cache)}</dd><dt>Work</dt><dd>${mib(memory.buffers)}</dd>` : nothing}
      ${model ? html`<dt>Backend</dt><dd>${model.info.device}</dd><dt>Why</dt><dd>${model.info.backendReason}</dd><dt>Threads</dt><dd>${model.info.threads}${model.info.threadsLimitedBy === 'not_isolated' ? ' (page is not isolated)' : ''}</dd><dt>Context</dt><dd>${model.info.contextLength}</dd><dt>Loaded in</dt><dd>${(model.info.loadMs / 1000).toFixed(1)} s</dd>` : nothing}
    </dl>
  </aside>`;
}

/** The first word of the last long prompt, with and without prediction. */
function waits() {
  const { exact, predicted } = state.waits;
  if (!exact && !predicted) return nothing;
  const wait = (name, w) => html`<dt>${name}</dt><dd>${w ? `${w.ms.toFixed(0)} ms for ${w.tokens} tokens` : '–'}</dd>`;
  return html`<h3>First word of a long prompt</h3>
    <dl class="list waits">${wait('Read exactly', exact)}${wait('Predicted first', predicted)}</dl>`;
}

/** How well the next words were guessed: in the last answer, and in all since the model was loaded. */
function guesses() {
  const { usage, speculation } = state;
  if (!usage || !speculation?.forwards) return nothing;
  const { accepted_prediction_tokens: accepted, rejected_prediction_tokens: rejected, forwards } = usage.completion_tokens_details;
  const last = { guessed: accepted + rejected, accepted, tokensPerForward: usage.completion_tokens / forwards };
  const right = ({ guessed, accepted }) => (guessed ? `${((100 * accepted) / guessed).toFixed(0)} %` : '–');
  const row = (name, show) => html`<dt>${name}</dt><dd>${show(last)} (${show(speculation)})</dd>`;
  return html`<h3>Guessed words: last answer (all answers)</h3>
    <dl class="list guesses">
      ${row('Tokens a forward', (of) => of.tokensPerForward.toFixed(2))} ${row('Guesses', (of) => of.guessed)} ${row('Right', right)}
    </dl>`;
}

function settingsDialog() {
  const { settings } = state;
  const number = (key, label, min, max, step, hint = '') => html`<label
    >${label}<output>${settings[key] || (key === 'threads' ? 'auto' : settings[key])}</output
    ><input type="range" aria-label=${label} min=${min} max=${max} step=${step} .value=${String(settings[key])} @input=${(e) => ((settings[key] = Number(e.target.value)), saveSettings(), changed())} />${hint ? html`<small>${hint}</small>` : nothing}</label
  >`;
  const toggle = (key, label, hint) => html`<label class="switch"
    ><input type="checkbox" name=${key} .checked=${settings[key]} @change=${(e) => ((settings[key] = e.target.checked), saveSettings(), changed())} />${label}<small>${hint}</small></label
  >`;
  return html`<dialog id="settings" aria-labelledby="settings-title">
    <form method="dialog">
      <header><h2 id="settings-title">Settings</h2><button class="icon quiet" aria-label="Close">${icon('close')}</button></header>
      <label>System message<textarea rows="3" .value=${settings.system} @input=${(e) => ((settings.system = e.target.value), saveSettings())}></textarea></label>
      ${number('temperature', 'Temperature', 0, 2, 0.05)} ${number('top_p', 'Top p', 0.05, 1, 0.05)} ${number('max_tokens', 'Longest answer', 16, 2048, 16)}
      ${number('contextLength', 'Context', 512, 8192, 512, 'For the next model that is loaded.')} ${number('threads', 'Threads', 0, 16, 1, 'For the next model that is loaded.')}
      ${backendChoice((backend) => ((state.settings.backend = backend), saveSettings(), changed()))}
      ${toggle('early', 'First word early', 'Long prompts are predicted at first, and read exactly behind the first words.')}
      ${toggle('guesses', 'Show guessed words', 'Words that were guessed ahead, and that the model agreed with, have a colour of their own.')}
      <fieldset>
        <legend>Appearance</legend>
        ${['auto', 'light', 'dark'].map((theme) => html`<label class="choice"><input type="radio" name="theme" .checked=${settings.theme === theme} @change=${() => ((settings.theme = theme), saveSettings(), changed())} />${theme}</label>`)}
      </fieldset>
    </form>
  </dialog>`;
}
