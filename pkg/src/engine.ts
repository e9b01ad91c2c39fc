/** The loop of steps over the core's engine: requests go in, chunks come out. */
import { ForewordError, isOfCore, isTrap, throwIfAborted } from './error.js';
import type { Session } from './kernel.js';
import { breathe } from './platform.js';
import type { Usage } from './types.js';

/** A request in the engine. */
interface Open {
  part(chunk: unknown): void;
  resolve(value: unknown): void;
  reject(error: ForewordError): void;
}

interface StepEvent {
  id: number;
  value?: { usage?: Usage };
  done?: boolean;
  error?: { code: ForewordError['code']; message: string };
}

/** Who is told of a request. */
export interface RunContext {
  accepted?(): void;
  part(chunk: unknown): void;
  signal: AbortSignal;
}

export interface Events {
  /** The device is lost or refuses commands: loads the model into another one, or fails. */
  lost(error: ForewordError): Promise<void>;
  /** The core trapped, and is in an unknown state: it is not entered again. Returns what all calls fail with. */
  broken(error: unknown): ForewordError;
}

export class Runner {
  readonly session: Session;
  /** Whether the device has made a step since it was opened. */
  proven = false;
  /** Of the last answer. */
  last: Usage | undefined;
  /** Of all answers but the benchmark's. */
  readonly written = { tokens: 0, forwards: 0, guessed: 0, accepted: 0 };
  readonly #events: Events;
  readonly #open = new Map<number, Open>();
  /** What has to wait for the end of a step: the engine cannot be entered twice. */
  readonly #waiting: (() => void)[] = [];
  /** Cancelled requests whose end the engine has not reported yet. */
  readonly #leaving = new Set<number>();
  /** What waits until no answer is under way. */
  readonly #jobs: { run(): Promise<void>; reject(error: ForewordError): void }[] = [];
  #stepping = false;
  #over: ForewordError | undefined;
  /** The benchmark's last request. */
  #benchmarked = -1;

  constructor(session: Session, events: Events) {
    this.session = session;
    this.#events = events;
  }

  /** Requests under way. */
  get running(): number {
    return this.#open.size;
  }

  /** Runs `job` on the engine, between steps. */
  enter<T>(job: (session: Session) => T): Promise<T> {
    return new Promise((resolve, reject) => {
      const go = () => {
        if (this.#over) return reject(this.#over);
        try {
          resolve(job(this.session));
        } catch (error) {
          reject(isExpected(error) ? error : this.#break(error));
        }
      };
      if (this.#stepping) this.#waiting.push(go);
      else go();
    });
  }

  /** Runs `job` when what was cancelled is counted, which takes a step. */
  async enterCounted<T>(job: (session: Session) => T): Promise<T> {
    for (let steps = 0; this.#leaving.size && this.#stepping && steps < 3; steps++) await this.enter(() => {});
    return this.enter(job);
  }

  /** Runs a `job` that takes its time on the engine, and on files, once no answer is under way; none begins before it is over. */
  alone<T>(job: (session: Session) => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#over) return reject(this.#over);
      const run = async () => {
        try {
          resolve(await job(this.session));
        } catch (error) {
          reject(isTrap(error) ? this.#break(error) : ForewordError.from(error));
        }
      };
      this.#jobs.push({ run, reject });
      void this.#pump();
    });
  }

  /** Submits a request, and follows it to its end. */
  run<T>({ accepted, part, signal }: RunContext, submit: (session: Session) => number): Promise<T> {
    let cancel = () => {};
    const answer = new Promise<T>((resolve, reject) => {
      let id: number | undefined;
      cancel = () => {
        reject(new ForewordError('cancelled', 'The answer was cancelled.'));
        // A request that still waits to be submitted sees the signal itself.
        if (id === undefined || !this.#open.delete(id)) return;
        this.#leaving.add(id);
        this.enter((s) => s.cancel(id!)).catch(() => {});
      };
      signal.addEventListener('abort', cancel, { once: true });
      const submitted = this.enter((s) => {
        throwIfAborted(signal);
        id = submit(s);
        this.#open.set(id, { part, resolve: resolve as (value: unknown) => void, reject });
      });
      submitted.then(() => (accepted?.(), this.#pump()), reject);
    });
    return answer.finally(() => signal.removeEventListener('abort', cancel));
  }

  /** A run that no count of answers sees. */
  benchmark<T>(context: RunContext, promptTokens: number, genTokens: number): Promise<T> {
    return this.run(context, (s) => (this.#benchmarked = s.submit_benchmark(promptTokens, genTokens)));
  }

  /** Steps while there is something to do. */
  async #pump(): Promise<void> {
    if (this.#stepping || this.#over) return;
    this.#stepping = true;
    try {
      while (!this.session.is_idle() || this.#jobs.length) {
        await (this.session.is_idle() ? this.#jobs.shift()!.run() : this.#step());
        await breathe();
        this.#admit();
        if (this.#over) return;
      }
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#stepping = false;
      this.#admit();
    }
  }

  #admit(): void {
    this.#waiting.splice(0).forEach((job) => job());
  }

  /** One step; when the device is lost or refuses commands, the answers go on elsewhere. */
  async #step(): Promise<void> {
    try {
      (JSON.parse(await this.session.step()) as StepEvent[]).forEach((event) => this.#deliver(event));
      this.proven = true;
    } catch (error) {
      const lost = ForewordError.from(error);
      if (lost.code !== 'device_lost' && lost.code !== 'device_fault') throw error;
      await this.#events.lost(lost);
    }
  }

  #deliver({ id, value, done, error }: StepEvent): void {
    if (value?.usage && id !== this.#benchmarked) this.#count(value.usage);
    if (done || error) this.#leaving.delete(id);
    const request = this.#open.get(id);
    if (!request) return;
    if (error) request.reject(ForewordError.from(error));
    else if (value?.usage?.completion_tokens_details) this.last = value.usage;
    if (done) request.resolve(value);
    else if (!error) request.part(value);
    if (done || error) this.#open.delete(id);
  }

  #count({ completion_tokens, completion_tokens_details: details }: Usage): void {
    // Texts that were only read are no answers.
    if (!details) return;
    this.written.tokens += completion_tokens;
    this.written.forwards += details.forwards;
    this.written.guessed += details.accepted_prediction_tokens + details.rejected_prediction_tokens;
    this.written.accepted += details.accepted_prediction_tokens;
  }

  /** A step failed: so does all that is under way or waits. */
  #fail(error: unknown): void {
    if (!isExpected(error)) return void this.#break(error);
    try {
      const failure = ForewordError.from(error);
      this.#jobs.splice(0).forEach((job) => job.reject(failure));
      this.#open.forEach((request, id) => {
        request.reject(failure);
        this.session.cancel(id);
      });
      this.#open.clear();
    } catch (trap) {
      this.#break(trap);
    }
  }

  #break(error: unknown): ForewordError {
    this.#over ??= this.#events.broken(error);
    this.#jobs.splice(0).forEach((job) => job.reject(this.#over!));
    this.#open.forEach((request) => request.reject(this.#over!));
    this.#open.clear();
    return this.#over;
  }
}

/** Errors that the core or this package made; anything else is a trap, or a fault between JavaScript and WASM. */
const isExpected = (error: unknown) => error instanceof ForewordError || isOfCore(error);
