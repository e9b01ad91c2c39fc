// The products of `mma.cu` without matrix instructions (compute capability 6.1 and later): lanes fetch what others hold.

__device__ __forceinline__ void half_dots(int c[4], const int a[4], const int b[2], int h) {
    unsigned lane = threadIdx.x % 32;
    unsigned g = lane / 4, t = lane % 4;
    c[0] = c[1] = c[2] = c[3] = 0;
    for (unsigned i = 0; i < 4; i++) {
        int upper = __shfl_sync(ALL_LANES, a[2 * h], 4 * g + i);
        int lower = __shfl_sync(ALL_LANES, a[2 * h + 1], 4 * g + i);
        int first = __shfl_sync(ALL_LANES, b[h], 8 * t + i);
        int second = __shfl_sync(ALL_LANES, b[h], 8 * t + 4 + i);
        c[0] = __dp4a(upper, first, c[0]);
        c[1] = __dp4a(upper, second, c[1]);
        c[2] = __dp4a(lower, first, c[2]);
        c[3] = __dp4a(lower, second, c[3]);
    }
}

__device__ __forceinline__ void dots(int c[4], const int a[4], const int b[2]) {
    int second[4];
    half_dots(c, a, b, 0);
    half_dots(second, a, b, 1);
    for (int i = 0; i < 4; i++) {
        c[i] += second[i];
    }
}
