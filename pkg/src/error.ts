/**
 * What went wrong, for programs. The first group is the core's; the second is this package's own.
 */
export type ErrorCode =
  | 'bad_file'
  | 'unsupported'
  | 'download_failed'
  | 'storage_failed'
  | 'invalid_request'
  | 'prompt_too_long'
  | 'out_of_memory'
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

/** An error as it crosses the worker's boundary. */
export interface ErrorData {
  code: ErrorCode;
  message: string;
}

/** Every error that this package throws; `message` is written for the user of the page. */
export class ForewordError extends Error {
  override readonly name = 'ForewordError';
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }

  /** Any thrown thing as data. */
  static toData(error: unknown): ErrorData {
    const { code, message } = ForewordError.from(error);
    return { code, message };
  }

  /** Any thrown thing as a ForewordError. */
  static from(error: unknown): ForewordError {
    if (error instanceof ForewordError) return error;
    const { code, message, name } = (error ?? {}) as { code?: unknown; message?: unknown; name?: unknown };
    const text = typeof message === 'string' ? message : String(error);
    if (name === 'AbortError') return new ForewordError('cancelled', 'The operation was cancelled.', { cause: error });
    if (name === 'QuotaExceededError') {
      return new ForewordError('quota_exceeded', 'The browser has no room left for this site. Delete cached models, or free disk space.', { cause: error });
    }
    // Errors of the core are plain {code, message}; system errors of Node have codes in capitals.
    if (typeof code === 'string' && /^[a-z_]+$/.test(code)) return new ForewordError(code as ErrorCode, text, { cause: error });
    if (error instanceof RangeError) {
      return new ForewordError('out_of_memory', `There is not enough memory for this model: ${text}`, { cause: error });
    }
    return new ForewordError('internal', text, { cause: error });
  }
}

/** Throws when `signal` has been aborted. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new ForewordError('cancelled', 'The operation was cancelled.');
}
