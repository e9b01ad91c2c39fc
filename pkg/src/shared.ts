/**
 * One model for all tabs of a site. The tab that has the lock of the model's name leads: it has the worker, and answers the calls
 * of all tabs over a channel. When it closes, the browser gives the lock to another tab, which loads the model from the cache, and
 * what was being answered goes on there.
 */
import type { Connection } from './client.js';
import { cancelled, ForewordError } from './error.js';
import { locks } from './locks.js';
import { type Opening, open, type Order } from './open.js';
import { randomId } from './platform.js';
import { Resumed } from './resume.js';
import { type Call, type Calls, type CallOptions, Client, type Handlers, type Listeners, type Method, type Methods, type Reply, serve } from './rpc.js';
import { SESSION_METHODS } from './sessions.js';
import type { LoadProgress, ModelInfo } from './types.js';

/** What goes over the channel: every tab hears everything. */
type Message =
  /** A tab asks who leads. */
  | { join: string }
  /** The leader says what it has. */
  | { lead: string; info: ModelInfo }
  | { progress: LoadProgress }
  /** The leader's worker has ended, and is of no use any more. */
  | { over: ReturnType<typeof ForewordError.toData> }
  | { to: string; from: string; message: Call | Reply };

interface Leader {
  id: string;
  client: Calls;
  /** Fails what it has not answered, and ends it. */
  leave(error: ForewordError): void;
}

/** Loads a model, or finds the tab that has it. Where there are no locks, every page has its own. */
export function share(order: Order): Opening {
  if (!locks() || typeof BroadcastChannel === 'undefined') return open(order);
  if (order.args.inputs.some((input) => 'blob' in input)) throw new ForewordError('invalid_request', 'A model that is shared by tabs must have an address or a name; a Blob belongs to one tab.', { param: 'shared' });
  const shared = new Shared(order);
  return { connection: shared, info: shared.info, ready: shared.info };
}

class Shared implements Connection {
  readonly client: Calls = { call: (...args) => this.#call(...args), on: (listeners) => void Object.assign(this.#listeners, listeners) };
  readonly info: Promise<ModelInfo>;
  readonly #order: Order;
  readonly #id = randomId();
  readonly #channel: BroadcastChannel;
  /** Ends this tab's part in it. */
  readonly #end = new AbortController();
  /** What the leader hears of other tabs. */
  readonly #tabs = new Map<string, (call: Call) => void>();
  readonly #listeners: Partial<Listeners> = {};
  #leader: Leader | undefined;
  #own: Connection | undefined;
  /** Of the model, where this tab leads. */
  #known: ModelInfo | undefined;
  /** Calls that wait for a leader. */
  #waiting: (() => void)[] = [];
  #told!: { resolve(info: ModelInfo): void; reject(error: ForewordError): void };
  #over: ForewordError | undefined;
  /** What replies of the leader go to. */
  #hear: (reply: Reply) => void = () => {};

  constructor(order: Order) {
    this.#order = order;
    this.info = new Promise((resolve, reject) => (this.#told = { resolve, reject }));
    const { fetch, ...args } = order.args;
    const name = `foreword shared ${JSON.stringify(args)}`;
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => this.#heard(data);
    const abort = () => this.close(cancelled(order.signal!));
    order.signal?.addEventListener('abort', abort);
    this.info.catch(() => {}).finally(() => order.signal?.removeEventListener('abort', abort));
    // Others learn by this lock that the tab has gone.
    void this.#hold(tabLock(this.#id), () => {
      this.#post({ join: this.#id });
      void this.#hold(name, () => this.#lead());
    });
    if (order.signal?.aborted) abort();
  }

  close(error: ForewordError): void {
    if (this.#over) return;
    this.#over = error;
    this.#told.reject(error);
    this.#leader?.leave(error);
    this.#own?.close(error);
    this.#wake();
    this.#channel.close();
    this.#end.abort();
  }

  /** Has a lock from the time when it is to be had until the end. */
  async #hold(name: string, job: () => void): Promise<void> {
    const { signal } = this.#end;
    const ended = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
    await locks()!.request(name, { signal }, () => (job(), ended)).catch(() => {});
  }

  #post(message: Message): void {
    this.#channel.postMessage(message);
  }

  /** This tab has the lock: it loads the model. */
  async #lead(): Promise<void> {
    const tell = (progress: LoadProgress) => {
      this.#order.onProgress?.(progress);
      if (!this.#over) this.#post({ progress });
    };
    try {
      // A `fetch` is lent once; a later leader has what it loads in the cache.
      const { connection, info } = open({ ...this.#order, onProgress: tell });
      this.#own = connection;
      connection.onEnd = (error) => this.#fail(error);
      const now = await info;
      const { client } = connection;
      client.on({ info: (info) => this.#announce(info) });
      this.#follow({ id: this.#id, client, leave: () => {} }, now);
      this.#announce(now);
    } catch (error) {
      this.close(ForewordError.from(error));
    }
  }

  /** The worker has ended: that is so for all tabs. */
  #fail(error: ForewordError): void {
    if (this.#over || this.#leader?.id !== this.#id) return;
    this.#post({ over: ForewordError.toData(error) });
    this.close(error);
  }

  #announce(info: ModelInfo): void {
    this.#known = info;
    this.#listeners.info?.(info);
    this.#post({ lead: this.#id, info });
  }

  #heard(message: Message): void {
    if ('join' in message) return void (this.#known && this.#post({ lead: this.#id, info: this.#known }));
    if ('progress' in message) return this.#leader ? undefined : this.#order.onProgress?.(message.progress);
    if ('over' in message) return this.close(ForewordError.fromData(message.over));
    if ('lead' in message) return this.#led(message.lead, message.info);
    if (message.to !== this.#id) return;
    if (this.#known) this.#serve(message.from, message.message as Call);
    else if (message.from === this.#leader?.id) this.#hear(message.message as Reply);
  }

  /** Another tab leads. */
  #led(id: string, info: ModelInfo): void {
    if (this.#leader?.id === id) return this.#listeners.info?.(info);
    const client = new Client({
      post: (message) => this.#post({ to: id, from: this.#id, message: message as Call }),
      receive: (listener) => (this.#hear = listener),
    });
    this.#follow({ id, client, leave: (error) => client.end(error) }, info);
  }

  #follow(leader: Leader, info: ModelInfo): void {
    this.#leader?.leave(LEFT);
    this.#leader = leader;
    this.#told.resolve(info);
    this.#listeners.info?.(info);
    this.#wake();
  }

  #wake(): void {
    this.#waiting.splice(0).forEach((go) => go());
  }

  /** Answers a call of another tab, until that closes. */
  #serve(from: string, call: Call): void {
    let hear = this.#tabs.get(from);
    if (!hear) {
      const open = new Set<number>();
      const method = (name: Method) => (args: any, context: any) => this.#own!.client.call(name, args, context);
      const handlers = Object.fromEntries(METHODS.map((name) => [name, method(name)])) as unknown as Handlers;
      let listener: (call: Call) => void = () => {};
      const post = (message: unknown) => {
        if (this.#over) return;
        const reply = message as Reply;
        if ('id' in reply && ('value' in reply || 'error' in reply)) open.delete(reply.id);
        this.#post({ to: from, from: this.#id, message: reply });
      };
      serve({ post, receive: (heard) => (listener = heard) }, handlers);
      hear = (call) => {
        if ('id' in call) open.add(call.id);
        listener(call);
      };
      this.#tabs.set(from, hear);
      void locks()!.request(tabLock(from), { signal: this.#end.signal }, () => {
        open.forEach((id) => listener({ cancel: id }));
        this.#tabs.delete(from);
      }).catch(() => {});
    }
    hear(call);
  }

  /** Asks the leader, and the next one where that leaves. */
  async #call<M extends Method>(method: M, args: Methods[M]['args'], options: CallOptions<M> = {}): Promise<Methods[M]['value']> {
    const answer = new Resumed(method, args, options);
    for (let last: Leader | undefined; ; ) {
      const leader = await this.#next(last, options.signal);
      try {
        return answer.end(await leader.client.call(method, answer.args, answer.options));
      } catch (error) {
        if (error !== LEFT) throw error;
        last = leader;
        answer.goOn();
      }
    }
  }

  /** The leader that comes behind `last`. */
  async #next(last: Leader | undefined, signal: AbortSignal | undefined): Promise<Leader> {
    while (!this.#over && (!this.#leader || this.#leader === last)) {
      if (signal?.aborted) throw cancelled(signal);
      await new Promise<void>((go) => {
        this.#waiting.push(go);
        signal?.addEventListener('abort', () => go(), { once: true });
      });
    }
    if (this.#over) throw this.#over;
    return this.#leader!;
  }
}

/** What calls fail with, within here, when another tab leads. */
const LEFT = new ForewordError('worker_lost', 'The tab that had the model was closed.');

/** What is asked of the model, and of whoever leads. */
const METHODS: Method[] = ['complete', 'count', 'tokenize', 'detokenize', 'stats', 'benchmark', ...SESSION_METHODS];

const tabLock = (id: string) => `foreword tab ${id}`;
