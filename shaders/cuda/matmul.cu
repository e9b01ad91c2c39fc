// Products of many rows (prompts). A block takes 64 tokens and 8 panels of 16 weight rows, a panel a warp; the operand goes
// through shared memory, STAGE groups of 32 columns at a time.
constexpr unsigned WARPS = 8;
constexpr unsigned TOKENS = 64;
constexpr unsigned STAGE = 4;

extern "C" __global__ void __launch_bounds__(WARPS * 32) matmul_kernel(const Params p) {
    __shared__ uint2 xs[STAGE][TOKENS][4];
    __shared__ uint2 scales[STAGE][TOKENS];
    unsigned lane = threadIdx.x % 32;
    unsigned g = lane / 4, t = lane % 4;
    unsigned n = p.n, groups = p.x.groups, first = blockIdx.y * TOKENS, inside;
    unsigned panel_of_grid = blockIdx.x * WARPS + threadIdx.x / 32;
    bool works = panel_of_grid < p.n_panels;
    const Product& product = product_of(p, panel_of_grid, inside);
    const unsigned* panel = product.weight + (size_t)inside * groups * GROUP;
    const uint2* codes_of_x = (const uint2*)p.x.codes;
    float acc[TOKENS / 8][4] = {};
    for (unsigned start = 0; start < groups; start += STAGE) {
        unsigned staged = min(STAGE, groups - start);
        __syncthreads();
        for (unsigned i = threadIdx.x; i < TOKENS * STAGE * 4; i += WARPS * 32) {
            unsigned token = i / (STAGE * 4), group = i / 4 % STAGE;
            if (group < staged) {
                size_t row = min(first + token, n - 1);
                xs[group][token][i % 4] = codes_of_x[(row * groups + start + group) * 4 + i % 4];
            }
        }
        for (unsigned i = threadIdx.x; i < TOKENS * STAGE; i += WARPS * 32) {
            if (i % STAGE < staged) {
                size_t row = min(first + i / STAGE, n - 1);
                scales[i % STAGE][i / STAGE] = p.x.scales[row * groups + start + i % STAGE];
            }
        }
        __syncthreads();
        if (!works) {
            continue;
        }
        for (unsigned group = 0; group < staged; group++) {
            Tile tile;
            load_tile(tile, panel + (size_t)(start + group) * GROUP, g, t);
#pragma unroll
            for (unsigned i = 0; i < TOKENS / 8; i++) {
                add_tile(acc[i], tile, xs[group][8 * i + g][t], &scales[group][8 * i + 2 * t]);
            }
        }
    }
    if (!works) {
        return;
    }
#pragma unroll
    for (unsigned i = 0; i < TOKENS / 8; i++) {
        for (unsigned j = 0; j < 4; j++) {
            finish(product, n, first + 8 * i + 2 * t + j % 2, inside * 16 + g + j / 2 * 8, acc[i][j]);
        }
    }
}
