// Q2_K, and types of one or two bits. Words 4 r..: codes of columns 4 q + b at bits 8 b + 2 q, the same of columns 16.., then factor and summand of each 16
// columns.
constexpr unsigned GROUP = 64;
constexpr bool HALVES = true;
constexpr bool SUMMANDS = true;

__device__ __forceinline__ int2 codes(const unsigned* at, unsigned r, unsigned j) {
    return make_int2(at[4 * r] >> (2 * j) & 0x03030303u, at[4 * r + 1] >> (2 * j) & 0x03030303u);
}

__device__ __forceinline__ float2 factors(const unsigned* at, unsigned r, unsigned h) {
    unsigned w = at[4 * r + 2 + h];
    return make_float2(half_to_float(w & 0xffffu), half_to_float(w >> 16));
}
