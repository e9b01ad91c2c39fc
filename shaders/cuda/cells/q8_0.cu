// Cache entries of one head as signed bytes, four a word, then a float a 32 values: their scale, rounded to a half float.
constexpr unsigned ENTRY = DIM / 4 + DIM / 32;
// Words of values, and values of a word.
constexpr unsigned WORDS = DIM / 4;
constexpr unsigned A_WORD = 4;

// The values of word i.
__device__ __forceinline__ void values_of(const unsigned* entry, unsigned i, float out[A_WORD]) {
    int w = (int)entry[i];
    float scale = __uint_as_float(entry[WORDS + i / 8]);
    for (int k = 0; k < 4; k++) {
        out[k] = (float)(signed char)(w >> (8 * k)) * scale;
    }
}

// Word i of the entry made of a head.
__device__ __forceinline__ unsigned word_of(const float* head, unsigned i) {
    bool is_scale = i >= WORDS;
    unsigned first = (is_scale ? i - WORDS : i / 8) * 32;
    float largest = 0.0f;
    for (unsigned j = first; j < first + 32; j++) {
        largest = fmaxf(largest, fabsf(head[j]));
    }
    float scale = half_to_float(float_to_half(largest / 127.0f));
    if (is_scale) {
        return __float_as_uint(scale);
    }
    float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    unsigned word = 0;
    for (unsigned k = 0; k < 4; k++) {
        int code = __float2int_rn(fminf(fmaxf(head[4 * i + k] * inverse, -127.0f), 127.0f));
        word |= ((unsigned)code & 0xffu) << (8 * k);
    }
    return word;
}
