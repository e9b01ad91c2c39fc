// Puts the parts of `attend` together; a warp takes 32 columns of a row.
struct Params {
    const unsigned* plan;
    // [parts, n, n_heads, dim + 2]: sums, the largest score, the sum of weights.
    const float* partials;
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
        float sum = 0.0f;
        for (unsigned i = 0; i < p.n_parts; i++) {
            float weight = expf(part[i * stride + p.dim] - largest);
            value += weight * part[i * stride + column % p.dim];
            sum += weight * part[i * stride + p.dim + 1];
        }
        value /= sum;
    }
    store_operand(p.out, blockIdx.y, column / 32, value);
}
