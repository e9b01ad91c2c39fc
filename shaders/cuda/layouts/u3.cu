// Q3_K. Words 4 r..: bits 0 and 1 of columns 4 q + b at bits 8 b + 2 q, the same of columns 16.., bit 2 of column 4 q + b at bit
// 8 b + q, a factor for each 16 columns. Codes are offset by 4.
constexpr unsigned GROUP = 64;
constexpr bool HALVES = true;
constexpr bool SUMMANDS = true;

__device__ __forceinline__ int2 codes(const unsigned* at, unsigned r, unsigned j) {
    unsigned third = at[4 * r + 2];
    unsigned low = (at[4 * r] >> (2 * j) & 0x03030303u) | (third >> j & 0x01010101u) << 2;
    unsigned high = (at[4 * r + 1] >> (2 * j) & 0x03030303u) | (third >> (4 + j) & 0x01010101u) << 2;
    return make_int2(low, high);
}

__device__ __forceinline__ float2 factors(const unsigned* at, unsigned r, unsigned h) {
    float factor = half_to_float(at[4 * r + 3] >> (16 * h) & 0xffffu);
    return make_float2(factor, -4.0f * factor);
}
