// Puts the parts of `attend` together; a warp takes 32 columns of a row.
struct Params {
    const unsigned* plan;
    // [parts, n, n_heads, dim + 2]: sums, the largest score, the sum of weights.
    const float* partials;
    // [n_heads]: a score that has no value; null: none.
    const float* sinks;
    // [n, n_heads, dim]: what is made is multiplied by its logistic function; null: none.
    const float* gate;
    Operand out;
    unsigned n_parts;
    unsigned n_heads;
    unsigned dim;
};

extern "C" __global__ void combine_kernel(const Params p) {
    unsigned column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column / 32 >= p.out.groups) {
        return;
    }
    float value = 0.0f;
    if (column < p.n_heads * p.dim) {
        unsigned head = column / p.dim;
        size_t stride = (size_t)p.plan[0] * p.n_heads * (p.dim + 2);
        const float* part = p.partials + ((size_t)blockIdx.y * p.n_heads + head) * (p.dim + 2);
        float largest = part[p.dim];
        for (unsigned i = 1; i < p.n_parts; i++) {
            largest = fmaxf(largest, part[i * stride + p.dim]);
        }
        if (p.sinks != nullptr) {
            largest = fmaxf(largest, p.sinks[head]);
        }
        float sum = p.sinks != nullptr ? expf(p.sinks[head] - largest) : 0.0f;
        for (unsigned i = 0; i < p.n_parts; i++) {
            float weight = expf(part[i * stride + p.dim] - largest);
            value += weight * part[i * stride + column % p.dim];
            sum += weight * part[i * stride + p.dim + 1];
        }
        value /= sum;
        if (p.gate != nullptr) {
            value /= 1.0f + expf(-p.gate[(size_t)blockIdx.y * p.n_heads * p.dim + column]);
        }
    }
    store_operand(p.out, blockIdx.y, column / 32, value);
}
