/** The settings. */
import { html, nothing } from 'lit-html';
import { exportAll, importChats } from '../chat/exchange.js';
import { SHORTCUTS } from '../keys.js';
import { changed, PRESETS, saveSettings, state } from '../state.js';
import { language, t } from '../strings.js';
import { choice, icon } from './elements.js';

export function settingsDialog() {
  const { settings } = state;
  const setting = (key) => (value) => ((settings[key] = value), saveSettings(), changed());
  const slider = (key, label, min, max, step, hint = '') => html`<label
    >${label}<output>${key === 'threads' && !settings[key] ? t.auto : settings[key].toLocaleString(language, { useGrouping: false })}</output
    ><input type="range" aria-label=${label} min=${min} max=${max} step=${step} .value=${String(settings[key])} @input=${(e) => ((settings[key] = Number(e.target.value)), saveSettings(), changed())} />${hint ? html`<small>${hint}</small>` : nothing}</label
  >`;
  const toggle = (key, label, hint) => html`<label class="switch"
    ><input type="checkbox" name=${key} .checked=${settings[key]} @change=${(e) => ((settings[key] = e.target.checked), saveSettings(), changed())} />${label}<small>${hint}</small></label
  >`;
  return html`<dialog id="settings" aria-labelledby="settings-title">
    <form method="dialog">
      <header><h2 id="settings-title">${t.settings}</h2><button class="icon quiet" aria-label=${t.close}>${icon('close')}</button></header>
      <label>${t.system}<textarea rows="3" .value=${settings.system} @input=${(e) => ((settings.system = e.target.value), saveSettings())}></textarea></label>
      <div class="row presets">
        <span class="spacer">${t.answers}</span>
        ${Object.entries(PRESETS).map(([name, preset]) => html`<button type="button" aria-pressed=${Object.entries(preset).every(([key, value]) => settings[key] === value)} @click=${() => (Object.assign(settings, preset), saveSettings(), changed())}>${t.presets[name]}</button>`)}
      </div>
      ${slider('temperature', t.temperature, 0, 2, 0.05)} ${slider('top_p', t.topP, 0.05, 1, 0.05)} ${slider('max_tokens', t.longest, 16, 2048, 16)}
      ${slider('contextLength', t.context, 512, 8192, 512, t.forNext)} ${slider('threads', t.threads, 0, 16, 1, t.forNext)}
      ${choice('backend', t.backend, t.backends, setting('backend'))}
      ${toggle('early', t.early, t.earlyHint)}
      ${toggle('guesses', t.showGuesses, t.showGuessesHint)}
      ${choice('theme', t.appearance, t.themes, setting('theme'))} ${choice('language', t.language, t.languages, setting('language'))}
      <div class="row">
        <span class="spacer">${t.chats}</span>
        <button type="button" ?disabled=${!state.chats.length} @click=${exportAll}>${t.exportChats}</button>
        <label class="button">${t.importChats}<input type="file" class="visually-hidden" accept=".json,application/json" @change=${(e) => e.target.files[0] && (importChats(e.target.files[0]), (e.target.value = ''))} /></label>
      </div>
      <details>
        <summary>${t.shortcuts}</summary>
        <dl class="list">${SHORTCUTS.map(([keys, what]) => html`<dt>${t.shortcutNames[what]}</dt><dd><kbd>${t.keys(keys)}</kbd></dd>`)}</dl>
      </details>
    </form>
  </dialog>`;
}
