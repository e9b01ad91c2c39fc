/** Gives the same memory at every call: allocating a buffer a read takes longer than reading. */
export function room(): (length: number) => Uint8Array {
  let kept = new Uint8Array(0);
  return (length) => {
    if (length > kept.length) kept = new Uint8Array(length);
    return kept.subarray(0, length);
  };
}
