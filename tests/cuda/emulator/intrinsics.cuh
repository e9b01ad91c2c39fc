// The functions of shaders/cuda/intrinsics.cuh, by the definitions of the PTX ISA.

static inline float half_to_float(unsigned short h) { return (float)bits_as<_Float16>(h); }
static inline unsigned short float_to_half(float f) { return bits_as<unsigned short>((_Float16)f); }

// One element of C: `columns` of A, 16 rows, times 8 columns of B. The lane of A that has row r and column k is
// 4 (r mod 8) + (k mod 16) / 4, register (r / 8) + 2 (k / 16); of B, row k and column n, lane 4 n + (k mod 16) / 4, register k / 16.
static int mma_element(unsigned turn, unsigned columns, unsigned row, unsigned n) {
    int sum = 0;
    for (unsigned k = 0; k < columns; k++) {
        unsigned a = fibers::shown(turn, row % 8 * 4 + k % 16 / 4, row / 8 + k / 16 * 2);
        unsigned b = fibers::shown(turn, n * 4 + k % 16 / 4, 4 + k / 16);
        sum += (signed char)(a >> (8 * (k % 4))) * (signed char)(b >> (8 * (k % 4)));
    }
    return sum;
}

static void mma(int c[4], const unsigned words[6], unsigned columns) {
    unsigned turn = fibers::show(words, 6);
    unsigned lane = threadIdx.x % 32;
    for (unsigned i = 0; i < 4; i++) {
        c[i] = mma_element(turn, columns, lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
    }
}

static inline void mma_16_8_32(int c[4], const int a[4], const int b[2]) {
    unsigned words[6] = {(unsigned)a[0], (unsigned)a[1], (unsigned)a[2], (unsigned)a[3], (unsigned)b[0], (unsigned)b[1]};
    mma(c, words, 32);
}

static inline void mma_16_8_16(int c[4], const int a[2], int b) {
    unsigned words[6] = {(unsigned)a[0], (unsigned)a[1], 0, 0, (unsigned)b, 0};
    mma(c, words, 16);
}
