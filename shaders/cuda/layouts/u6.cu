// Q6_K. As U4; bits 2 q.. of byte b of words 64 + r and 80 + r are bits 4 and 5 of columns 4 q + b and 16 + 4 q + b; word 96 + r: a
// factor for each 16 columns. Codes are offset by 32.
constexpr unsigned GROUP = 112;
constexpr bool HALVES = true;
constexpr bool SUMMANDS = true;

__device__ __forceinline__ int2 codes(const unsigned* at, unsigned r, unsigned j) {
    unsigned w = at[4 * r + j];
    unsigned low = (w & 0x0f0f0f0fu) | (at[64 + r] >> (2 * j) & 0x03030303u) << 4;
    unsigned high = (w >> 4 & 0x0f0f0f0fu) | (at[80 + r] >> (2 * j) & 0x03030303u) << 4;
    return make_int2(low, high);
}

__device__ __forceinline__ float2 factors(const unsigned* at, unsigned r, unsigned h) {
    float factor = half_to_float(at[96 + r] >> (16 * h) & 0xffffu);
    return make_float2(factor, -32.0f * factor);
}
