// NVFP4: nibbles as in U4 are indices into a table. Word 64 + r: a factor for each 16 columns.
constexpr unsigned GROUP = 80;
constexpr bool HALVES = true;
constexpr bool SUMMANDS = false;

__device__ __forceinline__ int2 codes(const unsigned* at, unsigned r, unsigned j) {
    return looked_up(at[4 * r + j]);
}

__device__ __forceinline__ float2 factors(const unsigned* at, unsigned r, unsigned h) {
    return make_float2(half_to_float(at[64 + r] >> (16 * h) & 0xffffu), 0.0f);
}
