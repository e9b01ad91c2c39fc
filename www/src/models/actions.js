/** What the user can do with models. */
import { Foreword } from 'foreword';
import { stop } from '../chat/actions.js';
import { tidy } from '../chat/sessions.js';
import { busy, idle } from '../crash.js';
import { connect, isServed } from '../served.js';
import { focus, measure, setError } from '../shell/actions.js';
import { plots } from '../shell/plots.js';
import { changed, saveSettings, state } from '../state.js';
import { t } from '../strings.js';
import { speedometer } from './speed.js';

let loading = null;

/** Models whose sidecars may lie beside the page's models. */
const SIDECARS = { 'smollm2-135m': 'smollm2-135m.sidecar.gguf', 'gemma3-270m': 'gemma3-270m.sidecar.gguf' };

/** What loads a model's sidecar, where the page's server has it. */
async function withSidecar(source) {
  if (!SIDECARS[source]) return {};
  const sidecar = new URL(`models/${SIDECARS[source]}`, document.baseURI);
  const response = await fetch(sidecar, { method: 'HEAD' }).catch(() => null);
  // Some hosts answer every address with their page.
  const isThere = response?.ok && !response.headers.get('content-type')?.includes('html');
  return isThere ? { sidecar, prefill: 'exact' } : {};
}

/** Loads a model: a registry name, a URL, or a file; `view` is shown then. */
export async function load(source, label, view = 'chat') {
  cancelLoad();
  stop();
  const controller = (loading = new AbortController());
  setError(null);
  state.coming = null;
  state.loading = { label, phase: 'download', loadedBytes: 0, totalBytes: 0 };
  let meter = speedometer();
  let isOpeners = false;
  if (typeof source === 'string') busy({ what: 'load', source, label, contextLength: state.settings.contextLength });
  changed();
  try {
    await state.model?.dispose();
    state.model = null;
    const { backend, threads, contextLength } = state.settings;
    const model = isServed ? await connect(source, controller.signal) : await Foreword.load(source, {
      backend,
      ...(threads && { threads }),
      contextLength,
      speculate: 'auto',
      opener: typeof source === 'string',
      mirror: new URL('models/', document.baseURI),
      ...(await withSidecar(source)),
      signal: controller.signal,
      onProgress: (progress) => {
        // The speed of another file is measured anew.
        if (isOpeners && !progress.opener) meter = speedometer();
        isOpeners = Boolean(progress.opener);
        if (loading === controller) Object.assign(state.loading ?? state.coming ?? {}, { opener: false }, progress, { speed: progress.phase === 'download' ? meter(progress.loadedBytes) : 0 });
        changed();
      },
    });
    state.model = model;
    state.waits = {};
    state.modelName = isServed ? model.info.name : label;
    state.source = source;
    if (model.info.opener) expect(model, controller, label, () => load(source, label, view));
    state.view = view;
    if (typeof source === 'string') localStorage.setItem('model', JSON.stringify({ source, label }));
    plots.reset();
    void measure();
    void tidy();
    focus('#prompt');
  } catch (error) {
    if (error.code !== 'cancelled') setError(t.error(error), { label: t.tryAgain, act: () => load(source, label, view) });
  } finally {
    if (loading === controller) {
      if (!state.coming) loading = null;
      state.loading = null;
      if (!state.coming) idle();
    }
    void refreshCached();
    changed();
  }
}

/** Says that the browser ended the page's last visit, and offers what may go better. */
export function recover({ what, source, label, contextLength }) {
  const shorter = contextLength > LEAST_CONTEXT && Math.max(LEAST_CONTEXT, contextLength >> 1);
  const again = () => {
    state.settings.contextLength = shorter;
    void saveSettings();
    return load(source, label);
  };
  const choose = () => ((state.view = 'models'), setError(null), changed());
  setError((what === 'load' ? t.endedLoading : t.endedAnswering)(label), shorter ? { label: t.loadShorter(shorter), act: again } : { label: t.chooseSmaller, act: choose });
}

/** A context that no chat should be below. */
const LEAST_CONTEXT = 1024;

/** The opener answers: says so until the model that was asked for takes over, which no answer and no message notices. */
async function expect(model, controller, label, again) {
  state.modelName = model.info.name;
  state.coming = { label, phase: 'download', loadedBytes: 0, totalBytes: 0 };
  try {
    await model.ready;
    if (state.model === model) state.modelName = label;
    void measure();
  } catch (error) {
    if (loading === controller && error.code !== 'cancelled') setError(t.notLoaded(label, t.error(error)), { label: t.tryAgain, act: again });
  } finally {
    if (loading === controller) {
      loading = state.coming = null;
      idle();
    }
    void refreshCached();
    changed();
  }
}

export function cancelLoad() {
  loading?.abort();
}

export async function refreshCached() {
  if (isServed) return;
  state.cached = await Foreword.list().catch(() => []);
  changed();
  const { bytes, tokensPerSecond } = await Foreword.estimate(Foreword.models[0].name).catch(() => ({}));
  state.bytesASecond = tokensPerSecond ? bytes * tokensPerSecond : 0;
  changed();
}

/** The entry of the cache that a model would be loaded from. */
export function cachedAs(source) {
  const file = Foreword.models.find((m) => m.name === source)?.file;
  return state.cached.find((c) => c.complete && (file ? c.url.endsWith(`/${file}`) : c.url === source));
}

/** Whether a model's download was begun here. */
export function isBegun(source) {
  const file = Foreword.models.find((m) => m.name === source)?.file;
  return state.cached.some((c) => (file ? c.url.endsWith(`/${file}`) : c.url === source));
}

export async function forget(model) {
  if (!confirm(t.sureToDelete(model.url.split('/').pop()))) return;
  await Foreword.delete(model).catch((error) => setError(t.error(error)));
  await refreshCached();
}
