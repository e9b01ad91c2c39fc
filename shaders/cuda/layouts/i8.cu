// Q8_0. Word 4 r + j: columns 4 j.. of row r, word 64 + 4 r + j columns 16 + 4 j..; word 128 + r: factor as a half float.
constexpr unsigned GROUP = 144;
constexpr bool HALVES = false;
constexpr bool SUMMANDS = false;

__device__ __forceinline__ int2 codes(const unsigned* at, unsigned r, unsigned j) {
    return make_int2(at[4 * r + j], at[64 + 4 * r + j]);
}

__device__ __forceinline__ float2 factors(const unsigned* at, unsigned r, unsigned) {
    return make_float2(half_to_float(at[128 + r] & 0xffffu), 0.0f);
}
