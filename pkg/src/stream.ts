/** Chunks of an answer, with what openai-node's `Stream` has. */
import { ForewordError } from './error.js';

/** Leaving the loop early cancels the answer; an answer that was cancelled ends the loop. */
export class Stream<T> implements AsyncIterable<T> {
  /** Its `abort()` cancels the answer. */
  readonly controller: AbortController;
  readonly #iterate: () => AsyncIterator<T>;

  constructor(iterate: () => AsyncIterator<T>, controller: AbortController) {
    this.#iterate = iterate;
    this.controller = controller;
  }

  [Symbol.asyncIterator](): AsyncIterator<T> {
    return this.#iterate();
  }

  /** Cancels the answer. */
  abort(): void {
    this.controller.abort();
  }

  /** Two streams of the same chunks; they may be read at different speeds. */
  tee(): [Stream<T>, Stream<T>] {
    const source = this.#iterate();
    const queues: Promise<IteratorResult<T>>[][] = [[], []];
    const [left, right] = queues.map((queue) => {
      const next = () => {
        if (!queue.length) {
          const result = source.next();
          queues.forEach((each) => each.push(result));
        }
        return queue.shift()!;
      };
      return new Stream<T>(() => ({ next }), this.controller);
    });
    return [left!, right!];
  }

  /** Chunks as JSON, one a line; `ChatCompletionStream.fromReadableStream` of openai-node reads it. */
  toReadableStream(): ReadableStream<Uint8Array> {
    const chunks = this.#iterate();
    const encoder = new TextEncoder();
    return new ReadableStream({
      async pull(controller) {
        const { value, done } = await chunks.next();
        if (done) controller.close();
        else controller.enqueue(encoder.encode(`${JSON.stringify(value)}\n`));
      },
      async cancel() {
        await chunks.return?.();
      },
    });
  }
}

/** How a stream's call is told of what happens. */
export interface Hooks<T> {
  accepted(): void;
  part(value: T): void;
  signal: AbortSignal;
}

/** What lies between a call and the reader of its stream. The call holds it for as long as it runs, the reader's objects not. */
interface Channel<T> {
  queue: T[];
  over: boolean;
  failure?: unknown;
  /** Tells the reader that something of this has changed. */
  wake(): void;
}

/** Cancels answers whose streams nobody has any more: neither the stream itself nor an iterator or a reader of it. */
const dropped = new FinalizationRegistry<{ channel: Channel<any>; controller: AbortController }>(({ channel, controller }) => {
  if (!channel.over) controller.abort();
});

/** The stream of a call, once the request is accepted; fails where it is not. */
export async function streamOf<T>(start: (hooks: Hooks<T>) => Promise<unknown>, outer?: AbortSignal): Promise<Stream<T>> {
  const controller = new AbortController();
  const { signal } = controller;
  const abort = () => controller.abort(outer!.reason);
  if (outer?.aborted) abort();
  outer?.addEventListener('abort', abort, { once: true });
  const channel: Channel<T> = { queue: [], over: false, wake() {} };
  await new Promise<void>((accepted, refused) => {
    const part = (value: T) => (channel.queue.push(value), channel.wake());
    const ended = (error?: unknown) => {
      channel.failure = error;
      channel.over = true;
      outer?.removeEventListener('abort', abort);
      channel.wake();
    };
    start({ accepted, part, signal }).then(
      (last) => (last !== undefined && channel.queue.push(last as T), ended(), accepted()),
      (error) => (ended(error), refused(error)),
    );
  });
  return readerOf(channel, controller);
}

/** A function of its own, so that nothing which the call holds leads to what it makes. */
function readerOf<T>(channel: Channel<T>, controller: AbortController): Stream<T> {
  const { signal } = controller;
  const reading = { begun: false };
  async function* iterate(): AsyncGenerator<T, undefined, undefined> {
    if (reading.begun) throw new ForewordError('invalid_request', 'The stream was read already; tee() makes two of it.');
    reading.begun = true;
    try {
      for (;;) {
        while (channel.queue.length && !signal.aborted) yield channel.queue.shift()!;
        if (channel.over) break;
        await new Promise<void>((resolve) => (channel.wake = resolve));
      }
      if (channel.failure && !signal.aborted) throw channel.failure;
      return undefined;
    } finally {
      if (!channel.over) controller.abort();
    }
  }
  dropped.register(reading, { channel, controller });
  return new Stream(iterate, controller);
}
