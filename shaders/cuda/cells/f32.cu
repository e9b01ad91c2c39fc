// Cache entries of one head as floats: word i is value i.
constexpr unsigned ENTRY = DIM;
// Words of values, and values of a word.
constexpr unsigned WORDS = DIM;
constexpr unsigned A_WORD = 1;

// The values of word i.
__device__ __forceinline__ void values_of(const unsigned* entry, unsigned i, float out[A_WORD]) {
    out[0] = __uint_as_float(entry[i]);
}

// Word i of the entry made of a head.
__device__ __forceinline__ unsigned word_of(const float* head, unsigned i) {
    return __float_as_uint(head[i]);
}
