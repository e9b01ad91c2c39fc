// Products with float weights, in 32-bit floats. A block takes one panel of 16 rows for TOKENS tokens; half a warp takes the
// rows of 16 columns of every WARPS-th group.
constexpr unsigned WARPS = 8;

extern "C" __global__ void __launch_bounds__(WARPS * 32) matmul_float_kernel(const Params p) {
    __shared__ float sums[WARPS * 2][TOKENS][16];
    unsigned r = threadIdx.x % 16, slice = threadIdx.x / 16;
    unsigned n = n_tokens(p), groups = p.x.groups, first = blockIdx.y * TOKENS, inside;
    const Product& product = product_of(p, blockIdx.x, inside);
    const unsigned* panel = product.weight + (size_t)inside * groups * GROUP;
    float acc[TOKENS] = {};
    for (unsigned group = slice / 2; group < groups; group += WARPS) {
        for (unsigned i = 0; i < 4; i++) {
            unsigned q = slice % 2 * 4 + i;
            float4 w = quad_at(panel + (size_t)group * GROUP, r, q);
#pragma unroll
            for (unsigned token = 0; token < TOKENS; token++) {
                size_t row = min(first + token, n - 1);
                float4 x = ((const float4*)p.x.floats)[(row * groups + group) * 8 + q];
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
        finish(product, n, first + i / 16, inside * 16 + i % 16, sum);
    }
}
