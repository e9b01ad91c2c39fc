/** OpenAI's addresses, answered by a model: what clients of that API take in place of `fetch`. */
import { ForewordError } from './error.js';
import type { Foreword, RequestOptions } from './index.js';
import type { Stream } from './stream.js';

/** Ends of addresses, and who answers them; the longer one first. */
const ROUTES: Record<string, (model: Foreword) => (body: any, options: RequestOptions) => Promise<unknown>> = {
  '/chat/completions': (model) => model.chat.completions.create,
  '/completions': (model) => model.completions.create,
  '/embeddings': (model) => model.embeddings.create,
  '/rerank': (model) => (body, options) => model.rerank(body, options),
};

/** The seconds since 1970 at which this page was loaded: what says when the model was made is not known. */
const CREATED = Math.floor(Date.now() / 1000);

/** The `fetch` of a model. It fails as `fetch` does where its signal is aborted; every other failure is an answer with a status. */
export function fetchOf(model: Foreword): typeof fetch {
  return async (input, init) => {
    // Of the request the signal is taken as it was given: some engines forget a copy of it.
    const signal = init?.signal ?? (input instanceof Request ? input.signal : undefined);
    signal?.throwIfAborted();
    const request = new Request(input, init);
    try {
      return await answer(model, request, signal);
    } catch (error) {
      signal?.throwIfAborted();
      return failed(ForewordError.from(error));
    }
  };
}

async function answer(model: Foreword, request: Request, signal: AbortSignal | undefined): Promise<Response> {
  const { method, url } = request;
  const path = new URL(url).pathname.replace(/\/$/, '');
  const [models, id] = /\/models(?:\/(.+))?$/.exec(path) ?? [];
  if (models && method === 'GET') return listed(model, id && decodeURIComponent(id));
  const route = Object.keys(ROUTES).find((end) => path.endsWith(end));
  if (!route) return refused(404, `There is no ${method} ${path} here; ${Object.keys(ROUTES).join(', ')} and /models are answered.`, 'unknown_url');
  if (method !== 'POST') return refused(405, `${path} is for POST, not for ${method}.`, 'method_not_allowed');
  const body = await request.json().catch((cause) => Promise.reject(new ForewordError('invalid_request', `The body is not JSON: ${cause.message}`, { cause })));
  const made = await ROUTES[route]!(model)(body, { signal: signal ?? null });
  if (!body.stream) return Response.json(made);
  return new Response(events(made as Stream<unknown>, signal), { headers: { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' } });
}

/** The model as a list of models, or by its name. */
function listed({ info }: Foreword, id: string | undefined): Response {
  const model = { id: info.name, object: 'model', created: CREATED, owned_by: 'foreword' };
  if (id === undefined) return Response.json({ object: 'list', data: [model] });
  return id === info.name ? Response.json(model) : refused(404, `The model ${id} is not loaded; ${info.name} is.`, 'model_not_found', 'model');
}

/** Chunks as server-sent events. */
function events(stream: Stream<unknown>, signal: AbortSignal | undefined): ReadableStream<Uint8Array> {
  const chunks = stream[Symbol.asyncIterator]();
  const encoder = new TextEncoder();
  const event = (data: string) => encoder.encode(`data: ${data}\n\n`);
  return new ReadableStream({
    async pull(controller) {
      try {
        const { value, done } = await chunks.next();
        signal?.throwIfAborted();
        controller.enqueue(event(done ? '[DONE]' : JSON.stringify(value)));
        if (done) controller.close();
      } catch (error) {
        if (signal?.aborted) return controller.error(signal.reason);
        controller.enqueue(event(JSON.stringify(bodyOf(ForewordError.from(error)))));
        controller.close();
      }
    },
    async cancel() {
      await chunks.return?.();
    },
  });
}

const bodyOf = ({ message, type, param, code }: Pick<ForewordError, 'message' | 'type' | 'param'> & { code: string }) => ({ error: { message, type, param, code } });

/** An error as OpenAI's API answers it. Only what may go well a second time is to be tried again. */
function failed(error: ForewordError): Response {
  return Response.json(bodyOf(error), { status: error.status, headers: { 'x-should-retry': String(error.code === 'busy') } });
}

function refused(status: number, message: string, code: string, param: string | null = null): Response {
  return Response.json(bodyOf({ message, type: 'invalid_request_error', param, code }), { status, headers: { 'x-should-retry': 'false' } });
}
