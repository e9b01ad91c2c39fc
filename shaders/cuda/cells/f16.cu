// Cache entries of one head as half floats: word i is values 2 i and 2 i + 1.
constexpr unsigned ENTRY = DIM / 2;
// Words of values, and values of a word.
constexpr unsigned WORDS = DIM / 2;
constexpr unsigned A_WORD = 2;

// The values of word i.
__device__ __forceinline__ void values_of(const unsigned* entry, unsigned i, float out[A_WORD]) {
    unsigned w = entry[i];
    out[0] = half_to_float(w & 0xffffu);
    out[1] = half_to_float(w >> 16);
}

// Word i of the entry made of a head.
__device__ __forceinline__ unsigned word_of(const float* head, unsigned i) {
    return float_to_half(head[2 * i]) | (unsigned)float_to_half(head[2 * i + 1]) << 16;
}
