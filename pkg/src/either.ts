/**
 * A model here and one on a server: one of them answers, and where it fails the other one takes over and stays. Requests carry
 * their whole conversation, so a hand-over loses nothing; an answer under way goes on from the words that are there.
 */
import type { Connection } from './client.js';
import { cancelled, type ErrorCode, ForewordError } from './error.js';
import type { Opening } from './open.js';
import { Resumed } from './resume.js';
import type { Calls, CallOptions, Listeners, Method, Methods } from './rpc.js';
import type { Estimate, LoadOptions, ModelInfo } from './types.js';

type Side = 'device' | 'remote';
export type Sides = Record<Side, () => Opening | Promise<Opening>>;

/** Who is to answer, and for people why. */
export interface Choice {
  side: Side;
  why: string;
}

const NAMES = { device: 'This device', remote: 'The server' };
const other = (side: Side): Side => (side === 'device' ? 'remote' : 'device');

/** An answer that is written more slowly, in tokens a second, is waited for: people read about so fast. */
const SLOW = 5;

/** Who answers first. */
export async function choose(prefer: LoadOptions['prefer'], estimate: () => Promise<Estimate>): Promise<Choice> {
  if (prefer === 'device' || prefer === 'remote') return { side: prefer, why: `${NAMES[prefer]} was preferred.` };
  // What cannot be estimated can still be tried.
  const { memory = 0, fits = true, tokensPerSecond: speed } = await estimate().catch(() => ({}) as Partial<Estimate>);
  if (!fits) return { side: 'remote', why: `The model needs ${(memory / 1e9).toFixed(1)} GB of memory, more than a page gets here.` };
  if (speed && speed < SLOW) return { side: 'remote', why: `This device would write ${speed.toFixed(1)} tokens a second.` };
  return { side: 'device', why: speed ? `This device writes about ${speed.toFixed(0)} tokens a second.` : 'The model fits into the memory of this device.' };
}

/** What calls fail with whose other one may do better. */
const LOST = new Set<ErrorCode>(['worker_lost', 'out_of_memory', 'device_lost', 'device_fault', 'internal', 'offline', 'busy', 'not_found']);

/** Whether the other one is asked where this one cannot be had; it is not where the caller made a mistake. */
function mayFallBack(side: Side, { code, param }: ForewordError): boolean {
  if (code === 'cancelled' || code === 'disposed') return false;
  // A server's refusal, of its key for example, is one of that server.
  return code !== 'invalid_request' || (side === 'remote' && param !== 'baseURL');
}

export function either(sides: Sides, first: Choice, onSwitch: LoadOptions['onSwitch']): Opening {
  const connection = new Either(sides, first, onSwitch);
  const begun = connection.who();
  const info = begun.then(({ info }) => info, (error) => (connection.close(ForewordError.from(error)), Promise.reject(error)));
  const ready = begun.then(({ ready }) => ready);
  ready.catch(() => {});
  return { connection, info, ready };
}

interface Answerer {
  side: Side;
  connection: Connection;
  info: ModelInfo;
  ready: Promise<ModelInfo>;
}

class Either implements Connection {
  readonly client: Calls = { call: (...args) => this.#call(...args), on: (listeners) => void Object.assign(this.#listeners, listeners) };
  readonly #sides: Sides;
  readonly #first: Choice;
  readonly #onSwitch: LoadOptions['onSwitch'];
  readonly #listeners: Partial<Listeners> = {};
  readonly #connections = new Set<Connection>();
  /** Who answers, or is on the way; nobody where both failed. */
  #who: Promise<Answerer> | undefined;
  #current: Answerer | undefined;
  #over: ForewordError | undefined;

  constructor(sides: Sides, first: Choice, onSwitch: LoadOptions['onSwitch']) {
    this.#sides = sides;
    this.#first = first;
    this.#onSwitch = onSwitch;
  }

  close(error: ForewordError): void {
    this.#over ??= error;
    this.#connections.forEach((connection) => connection.close(error));
  }

  who(): Promise<Answerer> {
    return (this.#who ??= this.#remember(this.#begin()));
  }

  /** Where nobody can be had, the next call begins anew. */
  #remember(begun: Promise<Answerer>): Promise<Answerer> {
    begun.catch(() => this.#who === begun && (this.#who = undefined));
    return begun;
  }

  async #begin(): Promise<Answerer> {
    const { side, why } = this.#first;
    try {
      return await this.#take(side, why);
    } catch (error) {
      const failure = ForewordError.from(error);
      if (this.#over || !mayFallBack(side, failure)) throw failure;
      return this.#take(other(side), failed(side, failure));
    }
  }

  async #take(side: Side, choice: string): Promise<Answerer> {
    const { connection, info, ready } = await this.#sides[side]();
    this.#connections.add(connection);
    if (this.#over) connection.close(this.#over);
    const known = await info;
    if (this.#over) throw this.#over;
    const answerer = { side, connection, info: { ...known, choice }, ready: ready.then((own) => ({ ...own, choice })) };
    answerer.ready.catch(() => {});
    this.#current = answerer;
    const tell = (now: ModelInfo) => this.#current === answerer && this.#listeners.info?.({ ...now, choice });
    connection.client.on({ info: tell });
    tell(known);
    // What it throws is the page's own.
    queueMicrotask(() => this.#onSwitch?.(answerer.info));
    return answerer;
  }

  /** Somebody else takes over. */
  #leave(answerer: Answerer, failure: ForewordError): void {
    if (this.#current !== answerer) return;
    this.#current = undefined;
    // A server may go on with other answers; here, memory is needed.
    if (answerer.side === 'device') answerer.connection.close(failure);
    this.#who = this.#remember(this.#take(other(answerer.side), failed(answerer.side, failure)));
  }

  async #call<M extends Method>(method: M, args: Methods[M]['args'], options: CallOptions<M> = {}): Promise<Methods[M]['value']> {
    const answer = new Resumed(method, args, options);
    let failure: ForewordError | undefined;
    for (;;) {
      if (this.#over) throw this.#over;
      const answerer = await unlessAborted(this.who(), options.signal).catch((error) => {
        throw failure && !options.signal?.aborted ? failure : error;
      });
      try {
        return answer.end(await answerer.connection.client.call(method, answer.args, answer.options));
      } catch (error) {
        const now = ForewordError.from(error);
        if (this.#over || failure || !LOST.has(now.code)) throw error;
        failure = now;
        this.#leave(answerer, now);
        answer.goOn();
      }
    }
  }
}

const failed = (side: Side, { message }: ForewordError) => `${NAMES[side]} failed: ${message}`;

function unlessAborted<T>(job: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return job;
  return new Promise((resolve, reject) => {
    const abort = () => reject(cancelled(signal));
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    job.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
