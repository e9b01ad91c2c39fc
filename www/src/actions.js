/** What the user can do. */
import { Foreword } from 'foreword';
import { changed, newChat, save, saveSettings, state } from './state.js';
import { plots } from './stats.js';

let loading = null;

/** Models whose sidecars may lie beside the page's models. */
const SIDECARS = { 'smollm2-135m': 'smollm2-135m.sidecar.gguf', 'gemma3-270m': 'gemma3-270m.sidecar.gguf' };

/** What loads a model's sidecar, where the page's server has it. */
async function withSidecar(source) {
  if (!SIDECARS[source]) return {};
  const sidecar = new URL(`models/${SIDECARS[source]}`, document.baseURI);
  const { ok } = await fetch(sidecar, { method: 'HEAD' }).catch(() => ({ ok: false }));
  return ok ? { sidecar, prefill: 'exact' } : {};
}

/** Loads a model: a registry name, a URL, or a file; `view` is shown then. */
export async function load(source, label, view = 'chat') {
  cancelLoad();
  stop();
  const controller = (loading = new AbortController());
  state.error = null;
  state.loading = { label, phase: 'download', loadedBytes: 0, totalBytes: 0 };
  changed();
  try {
    await state.model?.dispose();
    state.model = null;
    const { backend, threads, contextLength } = state.settings;
    const model = await Foreword.load(source, {
      backend,
      ...(threads && { threads }),
      contextLength,
      speculate: 'auto',
      mirror: new URL('models/', document.baseURI),
      ...(await withSidecar(source)),
      signal: controller.signal,
      onProgress: (progress) => {
        Object.assign(state.loading ?? {}, progress);
        changed();
      },
    });
    state.model = model;
    state.waits = {};
    state.modelName = label;
    state.source = source;
    state.view = view;
    if (typeof source === 'string') localStorage.setItem('model', JSON.stringify({ source, label }));
    plots.reset();
    void measure();
    focus('#prompt');
  } catch (error) {
    if (error.code !== 'cancelled') state.error = error.message;
  } finally {
    if (loading === controller) {
      loading = null;
      state.loading = null;
    }
    void refreshCached();
    changed();
  }
}

/** Takes another backend, and loads the model again for it. */
export async function runOn(backend) {
  state.settings.backend = backend;
  void saveSettings();
  await load(state.source, state.modelName, state.view);
}

export function cancelLoad() {
  loading?.abort();
}

export async function refreshCached() {
  state.cached = await Foreword.list().catch(() => []);
  changed();
}

export async function forget(model) {
  await Foreword.delete(model).catch((error) => (state.error = error.message));
  await refreshCached();
}

/** Sends a message, and lets the model answer. */
export async function send(text) {
  if (!text.trim() || state.answering || !state.model) return;
  state.chat.messages.push({ role: 'user', content: text.trim() });
  await answer();
}

/** Replaces a message of the user's and everything behind it. */
export async function edit(index, text) {
  state.chat.messages.length = index;
  state.editing = -1;
  await send(text);
}

/** Writes the last answer anew. */
export async function regenerate() {
  if (state.answering || !state.model) return;
  const { messages } = state.chat;
  if (messages.at(-1)?.role === 'assistant') messages.pop();
  await answer();
}

/** Opens a message of the user's for changes. */
export function startEditing(index) {
  state.editing = index;
  changed();
  focus('.editing textarea');
}

/** Leaves whatever is open, the innermost first. */
export function escape() {
  if (state.answering) stop();
  else if (state.editing >= 0) state.editing = -1;
  else if (state.menu) state.menu = false;
  else return;
  changed();
  focus('#prompt');
}

/** Puts the cursor into a field that the next frame shows. */
function focus(field) {
  requestAnimationFrame(() => requestAnimationFrame(() => document.querySelector(field)?.focus()));
}

export function stop() {
  state.answering?.abort();
}

/** The stream of an answer. A model that was not made for chats continues the text. */
function ask(model, history, { system, temperature, top_p, max_tokens, early }, signal) {
  const request = { stream: true, temperature, top_p, max_tokens, ...(early && model.info.sidecar && { prefill: 'progressive' }) };
  if (!model.info.chat) return model.completions.create({ ...request, prompt: history.map((m) => m.content).join('\n') }, { signal });
  const messages = system.trim() ? [{ role: 'system', content: system }, ...history] : history;
  return model.chat.completions.create({ ...request, messages }, { signal });
}

async function answer() {
  const { model, chat, settings } = state;
  const controller = (state.answering = new AbortController());
  const history = chat.messages.map(({ role, content }) => ({ role, content }));
  const reply = { role: 'assistant', content: '', guessed: [] };
  chat.updated = Date.now();
  // A reload in the middle of the answer must not lose the question.
  await save();
  chat.messages.push(reply);
  Object.assign(state, { error: null, announced: '' });
  changed();
  try {
    for await (const chunk of await ask(model, history, settings, controller.signal)) {
      const [choice] = chunk.choices;
      add(reply, choice?.delta?.content ?? choice?.text ?? '', choice?.accepted);
      plots.token();
      if (chunk.usage) noteUsage(chunk.usage);
      changed();
    }
  } catch (error) {
    if (error.code !== 'cancelled') state.error = error.message;
    if (error.code === 'worker_lost' || error.code === 'out_of_memory') state.model = null;
    if (!reply.content) chat.messages.pop();
  } finally {
    state.answering = null;
    state.announced = reply.content && `The model says: ${reply.content}`;
    await save();
    void measure();
    changed();
  }
}

/** Goes on with an answer; `guessed` are the stretches of its text that accepted guesses wrote. */
function add(reply, text, accepted) {
  const from = reply.content.length;
  reply.content += text;
  if (!accepted) return;
  const last = reply.guessed.at(-1);
  if (last?.[1] === from) last[1] = reply.content.length;
  else reply.guessed.push([from, reply.content.length]);
}

/** From so many tokens to read on, the wait for the first word is kept for comparison. */
const LONG = 128;

function noteUsage(usage) {
  state.usage = usage;
  const { cached_tokens, predicted_tokens } = usage.prompt_tokens_details;
  const tokens = usage.prompt_tokens - cached_tokens;
  if (tokens >= LONG) state.waits[predicted_tokens ? 'predicted' : 'exact'] = { tokens, ms: usage.timings.ttft_ms };
}

/** Asks the model for its figures. */
export async function measure() {
  const stats = await state.model?.stats().catch(() => null);
  state.memory = stats?.memory ?? null;
  state.speculation = stats?.speculation ?? null;
  plots.memory(state.memory);
  changed();
}

export function open(chat) {
  stop();
  state.chat = chat;
  state.view = 'chat';
  state.menu = false;
  changed();
}

export function startNew() {
  stop();
  newChat();
  state.view = 'chat';
  state.menu = false;
  changed();
  focus('#prompt');
}

export async function remove(chat) {
  state.chats = state.chats.filter((c) => c.id !== chat.id);
  if (state.chat.id === chat.id) newChat();
  await save();
  changed();
}

/** The standard benchmark. */
export async function runBench() {
  const { bench, model } = state;
  Object.assign(bench, { running: true, copied: false });
  changed();
  try {
    bench.result = { model: state.modelName, ...(await model.benchmark({ promptTokens: 512, genTokens: 64, reps: 3 })) };
    bench.kernels = (await model.stats()).kernels ?? null;
  } catch (error) {
    state.error = error.message;
  }
  bench.running = false;
  changed();
}

/** The benchmark's result as a Markdown table. */
export function benchMarkdown(r) {
  return [
    '| model | backend | threads | prefill tok/s | decode tok/s | first token | load |',
    '|---|---|---|---|---|---|---|',
    `| ${r.model} | ${r.backend} (${r.device}) | ${r.threads} | ${r.prefill_tok_s.toFixed(1)} | ${r.decode_tok_s.toFixed(1)} | ${r.ttft_ms.toFixed(0)} ms | ${r.load_ms.toFixed(0)} ms |`,
    '',
    `${r.prompt_tokens} tokens of prompt, ${r.gen_tokens} of answer; ${navigator.userAgent}`,
  ].join('\n');
}

export async function copy(text) {
  await navigator.clipboard.writeText(text).catch(() => {});
}
