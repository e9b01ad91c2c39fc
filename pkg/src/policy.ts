/** What the page's Content-Security-Policy forbade: errors of `fetch` do not say so, events do. */
import { ForewordError } from './error.js';

const forbidden: { directive: string; url: string }[] = [];

globalThis.addEventListener?.('securitypolicyviolation', ({ effectiveDirective, blockedURI }: SecurityPolicyViolationEvent) => {
  forbidden.push({ directive: effectiveDirective, url: blockedURI });
});

/** The directive that forbade this address, if one did. The event comes a moment after the request failed. */
export async function blockedByPolicy(url: string): Promise<string | undefined> {
  await new Promise((resolve) => setTimeout(resolve, 20));
  return forbidden.find((entry) => entry.url && url.startsWith(entry.url))?.directive;
}

/** In plain words, where it is WebAssembly that the policy forbids. */
export function explained(error: unknown): ForewordError {
  const failure = ForewordError.from(error);
  if (failure.code !== 'internal' || !/unsafe-eval|\bCSP\b|Content.Security.Policy/i.test(failure.message)) return failure;
  return new ForewordError('unsupported', "The page's Content-Security-Policy forbids WebAssembly: script-src has to allow 'wasm-unsafe-eval'.", { cause: error });
}
