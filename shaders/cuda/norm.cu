// x += delta; out = x / rms(x) * weight. One block a row.
constexpr unsigned WARPS = 8;

struct Params {
    const unsigned* plan;
    float* x;
    const float* weight;
    // Null: none.
    const float* delta;
    const float* delta_norm;
    Operand out;
    unsigned dim;
    // Rows are the plan's outputs.
    unsigned outputs;
    float eps;
    float delta_scale;
};

extern "C" __global__ void __launch_bounds__(WARPS * 32) norm_kernel(const Params p) {
    unsigned row = p.outputs ? p.plan[step_of(p.plan).outputs + blockIdx.x] : blockIdx.x;
    float* x = p.x + (size_t)row * p.dim;
    const float* delta = p.delta + (size_t)row * p.dim;
    float scale = p.delta_scale;
    if (p.delta_norm != nullptr) {
        float squares = 0.0f;
        for (unsigned i = threadIdx.x; i < p.dim; i += WARPS * 32) {
            squares += delta[i] * delta[i];
        }
        scale /= sqrtf(block_sum<WARPS>(squares) / p.dim + p.eps);
    }
    // Each thread reads back only what it wrote itself.
    float squares = 0.0f;
    for (unsigned i = threadIdx.x; i < p.dim; i += WARPS * 32) {
        float v = x[i];
        if (p.delta != nullptr) {
            v += delta[i] * scale * (p.delta_norm != nullptr ? p.delta_norm[i] : 1.0f);
            x[i] = v;
        }
        squares += v * v;
    }
    float inverse = 1.0f / sqrtf(block_sum<WARPS>(squares) / p.dim + p.eps);
    for (unsigned i = threadIdx.x; i < p.out.groups * 32; i += WARPS * 32) {
        store_operand(p.out, blockIdx.x, i / 32, i < p.dim ? x[i] * inverse * p.weight[i] : 0.0f);
    }
}
