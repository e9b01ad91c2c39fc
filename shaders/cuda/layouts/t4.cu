// IQ3, IQ4, MXFP4: nibbles as in U4 are indices into a table. Word 64 + r: factor as a float.
constexpr unsigned GROUP = 80;
constexpr bool HALVES = false;
constexpr bool SUMMANDS = false;

__device__ __forceinline__ int2 codes(const unsigned* at, unsigned r, unsigned j) {
    return looked_up(at[4 * r + j]);
}

__device__ __forceinline__ float2 factors(const unsigned* at, unsigned r, unsigned) {
    return make_float2(__uint_as_float(at[64 + r]), 0.0f);
}
