// IQ4_NL, MXFP4: nibbles as in U4 point into VALUES, 16 signed bytes in four words. Word 64 + r: factor as a float.
constexpr unsigned GROUP = 80;
constexpr bool HALVES = false;
constexpr bool SUMMANDS = false;

// The values of four nibbles, as bytes.
__device__ __forceinline__ unsigned values_of(unsigned nibbles) {
    // The instruction finds three bits of each nibble in eight bytes; the fourth bit chooses the half of the table.
    unsigned low = __byte_perm(VALUES[0], VALUES[1], nibbles);
    unsigned high = __byte_perm(VALUES[2], VALUES[3], nibbles);
    return __byte_perm(low, high, 0x3210u | (nibbles & 0x8888u) >> 1);
}

__device__ __forceinline__ int2 codes(const unsigned* at, unsigned r, unsigned j) {
    unsigned w = at[4 * r + j];
    // Bytes of the first: low, high, low, high nibble.
    unsigned first = values_of(w & 0xffffu);
    unsigned second = values_of(w >> 16);
    return make_int2(__byte_perm(first, second, 0x6420u), __byte_perm(first, second, 0x7531u));
}

__device__ __forceinline__ float2 factors(const unsigned* at, unsigned r, unsigned) {
    return make_float2(__uint_as_float(at[64 + r]), 0.0f);
}
