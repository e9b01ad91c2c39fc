// IQ1, IQ2. Words 4 r.. as in U3; codes are indices into a table.
constexpr unsigned GROUP = 64;
constexpr bool HALVES = true;
constexpr bool SUMMANDS = false;

__device__ __forceinline__ int2 codes(const unsigned* at, unsigned r, unsigned j) {
    unsigned third = at[4 * r + 2];
    unsigned low = (at[4 * r] >> (2 * j) & 0x03030303u) | (third >> j & 0x01010101u) << 2;
    unsigned high = (at[4 * r + 1] >> (2 * j) & 0x03030303u) | (third >> (4 + j) & 0x01010101u) << 2;
    return looked_up(low | high << 4);
}

__device__ __forceinline__ float2 factors(const unsigned* at, unsigned r, unsigned h) {
    return make_float2(half_to_float(at[4 * r + 3] >> (16 * h) & 0xffffu), 0.0f);
}
