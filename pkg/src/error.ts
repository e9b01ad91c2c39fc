/**
 * What went wrong, for programs. The first group is the core's; the second is this package's own.
 */
export type ErrorCode =
  | 'bad_file'
  | 'unsupported'
  | 'download_failed'
  | 'storage_failed'
  | 'invalid_request'
  | 'context_length_exceeded'
  | 'out_of_memory'
  | 'busy'
  | 'device_lost'
  | 'device_fault'
  | 'cancelled'
  | 'not_found'
  | 'offline'
  | 'checksum_mismatch'
  | 'quota_exceeded'
  | 'unsupported_browser'
  | 'worker_lost'
  | 'disposed'
  | 'internal';

/** The HTTP status that a server would answer with; the first group as in the core's table of kinds. */
const STATUS: Record<ErrorCode, number> = {
  bad_file: 422,
  unsupported: 501,
  download_failed: 502,
  storage_failed: 507,
  invalid_request: 400,
  context_length_exceeded: 400,
  out_of_memory: 507,
  busy: 503,
  device_lost: 503,
  device_fault: 500,
  cancelled: 499,
  not_found: 404,
  offline: 503,
  checksum_mismatch: 502,
  quota_exceeded: 507,
  unsupported_browser: 501,
  worker_lost: 503,
  disposed: 503,
  internal: 500,
};

/** An error as it crosses the worker's boundary. */
export interface ErrorData {
  code: ErrorCode;
  message: string;
  param?: string;
  cause?: { name: string; message: string };
}

/**
 * Every error that this package throws; `message` is written for the user of the page. `status`, `type` and `param` are those
 * of an `APIError` of OpenAI's client. The `name` of a cancelled call is `AbortError`, and its `cause` the signal's reason.
 */
export class ForewordError extends Error {
  override readonly name: 'ForewordError' | 'AbortError';
  readonly code: ErrorCode;
  readonly status: number;
  readonly type: 'invalid_request_error' | 'server_error';
  /** The field of the request that is at fault, where it is known. */
  readonly param: string | null;

  constructor(code: ErrorCode, message: string, { param, ...options }: ErrorOptions & { param?: string | undefined } = {}) {
    super(message, options);
    this.name = code === 'cancelled' ? 'AbortError' : 'ForewordError';
    this.code = code;
    this.status = STATUS[code] ?? 500;
    this.type = this.status < 500 ? 'invalid_request_error' : 'server_error';
    this.param = param ?? null;
  }

  /** Any thrown thing as data. */
  static toData(error: unknown): ErrorData {
    const { code, message, param, cause } = ForewordError.from(error);
    const { name, message: words } = (cause ?? {}) as { name?: unknown; message?: unknown };
    return { code, message, ...(param && { param }), ...(cause !== undefined && { cause: { name: String(name ?? 'Error'), message: String(words ?? cause) } }) };
  }

  static fromData({ code, message, param, cause }: ErrorData): ForewordError {
    return new ForewordError(code, message, { param, ...(cause && { cause: Object.assign(new Error(cause.message), { name: cause.name }) }) });
  }

  /** Any thrown thing as a ForewordError. */
  static from(error: unknown): ForewordError {
    if (error instanceof ForewordError) return error;
    const { code, message, name, param } = (error ?? {}) as { code?: unknown; message?: unknown; name?: unknown; param?: unknown };
    const text = typeof message === 'string' ? message : String(error);
    if (name === 'AbortError') return new ForewordError('cancelled', 'The operation was cancelled.', { cause: error });
    if (name === 'QuotaExceededError') {
      return new ForewordError('quota_exceeded', 'The browser has no room left for this site. Delete cached models or sessions, or free disk space.', { cause: error });
    }
    if (isOfCore(error)) return new ForewordError(code as ErrorCode, text, { param: typeof param === 'string' ? param : undefined });
    if (error instanceof RangeError) {
      return new ForewordError('out_of_memory', `There is not enough memory for this model: ${text}`, { cause: error });
    }
    return new ForewordError('internal', text, { cause: error });
  }
}

/** Whether the core reported this: its errors are plain `{code, message}`; system errors of Node have codes in capitals. */
export function isOfCore(error: unknown): boolean {
  const code = (error as { code?: unknown } | undefined)?.code;
  return typeof code === 'string' && /^[a-z_]+$/.test(code);
}

/** Whether the core ended in the middle of a call. RangeError and InternalError are a stack that is full, in others' word and in Firefox's. */
export function isTrap(error: unknown): boolean {
  return error instanceof WebAssembly.RuntimeError || ['RangeError', 'InternalError'].includes((error as Error | undefined)?.name ?? '');
}

/** The error of a call whose signal was aborted. */
export function cancelled(signal: AbortSignal): ForewordError {
  return new ForewordError('cancelled', 'The operation was cancelled.', { cause: signal.reason });
}

/** Throws when `signal` has been aborted. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw cancelled(signal);
}
