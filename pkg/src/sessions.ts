/** Conversations that are kept: `model.sessions`. */
import { nameOf, requestOf } from './checks.js';
import type { ChatCompletionRequest, CompletionRequest, OpenedSession, SavedSession } from './types.js';

/** What the worker is asked, beside its other methods. */
export interface SessionMethods {
  /** The request as JSON. */
  saveSession: { args: { name: string; body: string }; part: never; value: SavedSession };
  openSession: { args: { from: string | Blob }; part: never; value: OpenedSession };
  listSessions: { args: null; part: never; value: SavedSession[] };
  deleteSession: { args: { name: string }; part: never; value: boolean };
  exportSession: { args: { name: string }; part: never; value: Blob };
}
type Method = keyof SessionMethods;

export const SESSION_METHODS: Method[] = ['saveSession', 'openSession', 'listSessions', 'deleteSession', 'exportSession'];

/** Asks the worker. */
type Ask = <M extends Method>(method: M, args: SessionMethods[M]['args']) => Promise<SessionMethods[M]['value']>;

/**
 * Conversations in files: each request, and what the model has read of its messages, so that it goes on without reading them again, also
 * after the tab was closed. They lie in the origin-private file system, where all pages of the site see them (in Node in a folder).
 */
export class Sessions {
  readonly #ask: Ask;

  constructor(ask: Ask) {
    this.#ask = ask;
  }

  /**
   * Keeps a conversation under a name: a request whose last message is the answer. What was kept under that name goes when the new file is
   * whole, so that a tab that ends meanwhile loses nothing. Waits for answers under way. Fails with `storage_failed` where the page may keep
   * nothing, `quota_exceeded`, and `unsupported` for models whose layers keep states, and on servers.
   */
  async save(name: string, request: ChatCompletionRequest | CompletionRequest): Promise<SavedSession> {
    const { json } = requestOf(request, 'prompt' in Object(request) ? 'prompt' : 'messages');
    return this.#ask('saveSession', { name: nameOf(name), body: json });
  }

  /**
   * Has the model know a conversation again, by its name or from a file of `export`: a request that begins with its messages reads only
   * what is behind them. Fails with `not_found`, `bad_file` where it is damaged, `unsupported` where it is of another version, and
   * `invalid_request` where it is one of another model, `kvCache` or sidecar, or longer than this context. Nothing has changed then.
   */
  async open(session: string | Blob): Promise<OpenedSession> {
    return this.#ask('openSession', { from: session instanceof Blob ? session : nameOf(session) });
  }

  /** All that are kept, the newest first. */
  list(): Promise<SavedSession[]> {
    return this.#ask('listSessions', null);
  }

  /** `false` where there is none of that name. */
  async delete(name: string): Promise<boolean> {
    return this.#ask('deleteSession', { name: nameOf(name) });
  }

  /** The file of a conversation, to be taken elsewhere. */
  async export(name: string): Promise<Blob> {
    return this.#ask('exportSession', { name: nameOf(name) });
  }
}
