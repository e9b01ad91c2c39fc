// One step of a quantized product: 16 rows by 32 columns of weights times 8 tokens.
struct Tile {
    int a[4];
    // Factor and summand of rows g and g + 8, of each half of the columns.
    float2 factor[2][2];
};

__device__ __forceinline__ void load_tile(Tile& tile, const unsigned* at, unsigned g, unsigned t) {
    for (unsigned i = 0; i < 2; i++) {
        int2 c = codes(at, g + 8 * i, t);
        tile.a[i] = c.x;
        tile.a[2 + i] = c.y;
        tile.factor[i][0] = factors(at, g + 8 * i, 0);
        if (HALVES) {
            tile.factor[i][1] = factors(at, g + 8 * i, 1);
        }
    }
}

// Sums of the operand's bytes in half h of a group.
__device__ __forceinline__ float sum_of(uint2 scale, int h) {
    return (float)(short)(scale.y >> (16 * h));
}

// acc: row g for tokens 2 t and 2 t + 1, then row g + 8. `scale`: of these two tokens.
__device__ __forceinline__ void add_tile(float acc[4], const Tile& tile, uint2 x, const uint2 scale[2]) {
    int b[2] = {(int)x.x, (int)x.y};
    for (int h = 0; h < (HALVES ? 2 : 1); h++) {
        int c[4];
        if (HALVES) {
            half_dots(c, tile.a, b, h);
        } else {
            dots(c, tile.a, b);
        }
        for (int i = 0; i < 4; i++) {
            uint2 s = scale[i % 2];
            float2 f = tile.factor[i / 2][h];
            float sum = f.x * (float)c[i];
            if (SUMMANDS) {
                sum += f.y * (HALVES ? sum_of(s, h) : sum_of(s, 0) + sum_of(s, 1));
            }
            acc[i] += __uint_as_float(s.x) * sum;
        }
    }
}
