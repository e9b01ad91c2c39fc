// Products of bytes by matrix instructions (compute capability 8.0 and later). Lane 4 g + t holds of the weights rows g and g + 8,
// of the operand token g, columns 4 t.. and 16 + 4 t.. of each; it gets tokens 2 t and 2 t + 1 of both rows.

// All 32 columns; `a`: rows g and g + 8 of the first 16 columns, then of the last.
__device__ __forceinline__ void dots(int c[4], const int a[4], const int b[2]) {
    mma_16_8_32(c, a, b);
}

// The first 16 columns, or the last.
__device__ __forceinline__ void half_dots(int c[4], const int a[4], const int b[2], int h) {
    mma_16_8_16(c, a + 2 * h, b[h]);
}
