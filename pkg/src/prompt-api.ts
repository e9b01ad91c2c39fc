/**
 * The Prompt API (`LanguageModel`) over a model of this package, for browsers that have none:
 *
 * ```ts
 * globalThis.LanguageModel ??= languageModel('smollm2-135m');
 * const session = await LanguageModel.create({ initialPrompts: [{ role: 'system', content: 'Be brief.' }] });
 * for await (const piece of session.promptStreaming('Why is the sky blue?')) show(piece);
 * ```
 *
 * Texts only. All sessions share one model, which is loaded for the first of them and disposed of with the last.
 */
import { type ChatMessage, Foreword, type ForewordError, type LoadOptions, type ModelSource } from './index.js';

export interface LanguageModelContent {
  type: 'text';
  value: string;
}

export interface LanguageModelMessage {
  role: 'system' | 'user' | 'assistant';
  content: string | LanguageModelContent[];
  /** Of a last message of the assistant's: the answer goes on with it. */
  prefix?: boolean;
}

/** A text stands for one message of the user's. */
export type LanguageModelPrompt = string | LanguageModelMessage[];

export interface LanguageModelExpected {
  type: string;
  languages?: string[];
}

export interface LanguageModelCreateCoreOptions {
  topK?: number;
  temperature?: number;
  expectedInputs?: LanguageModelExpected[];
  expectedOutputs?: LanguageModelExpected[];
  tools?: unknown[];
}

export interface LanguageModelCreateOptions extends LanguageModelCreateCoreOptions {
  signal?: AbortSignal;
  /** Given what `downloadprogress` events are sent to: `loaded` from 0 to 1. */
  monitor?: (monitor: EventTarget) => void;
  initialPrompts?: LanguageModelMessage[];
}

export interface LanguageModelPromptOptions {
  signal?: AbortSignal;
  /** JSON Schema that the answer follows. */
  responseConstraint?: object;
  omitResponseConstraintInput?: boolean;
}

export type Availability = 'unavailable' | 'downloadable' | 'downloading' | 'available';

/** What the sessions of one source share. */
class Shared {
  readonly #source: ModelSource;
  readonly #options: Omit<LoadOptions, 'signal'>;
  #model: Promise<Foreword> | undefined;
  #stop = new AbortController();
  #users = 0;
  readonly #monitors = new Set<(share: number) => void>();

  constructor(source: ModelSource, options: Omit<LoadOptions, 'signal'>) {
    this.#source = source;
    this.#options = options;
  }

  async acquire(tell: (share: number) => void, signal: AbortSignal | undefined): Promise<Foreword> {
    this.#users++;
    this.#monitors.add(tell);
    try {
      tell(0);
      this.#model ??= Foreword.load(this.#source, {
        ...this.#options,
        signal: this.#stop.signal,
        onProgress: (progress) => {
          this.#options.onProgress?.(progress);
          const { phase, loadedBytes, totalBytes } = progress;
          if (phase === 'download' && loadedBytes < totalBytes) this.#monitors.forEach((tell) => tell(loadedBytes / totalBytes));
        },
      });
      const model = await unlessAborted(this.#model, signal);
      tell(1);
      return model;
    } catch (error) {
      this.release();
      throw error;
    } finally {
      this.#monitors.delete(tell);
    }
  }

  release(): void {
    if (--this.#users > 0) return;
    const model = this.#model;
    this.#model = undefined;
    this.#stop.abort();
    this.#stop = new AbortController();
    model?.then((m) => m.dispose(), () => {});
  }

  async availability(): Promise<Availability> {
    if (this.#monitors.size) return 'downloading';
    return this.#model ? 'available' : Foreword.availability(this.#source, this.#options);
  }
}

/** Fails at once where `signal` is aborted; the job goes on for others. */
function unlessAborted<T>(job: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return job;
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) return abort();
    signal.addEventListener('abort', abort, { once: true });
    job.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}

const unsupported = (message: string) => new DOMException(message, 'NotSupportedError');

/** What can be asked for: texts in, texts out. */
function checkExpected({ expectedInputs = [], expectedOutputs = [], tools = [] }: LanguageModelCreateCoreOptions): void {
  const other = [...expectedInputs, ...expectedOutputs].find(({ type }) => type !== 'text');
  if (other) throw unsupported(`This model takes and writes texts, but no ${other.type}.`);
  if (tools.length) throw unsupported('Tools are not supported.');
}

/** Messages of `prompt`, `append` and `initialPrompts` in this package's form. */
function messagesOf(input: LanguageModelPrompt, initial = false): ChatMessage[] {
  if (!Array.isArray(input)) return [{ role: 'user', content: String(input) }];
  return input.map(({ role, content, prefix }, i) => {
    if (prefix && (initial || role !== 'assistant' || i < input.length - 1)) throw new DOMException('Only a last message of the assistant’s can be a prefix.', 'SyntaxError');
    if (role === 'system' && !initial) throw unsupported('A system message can only be the first of initialPrompts.');
    if (role === 'system' && i > 0) throw new TypeError('A system message can only be the first of initialPrompts.');
    return { role, content: typeof content === 'string' ? content : content.map(textOf).join('\n') };
  });
}

function textOf({ type, value }: LanguageModelContent): string {
  if (type !== 'text') throw unsupported(`This model takes texts, but no ${type}.`);
  return String(value);
}

/** Many chat templates want roles that alternate, so that messages of the same one become one. */
function joined(messages: ChatMessage[]): ChatMessage[] {
  const out: ChatMessage[] = [];
  for (const message of messages) {
    const last = out.at(-1);
    if (last?.role === message.role) out[out.length - 1] = { ...last, content: `${last.content}\n\n${message.content}` } as ChatMessage;
    else out.push(message);
  }
  return out.some(({ role }) => role !== 'system') ? out : [...out, { role: 'user', content: '' }];
}

function quotaExceeded(requested: number, quota: number): DOMException {
  const message = `The prompt has ${requested} tokens, but the context holds ${quota} with the answer.`;
  const { QuotaExceededError } = globalThis as { QuotaExceededError?: new (message: string, options: object) => DOMException };
  return QuotaExceededError ? new QuotaExceededError(message, { requested, quota }) : Object.assign(new DOMException(message, 'QuotaExceededError'), { requested, quota });
}

/** A conversation. */
export type LanguageModel = Session;

class Session extends EventTarget {
  oncontextoverflow: ((event: Event) => void) | null = null;
  readonly #shared: Shared;
  readonly #model: Foreword;
  readonly #sampling: { temperature?: number; top_k?: number };
  /** What is never forgotten. */
  readonly #initial: ChatMessage[];
  #turns: ChatMessage[];
  #usage = 0;
  readonly #ending = new AbortController();
  /** Calls are answered in their order. */
  #last: Promise<unknown> = Promise.resolve();

  private constructor(shared: Shared, model: Foreword, sampling: { temperature?: number; top_k?: number }, initial: ChatMessage[], turns: ChatMessage[], usage: number) {
    super();
    this.#shared = shared;
    this.#model = model;
    this.#sampling = sampling;
    this.#initial = initial;
    this.#turns = turns;
    this.#usage = usage;
    this.addEventListener('contextoverflow', (event) => this.oncontextoverflow?.(event));
  }

  /** For {@link languageModel}. */
  static async open(shared: Shared, options: LanguageModelCreateOptions): Promise<LanguageModel> {
    checkExpected(options);
    const { signal, monitor, initialPrompts = [], temperature, topK } = options;
    const initial = messagesOf(initialPrompts, true);
    signal?.throwIfAborted();
    const progress = new EventTarget() as EventTarget & { ondownloadprogress?: ((event: Event) => void) | null };
    progress.addEventListener('downloadprogress', (event) => progress.ondownloadprogress?.(event));
    monitor?.(progress);
    const tell = (loaded: number) => progress.dispatchEvent(Object.assign(new Event('downloadprogress'), { lengthComputable: true, loaded, total: 1 }));
    const model = await shared.acquire(tell, signal).catch((error) => Promise.reject(failureOf(error, signal)));
    const sampling = { ...(temperature !== undefined && { temperature }), ...(topK !== undefined && { top_k: topK }) };
    const session = new Session(shared, model, sampling, initial, [], 0);
    try {
      if (initial.length) session.#usage = await session.#count([]);
      if (session.#usage >= session.contextWindow) throw quotaExceeded(session.#usage, session.contextWindow);
      return session;
    } catch (error) {
      session.destroy();
      throw failureOf(error, signal);
    }
  }

  /** Tokens of the conversation so far. */
  get contextUsage(): number {
    return this.#usage;
  }

  /** Tokens that a conversation may have, with the answer. */
  get contextWindow(): number {
    return this.#model.info.contextLength;
  }

  /** The older name of `contextUsage`. */
  get inputUsage(): number {
    return this.#usage;
  }

  /** The older name of `contextWindow`. */
  get inputQuota(): number {
    return this.contextWindow;
  }

  async prompt(input: LanguageModelPrompt, options: LanguageModelPromptOptions = {}): Promise<string> {
    let answer = '';
    for await (const piece of this.#answer(input, options)) answer += piece;
    return answer;
  }

  promptStreaming(input: LanguageModelPrompt, options: LanguageModelPromptOptions = {}): ReadableStream<string> {
    const pieces = this.#answer(input, options);
    return new ReadableStream<string>({
      async pull(controller) {
        const { value, done } = await pieces.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      async cancel() {
        await pieces.return(undefined);
      },
      // An answer that nobody reads must not hold up the next one.
    }, { highWaterMark: Infinity });
  }

  /** Adds to the conversation without an answer, and has it read. */
  append(input: LanguageModelPrompt, { signal }: { signal?: AbortSignal } = {}): Promise<undefined> {
    return this.#inTurn(signal, async (both) => {
      const before = this.#turns;
      try {
        const messages = await this.#fit(messagesOf(input));
        await this.#model.chat.completions.create({ messages: joined(messages), max_tokens: 1 }, { signal: both });
        this.#usage = await this.#count(this.#turns);
      } catch (error) {
        this.#turns = before;
        throw error;
      }
      return undefined;
    });
  }

  /** Tokens that `input` would add. */
  async measureContextUsage(input: LanguageModelPrompt, { signal }: LanguageModelPromptOptions = {}): Promise<number> {
    this.#check(signal);
    const messages = messagesOf(input);
    const [before, after] = await Promise.all([this.#turns.length || this.#initial.length ? this.#count(this.#turns) : 0, this.#count([...this.#turns, ...messages])]);
    this.#check(signal);
    return after - before;
  }

  /** The older name of `measureContextUsage`. */
  measureInputUsage(input: LanguageModelPrompt, options: LanguageModelPromptOptions = {}): Promise<number> {
    return this.measureContextUsage(input, options);
  }

  /** Another session that goes on from here. */
  async clone({ signal }: { signal?: AbortSignal } = {}): Promise<LanguageModel> {
    this.#check(signal);
    await this.#shared.acquire(() => {}, signal);
    return new Session(this.#shared, this.#model, this.#sampling, this.#initial, [...this.#turns], this.#usage);
  }

  /** Ends the session and what it is doing. */
  destroy(): void {
    if (this.#ending.signal.aborted) return;
    this.#ending.abort(new DOMException('The session was destroyed.', 'AbortError'));
    this.#shared.release();
  }

  /** An answer, piece by piece; it becomes part of the conversation when it is complete. */
  async *#answer(input: LanguageModelPrompt, { signal, responseConstraint }: LanguageModelPromptOptions): AsyncGenerator<string, undefined, undefined> {
    if (responseConstraint instanceof RegExp) throw unsupported('Answers that follow a regular expression are not supported.');
    let over = () => {};
    const both = await new Promise<AbortSignal>((begin, refuse) => {
      this.#inTurn(signal, (both) => new Promise<void>((end) => ((over = end), begin(both)))).catch(refuse);
    });
    const before = this.#turns;
    let complete = false;
    try {
      const messages = await this.#fit(messagesOf(input));
      const continues = Array.isArray(input) && input.at(-1)?.prefix === true;
      const schema = responseConstraint as { [key: string]: unknown };
      const format = responseConstraint && { response_format: { type: 'json_schema' as const, json_schema: { name: 'answer', schema, strict: true } } };
      let answer = '';
      for await (const { choices } of await this.#model.chat.completions.create({ ...this.#sampling, ...format, ...(continues && { continue_final_message: true }), messages: joined(messages), stream: true }, { signal: both })) {
        const piece = choices[0]?.delta.content ?? '';
        answer += piece;
        if (piece) yield piece;
      }
      both.throwIfAborted();
      const begun = continues ? this.#turns.at(-1)!.content : '';
      this.#turns = [...(continues ? this.#turns.slice(0, -1) : this.#turns), { role: 'assistant', content: `${begun}${answer}` }];
      this.#usage = await this.#count(this.#turns);
      complete = true;
    } catch (error) {
      throw failureOf(error, both);
    } finally {
      if (!complete) this.#turns = before;
      over();
    }
  }

  /** Runs `job` when the calls before it are over. */
  async #inTurn<T>(signal: AbortSignal | undefined, job: (both: AbortSignal) => Promise<T>): Promise<T> {
    this.#check(signal);
    const both = signal ? AbortSignal.any([this.#ending.signal, signal]) : this.#ending.signal;
    const mine = this.#last.then(() => {
      both.throwIfAborted();
      return job(both);
    });
    this.#last = mine.catch(() => {});
    return unlessAborted(mine, both).catch((error) => Promise.reject(failureOf(error, both)));
  }

  #check(signal: AbortSignal | undefined): void {
    if (this.#ending.signal.aborted) throw new DOMException('The session was destroyed.', 'InvalidStateError');
    signal?.throwIfAborted();
  }

  /** Takes messages into the conversation, and forgets its oldest turns where it would outgrow the context. */
  async #fit(messages: ChatMessage[]): Promise<ChatMessage[]> {
    let turns = [...this.#turns, ...messages];
    let needed = await this.#count(turns);
    let overflowed = false;
    while (needed >= this.contextWindow) {
      // The oldest message, and the answer to it.
      const kept = turns.slice(turns[1]?.role === 'assistant' ? 2 : 1);
      if (kept.length < messages.length) throw quotaExceeded(needed, this.contextWindow);
      turns = kept;
      overflowed = true;
      needed = await this.#count(turns);
    }
    this.#turns = turns;
    if (overflowed) this.dispatchEvent(new Event('contextoverflow'));
    return [...this.#initial, ...turns];
  }

  #count(turns: ChatMessage[]): Promise<number> {
    return this.#model.countTokens({ messages: joined([...this.#initial, ...turns]) });
  }
}

/** What the page's own `LanguageModel` would fail with. */
function failureOf(error: unknown, signal: AbortSignal | undefined): unknown {
  if (signal?.aborted) return signal.reason;
  const { code, message, param } = error as Partial<ForewordError>;
  if (error instanceof DOMException || error instanceof TypeError || !code) return error;
  if (param === 'response_format') return unsupported(message ?? '');
  return new DOMException(message, code === 'cancelled' ? 'AbortError' : 'OperationError');
}

/** `LanguageModel` as pages know it, over a model that `Foreword.load` would load with these options. */
export function languageModel(source: ModelSource, options: Omit<LoadOptions, 'signal'> = {}): {
  create(options?: LanguageModelCreateOptions): Promise<LanguageModel>;
  availability(options?: LanguageModelCreateCoreOptions): Promise<Availability>;
} {
  const shared = new Shared(source, options);
  return {
    create: (wanted = {}) => Session.open(shared, wanted),
    async availability(wanted = {}) {
      try {
        checkExpected(wanted);
      } catch {
        return 'unavailable';
      }
      return shared.availability();
    },
  };
}
