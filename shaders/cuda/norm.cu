// x = gain (x + delta); y = x / rms(x) * weight, or LayerNorm; out = y. One block a row.
constexpr unsigned WARPS = 8;

struct Params {
    const unsigned* plan;
    float* x;
    // Null: y = x.
    const float* weight;
    // Null: none.
    const float* delta;
    const float* delta_norm;
    const float* bias;
    Operand out;
    unsigned dim;
    // Rows are the plan's outputs.
    unsigned outputs;
    // The mean is subtracted.
    unsigned centered;
    // x = y, too.
    unsigned replaces;
    float eps;
    float delta_scale;
    float gain;
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
    float sum = 0.0f, squares = 0.0f;
    for (unsigned i = threadIdx.x; i < p.dim; i += WARPS * 32) {
        float v = x[i];
        if (p.delta != nullptr) {
            v = (v + delta[i] * scale * (p.delta_norm != nullptr ? p.delta_norm[i] : 1.0f)) * p.gain;
            x[i] = v;
        }
        sum += v;
        squares += v * v;
    }
    float mean = 0.0f;
    if (p.centered) {
        mean = block_sum<WARPS>(sum) / p.dim;
        squares = 0.0f;
        for (unsigned i = threadIdx.x; i < p.dim; i += WARPS * 32) {
            squares += (x[i] - mean) * (x[i] - mean);
        }
    }
    float inverse = 1.0f / sqrtf(block_sum<WARPS>(squares) / p.dim + p.eps);
    // Without an operand it has no groups.
    for (unsigned i = threadIdx.x; i < max(p.out.groups * 32, p.dim); i += WARPS * 32) {
        float y = 0.0f;
        if (i < p.dim) {
            y = p.weight != nullptr ? (x[i] - mean) * inverse * p.weight[i] : x[i];
            y += p.bias != nullptr ? p.bias[i] : 0.0f;
            if (p.replaces) {
                x[i] = y;
            }
        }
        if (p.out.groups > 0) {
            store_operand(p.out, blockIdx.x, i / 32, y);
        }
    }
}
