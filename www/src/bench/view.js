/** The standard benchmark. */
import { html, nothing } from 'lit-html';
import { copy } from '../shell/actions.js';
import { choice, figure } from '../shell/elements.js';
import { changed, state } from '../state.js';
import { number, t } from '../strings.js';
import * as act from './actions.js';

export function benchView() {
  const { running, result, kernels } = state.bench;
  return html`<section class="bench">
    <h1>${t.benchmark}</h1>
    <p>${t.benchLead}</p>
    ${choice('backend', t.backend, t.backends, act.runOn, running)}
    <p class="soft" lang="en">${state.model.info.backendReason}.</p>
    <div class="row">
      <button class="primary" ?disabled=${running} @click=${act.runBench}>${running ? t.running : t.run}</button>
      ${result ? html`<button @click=${() => (copy(act.benchMarkdown(result)), (state.bench.copied = true), changed())}>${state.bench.copied ? t.copied : t.copyMarkdown}</button>` : nothing}
    </div>
    ${running ? html`<p role="status">${t.runningHint}</p>` : nothing}
    ${result
      ? html`<dl class="figures" role="status">
          ${figure(t.prefill, number(result.prefill_tok_s, 1), t.perSecond)} ${figure(t.decode, number(result.decode_tok_s, 1), t.perSecond)}
          ${figure(t.firstToken, number(result.ttft_ms), 'ms')} ${figure(t.loadTime, number(result.load_ms), 'ms')}
          ${figure(t.threads, result.threads, '')} ${figure(t.backend, result.backend, result.device)}
        </dl>`
      : nothing}
    ${result && kernels?.length ? kernelChart(kernels) : nothing}
  </section>`;
}

/** Where the GPU's time goes. */
function kernelChart(kernels) {
  const sorted = kernels.toSorted((a, b) => b.ms - a.ms);
  const all = sorted.reduce((sum, { ms }) => sum + ms, 0);
  return html`<h2>${t.kernels}</h2>
    <table class="kernels">
      ${sorted.map(
        ({ kernel, ms, runs }) => html`<tr>
          <th scope="row">${kernel}</th>
          <td><meter min="0" max=${sorted[0].ms} value=${ms} aria-label=${t.shareOf(kernel)}></meter></td>
          <td>${((100 * ms) / all).toFixed(0)} %</td>
          <td>${t.each(`${number((1000 * ms) / runs)} µs`)}</td>
        </tr>`,
      )}
    </table>
    <p class="soft">${t.sampled}</p>`;
}

