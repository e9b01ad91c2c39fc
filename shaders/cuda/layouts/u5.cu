// Q5_0, Q5_1, Q5_K. As U4; bit q of byte b of word 64 + r is bit 4 of column 4 q + b; word 80 + r: factor and summand.
constexpr unsigned GROUP = 96;
constexpr bool HALVES = false;
constexpr bool SUMMANDS = true;

__device__ __forceinline__ int2 codes(const unsigned* at, unsigned r, unsigned j) {
    unsigned w = at[4 * r + j];
    unsigned fifth = at[64 + r];
    unsigned low = (w & 0x0f0f0f0fu) | (fifth >> j & 0x01010101u) << 4;
    unsigned high = (w >> 4 & 0x0f0f0f0fu) | (fifth >> (4 + j) & 0x01010101u) << 4;
    return make_int2(low, high);
}

__device__ __forceinline__ float2 factors(const unsigned* at, unsigned r, unsigned) {
    unsigned w = at[80 + r];
    return make_float2(half_to_float(w & 0xffffu), half_to_float(w >> 16));
}
