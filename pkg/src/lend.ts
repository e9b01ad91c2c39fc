/** A `fetch` of the page's for the worker: functions cannot be sent, but what they return can, piece by piece. */

/** Of the worker: what it wants of request `id`. */
type Wish = { id: number; url: string; headers: Record<string, string>; cache: RequestCache } | { id: number; next: true } | { id: number; cancel: true };
/** Of the page. */
type Given = { id: number; error: string } | { id: number; status: number; headers: [string, string][] } | { id: number; bytes?: Uint8Array };

interface Request {
  controller: AbortController;
  reader?: ReadableStreamDefaultReader<Uint8Array> | undefined;
}

/** The page's end: makes the requests that come through the port. */
export function lend(fetch: typeof globalThis.fetch): MessagePort {
  const { port1, port2 } = new MessageChannel();
  const requests = new Map<number, Request>();
  const answer = async (wish: Wish): Promise<Given | undefined> => {
    const { id } = wish;
    if ('url' in wish) {
      const request: Request = { controller: new AbortController() };
      requests.set(id, request);
      const { status, headers, body } = await fetch(wish.url, { headers: wish.headers, cache: wish.cache, signal: request.controller.signal, credentials: 'omit' });
      request.reader = body?.getReader();
      return { id, status, headers: [...headers] };
    }
    const request = requests.get(id);
    if ('cancel' in wish) request?.controller.abort();
    const { value } = 'next' in wish ? ((await request?.reader?.read()) ?? {}) : {};
    if (!value) requests.delete(id);
    return 'next' in wish ? { id, ...(value && { bytes: value }) } : undefined;
  };
  port1.onmessage = ({ data }: MessageEvent<Wish>) => {
    answer(data).then((given) => given && port1.postMessage(given), (error) => port1.postMessage({ id: data.id, error: String(error?.message ?? error) }));
  };
  // Node would wait for further wishes for ever.
  (port1 as { unref?(): void }).unref?.();
  return port2;
}

/** The worker's end: a `fetch` that has its requests made through the port. */
export function borrow(port: MessagePort): typeof globalThis.fetch {
  let ids = 0;
  const waiting = new Map<number, { resolve(given: any): void; reject(error: unknown): void }>();
  port.onmessage = ({ data }: MessageEvent<Given>) => {
    const asked = waiting.get(data.id);
    waiting.delete(data.id);
    if ('error' in data) asked?.reject(new TypeError(data.error));
    else asked?.resolve(data);
  };
  const ask = (wish: Wish) => new Promise<any>((resolve, reject) => (waiting.set(wish.id, { resolve, reject }), port.postMessage(wish)));
  return async (url, { headers, signal, cache = 'default' } = {}) => {
    signal?.throwIfAborted();
    const id = ++ids;
    const cancel = () => {
      waiting.get(id)?.reject(signal!.reason);
      waiting.delete(id);
      port.postMessage({ id, cancel: true } satisfies Wish);
    };
    signal?.addEventListener('abort', cancel, { once: true });
    const { status, headers: given } = await ask({ id, url: String(url), headers: Object.fromEntries(new Headers(headers)), cache });
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        const { bytes } = await ask({ id, next: true });
        if (bytes) return controller.enqueue(bytes);
        signal?.removeEventListener('abort', cancel);
        controller.close();
      },
      cancel,
    });
    return new Response([204, 205, 304].includes(status) ? null : body, { status, headers: given });
  };
}
