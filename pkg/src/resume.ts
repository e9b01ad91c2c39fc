/** An answer that another worker goes on with: from the words that are there already. */
import { ForewordError } from './error.js';
import type { CallOptions, Method, Methods } from './rpc.js';

/** The fields of requests whose answers hang on more than the words so far. */
const WHOLE = ['tools', 'response_format', 'grammar', 'regex', 'logprobs', 'prediction'];

interface Chunk {
  id: string;
  created: number;
  choices: { index: number; text?: string; delta?: { role?: string; content?: string | null; reasoning_content?: string } }[];
}

export class Resumed<M extends Method> {
  args: Methods[M]['args'];
  readonly options: CallOptions<M>;
  readonly #method: M;
  readonly #asked: Methods[M]['args'];
  #first: Chunk | undefined;
  #text = '';
  /** Chunks with words: at least so many tokens were written. */
  #written = 0;
  #isWhole = false;
  #again = false;

  constructor(method: M, args: Methods[M]['args'], options: CallOptions<M>) {
    this.#method = method;
    this.#asked = this.args = args;
    const { part } = options;
    this.options = part ? { ...options, part: (chunk) => part(this.#note(chunk)) } : options;
  }

  /** Another worker is asked. What was written is given to it; where that cannot be, the answer fails. */
  goOn(): void {
    if (this.#method !== 'complete' || !this.#written) return;
    this.#again = true;
    const body = JSON.parse(this.#asked as string);
    if (this.#isWhole || (body.n ?? 1) > 1 || Array.isArray(body.prompt) || WHOLE.some((field) => body[field] != null)) {
      throw new ForewordError('worker_lost', 'Whoever wrote this answer has gone, and it cannot be gone on with. Ask again.');
    }
    for (const limit of ['max_tokens', 'max_completion_tokens']) if (body[limit]) body[limit] = Math.max(1, body[limit] - this.#written);
    this.args = JSON.stringify(body.messages ? { ...body, ...begun(body, this.#text) } : { ...body, prompt: body.prompt + this.#text }) as Methods[M]['args'];
  }

  /** The last chunk, or the whole answer. */
  end(value: Methods[M]['value']): Methods[M]['value'] {
    return this.#method === 'complete' && this.#first ? (this.#note(value) as Methods[M]['value']) : value;
  }

  #note(chunk: unknown): any {
    const { choices, ...head } = (chunk ?? {}) as Partial<Chunk>;
    if (!Array.isArray(choices)) return chunk;
    this.#first ??= chunk as Chunk;
    for (const { index, text, delta } of choices) {
      const words = text ?? delta?.content ?? '';
      this.#text += words;
      if (words) this.#written += 1;
      // Thoughts come apart from the words, and several answers are mixed.
      this.#isWhole ||= Boolean(delta?.reasoning_content) || index > 0;
    }
    if (!this.#again) return chunk;
    const { id, created } = this.#first;
    const own = choices.map(({ delta, ...choice }) => ({ ...choice, ...(delta && { delta: { ...delta, role: undefined } }) }));
    return { ...head, id, created, choices: own };
  }
}

/** The messages of a chat whose answer begins with a text. */
function begun({ messages, continue_final_message: goes }: { messages: { content: unknown }[]; continue_final_message?: boolean }, text: string) {
  const last = messages.at(-1);
  const own = goes && typeof last?.content === 'string' ? [...messages.slice(0, -1), { ...last, content: last.content + text }] : [...messages, { role: 'assistant', content: text }];
  return { messages: own, continue_final_message: true };
}
