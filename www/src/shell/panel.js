/** Figures and plots beside the chat. */
import { html, nothing } from 'lit-html';
import { changed, state } from '../state.js';
import { number, t } from '../strings.js';
import { button, figure, megabytes } from './elements.js';

export function panel() {
  const { usage, memory, model } = state;
  const timings = usage?.timings;
  return html`<aside class="panel" aria-label=${t.statistics} ?inert=${!state.panel}>
    <header><h2>${t.statistics}</h2>${button('close', t.closeStatistics, () => ((state.panel = false), changed()), 'quiet')}</header>
    <dl class="figures small">
      ${figure(t.firstToken, timings ? number(timings.ttft_ms) : '–', 'ms')} ${figure(t.prefill, timings ? number(timings.prefill_tok_s, 1) : '–', t.perSecondShort)}
      ${figure(t.decode, timings ? number(timings.decode_tok_s, 1) : '–', t.perSecondShort)} ${figure(t.prompt, usage?.prompt_tokens ?? '–', usage ? t.promptParts(usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens_details.predicted_tokens) : t.tokens)}
    </dl>
    ${waits()} ${guesses()}
    <h3>${t.tokensASecond}</h3>
    <div class="plot" id="plot-speed"></div>
    <h3>${t.memory}</h3>
    <div class="plot" id="plot-memory"></div>
    <dl class="list">
      ${memory ? html`<dt>${t.weights}</dt><dd>${megabytes(memory.weights)}</dd><dt>${t.cache}</dt><dd>${megabytes(memory.cache)}</dd><dt>${t.work}</dt><dd>${megabytes(memory.buffers)}</dd>` : nothing}
      ${model ? html`<dt>${t.backend}</dt><dd>${model.info.device}</dd><dt>${t.why}</dt><dd lang="en">${model.info.backendReason}</dd><dt>${t.threads}</dt><dd>${model.info.threads}${model.info.threadsLimitedBy === 'not_isolated' ? t.notIsolated : ''}</dd><dt>${t.context}</dt><dd>${model.info.contextLength}</dd><dt>${t.loadedIn}</dt><dd>${number(model.info.loadMs / 1000, 1)} s</dd>` : nothing}
    </dl>
  </aside>`;
}

/** The first word of the last long prompt, with and without prediction. */
function waits() {
  const { exact, predicted } = state.waits;
  if (!exact && !predicted) return nothing;
  const wait = (name, w) => html`<dt>${name}</dt><dd>${w ? t.waitFor(number(w.ms), w.tokens) : '–'}</dd>`;
  return html`<h3>${t.longPrompt}</h3>
    <dl class="list waits">${wait(t.readExactly, exact)}${wait(t.predictedFirst, predicted)}</dl>`;
}

/** How well the next words were guessed: in the last answer, and in all since the model was loaded. */
function guesses() {
  const { usage, speculation } = state;
  if (!usage || !speculation?.forwards) return nothing;
  const { accepted_prediction_tokens: accepted, rejected_prediction_tokens: rejected, forwards } = usage.completion_tokens_details;
  const last = { guessed: accepted + rejected, accepted, tokensPerForward: usage.completion_tokens / forwards };
  const right = ({ guessed, accepted }) => (guessed ? `${((100 * accepted) / guessed).toFixed(0)} %` : '–');
  const row = (name, show) => html`<dt>${name}</dt><dd>${show(last)} (${show(speculation)})</dd>`;
  return html`<h3>${t.guessedTitle}</h3>
    <dl class="list guesses">
      ${row(t.perForward, (of) => number(of.tokensPerForward, 2))} ${row(t.guesses, (of) => of.guessed)} ${row(t.right, right)}
    </dl>`;
}
