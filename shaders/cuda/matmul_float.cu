// Products with float weights, in 32-bit floats. A block takes one panel of 16 rows for TOKENS tokens; half a warp takes the
// rows of 16 columns of every WARPS-th group.
constexpr unsigned WARPS = 8;

extern "C" __global__ void __launch_bounds__(WARPS * 32) matmul_float_kernel(const Params p) {
    __shared__ float sums[WARPS * 2][TOKENS][16];
    unsigned r = threadIdx.x % 16, slice = threadIdx.x / 16;
    unsigned groups = p.x.groups;
    const Work work = work_of(p, TOKENS);
    if (work.first >= work.end) {
        return;
    }
    const unsigned* panel = panel_of(p, work, groups * GROUP);
    size_t rows[TOKENS];
    for (unsigned token = 0; token < TOKENS; token++) {
        rows[token] = input_of(p, work, work.first + token) * groups;
    }
    float acc[TOKENS] = {};
    for (unsigned group = slice / 2; group < groups; group += WARPS) {
        for (unsigned i = 0; i < 4; i++) {
            unsigned q = slice % 2 * 4 + i;
            float4 w = quad_at(panel + (size_t)group * GROUP, r, q);
#pragma unroll
            for (unsigned token = 0; token < TOKENS; token++) {
                float4 x = ((const float4*)p.x.floats)[(rows[token] + group) * 8 + q];
                acc[token] += w.x * x.x + w.y * x.y + w.z * x.z + w.w * x.w;
            }
        }
    }
    for (unsigned token = 0; token < TOKENS; token++) {
        sums[slice][token][r] = acc[token];
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < TOKENS * 16; i += WARPS * 32) {
        float sum = 0.0f;
        for (unsigned s = 0; s < WARPS * 2; s++) {
            sum += sums[s][i / 16][i % 16];
        }
        store(p, work, work.first + i / 16, i % 16, sum);
    }
}
