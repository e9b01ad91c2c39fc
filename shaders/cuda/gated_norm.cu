// out = x / rms(x) * weight * g with g = gate * s(gate), or where the gate comes first out = x g / rms(x g) * weight, for each group of
// columns. One block a row.
constexpr unsigned WARPS = 8;

struct Params {
    const float* x;
    const float* gate;
    const float* weight;
    // [n, groups]: work memory.
    float* scales;
    Operand out;
    unsigned dim;
    // Columns of a group.
    unsigned width;
    unsigned gate_first;
    float eps;
};

extern "C" __global__ void __launch_bounds__(WARPS * 32) gated_norm_kernel(const Params p) {
    unsigned lane = threadIdx.x % 32, n_groups = p.dim / p.width;
    const float *x = p.x + (size_t)blockIdx.x * p.dim, *gate = p.gate + (size_t)blockIdx.x * p.dim;
    float* scales = p.scales + (size_t)blockIdx.x * n_groups;
    for (unsigned group = threadIdx.x / 32; group < n_groups; group += WARPS) {
        float squares = 0.0f;
        for (unsigned i = group * p.width + lane; i < (group + 1) * p.width; i += 32) {
            float v = p.gate_first ? x[i] * gate[i] / (1.0f + expf(-gate[i])) : x[i];
            squares += v * v;
        }
        squares = warp_sum(squares);
        if (lane == 0) {
            scales[group] = 1.0f / sqrtf(squares / p.width + p.eps);
        }
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < p.out.groups * 32; i += WARPS * 32) {
        float y = i < p.dim ? x[i] * gate[i] / (1.0f + expf(-gate[i])) * scales[i / p.width] * p.weight[i] : 0.0f;
        store_operand(p.out, blockIdx.x, i / 32, y);
    }
}
