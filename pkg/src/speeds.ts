/** How fast models have run here, kept over visits: what is read for a word is the whole model, so that one tells of another. */
import type { ModelInfo, Usage } from './types.js';

/** Bytes of weights a second, per token: of writing, and of reading a prompt. */
export interface Speed {
  decode: number;
  prefill: number;
}

/** A machine that does something else at the time is slower than it is: of a faster time before, so much counts. */
const KEPT = 0.9;
/** Shorter answers tell too little. */
const LEAST_TOKENS = 16;

/** Workers have no other small store that is kept. */
const store = () => globalThis.caches?.open('foreword-speeds');
const ADDRESS = 'https://foreword.invalid/speed';

export async function knownSpeed(): Promise<Speed | undefined> {
  try {
    return await (await (await store())?.match(ADDRESS))?.json();
  } catch {
    return undefined;
  }
}

/** Keeps what an answer says. */
export async function noteSpeed({ fileBytes }: ModelInfo, usage: Usage | undefined): Promise<void> {
  const { completion_tokens: tokens, completion_tokens_details: details, prompt_tokens, prompt_tokens_details: prompt, timings } = usage ?? ({} as Partial<Usage>);
  if (!timings || !details || tokens! < LEAST_TOKENS) return;
  const before = await knownSpeed();
  // Guesses that were right are no speed of the device's.
  const decode = Math.max((timings.decode_tok_s * fileBytes * details.forwards) / tokens!, KEPT * (before?.decode ?? 0));
  const isLong = prompt_tokens! - prompt!.cached_tokens >= LEAST_TOKENS;
  const prefill = Math.max(isLong ? timings.prefill_tok_s * fileBytes : 0, KEPT * (before?.prefill ?? 0));
  try {
    await (await store())?.put(ADDRESS, Response.json({ decode, prefill } satisfies Speed));
  } catch {
    // Private windows of some browsers keep nothing.
  }
}
