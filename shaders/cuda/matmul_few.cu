// Products of a few rows (decode, trees), bound by memory. A block takes one panel of 16 weight rows, each warp every WARPS-th
// group of its columns for TILES * 8 tokens; weights are read once, in whole cache lines.
constexpr unsigned WARPS = 8;

extern "C" __global__ void __launch_bounds__(WARPS * 32) matmul_few_kernel(const Params p) {
    __shared__ float sums[WARPS][TILES * 8][16];
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned g = lane / 4, t = lane % 4;
    unsigned groups = p.x.groups;
    const Work work = work_of(p, TILES * 8);
    if (work.first >= work.end) {
        return;
    }
    const unsigned* panel = panel_of(p, work, groups * GROUP);
    const uint2* codes_of_x = (const uint2*)p.x.codes;
    float acc[TILES][4] = {};
    size_t mine[TILES], even[TILES], odd[TILES];
    for (unsigned i = 0; i < TILES; i++) {
        mine[i] = input_of(p, work, work.first + 8 * i + g) * groups;
        even[i] = input_of(p, work, work.first + 8 * i + 2 * t) * groups;
        odd[i] = input_of(p, work, work.first + 8 * i + 2 * t + 1) * groups;
    }
#pragma unroll 2
    for (unsigned group = warp; group < groups; group += WARPS) {
        Tile tile;
        load_tile(tile, panel + (size_t)group * GROUP, g, t);
        for (unsigned i = 0; i < TILES; i++) {
            uint2 scale[2] = {p.x.scales[even[i] + group], p.x.scales[odd[i] + group]};
            add_tile(acc[i], tile, codes_of_x[(mine[i] + group) * 4 + t], scale);
        }
    }
    for (unsigned i = 0; i < TILES; i++) {
        for (unsigned j = 0; j < 4; j++) {
            sums[warp][8 * i + 2 * t + j % 2][g + j / 2 * 8] = acc[i][j];
        }
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < TILES * 8 * 16; i += WARPS * 32) {
        float sum = 0.0f;
        for (unsigned w = 0; w < WARPS; w++) {
            sum += sums[w][i / 16][i % 16];
        }
        store(p, work, work.first + i / 16, i % 16, sum);
    }
}
