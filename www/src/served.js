/** The page that `foreword serve` shows: the server's models answer, and no model is loaded here. */
import { Foreword } from 'foreword';
import { html } from 'lit-html';
import { t } from './strings.js';

/** Where the server's API begins; nothing on a page that loads its models itself. */
const api = document.querySelector('meta[name="foreword-server"]')?.content;
const baseURL = api && new URL(api, document.baseURI).href;

/** Whether a server answers. */
export const isServed = Boolean(api);

/** What the server has, once it was asked. */
export const served = { models: [] };

const KEY = 'server key';
const keyOf = () => sessionStorage.getItem(KEY) ?? undefined;

/** A model of the server, the first one where none or another one's is named, as the page's model. */
export async function connect(source, signal) {
  const begun = performance.now();
  await list(signal);
  const remote = await Foreword.connect({ baseURL, apiKey: keyOf(), model: served.models.includes(source) ? source : served.models[0], signal });
  const info = { ...remote.info, device: new URL(baseURL).host, chat: true, loadMs: performance.now() - begun };
  return { ...remote, info, dispose: () => remote.dispose(), stats: async () => null };
}

/** Asks what the server has, and the user for a key where one is wanted. */
async function list(signal) {
  for (;;) {
    const headers = keyOf() ? { authorization: `Bearer ${keyOf()}` } : {};
    const response = await fetch(`${baseURL}/models`, { headers, signal });
    if (response.status !== 401) {
      served.models = (await response.json()).data.map(({ id }) => id);
      return;
    }
    sessionStorage.removeItem(KEY);
    const key = prompt(t.wantsKey);
    if (!key) throw new Error(t.onlyWithKey);
    sessionStorage.setItem(KEY, key);
  }
}

/** What can be chosen there. */
export function servedModels(choose) {
  return html`<section class="welcome">
    <h1>${t.serverModels}</h1>
    <p class="lead">${t.goesTo(new URL(baseURL).host)}</p>
    <ul class="cards">
      ${served.models.map((name) => html`<li><button class="card" @click=${() => choose(name, name)}><strong>${name}</strong><em>${t.chat}</em></button></li>`)}
    </ul>
  </section>`;
}
