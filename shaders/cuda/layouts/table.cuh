// The values of four nibbles, as bytes. VALUES, a line of the linker, are 16 signed bytes in four words.
__device__ __forceinline__ unsigned values_of(unsigned nibbles) {
    // The instruction finds three bits of each nibble in eight bytes; the fourth bit chooses the half of the table.
    unsigned low = __byte_perm(VALUES[0], VALUES[1], nibbles);
    unsigned high = __byte_perm(VALUES[2], VALUES[3], nibbles);
    return __byte_perm(low, high, 0x3210u | (nibbles & 0x8888u) >> 1);
}

// The values of the low and of the high nibbles of a word.
__device__ __forceinline__ int2 looked_up(unsigned w) {
    // Bytes of the first: low, high, low, high nibble.
    unsigned first = values_of(w & 0xffffu);
    unsigned second = values_of(w >> 16);
    return make_int2(__byte_perm(first, second, 0x6420u), __byte_perm(first, second, 0x7531u));
}
