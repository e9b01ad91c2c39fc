// Q4_0, Q4_1, Q4_K. Word 4 r + j: columns 4 j.. of row r in the low nibbles, 16 + 4 j.. in the high ones. Word 64 + r: factor and
// summand as half floats.
constexpr unsigned GROUP = 80;
constexpr bool HALVES = false;
constexpr bool SUMMANDS = true;

__device__ __forceinline__ int2 codes(const unsigned* at, unsigned r, unsigned j) {
    unsigned w = at[4 * r + j];
    return make_int2(w & 0x0f0f0f0fu, w >> 4 & 0x0f0f0f0fu);
}

__device__ __forceinline__ float2 factors(const unsigned* at, unsigned r, unsigned) {
    unsigned w = at[64 + r];
    return make_float2(half_to_float(w & 0xffffu), half_to_float(w >> 16));
}
